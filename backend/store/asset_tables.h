/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of the asset index, and what may be done to them: names lead to rows and records,
 * which are kept in the order of their use and of their expiry.
 */
#ifndef ASSETD_STORE_ASSET_TABLES_H
#define ASSETD_STORE_ASSET_TABLES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "store/asset_db.h"
#include "store/asset_record.h"
#include "store/directory.h"

/* Embedded by its user. */
struct asset_tables {
    struct asset_db *db;
    const char *path; /* for the log */
    atomic_flag damage_logged;
    size_t limit_pages;   /* in use at most, in the long run */
    size_t reserve_pages; /* the rest of the file */
    /* The writer's own: */
    struct MDB_txn *txn;
    uint64_t sequence; /* the newest number of a record, and place in the order of use */
    uint64_t begun_at; /* SEQUENCE when the transaction began */
    size_t put_bytes;  /* by the transaction */
};

/*
 * Opens the database in DIRECTORY, which is borrowed. If its file is larger than QUOTA, what was
 * used longest ago is evicted and the file is written anew, before anything else happens.
 */
int asset_tables_open(struct asset_tables *tables, const struct store_directory *directory,
                      int64_t quota, struct err *err);
void asset_tables_close(struct asset_tables *tables);

/* --- readers: any thread --- */

/*
 * The row and the asset of a name, in ARENA, expired or not. ERR_NOT_FOUND: there is none, or it is
 * damaged, which is logged once.
 */
int asset_tables_find(struct asset_tables *tables, const struct asset_name *name,
                      struct arena *arena, struct asset_row *row, struct asset *asset,
                      struct err *err);

/* A walk over all assets by hash. Zero it to begin. */
struct asset_walk {
    uint8_t hash[ASSET_HASH_SIZE]; /* of the last one seen */
    bool begun;
    bool ended;
};

struct asset_found {
    uint8_t hash[ASSET_HASH_SIZE];
    struct asset_row row;
    struct asset_key key;
    struct asset asset;
};

/*
 * The next few assets, at most *COUNT, in ARENA; fewer, or none, do not mean the end. No snapshot
 * is held between the calls, so that a slow walk keeps no page from being reused.
 */
int asset_tables_step(struct asset_tables *tables, struct asset_walk *walk, struct arena *arena,
                      struct asset_found *found, size_t *count, struct err *err);

/* How many assets there are, and bytes of the pages in use. */
int asset_tables_usage(struct asset_tables *tables, uint64_t *assets, uint64_t *bytes,
                       struct err *err);

/* --- the writer: one thread --- */

/* Bytes of records that one write may have, and bytes that are worth one transaction. */
size_t asset_tables_write_max(const struct asset_tables *tables);
size_t asset_tables_transaction_max(const struct asset_tables *tables);

/* Bytes that an asset costs a transaction beyond those of its record: copied pages. */
enum { ASSET_PUT_COST = 4 * 4096 };

/* As those of the database. */
int asset_tables_begin(struct asset_tables *tables, struct err *err);
int asset_tables_commit(struct asset_tables *tables, struct err *err);
void asset_tables_abort(struct asset_tables *tables);

/* Within a transaction; after any error it can only be aborted. ERR_ABORTED: no room left. */
int asset_tables_put(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset, struct err *err);
int asset_tables_remove(struct asset_tables *tables, const struct asset_name *name,
                        struct err *err);

/*
 * Sets fetched_at to AT and puts the asset last in the order of use, unless that was done less than
 * RENEW_AFTER milliseconds before, or there is no such asset.
 */
int asset_tables_renew(struct asset_tables *tables, const uint8_t hash[ASSET_HASH_SIZE], int64_t at,
                       int64_t renew_after, struct err *err);

/* Whether an asset has not been fetched for EXPIRE_AFTER milliseconds (0: for ever) at NOW. */
bool asset_tables_is_unused(int64_t fetched_at, int64_t expire_after, int64_t now);

/* Removes at most LIMIT assets that are expired at NOW; *COUNT says how many. */
int asset_tables_expire(struct asset_tables *tables, int64_t now, int64_t expire_after,
                        size_t limit, size_t *count, struct err *err);

/* Whether what the transaction leaves is more than should be in use. */
bool asset_tables_is_over(struct asset_tables *tables);

/*
 * Evicts what was used longest ago, in proportion to what this transaction put; *COUNT says how
 * many. Nothing that this transaction put or renewed is evicted.
 */
int asset_tables_settle(struct asset_tables *tables, size_t *count, struct err *err);

/*
 * Outside a transaction, after ERR_ABORTED: makes room for BYTES by means that grow with ATTEMPT,
 * from 0; *COUNT says how many assets were evicted. ERR_EXHAUSTED: there is nothing left to try.
 */
int asset_tables_make_room(struct asset_tables *tables, size_t bytes, unsigned attempt,
                           size_t *count, struct err *err);

#endif
