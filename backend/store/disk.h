/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls by which the stores touch files, in one table: tests put failing ones there, and
 * ones that remember what a power cut would have left.
 */
#ifndef ASSETD_STORE_DISK_H
#define ASSETD_STORE_DISK_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

/* Each is the call of that name of Linux, errno included. */
struct disk {
    int (*openat)(int directory, const char *name, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *buffer, size_t size, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *parts, int count, off_t offset);
    int (*fsync)(int fd);
    int (*fdatasync)(int fd);
    int (*syncfs)(int fd);
    int (*fallocate)(int fd, int mode, off_t offset, off_t size);
    int (*ftruncate)(int fd, off_t size);
    int (*unlinkat)(int directory, const char *name, int flags);
    int (*renameat)(int from, const char *old_name, int to, const char *new_name);
    void *(*mmap)(void *address, size_t size, int protection, int flags, int fd, off_t offset);
    int (*munmap)(void *address, size_t size);
};

/* Changed by tests alone, before there are threads that use it. */
extern struct disk disk;

/*
 * Sets the error of a call on the store's own files: ENOSPC and EDQUOT are ERR_EXHAUSTED, ENOMEM
 * ERR_NO_MEMORY, all others ERR_IO. A store's file that cannot be found or opened is a fault of the
 * disk: it is neither a client's miss nor a client's lack of a right.
 */
int disk_fault(struct err *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Reads or writes all of it, again after a signal or a short count. disk_read: ERR_DATA_LOSS if the
 * file ends before. disk_write changes PARTS; it may have written some of it when it fails.
 */
int disk_read(int fd, void *buffer, size_t size, off_t offset, struct err *err);
int disk_write(int fd, struct iovec *parts, int count, off_t offset, struct err *err);

/*
 * Gives a file blocks for its first SIZE bytes, and that length if it is shorter; its content
 * stays. For one that is written to through a map, where a full disk would end the process: a copy
 * of a store may have lost the blocks that hold zeros. On a file system that cannot do it
 * (EOPNOTSUPP) only what is behind the file's end is filled.
 */
int disk_take_blocks(int fd, off_t size, struct err *err);

#endif
