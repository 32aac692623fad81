/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory of a store: PATH/index or PATH/cas, each with a `format` file that says what it
 * holds and in which version, and a lock that keeps a second writer out.
 */
#ifndef ASSETD_STORE_DIRECTORY_H
#define ASSETD_STORE_DIRECTORY_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

struct store_directory {
    char path[PATH_MAX]; /* where the store is; not PATH/KIND if that is foreign */
    int fd;              /* of the directory */
    int lock_fd;         /* of its format file */
    char id[33];         /* random, in hexadecimal: tells one store from another */
    bool is_new;         /* made just now */
};

/* What a store's directory has to be. */
struct store_kind {
    const char *name; /* "index" or "cas" */
    unsigned version; /* of what this program makes */
    unsigned oldest;  /* version that it can still use */
};

/*
 * Opens the store KIND of the storage directory STORAGE, making both (0750) if they are missing;
 * what it makes is durable. It is not locked: who writes must.
 *
 * A KIND directory with content but without a format file is foreign (such as that of
 * buildbox-casd, which has cas/objects): nothing in it is read, counted or deleted, the store is
 * STORAGE/assetd/KIND instead (see store_directory_warn).
 *
 * ERR_PRECONDITION: its version is newer or older than this program can use, or it is of another
 * kind. ERR_UNAVAILABLE: for some seconds another process has been setting up a store there.
 */
int store_directory_open(const char *storage, const struct store_kind *kind,
                         struct store_directory *directory, struct err *err);
void store_directory_close(struct store_directory *directory);

/*
 * Where the store of that kind is, which store_directory_open would open, without making anything.
 * ERR_NOT_FOUND: there is none yet.
 */
int store_directory_find(const char *storage, const struct store_kind *kind, char path[PATH_MAX],
                         struct err *err);

/*
 * Warns if the KIND directory of STORAGE, a path that others can use, is foreign: how large that
 * is, and how to import what is the old server's; takes about a second at most. A process that only
 * reads leaves that to the one that writes, unless it is the first there: once is enough.
 */
void store_directory_warn(const char *storage, const char *kind, bool may_write);

/*
 * Locks the store for writing, until it is unlocked or closed, or the process ends. Does not wait.
 * ERR_UNAVAILABLE: another process has it locked, or another opening in this one; its pid is in the
 * message.
 */
int store_directory_lock(const struct store_directory *directory, struct err *err);
void store_directory_unlock(const struct store_directory *directory);

/* The pid of the other process that has it locked; 0: none has, or it cannot be told. */
int store_directory_holder(const struct store_directory *directory);

#endif
