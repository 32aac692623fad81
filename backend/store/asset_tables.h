/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of the asset index: names lead to rows and records, which are kept in the order of
 * their use and of their expiry. What else is done to them is in asset_life.h and asset_room.h.
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
#include "store/asset_shared.h"
#include "store/asset_uses.h"
#include "store/directory.h"

/* Embedded by its user. */
struct asset_tables {
    struct asset_db *db;
    const char *path;            /* for the log */
    struct asset_shared *shared; /* borrowed */
    struct asset_uses *uses;     /* borrowed */
    atomic_flag damage_logged;
    atomic_flag fault_logged;
    size_t limit_pages;   /* in use at most, in the long run */
    size_t reserve_pages; /* the rest of the file */
    /* The writer's own: */
    struct MDB_txn *txn;
    uint64_t sequence; /* the newest number of a record, and place in the order of use */
    uint64_t begun_at; /* SEQUENCE when the transaction began */
    /* Of the transaction: */
    bool has_deleted; /* a record */
    size_t put_bytes;
    size_t renewals_left;           /* pending uses that it may still write */
    bool heeds_uses;                /* it evicts nothing whose use is pending */
    struct asset_use *written_uses; /* to be forgotten when it is committed; ASSET_USES_MAX */
    size_t written_count;
};

/*
 * Opens the database in DIRECTORY as asset_db_open does. USES are borrowed as well: the fetches not
 * written yet.
 */
int asset_tables_open(struct asset_tables *tables, const struct store_directory *directory,
                      struct asset_shared *shared, int64_t quota, bool writes,
                      struct asset_uses *uses, struct err *err);

/* As asset_db_take_over. */
int asset_tables_take_over(struct asset_tables *tables, struct err *err);
void asset_tables_close(struct asset_tables *tables);

/* --- readers: any thread --- */

/*
 * The row and the asset of a name, in ARENA, expired or not. ERR_NOT_FOUND: there is none, or it is
 * damaged, which is logged once. ERR_UNAVAILABLE: the file cannot be read, or is damaged where the
 * asset might be.
 */
int asset_tables_find(struct asset_tables *tables, const struct asset_name *name,
                      struct arena *arena, struct asset_row *row, struct asset *asset,
                      struct err *err);

/*
 * A walk over all assets in the order of their use. Those that have lost their place in it, by
 * damage, come first. Zero it to begin.
 */
struct asset_walk {
    bool ended;
    uint64_t damaged; /* assets that were passed over */
    /* asset_tables.c's own: */
    bool is_in_order;              /* all were looked at for that */
    bool has_begun;                /* that, or going by their places */
    uint8_t hash[ASSET_HASH_SIZE]; /* the last one looked at */
    uint64_t used;                 /* the place of the last one */
};

struct asset_found {
    uint8_t hash[ASSET_HASH_SIZE];
    struct asset_row row;
    struct asset_key key;
    struct asset asset;
};

/*
 * The next few assets, at most *COUNT, in ARENA; fewer, or none, do not mean the end. No snapshot
 * is held between the calls, so that a slow walk keeps no page from being reused: an asset that is
 * used or pushed meanwhile has a new place, and may come twice.
 */
int asset_tables_step(struct asset_tables *tables, struct asset_walk *walk, struct arena *arena,
                      struct asset_found *found, size_t *count, struct err *err);

/* How many assets there are, and bytes of the pages in use. */
int asset_tables_usage(struct asset_tables *tables, uint64_t *assets, uint64_t *bytes,
                       struct err *err);

/* As asset_db_follow. */
void asset_tables_follow(struct asset_tables *tables);

/* --- the writer: one thread --- */

/* Bytes of records that one write may have, and bytes that are worth one transaction. */
size_t asset_tables_write_max(const struct asset_tables *tables);
size_t asset_tables_transaction_max(const struct asset_tables *tables);

/* Bytes that an asset costs a transaction beyond those of its record: copied pages. */
enum { ASSET_PUT_COST = 4 * 4096 };

/* How many pending uses one transaction may write, at most. */
size_t asset_tables_renewals_max(const struct asset_tables *tables);

/*
 * As those of the database. What other processes used until it begins is pending as well. The
 * transaction writes no more than RENEWALS of the pending uses. What
 * it writes is forgotten by them with the commit. With 0 it evicts as if none were pending.
 */
int asset_tables_begin(struct asset_tables *tables, size_t renewals, struct err *err);
int asset_tables_commit(struct asset_tables *tables, struct err *err);
void asset_tables_abort(struct asset_tables *tables);

/* Within a transaction: sees to it that no number up to SEQUENCE comes again. */
int asset_tables_keep_sequence(struct asset_tables *tables);

/* Within a transaction: the row of a name, and when it was pushed. ERR_NOT_FOUND as above. */
int asset_tables_pushed_at(struct asset_tables *tables, const struct asset_name *name,
                           struct asset_row *row, int64_t *pushed_at, struct err *err);

/* Within a transaction; after any error it can only be aborted. ERR_ABORTED: no room left. */
int asset_tables_put(struct asset_tables *tables, const struct asset_name *name,
                     const struct asset *asset, struct err *err);
int asset_tables_remove(struct asset_tables *tables, const struct asset_name *name,
                        struct err *err);

#endif
