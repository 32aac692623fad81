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
    int lock_fd;         /* of its format file, locked */
    char id[33];         /* random, in hexadecimal: tells one store from another */
    bool is_new;         /* made just now */
};

/*
 * Opens the store KIND ("index" or "cas") of the storage directory STORAGE, making both (0750) if
 * they are missing, and locks it for writing. What it makes is durable.
 *
 * A KIND directory with content but without a format file is foreign (such as that of
 * buildbox-casd, which has cas/objects): nothing in it is read, counted or deleted, the store is
 * STORAGE/assetd/KIND instead, and one warning tells of it, with its size.
 *
 * ERR_UNAVAILABLE: another process has it locked; its pid is in the message. ERR_PRECONDITION: its
 * version is newer than VERSION, or it is of another kind.
 */
int store_directory_open(const char *storage, const char *kind, unsigned version,
                         struct store_directory *directory, struct err *err);
void store_directory_close(struct store_directory *directory);

#endif
