/* SPDX-License-Identifier: Apache-2.0 */
/* The quota: what is taken and given, who waits for it, and the thread that evicts. */
#include "store/cas_space.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/cas_evict.h"
#include "store/cas_space_private.h"
#include "store/disk.h"

/* File systems take blocks that nobody asked for, such as for the map of a file in many pieces. */
enum { MARGIN_SHIFT = 8, MARGIN_MAX = 1 << 20 };

/* From this part of the quota on the digest table is large. */
enum { TABLE_SHARE = 8 };

/* Blocks by which the directories and the shared file can grow before they are measured again. */
enum { GROWTH_BLOCKS = 8 };

/* Milliseconds. */
enum {
    PATIENCE = 5 * 1000,        /* uses are short: what keeps all for longer is no use */
    RELIEF_PATIENCE = 500,      /* the same, of who met a full disk */
    TELL_INTERVAL = 60 * 1000,  /* evictions are told at once, and then together */
    FAULT_INTERVAL = 60 * 1000, /* until what failed is tried again, if nobody waits for it */
    POLL_INTERVAL = 20,         /* other processes do not tell of the end of their holds */
    LOOK_INTERVAL = 1000,       /* the same, where nobody waits */
    IDLE_INTERVAL = 10 * 1000,  /* nor do they tell of what they have found broken */
};

/* Why content is evicted, as the log says. */
static const char quota_is_full[] = "the quota is full";
static const char disk_is_full[] = "the disk is full";
static const char is_damaged[] = "what it is beside is damaged";

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- counting --- */

/* Lock held. */
static void add_used(struct cas_space *space, int64_t bytes)
{
    int64_t used = atomic_load(&space->used) + bytes;
    atomic_store(&space->used, used);
    atomic_store(&space->options.shared->header->bytes, (uint64_t)(used > 0 ? used : 0));
}

/* What uploads may use. */
static int64_t room_of(const struct cas_space *space)
{
    return space->limit - space->aside;
}

/* Measures what is there beside segments and the table, and grows as they do. */
static void measure(struct cas_space *space)
{
    const struct cas_space_options *options = &space->options;
    const int fds[] = {options->cas_fd, options->log_fd, options->table_fd};
    struct stat st;
    int64_t bytes = cas_shared_bytes(options->shared);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fstat(fds[i], &st) == 0)
            bytes += (int64_t)st.st_blocks * 512;
    if (fstatat(options->cas_fd, "format", &st, AT_SYMLINK_NOFOLLOW) == 0)
        bytes += (int64_t)st.st_blocks * 512;
    (void)pthread_mutex_lock(&space->lock);
    /* Another thread may have measured later: what they shrink by is found at the next start. */
    if (bytes > space->measured) {
        (void)atomic_fetch_add(&space->fixed, bytes - space->measured);
        add_used(space, bytes - space->measured);
        space->measured = bytes;
    }
    (void)pthread_mutex_unlock(&space->lock);
}

/* Whether it could be taken if all that can be was evicted. */
static bool fits(const struct cas_space *space, int64_t bytes)
{
    return bytes >= 0 && bytes <= room_of(space) - atomic_load(&space->fixed);
}

int cas_space_fits(const struct cas_space *space, int64_t bytes, struct err *err)
{
    if (fits(space, bytes))
        return 0;
    return err_set(err, ERR_EXHAUSTED, "the blob is too large for the quota of %" PRId64 " bytes",
                   space->options.quota);
}

int64_t cas_space_used(const struct cas_space *space)
{
    return atomic_load(&space->used);
}

/* --- waiting --- */

/* Lock held. */
static void wake_thread(struct cas_space *space)
{
    space->retry_at = 0;
    (void)pthread_cond_signal(&space->wanted);
}

