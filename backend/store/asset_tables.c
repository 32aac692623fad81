/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Look-ups in the tables of the asset index, transactions, and changes.
 *
 * Records are numbered and only appended, which keeps their pages full, lets a group of writes
 * share them, and empties whole pages where old assets go. Only the small rows are spread over
 * their table, by hash.
 */
#include "store/asset_tables.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/asset_tables_private.h"

enum {
    RESERVE_SHARE = 8, /* of the file, at least RESERVE_PAGES */
    RESERVE_PAGES = 64,
    WRITE_SHARE = 4,            /* of the file, for one write at most */
    TRANSACTION_MAX = 16 << 20, /* bytes */
    STEP_BYTES = 1 << 20,       /* of memory for one step of a walk, */
    STEP_LOOKS = 1024,          /* and entries that it looks at */
};

static struct span hash_span(const uint8_t *hash)
{
    return asset_span(hash, ASSET_HASH_SIZE);
}

/* Where the sequence is kept, beside the tables. */
static struct span sequence_key(void)
{
    return asset_span("turn", 4);
}

/* --- reading --- */

static void log_damage(struct asset_tables *tables, const char *reason)
{
    if (!atomic_flag_test_and_set(&tables->damage_logged))
        log_error("index-damaged", log_str("path", tables->path), log_str("reason", reason),
                  log_str("answer", "damaged assets are not found until they are pushed again; "
                                    "this is not logged again"));
}

int asset_tables_get_row(struct asset_tables *tables, struct MDB_txn *txn, const uint8_t *hash,
                         struct asset_row *row)
{
    struct span packed;
    int rc = asset_env_get(txn, ASSET_ROWS, hash_span(hash), &packed);
    if (rc != 0)
        return rc;
    if (asset_row_unpack(packed, row))
        return 0;
    log_damage(tables, "a row has a wrong checksum");
    return ASSET_ENV_NOT_FOUND;
}

int asset_tables_get_record(struct MDB_txn *txn, const struct asset_row *row, struct span *record)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    return asset_env_get(txn, ASSET_RECORDS, asset_number_put(number, row->record), record);
}

/* A damaged file may hold what is asked for: that is no miss. */
static int read_fault(struct asset_tables *tables, struct err *err, int rc, const char *what)
{
    (void)asset_env_fault(err, rc, what);
    if (err->code == ERR_NO_MEMORY)
        return -ERR_NO_MEMORY;
    if (!atomic_flag_test_and_set(&tables->fault_logged))
        log_error("index-unreadable", log_str("path", tables->path), log_str("reason", err->msg),
                  log_str("answer", "look-ups are answered as unavailable; "
                                    "this is not logged again"));
    err->code = ERR_UNAVAILABLE;
    return -ERR_UNAVAILABLE;
}

/* A record that is damaged is not found. */
static int read_asset(struct asset_tables *tables, struct MDB_txn *txn, const struct asset_row *row,
                      const struct asset_name *name, struct arena *arena, struct asset_key *key,
                      struct asset *asset, struct err *err)
{
    struct span record;
    int rc = asset_tables_get_record(txn, row, &record);
    if (rc == ASSET_ENV_NOT_FOUND)
        rc = err_set(err, ERR_DATA_LOSS, "a record is gone");
    else if (rc != 0)
        rc = read_fault(tables, err, rc, "read a record");
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
    rc = asset_tables_get_row(tables, txn, name->hash, row);
    if (rc == 0)
        rc = read_asset(tables, txn, row, name, arena, NULL, asset, err);
    else if (rc == ASSET_ENV_NOT_FOUND)
        rc = err_set(err, ERR_NOT_FOUND, "no such asset");
    else
        rc = read_fault(tables, err, rc, "read a row");
    asset_db_read_end(tables->db, txn);
    return rc;
}

/* --- the walk; what these return is what the database says --- */

