/* SPDX-License-Identifier: Apache-2.0 */
/* The disk that fails: each call asks whether it is its turn to. */
#include "disk_faults.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "store/disk.h"

static struct disk real;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    unsigned kinds; /* 0: none fails */
    unsigned first; /* the calls of KINDS from this one, from 1, ... */
    unsigned last;  /* ... up to this one fail */
    int errnum;
    unsigned seen;   /* calls of KINDS */
    unsigned failed; /* of them */
    unsigned counts[DISK_FAULTS_KINDS];
} faults;

enum outcome { WORKS, FAILS, IS_SHORT };

/* Counts a call of KIND. Sets errno if it fails. */
static enum outcome next_call(unsigned kind)
{
    enum outcome outcome = WORKS;
    pthread_mutex_lock(&lock);
    faults.counts[__builtin_ctz(kind)]++;
    if ((faults.kinds & kind) != 0) {
        faults.seen++;
        if (faults.first != 0 && faults.seen >= faults.first && faults.seen <= faults.last)
            outcome = FAILS;
    }
    if (outcome == FAILS) {
        faults.failed++;
        if ((faults.kinds & DISK_FAULTS_SHORT) != 0 && faults.seen == faults.first &&
            (kind & (DISK_FAULTS_READ | DISK_FAULTS_WRITE)) != 0) {
            outcome = IS_SHORT;
            faults.last += faults.last < UINT_MAX;
        }
        errno = faults.errnum;
    }
    pthread_mutex_unlock(&lock);
    return outcome;
}

static bool fails(unsigned kind)
{
    return next_call(kind) == FAILS;
}

static int faulty_openat(int directory, const char *name, int flags, mode_t mode)
{
    return fails(DISK_FAULTS_OPEN) ? -1 : real.openat(directory, name, flags, mode);
}

static ssize_t faulty_pread(int fd, void *buffer, size_t size, off_t offset)
{
    enum outcome outcome = next_call(DISK_FAULTS_READ);
    if (outcome == WORKS)
        return real.pread(fd, buffer, size, offset);
    return outcome == IS_SHORT && size > 1 ? real.pread(fd, buffer, size / 2, offset) : -1;
}

/* The first half of what is to be written, part by part. */
static ssize_t write_half(int fd, const struct iovec *parts, int count, off_t offset)
{
    size_t left = 0;
    ssize_t written = 0;
    for (int i = 0; i < count; i++)
        left += parts[i].iov_len;
    left /= 2;
    for (int i = 0; i < count && left > 0; i++) {
        struct iovec part = parts[i];
        if (part.iov_len > left)
            part.iov_len = left;
        if (real.pwritev(fd, &part, 1, offset + written) != (ssize_t)part.iov_len)
            break;
        written += (ssize_t)part.iov_len;
        left -= part.iov_len;
    }
    return written > 0 ? written : -1;
}

static ssize_t faulty_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    enum outcome outcome = next_call(DISK_FAULTS_WRITE);
    if (outcome == WORKS)
        return real.pwritev(fd, parts, count, offset);
    return outcome == IS_SHORT ? write_half(fd, parts, count, offset) : -1;
}

static int faulty_fsync(int fd)
{
    return fails(DISK_FAULTS_FSYNC) ? -1 : real.fsync(fd);
}

static int faulty_fdatasync(int fd)
{
    return fails(DISK_FAULTS_FDATASYNC) ? -1 : real.fdatasync(fd);
}

static int faulty_syncfs(int fd)
{
    return fails(DISK_FAULTS_SYNCFS) ? -1 : real.syncfs(fd);
}

static int faulty_fallocate(int fd, int mode, off_t offset, off_t size)
{
    return fails(DISK_FAULTS_FALLOCATE) ? -1 : real.fallocate(fd, mode, offset, size);
}

static int faulty_ftruncate(int fd, off_t size)
{
    return fails(DISK_FAULTS_FTRUNCATE) ? -1 : real.ftruncate(fd, size);
}

static int faulty_unlinkat(int directory, const char *name, int flags)
{
    return fails(DISK_FAULTS_UNLINK) ? -1 : real.unlinkat(directory, name, flags);
}

static int faulty_renameat(int from, const char *old_name, int to, const char *new_name)
{
    return fails(DISK_FAULTS_RENAME) ? -1 : real.renameat(from, old_name, to, new_name);
}

static void *faulty_mmap(void *address, size_t size, int protection, int flags, int fd,
                         off_t offset)
{
    return fails(DISK_FAULTS_MMAP) ? MAP_FAILED
                                   : real.mmap(address, size, protection, flags, fd, offset);
}

/* Before main: no thread may use `disk` while it is changed. */
__attribute__((constructor)) static void install(void)
{
    real = disk;
    disk.openat = faulty_openat;
    disk.pread = faulty_pread;
    disk.pwritev = faulty_pwritev;
    disk.fsync = faulty_fsync;
    disk.fdatasync = faulty_fdatasync;
    disk.syncfs = faulty_syncfs;
    disk.fallocate = faulty_fallocate;
    disk.ftruncate = faulty_ftruncate;
    disk.unlinkat = faulty_unlinkat;
    disk.renameat = faulty_renameat;
    disk.mmap = faulty_mmap;
}

static int skip_sync(int fd)
{
    (void)fd;
    return 0;
}

void disk_faults_skip_syncs(void)
{
    real.fsync = skip_sync;
    real.fdatasync = skip_sync;
    real.syncfs = skip_sync;
}

void disk_faults_begin(unsigned kinds, unsigned nth, int errnum, unsigned times)
{
    pthread_mutex_lock(&lock);
    memset(&faults, 0, sizeof(faults));
    faults.kinds = kinds;
    faults.first = nth;
    faults.last =
        times == DISK_FAULTS_FOR_EVER || times > UINT_MAX - nth ? UINT_MAX : nth + times - 1;
    faults.errnum = errnum;
    pthread_mutex_unlock(&lock);
}

unsigned disk_faults_end(void)
{
    pthread_mutex_lock(&lock);
    faults.kinds = 0;
    unsigned failed = faults.failed;
    pthread_mutex_unlock(&lock);
    return failed;
}

unsigned disk_faults_count(unsigned kinds)
{
    unsigned count = 0;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < DISK_FAULTS_KINDS; i++)
        if ((kinds & 1u << i) != 0)
            count += faults.counts[i];
    pthread_mutex_unlock(&lock);
    return count;
}
