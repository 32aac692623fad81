/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer of the asset index and its group commits.
 *
 * It takes all that is queued, applies it in one transaction, and commits that with one fsync:
 * while it lasts, the next group gathers. No timer is involved.
 */
#include <errno.h>

#include "base/log.h"
#include "store/asset_index_private.h"
#include "store/asset_life.h"
#include "store/asset_record.h"
#include "store/asset_room.h"

enum {
    USES_MS = 1000,     /* from one look at the uses, others' included, to the next */
    RENEWALS_MAX = 512, /* of one transaction, and from look to look while very many are pending */
    EXPIRE_BATCH = 256, /* assets removed by one transaction, so that writes need not wait long */
    EXPIRE_RENEWAL = 2, /* of them for each renewal, so that small files are not overrun */
    SETTLE_SHARE = 2,   /* of the renewals, for a transaction that writes something else */
};

/* --- one transaction --- */

/* What a transaction does beside the writes; counts once it is committed. */
struct changes {
    size_t evicted;
    size_t expired;
};

/* Whether what is under NAME was pushed no earlier than at PUSHED_AT, and is not expired. */
static int find_later(struct asset_index *index, const struct asset_name *name, int64_t pushed_at,
                      bool *is_later, struct err *err)
{
    struct asset_row row;
    int64_t found_at;
    int64_t now = index->now();
    int rc = asset_tables_pushed_at(&index->tables, name, &row, &found_at, err);
    *is_later = rc == 0 && found_at >= pushed_at &&
                !(row.expires_at != 0 && row.expires_at <= now) &&
                !asset_life_is_unused(&index->uses, name->hash, &row, index->expire_after, now);
    return rc == -ERR_NOT_FOUND ? 0 : rc;
}

static int apply_one(struct asset_index *index, struct asset_write *write,
                     const struct asset_name *name, struct err *err)
{
    bool is_later = false;
    if (write->asset == NULL)
        return asset_tables_remove(&index->tables, name, err);
    if (write->keeps_later) {
        int rc = find_later(index, name, write->asset->pushed_at, &is_later, err);
        if (rc != 0)
            return rc;
    }
    write->kept += is_later;
    return is_later ? 0 : asset_tables_put(&index->tables, name, write->asset, err);
}