/* Takes WAITER out of the queue. Lock held. */
static void leave_queue(struct cas_space *space, struct cas_space_waiter *waiter)
{
    struct cas_space_waiter **link = &space->first;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    if (space->last == &waiter->next)
        space->last = link;
    waiter->is_done = true;
    (void)pthread_cond_broadcast(&space->changed);
}

/*
 * Lets those go on for whom there is room now, in the order in which they came. A full disk is no
 * reason to wait for those who only need room within the quota. Lock held.
 */
static void serve(struct cas_space *space)
{
    struct cas_space_waiter *next;
    for (struct cas_space_waiter *waiter = space->first; waiter != NULL; waiter = next) {
        next = waiter->next;
        if (waiter->is_relief && waiter->bytes > 0)
            continue;
        if (!waiter->is_relief && atomic_load(&space->used) > room_of(space) - waiter->bytes)
            return;
        if (!waiter->is_relief)
            add_used(space, waiter->bytes);
        leave_queue(space, waiter);
    }
}

/* Whether somebody waits for room within the quota. Lock held. */
static bool is_waited_for_room(const struct cas_space *space)
{
    const struct cas_space_waiter *waiter = space->first;
    while (waiter != NULL && waiter->is_relief)
        waiter = waiter->next;
    return waiter != NULL;
}

/*
 * Waits until WAITER is served. URGENT: before others, because it has room already, which they may
 * be waiting for. Lock held; released meanwhile.
 */
static int wait_in_queue(struct cas_space *space, struct cas_space_waiter *waiter, bool urgent)
{
    waiter->since = clock_steady();
    if (urgent) {
        waiter->next = space->first;
        if (space->first == NULL)
            space->last = &waiter->next;
        space->first = waiter;
    } else {
        *space->last = waiter;
        space->last = &waiter->next;
    }
    serve(space);
    wake_thread(space);
    while (!waiter->is_done) {
        int64_t since = waiter->since > space->progress ? waiter->since : space->progress;
        int64_t deadline = since + atomic_load(&space->patience);
        if (clock_steady() >= deadline) {
            waiter->rc =
                err_set(waiter->err, ERR_EXHAUSTED,
                        "the quota of %" PRId64 " bytes is full, and all that is stored is in use",
                        space->options.quota);
            leave_queue(space, waiter);
            /* Those behind may want less. */
            serve(space);
            wake_thread(space);
            break;
        }
        const struct timespec until = {.tv_sec = (time_t)(deadline / 1000),
                                       .tv_nsec = (long)(deadline % 1000) * 1000000};
        (void)pthread_cond_timedwait(&space->changed, &space->lock, &until);
    }
    return waiter->rc;
}

static int take(struct cas_space *space, int64_t bytes, bool urgent, struct err *err)
{
    int rc = cas_space_fits(space, bytes, err);
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&space->lock);
    int64_t left = room_of(space) - atomic_load(&space->used) - bytes;
    if (space->options.keeps_all && left < (urgent ? 0 : space->headroom)) {
        rc = err_set(err, ERR_EXHAUSTED,
                     "the quota of %" PRId64 " bytes is full, and nothing is to be evicted",
                     space->options.quota);
    } else if (left >= 0 && (urgent || !is_waited_for_room(space))) {
        add_used(space, bytes);
        if (left < space->headroom && space->retry_at <= clock_steady())
            (void)pthread_cond_signal(&space->wanted);
    } else {
        struct cas_space_waiter waiter = {.bytes = bytes, .err = err};
        rc = wait_in_queue(space, &waiter, urgent);
    }
    (void)pthread_mutex_unlock(&space->lock);
    return rc;
}

int cas_space_take(struct cas_space *space, int64_t bytes, struct err *err)
{
    return take(space, bytes, false, err);
}

void cas_space_give(struct cas_space *space, int64_t bytes)
{
    (void)pthread_mutex_lock(&space->lock);
    add_used(space, -bytes);
    space->progress = clock_steady();
    serve(space);
    (void)pthread_mutex_unlock(&space->lock);
}

