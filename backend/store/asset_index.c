/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asset index: look-ups, and the writer thread with its group commits.
 *
 * The writer takes all that is queued, applies it in one transaction, and commits that with one
 * fsync: while it lasts, the next group gathers. No timer is involved.
 */
#include "store/asset_index.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/asset_life.h"
#include "store/asset_record.h"
#include "store/asset_room.h"
#include "store/asset_tables.h"
#include "store/asset_uses.h"
#include "store/directory.h"

enum {
    UPKEEP_MS = 60 * 1000, /* from one writing of uses and sweep to the next */
    RENEW_SHARE = 100,  /* of expire_after; a renewal is written when the last is as old as that */
    EXPIRE_BATCH = 256, /* assets removed by one transaction, so that writes need not wait long */
    EXPIRE_RENEWAL = 2, /* of them for each renewal, so that small files are not overrun */
    SETTLE_SHARE = 2,   /* of the renewals, for a transaction that writes something else */
    EACH_STEP = 64,     /* assets */
};

struct asset_index {
    struct store_directory directory;
    struct asset_tables tables;
    struct asset_uses uses;
    int64_t (*now)(void);
    int64_t expire_after; /* milliseconds; 0: never */
    int64_t renew_after;  /* milliseconds */

    pthread_t writer;
    bool has_writer;
    pthread_mutex_t lock; /* of these: */
    pthread_cond_t work;
    struct asset_write *first;
    struct asset_write **last; /* where the next write is linked in */
    bool are_uses_many;
    bool is_stopping;

    atomic_uint_fast64_t evicted;
    atomic_uint_fast64_t expired;
    atomic_uint_fast64_t commits;

    /* The writer's own: */
    int64_t upkeep_at;            /* when the last one was */
    struct timespec upkeep_until; /* when the next one is due, by the clock that is never set */
    bool is_upkeep_due;           /* whatever the clock says */
    bool has_upkeep_failed;       /* the last one; the next is not hurried then */
};

/* --- reading --- */

static bool is_expired(struct asset_index *index, const uint8_t *hash, const struct asset_row *row,
                       int64_t now)
{
    return (row->expires_at != 0 && row->expires_at <= now) ||
           asset_life_is_unused(&index->uses, hash, row, index->expire_after, now);
}

int asset_index_get(struct asset_index *index, const struct asset_key *key, struct arena *arena,
                    struct asset *asset, struct err *err)
{
    struct asset_name name;
    struct asset_row row;
    int rc = asset_name_init(&name, key, err);
    if (rc != 0)
        return rc;
    rc = asset_tables_find(&index->tables, &name, arena, &row, asset, err);
    if (rc == 0 && is_expired(index, name.hash, &row, index->now()))
        rc = err_set(err, ERR_NOT_FOUND, "the asset has expired");
    asset_name_fini(&name);
    return rc;
}

int asset_index_each(struct asset_index *index,
                     bool (*visit)(void *context, const struct asset_key *key,
                                   const struct asset *asset),
                     void *context, struct err *err)
{
    struct asset_found found[EACH_STEP];
    struct asset_walk walk = {.begun = false};
    struct arena arena;
    bool goes_on = true;
    int rc = 0;
    arena_init(&arena);
    while (rc == 0 && goes_on && !walk.ended) {
        size_t count = EACH_STEP;
        rc = asset_tables_step(&index->tables, &walk, &arena, found, &count, err);
        int64_t now = index->now();
        for (size_t i = 0; rc == 0 && goes_on && i < count; i++)
            if (!is_expired(index, found[i].hash, &found[i].row, now))
                goes_on = visit(context, &found[i].key, &found[i].asset);
        arena_fini(&arena);
    }
    arena_fini(&arena);
    return rc;
}

void asset_index_stats(struct asset_index *index, struct asset_index_stats *stats)
{
    struct err err;
    *stats = (struct asset_index_stats){.evicted = atomic_load(&index->evicted),
                                        .expired = atomic_load(&index->expired),
                                        .commits = atomic_load(&index->commits)};
    if (asset_tables_usage(&index->tables, &stats->assets, &stats->bytes, &err) != 0)
        log_error("index-stats", log_str("path", index->directory.path),
                  log_str("reason", err.msg));
}

/* --- handing in --- */

void asset_index_touch(struct asset_index *index, const struct asset_key *key)
{
    struct asset_name name;
    struct err err;
    if (asset_name_init(&name, key, &err) != 0)
        return; /* without memory for that there is none to renew lives either */
    bool are_many = asset_uses_add(&index->uses, name.hash, index->now());
    asset_name_fini(&name);
    if (!are_many)
        return;
    (void)pthread_mutex_lock(&index->lock);
    index->are_uses_many = true;
    (void)pthread_cond_signal(&index->work);
    (void)pthread_mutex_unlock(&index->lock);
}

