/* SPDX-License-Identifier: Apache-2.0 */
/* The real system calls, what their errors mean, and reading and writing to the end. */
#include "store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 512 /* of st_blocks */, ZEROS = 4096 };

static int open_at(int directory, const char *name, int flags, mode_t mode)
{
    return openat(directory, name, flags, mode);
}

struct disk disk = {
    .openat = open_at,
    .close = close,
    .pread = pread,
    .pwritev = pwritev,
    .fsync = fsync,
    .fdatasync = fdatasync,
    .syncfs = syncfs,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .unlinkat = unlinkat,
    .renameat = renameat,
    .mmap = mmap,
    .munmap = munmap,
};

int disk_fault(struct err *err, int errnum, const char *format, ...)
{
    char what[ERR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    (void)err_errno(err, errnum, "%s", what);
    if (err->code != ERR_EXHAUSTED && err->code != ERR_NO_MEMORY)
        err->code = ERR_IO;
    return -(int)err->code;
}

int disk_read(int fd, void *buffer, size_t size, off_t offset, struct err *err)
{
    uint8_t *bytes = buffer;
    while (size > 0) {
        ssize_t got = disk.pread(fd, bytes, size, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return disk_fault(err, errno, "read");
        if (got == 0)
            return err_set(err, ERR_DATA_LOSS, "the file ends at %lld, %zu bytes too soon",
                           (long long)offset, size);
        bytes += got;
        size -= (size_t)got;
        offset += got;
    }
    return 0;
}

int disk_write(int fd, struct iovec *parts, int count, off_t offset, struct err *err)
{
    for (;;) {
        while (count > 0 && parts->iov_len == 0) {
            parts++;
            count--;
        }
        if (count <= 0)
            return 0;
        ssize_t written = disk.pwritev(fd, parts, count < IOV_MAX ? count : IOV_MAX, offset);
        if (written < 0 && errno == EINTR)
            continue;
        /* Nothing written and no error would go on for ever. */
        if (written <= 0)
            return disk_fault(err, written < 0 ? errno : EIO, "write");
        offset += written;
        size_t rest = (size_t)written;
        while (rest > 0 && rest >= parts->iov_len) {
            rest -= parts->iov_len;
            parts++;
            count--;
        }
        if (rest > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + rest;
            parts->iov_len -= rest;
        }
    }
}

/* Writes zeros from FROM to END. */
static int fill(int fd, off_t from, off_t end, struct err *err)
{
    uint8_t zeros[ZEROS] = {0};
    int rc = 0;
    for (off_t at = from; rc == 0 && at < end; at += ZEROS) {
        size_t size = end - at < ZEROS ? (size_t)(end - at) : ZEROS;
        struct iovec part = {.iov_base = zeros, .iov_len = size};
        rc = disk_write(fd, &part, 1, at, err);
    }
    return rc;
}

int disk_take_blocks(int fd, off_t size, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return disk_fault(err, errno, "fstat");
    if (st.st_size >= size && st.st_blocks * BLOCK >= size)
        return 0;
    if (disk.fallocate(fd, 0, 0, size) == 0)
        return 0;
    return errno == EOPNOTSUPP ? fill(fd, st.st_size, size, err)
                               : disk_fault(err, errno, "fallocate");
}
