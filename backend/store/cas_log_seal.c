/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing segments, in a thread, and taking up those that a killed writer has left. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/cas_log_private.h"
#include "store/disk.h"

/* --- one segment --- */

static int open_to_seal(struct cas_log *log, struct open_segment *open, struct err *err)
{
    if (open->file != NULL)
        return 0;
    int fd = log_file_open_fd(log, open->number, O_RDWR);
    if (fd < 0)
        return disk_fault(err, errno, "open");
    struct log_file *file;
    if (log_file_new(open->number, fd, &file, err) != 0)
        return -(int)err->code;
    /* Those who sync the segment look at it. */
    (void)pthread_mutex_lock(&log->lock);
    open->file = file;
    (void)pthread_mutex_unlock(&log->lock);
    return 0;
}

/* What is behind the last whole record of a file that had become shorter is not trusted either. */
static void drop_torn(struct cas_log *log, struct open_segment *open,
                      const struct cas_content *last)
{
    uint64_t end = CAS_SEGMENT_HEADER;
    if (last != NULL)
        end = last->offset + (uint64_t)cas_key_record_size(&last->key);
    (void)pthread_mutex_lock(&log->lock);
    atomic_store(&open->segment->trusted, end);
    if (atomic_load(&open->segment->durable) > end)
        atomic_store(&open->segment->durable, end);
    (void)atomic_fetch_add(&open->segment->version, 1);
    (void)pthread_mutex_unlock(&log->lock);
    open->is_uncut = true;
}

/* Makes the entries, where they are not in memory, from the records. */
static int find_entries(struct cas_log *log, struct open_segment *open, struct err *err)
{
    struct cas_content *contents;
    size_t count;
    if (open->has_entries)
        return 0;
    int rc = cas_log_contents(log, open->number, &contents, &count, err);
    if (rc == -ERR_DATA_LOSS && open->is_short) {
        drop_torn(log, open, count > 0 ? &contents[count - 1] : NULL);
        rc = 0;
    } else if (rc == -ERR_DATA_LOSS) {
        (void)atomic_fetch_or(&open->segment->flags, CAS_SEGMENT_BROKEN);
    }
    if (rc == 0)
        rc = log_open_reserve(open, count, err);
    if (rc == 0) {
        for (size_t i = 0; i < count; i++)
            cas_contents_put_entry(&contents[i], open->entries + i * CAS_CONTENTS_ENTRY);
        open->count = count;
        open->has_entries = true;
    }
    free(contents);
    return rc;
}

/* Puts the table of contents behind the records. On error there is none. */
static int write_contents(struct cas_log *log, const struct open_segment *open, struct err *err)
{
    static const uint8_t zeros[CAS_ALIGN];
    uint8_t end[CAS_CONTENTS_END];
    struct cas_origin origin = log_origin(log, open->number);
    uint64_t trusted = atomic_load(&open->segment->trusted);
    cas_contents_put_end(&origin, open->entries, open->count, end);
    struct iovec parts[] = {
        {.iov_base = (void *)zeros, .iov_len = (size_t)(-trusted % CAS_ALIGN)},
        {.iov_base = open->entries, .iov_len = open->count * CAS_CONTENTS_ENTRY},
        {.iov_base = end, .iov_len = sizeof(end)},
    };
    int fd = open->file->fd;
    int rc = disk_write(fd, parts, 3, (off_t)trusted, err);
    if (rc == 0) {
        struct turn turn;
        log_turn_begin(log, &turn, open->number);
        if (disk.fdatasync(fd) != 0)
            rc = disk_fault(err, errno, "sync");
        log_turn_end(log, &turn);
    }
    if (rc != 0)
        (void)log_truncate(fd, trusted);
    return rc;
}

/* Everything but the state. *IS_DURABLE: its records are, and it is open. */
static int seal_file(struct cas_log *log, struct open_segment *open, bool *is_durable,
                     struct err *err)
{
    struct cas_segment *segment = open->segment;
    *is_durable = false;
    int rc = open_to_seal(log, open, err);
    if (rc != 0)
        return rc;
    /* The records come first: a table of contents says that they are there. */
    rc = log_sync_segment(log, open->number, err);
    if (rc != 0 || atomic_load(&segment->state) != CAS_OPEN)
        return rc;
    *is_durable = true;
    rc = find_entries(log, open, err);
    if (rc != 0)
        return rc;
    if (open->is_uncut && log_truncate(open->file->fd, atomic_load(&segment->trusted)) != 0)
        return disk_fault(err, errno, "cut");
    open->is_uncut = false;
    return write_contents(log, open, err);
}

