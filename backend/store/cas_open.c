/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing of a CAS, and the turn to write, which one process has at a time. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/cas_private.h"
#include "store/disk.h"

/* Older ones cannot be used: what is in them is pushed again. */
static const struct store_kind kind = {.name = "cas", .version = 2, .oldest = 2};

/* Milliseconds. */
enum {
    TURN_INTERVAL = 250,         /* between two looks whether it is our turn to write */
    TURN_FAILED_INTERVAL = 5000, /* after taking over failed */
    TELL_INTERVAL = 60 * 1000,   /* between two lines that say so */
    REFRESH_INTERVAL = 1000,     /* between two looks for files of the table that were replaced */
    SETUP_INTERVAL = 10,         /* between two looks whether another has set the store up */
    SETUP_PATIENCE = 3000,
    BRIEFLY = 100, /* another has the lock, to have a look at the store */
};

/* Of what others have put into the store: files that are counted, and folders in each other. */
enum { OTHERS_MAX = 1 << 20, OTHER_DEPTH_MAX = 16 };

bool cas_pause(struct cas *cas, int64_t duration)
{
    int64_t until = clock_steady() + duration;
    const struct timespec deadline = {.tv_sec = (time_t)(until / 1000),
                                      .tv_nsec = (long)(until % 1000) * 1000000};
    int rc = 0;
    (void)pthread_mutex_lock(&cas->turn_lock);
    while (!atomic_load(&cas->closing) && rc == 0)
        rc = pthread_cond_timedwait(&cas->turn_changed, &cas->turn_lock, &deadline);
    (void)pthread_mutex_unlock(&cas->turn_lock);
    return !atomic_load(&cas->closing);
}

/* --- what others have put there --- */

struct others {
    int64_t files;
    int64_t bytes;           /* on disk */
    char name[NAME_MAX + 1]; /* of the first */
};

/* Counts NAME in the directory PARENT, and what is in it; the latter up to a bound. */
static void count_below(struct others *others, int parent, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    if (others->files++ == 0)
        (void)snprintf(others->name, sizeof(others->name), "%s", name);
    others->bytes += (int64_t)st.st_blocks * 512;
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
    while (others->files < OTHERS_MAX && (entry = readdir(stream)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            count_below(others, fd, entry->d_name, depth + 1);
    (void)closedir(stream);
}

static bool is_part(const struct cas *cas, const char *name)
{
    static const char *const parts[] = {".", "..", "format", "shared", "log", "table"};
    (void)cas;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strcmp(name, parts[i]) == 0)
            return true;
    return false;
}

static bool is_segment(const struct cas *cas, const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    uint64_t number;
    return cas_log_parse_name(name, &number) && cas_segment_find(&cas->shared, number) != NULL;
}

static int count_in(const struct cas *cas, int directory,
                    bool (*is_ours)(const struct cas *, const char *), struct others *others,
                    struct err *err)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        int rc = disk_fault(err, errno, "list a directory");
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    struct dirent *entry;
    while (others->files < OTHERS_MAX && (errno = 0, (entry = readdir(stream)) != NULL))
        if (!is_ours(cas, entry->d_name))
            count_below(others, fd, entry->d_name, 0);
    int rc = errno == 0 ? 0 : disk_fault(err, errno, "list a directory");
    (void)closedir(stream);
    return rc;
}

/* What lies in cas/ but is not ours counts as well. The table's directory is swept. */
static int count_others(const struct cas *cas, struct others *others, struct err *err)
{
    *others = (struct others){.files = 0};
    if (count_in(cas, cas->directory.fd, is_part, others, err) != 0 ||
        count_in(cas, cas->log_fd, is_segment, others, err) != 0)
        return -(int)err->code;
    if (others->files != 0)
        log_warning("cas-others", log_str("path", cas->directory.path),
                    log_num("files", others->files), log_num("bytes", others->bytes),
                    log_str("such-as", others->name),
                    log_str("reason", others->files < OTHERS_MAX
                                          ? "not of this program; counts against the quota"
                                          : "too many: only these count against the quota"));
    return 0;
}

/* --- writing --- */

