/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of assets, by LMDB.
 *
 * LMDB knows a process that reads by its pid and by a lock of that process on the file of locks,
 * which is lost with any descriptor of it that is closed: a file must not be open twice in one
 * process.
 */
#include "store/asset_env.h"

#include <errno.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/asset_file.h"
#include "store/disk.h"

_Static_assert((int)ASSET_ENV_NOT_FOUND == MDB_NOTFOUND &&
                   (int)ASSET_ENV_LOCKS_FULL == MDB_READERS_FULL &&
                   (int)ASSET_ENV_OUTGROWN == MDB_MAP_RESIZED &&
                   (int)ASSET_ENV_UNUSABLE == MDB_PANIC,
               "codes are handed on as they are");

static const char *const table_names[ASSET_TABLES] = {[ASSET_ROWS] = "rows",
                                                      [ASSET_RECORDS] = "records",
                                                      [ASSET_BY_USE] = "by_use",
                                                      [ASSET_BY_EXPIRY] = "by_expiry"};

enum { LOCKS_MAX = 4096 }; /* snapshots of all processes; more are refused */

enum { OPEN_FLAGS = MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD };

/* --- LMDB's values and errors --- */

static MDB_val val(struct span span)
{
    return (MDB_val){.mv_size = span.size, .mv_data = (void *)(uintptr_t)span.data};
}

static struct span span_of(const MDB_val *value)
{
    return (struct span){.data = value->mv_data, .size = value->mv_size};
}

bool asset_env_is_full(int rc)
{
    return rc == MDB_MAP_FULL || rc == MDB_TXN_FULL;
}

int asset_env_fault(struct err *err, int rc, const char *what)
{
    if (asset_env_is_full(rc))
        return err_set(err, ERR_ABORTED, "%s: no room left in the index", what);
    if (rc > 0)
        return disk_fault(err, rc, "%s", what);
    return err_set(err, rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ? ERR_DATA_LOSS : ERR_IO,
                   "%s: %s", what, mdb_strerror(rc));
}

struct asset_env *asset_env_of(MDB_txn *txn)
{
    return mdb_env_get_userctx(mdb_txn_env(txn));
}

/* FLAGS: those with which the environment is opened. */
static int open_tables(MDB_env *mdb, unsigned flags, MDB_dbi tables[ASSET_TABLES], struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(mdb, NULL, flags & MDB_RDONLY, &txn);
    if (rc != 0)
        return asset_env_fault(err, rc, "begin a transaction");
    rc = mdb_dbi_open(txn, NULL, 0, &tables[ASSET_TABLES_THEMSELVES]);
    for (int i = ASSET_ROWS; rc == 0 && i < ASSET_TABLES; i++)
        rc = mdb_dbi_open(txn, table_names[i], (flags & MDB_RDONLY) != 0 ? 0 : MDB_CREATE,
                          &tables[i]);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return asset_env_fault(err, rc, "open the tables");
    }
    rc = mdb_txn_commit(txn); /* writes nothing if the tables were there */
    return rc == 0 ? 0 : asset_env_fault(err, rc, "make the tables");
}

/*
 * LMDB knows processes by their pids. Two of the same, which takes two namespaces of pids, would
 * take each other's snapshots for their own, and it refuses the second one's.
 */
