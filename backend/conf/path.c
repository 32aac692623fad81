/* SPDX-License-Identifier: Apache-2.0 */
/* Resolving of paths segment by segment. */
#include "conf/path.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Takes the last segment off a real path; the root stays. */
static void cut_segment(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash == path)
        slash++;
    *slash = '\0';
}

const char *path_resolve(const char *path, struct arena *arena)
{
    char found[PATH_MAX];
    char real[2 * PATH_MAX + 1]; /* what was found, and the rest of a path of at most PATH_MAX */
    if (strlen(path) > PATH_MAX)
        return arena_strdup(arena, path);
    (void)strcpy(real, *path != '/' && realpath(".", found) != NULL ? found : "/");
    while (*path != '\0') {
        size_t length = strcspn(path, "/");
        if (length == 2 && memcmp(path, "..", 2) == 0) {
            cut_segment(real);
        } else if (length > 0 && !(length == 1 && *path == '.')) {
            size_t used = strlen(real);
            if (used > 1)
                real[used++] = '/';
            memcpy(real + used, path, length);
            real[used + length] = '\0';
            if (realpath(real, found) != NULL)
                (void)strcpy(real, found);
        }
        path += length;
        path += *path == '/';
    }
    return arena_strdup(arena, real);
}

bool path_is_inside(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    if (strcmp(directory, "/") == 0)
        return true;
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}
