/* SPDX-License-Identifier: Apache-2.0 */
/* A temporary folder for a test of a store, and looks at what lies in it. */
#ifndef ASSETD_TESTS_SCRATCH_H
#define ASSETD_TESTS_SCRATCH_H

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char path[128];
};

static inline void scratch_init(struct scratch *scratch)
{
    const char *parent = getenv("TMPDIR");
    (void)snprintf(scratch->path, sizeof(scratch->path), "%s/assetd-test-XXXXXX",
                   parent != NULL && strlen(parent) < 64 ? parent : "/tmp");
    if (mkdtemp(scratch->path) == NULL)
        abort();
}

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *position)
{
    (void)st;
    (void)type;
    (void)position;
    return remove(path);
}

/* Removes PATH with all below it. */
static inline void scratch_remove(const char *path)
{
    if (nftw(path, scratch_remove_one, 32, FTW_DEPTH | FTW_PHYS) != 0)
        abort();
}

static inline void scratch_fini(struct scratch *scratch)
{
    scratch_remove(scratch->path);
}

/* PATH below the folder, in a buffer of the caller. Returns it. */
static inline char *scratch_path(const struct scratch *scratch, const char *path,
                                 char joined[PATH_MAX])
{
    if (snprintf(joined, PATH_MAX, "%s/%s", scratch->path, path) >= PATH_MAX)
        abort();
    return joined;
}

static inline void scratch_write(const struct scratch *scratch, const char *path, const char *text)
{
    char joined[PATH_MAX];
    FILE *file = fopen(scratch_path(scratch, path, joined), "w");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0)
        abort();
}

static inline int scratch_exists(const struct scratch *scratch, const char *path)
{
    char joined[PATH_MAX];
    return access(scratch_path(scratch, path, joined), F_OK) == 0;
}

/* Turns one byte of a file over. */
static inline void scratch_flip(const struct scratch *scratch, const char *path, off_t offset)
{
    char joined[PATH_MAX];
    uint8_t byte;
    int fd = open(scratch_path(scratch, path, joined), O_RDWR);
    if (fd < 0 || pread(fd, &byte, 1, offset) != 1)
        abort();
    byte ^= 0x10;
    if (pwrite(fd, &byte, 1, offset) != 1 || close(fd) != 0)
        abort();
}

#endif
