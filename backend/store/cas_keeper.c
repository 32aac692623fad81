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

/* Blobs that are looked at, or a few more, without giving others a chance at the lock. */
enum { SLICE = 1024 };

/* Uses to record. */
struct uses {
    struct use {
        struct digest digest;
        uint64_t used;
    } * list;
    size_t count;
    size_t capacity;
};

static bool add_use(struct uses *uses, const struct cas_entry *entry)
{
    if (uses->count == uses->capacity) {
        size_t capacity = uses->capacity == 0 ? SLICE : 2 * uses->capacity;
        struct use *list = realloc(uses->list, capacity * sizeof(*list));
        if (list == NULL)
            return false;
        uses->list = list;
        uses->capacity = capacity;
    }
    cas_entry_digest(entry, &uses->list[uses->count].digest);
    uses->list[uses->count++].used = entry->used;
    return true;
}

/*
 * Makes USES those of a slice of the table that are newer than SINCE, and returns where the next
 * slice begins. What is used meanwhile is newer still, and found next time. Lock held.
 */
static size_t collect_uses(const struct cas *cas, size_t bucket, uint64_t since, struct uses *uses)
{
    uses->count = 0;
    for (size_t seen = 0; bucket < cas->table.bucket_count && seen < SLICE; bucket++, seen++) {
        const struct cas_entry *entry = cas->table.buckets[bucket];
        for (; entry != NULL; entry = entry->chain, seen++)
            if (entry->state == CAS_THERE && entry->used > since && !add_use(uses, entry))
                return bucket + 1; /* without memory the order is all that is lost */
    }
    return bucket;
}

/* The counter is a time of the clock, nearly: so the files' times hold it, and survive a kill. */
static void write_uses(const struct cas *cas, const struct uses *uses)
{
    for (size_t i = 0; i < uses->count; i++) {
        const struct use *use = &uses->list[i];
        char name[CAS_NAME_SIZE];
        const struct timespec times[2] = {
            {.tv_nsec = UTIME_OMIT},
            {.tv_sec = (time_t)(use->used / 1000000000), .tv_nsec = (long)(use->used % 1000000000)},
        };
        /* One that was evicted meanwhile, or a disk that fails: the order is all that is lost. */
        (void)utimensat(cas->blobs_fd, cas_file_name(&use->digest, name), times, 0);
    }
}

static void record_uses(struct cas *cas)
{
    struct uses uses = {.list = NULL};
    (void)pthread_mutex_lock(&cas->lock);
    uint64_t since = cas->recorded;
    cas->recorded = cas->counter;
    /* A table that grows meanwhile has nothing in front that was behind. */
    for (size_t bucket = 0; bucket < cas->table.bucket_count;) {
        bucket = collect_uses(cas, bucket, since, &uses);
        (void)pthread_mutex_unlock(&cas->lock);
        write_uses(cas, &uses);
        (void)pthread_mutex_lock(&cas->lock);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    free(uses.list);
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

/* Verifies the suspects in the table; false if one cannot be read. Lock held; released meanwhile.
 */
static bool verify_table(struct cas *cas)
{
    bool readable = true;
    for (size_t bucket = 0; bucket < cas->table.bucket_count && !cas->stopping; bucket++) {
        struct cas_entry *entry;
        while (!cas->stopping && (entry = suspect_in(cas, bucket)) != NULL) {
            struct err err;
            (void)pthread_mutex_unlock(&cas->lock);
            int rc = cas_verify(cas, entry, &err);
            cas_unpin(cas, entry);
            (void)pthread_mutex_lock(&cas->lock);
            if (rc == 0 || rc == -ERR_NOT_FOUND || cas->stopping)
                continue;
            readable = false;
            log_error("cas-verify-failed", log_str("path", cas->directory.path),
                      log_str("reason", err.msg));
            break;
        }
    }
    return readable;
}

/* Lets the next start trust the blobs, unless a sync has failed since this one. */
static void trust_state(struct cas *cas)
{
    struct err err;
    int rc = 0;
    (void)pthread_mutex_lock(&cas->state_lock);
    (void)pthread_mutex_lock(&cas->lock);
    bool trusted = cas->failures == 0;
    if (trusted)
        cas->state_outstanding = false;
    (void)pthread_mutex_unlock(&cas->lock);
    if (trusted)
        rc = cas_state_write(cas, false, &err);
    (void)pthread_mutex_unlock(&cas->state_lock);
    if (rc != 0)
        log_error("cas-state-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
}

/*
 * Verifies suspects until there are none, or the store is closed. One that cannot be read is passed
 * over; then the next start suspects all again. Lock held; released meanwhile.
 */
static void verify_suspects(struct cas *cas)
{
    bool readable;
    do {
        readable = verify_table(cas);
        /* One that is being evicted may stay, as a suspect. */
        while (cas->evicting)
            (void)cas_wait(cas, NULL);
    } while (readable && cas->suspects != 0 && !cas->stopping);
    if (!readable || cas->stopping)
        return;
    uint64_t broken = cas->broken;
    (void)pthread_mutex_unlock(&cas->lock);
    log_info("cas-verified", log_str("path", cas->directory.path),
             log_num("broken-blobs", (int64_t)broken));
    trust_state(cas);
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