bool cas_space_take_aside(struct cas_space *space, int64_t bytes)
{
    (void)pthread_mutex_lock(&space->lock);
    bool is_room = atomic_load(&space->used) <= space->ceiling - bytes;
    if (is_room)
        add_used(space, bytes);
    (void)pthread_mutex_unlock(&space->lock);
    return is_room;
}

void cas_space_charge(struct cas_space *space, struct cas_segment *segment, int64_t bytes)
{
    /* One that was just begun has a name in the directory, and a place in the ring. */
    if (atomic_fetch_add(&segment->charged, (uint64_t)bytes) == 0)
        measure(space);
}

bool cas_space_relieve(struct cas_space *space, int64_t bytes)
{
    struct err ignored;
    struct cas_space_waiter waiter = {.bytes = bytes, .is_relief = true, .err = &ignored};
    if (space->options.keeps_all)
        return false;
    (void)pthread_mutex_lock(&space->lock);
    int rc = wait_in_queue(space, &waiter, true);
    (void)pthread_mutex_unlock(&space->lock);
    return rc == 0;
}

void cas_space_wake(struct cas_space *space)
{
    if (!atomic_load(&space->is_blocked))
        return;
    (void)pthread_mutex_lock(&space->lock);
    wake_thread(space);
    (void)pthread_mutex_unlock(&space->lock);
}

void cas_space_broken(struct cas_space *space)
{
    (void)pthread_mutex_lock(&space->lock);
    space->evacuate_at = 0;
    (void)pthread_cond_signal(&space->wanted);
    (void)pthread_mutex_unlock(&space->lock);
}

/* --- the table --- */

static int take_for_table(void *context, int64_t bytes, struct err *err)
{
    struct cas_space *space = context;
    if (!fits(space, bytes))
        return err_set(err, ERR_EXHAUSTED,
                       "the quota of %" PRId64 " bytes does not let the digest table grow",
                       space->options.quota);
    int rc = take(space, bytes, true, err);
    if (rc == 0)
        (void)atomic_fetch_add(&space->fixed, bytes);
    return rc;
}

/* For a smaller file, beside which there is the larger one for a moment. */
static int take_now_for_table(void *context, int64_t bytes, struct err *err)
{
    struct cas_space *space = context;
    (void)pthread_mutex_lock(&space->lock);
    int64_t used = atomic_load(&space->used);
    /* What is above the quota anyway comes down by this. */
    bool is_room = used > space->limit || used <= space->limit - bytes;
    if (is_room)
        add_used(space, bytes);
    (void)pthread_mutex_unlock(&space->lock);
    if (!is_room)
        return err_set(err, ERR_EXHAUSTED, "there is no room to write the digest table anew");
    (void)atomic_fetch_add(&space->fixed, bytes);
    return 0;
}

static void give_for_table(void *context, int64_t bytes)
{
    struct cas_space *space = context;
    (void)atomic_fetch_sub(&space->fixed, bytes);
    cas_space_give(space, bytes);
}

/* --- the thread --- */

/* What it evicts for. */
struct goal {
    int64_t bytes;
    int64_t largest;                       /* segment that may go for it, in bytes */
    bool is_waited_for;                    /* nothing goes where all that may would not be enough */
    const struct cas_space_waiter *relief; /* for which it is, if the disk is full */
    const char *because;
};

/* False: there is nothing to evict for. Lock held. */
static bool find_goal(const struct cas_space *space, struct goal *goal)
{
    const struct cas_space_waiter *waiter = space->first;
    int64_t over = atomic_load(&space->used) - room_of(space);
    *goal = (struct goal){.largest = INT64_MAX, .because = quota_is_full};
    if (space->options.keeps_all)
        return false;
    if (waiter != NULL) {
        goal->is_waited_for = true;
        goal->bytes = waiter->bytes + (waiter->is_relief ? 0 : over);
        if (waiter->is_relief) {
            goal->because = disk_is_full;
            goal->relief = waiter;
        }
    } else if (over > 0) {
        goal->bytes = over;
    } else {
        /* For this, what is larger would be too much. */
        goal->bytes = over + space->headroom;
        goal->largest = space->headroom;
    }
    return goal->bytes > 0;
}

