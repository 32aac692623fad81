/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Durability: a thread that makes durable what pushes rely on. All that wait when it begins are
 * served by one fdatasync of each segment that any of them needs; while it lasts, the next gather.
 */
#include <assert.h>
#include <string.h>

#include "store/cas_private.h"

enum { GROUP_SEGMENTS = 64 }; /* synced at once; more are as good as all */

/* Segments to be synced. */
struct group {
    uint64_t numbers[GROUP_SEGMENTS];
    size_t count;
    bool is_all; /* too many to name */
};

static void add_segment(struct group *group, uint64_t number)
{
    for (size_t i = 0; i < group->count; i++)
        if (group->numbers[i] == number)
            return;
    if (group->count < GROUP_SEGMENTS)
        group->numbers[group->count++] = number;
    else
        group->is_all = true;
}

static void add_hold(struct group *group, const struct cas_hold *hold)
{
    if (hold->unsynced_count > CAS_HOLD_UNSYNCED) {
        group->is_all = true;
        return;
    }
    for (unsigned i = 0; i < hold->unsynced_count; i++)
        add_segment(group, hold->unsynced[i]);
}

/* Whatever is trusted and not durable, in groups. */
static int sync_all(struct cas *cas, struct err *err)
{
    struct group group = {.count = 0};
    uint32_t index = 0;
    int rc = 0;
    struct cas_segment *segment;
    do {
        segment = cas_segment_next(&cas->shared, &index);
        if (segment != NULL && atomic_load(&segment->durable) < atomic_load(&segment->trusted))
            group.numbers[group.count++] = atomic_load(&segment->number);
        if (group.count == GROUP_SEGMENTS || (segment == NULL && group.count > 0)) {
            struct err one;
            if (cas_log_sync(cas->log, group.numbers, group.count, &one) != 0) {
                *err = one;
                rc = -(int)one.code;
            }
            group.count = 0;
        }
    } while (segment != NULL);
    return rc;
}

/* Serves all syncs from FIRST on. */
static void serve(struct cas *cas, struct cas_sync *first)
{
    struct group group = {.count = 0};
    struct err err;
    for (const struct cas_sync *sync = first; sync != NULL; sync = sync->next)
        add_hold(&group, sync->hold);
    int rc = group.is_all ? sync_all(cas, &err)
                          : cas_log_sync(cas->log, group.numbers, group.count, &err);
    if (rc != 0 && err.code != ERR_UNAVAILABLE)
        (void)err_set(&err, ERR_UNAVAILABLE, "what was pushed could not be made durable");
    uint64_t failures = cas_log_failures(cas->log);
    for (struct cas_sync *next; first != NULL; first = next) {
        next = first->next;
        struct err lost;
        const struct err *answer = rc != 0 ? &err : NULL;
        /* A sync that failed earlier may have taken what this one found before it. */
        if (rc == 0 && first->hold->failures != failures) {
            (void)err_set(&lost, ERR_UNAVAILABLE, "the disk failed while the push was checked");
            answer = &lost;
        }
        first->done(first, answer);
    }
}

static void *sync_thread(void *argument)
{
    struct cas *cas = argument;
    (void)pthread_mutex_lock(&cas->sync_lock);
    for (;;) {
        while (cas->first_sync == NULL && cas->has_sync_thread)
            (void)pthread_cond_wait(&cas->sync_wanted, &cas->sync_lock);
        struct cas_sync *first = cas->first_sync;
        if (first == NULL)
            break;
        cas->first_sync = NULL;
        cas->last_sync = &cas->first_sync;
        (void)pthread_mutex_unlock(&cas->sync_lock);
        serve(cas, first);
        (void)pthread_mutex_lock(&cas->sync_lock);
    }
    (void)pthread_mutex_unlock(&cas->sync_lock);
    return NULL;
}

void cas_sync(struct cas *cas, struct cas_sync *sync)
{
    struct err err;
    assert(sync->hold != NULL && sync->hold->cas == cas);
    if (cas_is_writing(cas, &err) != 0) {
        sync->done(sync, &err);
        return;
    }
    /* Where a sync has failed since, the thread says so. */
    if (sync->hold->unsynced_count == 0 && sync->hold->failures == cas_log_failures(cas->log)) {
        sync->done(sync, NULL);
        return;
    }
    sync->next = NULL;
    (void)pthread_mutex_lock(&cas->sync_lock);
    *cas->last_sync = sync;
    cas->last_sync = &sync->next;
    (void)pthread_cond_signal(&cas->sync_wanted);
    (void)pthread_mutex_unlock(&cas->sync_lock);
}

int cas_commit_start(struct cas *cas, struct err *err)
{
    (void)pthread_mutex_lock(&cas->sync_lock);
    cas->first_sync = NULL;
    cas->last_sync = &cas->first_sync;
    int rc = pthread_create(&cas->sync_thread, NULL, sync_thread, cas);
    cas->has_sync_thread = rc == 0;
    if (rc == 0)
        (void)pthread_setname_np(cas->sync_thread, "cas-sync");
    (void)pthread_mutex_unlock(&cas->sync_lock);
    return rc == 0 ? 0 : err_errno(err, rc, "start a thread");
}

void cas_commit_stop(struct cas *cas)
{
    (void)pthread_mutex_lock(&cas->sync_lock);
    bool had_thread = cas->has_sync_thread;
    cas->has_sync_thread = false;
    (void)pthread_cond_broadcast(&cas->sync_wanted);
    (void)pthread_mutex_unlock(&cas->sync_lock);
    if (had_thread)
        (void)pthread_join(cas->sync_thread, NULL);
}
