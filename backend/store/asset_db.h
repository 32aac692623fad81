/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database under the asset index: tables of sorted keys in one file of bounded size, snapshots
 * for any number of readers in any number of processes, one transaction at a time for one writer in
 * one of them. A file of it is an asset_env.
 */
#ifndef ASSETD_STORE_ASSET_DB_H
#define ASSETD_STORE_ASSET_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/asset_env.h"
#include "store/asset_shared.h"
#include "store/directory.h"

struct asset_db;

enum { ASSET_DB_QUOTA_MIN = 1 << 20 };

/*
 * Opens or makes the database in DIRECTORY, which is borrowed, as is SHARED. With WRITES this is
 * the one process that writes: it holds the lock of the directory. What others commit is found by
 * the next snapshot, also when they write the file anew.
 *
 * The file never grows beyond QUOTA; one that is larger already may grow by an eighth until
 * asset_db_rewrite brings it down.
 */
int asset_db_open(const struct store_directory *directory, struct asset_shared *shared,
                  int64_t quota, bool writes, struct asset_db **db, struct err *err);
void asset_db_close(struct asset_db *db);

/*
 * This process writes from now on, having the lock of the directory, or no longer. Readers wait
 * meanwhile. On error it reads as before. One thread.
 */
int asset_db_take_over(struct asset_db *db, struct err *err);
void asset_db_hand_back(struct asset_db *db);

/*
 * The file's bytes when it was opened to write or written anew, if they were more than the quota; 0
 * otherwise.
 */
size_t asset_db_excess_size(const struct asset_db *db);
size_t asset_db_quota(const struct asset_db *db);
size_t asset_db_page_size(const struct asset_db *db);

/* --- readers: any thread; they wait for a writer only while the file is opened anew --- */

int asset_db_read_begin(struct asset_db *db, struct MDB_txn **txn, struct err *err);
void asset_db_read_end(struct asset_db *db, struct MDB_txn *txn);

/* Lets go of a file that another process has replaced, as the next snapshot would. */
void asset_db_follow(struct asset_db *db);

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
 * Writes the file anew without its free pages, outside a transaction. Snapshots of the old one go
 * on, in all processes. On error the old one stays, unless it was just replaced: then no
 * transaction begins before it is sure that the new one stays.
 */
int asset_db_rewrite(struct asset_db *db, struct err *err);

#endif
