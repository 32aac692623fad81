/* SPDX-License-Identifier: Apache-2.0 */
/* The files of the log that are kept open for reading, by reference. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/cas_log_private.h"
#include "store/disk.h"

char *cas_log_name(uint64_t number, char name[CAS_LOG_NAME])
{
    (void)snprintf(name, CAS_LOG_NAME, "%016" PRIx64, number);
    return name;
}

bool cas_log_parse_name(const char *name, uint64_t *number)
{
    if (strlen(name) != CAS_LOG_NAME - 1 || strspn(name, "0123456789abcdef") != CAS_LOG_NAME - 1)
        return false;
    *number = strtoull(name, NULL, 16);
    return true;
}

int log_file_open_fd(struct cas_log *log, uint64_t number, int flags)
{
    char name[CAS_LOG_NAME];
    bool is_again = false;
    (void)cas_log_name(number, name);
    for (;;) {
        int fd = disk.openat(log->options.log_fd, name, flags | O_CLOEXEC, 0640);
        if (fd >= 0 || (errno != EINTR && errno != EMFILE && errno != ENFILE))
            return fd;
        if (errno == EINTR)
            continue;
        if (is_again)
            return -1;
        is_again = true;
        log_file_forget_all(log);
    }
}

int log_file_new(uint64_t number, int fd, struct log_file **file, struct err *err)
{
    *file = malloc(sizeof(**file));
    if (*file == NULL) {
        (void)disk.close(fd);
        return err_no_memory(err, "an open file");
    }
    atomic_init(&(*file)->references, 1);
    (*file)->fd = fd;
    (*file)->number = number;
    (*file)->used = 0;
    return 0;
}

struct log_file *log_file_ref(struct log_file *file)
{
    (void)atomic_fetch_add(&file->references, 1);
    return file;
}

void log_file_unref(struct log_file *file)
{
    if (file == NULL || atomic_fetch_sub(&file->references, 1) != 1)
        return;
    (void)disk.close(file->fd);
    free(file);
}

static struct log_file_set *set_of(struct cas_log *log, uint64_t number)
{
    return &log->sets[number % LOG_FILE_SETS];
}

/* A reference to the file of NUMBER if the set has it, or NULL. Lock held. */
static struct log_file *find(struct log_file_set *set, uint64_t number)
{
    for (size_t way = 0; way < LOG_FILE_WAYS; way++) {
        struct log_file *file = set->files[way];
        if (file != NULL && file->number == number) {
            file->used = ++set->uses;
            return log_file_ref(file);
        }
    }
    return NULL;
}

/* The way to put a file into: one that is free or of a segment that is gone, or the oldest. */
static size_t choose(const struct cas_log *log, const struct log_file_set *set)
{
    size_t oldest = 0;
    for (size_t way = 0; way < LOG_FILE_WAYS; way++) {
        const struct log_file *file = set->files[way];
        if (file == NULL || cas_segment_find(log->options.shared, file->number) == NULL)
            return way;
        if (file->used < set->files[oldest]->used)
            oldest = way;
    }
    return oldest;
}

/* Keeps FILE open, unless another thread has put one there: *FILE becomes that. */
static void keep(struct cas_log *log, struct log_file **file)
{
    struct log_file_set *set = set_of(log, (*file)->number);
    struct log_file *spare = *file;
    (void)pthread_mutex_lock(&set->lock);
    struct log_file *there = find(set, (*file)->number);
    if (there != NULL) {
        *file = there;
    } else {
        size_t way = choose(log, set);
        spare = set->files[way];
        set->files[way] = log_file_ref(*file);
        (*file)->used = ++set->uses;
    }
    (void)pthread_mutex_unlock(&set->lock);
    log_file_unref(spare);
}

bool log_file_is_staying(const struct cas_log *log, uint64_t number)
{
    const struct cas_segment *segment = cas_segment_find(log->options.shared, number);
    return segment != NULL && atomic_load(&segment->state) != CAS_LEAVING;
}

int log_file_get(struct cas_log *log, uint64_t number, struct log_file **file, struct err *err)
{
    struct log_file_set *set = set_of(log, number);
    if (cas_segment_find(log->options.shared, number) == NULL) {
        log_file_forget(log, number);
        return err_set(err, ERR_NOT_FOUND, "segment %016" PRIx64 " is gone", number);
    }
    (void)pthread_mutex_lock(&set->lock);
    *file = find(set, number);
    (void)pthread_mutex_unlock(&set->lock);
    if (*file != NULL)
        return 0;

    int fd = log_file_open_fd(log, number, O_RDONLY);
    int errnum = errno;
    if (fd < 0 && errnum == ENOENT && !log_file_is_staying(log, number))
        return err_set(err, ERR_NOT_FOUND, "segment %016" PRIx64 " is gone", number);
    if (fd < 0 && errnum == ENOENT)
        return err_set(err, ERR_DATA_LOSS, "the file of segment %016" PRIx64 " is missing", number);
    if (fd < 0) {
        (void)disk_fault(err, errnum, "open segment %016" PRIx64, number);
        /* That says nothing of the disk. */
        if (errnum == EMFILE || errnum == ENFILE)
            err->code = ERR_UNAVAILABLE;
        return -(int)err->code;
    }
    if (log_file_new(number, fd, file, err) != 0)
        return -(int)err->code;
    keep(log, file);
    return 0;
}

void log_file_forget(struct cas_log *log, uint64_t number)
{
    struct log_file_set *set = set_of(log, number);
    struct log_file *file = NULL;
    (void)pthread_mutex_lock(&set->lock);
    for (size_t way = 0; way < LOG_FILE_WAYS && file == NULL; way++)
        if (set->files[way] != NULL && set->files[way]->number == number) {
            file = set->files[way];
            set->files[way] = NULL;
        }
    (void)pthread_mutex_unlock(&set->lock);
    log_file_unref(file);
}

void log_file_forget_all(struct cas_log *log)
{
    for (size_t i = 0; i < LOG_FILE_SETS; i++) {
        struct log_file_set *set = &log->sets[i];
        (void)pthread_mutex_lock(&set->lock);
        for (size_t way = 0; way < LOG_FILE_WAYS; way++) {
            log_file_unref(set->files[way]);
            set->files[way] = NULL;
        }
        (void)pthread_mutex_unlock(&set->lock);
    }
}