/* All that wait for room get the reason why there is none. Lock held. */
static void fail_waiters(struct cas_space *space, const struct err *err)
{
    while (space->first != NULL) {
        struct cas_space_waiter *waiter = space->first;
        *waiter->err = *err;
        waiter->err->code = ERR_IO;
        waiter->rc = -ERR_IO;
        leave_queue(space, waiter);
    }
}

/*
 * Nothing can go for who met a full disk. That is not waited for as long as room within the quota
 * is: the threads that wait would be missing to those who read. Lock held.
 */
static void refuse_relief(struct cas_space *space, const struct goal *goal)
{
    struct cas_space_waiter *waiter = space->first;
    if (waiter == NULL || waiter != goal->relief ||
        clock_steady() - waiter->since < RELIEF_PATIENCE)
        return;
    waiter->rc = err_set(waiter->err, ERR_EXHAUSTED, "nothing that is stored can go now");
    leave_queue(space, waiter);
}

static void tell_fault(struct cas_space *space, const struct err *err)
{
    int64_t time = clock_steady();
    if (space->fault_told_at != 0 && time - space->fault_told_at < TELL_INTERVAL)
        return;
    space->fault_told_at = time;
    log_error("evict-failed", log_str("path", space->options.path), log_str("reason", err->msg));
}

/* Tells the operator of a process that has kept what is to go for long; it may hang. */
static void tell_holder(struct cas_space *space, const struct goal *goal)
{
    struct cas_survey survey;
    uint64_t hold;
    int64_t time = clock_steady();
    int64_t told_at = atomic_load(&space->holder_told_at);
    uint32_t pid = cas_shared_oldest_holder(space->options.shared, &hold);
    cas_evict_survey(space, &survey);
    if (pid == 0 || survey.evictable >= goal->bytes || hold != space->blocking_hold) {
        space->blocking_hold = pid != 0 && survey.evictable < goal->bytes ? hold : 0;
        space->blocked_since = time;
        return;
    }
    if (time - space->blocked_since < TELL_INTERVAL ||
        (told_at != 0 && time - told_at < TELL_INTERVAL))
        return;
    atomic_store(&space->holder_told_at, time);
    log_warning("evict-blocked", log_str("path", space->options.path),
                log_num("process", (int64_t)pid),
                log_num("seconds", (time - space->blocked_since) / 1000),
                log_str("reason", "it relies on all that could be evicted: does it hang?"));
}

static bool is_to_be_told(const struct cas_space *space)
{
    return space->untold > 0 &&
           (space->told_at == 0 || clock_steady() - space->told_at >= TELL_INTERVAL);
}

/* Tells the operator that blobs are evicted, and for what. */
static void tell_evictions(struct cas_space *space)
{
    if (!is_to_be_told(space))
        return;
    LOG_AT(space->because == disk_is_full ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "evicted",
           log_str("path", space->options.path), log_num("blobs", space->untold),
           log_str("because", space->because), log_num("used", atomic_load(&space->used)),
           log_num("quota", space->options.quota));
    space->untold = 0;
    space->told_at = clock_steady();
}

/* A segment has gone. Lock held. */
static void count_evicted(struct cas_space *space, const struct cas_evicted *evicted,
                          const char *because)
{
    /* A full disk is told even if it was the reason for some only. */
    if (space->untold == 0 || space->because != disk_is_full)
        space->because = because;
    /* What is above the limit goes down: copies may fill the gap that this leaves, and no more. */
    int64_t before = atomic_load(&space->used);
    space->ceiling = before > space->limit ? before : space->limit;
    add_used(space, -evicted->bytes);
    if (space->first != NULL && space->first->is_relief)
        space->first->bytes -= evicted->bytes;
    space->untold += evicted->blobs;
    space->spared = 0;
    space->progress = clock_steady();
    serve(space);
}

