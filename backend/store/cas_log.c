/* SPDX-License-Identifier: Apache-2.0 */
/* The log: taking segments to append to, appending, and giving them back. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/log.h"
#include "store/cas_log_private.h"
#include "store/disk.h"

/* Bytes of the smallest record: a header with the shortest hash, and nothing. */
enum { RECORD_MIN = 48 };

/* What st_blksize is believed to be at most, as it is also what is good to read at a time. */
enum { BLOCK_MIN = 512, BLOCK_MAX = 128 << 10 };

int64_t cas_log_segment_size(int64_t quota)
{
    int64_t size = quota / 256 / 4096 * 4096;
    if (size < CAS_SEGMENT_SIZE_MIN)
        return CAS_SEGMENT_SIZE_MIN;
    return size < CAS_SEGMENT_SIZE_MAX ? size : CAS_SEGMENT_SIZE_MAX;
}

/* Before Linux 5.8 syncfs was silent about what could not be written. */
static bool tells_syncfs(void)
{
    struct utsname name;
    int major = 0;
    int minor = 0;
    return uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 5 || (major == 5 && minor >= 8));
}

int cas_log_new(const struct cas_log_options *options, struct cas_log **log, struct err *err)
{
    struct stat st;
    if (fstat(options->log_fd, &st) != 0)
        return disk_fault(err, errno, "look at the log");
    struct cas_log *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return err_no_memory(err, "the log");
    made->options = *options;
    made->has_syncfs = tells_syncfs();
    made->block = st.st_blksize;
    if (made->block < BLOCK_MIN)
        made->block = BLOCK_MIN;
    if (made->block > BLOCK_MAX)
        made->block = BLOCK_MAX;
    for (size_t i = 0; i < LOG_FILE_SETS; i++)
        (void)pthread_mutex_init(&made->sets[i].lock, NULL);
    (void)pthread_mutex_init(&made->lock, NULL);
    (void)pthread_cond_init(&made->turn_over, NULL);
    (void)pthread_cond_init(&made->seal_wanted, NULL);
    *log = made;
    return 0;
}

void cas_log_free(struct cas_log *log)
{
    if (log == NULL)
        return;
    assert(!log->has_sealer);
    while (log->opens != NULL) {
        struct open_segment *open = log->opens;
        log->opens = open->next;
        log_open_free(open);
    }
    log_file_forget_all(log);
    for (size_t i = 0; i < LOG_FILE_SETS; i++)
        (void)pthread_mutex_destroy(&log->sets[i].lock);
    (void)pthread_mutex_destroy(&log->lock);
    (void)pthread_cond_destroy(&log->turn_over);
    (void)pthread_cond_destroy(&log->seal_wanted);
    free(log);
}

uint64_t cas_log_failures(const struct cas_log *log)
{
    return atomic_load(&log->failures);
}

/* --- what it costs --- */

int64_t cas_log_overhead(const struct cas_log *log)
{
    /* A block is begun at the end of the file, and one may hold the map of its extents. */
    int64_t size = CAS_SEGMENT_HEADER + CAS_CONTENTS_END + 2 * log->block;
    return (size + log->block - 1) / log->block * log->block;
}

int64_t cas_log_growth(int64_t bytes, size_t records)
{
    return bytes + (int64_t)records * CAS_CONTENTS_ENTRY;
}

/* --- open segments --- */

struct open_segment *log_open_find(const struct cas_log *log, uint64_t number)
{
    struct open_segment *open = log->opens;
    while (open != NULL && open->number != number)
        open = open->next;
    return open;
}

void log_open_unlink(struct cas_log *log, struct open_segment *open)
{
    struct open_segment **link = &log->opens;
    while (*link != open)
        link = &(*link)->next;
    *link = open->next;
    open->next = NULL;
}

void log_open_free(struct open_segment *open)
{
    if (open == NULL)
        return;
    log_file_unref(open->file);
    free(open->entries);
    free(open);
}

int log_open_reserve(struct open_segment *open, size_t count, struct err *err)
{
    if (count <= open->capacity - open->count)
        return 0;
    size_t capacity = open->count + count;
    /* One record of a segment of its own needs no more; others come in great numbers. */
    if (capacity > 1 && capacity < 2 * open->capacity)
        capacity = 2 * open->capacity;
    uint8_t *entries = NULL;
    if (capacity <= SIZE_MAX / CAS_CONTENTS_ENTRY)
        entries = realloc(open->entries, capacity * CAS_CONTENTS_ENTRY);
    if (entries == NULL)
        return err_no_memory(err, "the contents of a segment");
    open->entries = entries;
    open->capacity = capacity;
    return 0;
}

