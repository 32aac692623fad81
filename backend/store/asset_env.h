/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One file of the database under the asset index, open: its snapshots, transactions and tables. All
 * of LMDB is behind it.
 */
#ifndef ASSETD_STORE_ASSET_ENV_H
#define ASSETD_STORE_ASSET_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"

/* The first two are the database's own: its free pages, and the table of tables. */
enum asset_table {
    ASSET_FREE_PAGES,
    ASSET_TABLES_THEMSELVES,
    ASSET_ROWS,      /* hash of a name: row */
    ASSET_RECORDS,   /* number: record; keys only grow */
    ASSET_BY_USE,    /* number: hash; keys only grow */
    ASSET_BY_EXPIRY, /* time and hash: nothing */
    ASSET_TABLES     /* how many there are */
};

/* A snapshot, or the writer's transaction; what is found through it lives as long, or until the
 * writer's next change. */
struct MDB_txn;

enum { ASSET_ENV_READERS = 120 }; /* snapshots of this process at the same time; more wait */

struct asset_env {
    struct MDB_env *mdb;
    uint64_t number; /* of the file */
    unsigned tables[ASSET_TABLES];
    /* The user's own, of snapshots: */
    unsigned reading;
    unsigned idle_count;
    struct MDB_txn *idle[ASSET_ENV_READERS]; /* those that were reset */
};

/* What the functions return that have no err, beside errno values. */
enum {
    ASSET_ENV_NOT_FOUND = -30798,
    ASSET_ENV_UNUSABLE = -30795,   /* only to be closed */
    ASSET_ENV_LOCKS_FULL = -30790, /* too many snapshots in all processes */
    ASSET_ENV_OUTGROWN = -30785,   /* another process has made the file larger than the map */
};

/* Whether it says that there is no room left in the file. */
bool asset_env_is_full(int rc);

/*
 * Opens file NUMBER in the folder DIRECTORY. MAP_SIZE: bytes that it may grow to, if it is not
 * larger already; 0: as large as it has been to any process. One process at a time may open, and
 * only what it has not open already.
 */
int asset_env_open(const char *directory, uint64_t number, bool writes, size_t map_size,
                   struct asset_env **env, struct err *err);

/* Closes it, with the snapshots that are idle. NULL is fine. */
void asset_env_close(struct asset_env *env);

/* Makes an unfinished file, with empty tables. */
int asset_env_make(const char *directory, size_t map_size, struct err *err);

/* Writes what is committed, without free pages, to FD. */
int asset_env_copy(struct asset_env *env, int fd, struct err *err);

size_t asset_env_page_size(struct asset_env *env);

/* Makes the map as large as the file may be now; while no snapshot is in use. Or close it. */
int asset_env_map_again(struct asset_env *env);

/* --- snapshots: any thread --- */

/* *TXN: one that was reset, or NULL. It is gone on error. */
int asset_env_read(struct asset_env *env, struct MDB_txn **txn);
void asset_env_reset(struct MDB_txn *txn);

/* Where a snapshot or transaction belongs. */
struct asset_env *asset_env_of(struct MDB_txn *txn);

/* --- transactions: one thread of one process --- */

int asset_env_begin(struct asset_env *env, struct MDB_txn **txn);
int asset_env_commit(struct MDB_txn *txn);
void asset_env_abort(struct MDB_txn *txn);

/* --- within a snapshot or transaction: 0, ASSET_ENV_NOT_FOUND, or what
 * asset_env_fault knows --- */

/* Sets the error that RC stands for; ERR_ABORTED: no room left in the file. */
int asset_env_fault(struct err *err, int rc, const char *what);

int asset_env_get(struct MDB_txn *txn, enum asset_table table, struct span key, struct span *value);
int asset_env_first(struct MDB_txn *txn, enum asset_table table, struct span *key,
                    struct span *value);
int asset_env_last(struct MDB_txn *txn, enum asset_table table, struct span *key,
                   struct span *value);

/* The entry behind KEY, which need not be there; KEY becomes that entry's. */
int asset_env_next(struct MDB_txn *txn, enum asset_table table, struct span *key,
                   struct span *value);

size_t asset_env_count(struct MDB_txn *txn, enum asset_table table);

/* Pages in use: all but the free ones. */
size_t asset_env_pages(struct MDB_txn *txn);

/* Adds or replaces. */
int asset_env_put(struct MDB_txn *txn, enum asset_table table, struct span key, struct span value);

/* Adds behind the last key of a table whose keys only grow; *OUT is to be filled with SIZE bytes.
 */
int asset_env_append(struct MDB_txn *txn, enum asset_table table, struct span key, size_t size,
                     uint8_t **out);

/* KEY and all else that was found may point into what is changed by this. */
int asset_env_delete(struct MDB_txn *txn, enum asset_table table, struct span key);

#endif