/* Whether the order of use has ROW, which stands under HASH, in its place. */
static int find_place(struct MDB_txn *txn, const struct asset_row *row, const uint8_t *hash,
                      bool *is_there)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    struct span found;
    int rc = asset_env_get(txn, ASSET_BY_USE, asset_number_put(number, row->used), &found);
    *is_there = rc == 0 && span_equal(found, hash_span(hash));
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

/* The next row by hash; *IS_FOUND unless it is damaged, or has its place in the order of use. */
static int next_lost(struct asset_tables *tables, struct MDB_txn *txn, struct asset_walk *walk,
                     struct asset_found *found, bool *is_found)
{
    struct span key = hash_span(walk->hash);
    struct span row;
    bool has_place = false;
    int rc = walk->has_begun ? asset_env_next(txn, ASSET_ROWS, &key, &row)
                             : asset_env_first(txn, ASSET_ROWS, &key, &row);
    if (rc == ASSET_ENV_NOT_FOUND || (rc == 0 && key.size != ASSET_HASH_SIZE)) { /* or damage */
        walk->is_in_order = true;
        walk->has_begun = false;
        return 0;
    }
    if (rc != 0)
        return rc;
    memcpy(walk->hash, key.data, sizeof(walk->hash));
    memcpy(found->hash, walk->hash, sizeof(found->hash));
    walk->has_begun = true;
    rc = asset_tables_get_row(tables, txn, found->hash, &found->row);
    if (rc == ASSET_ENV_NOT_FOUND)
        walk->damaged++;
    else if (rc == 0)
        rc = find_place(txn, &found->row, found->hash, &has_place);
    *is_found = rc == 0 && !has_place;
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

/* The next one in the order of use; not *IS_FOUND: damage has left a place that nobody has. */
static int next_in_order(struct asset_tables *tables, struct MDB_txn *txn, struct asset_walk *walk,
                         struct asset_found *found, bool *is_found)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    struct span key = asset_number_put(number, walk->used);
    struct span hash;
    int rc = walk->has_begun ? asset_env_next(txn, ASSET_BY_USE, &key, &hash)
                             : asset_env_first(txn, ASSET_BY_USE, &key, &hash);
    if (rc == ASSET_ENV_NOT_FOUND || (rc == 0 && key.size != ASSET_NUMBER_SIZE)) { /* or damage */
        walk->ended = true;
        return 0;
    }
    if (rc != 0)
        return rc;
    walk->has_begun = true;
    walk->used = asset_number_get(key.data);
    if (hash.size != ASSET_HASH_SIZE)
        return 0;
    memcpy(found->hash, hash.data, sizeof(found->hash));
    rc = asset_tables_get_row(tables, txn, found->hash, &found->row);
    *is_found = rc == 0 && found->row.used == walk->used;
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

/* *IS_FOUND: FOUND is the next asset of the walk. */
static int step(struct asset_tables *tables, struct MDB_txn *txn, struct asset_walk *walk,
                struct arena *arena, struct asset_found *found, bool *is_found, struct err *err)
{
    *is_found = false;
    int rc = walk->is_in_order ? next_in_order(tables, txn, walk, found, is_found)
                               : next_lost(tables, txn, walk, found, is_found);
    if (rc != 0)
        return read_fault(tables, err, rc, "read the rows");
    if (!*is_found)
        return 0;
    rc = read_asset(tables, txn, &found->row, NULL, arena, &found->key, &found->asset, err);
    if (rc != -ERR_NOT_FOUND)
        return rc;
    walk->damaged++;
    *is_found = false;
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
    for (size_t looks = 0; rc == 0 && !walk->ended && *count < room && looks < STEP_LOOKS &&
                           arena->total < STEP_BYTES;
         looks++) {
        bool is_found;
        rc = step(tables, txn, walk, arena, &found[*count], &is_found, err);
        *count += rc == 0 && is_found;
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
    *assets = asset_env_count(txn, ASSET_ROWS);
    *bytes = asset_env_pages(txn) * asset_db_page_size(tables->db);
    asset_db_read_end(tables->db, txn);
    return 0;
}

void asset_tables_follow(struct asset_tables *tables)
{
    asset_db_follow(tables->db);
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

size_t asset_tables_renewals_max(const struct asset_tables *tables)
{
    return asset_tables_transaction_max(tables) / ASSET_PUT_COST;
}

int asset_tables_begin(struct asset_tables *tables, size_t renewals, struct err *err)
{
    assert(tables->txn == NULL);
    tables->begun_at = tables->sequence;
    tables->put_bytes = 0;
    tables->has_deleted = false;
    tables->heeds_uses = renewals > 0;
    tables->renewals_left = renewals;
    tables->written_count = 0;
    asset_shared_take_uses(tables->shared, tables->uses);
    return asset_db_begin(tables->db, &tables->txn, err);
}

/* The newest number that is the key of a table; 0 if it is empty. */
static int last_number(struct asset_tables *tables, enum asset_table table, uint64_t *number)
{
    struct span key;
    struct span value;
    int rc = asset_env_last(tables->txn, table, &key, &value);
    *number = rc == 0 && key.size == ASSET_NUMBER_SIZE ? asset_number_get(key.data) : 0;
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

/* The number that was kept when the newest record went; 0: none was. */
static int kept_number(struct asset_tables *tables, uint64_t *number)
{
    struct span value;
    int rc = asset_env_get(tables->txn, ASSET_TABLES_THEMSELVES, sequence_key(), &value);
    *number = rc == 0 && value.size == ASSET_NUMBER_SIZE ? asset_number_get(value.data) : 0;
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

/* The newest number that was ever given, as the file knows it. */
static int newest_number(struct asset_tables *tables, uint64_t *newest)
{
    uint64_t record = 0;
    uint64_t used = 0;
    uint64_t kept = 0;
    int rc = last_number(tables, ASSET_RECORDS, &record);
    if (rc == 0)
        rc = last_number(tables, ASSET_BY_USE, &used);
    if (rc == 0)
        rc = kept_number(tables, &kept);
    *newest = record > used ? record : used;
    *newest = *newest > kept ? *newest : kept;
    return rc;
}

int asset_tables_keep_sequence(struct asset_tables *tables)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    return asset_env_put(tables->txn, ASSET_TABLES_THEMSELVES, sequence_key(),
                         asset_number_put(number, tables->sequence));
}

/* A version is never another's, also where the newest record goes and the next writer comes. */
static int keep_newest_number(struct asset_tables *tables)
{
    uint64_t newest;
    int rc = newest_number(tables, &newest);
    return rc == 0 && newest < tables->sequence ? asset_tables_keep_sequence(tables) : rc;
}

int asset_tables_commit(struct asset_tables *tables, struct err *err)
{
    int rc = tables->has_deleted ? keep_newest_number(tables) : 0;
    if (rc != 0) {
        asset_tables_abort(tables);
        return asset_env_fault(err, rc, "keep the number of the newest asset");
    }
    struct MDB_txn *txn = tables->txn;
    tables->txn = NULL;
    rc = asset_db_commit(tables->db, txn, err);
    if (rc == 0)
        asset_uses_forget(tables->uses, tables->written_uses, tables->written_count);
    return rc;
}

void asset_tables_abort(struct asset_tables *tables)
{
    asset_db_abort(tables->txn);
    tables->txn = NULL;
}

/* --- changes; most return what the database says --- */

int asset_tables_delete_key(struct asset_tables *tables, enum asset_table table, struct span key)
{
    int rc = asset_env_delete(tables->txn, table, key);
    return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
}

static int put_row(struct asset_tables *tables, const uint8_t *hash, const struct asset_row *row)
{
    uint8_t packed[ASSET_ROW_SIZE];
    asset_row_pack(row, packed);
    return asset_env_put(tables->txn, ASSET_ROWS, hash_span(hash),
                         asset_span(packed, sizeof(packed)));
}

static int append_use(struct asset_tables *tables, const uint8_t *hash, uint64_t used)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    uint8_t *out;
    int rc = asset_env_append(tables->txn, ASSET_BY_USE, asset_number_put(number, used),
                              ASSET_HASH_SIZE, &out);
    if (rc == 0)
        memcpy(out, hash, ASSET_HASH_SIZE);
    return rc;
}

static int append_record(struct asset_tables *tables, uint64_t record,
                         const struct asset_name *name, const struct asset *asset)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    uint8_t *out;
    size_t size = asset_record_size(name->size, asset);
    int rc =
        asset_env_append(tables->txn, ASSET_RECORDS, asset_number_put(number, record), size, &out);
    if (rc == 0)
        asset_record_pack(name, asset, out);
    tables->put_bytes += size + ASSET_ROW_COST;
    return rc;
}

/* Deletes what ROW leads to. */
static int delete_behind(struct asset_tables *tables, const uint8_t *hash,
                         const struct asset_row *row)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    uint8_t expiry[ASSET_EXPIRY_SIZE];
    tables->has_deleted = true;
    int rc = asset_tables_delete_key(tables, ASSET_RECORDS, asset_number_put(number, row->record));
    if (rc == 0)
        rc = asset_tables_delete_key(tables, ASSET_BY_USE, asset_number_put(number, row->used));
    if (rc == 0 && row->expires_at != 0)
        rc = asset_tables_delete_key(tables, ASSET_BY_EXPIRY,
                                     asset_expiry_put(expiry, row->expires_at, hash));
    return rc;
}

int asset_tables_delete(struct asset_tables *tables, const uint8_t *hash,
                        const struct asset_row *row)
{
    int rc = delete_behind(tables, hash, row);
    return rc == 0 ? asset_tables_delete_key(tables, ASSET_ROWS, hash_span(hash)) : rc;
}

static int put_asset(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset)
{
    struct asset_row old;
    int rc = asset_tables_get_row(tables, tables->txn, name->hash, &old);
    if (rc == 0)
        rc = delete_behind(tables, name->hash, &old);
    if (rc != 0 && rc != ASSET_ENV_NOT_FOUND)
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
        uint8_t expiry[ASSET_EXPIRY_SIZE];
        rc = asset_env_put(tables->txn, ASSET_BY_EXPIRY,
                           asset_expiry_put(expiry, asset->expires_at, name->hash),
                           asset_span("", 0));
    }
    return rc == 0 ? put_row(tables, name->hash, &row) : rc;
}