void asset_index_write(struct asset_index *index, struct asset_write *write)
{
    write->next = NULL;
    (void)pthread_mutex_lock(&index->lock);
    *index->last = write;
    index->last = &write->next;
    (void)pthread_cond_signal(&index->work);
    (void)pthread_mutex_unlock(&index->lock);
}

/* --- the writer: one transaction --- */

/* What a transaction does beside the writes; counts once it is committed. */
struct changes {
    size_t evicted;
    size_t expired;
};

static int apply(struct asset_index *index, const struct asset_write *write, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < write->key_count; i++) {
        struct asset_name name;
        rc = asset_name_init(&name, &write->keys[i], err);
        if (rc != 0)
            break;
        rc = write->asset != NULL ? asset_tables_put(&index->tables, &name, write->asset, err)
                                  : asset_tables_remove(&index->tables, &name, err);
        asset_name_fini(&name);
    }
    return rc;
}

/* Commits, or gives up if RC says that something failed. */
static int finish(struct asset_index *index, int rc, const struct changes *changes, struct err *err)
{
    if (rc != 0) {
        asset_tables_abort(&index->tables);
        return rc;
    }
    rc = asset_tables_commit(&index->tables, err);
    if (rc != 0)
        return rc;
    atomic_fetch_add(&index->evicted, changes->evicted);
    atomic_fetch_add(&index->expired, changes->expired);
    return 0;
}

/* The writes from FIRST up to END in one transaction, which evicts as much as they need, or not. */
static int commit_writes(struct asset_index *index, const struct asset_write *first,
                         const struct asset_write *end, bool evicts, struct err *err)
{
    struct changes changes = {.evicted = 0};
    size_t renewals = asset_tables_renewals_max(&index->tables) / SETTLE_SHARE;
    int rc = asset_tables_begin(&index->tables, renewals, err);
    if (rc != 0)
        return rc;
    for (const struct asset_write *write = first; rc == 0 && write != end; write = write->next)
        rc = apply(index, write, err);
    if (rc == 0 && evicts)
        rc = asset_room_settle(&index->tables, &changes.evicted, err);
    rc = finish(index, rc, &changes, err);
    if (rc == 0)
        atomic_fetch_add(&index->commits, 1);
    return rc;
}

/*
 * Writes no more than so many uses, removes some of what has expired, and evicts what the renewals
 * took the room of. *MORE: there may be more of that.
 */
static int commit_upkeep(struct asset_index *index, bool sweep, size_t renewals, bool *more,
                         struct err *err)
{
    struct changes changes = {.evicted = 0};
    int64_t now = index->now();
    int rc = asset_tables_begin(&index->tables, renewals, err);
    if (rc != 0)
        return rc;
    rc = asset_life_renew(&index->tables, now, index->renew_after, more, err);
    size_t limit = index->tables.renewals_left * EXPIRE_RENEWAL + 1;
    if (limit > EXPIRE_BATCH)
        limit = EXPIRE_BATCH;
    if (rc == 0 && sweep)
        rc = asset_life_expire(&index->tables, now, index->expire_after, limit, &changes.expired,
                               err);
    if (rc == 0)
        rc = asset_room_settle(&index->tables, &changes.evicted, err);
    *more |= sweep && changes.expired == limit;
    return finish(index, rc, &changes, err);
}

/* Makes room for BYTES after ERR_ABORTED, the better the higher ATTEMPT is. */
static int make_room(struct asset_index *index, size_t bytes, unsigned attempt, struct err *err)
{
    size_t evicted;
    int rc = asset_room_make(&index->tables, bytes, attempt, &evicted, err);
    atomic_fetch_add(&index->evicted, evicted);
    return rc;
}

/* One transaction of upkeep, as small as it has to be. */
static int commit_some_upkeep(struct asset_index *index, bool sweep, bool *more, struct err *err)
{
    size_t renewals = asset_tables_renewals_max(&index->tables);
    int rc = commit_upkeep(index, sweep, renewals, more, err);
    while (rc == -ERR_ABORTED && renewals > 1) {
        renewals /= 2;
        rc = commit_upkeep(index, sweep, renewals, more, err);
    }
    for (unsigned attempt = 0; rc == -ERR_ABORTED; attempt++) {
        rc = make_room(index, ASSET_PUT_COST, attempt, err);
        if (rc == 0)
            rc = commit_upkeep(index, sweep, renewals, more, err);
    }
    return rc;
}

