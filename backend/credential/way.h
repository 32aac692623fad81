/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a folder, a step at a time: whether every step is root's. */
#ifndef ASSETD_CREDENTIAL_WAY_H
#define ASSETD_CREDENTIAL_WAY_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct way {
    const char *path; /* as it was named; the caller's */
    int fd;           /* of the folder it has come to, O_PATH */
    bool is_roots;    /* so far: every folder and every link is root's, and none else may swap it */
    uid_t first;      /* the first owner that is not root; 0 while there is none */
    uid_t other;      /* the first owner behind that who is neither; 0 while there is none */
    unsigned links;   /* followed so far */
    char rest[2 * PATH_MAX];
};

/* Goes from the root of the file system, or for others than root from the working directory. */
int way_begin(struct way *way, const char *path, struct err *err);

/*
 * Takes as many steps as there are. ERR_NOT_FOUND: the next folder is missing, and is the next in
 * the rest; way->fd is the last one there is.
 */
int way_walk(struct way *way, struct err *err);

/* Makes the folder that is missing, with MODE whatever the umask is; way_walk then goes on. */
int way_make(struct way *way, mode_t mode, struct err *err);

/* Whether nothing follows the folder that is missing. */
bool way_is_last(const struct way *way);

void way_end(struct way *way);

#endif
