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

void cas_unlink(struct cas *cas, struct cas_entry *list)
{
    (void)pthread_mutex_unlock(&cas->lock);
    for (struct cas_entry *entry = list; entry != NULL; entry = entry->newer) {
        struct digest digest;
        char name[CAS_NAME_SIZE];
        cas_entry_digest(entry, &digest);
        if (unlinkat(cas->blobs_fd, cas_file_name(&digest, name), 0) == 0 || errno == ENOENT)
            continue;
        /* It goes on to count, as it goes on to take room. */
        entry->stuck = true;
        log_error("cas-unlink-failed", log_str("path", cas->directory.path), log_str("blob", name),
                  log_str("reason", strerrorname_np(errno)));
    }
    (void)pthread_mutex_lock(&cas->lock);
    while (list != NULL) {
        struct cas_entry *next = list->newer;
        list->newer = NULL;
        list->state = CAS_GONE;
        cas_table_remove(&cas->table, list);
        cas_release(cas, list);
        list = next;
    }
    cas_wake(cas);
}

/*
 * Evicts blobs of NEED bytes together: the least recently used first, no more than needed, and none
 * at all (false) if that many may not be evicted now. Lock held; released meanwhile.
 */
static bool evict(struct cas *cas, int64_t need)
{
    /* The list is in the order of use: behind the first that is held, all are. */
    uint64_t held = cas->oldest_hold != NULL ? cas->oldest_hold->since : UINT64_MAX;
    int64_t found = 0;
    struct cas_entry *entry = cas->table.oldest;
    for (; found < need && entry != NULL && entry->used < held; entry = entry->newer)
        if (entry->pins == 0)
            found += entry->room;
    if (found < need)
        return false;
    struct cas_entry *list = NULL;
    struct cas_entry *next;
    found = 0;
    for (entry = cas->table.oldest; found < need; entry = next) {
        next = entry->newer;
        if (entry->pins != 0)
            continue;
        found += entry->room;
        cas->evicted++;
        cas_leave(cas, entry, &list);
    }
    cas->evicting = true;
    cas_unlink(cas, list);
    cas->evicting = false;
    cas_wake(cas);
    return true;
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
        if (!cas->evicting && evict(cas, cas->used + room - cas->limit))
            continue;
        if (!cas_wait(cas, &deadline)) {
            rc = err_set(err, ERR_EXHAUSTED,
                         "the quota of %" PRId64 " bytes is full, and all that is stored is in use",
                         cas->quota);
            break;
        }
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
    bool done = evict(cas, room);
    (void)pthread_mutex_unlock(&cas->lock);
    return done;
}

bool cas_room_shrink(struct cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    while (cas->used > cas->limit && cas->evicting)
        (void)cas_wait(cas, NULL);
    bool done = cas->used <= cas->limit || evict(cas, cas->used - cas->limit);
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
