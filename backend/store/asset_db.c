/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database in LMDB. Its map has the size of the quota, in whole pages: LMDB never writes beyond
 * it. Pages are not given back to the file system, only reused, until the file is rewritten.
 *
 * A commit that failed is not tried again, and the environment is closed and opened anew: LMDB may
 * refuse all that follows otherwise, and what it believes to be on the disk may not be there.
 *
 * The processes meet in LMDB's file of locks: there the writer says which commit is the last, and
 * each snapshot which one it is of, so that its pages are not reused. Such a file says nothing of
 * another file of assets, whose commits are counted anew; hence one beside each (asset_file.h). A
 * file that was replaced is never written again: the snapshots of it need no care.
 *
 * LMDB takes the file of locks for its own if nobody else has it open, and would believe it half
 * made if the process that did so were killed then: only one process opens at a time.
 */
#include "store/asset_db.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"
#include "store/asset_file.h"
#include "store/disk.h"

enum {
    READ_ATTEMPTS = 3,        /* to begin a snapshot */
    EXCESS_SHARE = 8,         /* of its size, that a file larger than the quota may grow */
    DISK_ROOM_MIN = 64 << 20, /* bytes; with less a short write is taken for a full disk */
};

struct asset_db {
    const struct store_directory *directory; /* borrowed */
    struct asset_shared *shared;             /* borrowed */
    size_t quota;                            /* bytes, whole pages */
    size_t excess_size;
    size_t page_size;

    pthread_mutex_t lock;  /* of these: */
    pthread_cond_t moved;  /* a reader ended, or readers are let in again */
    struct asset_env *env; /* NULL: could not be opened again */
    bool is_quiet;         /* no reader may begin, and nobody else changes the environment */
    bool is_writing;       /* this process */
    uint64_t generation;   /* when it was found out that the file is the newest */

    /* The writer's own: */
    bool is_name_unsure; /* the file was renamed, and that may not last */
    bool is_behind;      /* what is open was replaced; what replaced it could not be opened */
};

/* --- files --- */

static int sync_directory(const struct asset_db *db, struct err *err)
{
    return disk.fsync(db->directory->fd) == 0
               ? 0
               : disk_fault(err, errno, "fsync %s", db->directory->path);
}

/* Makes the first file, empty. It has its name only when it is whole. */
static int make_file(const struct asset_db *db, struct err *err)
{
    int fd = db->directory->fd;
    char name[ASSET_FILE_NAME_SIZE];
    (void)disk.unlinkat(fd, ASSET_FILE_NEW, 0);
    int rc = asset_env_make(db->directory->path, db->quota, err);
    if (rc != 0)
        return rc;
    asset_file_name(0, name);
    if (disk.renameat(fd, ASSET_FILE_NEW, fd, name) != 0)
        return disk_fault(err, errno, "rename " ASSET_FILE_NEW);
    return sync_directory(db, err);
}

/* Under the lock of openings. */
static int find_newest(const struct asset_db *db, uint64_t *number, struct err *err)
{
    int rc = asset_file_newest(db->directory->fd, number, err);
    if (rc != -ERR_NOT_FOUND)
        return rc;
    *number = 0;
    return make_file(db, err);
}

/* --- the environment --- */