/*
 * A segment that has no table of contents is sealed all the same: its records are found by reading
 * it. One that is not durable stays open.
 */
static void seal(struct cas_log *log, struct open_segment *open)
{
    struct err err;
    bool is_durable;
    char name[CAS_LOG_NAME];
    uint32_t state = CAS_OPEN;
    if (atomic_load(&open->segment->state) != CAS_OPEN)
        return; /* it was closed, as a sync failed */
    int rc = seal_file(log, open, &is_durable, &err);
    bool is_closed = atomic_load(&open->segment->state) != CAS_OPEN;
    /* The failure of a sync was logged. */
    if (rc != 0 && !is_closed)
        log_error("cas-seal-failed", log_str("path", log->options.path),
                  log_str("segment", cas_log_name(open->number, name)), log_str("reason", err.msg));
    if (is_durable)
        (void)atomic_compare_exchange_strong(&open->segment->state, &state, CAS_SEALED);
}

/* --- the thread --- */

/* The one that waits for longest, or NULL. Lock held. */
static struct open_segment *next_full(const struct cas_log *log)
{
    struct open_segment *oldest = NULL;
    for (struct open_segment *open = log->opens; open != NULL; open = open->next)
        if (open->state == OPEN_FULL && (oldest == NULL || open->order < oldest->order))
            oldest = open;
    return oldest;
}

bool log_seal_next(struct cas_log *log)
{
    struct open_segment *open = next_full(log);
    if (open == NULL)
        return false;
    open->state = OPEN_SEALING;
    (void)pthread_mutex_unlock(&log->lock);
    seal(log, open);
    (void)pthread_mutex_lock(&log->lock);
    log_open_unlink(log, open);
    (void)pthread_mutex_unlock(&log->lock);
    log_open_free(open);
    (void)pthread_mutex_lock(&log->lock);
    return true;
}

static void *seal_thread(void *argument)
{
    struct cas_log *log = argument;
    (void)pthread_mutex_lock(&log->lock);
    for (;;) {
        if (log_seal_next(log))
            continue;
        if (log->stopping)
            break;
        (void)pthread_cond_wait(&log->seal_wanted, &log->lock);
    }
    (void)pthread_mutex_unlock(&log->lock);
    return NULL;
}

/* --- what a killed writer has left --- */

