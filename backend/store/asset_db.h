/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database under the asset index: tables of sorted keys in one file of bounded size, snapshots
 * for any number of readers, one transaction at a time for one writer. All of LMDB is behind it.
 */
#ifndef ASSETD_STORE_ASSET_DB_H
#define ASSETD_STORE_ASSET_DB_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "store/directory.h"

struct asset_db;

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

enum { ASSET_DB_QUOTA_MIN = 1 << 20 };

/*
 * Opens or makes the database in DIRECTORY, which is borrowed. The file never grows beyond QUOTA;
 * one that is larger already may grow by an eighth until asset_db_rewrite brings it down.
 */
int asset_db_open(const struct store_directory *directory, int64_t quota, struct asset_db **db,
                  struct err *err);
void asset_db_close(struct asset_db *db);

/* The file's bytes when it was opened, if they were more than the quota; 0 otherwise. */
size_t asset_db_excess_size(const struct asset_db *db);
size_t asset_db_quota(const struct asset_db *db);
size_t asset_db_page_size(const struct asset_db *db);

/* --- readers: any thread; they wait for the writer only while it opens the file anew --- */

int asset_db_read_begin(struct asset_db *db, struct MDB_txn **txn, struct err *err);
void asset_db_read_end(struct asset_db *db, struct MDB_txn *txn);

/* --- the writer: one thread --- */

/*
 * ERR_UNAVAILABLE: the disk failed before, and the file cannot be opened again yet, or it is not
 * sure yet that a file that was written anew keeps its name.
 */
int asset_db_begin(struct asset_db *db, struct MDB_txn **txn, struct err *err);
void asset_db_abort(struct MDB_txn *txn);

/*
 * Makes all that was done in the transaction durable, which is over in any case. ERR_ABORTED: no
 * room left in the file. ERR_EXHAUSTED: the disk is full. ERR_IO: the disk failed. After these two
 * the file has been opened anew, as it was before the transaction, and nothing is tried again.
 */
int asset_db_commit(struct asset_db *db, struct MDB_txn *txn, struct err *err);

/*
 * Writes the file anew without its free pages, outside a transaction. Readers wait only while the
 * new one takes the place of the old one. On error the old one stays, unless it was just replaced:
 * then no transaction begins before it is sure that the new one stays.
 */
int asset_db_rewrite(struct asset_db *db, struct err *err);

/* --- within a snapshot or transaction: 0, ASSET_DB_NOT_FOUND, or what asset_db_fault knows --- */

enum { ASSET_DB_NOT_FOUND = -30798 };

/* Sets the error that RC stands for; ERR_ABORTED: no room left in the file. */
int asset_db_fault(struct err *err, int rc, const char *what);

int asset_db_get(struct asset_db *db, struct MDB_txn *txn, enum asset_table table, struct span key,
                 struct span *value);
int asset_db_first(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                   struct span *key, struct span *value);
int asset_db_last(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                  struct span *key, struct span *value);

/* The entry behind KEY, which need not be there; KEY becomes that entry's. */
int asset_db_next(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                  struct span *key, struct span *value);

size_t asset_db_count(struct asset_db *db, struct MDB_txn *txn, enum asset_table table);

/* Pages in use: all but the free ones. */
size_t asset_db_pages(struct asset_db *db, struct MDB_txn *txn);

/* Adds or replaces. */
int asset_db_put(struct asset_db *db, struct MDB_txn *txn, enum asset_table table, struct span key,
                 struct span value);

/* Adds behind the last key of a table whose keys only grow; *OUT is to be filled with SIZE bytes.
 */
int asset_db_append(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                    struct span key, size_t size, uint8_t **out);

/* KEY and all else that was found may point into what is changed by this. */
int asset_db_delete(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                    struct span key);

#endif