static int make_space(struct cas *cas, struct err *err)
{
    struct others others;
    int rc = digest_table_sweep(cas->table, err);
    if (rc == 0)
        rc = count_others(cas, &others, err);
    if (rc != 0)
        return rc;
    const struct cas_space_options options = {.shared = &cas->shared,
                                              .table = cas->table,
                                              .log = cas->log,
                                              .cas_fd = cas->directory.fd,
                                              .log_fd = cas->log_fd,
                                              .table_fd = cas->table_fd,
                                              .quota = cas->options.quota,
                                              .keeps_all = cas->options.keeps_all,
                                              .others = others.bytes,
                                              .path = cas->directory.path};
    return cas_space_new(&options, &cas->space, err);
}

static void free_space(struct cas *cas)
{
    const struct digest_table_room none = {.take = NULL};
    if (cas->space == NULL)
        return;
    digest_table_set_room(cas->table, &none);
    cas_space_free(cas->space);
    cas->space = NULL;
}

/* With the lock on the store held, and what was left of it recovered. */
static int begin_writing(struct cas *cas, struct err *err)
{
    struct err ignored;
    /* From now on only this process writes shards anew: it has to have those that are published. */
    digest_table_refresh(cas->table);
    if (!digest_table_is_current(cas->table))
        return err_set(err, ERR_UNAVAILABLE, "not all of the digest table can be opened");
    /* The log comes first: what it frees does not count any more. */
    int rc = cas_log_begin_writing(cas->log, err);
    if (rc == 0)
        rc = make_space(cas, err);
    if (rc == 0)
        rc = cas_space_start(cas->space, err);
    if (rc == 0)
        rc = cas_commit_start(cas, err);
    if (rc != 0) {
        free_space(cas);
        (void)cas_log_end_writing(cas->log, &ignored);
        return rc;
    }
    atomic_store(&cas->writing, true);
    log_info("cas-writing", log_str("path", cas->directory.path),
             log_num("blobs", (int64_t)atomic_load(&cas->shared.header->blobs)),
             log_num("bytes", cas_space_used(cas->space)), log_num("quota", cas->options.quota));
    return 0;
}

/* Makes durable all that there is, and says so for the next start, unless something fails. */
static int end_writing(struct cas *cas, struct err *err)
{
    struct cas_shared *shared = &cas->shared;
    atomic_store(&cas->writing, false);
    cas_commit_stop(cas);
    free_space(cas);
    if (cas_log_end_writing(cas->log, err) != 0 || digest_table_sync(cas->table, err) != 0 ||
        cas_shared_sync(shared, err) != 0)
        return -(int)err->code;
    if (atomic_load(&shared->header->rebuilding) != CAS_REBUILT)
        return 0;
    atomic_store(&shared->header->clean, 1);
    int rc = cas_shared_sync(shared, err);
    if (rc != 0)
        atomic_store(&shared->header->clean, 0);
    return rc;
}

/* --- the turn --- */

/* Whether it may begin to write now, if no other process does. */
static bool is_turn(const struct cas *cas)
{
    const struct cas_options *options = &cas->options;
    return options->may_write && (options->is_turn == NULL || options->is_turn(options->context));
}

static int lock(struct cas *cas, struct err *err)
{
    int rc = store_directory_lock(&cas->directory, err);
    cas->has_lock = rc == 0;
    return rc;
}

static void unlock(struct cas *cas)
{
    if (cas->has_lock)
        store_directory_unlock(&cas->directory);
    cas->has_lock = false;
}

/* The turn to write came to a process that has the store open: it goes on to read meanwhile. */
static int take_over(struct cas *cas, struct err *err)
{
    int rc = cas_recover(cas, &cas->to_rebuild, err);
    if (rc == 0)
        rc = begin_writing(cas, err);
    return rc;
}