static int remove_stray(struct cas_log *log, int fd, const char *name, struct err *err)
{
    struct stat st;
    uint64_t number;
    if (!cas_log_parse_name(name, &number) ||
        cas_segment_find(log->options.shared, number) != NULL ||
        fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return 0;
    return cas_log_remove(log, number, err);
}

static int remove_strays(struct cas_log *log, struct err *err)
{
    int fd = openat(log->options.log_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        int rc = disk_fault(err, errno, "list the log");
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    int rc = 0;
    struct dirent *entry;
    errno = 0;
    while (rc == 0 && (entry = readdir(stream)) != NULL) {
        rc = remove_stray(log, fd, entry->d_name, err);
        errno = 0;
    }
    if (rc == 0 && errno != 0)
        rc = disk_fault(err, errno, "list the log");
    (void)closedir(stream);
    return rc;
}

/* There is nothing in it: it was being begun or removed. */
static int free_empty(struct cas_log *log, struct cas_segment *segment, uint64_t number,
                      struct err *err)
{
    atomic_store(&segment->state, CAS_LEAVING);
    if (cas_log_remove(log, number, err) != 0)
        return -(int)err->code;
    cas_segment_free(segment);
    return 0;
}

/* Cuts the file, or what is trusted, to the other. *SIZE becomes that of the file. */
static int fit(struct cas_log *log, struct open_segment *open, uint64_t *size, struct err *err)
{
    struct cas_segment *segment = open->segment;
    struct stat st;
    *size = 0;
    int fd = log_file_open_fd(log, open->number, O_RDWR);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0)
        return disk_fault(err, errno, "open segment %016" PRIx64, open->number);
    int rc = 0;
    uint64_t trusted = atomic_load(&segment->trusted);
    if (fstat(fd, &st) != 0) {
        rc = disk_fault(err, errno, "look at segment %016" PRIx64, open->number);
    } else if ((uint64_t)st.st_size < trusted) {
        open->is_short = true;
        atomic_store(&segment->trusted, (uint64_t)st.st_size);
        if (atomic_load(&segment->durable) > (uint64_t)st.st_size)
            atomic_store(&segment->durable, (uint64_t)st.st_size);
        (void)atomic_fetch_add(&segment->version, 1);
    } else if ((uint64_t)st.st_size > trusted) {
        open->is_uncut = log_truncate(fd, trusted) != 0;
    }
    if (rc == 0)
        *size = (uint64_t)st.st_size;
    (void)disk.close(fd);
    return rc;
}

/* Takes up a segment that is open and that nobody has. IS_UNSURE: a sync may have failed untold. */
static int take_up(struct cas_log *log, struct cas_segment *segment, bool is_unsure,
                   struct err *err)
{
    struct open_segment *open = calloc(1, sizeof(*open));
    if (open == NULL)
        return err_no_memory(err, "a segment");
    open->segment = segment;
    open->number = atomic_load(&segment->number);
    atomic_store(&segment->state, CAS_OPEN);
    uint64_t size;
    int rc = fit(log, open, &size, err);
    if (rc == 0 && is_unsure && size >= CAS_SEGMENT_HEADER)
        rc = log_renew(log, segment, &open->file, err);
    if (rc == 0 &&
        (size < CAS_SEGMENT_HEADER || atomic_load(&segment->trusted) < CAS_SEGMENT_HEADER)) {
        rc = free_empty(log, segment, open->number, err);
        log_open_free(open);
        return rc;
    }
    if (rc != 0) {
        log_open_free(open);
        return rc;
    }
    (void)pthread_mutex_lock(&log->lock);
    open->next = log->opens;
    log->opens = open;
    log_open_fill(log, open);
    (void)pthread_mutex_unlock(&log->lock);
    return 0;
}

/* One that is closed already, and left to cas_rebuild. */
static int renew_closed(struct cas_log *log, struct cas_segment *segment, struct err *err)
{
    struct log_file *file;
    int rc = log_renew(log, segment, &file, err);
    log_file_unref(file);
    return rc;
}

static int take_up_left(struct cas_log *log, struct err *err)
{
    _Atomic uint32_t *syncing = &log->options.shared->header->syncing;
    bool is_unsure = atomic_load(syncing) != 0;
    uint32_t index = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(log->options.shared, &index)) != NULL) {
        uint32_t state = atomic_load(&segment->state);
        /* An earlier attempt may have come so far. */
        if (log_open_find(log, atomic_load(&segment->number)) != NULL)
            continue;
        /* Whether one that was about to go is sealed is not known: it is sealed anew. */
        if ((state == CAS_OPEN || state == CAS_LEAVING) &&
            take_up(log, segment, is_unsure, err) != 0)
            return -(int)err->code;
        if (state == CAS_SEALED && is_unsure && renew_closed(log, segment, err) != 0)
            return -(int)err->code;
    }
    atomic_store(syncing, 0);
    return 0;
}

int cas_log_begin_writing(struct cas_log *log, struct err *err)
{
    log->stopping = false;
    if (take_up_left(log, err) != 0 || remove_strays(log, err) != 0)
        return -(int)err->code;
    int rc = pthread_create(&log->sealer, NULL, seal_thread, log);
    if (rc != 0)
        return err_errno(err, rc, "start a thread");
    (void)pthread_setname_np(log->sealer, "cas-seal");
    log->has_sealer = true;
    return 0;
}

int cas_log_end_writing(struct cas_log *log, struct err *err)
{
    if (!log->has_sealer)
        return 0;
    uint64_t failures = cas_log_failures(log);
    uint32_t index = 0;
    struct cas_segment *segment;
    (void)pthread_mutex_lock(&log->lock);
    for (struct open_segment *open = log->opens; open != NULL; open = open->next) {
        assert(open->state != OPEN_TAKEN);
        if (open->state == OPEN_IDLE || open->state == OPEN_RETIRED)
            log_open_fill(log, open);
    }
    (void)pthread_mutex_unlock(&log->lock);
    /* Those that were to be kept when there was no memory for it. */
    while ((segment = cas_segment_next(log->options.shared, &index)) != NULL)
        if (atomic_load(&segment->state) == CAS_OPEN)
            cas_log_keep(log, atomic_load(&segment->number));

    (void)pthread_mutex_lock(&log->lock);
    log->stopping = true;
    (void)pthread_cond_signal(&log->seal_wanted);
    (void)pthread_mutex_unlock(&log->lock);
    (void)pthread_join(log->sealer, NULL);
    log->has_sealer = false;

    index = 0;
    bool has_open = false;
    while ((segment = cas_segment_next(log->options.shared, &index)) != NULL)
        has_open = has_open || atomic_load(&segment->state) == CAS_OPEN;
    if (has_open || cas_log_failures(log) != failures)
        return err_set(err, ERR_IO, "the log is not durable");
    return 0;
}