static enum cas_eviction evict_for(struct cas_space *space, const struct goal *goal,
                                   struct cas_evicted *evicted, struct err *err)
{
    struct cas_survey survey;
    cas_evict_survey(space, &survey);
    if (goal->is_waited_for && survey.evictable < goal->bytes)
        return CAS_EVICTION_NONE;
    /* Once around: then all that is there is used, and the oldest goes all the same. */
    bool second_chance = space->spared < survey.segments;
    enum cas_eviction eviction =
        cas_evict_oldest(space, goal->largest, second_chance, evicted, err);
    if (eviction == CAS_EVICTION_SPARED && !second_chance)
        return CAS_EVICTION_NONE;
    return eviction;
}

/*
 * Whether the table takes what blobs could have: where the quota is exceeded, as it may have become
 * smaller, or much of it is the table's.
 */
static bool is_table_too_large(const struct cas_space *space)
{
    const struct digest_table *table = space->options.table;
    return (atomic_load(&space->used) > room_of(space) ||
            digest_table_bytes(table) > space->limit / TABLE_SHARE) &&
           digest_table_is_sparse(table);
}

/* Writes what has few entries of the table anew. Whether it became smaller. */
static bool trim_table(struct cas_space *space)
{
    struct digest_table *table = space->options.table;
    int64_t bytes = digest_table_bytes(table);
    if (clock_steady() < space->trim_at)
        return false;
    for (unsigned i = 0; i < CAS_SHARDS && is_table_too_large(space); i++) {
        struct err ignored; /* what cannot be done now is tried again */
        if (atomic_load(&space->stopping))
            break;
        (void)digest_table_trim(table, i, &ignored);
    }
    bool is_smaller = digest_table_bytes(table) < bytes;
    space->trim_at = is_smaller || !is_table_too_large(space) ? 0 : clock_steady() + LOOK_INTERVAL;
    return is_smaller;
}

/* Evicts one segment, or learns why not. Lock held; released meanwhile. */
static void evict(struct cas_space *space, const struct goal *goal)
{
    struct cas_evicted evicted;
    struct err err;
    (void)pthread_mutex_unlock(&space->lock);
    tell_evictions(space);
    if (trim_table(space)) {
        /* Less is to go now, or nothing. */
        (void)pthread_mutex_lock(&space->lock);
        return;
    }
    enum cas_eviction eviction = evict_for(space, goal, &evicted, &err);
    if (eviction == CAS_EVICTION_DONE)
        measure(space);
    if (eviction == CAS_EVICTION_FAULT)
        tell_fault(space, &err);
    if (eviction == CAS_EVICTION_NONE)
        tell_holder(space, goal);
    (void)pthread_mutex_lock(&space->lock);
    switch (eviction) {
    case CAS_EVICTION_DONE:
        count_evicted(space, &evicted, goal->because);
        break;
    case CAS_EVICTION_SPARED:
        space->spared++;
        break;
    case CAS_EVICTION_FAULT:
        space->spared++;
        space->retry_at = clock_steady() + FAULT_INTERVAL;
        fail_waiters(space, &err);
        break;
    case CAS_EVICTION_LATER:
        space->progress = clock_steady();
        space->retry_at = clock_steady() + POLL_INTERVAL;
        break;
    case CAS_EVICTION_NONE:
        refuse_relief(space, goal);
        space->retry_at = clock_steady() + (space->first != NULL ? POLL_INTERVAL : LOOK_INTERVAL);
        break;
    }
}

