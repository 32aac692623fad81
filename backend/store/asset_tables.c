/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes to the tables of the asset index, and eviction.
 *
 * Quota. The file never grows beyond it. Pages are copied when they are changed, and the old ones
 * can be reused two transactions later, so a part of the file is kept in reserve. What is in use
 * above that limit is evicted in the transaction that put it, in proportion: an eviction frees
 * bytes within pages, and pages only when they run empty, so to evict until the pages are back
 * would evict far too much. Should the file be full all the same, the transaction is given up, and
 * others make room before it is tried again.
 *
 * Order. Records are numbered and only appended, which keeps their pages full, lets a group of
 * writes share them, and empties whole pages where old assets go. Only the small rows are spread
 * over their table, by hash.
 */
#include "store/asset_tables.h"

#include <assert.h>
#include <string.h>

#include "base/log.h"

/* Numbers and times are keys of eight bytes, big-endian, so that they sort. */
enum { NUMBER_SIZE = 8, EXPIRY_SIZE = NUMBER_SIZE + ASSET_HASH_SIZE };

enum {
    RESERVE_SHARE = 8, /* of the file, at least RESERVE_PAGES */
    RESERVE_PAGES = 64,
    WRITE_SHARE = 4,            /* of the file, for one write at most */
    TRANSACTION_MAX = 32 << 20, /* bytes */
    ROW_COST = 160,             /* bytes of an asset in all tables but that of records */
    SHRINK_STEPS = 256,         /* transactions in which to evict a whole file, or more: */
    SHRINK_STEP_MAX = 4 << 20,  /* bytes that one evicts at most */
    ROOM_ATTEMPTS = 4,          /* to make room for one write; the last rewrites the file */
    SMALL_SHARE = 16,           /* a write of more than that of the file makes it a small one */
    STEP_BYTES = 1 << 20,       /* of memory for one step of a walk */
};

/* --- keys --- */

static struct span span(const void *data, size_t size)
{
    return (struct span){.data = data, .size = size};
}

static struct span hash_span(const uint8_t *hash)
{
    return span(hash, ASSET_HASH_SIZE);
}

static struct span put_number(uint8_t out[NUMBER_SIZE], uint64_t number)
{
    for (int i = 0; i < NUMBER_SIZE; i++)
        out[i] = (uint8_t)(number >> (8 * (NUMBER_SIZE - 1 - i)));
    return span(out, NUMBER_SIZE);
}

