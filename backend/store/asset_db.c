/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database in LMDB. Its map has the size of the quota, in whole pages: LMDB never writes beyond
 * it. Pages are not given back to the file system, only reused, until the file is rewritten.
 *
 * A commit that failed is not tried again, and the environment is closed and opened anew: LMDB may
 * refuse all that follows otherwise, and what it believes to be on the disk may not be there.
 */
#include "store/asset_db.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"

#define DATA_NAME     "data.mdb" /* LMDB's own name */
#define DATA_NEW_NAME "data.mdb.new"

_Static_assert((int)ASSET_DB_NOT_FOUND == MDB_NOTFOUND, "codes are handed on as they are");

static const char *const table_names[ASSET_TABLES] = {[ASSET_ROWS] = "rows",
                                                      [ASSET_RECORDS] = "records",
                                                      [ASSET_BY_USE] = "by_use",
                                                      [ASSET_BY_EXPIRY] = "by_expiry"};

enum {
    READERS_MAX = 120,        /* snapshots at the same time; more wait */
    EXCESS_SHARE = 8,         /* of its size, that a file larger than the quota may grow */
    DISK_ROOM_MIN = 64 << 20, /* bytes; with less a short write is taken for a full disk */
};

struct asset_db {
    const struct store_directory *directory; /* borrowed */
    size_t quota;                            /* bytes, whole pages */
    size_t excess_size;
    size_t page_size;

    pthread_mutex_t lock; /* of these: */
    pthread_cond_t moved; /* a reader ended, or readers are let in again */
    MDB_env *env;         /* NULL: could not be opened again after a fault */
    bool is_quiet;        /* no reader may begin */
    unsigned reading;
    unsigned idle_count;
    MDB_txn *idle[READERS_MAX]; /* snapshots that were reset */

    MDB_dbi tables[ASSET_TABLES]; /* changed with env */

    bool is_name_unsure; /* the writer's own: the file was renamed, and that may not last */
};

/* --- LMDB's values and errors --- */

static MDB_val val(struct span span)
{
    return (MDB_val){.mv_size = span.size, .mv_data = (void *)(uintptr_t)span.data};
}

static struct span span_of(const MDB_val *value)
{
    return (struct span){.data = value->mv_data, .size = value->mv_size};
}

static bool is_map_full(int rc)
{
    return rc == MDB_MAP_FULL || rc == MDB_TXN_FULL;
}

int asset_db_fault(struct err *err, int rc, const char *what)
{
    if (is_map_full(rc))
        return err_set(err, ERR_ABORTED, "%s: no room left in the index", what);
    if (rc == ENOMEM)
        return err_no_memory(err, what);
    if (rc > 0)
        return err_errno(err, rc, "%s", what);
    return err_set(err, rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ? ERR_DATA_LOSS : ERR_IO,
                   "%s: %s", what, mdb_strerror(rc));
}

/* --- the environment --- */

static int open_tables(struct asset_db *db, MDB_env *env, struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc != 0)
        return asset_db_fault(err, rc, "begin a transaction");
    rc = mdb_dbi_open(txn, NULL, 0, &db->tables[ASSET_TABLES_THEMSELVES]);
    for (int i = ASSET_ROWS; rc == 0 && i < ASSET_TABLES; i++)
        rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &db->tables[i]);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return asset_db_fault(err, rc, "open the tables");
    }
    rc = mdb_txn_commit(txn); /* writes nothing if the tables were there */
    return rc == 0 ? 0 : asset_db_fault(err, rc, "make the tables");
}