int log_truncate(int fd, uint64_t size)
{
    int rc;
    do
        rc = disk.ftruncate(fd, (off_t)size);
    while (rc != 0 && errno == EINTR);
    return rc;
}

/* --- taking --- */

static bool has_room(const struct cas_log *log, const struct open_segment *open, int64_t size,
                     bool is_own)
{
    int64_t trusted = (int64_t)atomic_load(&open->segment->trusted);
    /* An upload that was given up leaves an empty one, which serves the next. */
    if (is_own)
        return open->count == 0;
    int64_t records = (int64_t)open->count + size / RECORD_MIN + 1;
    return trusted < log->options.segment_size && open->count < CAS_SEGMENT_RECORDS_MAX &&
           trusted + cas_log_growth(size, (size_t)records) + CAS_CONTENTS_END <=
               LOG_SEGMENT_END_MAX;
}

/* The one given back last that has room, or NULL. */
static struct open_segment *take_idle(struct cas_log *log, int64_t size, bool is_own)
{
    struct open_segment *best = NULL;
    (void)pthread_mutex_lock(&log->lock);
    for (struct open_segment *open = log->opens; open != NULL; open = open->next)
        if (open->state == OPEN_IDLE && (best == NULL || open->order > best->order) &&
            has_room(log, open, size, is_own))
            best = open;
    if (best != NULL) {
        best->state = OPEN_TAKEN;
        best->is_own = is_own;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return best;
}

static int create_file(struct cas_log *log, struct open_segment *open, struct err *err)
{
    uint8_t header[CAS_SEGMENT_HEADER];
    struct cas_origin origin = log_origin(log, open->number);
    int fd = log_file_open_fd(log, open->number, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0)
        return disk_fault(err, errno, "make segment %016" PRIx64, open->number);
    if (log_file_new(open->number, fd, &open->file, err) != 0)
        return -(int)err->code;
    cas_segment_put_header(&origin, atomic_load(&open->segment->sequence), header);
    struct iovec part = {.iov_base = header, .iov_len = sizeof(header)};
    if (disk_write(open->file->fd, &part, 1, 0, err) != 0)
        return err_wrap(err, "make segment %016" PRIx64, open->number);
    return 0;
}

/* Undoes a segment that could not be made. */
static void drop_new(struct cas_log *log, struct open_segment *open)
{
    struct err err;
    /* What cannot be removed has at most a header, and goes when a writer begins. */
    if (cas_log_remove(log, open->number, &err) != 0)
        log_error("cas-remove-failed", log_str("path", log->options.path),
                  log_str("reason", err.msg));
    cas_log_free_segment(log, open->segment);
    log_open_free(open);
}

static int begin_segment(struct cas_log *log, bool is_own, struct open_segment **out,
                         struct err *err)
{
    struct open_segment *open = calloc(1, sizeof(*open));
    if (open == NULL)
        return err_no_memory(err, "a segment");
    int rc = cas_segment_begin(log->options.shared, &open->segment, err);
    if (rc != 0) {
        free(open);
        return rc;
    }
    open->number = atomic_load(&open->segment->number);
    open->state = OPEN_TAKEN;
    open->has_entries = true;
    open->is_own = is_own;
    rc = create_file(log, open, err);
    if (rc != 0) {
        drop_new(log, open);
        return rc;
    }
    (void)pthread_mutex_lock(&log->lock);
    atomic_store(&open->segment->trusted, CAS_SEGMENT_HEADER);
    open->next = log->opens;
    log->opens = open;
    (void)pthread_mutex_unlock(&log->lock);
    *out = open;
    return 0;
}

int cas_log_take(struct cas_log *log, int64_t size, struct cas_appender *appender, bool *is_new,
                 struct err *err)
{
    bool is_own = size > log->options.segment_size / 4;
    struct open_segment *open = take_idle(log, size, is_own);
    *is_new = open == NULL;
    if (open == NULL && begin_segment(log, is_own, &open, err) != 0)
        return -(int)err->code;
    *appender = (struct cas_appender){.log = log,
                                      .open = open,
                                      .segment = open->segment,
                                      .number = open->number,
                                      .fd = open->file->fd,
                                      .offset = atomic_load(&open->segment->trusted),
                                      .origin = log_origin(log, open->number)};
    return 0;
}

/* --- appending --- */

static int say_closed(const struct cas_appender *appender, struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "segment %016" PRIx64 " was closed, as the disk failed",
                   appender->number);
}

