/* SPDX-License-Identifier: Apache-2.0 */
/* Files that an operator names and may change while we run. */
#ifndef ASSETD_BASE_FILE_H
#define ASSETD_BASE_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

/* Whether two looks saw the same file, unchanged: as far as its size and times tell. */
bool file_is_same(const struct stat *one, const struct stat *other);

/*
 * Whether PATH is there for others, perhaps for the user that the server runs as, and not for us to
 * read. What cannot be read for any other reason is not.
 */
bool file_is_for_others(const char *path);

#endif