static void upkeep(struct asset_index *index)
{
    struct err err;
    index->upkeep_at = index->now();
    (void)clock_gettime(CLOCK_MONOTONIC, &index->upkeep_until);
    index->upkeep_until.tv_sec += UPKEEP_MS / 1000;
    bool more = false;
    index->has_upkeep_failed = commit_some_upkeep(index, true, &more, &err) != 0;
    index->is_upkeep_due = more && !index->has_upkeep_failed;
    if (index->has_upkeep_failed)
        log_error("index-upkeep", log_str("path", index->directory.path),
                  log_str("reason", err.msg), log_str("answer", "it is tried again in a minute"));
}

/* --- the writer: groups --- */

/* Bytes of the records of WRITE. */
static size_t write_size(const struct asset_write *write)
{
    size_t size = 0;
    for (size_t i = 0; write->asset != NULL && i < write->key_count; i++)
        size += asset_record_size(asset_name_size(&write->keys[i]), write->asset);
    return size;
}

/* Calls what waits for the writes from FIRST up to END, which are gone after that. */
static void answer(struct asset_write *first, const struct asset_write *end, const struct err *err)
{
    while (first != end) {
        struct asset_write *next = first->next;
        first->done(first, err);
        first = next;
    }
}

/* A client can do nothing about a disk or a file that is broken but try again later. */
static void fail(struct asset_index *index, struct asset_write *first,
                 const struct asset_write *end, struct err *err)
{
    log_error("index-write", log_str("path", index->directory.path), log_str("reason", err->msg));
    if (err->code == ERR_IO || err->code == ERR_DATA_LOSS || err->code == ERR_DENIED ||
        err->code == ERR_NOT_FOUND)
        err->code = ERR_UNAVAILABLE;
    answer(first, end, err);
}

/* Whether the fault may be that of one write among others, and the disk is well. */
static bool may_be_of_one(enum err_code code)
{
    return code == ERR_ABORTED || code == ERR_NO_MEMORY || code == ERR_DATA_LOSS;
}

static void write_one(struct asset_index *index, struct asset_write *write)
{
    const struct asset_write *end = write->next;
    size_t bytes = write_size(write) + ASSET_PUT_COST * write->key_count;
    struct err err;
    int rc = commit_writes(index, write, end, true, &err);
    for (unsigned attempt = 0; rc == -ERR_ABORTED; attempt++) {
        rc = make_room(index, bytes, attempt, &err);
        if (rc == 0) /* as much as it needs has just been evicted */
            rc = commit_writes(index, write, end, false, &err);
    }
    if (rc == 0)
        answer(write, end, NULL);
    else
        fail(index, write, end, &err);
}

static void write_group(struct asset_index *index, struct asset_write *first,
                        struct asset_write *end)
{
    struct err err;
    if (first->next == end) {
        write_one(index, first);
    } else if (commit_writes(index, first, end, true, &err) == 0) {
        answer(first, end, NULL);
    } else if (!may_be_of_one(err.code)) {
        fail(index, first, end, &err);
    } else {
        while (first != end) {
            struct asset_write *next = first->next;
            write_one(index, first);
            first = next;
        }
    }
}

static void refuse(struct asset_index *index, struct asset_write *write, size_t size)
{
    struct err err;
    (void)err_set(&err, ERR_EXHAUSTED,
                  "the asset takes %zu bytes of the index, more than %zu, a quarter of its quota",
                  size, asset_tables_write_max(&index->tables));
    answer(write, write->next, &err);
}

/* Cuts what was queued into groups that a transaction has room for. */
static void write_queue(struct asset_index *index, struct asset_write *first)
{
    size_t room = asset_tables_transaction_max(&index->tables);
    size_t used = 0;
    struct asset_write *write = first;
    while (write != NULL) {
        struct asset_write *next = write->next;
        size_t size = write_size(write);
        bool is_too_large = size > asset_tables_write_max(&index->tables);
        used += size + ASSET_PUT_COST * write->key_count;
        if (first != write && (is_too_large || used > room)) {
            write_group(index, first, write);
            first = write;
            used = size + ASSET_PUT_COST * write->key_count;
        }
        if (is_too_large) {
            refuse(index, write, size);
            first = next;
            used = 0;
        }
        write = next;
    }
    if (first != NULL)
        write_group(index, first, NULL);
}

/* --- the writer thread --- */

