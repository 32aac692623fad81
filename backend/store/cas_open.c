/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing of a CAS: what a stop, a kill or a power cut has left, and the quota. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"
#include "store/cas_private.h"

enum { CAS_VERSION = 1 };

/* File systems take blocks that nobody asked for, such as for the map of a file in many pieces. */
enum { MARGIN_SHIFT = 8, MARGIN_MAX = 1 << 20 };

/* Half of what fits into the counter, which is in nanoseconds: the year 2262. */
static const time_t used_seconds_max = INT64_MAX / 1000000000;

/* Of what others have put into the store: files that are counted, and folders in each other. */
enum { OTHERS_MAX = 1 << 20, OTHER_DEPTH_MAX = 16 };

/*
 * For how long an upload waits when everything is in use. Uses are short: a download that goes on
 * for longer keeps its own blob only.
 */
enum { PATIENCE_SECONDS = 5 };

static int open_part(struct cas *cas, const char *name, int *fd, struct err *err)
{
    int dir = cas->directory.fd;
    /* Directories do not shrink when what is in them goes: an empty one is made anew. */
    (void)unlinkat(dir, name, AT_REMOVEDIR);
    if (mkdirat(dir, name, 0750) != 0 && errno != EEXIST)
        return cas_file_errno(err, errno, "make a directory");
    *fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? 0 : cas_file_errno(err, errno, "open a directory");
}

/* Calls VISIT for each name in the directory FD, other than itself and its parent. */
static int each_name(struct cas *cas, int fd,
                     int (*visit)(struct cas *, const char *, struct err *), struct err *err)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy >= 0 ? fdopendir(copy) : NULL;
    if (stream == NULL) {
        int rc = cas_file_errno(err, errno, "list a directory");
        if (copy >= 0)
            (void)close(copy);
        return rc;
    }
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (errno = 0, (entry = readdir(stream)) != NULL))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = visit(cas, entry->d_name, err);
    if (rc == 0 && errno != 0)
        rc = cas_file_errno(err, errno, "list a directory");
    (void)closedir(stream);
    return rc;
}

static int remove_upload(struct cas *cas, const char *name, struct err *err)
{
    return unlinkat(cas->uploads_fd, name, 0) == 0 ? 0
                                                   : cas_file_errno(err, errno, "empty uploads");
}

/* Counts what is called NAME in the directory PARENT, and what is in it; the latter up to a bound.
 */