static int try_snapshot(MDB_env *mdb, struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(mdb, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        mdb_txn_abort(txn);
    if (rc == EAGAIN || rc == EACCES)
        return err_set(
            err, ERR_UNAVAILABLE,
            "a process of another pid namespace, but with the pid of this one, reads it");
    return rc == 0 ? 0 : asset_env_fault(err, rc, "begin a snapshot");
}

/* MAP_SIZE 0: as the file says. */
static int open_mdb(const char *directory, const char *name, unsigned flags, size_t map_size,
                    MDB_env **mdb, struct err *err)
{
    char path[PATH_MAX + ASSET_FILE_NAME_SIZE + sizeof("/")];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    int rc = mdb_env_create(mdb);
    if (rc != 0)
        return asset_env_fault(err, rc, name);
    rc = mdb_env_set_maxdbs(*mdb, ASSET_TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(*mdb, LOCKS_MAX);
    if (rc == 0 && map_size != 0)
        rc = mdb_env_set_mapsize(*mdb, map_size);
    if (rc == 0)
        rc = mdb_env_open(*mdb, path, OPEN_FLAGS | flags, 0640);
    if (rc == 0)
        return 0;
    mdb_env_close(*mdb);
    (void)asset_env_fault(err, rc, "open");
    return err_wrap(err, "%s", name);
}

void asset_env_close(struct asset_env *env)
{
    if (env == NULL)
        return;
    while (env->idle_count > 0)
        mdb_txn_abort(env->idle[--env->idle_count]);
    mdb_env_close(env->mdb);
    free(env);
}

int asset_env_open(const char *directory, uint64_t number, bool writes, size_t map_size,
                   struct asset_env **out, struct err *err)
{
    char name[ASSET_FILE_NAME_SIZE];
    unsigned flags = writes ? 0 : MDB_RDONLY;
    struct asset_env *env = calloc(1, sizeof(*env));
    if (env == NULL)
        return err_no_memory(err, "an index");
    asset_file_name(number, name);
    env->number = number;
    int rc = open_mdb(directory, name, flags, map_size, &env->mdb, err);
    if (rc != 0) {
        free(env);
        return rc;
    }
    (void)mdb_env_set_userctx(env->mdb, env);
    rc = try_snapshot(env->mdb, err);
    if (rc == 0)
        rc = open_tables(env->mdb, flags, env->tables, err);
    if (rc != 0) {
        asset_env_close(env);
        return rc;
    }
    *out = env;
    return 0;
}

int asset_env_make(const char *directory, size_t map_size, struct err *err)
{
    MDB_dbi tables[ASSET_TABLES];
    MDB_env *mdb;
    int rc = open_mdb(directory, ASSET_FILE_NEW, MDB_NOLOCK, map_size, &mdb, err);
    if (rc != 0)
        return rc;
    rc = open_tables(mdb, MDB_NOLOCK, tables, err);
    mdb_env_close(mdb);
    return rc;
}

size_t asset_env_page_size(struct asset_env *env)
{
    MDB_stat stat;
    (void)mdb_env_stat(env->mdb, &stat);
    return stat.ms_psize;
}

int asset_env_map_again(struct asset_env *env)
{
    return mdb_env_set_mapsize(env->mdb, 0);
}

int asset_env_copy(struct asset_env *env, int fd, struct err *err)
{
    int rc = mdb_env_copyfd2(env->mdb, fd, MDB_CP_COMPACT);
    return rc == 0 ? 0 : asset_env_fault(err, rc, "write " ASSET_FILE_NEW);
}

/* --- snapshots and transactions --- */

int asset_env_read(struct asset_env *env, struct MDB_txn **txn)
{
    int rc = *txn != NULL ? mdb_txn_renew(*txn) : mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, txn);
    if (rc == 0)
        return 0;
    mdb_txn_abort(*txn);
    *txn = NULL;
    if (rc == MDB_READERS_FULL)
        (void)mdb_reader_check(env->mdb, NULL); /* some may have been killed */
    return rc;
}

void asset_env_reset(struct MDB_txn *txn)
{
    mdb_txn_reset(txn);
}

int asset_env_begin(struct asset_env *env, struct MDB_txn **txn)
{
    /* The snapshot of a process that was killed would keep pages from being reused for ever. */
    (void)mdb_reader_check(env->mdb, NULL);
    return mdb_txn_begin(env->mdb, NULL, 0, txn);
}

int asset_env_commit(struct MDB_txn *txn)
{
    return mdb_txn_commit(txn);
}

void asset_env_abort(struct MDB_txn *txn)
{
    mdb_txn_abort(txn);
}

/* --- tables --- */

int asset_env_get(struct MDB_txn *txn, enum asset_table table, struct span key, struct span *value)
{
    MDB_val packed_key = val(key);
    MDB_val found;
    int rc = mdb_get(txn, asset_env_of(txn)->tables[table], &packed_key, &found);
    if (rc == 0)
        *value = span_of(&found);
    return rc;
}

static int get_at(MDB_txn *txn, enum asset_table table, MDB_cursor_op where, struct span *key,
                  struct span *value)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, asset_env_of(txn)->tables[table], &cursor);
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

int asset_env_first(struct MDB_txn *txn, enum asset_table table, struct span *key,
                    struct span *value)
{
    *key = (struct span){NULL, 0};
    return get_at(txn, table, MDB_FIRST, key, value);
}

int asset_env_last(struct MDB_txn *txn, enum asset_table table, struct span *key,
                   struct span *value)
{
    *key = (struct span){NULL, 0};
    return get_at(txn, table, MDB_LAST, key, value);
}

int asset_env_next(struct MDB_txn *txn, enum asset_table table, struct span *key,
                   struct span *value)
{
    return get_at(txn, table, MDB_SET_RANGE, key, value);
}

static MDB_stat table_stat(MDB_txn *txn, enum asset_table table)
{
    MDB_stat stat;
    if (mdb_stat(txn, asset_env_of(txn)->tables[table], &stat) != 0)
        memset(&stat, 0, sizeof(stat));
    return stat;
}

size_t asset_env_count(struct MDB_txn *txn, enum asset_table table)
{
    return table_stat(txn, table).ms_entries;
}

size_t asset_env_pages(struct MDB_txn *txn)
{
    size_t pages = 2; /* which describe the file */
    for (int i = 0; i < ASSET_TABLES; i++) {
        MDB_stat stat = table_stat(txn, (enum asset_table)i);
        pages += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    }
    return pages;
}

int asset_env_put(struct MDB_txn *txn, enum asset_table table, struct span key, struct span value)
{
    MDB_val packed_key = val(key);
    MDB_val packed = val(value);
    return mdb_put(txn, asset_env_of(txn)->tables[table], &packed_key, &packed, 0);
}

int asset_env_append(struct MDB_txn *txn, enum asset_table table, struct span key, size_t size,
                     uint8_t **out)
{
    MDB_val packed_key = val(key);
    MDB_val room = {.mv_size = size};
    int rc = mdb_put(txn, asset_env_of(txn)->tables[table], &packed_key, &room,
                     MDB_APPEND | MDB_RESERVE);
    if (rc == 0)
        *out = room.mv_data;
    return rc;
}

int asset_env_delete(struct MDB_txn *txn, enum asset_table table, struct span key)
{
    MDB_val packed_key = val(key);
    return mdb_del(txn, asset_env_of(txn)->tables[table], &packed_key, NULL);
}