int asset_tables_pushed_at(struct asset_tables *tables, const struct asset_name *name,
                           struct asset_row *row, int64_t *pushed_at, struct err *err)
{
    struct span record;
    int rc = asset_tables_get_row(tables, tables->txn, name->hash, row);
    if (rc == 0)
        rc = asset_tables_get_record(tables->txn, row, &record);
    if (rc == ASSET_ENV_NOT_FOUND || (rc == 0 && !asset_record_pushed_at(record, name, pushed_at)))
        return err_set(err, ERR_NOT_FOUND, "no such asset");
    return rc == 0 ? 0 : asset_env_fault(err, rc, "read an asset");
}

int asset_tables_put(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset, struct err *err)
{
    int rc = put_asset(tables, name, asset);
    return rc == 0 ? 0 : asset_env_fault(err, rc, "write an asset");
}

int asset_tables_remove(struct asset_tables *tables, const struct asset_name *name, struct err *err)
{
    struct asset_row row;
    int rc = asset_tables_get_row(tables, tables->txn, name->hash, &row);
    if (rc == 0)
        rc = asset_tables_delete(tables, name->hash, &row);
    else if (rc == ASSET_ENV_NOT_FOUND)
        rc = asset_tables_delete_key(tables, ASSET_ROWS, hash_span(name->hash)); /* a damaged row */
    return rc == 0 ? 0 : asset_env_fault(err, rc, "remove an asset");
}