/* Evacuates all segments in which something is broken. Lock held; released meanwhile. */
static void evacuate(struct cas_space *space)
{
    uint32_t index = 0;
    enum cas_eviction eviction;
    bool is_spared = false;
    bool is_failed = false;
    space->evacuate_at = INT64_MAX; /* unless cas_space_broken is called meanwhile */
    do {
        struct cas_evicted evicted;
        struct err err;
        (void)pthread_mutex_unlock(&space->lock);
        tell_evictions(space);
        eviction = cas_evict_broken(space, &index, &evicted, &err);
        if (eviction == CAS_EVICTION_DONE)
            measure(space);
        if (eviction == CAS_EVICTION_FAULT)
            tell_fault(space, &err);
        (void)pthread_mutex_lock(&space->lock);
        if (eviction == CAS_EVICTION_DONE)
            count_evicted(space, &evicted, is_damaged);
        is_spared |= eviction == CAS_EVICTION_SPARED;
        is_failed |= eviction == CAS_EVICTION_FAULT;
    } while (eviction != CAS_EVICTION_NONE && !atomic_load(&space->stopping));
    int64_t interval = is_spared ? LOOK_INTERVAL : is_failed ? FAULT_INTERVAL : IDLE_INTERVAL;
    space->evacuate_at = least(space->evacuate_at, clock_steady() + interval);
}

/* Lock held; released meanwhile. */
static void sleep_until(struct cas_space *space, int64_t time)
{
    const struct timespec until = {.tv_sec = (time_t)(time / 1000),
                                   .tv_nsec = (long)(time % 1000) * 1000000};
    (void)pthread_cond_timedwait(&space->wanted, &space->lock, &until);
}

static void *run(void *argument)
{
    struct cas_space *space = argument;
    (void)pthread_mutex_lock(&space->lock);
    while (!atomic_load(&space->stopping)) {
        struct goal goal;
        int64_t time = clock_steady();
        bool has_goal = find_goal(space, &goal);
        if (space->evacuate_at <= time) {
            evacuate(space);
        } else if (has_goal && space->retry_at <= time) {
            evict(space, &goal);
        } else if (is_to_be_told(space)) {
            (void)pthread_mutex_unlock(&space->lock);
            tell_evictions(space);
            (void)pthread_mutex_lock(&space->lock);
        } else {
            int64_t until =
                has_goal ? least(space->evacuate_at, space->retry_at) : space->evacuate_at;
            atomic_store(&space->is_blocked, has_goal && goal.is_waited_for);
            sleep_until(space, until);
            atomic_store(&space->is_blocked, false);
        }
    }
    (void)pthread_mutex_unlock(&space->lock);
    return NULL;
}

/* --- opening and closing --- */

/* What uploads may use of QUOTA, what cannot be evicted included. */
static void divide(struct cas_space *space, int64_t quota)
{
    int64_t overhead = cas_log_overhead(space->options.log);
    space->segment_size = cas_log_segment_size(quota);
    space->limit = quota - least(quota >> MARGIN_SHIFT, MARGIN_MAX);
    /* A record that does not fit behind others makes a segment a quarter larger at most. */
    space->aside = space->segment_size + space->segment_size / 4 + 2 * overhead;
    space->headroom = space->segment_size + space->segment_size / 4 + overhead;
}

/* Counts what there is, which is not measured yet. */
static int count(struct cas_space *space, struct err *err)
{
    const struct cas_space_options *options = &space->options;
    struct statvfs fs;
    if (fstatvfs(options->cas_fd, &fs) != 0)
        return disk_fault(err, errno, "look at the file system");
    int64_t block = fs.f_frsize >= 512 ? (int64_t)fs.f_frsize : 512;
    int64_t table = digest_table_bytes(options->table);
    atomic_store(&space->fixed, options->others + GROWTH_BLOCKS * block + table);
    atomic_store(&space->used, atomic_load(&space->fixed));
    measure(space);
    /* One small blob has to fit in. A table that is too large for a smaller quota is trimmed. */
    int64_t least_room = atomic_load(&space->fixed) - table +
                         least(table, digest_table_least_bytes(block)) +
                         cas_log_overhead(options->log) + block;
    int64_t quota = options->quota > 0 ? options->quota : 0;
    divide(space, quota);
    if (room_of(space) >= least_room)
        return 0;
    while (room_of(space) < least_room) {
        quota += quota / 256 + block;
        divide(space, quota);
    }
    return err_set(err, ERR_INVALID,
                   "the quota of %" PRId64 " bytes is less than the %" PRId64
                   " that an empty store takes",
                   options->quota, quota);
}

