/* SPDX-License-Identifier: Apache-2.0 */
/* Each step is opened without following links; these are read, and walked as well. */
#include "credential/way.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS_MAX = 40 };

static int fault(struct err *err, int errnum, const struct way *way)
{
    return err_errno(err, errnum, "open the folder %s", way->path);
}

int way_begin(struct way *way, const char *path, struct err *err)
{
    char here[PATH_MAX] = "";
    bool is_root = geteuid() == 0;
    *way = (struct way){.path = path, .fd = -1, .is_roots = true};
    /* Root looks at all that is above as well. */
    if (path[0] != '/' && is_root && getcwd(here, sizeof(here)) == NULL)
        return fault(err, errno, way);
    if (strlen(path) >= PATH_MAX)
        return fault(err, ENAMETOOLONG, way);
    (void)snprintf(way->rest, sizeof(way->rest), "%s%s%s", here, here[0] != '\0' ? "/" : "", path);
    way->fd = open(way->rest[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return way->fd >= 0 ? 0 : fault(err, errno, way);
}

void way_end(struct way *way)
{
    if (way->fd >= 0)
        (void)close(way->fd);
    way->fd = -1;
}

/* The next folder's name, and in *USED how much of the rest it takes, which is 0 at the end. */
static int next_name(const struct way *way, char name[NAME_MAX + 1], size_t *used, struct err *err)
{
    size_t start = strspn(way->rest, "/");
    size_t length = strcspn(way->rest + start, "/");
    *used = 0;
    if (length > NAME_MAX)
        return fault(err, ENAMETOOLONG, way);
    memcpy(name, way->rest + start, length);
    name[length] = '\0';
    *used = length != 0 ? start + length : 0;
    return 0;
}

bool way_is_last(const struct way *way)
{
    size_t start = strspn(way->rest, "/");
    size_t end = start + strcspn(way->rest + start, "/");
    return way->rest[end + strspn(way->rest + end, "/")] == '\0';
}

static void go_to(struct way *way, int fd)
{
    (void)close(way->fd);
    way->fd = fd;
}

/* Puts what the link at FD holds in front of the rest. */
static int follow(struct way *way, int fd, struct err *err)
{
    char target[PATH_MAX], rest[2 * PATH_MAX];
    ssize_t size = readlinkat(fd, "", target, sizeof(target) - 1);
    if (size <= 0)
        return fault(err, size < 0 ? errno : ENOENT, way);
    target[size] = '\0';
    memcpy(rest, way->rest, sizeof(rest));
    if (++way->links > LINKS_MAX)
        return fault(err, ELOOP, way);
    int length = snprintf(way->rest, sizeof(way->rest), "%s/%s", target, rest);
    if (length < 0 || (size_t)length >= sizeof(way->rest))
        return fault(err, ENAMETOOLONG, way);
    if (target[0] == '/') {
        int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
            return fault(err, errno, way);
        go_to(way, root);
    }
    return 0;
}

/* Whether others than root may take away or add what they want in a folder. */
static bool is_open(const struct stat *st)
{
    bool is_others = (st->st_mode & S_IWOTH) != 0;
    bool is_groups = (st->st_mode & S_IWGRP) != 0 && st->st_gid != 0;
    return S_ISDIR(st->st_mode) && (is_others || is_groups) && (st->st_mode & S_ISVTX) == 0;
}

static void note_owner(struct way *way, const struct stat *st)
{
    if (st->st_uid != 0 || is_open(st))
        way->is_roots = false;
    if (st->st_uid == 0 || st->st_uid == way->first)
        return;
    if (way->first == 0)
        way->first = st->st_uid;
    else if (way->other == 0)
        way->other = st->st_uid;
}

int way_walk(struct way *way, struct err *err)
{
    char name[NAME_MAX + 1];
    size_t used;
    int rc;
    while ((rc = next_name(way, name, &used, err)) == 0 && used != 0) {
        struct stat st;
        int fd = openat(way->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return fault(err, errno, way);
        if (fstat(fd, &st) != 0) {
            (void)close(fd);
            return fault(err, errno, way);
        }
        memmove(way->rest, way->rest + used, strlen(way->rest + used) + 1);
        note_owner(way, &st);
        if (S_ISLNK(st.st_mode)) {
            rc = follow(way, fd, err);
            (void)close(fd);
            if (rc != 0)
                return rc;
            continue;
        }
        go_to(way, fd);
        if (!S_ISDIR(st.st_mode))
            return fault(err, ENOTDIR, way);
    }
    return rc;
}

int way_make(struct way *way, mode_t mode, struct err *err)
{
    char name[NAME_MAX + 1];
    size_t used;
    int rc = next_name(way, name, &used, err);
    if (rc != 0)
        return rc;
    if (mkdirat(way->fd, name, mode) != 0)
        return errno == EEXIST ? 0 : err_errno(err, errno, "make the folder %s", way->path);
    /* The umask may have taken from it. Who else may write there could have put a link there. */
    int fd = openat(way->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchmod(fd, mode) != 0) {
        rc = err_errno(err, errno, "make the folder %s", way->path);
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    (void)close(fd);
    return 0;
}
