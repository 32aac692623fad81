/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asset index: look-ups, and the thread that writes, or waits for its turn to.
 */
#include "store/asset_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/asset_index_private.h"
#include "store/asset_life.h"
#include "store/asset_record.h"
#include "store/asset_room.h"

_Static_assert((int)ASSET_ID_SIZE == (int)ASSET_HASH_SIZE, "an id is the hash of a name");

enum {
    RENEW_SHARE = 100,  /* of expire_after; a renewal is written when the last is as old as that */
    EACH_STEP = 64,     /* assets */
    TURN_MS = 250,      /* from one attempt to become the writer to the next */
    FOLLOW_MS = 1000,   /* from one look for a file that was replaced to the next, at most */
    USE_AGAIN_MS = 1000 /* from one use of an asset that the writer is told of to the next */
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
    if (rc == 0) {
        memcpy(asset->id, name.hash, sizeof(asset->id));
        asset->version = row.record;
    }
    asset_name_fini(&name);
    return rc;
}

int asset_index_each(struct asset_index *index,
                     bool (*visit)(void *context, const struct asset_key *key,
                                   const struct asset *asset),
                     void *context, uint64_t *damaged, struct err *err)
{
    struct asset_found found[EACH_STEP];
    struct asset_walk walk = {.ended = false};
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
    *damaged = walk.damaged;
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

/* Whether the writer was told of a use a moment ago; the clock may have been set since. */
static bool is_told(struct asset_index *index, const uint8_t *hash, int64_t now)
{
    struct asset_use use;
    int64_t age;
    return asset_uses_find(&index->uses, hash, &use) &&
           !__builtin_sub_overflow(now, use.at, &age) && age >= 0 && age < USE_AGAIN_MS;
}

void asset_index_touch(struct asset_index *index, const struct asset *asset)
{
    int64_t now = index->now();
    bool is_writing = atomic_load(&index->is_writing);
    if (!is_writing && is_told(index, asset->id, now))
        return;
    if (!is_writing)
        asset_shared_use(&index->shared, asset->id, now);
    asset_uses_add(&index->uses, asset->id, now);
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

/* --- where the content is --- */

/* To be called when this process begins to write. */
static void tell_place(struct asset_index *index)
{
    if (index->place != ASSET_PLACE_ANY)
        asset_shared_put_place(&index->shared, index->place);
}

/* Warns once of each process that writes and has the content in another place. */
static void compare_place(struct asset_index *index)
{
    int pid = index->place != ASSET_PLACE_ANY ? store_directory_holder(&index->directory) : 0;
    unsigned place = pid != 0 ? asset_shared_place(&index->shared, pid) : ASSET_PLACE_ANY;
    if (place == ASSET_PLACE_ANY || place == index->place || pid == index->warned_of)
        return;
    index->warned_of = pid;
    log_warning("index-only-differs", log_str("path", index->directory.path),
                log_num("process", pid),
                log_str("reason", place == ASSET_PLACE_ELSEWHERE
                                      ? "that process, which writes, is index-only, this one is "
                                        "not: it has no content for what is pushed there"
                                      : "this process is index-only, that one, which writes, is "
                                        "not: this one answers also with what was evicted there"),
                log_str("answer", place == ASSET_PLACE_ELSEWHERE
                                      ? "what is pushed there is NOT_FOUND here until both are "
                                        "index-only, or neither is"
                                      : "nothing is checked, and no content renewed, until both "
                                        "are index-only, or neither is"));
}

/* --- the thread of a process that reads --- */

/* Sets the error of a process that does not write. */
static int find_holder(struct asset_index *index, struct err *err)
{
    if (index->may_write) {
        (void)pthread_mutex_lock(&index->lock);
        *err = index->holder;
        (void)pthread_mutex_unlock(&index->lock);
    } else if (store_directory_lock(&index->directory, err) == 0) {
        store_directory_unlock(&index->directory);
        (void)err_set(err, ERR_UNAVAILABLE, "no process writes to %s", index->directory.path);
    }
    err->code = ERR_UNAVAILABLE;
    return err_wrap(err, "this process only reads the index");
}

int asset_index_is_writing(struct asset_index *index, struct err *err)
{
    return atomic_load(&index->is_writing) ? 0 : find_holder(index, err);
}

/* Tries to take the lock of the writer. */
static int try_lock(struct asset_index *index, struct err *err)
{
    int rc = store_directory_lock(&index->directory, err);
    if (rc == 0)
        return 0;
    (void)pthread_mutex_lock(&index->lock);
    index->holder = *err;
    (void)pthread_mutex_unlock(&index->lock);
    return rc;
}

static void try_to_write(struct asset_index *index)
{
    struct err err;
    if (try_lock(index, &err) != 0)
        return;
    /* All of these were told; what was written of them since is later. */
    asset_uses_clear(&index->uses);
    if (asset_tables_take_over(&index->tables, &err) != 0) {
        store_directory_unlock(&index->directory);
        if (!index->has_take_over_failed)
            log_error("index-waiting", log_str("path", index->directory.path),
                      log_str("reason", err.msg),
                      log_str("answer", "it reads, and tries again to write"));
        index->has_take_over_failed = true;
        return;
    }
    if (asset_room_shrink(&index->tables, &err) != 0)
        log_warning("index-not-shrunk", log_str("path", index->directory.path),
                    log_str("reason", err.msg));
    index->has_take_over_failed = false;
    tell_place(index);
    atomic_store(&index->is_writing, true);
    log_info("index-writing", log_str("path", index->directory.path));
}

/* Keeps the uses that are needed here few: those of late. */
static void trim_uses(struct asset_index *index)
{
    size_t count = asset_uses_copy(&index->uses, index->tables.written_uses);
    asset_uses_forget(&index->uses, index->tables.written_uses, count / 2);
}

/* With the lock held. */
static void wait_for_turn(struct asset_index *index)
{
    int64_t pause = index->may_write ? TURN_MS : FOLLOW_MS;
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(pause * 1000 * 1000);
    until.tv_sec += until.tv_nsec / (1000 * 1000 * 1000);
    until.tv_nsec %= 1000 * 1000 * 1000;
    while (index->first == NULL && !index->is_stopping)
        if (pthread_cond_timedwait(&index->work, &index->lock, &until) == ETIMEDOUT)
            break;
}

static void reading_turn(struct asset_index *index, struct asset_write *first)
{
    struct err err;
    if (first != NULL) {
        (void)find_holder(index, &err);
        asset_writer_answer(first, NULL, &err);
    }
    if (asset_uses_are_many(&index->uses))
        trim_uses(index);
    asset_tables_follow(&index->tables);
    compare_place(index);
    if (index->may_write)
        try_to_write(index);
}

/* --- the thread --- */

static void *index_thread(void *argument)
{
    struct asset_index *index = argument;
    for (;;) {
        bool is_writing = atomic_load(&index->is_writing);
        (void)pthread_mutex_lock(&index->lock);
        if (is_writing)
            asset_writer_wait(index);
        else
            wait_for_turn(index);
        struct asset_write *first = index->first;
        bool is_over = index->is_stopping && first == NULL;
        index->first = NULL;
        index->last = &index->first;
        (void)pthread_mutex_unlock(&index->lock);
        if (is_over)
            break;
        if (is_writing)
            asset_writer_turn(index, first);
        else
            reading_turn(index, first);
    }
    if (atomic_load(&index->is_writing))
        asset_writer_finish(index);
    return NULL;
}

static int start_thread(struct asset_index *index, struct err *err)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&index->lock, NULL);
    (void)pthread_cond_init(&index->work, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int rc = pthread_create(&index->thread, NULL, index_thread, index);
    if (rc != 0) {
        (void)pthread_cond_destroy(&index->work);
        (void)pthread_mutex_destroy(&index->lock);
        return err_errno(err, rc, "start a thread");
    }
    index->has_thread = true;
    (void)pthread_setname_np(index->thread, "index");
    return 0;
}

static void stop_thread(struct asset_index *index)
{
    (void)pthread_mutex_lock(&index->lock);
    index->is_stopping = true;
    (void)pthread_cond_signal(&index->work);
    (void)pthread_mutex_unlock(&index->lock);
    (void)pthread_join(index->thread, NULL);
    (void)pthread_cond_destroy(&index->work);
    (void)pthread_mutex_destroy(&index->lock);
}

/* --- open and close --- */

/* Decides whether this process writes, for the time being. */
static int choose_role(struct asset_index *index, bool writes_at_once, struct err *err)
{
    int rc = index->may_write ? store_directory_lock(&index->directory, &index->holder) : 0;
    atomic_store(&index->is_writing, index->may_write && rc == 0);
    if (rc == 0 || (rc == -ERR_UNAVAILABLE && !writes_at_once))
        return 0;
    *err = index->holder;
    return rc;
}

static int open_parts(struct asset_index *index, const struct asset_index_options *options,
                      struct err *err)
{
    int rc = asset_uses_init(&index->uses, err);
    if (rc == 0)
        rc = asset_shared_open(&index->directory, &index->shared, err);
    if (rc != 0)
        return rc;
    index->has_shared = true;
    rc = choose_role(index, options->writes_at_once, err);
    if (rc != 0)
        return rc;
    bool is_writing = atomic_load(&index->is_writing);
    if (is_writing)
        tell_place(index);
    rc = asset_tables_open(&index->tables, &index->directory, &index->shared, options->quota,
                           is_writing, &index->uses, err);
    if (rc == 0 && is_writing)
        rc = asset_room_shrink(&index->tables, err);
    return rc == 0 ? start_thread(index, err) : rc;
}

static void log_opened(struct asset_index *index)
{
    struct asset_index_stats stats;
    bool is_writing = atomic_load(&index->is_writing);
    asset_index_stats(index, &stats);
    log_info("index-opened", log_str("path", index->directory.path),
             log_num("assets", (int64_t)stats.assets), log_num("bytes", (int64_t)stats.bytes),
             log_str("access", is_writing ? "write" : "read"));
    struct err err;
    if (index->may_write && !is_writing && asset_index_is_writing(index, &err) != 0)
        log_warning("index-waiting", log_str("path", index->directory.path),
                    log_str("reason", err.msg),
                    log_str("answer", "it writes as soon as that process has ended"));
}

int asset_index_open(const struct asset_index_options *options, struct asset_index **out,
                     struct err *err)
{
    static const struct store_kind kind = {
        .name = "index", .version = ASSET_FORMAT, .oldest = ASSET_FORMAT};
    struct asset_index *index = calloc(1, sizeof(*index));
    if (index == NULL)
        return err_no_memory(err, "an index");
    index->now = options->now != NULL ? options->now : clock_now;
    index->expire_after = options->expire_after;
    index->renew_after = ASSET_UPKEEP_MS;
    if (index->expire_after != 0 && index->expire_after / RENEW_SHARE < ASSET_UPKEEP_MS)
        index->renew_after = index->expire_after / RENEW_SHARE;
    index->may_write = options->may_write;
    index->place = options->place;
    index->last = &index->first;
    index->is_upkeep_due = true;
    int rc = store_directory_open(options->path, &kind, &index->directory, err);
    if (rc != 0) {
        free(index);
        return err_wrap(err, "index of %s", options->path);
    }
    rc = open_parts(index, options, err);
    if (rc != 0) {
        (void)err_wrap(err, "index %s", index->directory.path);
        asset_index_close(index);
        return rc;
    }
    log_opened(index);
    *out = index;
    return 0;
}

void asset_index_close(struct asset_index *index)
{
    if (index == NULL)
        return;
    if (index->has_thread)
        stop_thread(index);
    if (index->tables.db != NULL)
        asset_tables_close(&index->tables);
    if (index->has_shared)
        asset_shared_close(&index->shared);
    asset_uses_fini(&index->uses);
    store_directory_close(&index->directory);
    free(index);
}
