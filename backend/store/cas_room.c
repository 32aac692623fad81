/* SPDX-License-Identifier: Apache-2.0 */
/* The quota: taking room for blobs, and evicting those that were used longest ago. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/cas_private.h"

/* Blocks by which the directories can grow when one file is made in each: a split at each level. */
enum { GROWTH_BLOCKS = 4 };

/* Evictions are told at once, and then together, once in so many seconds. */
enum { TELL_SECONDS = 60 };

int64_t cas_room_of(const struct cas *cas, int64_t size)
{
    int64_t file_size = cas_file_size(size);
    if (file_size < 0)
        return -1;
    int64_t blocks = file_size / cas->block + (file_size % cas->block != 0);
    /* A file in few pieces needs no blocks for the map of them. */
    int64_t map = blocks > 4 ? 1 + blocks / 256 : 0;
    return (blocks + map + GROWTH_BLOCKS) * cas->block;
}

void cas_leave(struct cas *cas, struct cas_entry *entry, struct cas_entry **list)
{
    assert(entry->state == CAS_THERE);
    cas_table_unlist(&cas->table, entry);
    entry->state = CAS_LEAVING;
    if (entry->suspect)
        cas->suspects--;
    entry->suspect = false;
    entry->newer = *list;
    *list = entry;
}

void cas_release(struct cas *cas, struct cas_entry *entry)
{
    if (entry->state != CAS_GONE || entry->pins != 0)
        return;
    if (!entry->stuck)
        cas->used -= entry->room;
    free(entry);
    cas_wake(cas);
}

/* Takes ENTRY, which is leaving, out of the table. Lock held. */
static void forget(struct cas *cas, struct cas_entry *entry)
{
    entry->state = CAS_GONE;
    cas_table_remove(&cas->table, entry);
    cas_release(cas, entry);
}

static int unlink_blob(struct cas *cas, const struct cas_entry *entry, struct err *err)
{
    struct digest digest;
    char name[CAS_NAME_SIZE];
    cas_entry_digest(entry, &digest);
    int rc = cas_file_unlink(cas->blobs_fd, cas_file_name(&digest, name), err);
    return rc == 0 ? 0 : err_wrap(err, "%s", name);
}

static void log_failed_unlink(const struct cas *cas, const struct err *err)
{
    log_error("cas-unlink-failed", log_str("path", cas->directory.path),
              log_str("reason", err->msg));
}

void cas_unlink(struct cas *cas, struct cas_entry *list)
{
    (void)pthread_mutex_unlock(&cas->lock);
    for (struct cas_entry *entry = list; entry != NULL; entry = entry->newer) {
        struct err err;
        if (unlink_blob(cas, entry, &err) == 0)
            continue;
        /* It goes on to count, as it goes on to take room. */
        entry->stuck = true;
        log_failed_unlink(cas, &err);
    }
    (void)pthread_mutex_lock(&cas->lock);
    while (list != NULL) {
        struct cas_entry *next = list->newer;
        list->newer = NULL;
        forget(cas, list);
        list = next;
    }
    cas_wake(cas);
}

/* Puts back ENTRY, whose file could not be unlinked: it was leaving to make room. Lock held. */
static void put_back(struct cas *cas, struct cas_entry *entry, bool suspect)
{
    entry->state = CAS_THERE;
    entry->suspect = suspect;
    if (suspect)
        cas->suspects++;
    cas_table_relist(&cas->table, entry);
}

/*
 * Evicts ENTRY, which is not pinned. If its file cannot go it stays: a file system that has turned
 * read-only would empty the store else. Lock held; released meanwhile.
 */
static int evict_one(struct cas *cas, struct cas_entry *entry, struct err *err)
{
    struct cas_entry *list = NULL;
    bool suspect = entry->suspect;
    bool durable = entry->epoch < cas->synced;
    uint64_t failures = cas->failures;
    cas_leave(cas, entry, &list);
    (void)pthread_mutex_unlock(&cas->lock);
    int rc = unlink_blob(cas, entry, err);
    if (rc != 0 && !cas->evictions_fail)
        log_failed_unlink(cas, err);
    cas->evictions_fail = rc != 0;
    (void)pthread_mutex_lock(&cas->lock);
    if (rc == 0) {
        cas->evicted++;
        forget(cas, entry);
    } else if (durable || failures == cas->failures) {
        put_back(cas, entry, suspect);
    } else {
        /* A sync that failed meanwhile would have dropped it. */
        entry->stuck = true;
        forget(cas, entry);
    }
    cas_wake(cas);
    return rc;
}

