/* SPDX-License-Identifier: Apache-2.0 */
/* What a CAS does beside its calls: verifying suspects, and recording the order of use. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "store/cas_private.h"

/* A kill may forget the order of use within this time. */
enum { RECORD_SECONDS = 15 * 60 };

/* A use to record. */
struct use {
    struct digest digest;
    uint64_t used;
};

/* The uses since the last time, as an array for the caller to free. Lock held. */
static struct use *collect_uses(struct cas *cas, size_t *count)
{
    size_t found = 0;
    struct cas_entry *entry;
    for (entry = cas->table.newest; entry != NULL && entry->used > cas->recorded;
         entry = entry->older)
        found++;
    struct use *uses = malloc((found + 1) * sizeof(*uses));
    *count = 0;
    if (uses == NULL)
        return NULL;
    for (entry = cas->table.newest; *count < found; entry = entry->older) {
        cas_entry_digest(entry, &uses[*count].digest);
        uses[(*count)++].used = entry->used;
    }
    cas->recorded = cas->counter;
    return uses;
}

/* The counter is a time of the clock, nearly: so the files' times hold it, and survive a kill. */
static void record_uses(struct cas *cas)
{
    size_t count;
    (void)pthread_mutex_lock(&cas->lock);
    struct use *uses = collect_uses(cas, &count);
    (void)pthread_mutex_unlock(&cas->lock);
    for (size_t i = 0; i < count; i++) {
        char name[CAS_NAME_SIZE];
        const struct timespec times[2] = {
            {.tv_nsec = UTIME_OMIT},
            {.tv_sec = (time_t)(uses[i].used / 1000000000),
             .tv_nsec = (long)(uses[i].used % 1000000000)},
        };
        /* One that was evicted meanwhile, or a disk that fails: the order is all that is lost. */
        (void)utimensat(cas->blobs_fd, cas_file_name(&uses[i].digest, name), times, 0);
    }
    free(uses);
}

/* A suspect in the bucket, pinned, or NULL. Lock held. */
static struct cas_entry *suspect_in(const struct cas *cas, size_t bucket)
{
    struct cas_entry *entry = cas->table.buckets[bucket];
    while (entry != NULL && (!entry->suspect || entry->state != CAS_THERE))
        entry = entry->chain;
    if (entry != NULL)
        entry->pins++;
    return entry;
}

/*
 * Verifies suspects until there are none, or the store is closed. One that cannot be read is passed
 * over; then the next start suspects all again. Lock held; released meanwhile.
 */
static void verify_suspects(struct cas *cas)
{
    bool unreadable = false;
    for (size_t bucket = 0; bucket < cas->table.bucket_count && !cas->stopping; bucket++) {
        struct cas_entry *entry;
        while (!cas->stopping && (entry = suspect_in(cas, bucket)) != NULL) {
            struct err err;
            (void)pthread_mutex_unlock(&cas->lock);
            int rc = cas_verify(cas, entry, &err);
            cas_unpin(cas, entry);
            (void)pthread_mutex_lock(&cas->lock);
            if (rc == 0 || rc == -ERR_NOT_FOUND)
                continue;
            unreadable = true;
            log_error("cas-verify-failed", log_str("path", cas->directory.path),
                      log_str("reason", err.msg));
            break;
        }
    }
    if (unreadable || cas->suspects != 0 || cas->stopping)
        return;
    struct err err;
    cas->state_outstanding = false;
    uint64_t broken = cas->broken;
    (void)pthread_mutex_unlock(&cas->lock);
    log_info("cas-verified", log_str("path", cas->directory.path),
             log_num("broken-blobs", (int64_t)broken));
    if (cas_state_write(cas, false, &err) != 0)
        log_error("cas-state-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    (void)pthread_mutex_lock(&cas->lock);
}

static void *keeper_thread(void *argument)
{
    struct cas *cas = argument;
    (void)pthread_mutex_lock(&cas->lock);
    if (cas->state_outstanding)
        verify_suspects(cas);
    while (!cas->stopping) {
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += RECORD_SECONDS;
        int rc = 0;
        while (!cas->stopping && rc == 0)
            rc = pthread_cond_timedwait(&cas->keeper_wanted, &cas->lock, &deadline);
        if (cas->stopping)
            break;
        (void)pthread_mutex_unlock(&cas->lock);
        record_uses(cas);
        (void)pthread_mutex_lock(&cas->lock);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return NULL;
}

int cas_keeper_start(struct cas *cas, struct err *err)
{
    int rc = pthread_create(&cas->keeper_thread, NULL, keeper_thread, cas);
    if (rc != 0)
        return err_errno(err, rc, "start a thread");
    (void)pthread_setname_np(cas->keeper_thread, "cas-keeper");
    cas->has_keeper_thread = true;
    return 0;
}

void cas_keeper_stop(struct cas *cas)
{
    if (!cas->has_keeper_thread)
        return;
    (void)pthread_mutex_lock(&cas->lock);
    cas->stopping = true;
    (void)pthread_cond_broadcast(&cas->keeper_wanted);
    (void)pthread_mutex_unlock(&cas->lock);
    (void)pthread_join(cas->keeper_thread, NULL);
    cas->has_keeper_thread = false;
    record_uses(cas);
}