/* Takes the turn to write if it is free and ours. False: that failed. */
static bool try_turn(struct cas *cas, int64_t *told_at)
{
    struct err err;
    if (!is_turn(cas))
        return true;
    int rc = lock(cas, &err);
    if (rc == -ERR_UNAVAILABLE)
        return true;
    if (rc == 0)
        rc = take_over(cas, &err);
    if (rc == 0)
        return true;
    unlock(cas);
    if (*told_at == 0 || clock_steady() - *told_at >= TELL_INTERVAL) {
        *told_at = clock_steady();
        log_error("cas-writing-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    }
    return false;
}

/*
 * What a process does that does not write: it waits for its turn, and lets go of files of the table
 * that the writer has replaced, as their blocks stay taken as long as they are mapped.
 */
static void wait_for_turn(struct cas *cas)
{
    int64_t interval = cas->options.may_write ? TURN_INTERVAL : REFRESH_INTERVAL;
    int64_t pause = interval;
    int64_t told_at = 0;
    int64_t refreshed_at = 0;
    while (!atomic_load(&cas->writing) && cas_pause(cas, pause)) {
        if (clock_steady() - refreshed_at >= REFRESH_INTERVAL) {
            refreshed_at = clock_steady();
            digest_table_refresh(cas->table);
        }
        pause = try_turn(cas, &told_at) ? interval : TURN_FAILED_INTERVAL;
    }
}

static void rebuild(struct cas *cas)
{
    struct err err;
    if (cas->to_rebuild && cas->has_lock && cas_rebuild(cas, &err) != 0 &&
        err.code != ERR_CANCELLED)
        log_error("cas-rebuild-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    cas->to_rebuild = false;
    if (!atomic_load(&cas->writing))
        unlock(cas);
}

static void *turn_thread(void *argument)
{
    struct cas *cas = argument;
    rebuild(cas);
    if (!atomic_load(&cas->writing)) {
        wait_for_turn(cas);
        rebuild(cas);
    }
    return NULL;
}

static int start_turn_thread(struct cas *cas, struct err *err)
{
    int rc = pthread_create(&cas->turn_thread, NULL, turn_thread, cas);
    if (rc != 0)
        return err_errno(err, rc, "start a thread");
    (void)pthread_setname_np(cas->turn_thread, "cas-turn");
    cas->has_turn_thread = true;
    return 0;
}

static void stop_turn_thread(struct cas *cas)
{
    (void)pthread_mutex_lock(&cas->turn_lock);
    atomic_store(&cas->closing, true);
    (void)pthread_cond_broadcast(&cas->turn_changed);
    (void)pthread_mutex_unlock(&cas->turn_lock);
    if (cas->has_turn_thread)
        (void)pthread_join(cas->turn_thread, NULL);
    cas->has_turn_thread = false;
}

/* Who does that has the lock, though it may be one that never writes. */
static bool is_being_rebuilt(const struct cas *cas)
{
    return atomic_load(&cas->shared.header->rebuilding) != CAS_REBUILT;
}

int cas_is_writing(struct cas *cas, struct err *err)
{
    if (atomic_load(&cas->writing))
        return 0;
    int holder = store_directory_holder(&cas->directory);
    if (holder != 0 && is_being_rebuilt(cas))
        return err_set(err, ERR_UNAVAILABLE,
                       "process %d finds out what is in %s after a power cut, this one only reads "
                       "it until then",
                       holder, cas->directory.path);
    if (holder != 0)
        return err_set(err, ERR_UNAVAILABLE, "process %d writes to %s, this one only reads it",
                       holder, cas->directory.path);
    return err_set(err, ERR_UNAVAILABLE, "%s is only read by this process at present",
                   cas->directory.path);
}

/* --- opening --- */

static int open_part(const struct cas *cas, const char *name, int *fd, struct err *err)
{
    if (mkdirat(cas->directory.fd, name, 0750) != 0 && errno != EEXIST)
        return disk_fault(err, errno, "make %s", name);
    /* Whoever made it may have been killed before it did this. */
    if (disk.fsync(cas->directory.fd) != 0)
        return disk_fault(err, errno, "fsync the directory");
    *fd = openat(cas->directory.fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? 0 : disk_fault(err, errno, "open %s", name);
}

static void close_mapped(struct cas *cas)
{
    if (cas->log != NULL)
        cas_log_free(cas->log);
    cas->log = NULL;
    if (cas->table != NULL)
        digest_table_close(cas->table);
    cas->table = NULL;
    if (cas->shared.header != NULL)
        cas_shared_close(&cas->shared);
}

/* With the lock held: writes, or leaves the store to others as it should be. */
static int open_alone(struct cas *cas, bool writes, struct err *err)
{
    int rc = -1;
    if (!writes) {
        rc = cas_recover_beside(cas, err);
        if (rc != 0)
            close_mapped(cas);
    }
    if (rc != 0)
        rc = cas_recover(cas, &cas->to_rebuild, err);
    if (rc == 0)
        rc = cas_shared_join(&cas->shared, err);
    if (rc == 0 && writes)
        rc = begin_writing(cas, err);
    if (rc == 0 && !writes && !cas->to_rebuild)
        unlock(cas);
    return rc;
}

static int open_beside(struct cas *cas, struct err *err)
{
    int rc = cas_recover_beside(cas, err);
    if (rc == 0)
        rc = cas_shared_join(&cas->shared, err);
    if (rc != 0)
        close_mapped(cas);
    return rc;
}

static int open_mapped(struct cas *cas, struct err *err)
{
    int64_t begun = clock_steady();
    for (;;) {
        int rc = lock(cas, err);
        bool writes = is_turn(cas);
        if (rc == 0)
            return open_alone(cas, writes, err);
        if (rc != -ERR_UNAVAILABLE)
            return rc;
        int64_t waited = clock_steady() - begun;
        if (!writes || waited >= BRIEFLY) {
            struct err why;
            rc = open_beside(cas, &why);
            if (rc == 0 || rc == -ERR_EXHAUSTED || rc == -ERR_NO_MEMORY) {
                *err = why;
                return rc;
            }
            if (waited >= SETUP_PATIENCE) {
                (void)err_wrap(err, "%s", why.msg);
                return -(int)err->code;
            }
        }
        (void)cas_pause(cas, SETUP_INTERVAL);
    }
}

static void init_locks(struct cas *cas)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&cas->holds_lock, NULL);
    (void)pthread_mutex_init(&cas->sync_lock, NULL);
    (void)pthread_mutex_init(&cas->turn_lock, NULL);
    (void)pthread_cond_init(&cas->sync_wanted, &attributes);
    (void)pthread_cond_init(&cas->turn_changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static void free_cas(struct cas *cas)
{
    close_mapped(cas);
    unlock(cas);
    if (cas->log_fd >= 0)
        (void)close(cas->log_fd);
    if (cas->table_fd >= 0)
        (void)close(cas->table_fd);
    store_directory_close(&cas->directory);
    (void)pthread_cond_destroy(&cas->turn_changed);
    (void)pthread_cond_destroy(&cas->sync_wanted);
    (void)pthread_mutex_destroy(&cas->turn_lock);
    (void)pthread_mutex_destroy(&cas->sync_lock);
    (void)pthread_mutex_destroy(&cas->holds_lock);
    free(cas);
}

/* The text was looked at when the format file was read. */
static void parse_id(const char *text, uint8_t id[16])
{
    for (size_t i = 0; i < 16; i++) {
        const char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        id[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
}

static int open_all(struct cas *cas, struct err *err)
{
    parse_id(cas->directory.id, cas->store);
    if (open_part(cas, "log", &cas->log_fd, err) != 0 ||
        open_part(cas, "table", &cas->table_fd, err) != 0 || open_mapped(cas, err) != 0)
        return -(int)err->code;
    bool is_waiting = cas->options.may_write && !atomic_load(&cas->writing);
    if (is_waiting)
        log_warning("cas-waiting", log_str("path", cas->directory.path),
                    log_num("holder", store_directory_holder(&cas->directory)),
                    log_str("reason", is_being_rebuilt(cas)
                                          ? "another process finds out what is there after a power "
                                            "cut: this one reads until it lets it write"
                                          : "another process writes: this one reads until it "
                                            "ends"));
    else if (!cas->options.may_write)
        log_info("cas-reading", log_str("path", cas->directory.path),
                 log_num("blobs", (int64_t)atomic_load(&cas->shared.header->blobs)));
    return !atomic_load(&cas->writing) || cas->to_rebuild ? start_turn_thread(cas, err) : 0;
}

int cas_open(const struct cas_options *options, struct cas **out, struct err *err)
{
    struct cas *cas = calloc(1, sizeof(*cas));
    if (cas == NULL)
        return err_no_memory(err, "a CAS");
    cas->options = *options;
    cas->options.path = NULL; /* the caller's; the directory has its own */
    cas->log_fd = -1;
    cas->table_fd = -1;
    cas->shared = (struct cas_shared){.fd = -1, .process = -1};
    init_locks(cas);
    int rc = store_directory_open(options->path, &kind, &cas->directory, err);
    if (rc == 0) {
        rc = open_all(cas, err);
        if (rc != 0)
            (void)err_wrap(err, "open %s", cas->directory.path);
    }
    if (rc != 0) {
        struct err ignored;
        if (atomic_load(&cas->writing))
            (void)end_writing(cas, &ignored);
        free_cas(cas);
        return rc;
    }
    *out = cas;
    return 0;
}

void cas_close(struct cas *cas)
{
    if (cas == NULL)
        return;
    stop_turn_thread(cas);
    struct err err;
    if (atomic_load(&cas->writing) && end_writing(cas, &err) != 0)
        log_error("cas-close-failed", log_str("path", cas->directory.path),
                  log_str("reason", err.msg));
    free_cas(cas);
}