static void count_below(struct cas *cas, int parent, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    cas->fixed += (int64_t)st.st_blocks * 512;
    cas->others++;
    int fd = S_ISDIR(st.st_mode) && depth < OTHER_DEPTH_MAX
                 ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                 : -1;
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    struct dirent *entry;
    while (cas->others < OTHERS_MAX && (entry = readdir(stream)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            count_below(cas, fd, entry->d_name, depth + 1);
    (void)closedir(stream);
}

/* What lies in cas/ but belongs to nobody counts as well. */
static int count_other(struct cas *cas, const char *name, struct err *err)
{
    (void)err;
    if (strcmp(name, CAS_BLOBS) != 0 && strcmp(name, CAS_UPLOADS) != 0 &&
        strcmp(name, CAS_STATE) != 0 && strcmp(name, CAS_STATE_NEW) != 0)
        count_below(cas, cas->directory.fd, name, 0);
    return 0;
}

static void drop_short(struct cas *cas, const char *name, int64_t room)
{
    cas->broken++;
    log_error("blob-broken", log_str("path", cas->directory.path), log_str("blob", name),
              log_str("reason", "its file has the wrong size"));
    struct err err;
    if (cas_file_unlink(cas->blobs_fd, name, &err) != 0)
        cas->fixed += room;
}

/*
 * The use counter that a file's time tells. Times in the future are as good as others, but for
 * those that leave the counter no room to grow: they count as the present.
 */
static uint64_t use_of(const struct timespec *time)
{
    struct timespec used = *time;
    if (used.tv_sec < 0)
        return 0;
    if (used.tv_sec > used_seconds_max)
        (void)clock_gettime(CLOCK_REALTIME_COARSE, &used);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

static int scan_blob(struct cas *cas, const char *name, struct err *err)
{
    struct stat st;
    struct digest digest;
    if (fstatat(cas->blobs_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : cas_file_errno(err, errno, "look at a blob");
    if (!cas_file_parse(name, &digest) || !S_ISREG(st.st_mode)) {
        count_below(cas, cas->blobs_fd, name, 0);
        log_warning("cas-unknown-file", log_str("path", cas->directory.path),
                    log_str("name", name));
        return 0;
    }
    if (st.st_size != cas_file_size(digest.size)) {
        drop_short(cas, name, (int64_t)st.st_blocks * 512);
        return 0;
    }
    struct cas_entry *entry = cas_entry_new(&digest);
    if (entry == NULL)
        return err_no_memory(err, "the table of blobs");
    entry->room = (int64_t)st.st_blocks * 512;
    entry->used = use_of(&st.st_mtim);
    entry->state = CAS_THERE;
    cas->used += entry->room;
    cas_table_add(&cas->table, entry);
    return 0;
}

static int compare_use(const void *a, const void *b)
{
    const struct cas_entry *x = *(struct cas_entry *const *)a;
    const struct cas_entry *y = *(struct cas_entry *const *)b;
    return x->used < y->used ? -1 : x->used > y->used;
}

/* Brings what was scanned into the order of use that the files' times tell. */
static int order_blobs(struct cas *cas, struct err *err)
{
    struct cas_table *table = &cas->table;
    struct cas_entry **entries = malloc((table->count + 1) * sizeof(*entries));
    if (entries == NULL)
        return err_no_memory(err, "the order of use");
    size_t count = 0;
    for (size_t i = 0; i < table->bucket_count; i++)
        for (struct cas_entry *entry = table->buckets[i]; entry != NULL; entry = entry->chain)
            entries[count++] = entry;
    qsort(entries, count, sizeof(struct cas_entry *), compare_use);
    for (size_t i = 0; i < count; i++) {
        cas->counter = entries[i]->used > cas->counter ? entries[i]->used : cas->counter + 1;
        cas_table_list(table, entries[i], cas->counter);
    }
    free(entries);
    cas->recorded = cas->counter;
    return 0;
}

static void suspect_all(struct cas *cas)
{
    for (struct cas_entry *entry = cas->table.oldest; entry != NULL; entry = entry->newer)
        entry->suspect = true;
    cas->suspects = cas->table.count;
    cas->state_outstanding = cas->suspects != 0;
    if (cas->suspects != 0)
        log_warning("cas-suspect", log_str("path", cas->directory.path),
                    log_num("blobs-to-verify", (int64_t)cas->suspects),
                    log_str("reason", "what was written last may not have reached the disk"));
}

static int count_fixed(struct cas *cas, struct err *err)
{
    struct stat st;
    struct statvfs fs;
    if (fstatvfs(cas->blobs_fd, &fs) != 0 || fstat(cas->directory.fd, &st) != 0)
        return cas_file_errno(err, errno, "look at the file system");
    cas->block = fs.f_frsize >= 512 ? (int64_t)fs.f_frsize : 512;
    cas->fixed = (int64_t)st.st_blocks * 512 + CAS_STATE_BLOCKS * cas->block;
    int64_t margin = cas->quota >> MARGIN_SHIFT;
    cas->limit = cas->quota - (margin < MARGIN_MAX ? margin : MARGIN_MAX);
    return each_name(cas, cas->directory.fd, count_other, err);
}

/* The quota keeps the disk from being filled only if the disk is large enough for it. */
static void compare_with_disk(const struct cas *cas)
{
    struct statvfs fs;
    if (fstatvfs(cas->blobs_fd, &fs) != 0)
        return;
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (cas->quota <= cas->used || (uint64_t)(cas->quota - cas->used) <= free_bytes)
        return;
    log_warning("quota-exceeds-disk", log_str("path", cas->directory.path),
                log_num("quota", cas->quota), log_num("bytes", cas->used),
                log_num("disk-free", (int64_t)free_bytes),
                log_str("answer", "uploads fail once the disk is full: lower the quota"));
}

/* Reads what is on disk into a zeroed store. */
static int load(struct cas *cas, struct err *err)
{
    if (open_part(cas, CAS_UPLOADS, &cas->uploads_fd, err) != 0 ||
        each_name(cas, cas->uploads_fd, remove_upload, err) != 0 ||
        open_part(cas, CAS_BLOBS, &cas->blobs_fd, err) != 0 || count_fixed(cas, err) != 0 ||
        each_name(cas, cas->blobs_fd, scan_blob, err) != 0 || order_blobs(cas, err) != 0)
        return -(int)err->code;
    if (cas->others >= OTHERS_MAX)
        log_warning("cas-others-uncounted", log_str("path", cas->directory.path),
                    log_num("counted", cas->others));
    cas->used += cas->fixed;
    cas_room_measure(cas);
    enum cas_ending ending = cas_state_read(cas);
    /* What a killed process wrote is still in the kernel's cache, and not on the disk yet. */
    if (ending == CAS_ENDED_KILLED && cas_disk.syncfs(cas->blobs_fd) != 0) {
        if (cas_state_remove(cas, err) != 0)
            log_error("cas-state-failed", log_str("path", cas->directory.path),
                      log_str("reason", err->msg));
        ending = CAS_ENDED_POWER_CUT;
    }
    if (ending == CAS_ENDED_POWER_CUT)
        suspect_all(cas);
    if (cas->fixed > cas->limit)
        return err_set(err, ERR_INVALID,
                       "the quota of %" PRId64 " bytes is less than the %" PRId64
                       " that an empty store takes",
                       cas->quota, cas->fixed + (cas->quota - cas->limit));
    (void)cas_room_shrink(cas);
    log_info("cas-open", log_str("path", cas->directory.path),
             log_num("blobs", (int64_t)cas->table.count), log_num("bytes", cas->used),
             log_num("quota", cas->quota));
    compare_with_disk(cas);
    return cas->state_outstanding ? 0 : cas_state_write(cas, false, err);
}

static void init_locks(struct cas *cas)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&cas->lock, NULL);
    (void)pthread_mutex_init(&cas->state_lock, NULL);
    (void)pthread_cond_init(&cas->changed, &attributes);
    (void)pthread_cond_init(&cas->sync_wanted, &attributes);
    (void)pthread_cond_init(&cas->keeper_wanted, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static void free_cas(struct cas *cas)
{
    if (cas->blobs_fd >= 0)
        (void)close(cas->blobs_fd);
    if (cas->uploads_fd >= 0)
        (void)close(cas->uploads_fd);
    store_directory_close(&cas->directory);
    cas_table_fini(&cas->table);
    (void)pthread_cond_destroy(&cas->keeper_wanted);
    (void)pthread_cond_destroy(&cas->sync_wanted);
    (void)pthread_cond_destroy(&cas->changed);
    (void)pthread_mutex_destroy(&cas->state_lock);
    (void)pthread_mutex_destroy(&cas->lock);
    free(cas);
}

static void stop_threads(struct cas *cas)
{
    cas_keeper_stop(cas);
    cas_sync_stop(cas);
}

int cas_open(const struct cas_options *options, struct cas **out, struct err *err)
{
    struct cas *cas = calloc(1, sizeof(*cas));
    if (cas == NULL)
        return err_no_memory(err, "a CAS");
    cas->quota = options->quota;
    cas->blobs_fd = -1;
    cas->uploads_fd = -1;
    cas->last_sync = &cas->first_sync;
    cas->patience = PATIENCE_SECONDS;
    cas->epoch = 1;
    cas->synced = 1;
    init_locks(cas);
    int rc = store_directory_open(options->path, "cas", CAS_VERSION, &cas->directory, err);
    if (rc != 0)
        goto out;
    rc = cas_table_init(&cas->table, err);
    if (rc == 0)
        rc = load(cas, err);
    if (rc == 0)
        rc = cas_sync_start(cas, err);
    if (rc == 0)
        rc = cas_keeper_start(cas, err);
    if (rc != 0)
        (void)err_wrap(err, "open %s", cas->directory.path);
out:
    if (rc != 0) {
        stop_threads(cas);
        free_cas(cas);
        return rc;
    }
    *out = cas;
    return 0;
}

/* Only what is known to be on the disk is handed on as such. */
static int close_state(struct cas *cas, struct err *err)
{
    if (cas->failures != 0)
        return cas_state_remove(cas, err);
    if (cas->state_outstanding)
        return 0;
    if (cas_disk.syncfs(cas->blobs_fd) == 0)
        return cas_state_write(cas, true, err);
    int rc = cas_file_errno(err, errno, "make blobs durable");
    struct err ignored;
    (void)cas_state_remove(cas, &ignored);
    return rc;
}

void cas_close(struct cas *cas)
{
    if (cas == NULL)
        return;
    stop_threads(cas);
    struct err err;
    if (close_state(cas, &err) != 0)
        log_error("cas-close-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    free_cas(cas);
}