/* The least recently used blob from ENTRY on that may be evicted, or NULL. Lock held. */
static struct cas_entry *next_to_go(const struct cas *cas, struct cas_entry *entry)
{
    /* The list is in the order of use: behind the first that is held, all are. */
    uint64_t held = cas->oldest_hold != NULL ? cas->oldest_hold->since : UINT64_MAX;
    while (entry != NULL && entry->pins != 0 && entry->used < held)
        entry = entry->newer;
    return entry != NULL && entry->used < held ? entry : NULL;
}

static int all_in_use(const struct cas *cas, struct err *err)
{
    return err_set(err, ERR_EXHAUSTED,
                   "the quota of %" PRId64 " bytes is full, and all that is stored is in use",
                   cas->quota);
}

/* Tells the operator that blobs are evicted, and for what. Lock held. */
static void tell_evictions(struct cas *cas, const char *because)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (cas->evicted == cas->evicted_told ||
        (cas->evicted_told != 0 && now.tv_sec - cas->told_at < TELL_SECONDS))
        return;
    log_info("evicted", log_str("path", cas->directory.path),
             log_num("blobs", (int64_t)(cas->evicted - cas->evicted_told)),
             log_str("because", because), log_num("bytes", cas->used),
             log_num("quota", cas->quota));
    cas->evicted_told = cas->evicted;
    cas->told_at = now.tv_sec;
}

/*
 * Evicts blobs of NEED bytes together: the least recently used first, no more than needed, and none
 * at all (ERR_EXHAUSTED) if that many may not be evicted now. It ends early if some come into use
 * meanwhile. ERR_IO: a file could not be removed. Lock held; released meanwhile.
 */
static int evict(struct cas *cas, int64_t need, const char *because, struct err *err)
{
    int64_t found = 0;
    struct cas_entry *entry = next_to_go(cas, cas->table.oldest);
    for (; found < need && entry != NULL; entry = next_to_go(cas, entry->newer))
        found += entry->room;
    if (found < need)
        return all_in_use(cas, err);
    int rc = 0;
    cas->evicting = true;
    for (found = 0; rc == 0 && found < need;) {
        entry = next_to_go(cas, cas->table.oldest);
        if (entry == NULL)
            break;
        found += entry->room;
        rc = evict_one(cas, entry, err);
    }
    cas->evicting = false;
    cas_wake(cas);
    tell_evictions(cas, because);
    return rc;
}

int cas_room_take(struct cas *cas, int64_t room, struct err *err)
{
    struct timespec deadline;
    (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += cas->patience;
    int rc = 0;
    (void)pthread_mutex_lock(&cas->lock);
    for (;;) {
        if (room < 0 || room > cas->limit - cas->fixed) {
            rc = err_set(err, ERR_EXHAUSTED,
                         "the blob is larger than the quota of %" PRId64 " bytes lets any be",
                         cas->quota);
            break;
        }
        if (cas->used <= cas->limit - room) {
            cas->used += room;
            break;
        }
        if (!cas->evicting) {
            rc = evict(cas, cas->used + room - cas->limit, "the quota is full", err);
            if (rc == 0)
                continue;
            if (rc != -ERR_EXHAUSTED)
                break;
        }
        if (!cas_wait(cas, &deadline)) {
            rc = all_in_use(cas, err);
            break;
        }
        rc = 0;
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return rc;
}

void cas_room_give(struct cas *cas, int64_t room)
{
    (void)pthread_mutex_lock(&cas->lock);
    cas->used -= room;
    cas_wake(cas);
    (void)pthread_mutex_unlock(&cas->lock);
}

bool cas_room_relieve(struct cas *cas, int64_t room)
{
    (void)pthread_mutex_lock(&cas->lock);
    while (cas->evicting)
        (void)cas_wait(cas, NULL);
    struct err err;
    bool done = evict(cas, room, "the disk is full", &err) == 0;
    (void)pthread_mutex_unlock(&cas->lock);
    return done;
}

bool cas_room_shrink(struct cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    while (cas->used > cas->limit && cas->evicting)
        (void)cas_wait(cas, NULL);
    struct err err;
    bool done = cas->used <= cas->limit ||
                evict(cas, cas->used - cas->limit, "the quota is full", &err) == 0;
    (void)pthread_mutex_unlock(&cas->lock);
    return done;
}

void cas_room_measure(struct cas *cas)
{
    const int fds[] = {cas->blobs_fd, cas->uploads_fd};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        struct stat st;
        if (fstat(fds[i], &st) == 0)
            bytes += (int64_t)st.st_blocks * 512;
    }
    (void)pthread_mutex_lock(&cas->lock);
    /* Another thread may have measured later: what they shrink by is found at the next start. */
    if (bytes > cas->directories) {
        cas->fixed += bytes - cas->directories;
        cas->used += bytes - cas->directories;
        cas->directories = bytes;
    }
    (void)pthread_mutex_unlock(&cas->lock);
}