static int apply(struct asset_index *index, struct asset_write *write, struct err *err)
{
    int rc = 0;
    write->kept = 0;
    for (size_t i = 0; rc == 0 && i < write->key_count; i++) {
        struct asset_name name;
        rc = asset_name_init(&name, &write->keys[i], err);
        if (rc != 0)
            break;
        rc = apply_one(index, write, &name, err);
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
static int commit_writes(struct asset_index *index, struct asset_write *first,
                         const struct asset_write *end, bool evicts, struct err *err)
{
    struct changes changes = {.evicted = 0};
    size_t renewals = asset_tables_renewals_max(&index->tables) / SETTLE_SHARE;
    int rc = asset_tables_begin(&index->tables, renewals, err);
    if (rc != 0)
        return rc;
    for (struct asset_write *write = first; rc == 0 && write != end; write = write->next)
        rc = apply(index, write, err);
    if (rc == 0 && evicts)
        rc = asset_room_settle(&index->tables, &changes.evicted, err);
    rc = finish(index, rc, &changes, err);
    if (rc == 0)
        atomic_fetch_add(&index->commits, 1);
    return rc;
}

/* What an upkeep may have left to do. */
struct backlog {
    size_t renewals; /* that were written */
    bool has_uses;
    bool has_expired;
};

/*
 * Renews what was used, removes some of what has expired, and evicts what the renewals took the
 * room of. MOST bounds how much it does in all, RATION how many of that are renewals.
 */
static int commit_upkeep(struct asset_index *index, bool sweep, size_t most, size_t ration,
                         struct backlog *backlog, struct err *err)
{
    /* With none it would evict what is pending. */
    size_t renewals = ration == 0 ? 1 : ration < most ? ration : most;
    struct changes changes = {.evicted = 0};
    int64_t now = index->now();
    int rc = asset_tables_begin(&index->tables, renewals, err);
    if (rc != 0)
        return rc;
    rc = asset_life_renew(&index->tables, now, index->renew_after, &backlog->has_uses, err);
    size_t limit = (most - (renewals - index->tables.renewals_left)) * EXPIRE_RENEWAL + 1;
    if (limit > EXPIRE_BATCH)
        limit = EXPIRE_BATCH;
    if (rc == 0 && sweep)
        rc = asset_life_expire(&index->tables, now, index->expire_after, limit, &changes.expired,
                               err);
    if (rc == 0)
        rc = asset_room_settle(&index->tables, &changes.evicted, err);
    backlog->has_expired = sweep && changes.expired == limit;
    backlog->renewals = renewals - index->tables.renewals_left;
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
static int commit_some_upkeep(struct asset_index *index, bool sweep, size_t ration,
                              struct backlog *backlog, struct err *err)
{
    size_t most = asset_tables_renewals_max(&index->tables);
    if (most > RENEWALS_MAX)
        most = RENEWALS_MAX;
    int rc = commit_upkeep(index, sweep, most, ration, backlog, err);
    while (rc == -ERR_ABORTED && most > 1) {
        most /= 2;
        rc = commit_upkeep(index, sweep, most, ration, backlog, err);
    }
    for (unsigned attempt = 0; rc == -ERR_ABORTED; attempt++) {
        rc = make_room(index, ASSET_PUT_COST, attempt, err);
        if (rc == 0)
            rc = commit_upkeep(index, sweep, most, ration, backlog, err);
    }
    return rc;
}

static void upkeep(struct asset_index *index)
{
    struct err err;
    index->upkeep_at = index->now();
    (void)clock_gettime(CLOCK_MONOTONIC, &index->upkeep_until);
    index->upkeep_until.tv_sec += ASSET_UPKEEP_MS / 1000;
    struct backlog backlog;
    index->has_upkeep_failed =
        commit_some_upkeep(index, true, index->renewals_left, &backlog, &err) != 0;
    if (!index->has_upkeep_failed)
        index->renewals_left -=
            backlog.renewals < index->renewals_left ? backlog.renewals : index->renewals_left;
    index->is_upkeep_due = !index->has_upkeep_failed &&
                           (backlog.has_expired || (backlog.has_uses && index->renewals_left > 0));
    if (index->has_upkeep_failed)
        log_error("index-upkeep", log_str("path", index->directory.path),
                  log_str("reason", err.msg), log_str("answer", "it is tried again in a minute"));
}

/* --- groups --- */

/* Bytes of the records of WRITE. */
static size_t write_size(const struct asset_write *write)
{
    size_t size = 0;
    for (size_t i = 0; write->asset != NULL && i < write->key_count; i++)
        size += asset_record_size(asset_name_size(&write->keys[i]), write->asset);
    return size;
}

void asset_writer_answer(struct asset_write *first, const struct asset_write *end,
                         const struct err *err)
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
    if (err->code == ERR_IO || err->code == ERR_DATA_LOSS)
        err->code = ERR_UNAVAILABLE;
    asset_writer_answer(first, end, err);
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
        asset_writer_answer(write, end, NULL);
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
        asset_writer_answer(first, end, NULL);
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

static int check_size(const struct asset_index *index, size_t size, struct err *err)
{
    size_t most = asset_tables_write_max(&index->tables);
    if (size <= most)
        return 0;
    return err_set(err, ERR_EXHAUSTED,
                   "the asset takes %zu bytes of the index, more than %zu, a quarter of its quota",
                   size, most);
}

int asset_index_check_size(const struct asset_index *index, const struct asset_key *key,
                           const struct asset *asset, struct err *err)
{
    return check_size(index, asset_record_size(asset_name_size(key), asset), err);
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
        struct err err;
        bool is_too_large = check_size(index, size, &err) != 0;
        used += size + ASSET_PUT_COST * write->key_count;
        if (first != write && (is_too_large || used > room)) {
            write_group(index, first, write);
            first = write;
            used = size + ASSET_PUT_COST * write->key_count;
        }
        if (is_too_large) {
            asset_writer_answer(write, next, &err);
            first = next;
            used = 0;
        }
        write = next;
    }
    if (first != NULL)
        write_group(index, first, NULL);
}

/* --- turns --- */

static bool is_past(const struct timespec *time)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > time->tv_sec ||
           (now.tv_sec == time->tv_sec && now.tv_nsec >= time->tv_nsec);
}

/* Whether the next upkeep is due by either clock. */
static bool is_time(const struct asset_index *index)
{
    int64_t age;
    return __builtin_sub_overflow(index->now(), index->upkeep_at, &age) || age >= ASSET_UPKEEP_MS ||
           age < 0 || is_past(&index->upkeep_until);
}

void asset_writer_wait(struct asset_index *index)
{
    while (index->first == NULL && !index->is_stopping && !index->is_upkeep_due)
        if (pthread_cond_timedwait(&index->work, &index->lock, &index->uses_until) == ETIMEDOUT)
            break;
}

/*
 * Once in a while: takes over what other processes used, and sees whether very much is pending.
 * Renewals are rationed then: where very many assets are fetched at random, each of them is worth
 * several pages to be written, and more than a fetch costs.
 */
static void look_at_uses(struct asset_index *index)
{
    if (!is_past(&index->uses_until))
        return;
    (void)clock_gettime(CLOCK_MONOTONIC, &index->uses_until);
    index->uses_until.tv_sec += USES_MS / 1000;
    index->renewals_left = RENEWALS_MAX;
    asset_shared_take_uses(&index->shared, &index->uses);
    index->is_upkeep_due |= !index->has_upkeep_failed && asset_uses_are_many(&index->uses);
}

void asset_writer_turn(struct asset_index *index, struct asset_write *first)
{
    look_at_uses(index);
    if (is_time(index)) {
        index->renewals_left = ASSET_USES_MAX;
        index->is_upkeep_due = true;
    }
    if (index->is_upkeep_due)
        upkeep(index);
    write_queue(index, first);
}

void asset_writer_finish(struct asset_index *index)
{
    struct err err;
    struct backlog backlog = {.has_uses = true};
    int rc = 0;
    while (rc == 0 && backlog.has_uses)
        rc = commit_some_upkeep(index, false, SIZE_MAX, &backlog, &err);
    if (rc != 0)
        log_error("index-upkeep", log_str("path", index->directory.path),
                  log_str("reason", err.msg),
                  log_str("answer", "fetches of the last minute are forgotten"));
}