/* Waits for the readers to end, and lets no other begin. */
static void keep_quiet(struct asset_db *db)
{
    (void)pthread_mutex_lock(&db->lock);
    while (db->is_quiet)
        (void)pthread_cond_wait(&db->moved, &db->lock);
    db->is_quiet = true;
    while (db->env != NULL && db->env->reading > 0)
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

/* While it is quiet, or nobody else is there. */
static void close_current(struct asset_db *db)
{
    (void)pthread_mutex_lock(&db->lock);
    struct asset_env *env = db->env;
    db->env = NULL;
    (void)pthread_mutex_unlock(&db->lock);
    asset_env_close(env);
}

/* Lets those who begin from now on read ENV. The one before is closed when its last reader ends. */
static void put_current(struct asset_db *db, struct asset_env *env)
{
    (void)pthread_mutex_lock(&db->lock);
    struct asset_env *old = db->env;
    db->env = env;
    bool is_read = old != NULL && old->reading > 0;
    (void)pthread_mutex_unlock(&db->lock);
    if (!is_read)
        asset_env_close(old);
}

/* The writer's, while it is quiet: opens the newest file, and tells the readers to. */
static int open_to_write(struct asset_db *db, size_t map_size, struct err *err)
{
    struct asset_env *env;
    uint64_t number;
    int rc = asset_shared_lock(db->shared, err);
    if (rc != 0)
        return rc;
    rc = find_newest(db, &number, err);
    if (rc == 0)
        rc = asset_env_open(db->directory->path, number, true, map_size, &env, err);
    if (rc == 0) {
        put_current(db, env);
        db->is_behind = false;
        asset_shared_replaced(db->shared);
    }
    asset_shared_unlock(db->shared);
    return rc;
}

static int reopen(struct asset_db *db, struct err *err)
{
    keep_quiet(db);
    close_current(db);
    int rc = open_to_write(db, db->quota, err);
    let_in(db);
    return rc;
}

/* The size of the map for a file of SIZE bytes. */
static size_t map_size_for(struct asset_db *db, off_t size)
{
    db->excess_size = (size_t)size > db->quota ? (size_t)size : 0;
    return db->excess_size != 0 ? db->excess_size + db->excess_size / EXCESS_SHARE : db->quota;
}

/* Under the lock of openings: the size of the map for the newest file. */
static int measure(struct asset_db *db, size_t *map_size, struct err *err)
{
    char name[ASSET_FILE_NAME_SIZE];
    struct stat st;
    uint64_t number;
    int rc = find_newest(db, &number, err);
    if (rc != 0)
        return rc;
    asset_file_name(number, name);
    if (fstatat(db->directory->fd, name, &st, 0) != 0)
        return disk_fault(err, errno, "look at %s", name);
    *map_size = map_size_for(db, st.st_size);
    return 0;
}

/* While it is quiet: becomes the writer. */
static int begin_to_write(struct asset_db *db, struct err *err)
{
    size_t map_size = 0;
    int rc = asset_shared_lock(db->shared, err);
    if (rc != 0)
        return rc;
    (void)disk.unlinkat(db->directory->fd, ASSET_FILE_NEW, 0); /* of who was interrupted */
    rc = measure(db, &map_size, err);
    asset_shared_unlock(db->shared);
    if (rc == 0)
        rc = open_to_write(db, map_size, err);
    if (rc == 0)
        rc = sync_directory(db, err);
    if (rc != 0)
        return rc;
    asset_file_remove_before(db->directory->fd, db->env->number);
    (void)pthread_mutex_lock(&db->lock);
    db->is_writing = true;
    (void)pthread_mutex_unlock(&db->lock);
    return 0;
}

int asset_db_take_over(struct asset_db *db, struct err *err)
{
    keep_quiet(db);
    close_current(db);
    int rc = begin_to_write(db, err);
    if (rc != 0)
        close_current(db);
    let_in(db);
    return rc;
}

void asset_db_hand_back(struct asset_db *db)
{
    keep_quiet(db);
    close_current(db);
    (void)pthread_mutex_lock(&db->lock);
    db->is_writing = false;
    (void)pthread_mutex_unlock(&db->lock);
    let_in(db);
}

/* --- writing the file anew --- */

static int copy_to(struct asset_db *db, int fd, off_t *size, struct err *err)
{
    struct stat st;
    int rc = asset_env_copy(db->env, fd, err);
    if (rc != 0)
        return rc;
    if (disk.fdatasync(fd) != 0 || fstat(fd, &st) != 0)
        return disk_fault(err, errno, "fsync " ASSET_FILE_NEW);
    *size = st.st_size;
    return 0;
}

/* After a power cut the file before the last rename may be all there is: it is kept until then. */
static int make_name_sure(struct asset_db *db, struct err *err)
{
    if (!db->is_name_unsure)
        return 0;
    int rc = sync_directory(db, err);
    if (rc != 0)
        return rc;
    db->is_name_unsure = false;
    uint64_t newest;
    if (asset_file_newest(db->directory->fd, &newest, err) == 0)
        asset_file_remove_before(db->directory->fd, newest);
    return 0;
}

/* Under the lock of openings; the new file has SIZE bytes. */
static int replace(struct asset_db *db, off_t size, struct err *err)
{
    int directory_fd = db->directory->fd;
    char name[ASSET_FILE_NAME_SIZE];
    struct asset_env *env;
    struct err open_err;
    uint64_t number = db->env->number + 1;
    asset_file_name(number, name);
    if (disk.renameat(directory_fd, ASSET_FILE_NEW, directory_fd, name) != 0)
        return disk_fault(err, errno, "rename " ASSET_FILE_NEW);
    db->is_name_unsure = true;
    db->is_behind = true;
    int rc = make_name_sure(db, err);
    if (asset_env_open(db->directory->path, number, true, map_size_for(db, size), &env,
                       &open_err) != 0)
        return err_set(err, open_err.code, "%s", open_err.msg);
    put_current(db, env);
    db->is_behind = false;
    asset_shared_replaced(db->shared);
    return rc;
}

int asset_db_rewrite(struct asset_db *db, struct err *err)
{
    int directory_fd = db->directory->fd;
    if (db->env == NULL || db->is_behind)
        return err_set(err, ERR_UNAVAILABLE, "the index is not open");
    int fd =
        disk.openat(directory_fd, ASSET_FILE_NEW, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return disk_fault(err, errno, "make " ASSET_FILE_NEW);
    off_t size = 0;
    int rc = copy_to(db, fd, &size, err);
    (void)disk.close(fd);
    if (rc == 0)
        rc = asset_shared_lock(db->shared, err);
    if (rc == 0) {
        rc = replace(db, size, err);
        asset_shared_unlock(db->shared);
    }
    if (rc != 0)
        (void)disk.unlinkat(directory_fd, ASSET_FILE_NEW, 0);
    return rc;
}

/* --- open and close --- */

/*
 * The readers', with the lock held, which is let go meanwhile: opens the newest file if it is
 * another one.
 */
static int follow(struct asset_db *db, struct err *err)
{
    struct asset_env *env = NULL;
    uint64_t number;
    db->is_quiet = true;
    struct asset_env *current = db->env;
    (void)pthread_mutex_unlock(&db->lock);
    uint64_t generation = asset_shared_generation(db->shared);
    int rc = asset_shared_lock(db->shared, err);
    if (rc == 0) {
        rc = find_newest(db, &number, err);
        if (rc == 0 && (current == NULL || current->number != number))
            rc = asset_env_open(db->directory->path, number, false, 0, &env, err);
        asset_shared_unlock(db->shared);
    }
    if (env != NULL)
        put_current(db, env);
    (void)pthread_mutex_lock(&db->lock);
    if (rc == 0)
        db->generation = generation;
    db->is_quiet = false;
    (void)pthread_cond_broadcast(&db->moved);
    return rc;
}

static int open_first(struct asset_db *db, bool writes, struct err *err)
{
    int rc;
    if (writes) {
        rc = begin_to_write(db, err);
    } else {
        (void)pthread_mutex_lock(&db->lock);
        rc = follow(db, err);
        (void)pthread_mutex_unlock(&db->lock);
    }
    if (rc != 0)
        return rc;
    db->page_size = asset_env_page_size(db->env);
    return 0;
}

int asset_db_open(const struct store_directory *directory, struct asset_shared *shared,
                  int64_t quota, bool writes, struct asset_db **out, struct err *err)
{
    if (quota < ASSET_DB_QUOTA_MIN)
        return err_set(err, ERR_INVALID, "its quota is %lld bytes, at least %d are needed",
                       (long long)quota, (int)ASSET_DB_QUOTA_MIN);
    struct asset_db *db = calloc(1, sizeof(*db));
    if (db == NULL)
        return err_no_memory(err, "an index");
    db->directory = directory;
    db->shared = shared;
    db->quota = (size_t)quota - (size_t)quota % (size_t)sysconf(_SC_PAGESIZE);
    (void)pthread_mutex_init(&db->lock, NULL);
    (void)pthread_cond_init(&db->moved, NULL);
    int rc = open_first(db, writes, err);
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
    assert(db->env == NULL || db->env->reading == 0);
    asset_env_close(db->env);
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

static bool is_outdated(const struct asset_db *db)
{
    return !db->is_writing &&
           (db->env == NULL || db->generation != asset_shared_generation(db->shared));
}

/* Takes what to read; *TXN is a snapshot to be used again, or NULL. */
static int enter(struct asset_db *db, struct asset_env **env, struct MDB_txn **txn, struct err *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&db->lock);
    for (;;) {
        while (db->is_quiet || (db->env != NULL && db->env->reading == ASSET_ENV_READERS))
            (void)pthread_cond_wait(&db->moved, &db->lock);
        if (!is_outdated(db))
            break;
        rc = follow(db, err);
        if (rc != 0)
            goto out;
    }
    *env = db->env;
    *txn = NULL;
    if (db->env == NULL) {
        rc = err_set(err, ERR_UNAVAILABLE, "the index could not be opened after a disk error");
        goto out;
    }
    db->env->reading++;
    if (db->env->idle_count > 0)
        *txn = db->env->idle[--db->env->idle_count];
out:
    (void)pthread_mutex_unlock(&db->lock);
    return rc;
}

static void leave(struct asset_db *db, struct asset_env *env, struct MDB_txn *idle)
{
    (void)pthread_mutex_lock(&db->lock);
    if (idle != NULL)
        env->idle[env->idle_count++] = idle;
    if (env->reading-- == ASSET_ENV_READERS || db->is_quiet)
        (void)pthread_cond_broadcast(&db->moved);
    bool is_over = env != db->env && env->reading == 0;
    (void)pthread_mutex_unlock(&db->lock);
    if (is_over)
        asset_env_close(env);
}

/* The file has grown beyond the map, as the writer has a larger quota than this process had. */
static void map_again(struct asset_db *db)
{
    keep_quiet(db);
    if (db->env != NULL && asset_env_map_again(db->env) != 0)
        close_current(db); /* it has no map now; the next reader opens it anew */
    let_in(db);
}

int asset_db_read_begin(struct asset_db *db, struct MDB_txn **out, struct err *err)
{
    for (unsigned attempt = 1;; attempt++) {
        struct asset_env *env;
        struct MDB_txn *txn;
        int rc = enter(db, &env, &txn, err);
        if (rc != 0) {
            err->code = ERR_UNAVAILABLE;
            return -ERR_UNAVAILABLE;
        }
        rc = asset_env_read(env, &txn);
        if (rc == 0) {
            *out = txn;
            return 0;
        }
        leave(db, env, NULL);
        if (rc == ASSET_ENV_OUTGROWN)
            map_again(db);
        if (attempt == READ_ATTEMPTS || (rc != ASSET_ENV_OUTGROWN && rc != ASSET_ENV_LOCKS_FULL)) {
            (void)asset_env_fault(err, rc, "read the index");
            err->code = ERR_UNAVAILABLE;
            return -ERR_UNAVAILABLE;
        }
    }
}

void asset_db_read_end(struct asset_db *db, struct MDB_txn *txn)
{
    asset_env_reset(txn);
    leave(db, asset_env_of(txn), txn);
}

void asset_db_follow(struct asset_db *db)
{
    struct MDB_txn *txn;
    struct err err;
    if (asset_db_read_begin(db, &txn, &err) == 0)
        asset_db_read_end(db, txn);
}

/* --- the writer --- */

int asset_db_begin(struct asset_db *db, struct MDB_txn **txn, struct err *err)
{
    if (make_name_sure(db, err) != 0) {
        err->code = ERR_UNAVAILABLE;
        return -ERR_UNAVAILABLE;
    }
    int rc = ASSET_ENV_UNUSABLE;
    if (db->env != NULL && !db->is_behind)
        rc = asset_env_begin(db->env, txn);
    /* A commit that memory was lacking for may have left an environment that refuses all. */
    if (rc == ASSET_ENV_UNUSABLE) {
        if (reopen(db, err) != 0) {
            err->code = ERR_UNAVAILABLE;
            return err_wrap(err, "open the index after a disk error");
        }
        rc = asset_env_begin(db->env, txn);
    }
    return rc == 0 ? 0 : asset_env_fault(err, rc, "begin a transaction");
}

void asset_db_abort(struct MDB_txn *txn)
{
    asset_env_abort(txn);
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
    int rc = asset_env_commit(txn);
    if (rc == 0)
        return 0;
    (void)asset_env_fault(err, rc, "commit");
    if (asset_env_is_full(rc) || rc == ENOMEM)
        return -(int)err->code;
    err->code = is_disk_full(db, rc) ? ERR_EXHAUSTED : ERR_IO;
    struct err reopen_err;
    if (reopen(db, &reopen_err) != 0)
        log_error("index-closed", log_str("path", db->directory->path),
                  log_str("reason", reopen_err.msg),
                  log_str("answer", "it is opened again for the next write"));
    return -(int)err->code;
}