static bool is_upkeep_due(const struct asset_index *index)
{
    int64_t age;
    if (index->is_upkeep_due || __builtin_sub_overflow(index->now(), index->upkeep_at, &age))
        return true;
    return age >= UPKEEP_MS || age < 0;
}

/* Waits for writes, with the lock held, no longer than to the next upkeep. */
static void wait_for_work(struct asset_index *index)
{
    while (index->first == NULL && !index->is_stopping && !index->are_uses_many &&
           !index->is_upkeep_due)
        index->is_upkeep_due =
            pthread_cond_timedwait(&index->work, &index->lock, &index->upkeep_until) == ETIMEDOUT;
}

static void *writer_thread(void *argument)
{
    struct asset_index *index = argument;
    bool is_over = false;
    while (!is_over) {
        (void)pthread_mutex_lock(&index->lock);
        wait_for_work(index);
        struct asset_write *first = index->first;
        index->first = NULL;
        index->last = &index->first;
        is_over = index->is_stopping && first == NULL;
        index->is_upkeep_due |= index->are_uses_many && !index->has_upkeep_failed;
        index->are_uses_many = false;
        (void)pthread_mutex_unlock(&index->lock);
        if (!is_over && is_upkeep_due(index))
            upkeep(index);
        write_queue(index, first);
    }
    struct err err;
    bool more = true;
    int rc = 0;
    while (rc == 0 && more)
        rc = commit_some_upkeep(index, false, &more, &err);
    if (rc != 0)
        log_error("index-upkeep", log_str("path", index->directory.path),
                  log_str("reason", err.msg),
                  log_str("answer", "fetches of the last minute are forgotten"));
    return NULL;
}

static int start_writer(struct asset_index *index, struct err *err)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&index->lock, NULL);
    (void)pthread_cond_init(&index->work, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int rc = pthread_create(&index->writer, NULL, writer_thread, index);
    if (rc != 0) {
        (void)pthread_cond_destroy(&index->work);
        (void)pthread_mutex_destroy(&index->lock);
        return err_errno(err, rc, "start a thread");
    }
    index->has_writer = true;
    (void)pthread_setname_np(index->writer, "index");
    return 0;
}

static void stop_writer(struct asset_index *index)
{
    (void)pthread_mutex_lock(&index->lock);
    index->is_stopping = true;
    (void)pthread_cond_signal(&index->work);
    (void)pthread_mutex_unlock(&index->lock);
    (void)pthread_join(index->writer, NULL);
    (void)pthread_cond_destroy(&index->work);
    (void)pthread_mutex_destroy(&index->lock);
}

/* --- open and close --- */

static int open_parts(struct asset_index *index, int64_t quota, struct err *err)
{
    int rc = asset_uses_init(&index->uses, err);
    if (rc != 0)
        return rc;
    rc = asset_tables_open(&index->tables, &index->directory, quota, &index->uses, err);
    if (rc == 0)
        rc = asset_room_shrink(&index->tables, err);
    return rc == 0 ? start_writer(index, err) : rc;
}

int asset_index_open(const struct asset_index_options *options, struct asset_index **out,
                     struct err *err)
{
    struct asset_index *index = calloc(1, sizeof(*index));
    if (index == NULL)
        return err_no_memory(err, "an index");
    index->now = options->now != NULL ? options->now : clock_now;
    index->expire_after = options->expire_after;
    index->renew_after = UPKEEP_MS;
    if (index->expire_after != 0 && index->expire_after / RENEW_SHARE < UPKEEP_MS)
        index->renew_after = index->expire_after / RENEW_SHARE;
    index->last = &index->first;
    index->is_upkeep_due = true;
    int rc = store_directory_open(options->path, "index", ASSET_FORMAT, &index->directory, err);
    if (rc != 0) {
        free(index);
        return err_wrap(err, "index of %s", options->path);
    }
    rc = open_parts(index, options->quota, err);
    if (rc != 0) {
        (void)err_wrap(err, "index %s", index->directory.path);
        asset_index_close(index);
        return rc;
    }
    struct asset_index_stats stats;
    asset_index_stats(index, &stats);
    log_info("index-opened", log_str("path", index->directory.path),
             log_num("assets", (int64_t)stats.assets), log_num("bytes", (int64_t)stats.bytes));
    *out = index;
    return 0;
}

void asset_index_close(struct asset_index *index)
{
    if (index == NULL)
        return;
    if (index->has_writer)
        stop_writer(index);
    if (index->tables.db != NULL)
        asset_tables_close(&index->tables);
    asset_uses_fini(&index->uses);
    store_directory_close(&index->directory);
    free(index);
}