/* While no reader is there. */
static int open_env(struct asset_db *db, size_t map_size, struct err *err)
{
    MDB_env *env = NULL;
    int rc = mdb_env_create(&env);
    if (rc != 0)
        return asset_db_fault(err, rc, "open " DATA_NAME);
    rc = mdb_env_set_maxdbs(env, ASSET_TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(env, READERS_MAX + 2);
    if (rc == 0)
        rc = mdb_env_set_mapsize(env, map_size);
    if (rc == 0)
        rc = mdb_env_open(env, db->directory->path, MDB_NOTLS | MDB_NORDAHEAD, 0640);
    if (rc != 0)
        rc = asset_db_fault(err, rc, "open " DATA_NAME);
    else
        rc = open_tables(db, env, err);
    if (rc != 0) {
        mdb_env_close(env);
        return rc;
    }
    MDB_stat stat;
    (void)mdb_env_stat(env, &stat);
    db->page_size = stat.ms_psize;
    db->env = env;
    return 0;
}

static void close_env(struct asset_db *db)
{
    if (db->env == NULL)
        return;
    while (db->idle_count > 0)
        mdb_txn_abort(db->idle[--db->idle_count]);
    mdb_env_close(db->env);
    db->env = NULL;
}

/* Waits for the readers to end, and lets no other begin. */
static void keep_quiet(struct asset_db *db)
{
    (void)pthread_mutex_lock(&db->lock);
    db->is_quiet = true;
    while (db->reading > 0)
        (void)pthread_cond_wait(&db->moved, &db->lock);
    (void)pthread_mutex_unlock(&db->lock);
}

static void let_in(struct asset_db *db)
{
    (void)pthread_mutex_lock(&db->lock);
    db->is_quiet = false;
    (void)pthread_cond_broadcast(&db->moved);
    (void)pthread_mutex_unlock(&db->lock);
}

static int reopen(struct asset_db *db, struct err *err)
{
    keep_quiet(db);
    close_env(db);
    int rc = open_env(db, db->quota, err);
    let_in(db);
    return rc;
}

static int copy_to(struct asset_db *db, int fd, struct err *err)
{
    int rc = mdb_env_copyfd2(db->env, fd, MDB_CP_COMPACT);
    if (rc != 0)
        return asset_db_fault(err, rc, "write " DATA_NEW_NAME);
    return fdatasync(fd) == 0 ? 0 : err_errno(err, errno, "fsync " DATA_NEW_NAME);
}

/* After a power cut the file before the last rename may be back, without what was written since. */
static int make_name_sure(struct asset_db *db, struct err *err)
{
    if (!db->is_name_unsure)
        return 0;
    if (fsync(db->directory->fd) != 0)
        return err_errno(err, errno, "fsync %s", db->directory->path);
    db->is_name_unsure = false;
    return 0;
}

int asset_db_rewrite(struct asset_db *db, struct err *err)
{
    int directory_fd = db->directory->fd;
    struct err reopen_err;
    if (db->env == NULL)
        return err_set(err, ERR_UNAVAILABLE, "the index is not open");
    int fd = openat(directory_fd, DATA_NEW_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_errno(err, errno, "make " DATA_NEW_NAME);
    int rc = copy_to(db, fd, err);
    (void)close(fd);
    if (rc != 0) {
        (void)unlinkat(directory_fd, DATA_NEW_NAME, 0);
        return rc;
    }
    keep_quiet(db);
    close_env(db);
    if (renameat(directory_fd, DATA_NEW_NAME, directory_fd, DATA_NAME) != 0) {
        rc = err_errno(err, errno, "rename " DATA_NEW_NAME);
        (void)unlinkat(directory_fd, DATA_NEW_NAME, 0);
    } else {
        db->is_name_unsure = true;
        rc = make_name_sure(db, err);
    }
    if (open_env(db, db->quota, &reopen_err) != 0)
        rc = err_set(err, reopen_err.code, "%s", reopen_err.msg);
    let_in(db);
    return rc;
}

static int open_file(struct asset_db *db, struct err *err)
{
    struct stat st = {.st_size = 0};
    if (fstatat(db->directory->fd, DATA_NAME, &st, 0) != 0 && errno != ENOENT)
        return err_errno(err, errno, "look at " DATA_NAME);
    (void)unlinkat(db->directory->fd, DATA_NEW_NAME, 0); /* of a rewrite that was interrupted */
    size_t map_size = db->quota;
    if ((size_t)st.st_size > db->quota) {
        db->excess_size = (size_t)st.st_size;
        map_size = db->excess_size + db->excess_size / EXCESS_SHARE;
    }
    if (open_env(db, map_size, err) != 0)
        return -(int)err->code;
    return fsync(db->directory->fd) == 0 ? 0
                                         : err_errno(err, errno, "fsync %s", db->directory->path);
}

int asset_db_open(const struct store_directory *directory, int64_t quota, struct asset_db **out,
                  struct err *err)
{
    if (quota < ASSET_DB_QUOTA_MIN)
        return err_set(err, ERR_INVALID, "its quota is %lld bytes, at least %d are needed",
                       (long long)quota, (int)ASSET_DB_QUOTA_MIN);
    struct asset_db *db = calloc(1, sizeof(*db));
    if (db == NULL)
        return err_no_memory(err, "an index");
    db->directory = directory;
    db->quota = (size_t)quota - (size_t)quota % (size_t)sysconf(_SC_PAGESIZE);
    (void)pthread_mutex_init(&db->lock, NULL);
    (void)pthread_cond_init(&db->moved, NULL);
    int rc = open_file(db, err);
    if (rc != 0) {
        asset_db_close(db);
        return rc;
    }
    *out = db;
    return 0;
}

void asset_db_close(struct asset_db *db)
{
    if (db == NULL)
        return;
    assert(db->reading == 0);
    close_env(db);
    (void)pthread_cond_destroy(&db->moved);
    (void)pthread_mutex_destroy(&db->lock);
    free(db);
}

size_t asset_db_excess_size(const struct asset_db *db)
{
    return db->excess_size;
}

size_t asset_db_quota(const struct asset_db *db)
{
    return db->quota;
}

size_t asset_db_page_size(const struct asset_db *db)
{
    return db->page_size;
}

/* --- readers --- */

static void end_reading(struct asset_db *db, MDB_txn *idle)
{
    (void)pthread_mutex_lock(&db->lock);
    if (idle != NULL)
        db->idle[db->idle_count++] = idle;
    if (db->reading-- == READERS_MAX || db->is_quiet)
        (void)pthread_cond_broadcast(&db->moved);
    (void)pthread_mutex_unlock(&db->lock);
}

int asset_db_read_begin(struct asset_db *db, struct MDB_txn **out, struct err *err)
{
    (void)pthread_mutex_lock(&db->lock);
    while (db->is_quiet || db->reading == READERS_MAX)
        (void)pthread_cond_wait(&db->moved, &db->lock);
    MDB_env *env = db->env;
    MDB_txn *txn = NULL;
    if (env != NULL) {
        db->reading++;
        if (db->idle_count > 0)
            txn = db->idle[--db->idle_count];
    }
    (void)pthread_mutex_unlock(&db->lock);
    if (env == NULL)
        return err_set(err, ERR_UNAVAILABLE, "the index could not be opened after a disk error");
    int rc = txn != NULL ? mdb_txn_renew(txn) : mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        *out = txn;
        return 0;
    }
    if (txn != NULL)
        mdb_txn_abort(txn);
    end_reading(db, NULL);
    (void)asset_db_fault(err, rc, "read the index");
    err->code = ERR_UNAVAILABLE;
    return -ERR_UNAVAILABLE;
}

void asset_db_read_end(struct asset_db *db, struct MDB_txn *txn)
{
    mdb_txn_reset(txn);
    end_reading(db, txn);
}

/* --- the writer --- */

int asset_db_begin(struct asset_db *db, struct MDB_txn **txn, struct err *err)
{
    if (make_name_sure(db, err) != 0) {
        err->code = ERR_UNAVAILABLE;
        return -ERR_UNAVAILABLE;
    }
    /* A commit that memory was lacking for may have left an environment that refuses all. */
    int rc = db->env != NULL ? mdb_txn_begin(db->env, NULL, 0, txn) : MDB_PANIC;
    if (rc == MDB_PANIC) {
        if (reopen(db, err) != 0) {
            err->code = ERR_UNAVAILABLE;
            return err_wrap(err, "open the index after a disk error");
        }
        rc = mdb_txn_begin(db->env, NULL, 0, txn);
    }
    return rc == 0 ? 0 : asset_db_fault(err, rc, "begin a transaction");
}

void asset_db_abort(struct MDB_txn *txn)
{
    mdb_txn_abort(txn);
}

/* LMDB has only EIO for a write that came out short, as it does when the disk fills up. */
static bool is_disk_full(const struct asset_db *db, int rc)
{
    if (rc == ENOSPC || rc == EDQUOT)
        return true;
    struct statvfs st;
    return rc == EIO && fstatvfs(db->directory->fd, &st) == 0 &&
           (uint64_t)st.f_bavail * st.f_frsize < DISK_ROOM_MIN;
}

int asset_db_commit(struct asset_db *db, struct MDB_txn *txn, struct err *err)
{
    int rc = mdb_txn_commit(txn);
    if (rc == 0)
        return 0;
    (void)asset_db_fault(err, rc, "commit");
    if (is_map_full(rc) || rc == ENOMEM)
        return -(int)err->code;
    err->code = is_disk_full(db, rc) ? ERR_EXHAUSTED : ERR_IO;
    struct err reopen_err;
    if (reopen(db, &reopen_err) != 0)
        log_error("index-closed", log_str("path", db->directory->path),
                  log_str("reason", reopen_err.msg),
                  log_str("answer", "it is opened again for the next write"));
    return -(int)err->code;
}

/* --- tables --- */

int asset_db_get(struct asset_db *db, struct MDB_txn *txn, enum asset_table table, struct span key,
                 struct span *value)
{
    MDB_val packed_key = val(key);
    MDB_val found;
    int rc = mdb_get(txn, db->tables[table], &packed_key, &found);
    if (rc == 0)
        *value = span_of(&found);
    return rc;
}

static int get_at(struct asset_db *db, MDB_txn *txn, enum asset_table table, MDB_cursor_op where,
                  struct span *key, struct span *value)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, db->tables[table], &cursor);
    if (rc != 0)
        return rc;
    MDB_val found_key = val(*key);
    MDB_val found;
    rc = mdb_cursor_get(cursor, &found_key, &found, where);
    if (rc == 0 && where == MDB_SET_RANGE && found_key.mv_size == key->size &&
        memcmp(found_key.mv_data, key->data, key->size) == 0)
        rc = mdb_cursor_get(cursor, &found_key, &found, MDB_NEXT);
    mdb_cursor_close(cursor);
    if (rc == 0) {
        *key = span_of(&found_key);
        *value = span_of(&found);
    }
    return rc;
}

