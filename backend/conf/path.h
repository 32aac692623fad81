/* SPDX-License-Identifier: Apache-2.0 */
/* Where paths lead to, also those that are not there yet. */
#ifndef ASSETD_CONF_PATH_H
#define ASSETD_CONF_PATH_H

#include <stdbool.h>

#include "base/arena.h"

/*
 * Where PATH will be once all that is missing of it was made: what exists is resolved by the
 * system, the rest is taken as it is written, and so is a path that is too long for the system.
 * NULL when memory is out.
 */
const char *path_resolve(const char *path, struct arena *arena);

/* Whether PATH is below DIRECTORY; both are resolved. */
bool path_is_inside(const char *path, const char *directory);

#endif
