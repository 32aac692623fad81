/* SPDX-License-Identifier: Apache-2.0 */
/* What commands have in common that open a storage directory, beside a server or without one. */
#ifndef ASSETD_CONTROL_STORAGE_H
#define ASSETD_CONTROL_STORAGE_H

#include <limits.h>

#include "base/err.h"

/*
 * What is made on the way, such as locks, has to be the server's; and who owns PATH, or could put
 * something else in its place, may have put a link to anything there. So root becomes that user,
 * for good, before it looks at anything in PATH. ERR_NOT_FOUND: PATH is not there.
 */
int storage_enter(const char *path, struct err *err);

/*
 * The same for where PATH is to be made, which is not there yet. ERR_PRECONDITION: that is root's,
 * and nobody knows whose it is to be.
 */
int storage_enter_new(const char *path, struct err *err);

/*
 * Where the store NAME ("index", "cas") of the storage directory is, and storage_enter for that; an
 * empty path if there is none.
 */
int storage_find(const char *storage, const char *name, char path[PATH_MAX], struct err *err);

/* Complains of an error of a store, with what to do about it; returns EXIT_FAILURE. */
int storage_fail(const struct err *err);

/*
 * Between the two, files in PATH, which is kept, are mapped: they may end before they should, or
 * hold what misleads the database. If that ends the process, it says so, with EXIT_FAILURE.
 */
void storage_guard_begin(const char *path);
void storage_guard_end(void);

#endif
