/* SPDX-License-Identifier: Apache-2.0 */
/* Looks at files. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static bool is_same_time(const struct timespec *one, const struct timespec *other)
{
    return one->tv_sec == other->tv_sec && one->tv_nsec == other->tv_nsec;
}

bool file_is_same(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino &&
           one->st_size == other->st_size && is_same_time(&one->st_mtim, &other->st_mtim) &&
           is_same_time(&one->st_ctim, &other->st_ctim);
}

bool file_is_for_others(const char *path)
{
    return faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0 && errno == EACCES;
}