int cas_log_append(struct cas_appender *appender, struct iovec *parts, int count, struct err *err)
{
    uint64_t size = 0;
    if (atomic_load(&appender->segment->state) != CAS_OPEN)
        return say_closed(appender, err);
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    appender->open->is_uncut = true;
    if (disk_write(appender->fd, parts, count, (off_t)appender->offset, err) != 0)
        return err_wrap(err, "segment %016" PRIx64, appender->number);
    appender->offset += size;
    return 0;
}

int cas_log_publish(struct cas_appender *appender, const struct cas_content *contents, size_t count,
                    struct err *err)
{
    struct cas_log *log = appender->log;
    struct open_segment *open = appender->open;
    assert(appender->offset % CAS_ALIGN == 0);
    if (log_open_reserve(open, count, err) != 0)
        return -(int)err->code;
    for (size_t i = 0; i < count; i++) {
        assert(contents[i].offset < (uint64_t)LOG_SEGMENT_END_MAX);
        cas_contents_put_entry(&contents[i],
                               open->entries + (open->count + i) * CAS_CONTENTS_ENTRY);
    }
    /* A sync that fails at this moment closes the segment, and takes `trusted` back. */
    (void)pthread_mutex_lock(&log->lock);
    bool is_open = atomic_load(&open->segment->state) == CAS_OPEN;
    if (is_open) {
        open->count += count;
        (void)atomic_fetch_add(&open->segment->records, (uint32_t)count);
        atomic_store(&open->segment->trusted, appender->offset);
        open->is_uncut = false;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return is_open ? 0 : say_closed(appender, err);
}

/* --- giving back --- */

static bool is_full(const struct cas_log *log, const struct open_segment *open)
{
    return (int64_t)atomic_load(&open->segment->trusted) >= log->options.segment_size ||
           open->count >= CAS_SEGMENT_RECORDS_MAX || (open->is_own && open->count > 0);
}

void log_open_fill(struct cas_log *log, struct open_segment *open)
{
    open->state = OPEN_FULL;
    open->order = ++log->order;
    (void)pthread_cond_signal(&log->seal_wanted);
}

/* Does not let too many wait: the one that does so for longest is sealed. Lock held. */
static void seal_surplus(struct cas_log *log)
{
    struct open_segment *oldest = NULL;
    size_t idle = 0;
    for (struct open_segment *open = log->opens; open != NULL; open = open->next) {
        if (open->state != OPEN_IDLE)
            continue;
        idle++;
        if (oldest == NULL || open->order < oldest->order)
            oldest = open;
    }
    if (idle > LOG_IDLE_MAX)
        log_open_fill(log, oldest);
}

/* Whether the thread that seals is far behind. Lock held. */
static bool is_behind(const struct cas_log *log)
{
    size_t waiting = 0;
    for (const struct open_segment *open = log->opens; open != NULL; open = open->next)
        waiting += open->state == OPEN_FULL;
    return waiting > LOG_QUEUE_MAX;
}

bool cas_log_give(struct cas_appender *appender)
{
    struct cas_log *log = appender->log;
    struct open_segment *open = appender->open;
    /* If it was closed meanwhile, what was written since lies behind what is trusted. */
    char name[CAS_LOG_NAME];
    bool is_cut = true;
    if (open->is_uncut || atomic_load(&open->segment->state) != CAS_OPEN) {
        is_cut = log_truncate(appender->fd, atomic_load(&open->segment->trusted)) == 0;
        int errnum = errno;
        open->is_uncut = !is_cut;
        if (!is_cut)
            log_error("cas-cut-failed", log_str("path", log->options.path),
                      log_str("segment", cas_log_name(open->number, name)),
                      log_str("reason", strerror(errnum)));
    }
    (void)pthread_mutex_lock(&log->lock);
    bool is_closed = atomic_load(&open->segment->state) != CAS_OPEN;
    if (is_closed) {
        log_open_unlink(log, open);
    } else if (!is_cut || is_full(log, open)) {
        log_open_fill(log, open);
        /* Who fills them faster than the disk takes them does some of that itself. */
        if (is_behind(log))
            (void)log_seal_next(log);
    } else {
        open->state = OPEN_IDLE;
        open->order = ++log->order;
        seal_surplus(log);
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (is_closed)
        log_open_free(open);
    appender->open = NULL;
    return is_cut;
}

/* --- removing --- */

/*
 * Nobody works on it, and it can still be kept: otherwise, where many wait to be sealed, those that
 * were used longest ago could not be evicted.
 */
static bool is_waiting(const struct open_segment *open)
{
    return open->state == OPEN_IDLE || open->state == OPEN_RETIRED ||
           (open->state == OPEN_FULL && !open->is_uncut && !open->is_short);
}

bool cas_log_retire(struct cas_log *log, uint64_t number)
{
    (void)pthread_mutex_lock(&log->lock);
    struct open_segment *open = log_open_find(log, number);
    bool is_retired;
    if (open != NULL) {
        is_retired = is_waiting(open);
        if (is_retired)
            open->state = OPEN_RETIRED;
    } else {
        /* One of which nothing is trusted is being begun at this moment. */
        const struct cas_segment *segment = cas_segment_find(log->options.shared, number);
        is_retired = segment == NULL || atomic_load(&segment->state) != CAS_OPEN ||
                     atomic_load(&segment->trusted) != 0;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return is_retired;
}

bool cas_log_is_sealing(struct cas_log *log, uint64_t number)
{
    (void)pthread_mutex_lock(&log->lock);
    const struct open_segment *open = log_open_find(log, number);
    bool is_sealing = open != NULL && (open->state == OPEN_SEALING || open->state == OPEN_FULL);
    (void)pthread_mutex_unlock(&log->lock);
    return is_sealing;
}

/* Hands a retired one to the thread that seals; false: it is not known here. Lock held. */
static bool keep_retired(struct cas_log *log, struct open_segment *open)
{
    if (open != NULL && open->state == OPEN_RETIRED)
        log_open_fill(log, open);
    return open != NULL;
}

void cas_log_keep(struct cas_log *log, uint64_t number)
{
    (void)pthread_mutex_lock(&log->lock);
    bool is_known = keep_retired(log, log_open_find(log, number));
    (void)pthread_mutex_unlock(&log->lock);
    struct open_segment *open = is_known ? NULL : calloc(1, sizeof(*open));
    if (open == NULL)
        return; /* without memory it is sealed when the writing ends */
    (void)pthread_mutex_lock(&log->lock);
    struct cas_segment *segment = cas_segment_find(log->options.shared, number);
    bool is_open = segment != NULL && atomic_load(&segment->state) == CAS_OPEN &&
                   !keep_retired(log, log_open_find(log, number));
    if (is_open) {
        open->segment = segment;
        open->number = number;
        open->next = log->opens;
        log->opens = open;
        log_open_fill(log, open);
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (!is_open)
        free(open);
}

/* Of one that was retired nothing is needed any more. */
static void drop_retired(struct cas_log *log, uint64_t number)
{
    (void)pthread_mutex_lock(&log->lock);
    struct open_segment *open = log_open_find(log, number);
    if (open != NULL && open->state == OPEN_RETIRED)
        log_open_unlink(log, open);
    else
        open = NULL;
    (void)pthread_mutex_unlock(&log->lock);
    log_open_free(open);
}

int cas_log_remove(struct cas_log *log, uint64_t number, struct err *err)
{
    char name[CAS_LOG_NAME];
    log_file_forget(log, number);
    int fd = log_file_open_fd(log, number, O_WRONLY);
    if (fd < 0 && errno == ENOENT) {
        drop_retired(log, number);
        return 0;
    }
    if (fd < 0)
        return disk_fault(err, errno, "remove segment %016" PRIx64, number);
    int rc = log_truncate(fd, 0);
    if (rc != 0)
        (void)disk_fault(err, errno, "remove segment %016" PRIx64, number);
    (void)disk.close(fd);
    if (rc != 0)
        return -(int)err->code;
    drop_retired(log, number);
    /* A name alone takes no room; it goes when a writer begins. */
    if (disk.unlinkat(log->options.log_fd, cas_log_name(number, name), 0) != 0 && errno != ENOENT)
        log_warning("cas-unlink-failed", log_str("path", log->options.path),
                    log_str("segment", name), log_str("reason", strerror(errno)));
    return 0;
}

void cas_log_free_segment(struct cas_log *log, struct cas_segment *segment)
{
    (void)pthread_mutex_lock(&log->lock);
    cas_segment_free(segment);
    (void)pthread_mutex_unlock(&log->lock);
}