int asset_db_first(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                   struct span *key, struct span *value)
{
    *key = (struct span){NULL, 0};
    return get_at(db, txn, table, MDB_FIRST, key, value);
}

int asset_db_last(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                  struct span *key, struct span *value)
{
    *key = (struct span){NULL, 0};
    return get_at(db, txn, table, MDB_LAST, key, value);
}

int asset_db_next(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                  struct span *key, struct span *value)
{
    return get_at(db, txn, table, MDB_SET_RANGE, key, value);
}

static MDB_stat table_stat(struct asset_db *db, MDB_txn *txn, enum asset_table table)
{
    MDB_stat stat;
    if (mdb_stat(txn, db->tables[table], &stat) != 0)
        memset(&stat, 0, sizeof(stat));
    return stat;
}

size_t asset_db_count(struct asset_db *db, struct MDB_txn *txn, enum asset_table table)
{
    return table_stat(db, txn, table).ms_entries;
}

size_t asset_db_pages(struct asset_db *db, struct MDB_txn *txn)
{
    size_t pages = 2; /* which describe the file */
    for (int i = 0; i < ASSET_TABLES; i++) {
        MDB_stat stat = table_stat(db, txn, (enum asset_table)i);
        pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    }
    return pages;
}

int asset_db_put(struct asset_db *db, struct MDB_txn *txn, enum asset_table table, struct span key,
                 struct span value)
{
    MDB_val packed_key = val(key);
    MDB_val packed = val(value);
    return mdb_put(txn, db->tables[table], &packed_key, &packed, 0);
}

int asset_db_append(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                    struct span key, size_t size, uint8_t **out)
{
    MDB_val packed_key = val(key);
    MDB_val room = {.mv_size = size};
    int rc = mdb_put(txn, db->tables[table], &packed_key, &room, MDB_APPEND | MDB_RESERVE);
    if (rc == 0)
        *out = room.mv_data;
    return rc;
}

int asset_db_delete(struct asset_db *db, struct MDB_txn *txn, enum asset_table table,
                    struct span key)
{
    MDB_val packed_key = val(key);
    return mdb_del(txn, db->tables[table], &packed_key, NULL);
}