static uint64_t get_number(const uint8_t *bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < NUMBER_SIZE; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* With the sign turned over, times before 1970 come first. */
static const uint64_t sign = (uint64_t)1 << 63;

static struct span put_expiry(uint8_t out[EXPIRY_SIZE], int64_t expires_at, const uint8_t *hash)
{
    (void)put_number(out, (uint64_t)expires_at ^ sign);
    memcpy(out + NUMBER_SIZE, hash, ASSET_HASH_SIZE);
    return span(out, EXPIRY_SIZE);
}

static int64_t get_expiry(struct span key)
{
    return (int64_t)(get_number(key.data) ^ sign);
}

/* --- reading --- */

static void log_damage(struct asset_tables *tables, const char *reason)
{
    if (!atomic_flag_test_and_set(&tables->damage_logged))
        log_error("index-damaged", log_str("path", tables->path), log_str("reason", reason),
                  log_str("answer", "damaged assets are not found until they are pushed again; "
                                    "this is not logged again"));
}

/* A row that is damaged is not found. */
static int get_row(struct asset_tables *tables, struct MDB_txn *txn, const uint8_t *hash,
                   struct asset_row *row)
{
    struct span packed;
    int rc = asset_db_get(tables->db, txn, ASSET_ROWS, hash_span(hash), &packed);
    if (rc != 0)
        return rc;
    if (asset_row_unpack(packed, row))
        return 0;
    log_damage(tables, "a row has a wrong checksum");
    return ASSET_DB_NOT_FOUND;
}

static int get_record(struct asset_tables *tables, struct MDB_txn *txn, const struct asset_row *row,
                      struct span *record)
{
    uint8_t number[NUMBER_SIZE];
    return asset_db_get(tables->db, txn, ASSET_RECORDS, put_number(number, row->record), record);
}

/* A record that is damaged is not found. */
static int read_asset(struct asset_tables *tables, struct MDB_txn *txn, const struct asset_row *row,
                      const struct asset_name *name, struct arena *arena, struct asset_key *key,
                      struct asset *asset, struct err *err)
{
    struct span record;
    int rc = get_record(tables, txn, row, &record);
    if (rc == ASSET_DB_NOT_FOUND)
        rc = err_set(err, ERR_DATA_LOSS, "a record is gone");
    else if (rc != 0)
        rc = asset_db_fault(err, rc, "read a record");
    else
        rc = asset_record_unpack(record, name, arena, key, asset, err);
    if (rc == -ERR_DATA_LOSS) {
        log_damage(tables, err->msg);
        err->code = ERR_NOT_FOUND;
        return -ERR_NOT_FOUND;
    }
    if (rc == 0)
        asset->fetched_at = row->fetched_at;
    return rc;
}

int asset_tables_find(struct asset_tables *tables, const struct asset_name *name,
                      struct arena *arena, struct asset_row *row, struct asset *asset,
                      struct err *err)
{
    struct MDB_txn *txn;
    int rc = asset_db_read_begin(tables->db, &txn, err);
    if (rc != 0)
        return rc;
    rc = get_row(tables, txn, name->hash, row);
    if (rc == 0)
        rc = read_asset(tables, txn, row, name, arena, NULL, asset, err);
    else if (rc == ASSET_DB_NOT_FOUND)
        rc = err_set(err, ERR_NOT_FOUND, "no such asset");
    else
        rc = asset_db_fault(err, rc, "read a row");
    asset_db_read_end(tables->db, txn);
    return rc;
}

static int next_row(struct asset_tables *tables, struct MDB_txn *txn, struct asset_walk *walk)
{
    struct span key = hash_span(walk->hash);
    struct span row;
    int rc = walk->begun ? asset_db_next(tables->db, txn, ASSET_ROWS, &key, &row)
                         : asset_db_first(tables->db, txn, ASSET_ROWS, &key, &row);
    if (rc != 0)
        return rc;
    if (key.size != sizeof(walk->hash))
        return ASSET_DB_NOT_FOUND; /* damage */
    memcpy(walk->hash, key.data, sizeof(walk->hash));
    walk->begun = true;
    return 0;
}

int asset_tables_step(struct asset_tables *tables, struct asset_walk *walk, struct arena *arena,
                      struct asset_found *found, size_t *count, struct err *err)
{
    size_t room = *count;
    struct MDB_txn *txn;
    *count = 0;
    int rc = asset_db_read_begin(tables->db, &txn, err);
    if (rc != 0)
        return rc;
    while (rc == 0 && *count < room && arena->total < STEP_BYTES) {
        struct asset_found *next = &found[*count];
        rc = next_row(tables, txn, walk);
        walk->ended = rc == ASSET_DB_NOT_FOUND;
        if (rc != 0) {
            rc = walk->ended ? 0 : asset_db_fault(err, rc, "read the rows");
            break;
        }
        memcpy(next->hash, walk->hash, sizeof(next->hash));
        if (get_row(tables, txn, next->hash, &next->row) != 0)
            continue;
        rc = read_asset(tables, txn, &next->row, NULL, arena, &next->key, &next->asset, err);
        if (rc == 0)
            ++*count;
        else if (rc == -ERR_NOT_FOUND)
            rc = 0;
    }
    asset_db_read_end(tables->db, txn);
    return rc;
}

int asset_tables_usage(struct asset_tables *tables, uint64_t *assets, uint64_t *bytes,
                       struct err *err)
{
    struct MDB_txn *txn;
    int rc = asset_db_read_begin(tables->db, &txn, err);
    if (rc != 0)
        return rc;
    *assets = asset_db_count(tables->db, txn, ASSET_ROWS);
    *bytes = asset_db_pages(tables->db, txn) * asset_db_page_size(tables->db);
    asset_db_read_end(tables->db, txn);
    return 0;
}

/* --- transactions --- */

size_t asset_tables_write_max(const struct asset_tables *tables)
{
    return asset_db_quota(tables->db) / WRITE_SHARE;
}

size_t asset_tables_transaction_max(const struct asset_tables *tables)
{
    size_t half_reserve = tables->reserve_pages * asset_db_page_size(tables->db) / 2;
    return half_reserve < TRANSACTION_MAX ? half_reserve : TRANSACTION_MAX;
}

int asset_tables_begin(struct asset_tables *tables, struct err *err)
{
    assert(tables->txn == NULL);
    tables->begun_at = tables->sequence;
    tables->put_bytes = 0;
    return asset_db_begin(tables->db, &tables->txn, err);
}

int asset_tables_commit(struct asset_tables *tables, struct err *err)
{
    struct MDB_txn *txn = tables->txn;
    tables->txn = NULL;
    return asset_db_commit(tables->db, txn, err);
}

void asset_tables_abort(struct asset_tables *tables)
{
    asset_db_abort(tables->txn);
    tables->txn = NULL;
}

/* --- changes; the static ones return what the database says --- */

/* What is not there has been lost by damage, and need not be deleted. */
static int delete_key(struct asset_tables *tables, enum asset_table table, struct span key)
{
    int rc = asset_db_delete(tables->db, tables->txn, table, key);
    return rc == ASSET_DB_NOT_FOUND ? 0 : rc;
}

static int put_row(struct asset_tables *tables, const uint8_t *hash, const struct asset_row *row)
{
    uint8_t packed[ASSET_ROW_SIZE];
    asset_row_pack(row, packed);
    return asset_db_put(tables->db, tables->txn, ASSET_ROWS, hash_span(hash),
                        span(packed, sizeof(packed)));
}

static int append_use(struct asset_tables *tables, const uint8_t *hash, uint64_t used)
{
    uint8_t number[NUMBER_SIZE];
    uint8_t *out;
    int rc = asset_db_append(tables->db, tables->txn, ASSET_BY_USE, put_number(number, used),
                             ASSET_HASH_SIZE, &out);
    if (rc == 0)
        memcpy(out, hash, ASSET_HASH_SIZE);
    return rc;
}

static int append_record(struct asset_tables *tables, uint64_t record,
                         const struct asset_name *name, const struct asset *asset)
{
    uint8_t number[NUMBER_SIZE];
    uint8_t *out;
    size_t size = asset_record_size(name->size, asset);
    int rc = asset_db_append(tables->db, tables->txn, ASSET_RECORDS, put_number(number, record),
                             size, &out);
    if (rc == 0)
        asset_record_pack(name, asset, out);
    tables->put_bytes += size + ROW_COST;
    return rc;
}

/* Deletes what ROW leads to. */
static int delete_behind(struct asset_tables *tables, const uint8_t *hash,
                         const struct asset_row *row)
{
    uint8_t number[NUMBER_SIZE];
    uint8_t expiry[EXPIRY_SIZE];
    int rc = delete_key(tables, ASSET_RECORDS, put_number(number, row->record));
    if (rc == 0)
        rc = delete_key(tables, ASSET_BY_USE, put_number(number, row->used));
    if (rc == 0 && row->expires_at != 0)
        rc = delete_key(tables, ASSET_BY_EXPIRY, put_expiry(expiry, row->expires_at, hash));
    return rc;
}

static int delete_asset(struct asset_tables *tables, const uint8_t *hash,
                        const struct asset_row *row)
{
    int rc = delete_behind(tables, hash, row);
    return rc == 0 ? delete_key(tables, ASSET_ROWS, hash_span(hash)) : rc;
}

static int put_asset(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset)
{
    struct asset_row old;
    int rc = get_row(tables, tables->txn, name->hash, &old);
    if (rc == 0)
        rc = delete_behind(tables, name->hash, &old);
    if (rc != 0 && rc != ASSET_DB_NOT_FOUND)
        return rc;
    uint64_t number = ++tables->sequence;
    struct asset_row row = {.record = number,
                            .used = number,
                            .fetched_at = asset->fetched_at,
                            .expires_at = asset->expires_at};
    rc = append_record(tables, number, name, asset);
    if (rc == 0)
        rc = append_use(tables, name->hash, number);
    if (rc == 0 && asset->expires_at != 0) {
        uint8_t expiry[EXPIRY_SIZE];
        rc = asset_db_put(tables->db, tables->txn, ASSET_BY_EXPIRY,
                          put_expiry(expiry, asset->expires_at, name->hash), span("", 0));
    }
    return rc == 0 ? put_row(tables, name->hash, &row) : rc;
}

int asset_tables_put(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset, struct err *err)
{
    int rc = put_asset(tables, name, asset);
    return rc == 0 ? 0 : asset_db_fault(err, rc, "write an asset");
}

int asset_tables_remove(struct asset_tables *tables, const struct asset_name *name, struct err *err)
{
    struct asset_row row;
    int rc = get_row(tables, tables->txn, name->hash, &row);
    if (rc == 0)
        rc = delete_asset(tables, name->hash, &row);
    else if (rc == ASSET_DB_NOT_FOUND)
        rc = delete_key(tables, ASSET_ROWS, hash_span(name->hash)); /* a damaged row */
    return rc == 0 ? 0 : asset_db_fault(err, rc, "remove an asset");
}

/* When the clock was set back, the times from before say nothing. */
static bool is_renewal_due(int64_t fetched_at, int64_t at, int64_t renew_after)
{
    int64_t age;
    if (__builtin_sub_overflow(at, fetched_at, &age))
        return true;
    return age >= renew_after || age <= -renew_after;
}

int asset_tables_renew(struct asset_tables *tables, const uint8_t hash[ASSET_HASH_SIZE], int64_t at,
                       int64_t renew_after, struct err *err)
{
    struct asset_row row;
    uint8_t number[NUMBER_SIZE];
    int rc = get_row(tables, tables->txn, hash, &row);
    if (rc == ASSET_DB_NOT_FOUND)
        return 0;
    if (rc == 0 && !is_renewal_due(row.fetched_at, at, renew_after))
        return 0;
    if (rc == 0)
        rc = delete_key(tables, ASSET_BY_USE, put_number(number, row.used));
    if (rc == 0) {
        row.used = ++tables->sequence;
        row.fetched_at = at;
        rc = append_use(tables, hash, row.used);
    }
    if (rc == 0)
        rc = put_row(tables, hash, &row);
    return rc == 0 ? 0 : asset_db_fault(err, rc, "renew an asset");
}

/* --- expiry --- */

bool asset_tables_is_unused(int64_t fetched_at, int64_t expire_after, int64_t now)
{
    int64_t age;
    if (expire_after == 0)
        return false;
    if (__builtin_sub_overflow(now, fetched_at, &age))
        return now > fetched_at;
    return age >= expire_after;
}

/*
 * The asset that was used longest ago, before this transaction. Places in the order that no asset
 * has, which damage leaves, are deleted on the way.
 */
static int find_oldest(struct asset_tables *tables, uint8_t hash[ASSET_HASH_SIZE],
                       struct asset_row *row)
{
    struct span key;
    struct span value;
    int rc;
    while ((rc = asset_db_first(tables->db, tables->txn, ASSET_BY_USE, &key, &value)) == 0) {
        uint64_t used = key.size == NUMBER_SIZE ? get_number(key.data) : 0;
        if (used > tables->begun_at)
            return ASSET_DB_NOT_FOUND;
        if (value.size == ASSET_HASH_SIZE) {
            memcpy(hash, value.data, ASSET_HASH_SIZE);
            rc = get_row(tables, tables->txn, hash, row);
            if (rc == 0 && row->used == used)
                return 0;
            if (rc != 0 && rc != ASSET_DB_NOT_FOUND)
                return rc;
        }
        rc = asset_db_delete(tables->db, tables->txn, ASSET_BY_USE, key);
        if (rc != 0)
            return rc;
    }
    return rc;
}

static int expire_unused(struct asset_tables *tables, int64_t now, int64_t expire_after,
                         size_t limit, size_t *count)
{
    int rc = 0;
    while (rc == 0 && *count < limit) {
        uint8_t hash[ASSET_HASH_SIZE];
        struct asset_row row;
        rc = find_oldest(tables, hash, &row);
        if (rc != 0 || !asset_tables_is_unused(row.fetched_at, expire_after, now))
            break;
        rc = delete_asset(tables, hash, &row);
        ++*count;
    }
    return rc == ASSET_DB_NOT_FOUND ? 0 : rc;
}

static int expire_due(struct asset_tables *tables, int64_t now, size_t limit, size_t *count)
{
    struct span key;
    struct span nothing;
    int rc = 0;
    while (rc == 0 && *count < limit) {
        uint8_t expiry[EXPIRY_SIZE];
        struct asset_row row;
        rc = asset_db_first(tables->db, tables->txn, ASSET_BY_EXPIRY, &key, &nothing);
        if (rc != 0 || (key.size == EXPIRY_SIZE && get_expiry(key) > now))
            break;
        if (key.size != EXPIRY_SIZE) { /* damage */
            rc = asset_db_delete(tables->db, tables->txn, ASSET_BY_EXPIRY, key);
            continue;
        }
        memcpy(expiry, key.data, sizeof(expiry));
        key.data = expiry;
        const uint8_t *hash = expiry + NUMBER_SIZE;
        rc = get_row(tables, tables->txn, hash, &row);
        if (rc == 0 && row.expires_at == get_expiry(key)) {
            rc = delete_asset(tables, hash, &row);
            ++*count;
        } else if (rc == 0 || rc == ASSET_DB_NOT_FOUND) {
            rc = delete_key(tables, ASSET_BY_EXPIRY, key);
        }
    }
    return rc == ASSET_DB_NOT_FOUND ? 0 : rc;
}

int asset_tables_expire(struct asset_tables *tables, int64_t now, int64_t expire_after,
                        size_t limit, size_t *count, struct err *err)
{
    *count = 0;
    int rc = expire_due(tables, now, limit, count);
    if (rc == 0 && expire_after != 0)
        rc = expire_unused(tables, now, expire_after, limit, count);
    return rc == 0 ? 0 : asset_db_fault(err, rc, "remove expired assets");
}

/* --- eviction --- */

static size_t pages_over(struct asset_tables *tables)
{
    size_t pages = asset_db_pages(tables->db, tables->txn);
    return pages > tables->limit_pages ? pages - tables->limit_pages : 0;
}

bool asset_tables_is_over(struct asset_tables *tables)
{
    return pages_over(tables) > 0;
}

/* Evicts assets of BUDGET bytes, or a little more; if ONLY_OVER, no more than it takes. */
static int evict(struct asset_tables *tables, size_t budget, bool only_over, size_t *count)
{
    size_t freed = 0;
    *count = 0;
    while (freed < budget && (!only_over || asset_tables_is_over(tables))) {
        uint8_t hash[ASSET_HASH_SIZE];
        struct asset_row row;
        struct span record;
        int rc = find_oldest(tables, hash, &row);
        if (rc != 0)
            return rc == ASSET_DB_NOT_FOUND ? 0 : rc;
        if (get_record(tables, tables->txn, &row, &record) == 0)
            freed += record.size;
        freed += ROW_COST;
        rc = delete_asset(tables, hash, &row);
        if (rc != 0)
            return rc;
        ++*count;
    }
    return 0;
}

int asset_tables_settle(struct asset_tables *tables, size_t *count, struct err *err)
{
    /* The deeper in the reserve, the more: from once what was put to nine times that. */
    size_t pages = pages_over(tables);
    size_t budget = tables->put_bytes + tables->put_bytes * 8 / tables->reserve_pages * pages;
    int rc = evict(tables, budget, true, count);
    return rc == 0 ? 0 : asset_db_fault(err, rc, "evict assets");
}

/* A transaction of its own that evicts. */
static int evict_apart(struct asset_tables *tables, size_t budget, bool only_over, size_t *count,
                       struct err *err)
{
    size_t evicted;
    *count = 0;
    if (asset_tables_begin(tables, err) != 0)
        return -(int)err->code;
    int rc = evict(tables, budget, only_over, &evicted);
    if (rc != 0) {
        asset_tables_abort(tables);
        return asset_db_fault(err, rc, "evict assets");
    }
    if (asset_tables_commit(tables, err) != 0)
        return -(int)err->code;
    *count = evicted;
    return 0;
}

/* A transaction for its own sake: what the one before it freed can be reused by the next. */
static int pass_turn(struct asset_tables *tables, struct err *err)
{
    if (asset_tables_begin(tables, err) != 0)
        return -(int)err->code;
    uint8_t number[NUMBER_SIZE];
    int rc = asset_db_put(tables->db, tables->txn, ASSET_TABLES_THEMSELVES, span("turn", 4),
                          put_number(number, tables->sequence));
    if (rc == 0)
        return asset_tables_commit(tables, err);
    asset_tables_abort(tables);
    return asset_db_fault(err, rc, "pass a turn");
}

int asset_tables_make_room(struct asset_tables *tables, size_t bytes, unsigned attempt,
                           size_t *count, struct err *err)
{
    *count = 0;
    if (attempt == ROOM_ATTEMPTS)
        return err_set(err, ERR_EXHAUSTED, "no room in the index for %zu bytes", bytes);
    /* Where room is plenty but in pieces, more is evicted; a small file is sooner written anew. */
    bool is_small = bytes > asset_db_quota(tables->db) / SMALL_SHARE;
    if (attempt + 1 < ROOM_ATTEMPTS && !(is_small && attempt % 2 == 1)) {
        int rc = evict_apart(tables, bytes, false, count, err);
        if (rc == -ERR_ABORTED) /* no room even to evict that much */
            rc = evict_apart(tables, 1, false, count, err);
        if (rc == 0)
            rc = pass_turn(tables, err);
        if (rc != -ERR_ABORTED)
            return rc;
    }
    log_info("index-rewrite", log_str("path", tables->path),
             log_str("reason", "its free room is in pieces"));
    return asset_db_rewrite(tables->db, err);
}

/* --- open and close --- */

/* The newest number that is the key of a table; 0 if it is empty. */
static int last_number(struct asset_tables *tables, enum asset_table table, uint64_t *number)
{
    struct span key;
    struct span value;
    int rc = asset_db_last(tables->db, tables->txn, table, &key, &value);
    *number = rc == 0 && key.size == NUMBER_SIZE ? get_number(key.data) : 0;
    return rc == ASSET_DB_NOT_FOUND ? 0 : rc;
}

static int find_sequence(struct asset_tables *tables, struct err *err)
{
    uint64_t record = 0;
    uint64_t used = 0;
    if (asset_tables_begin(tables, err) != 0)
        return -(int)err->code;
    int rc = last_number(tables, ASSET_RECORDS, &record);
    if (rc == 0)
        rc = last_number(tables, ASSET_BY_USE, &used);
    asset_tables_abort(tables);
    tables->sequence = record > used ? record : used;
    return rc == 0 ? 0 : asset_db_fault(err, rc, "read the order of use");
}

/* Evicts down to the limit, a little at a time, then writes the file anew. */
static int shrink(struct asset_tables *tables, struct err *err)
{
    size_t step = asset_db_excess_size(tables->db) / SHRINK_STEPS;
    if (step > SHRINK_STEP_MAX)
        step = SHRINK_STEP_MAX;
    size_t evicted = 0;
    size_t count = 1;
    while (count > 0) {
        int rc = evict_apart(tables, step, true, &count, err);
        if (rc == -ERR_ABORTED && step > 1) { /* less needs fewer pages to be copied */
            step /= 2;
            count = 1;
        } else if (rc != 0) {
            return rc;
        } else {
            evicted += count;
        }
    }
    struct err rewrite_err;
    if (asset_db_rewrite(tables->db, &rewrite_err) != 0)
        log_warning("index-not-shrunk", log_str("path", tables->path),
                    log_str("reason", rewrite_err.msg),
                    log_str("answer", "its file stays as large as it is, and grows no more"));
    else
        log_info("index-shrunk", log_str("path", tables->path),
                 log_num("from", (int64_t)asset_db_excess_size(tables->db)),
                 log_num("quota", (int64_t)asset_db_quota(tables->db)),
                 log_num("evicted", (int64_t)evicted));
    return 0;
}

int asset_tables_open(struct asset_tables *tables, const struct store_directory *directory,
                      int64_t quota, struct err *err)
{
    memset(tables, 0, sizeof(*tables));
    tables->path = directory->path;
    atomic_flag_clear(&tables->damage_logged);
    int rc = asset_db_open(directory, quota, &tables->db, err);
    if (rc != 0)
        return rc;
    size_t pages = asset_db_quota(tables->db) / asset_db_page_size(tables->db);
    tables->reserve_pages =
        pages / RESERVE_SHARE > RESERVE_PAGES ? pages / RESERVE_SHARE : RESERVE_PAGES;
    tables->limit_pages = pages - tables->reserve_pages;
    rc = find_sequence(tables, err);
    if (rc == 0 && asset_db_excess_size(tables->db) != 0)
        rc = shrink(tables, err);
    if (rc != 0)
        asset_tables_close(tables);
    return rc;
}

void asset_tables_close(struct asset_tables *tables)
{
    assert(tables->txn == NULL);
    asset_db_close(tables->db);
    tables->db = NULL;
}
