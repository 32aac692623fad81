/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names of the files that hold the assets: data.mdb, then data.1.mdb when that is written anew,
 * and so on. The newest counts. Each has a file of locks of its own, NAME-lock: those who still
 * read an old file and those who use the new one must not meet in the same one.
 */
#ifndef ASSETD_STORE_ASSET_FILE_H
#define ASSETD_STORE_ASSET_FILE_H

#include <stdint.h>

#include "base/err.h"

/* A file that is not finished. */
#define ASSET_FILE_NEW "data.mdb.new"

enum { ASSET_FILE_NAME_SIZE = 40 };

void asset_file_name(uint64_t number, char name[ASSET_FILE_NAME_SIZE]);

/* The number of the newest in the directory. ERR_NOT_FOUND: there is none. */
int asset_file_newest(int directory_fd, uint64_t *number, struct err *err);

/* Removes those before NUMBER, with their locks, as far as that can be done. */
void asset_file_remove_before(int directory_fd, uint64_t number);

#endif
