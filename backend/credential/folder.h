/* SPDX-License-Identifier: Apache-2.0 */
/* The folder that holds the credentials: who works in it, and files that are replaced whole. */
#ifndef ASSETD_CREDENTIAL_FOLDER_H
#define ASSETD_CREDENTIAL_FOLDER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "credential/text.h"

enum folder_use {
    FOLDER_READ,  /* as it is */
    FOLDER_FILL,  /* new files are put into it; made if missing (0700) where what is above exists */
    FOLDER_WRITE, /* made if missing, with all above it (0755); no other process writes meanwhile */
};

/*
 * An open folder. Where root opens one that is another user's, or that lies where another user
 * could put something else in its place, this process works as the folder's owner (effective ids)
 * until folder_close: that user may have put a link to anything there. Of all threads, so there
 * must be one alone; and folders are closed in the reverse order of opening.
 */
struct folder {
    const char *path; /* as it was named; the caller's */
    int fd;
    bool works_as_owner;
    char owner[LOGIN_NAME_MAX]; /* whom it works as, for people */
    gid_t group;                /* what is given back: root's group and other groups */
    gid_t *groups;
    int group_count;
};

/*
 * Opens the folder PATH. ERR_NOT_FOUND: there is none; ERR_DENIED: it cannot be opened;
 * ERR_PRECONDITION: owner_find refuses it; ERR_UNAVAILABLE: another process holds the lock of a
 * writer, and did so for 10 seconds.
 */
int folder_open(struct folder *folder, const char *path, enum folder_use use, struct err *err);

/* Gives the lock back, and root its rights. */
void folder_close(struct folder *folder);

/* Whether anything has this name, a link to nothing included. */
bool folder_has(const struct folder *folder, const char *name);

/*
 * Adds what the file NAME holds to TEXT. ERR_NOT_FOUND: there is none; ERR_PRECONDITION: it is a
 * link, which is not followed, or no file; ERR_OUT_OF_RANGE: it is larger than 64 MiB.
 */
int folder_read(const struct folder *folder, const char *name, struct text *text, struct err *err);

/*
 * Puts TEXT into the file NAME, whole or not at all: what was there stays until the new file is on
 * the disk. MODE is its mode; its owner is that of the former file, where this process may give it
 * away.
 */
int folder_replace(const struct folder *folder, const char *name, const struct text *text,
                   mode_t mode, struct err *err);

/*
 * The halves of it, for files that belong together: on the disk under another name, then named.
 * That a power cut could undo the naming is only logged: the file has been replaced.
 */
int folder_stage(const struct folder *folder, const char *name, const struct text *text,
                 mode_t mode, struct err *err);
int folder_publish(const struct folder *folder, const char *name, struct err *err);
void folder_unstage(const struct folder *folder, const char *name);

/* A new file. ERR_PRECONDITION: there is one, or a link, of that name. */
int folder_create(const struct folder *folder, const char *name, const struct text *text,
                  mode_t mode, struct err *err);

/* Removes the file NAME. */
int folder_remove(const struct folder *folder, const char *name, struct err *err);

#endif
