/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the newest file of the assets, and removing the others. */
#include "store/asset_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/disk.h"

#define FIRST_NAME  "data.mdb"
#define LOCK_SUFFIX "-lock"

void asset_file_name(uint64_t number, char name[ASSET_FILE_NAME_SIZE])
{
    if (number == 0)
        (void)snprintf(name, ASSET_FILE_NAME_SIZE, FIRST_NAME);
    else
        (void)snprintf(name, ASSET_FILE_NAME_SIZE, "data.%" PRIu64 ".mdb", number);
}

/* Whether NAME is that of file NUMBER, or of the locks of it. */
static bool parse(const char *name, uint64_t *number, bool *are_locks)
{
    char expected[ASSET_FILE_NAME_SIZE];
    *number = 0;
    (void)sscanf(name, "data.%19" SCNu64 ".", number);
    asset_file_name(*number, expected);
    size_t length = strlen(expected);
    if (strncmp(name, expected, length) != 0)
        return false;
    *are_locks = strcmp(name + length, LOCK_SUFFIX) == 0;
    return *are_locks || name[length] == '\0';
}

static int open_listing(int directory_fd, DIR **listing, struct err *err)
{
    int fd = disk.openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return disk_fault(err, errno, "open the directory");
    *listing = fdopendir(fd);
    if (*listing != NULL)
        return 0;
    int rc = disk_fault(err, errno, "list the directory");
    (void)disk.close(fd);
    return rc;
}

int asset_file_newest(int directory_fd, uint64_t *number, struct err *err)
{
    DIR *listing;
    int rc = open_listing(directory_fd, &listing, err);
    if (rc != 0)
        return rc;
    bool is_found = false;
    const struct dirent *entry;
    while (errno = 0, (entry = readdir(listing)) != NULL) {
        uint64_t found;
        bool are_locks;
        if (!parse(entry->d_name, &found, &are_locks) || are_locks)
            continue;
        if (!is_found || found > *number)
            *number = found;
        is_found = true;
    }
    if (errno != 0)
        rc = disk_fault(err, errno, "list the directory");
    else if (!is_found)
        rc = err_set(err, ERR_NOT_FOUND, "there is no " FIRST_NAME);
    (void)closedir(listing);
    return rc;
}

void asset_file_remove_before(int directory_fd, uint64_t number)
{
    DIR *listing;
    struct err err;
    if (open_listing(directory_fd, &listing, &err) != 0)
        return;
    const struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        uint64_t found;
        bool are_locks;
        if (parse(entry->d_name, &found, &are_locks) && found < number)
            (void)disk.unlinkat(directory_fd, entry->d_name, 0);
    }
    (void)closedir(listing);
}
