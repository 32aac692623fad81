/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eviction.
 *
 * Quota. The file never grows beyond it. Pages are copied when they are changed, and the old ones
 * can be reused two transactions later, so a part of the file is kept in reserve. What is in use
 * above that limit is evicted in the transaction that put it, in proportion: an eviction frees
 * bytes within pages, and pages only when they run empty, so to evict until the pages are back
 * would evict far too much. Should the file be full all the same, the transaction is given up, and
 * others make room before it is tried again.
 *
 * Order. A fetch that is pending is not in the order of use yet. To look for those that were
 * fetched of late among those used longest ago, and to renew them on the way, is to evict in the
 * order in which they were used, at the cost of the renewals that were due anyway.
 */
#include "store/asset_room.h"

#include "base/log.h"
#include "store/asset_tables_private.h"

enum {
    SHRINK_STEPS = 256,        /* transactions in which to evict a whole file, or more: */
    SHRINK_STEP_MAX = 4 << 20, /* bytes that one evicts at most */
    ROOM_ATTEMPTS = 4,         /* to make room for one write; the last rewrites the file */
    HEEDING_TURNS = 16,        /* transactions that make room without evicting what is pending */
    SMALL_SHARE = 16,          /* a write of more than that of the file makes it a small one */
};

struct evicted {
    size_t count;
    size_t bytes;
};

static size_t pages_over(struct asset_tables *tables)
{
    size_t pages = asset_env_pages(tables->txn);
    return pages > tables->limit_pages ? pages - tables->limit_pages : 0;
}

