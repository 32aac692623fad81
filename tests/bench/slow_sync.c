/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slow disk, for programs that are started with LD_PRELOAD=slow_sync.so: what makes files durable
 * takes SLOW_SYNC_US microseconds longer. That is fsync, fdatasync, syncfs, msync with MS_SYNC, and
 * a pwrite to a file that was opened with O_SYNC or O_DSYNC. What a program does without the C
 * library's functions, as those written in Go do, is not slowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static struct timespec delay;

__attribute__((constructor)) static void read_delay(void)
{
    enum { MICROSECONDS = 1000000, NANOSECONDS = 1000 };
    const char *text = getenv("SLOW_SYNC_US");
    long microseconds = text != NULL ? atol(text) : 0;
    delay = (struct timespec){.tv_sec = microseconds / MICROSECONDS,
                              .tv_nsec = microseconds % MICROSECONDS * NANOSECONDS};
}

/* After the call, as the disk would have it; errno stays that of the call. */
static void wait_for_disk(void)
{
    int reason = errno;
    struct timespec left = delay;
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
    errno = reason;
}

int fsync(int fd)
{
    long rc = syscall(SYS_fsync, fd);
    wait_for_disk();
    return (int)rc;
}

int fdatasync(int fd)
{
    long rc = syscall(SYS_fdatasync, fd);
    wait_for_disk();
    return (int)rc;
}

int syncfs(int fd)
{
    long rc = syscall(SYS_syncfs, fd);
    wait_for_disk();
    return (int)rc;
}

int msync(void *address, size_t size, int flags)
{
    long rc = syscall(SYS_msync, address, size, flags);
    if ((flags & MS_SYNC) != 0)
        wait_for_disk();
    return (int)rc;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    ssize_t rc = syscall(SYS_pwrite64, fd, bytes, size, offset);
    int reason = errno;
    int flags = fcntl(fd, F_GETFL);
    errno = reason;
    if (flags >= 0 && (flags & O_DSYNC) != 0) /* O_SYNC includes it */
        wait_for_disk();
    return rc;
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    return pwrite(fd, bytes, size, offset);
}