static void count_segments(struct cas_space *space)
{
    uint32_t index = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(space->options.shared, &index)) != NULL) {
        add_used(space, (int64_t)atomic_load(&segment->charged));
        /*
         * The writer before us may have been killed when it had carried blobs out of it, and not
         * told so yet: who remembers what is where is to look again.
         */
        (void)atomic_fetch_add(&segment->version, 1);
    }
    int64_t used = atomic_load(&space->used);
    space->ceiling = used > space->limit ? used : space->limit;
}

int cas_space_new(const struct cas_space_options *options, struct cas_space **space,
                  struct err *err)
{
    pthread_condattr_t attributes;
    struct cas_space *new = calloc(1, sizeof(*new));
    if (new == NULL)
        return err_no_memory(err, "a space");
    new->options = *options;
    new->last = &new->first;
    atomic_store(&new->patience, PATIENCE);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&new->lock, NULL);
    (void)pthread_cond_init(&new->changed, &attributes);
    (void)pthread_cond_init(&new->wanted, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int rc = count(new, err);
    if (rc != 0) {
        cas_space_free(new);
        return rc;
    }
    count_segments(new);
    const struct digest_table_room room = {.take = take_for_table,
                                           .take_now = take_now_for_table,
                                           .give = give_for_table,
                                           .context = new};
    digest_table_set_room(options->table, &room);
    *space = new;
    return 0;
}

/* The quota keeps the disk from being filled only if the disk is large enough for it. */
static void compare_with_disk(const struct cas_space *space)
{
    struct statvfs fs;
    int64_t left = space->options.quota - atomic_load(&space->used);
    if (left <= 0 || fstatvfs(space->options.cas_fd, &fs) != 0)
        return;
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if ((uint64_t)left <= free_bytes)
        return;
    log_warning("quota-exceeds-disk", log_str("path", space->options.path),
                log_num("quota", space->options.quota), log_num("bytes", atomic_load(&space->used)),
                log_num("disk-free", (int64_t)free_bytes),
                log_str("answer",
                        "on a full disk content goes early and uploads may fail: lower the "
                        "quota"));
}

int cas_space_start(struct cas_space *space, struct err *err)
{
    assert(!space->has_thread);
    space->buffer = malloc(CAS_SPACE_BUFFER);
    if (space->buffer == NULL)
        return err_no_memory(err, "carrying records");
    int rc = pthread_create(&space->thread, NULL, run, space);
    if (rc != 0)
        return err_errno(err, rc, "start the thread that evicts");
    (void)pthread_setname_np(space->thread, "cas-evict");
    space->has_thread = true;
    compare_with_disk(space);
    return 0;
}

void cas_space_free(struct cas_space *space)
{
    if (space == NULL)
        return;
    assert(space->first == NULL);
    if (space->has_thread) {
        (void)pthread_mutex_lock(&space->lock);
        atomic_store(&space->stopping, true);
        (void)pthread_cond_signal(&space->wanted);
        (void)pthread_mutex_unlock(&space->lock);
        (void)pthread_join(space->thread, NULL);
    }
    space->told_at = 0;
    tell_evictions(space);
    free(space->buffer);
    (void)pthread_cond_destroy(&space->wanted);
    (void)pthread_cond_destroy(&space->changed);
    (void)pthread_mutex_destroy(&space->lock);
    free(space);
}
