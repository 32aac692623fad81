/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Renewal and expiry. A fetch is pending in memory before it is written: an asset that is fetched
 * all the time costs one renewal for many fetches.
 */
#include "store/asset_life.h"

#include <assert.h>
#include <string.h>

#include "store/asset_tables_private.h"

enum {
    SET_BACK = 60 * 1000, /* milliseconds that a clock must go back for us to believe it */
    PASS_MAX = 1024,      /* assets that are not due which a sweep passes over */
};

/* When the clock was set back, the times from before say nothing. */
static bool is_apart(int64_t time, int64_t other, int64_t least)
{
    int64_t age;
    if (__builtin_sub_overflow(time, other, &age))
        return true;
    return age >= least || age <= -least;
}

/* --- renewal --- */

/* Has USE forgotten with the commit. */
static void forget(struct asset_tables *tables, const struct asset_use *use)
{
    if (tables->written_count < ASSET_USES_MAX)
        tables->written_uses[tables->written_count++] = *use;
}

int asset_life_renew_one(struct asset_tables *tables, const struct asset_use *use,
                         struct asset_row *row)
{
    assert(tables->renewals_left > 0);
    tables->renewals_left--;
    /* A push may have come after the use. */
    if (use->at > row->fetched_at || is_apart(use->at, row->fetched_at, SET_BACK))
        row->fetched_at = use->at;
    int rc = asset_tables_move_last(tables, use->hash, row);
    forget(tables, use);
    return rc;
}

int asset_life_renew(struct asset_tables *tables, int64_t now, int64_t renew_after, bool *more,
                     struct err *err)
{
    /* What is read from the array is done with before what is forgotten is put there. */
    assert(tables->written_count == 0);
    size_t count = asset_uses_copy(tables->uses, tables->written_uses);
    bool are_many = count >= ASSET_USES_MANY;
    int rc = 0;
    *more = false;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct asset_use use = tables->written_uses[i];
        struct asset_row row;
        rc = asset_tables_get_row(tables, tables->txn, use.hash, &row);
        bool is_due = rc == 0 && (is_apart(use.at, row.fetched_at, renew_after) ||
                                  is_apart(now, use.at, renew_after));
        if (is_due && tables->renewals_left == 0) {
            *more = true;
            return 0;
        }
        if (is_due)
            rc = asset_life_renew_one(tables, &use, &row);
        else if (rc == ASSET_ENV_NOT_FOUND || (rc == 0 && are_many))
            forget(tables, &use);
        if (rc == ASSET_ENV_NOT_FOUND)
            rc = 0;
    }
    return rc == 0 ? 0 : asset_env_fault(err, rc, "renew an asset");
}

/* --- expiry --- */

static bool is_old(int64_t fetched_at, int64_t expire_after, int64_t now)
{
    int64_t age;
    if (__builtin_sub_overflow(now, fetched_at, &age))
        return now > fetched_at;
    return age >= expire_after;
}

bool asset_life_is_unused(struct asset_uses *uses, const uint8_t *hash, const struct asset_row *row,
                          int64_t expire_after, int64_t now)
{
    struct asset_use use;
    return expire_after != 0 && is_old(row->fetched_at, expire_after, now) &&
           !(asset_uses_find(uses, hash, &use) && !is_old(use.at, expire_after, now));
}

/*
 * Removes what was not used. The order of use is that of the times but for pushes and fetches at
 * which the clock was wrong, and for uses that are pending: some that are not due are passed over.
 */
static int expire_unused(struct asset_tables *tables, int64_t now, int64_t expire_after,
                         size_t limit, size_t *count)
{
    uint64_t used = 0;
    int rc = 0;
    for (size_t passed = 0; rc == 0 && passed < PASS_MAX && *count < limit;) {
        uint8_t hash[ASSET_HASH_SIZE];
        struct asset_row row;
        rc = asset_tables_next_used(tables, &used, hash, &row);
        if (rc != 0)
            break;
        if (!asset_life_is_unused(tables->uses, hash, &row, expire_after, now)) {
            passed++;
            continue;
        }
        rc = asset_tables_delete(tables, hash, &row);
        ++*count;
    }
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

static int expire_due(struct asset_tables *tables, int64_t now, size_t limit, size_t *count)
{
    struct span key;
    struct span nothing;
    int rc = 0;
    while (rc == 0 && *count < limit) {
        uint8_t expiry[ASSET_EXPIRY_SIZE];
        struct asset_row row;
        rc = asset_env_first(tables->txn, ASSET_BY_EXPIRY, &key, &nothing);
        if (rc != 0 || (key.size == ASSET_EXPIRY_SIZE && asset_expiry_get(key) > now))
            break;
        if (key.size != ASSET_EXPIRY_SIZE) { /* damage */
            rc = asset_env_delete(tables->txn, ASSET_BY_EXPIRY, key);
            continue;
        }
        memcpy(expiry, key.data, sizeof(expiry));
        key.data = expiry;
        const uint8_t *hash = expiry + ASSET_NUMBER_SIZE;
        rc = asset_tables_get_row(tables, tables->txn, hash, &row);
        if (rc == 0 && row.expires_at == asset_expiry_get(key)) {
            rc = asset_tables_delete(tables, hash, &row);
            ++*count;
        } else if (rc == 0 || rc == ASSET_ENV_NOT_FOUND) {
            rc = asset_tables_delete_key(tables, ASSET_BY_EXPIRY, key);
        }
    }
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

int asset_life_expire(struct asset_tables *tables, int64_t now, int64_t expire_after, size_t limit,
                      size_t *count, struct err *err)
{
    *count = 0;
    int rc = expire_due(tables, now, limit, count);
    if (rc == 0 && expire_after != 0)
        rc = expire_unused(tables, now, expire_after, limit, count);
    return rc == 0 ? 0 : asset_env_fault(err, rc, "remove expired assets");
}
