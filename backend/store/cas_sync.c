/* SPDX-License-Identifier: Apache-2.0 */
/* Durability: one syncfs(2) for all that wait for it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/cas_private.h"

/* A kill from here on, or a file that cannot be removed, must not bring back what is dropped. */
static void remove_state(struct cas *cas)
{
    struct err err;
    cas->state_outstanding = true;
    (void)pthread_mutex_unlock(&cas->lock);
    (void)pthread_mutex_lock(&cas->state_lock);
    int rc = cas_state_remove(cas, &err);
    (void)pthread_mutex_unlock(&cas->state_lock);
    if (rc != 0)
        log_error("cas-state-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    (void)pthread_mutex_lock(&cas->lock);
}

/*
 * After a failed sync the kernel may call pages clean that never reached the disk, so that a second
 * one would succeed: what was not durable before leaves the store. Lock held; released meanwhile.
 */
static void distrust(struct cas *cas)
{
    struct cas_entry *list = NULL;
    uint64_t blobs = 0;
    cas->failures++;
    cas->failed_at = cas_tick(cas);
    struct cas_entry *next;
    for (struct cas_entry *entry = cas->table.oldest; entry != NULL; entry = next) {
        next = entry->newer;
        if (entry->epoch < cas->synced)
            continue;
        blobs++;
        cas_leave(cas, entry, &list);
    }
    cas->newest_epoch = 0;
    remove_state(cas);
    cas_unlink(cas, list);
    log_error("cas-sync-failed", log_str("path", cas->directory.path),
              log_num("dropped-blobs", (int64_t)blobs));
}

/* One sync, if anything was published since the last. Lock held; released meanwhile. */
static int sync_once(struct cas *cas, struct err *err)
{
    if (cas->newest_epoch < cas->synced)
        return 0;
    uint64_t epoch = ++cas->epoch;
    (void)pthread_mutex_unlock(&cas->lock);
    int rc = cas_disk.syncfs(cas->blobs_fd);
    if (rc != 0)
        (void)cas_file_errno(err, errno, "make blobs durable");
    (void)pthread_mutex_lock(&cas->lock);
    if (rc == 0) {
        cas->synced = epoch;
        return 0;
    }
    err->code = ERR_UNAVAILABLE;
    distrust(cas);
    return -ERR_UNAVAILABLE;
}

static void *sync_thread(void *argument)
{
    struct cas *cas = argument;
    (void)pthread_mutex_lock(&cas->lock);
    for (;;) {
        while (cas->first_sync == NULL && !cas->stopping)
            (void)pthread_cond_wait(&cas->sync_wanted, &cas->lock);
        struct cas_sync *sync = cas->first_sync;
        if (sync == NULL)
            break;
        cas->first_sync = NULL;
        cas->last_sync = &cas->first_sync;
        struct err err;
        int rc = sync_once(cas, &err);
        uint64_t failed_at = cas->failed_at;
        (void)pthread_mutex_unlock(&cas->lock);
        while (sync != NULL) {
            struct cas_sync *next = sync->next;
            /* A sync that failed earlier may have taken what this one found before it. */
            bool lost = sync->hold != NULL && sync->hold->since <= failed_at;
            if (rc == 0 && lost)
                (void)err_set(&err, ERR_UNAVAILABLE, "the disk failed while the push was checked");
            sync->done(sync, rc != 0 || lost ? &err : NULL);
            sync = next;
        }
        (void)pthread_mutex_lock(&cas->lock);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return NULL;
}

void cas_sync(struct cas *cas, struct cas_sync *sync)
{
    sync->next = NULL;
    (void)pthread_mutex_lock(&cas->lock);
    *cas->last_sync = sync;
    cas->last_sync = &sync->next;
    (void)pthread_cond_signal(&cas->sync_wanted);
    (void)pthread_mutex_unlock(&cas->lock);
}

int cas_sync_start(struct cas *cas, struct err *err)
{
    int rc = pthread_create(&cas->sync_thread, NULL, sync_thread, cas);
    if (rc != 0)
        return err_errno(err, rc, "start a thread");
    (void)pthread_setname_np(cas->sync_thread, "cas-sync");
    cas->has_sync_thread = true;
    return 0;
}

void cas_sync_stop(struct cas *cas)
{
    if (!cas->has_sync_thread)
        return;
    (void)pthread_mutex_lock(&cas->lock);
    cas->stopping = true;
    (void)pthread_cond_broadcast(&cas->sync_wanted);
    (void)pthread_mutex_unlock(&cas->lock);
    (void)pthread_join(cas->sync_thread, NULL);
    cas->has_sync_thread = false;
}