int asset_tables_move_last(struct asset_tables *tables, const uint8_t *hash, struct asset_row *row)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    int rc = asset_tables_delete_key(tables, ASSET_BY_USE, asset_number_put(number, row->used));
    if (rc != 0)
        return rc;
    row->used = ++tables->sequence;
    tables->put_bytes += ASSET_RENEWAL_COST;
    rc = append_use(tables, hash, row->used);
    return rc == 0 ? put_row(tables, hash, row) : rc;
}

int asset_tables_next_used(struct asset_tables *tables, uint64_t *used,
                           uint8_t hash[ASSET_HASH_SIZE], struct asset_row *row)
{
    uint8_t number[ASSET_NUMBER_SIZE];
    struct span value;
    for (;;) {
        struct span key = asset_number_put(number, *used);
        int rc = *used == 0 ? asset_env_first(tables->txn, ASSET_BY_USE, &key, &value)
                            : asset_env_next(tables->txn, ASSET_BY_USE, &key, &value);
        if (rc != 0)
            return rc;
        uint64_t place = key.size == ASSET_NUMBER_SIZE ? asset_number_get(key.data) : 0;
        if (place > tables->begun_at)
            return ASSET_ENV_NOT_FOUND;
        if (value.size == ASSET_HASH_SIZE) {
            memcpy(hash, value.data, ASSET_HASH_SIZE);
            rc = asset_tables_get_row(tables, tables->txn, hash, row);
            if (rc == 0 && row->used == place) {
                *used = place;
                return 0;
            }
            if (rc != 0 && rc != ASSET_ENV_NOT_FOUND)
                return rc;
        }
        rc = asset_env_delete(tables->txn, ASSET_BY_USE, key);
        if (rc != 0)
            return rc;
    }
}