/* Evicts assets of BUDGET bytes, or a little more; if ONLY_OVER, no more than it takes. */
static int evict(struct asset_tables *tables, size_t budget, bool only_over,
                 struct evicted *evicted)
{
    uint64_t used = 0;
    *evicted = (struct evicted){.count = 0};
    while (evicted->bytes < budget && (!only_over || pages_over(tables) > 0)) {
        uint8_t hash[ASSET_HASH_SIZE];
        struct asset_row row;
        struct asset_use use;
        struct span record;
        int rc = asset_tables_next_used(tables, &used, hash, &row);
        if (rc != 0)
            return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
        if (tables->heeds_uses && asset_uses_find(tables->uses, hash, &use)) {
            if (tables->renewals_left == 0)
                return 0;
            rc = asset_life_renew_one(tables, &use, &row);
        } else {
            if (asset_tables_get_record(tables->txn, &row, &record) == 0)
                evicted->bytes += record.size;
            evicted->bytes += ASSET_ROW_COST;
            evicted->count++;
            rc = asset_tables_delete(tables, hash, &row);
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

int asset_room_settle(struct asset_tables *tables, size_t *count, struct err *err)
{
    /* The deeper in the reserve, the more: from once what was put to nine times that. */
    size_t pages = pages_over(tables);
    size_t budget = tables->put_bytes + tables->put_bytes * 8 / tables->reserve_pages * pages;
    struct evicted evicted;
    int rc = evict(tables, budget, true, &evicted);
    *count = evicted.count;
    return rc == 0 ? 0 : asset_env_fault(err, rc, "evict assets");
}

/* A transaction of its own that evicts. */
static int evict_apart(struct asset_tables *tables, size_t renewals, size_t budget, bool only_over,
                       struct evicted *evicted, struct err *err)
{
    *evicted = (struct evicted){.count = 0};
    if (asset_tables_begin(tables, renewals, err) != 0)
        return -(int)err->code;
    struct evicted uncommitted;
    int rc = evict(tables, budget, only_over, &uncommitted);
    if (rc != 0) {
        asset_tables_abort(tables);
        return asset_env_fault(err, rc, "evict assets");
    }
    if (asset_tables_commit(tables, err) != 0)
        return -(int)err->code;
    *evicted = uncommitted;
    return 0;
}

/*
 * Evicts assets of BYTES, in pieces where there is no room even to evict that much at once. The
 * first transactions heed pending uses.
 */
static int evict_bytes(struct asset_tables *tables, size_t bytes, size_t *count, struct err *err)
{
    size_t step = bytes;
    size_t renewals = asset_tables_renewals_max(tables);
    size_t freed = 0;
    unsigned turn = 0;
    while (freed < bytes) {
        struct evicted some;
        bool heeds = turn < HEEDING_TURNS;
        int rc = evict_apart(tables, heeds ? renewals : 0,
                             step < bytes - freed ? step : bytes - freed, false, &some, err);
        if (rc == -ERR_ABORTED && (step > 1 || (heeds && renewals > 1))) {
            step = step > 4 ? step / 4 : 1;
            renewals = renewals > 2 ? renewals / 2 : 1;
            continue;
        }
        if (rc == -ERR_ABORTED && heeds) {
            turn = HEEDING_TURNS;
            continue;
        }
        if (rc != 0 || (some.count == 0 && !heeds))
            return rc;
        freed += some.bytes;
        *count += some.count;
        step = step < bytes / 2 ? step * 2 : bytes;
        turn++;
    }
    return 0;
}

/* A transaction for its own sake: what the one before it freed can be reused by the next. */
static int pass_turn(struct asset_tables *tables, struct err *err)
{
    if (asset_tables_begin(tables, 0, err) != 0)
        return -(int)err->code;
    int rc = asset_tables_keep_sequence(tables);
    if (rc == 0)
        return asset_tables_commit(tables, err);
    asset_tables_abort(tables);
    return asset_env_fault(err, rc, "pass a turn");
}

int asset_room_make(struct asset_tables *tables, size_t bytes, unsigned attempt, size_t *count,
                    struct err *err)
{
    *count = 0;
    if (attempt == ROOM_ATTEMPTS)
        return err_set(err, ERR_EXHAUSTED, "no room in the index for %zu bytes", bytes);
    /* Where room is plenty but in pieces, more is evicted; a small file is sooner written anew. */
    bool is_small = bytes > asset_db_quota(tables->db) / SMALL_SHARE;
    if (attempt + 1 < ROOM_ATTEMPTS && !(is_small && attempt % 2 == 1)) {
        int rc = evict_bytes(tables, bytes, count, err);
        if (rc == 0)
            rc = pass_turn(tables, err);
        if (rc != -ERR_ABORTED)
            return rc;
    }
    log_info("index-rewrite", log_str("path", tables->path),
             log_str("reason", "its free room is in pieces"));
    return asset_db_rewrite(tables->db, err);
}

/* Evicts down to the limit, a little at a time, and adds to *EVICTED. */
static int evict_excess(struct asset_tables *tables, size_t *evicted, struct err *err)
{
    size_t step = asset_db_excess_size(tables->db) / SHRINK_STEPS;
    if (step > SHRINK_STEP_MAX)
        step = SHRINK_STEP_MAX;
    struct evicted some = {.count = 1};
    while (some.count > 0) {
        int rc = evict_apart(tables, 0, step, true, &some, err);
        if (rc == -ERR_ABORTED && step > 1) { /* less needs fewer pages to be copied */
            step /= 2;
            some.count = 1;
        } else if (rc != 0) {
            return rc;
        } else {
            *evicted += some.count;
        }
    }
    return 0;
}

int asset_room_shrink(struct asset_tables *tables, struct err *err)
{
    size_t evicted = 0;
    size_t from = asset_db_excess_size(tables->db);
    if (from == 0)
        return 0;
    for (unsigned attempt = 1;; attempt++) {
        int rc = evict_excess(tables, &evicted, err);
        if (rc != 0 && rc != -ERR_ABORTED)
            return rc;
        /*
         * There is no room where a reader keeps pages from being used again; in a new file it
         * keeps none.
         */
        bool is_over = rc == 0 || attempt == ROOM_ATTEMPTS;
        rc = asset_db_rewrite(tables->db, err);
        if (rc != 0 || (is_over && asset_db_excess_size(tables->db) != 0)) {
            log_warning("index-not-shrunk", log_str("path", tables->path),
                        log_str("reason", rc != 0 ? err->msg : "readers keep its pages"),
                        log_str("answer", "its file stays as large as it is, and grows no more"));
            return 0;
        }
        if (is_over)
            break;
    }
    log_info("index-shrunk", log_str("path", tables->path), log_num("from", (int64_t)from),
             log_num("quota", (int64_t)asset_db_quota(tables->db)),
             log_num("evicted", (int64_t)evicted));
    return 0;
}