/* --- open and close --- */

static int find_sequence(struct asset_tables *tables, struct err *err)
{
    uint64_t newest = 0;
    if (asset_tables_begin(tables, 0, err) != 0)
        return -(int)err->code;
    int rc = newest_number(tables, &newest);
    asset_tables_abort(tables);
    tables->sequence = newest;
    return rc == 0 ? 0 : asset_env_fault(err, rc, "read the order of use");
}

int asset_tables_open(struct asset_tables *tables, const struct store_directory *directory,
                      struct asset_shared *shared, int64_t quota, bool writes,
                      struct asset_uses *uses, struct err *err)
{
    memset(tables, 0, sizeof(*tables));
    tables->path = directory->path;
    tables->shared = shared;
    tables->uses = uses;
    atomic_flag_clear(&tables->damage_logged);
    atomic_flag_clear(&tables->fault_logged);
    int rc = asset_db_open(directory, shared, quota, writes, &tables->db, err);
    if (rc != 0)
        return rc;
    size_t pages = asset_db_quota(tables->db) / asset_db_page_size(tables->db);
    tables->reserve_pages =
        pages / RESERVE_SHARE > RESERVE_PAGES ? pages / RESERVE_SHARE : RESERVE_PAGES;
    tables->limit_pages = pages - tables->reserve_pages;
    tables->written_uses = malloc(ASSET_USES_MAX * sizeof(*tables->written_uses));
    rc = tables->written_uses != NULL ? 0 : err_no_memory(err, "the uses of assets");
    if (rc == 0 && writes)
        rc = find_sequence(tables, err);
    if (rc != 0)
        asset_tables_close(tables);
    return rc;
}

int asset_tables_take_over(struct asset_tables *tables, struct err *err)
{
    int rc = asset_db_take_over(tables->db, err);
    if (rc != 0)
        return rc;
    rc = find_sequence(tables, err);
    if (rc != 0)
        asset_db_hand_back(tables->db);
    return rc;
}

void asset_tables_close(struct asset_tables *tables)
{
    assert(tables->txn == NULL);
    asset_db_close(tables->db);
    tables->db = NULL;
    free(tables->written_uses);
    tables->written_uses = NULL;
}
