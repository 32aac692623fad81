/* SPDX-License-Identifier: Apache-2.0 */
/* Everything is named relative to the one open folder, and no link in it is followed. */
#include "credential/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "credential/owner.h"
#include "credential/way.h"

enum { FILE_MAX = 64 << 20 };

/* Of folders that are made. */
enum { MODE_SHARED = 0755, MODE_PRIVATE = 0700 };

/* How long a writer waits for another. */
enum { LOCK_TRIES = 200, LOCK_PAUSE = 50 * 1000 * 1000 /* ns */ };

/* --- whom it works as --- */

static int keep_groups(struct folder *folder, struct err *err)
{
    folder->group = getegid();
    folder->group_count = getgroups(0, NULL);
    folder->groups = calloc((size_t)folder->group_count + 1, sizeof(*folder->groups));
    if (folder->groups == NULL)
        return err_no_memory(err, "groups");
    folder->group_count = getgroups(folder->group_count, folder->groups);
    return folder->group_count >= 0 ? 0 : err_errno(err, errno, "read this process's groups");
}

static void become_root(struct folder *folder)
{
    if (!folder->works_as_owner)
        return;
    /* Going on with the wrong rights is worse than not going on. */
    if (seteuid(0) != 0 || setegid(folder->group) != 0 ||
        setgroups((size_t)folder->group_count, folder->groups) != 0)
        abort();
    folder->works_as_owner = false;
}

/* Goes on with the rights that are wanted where WAY has come to. */
static int settle(struct folder *folder, const struct way *way, struct err *err)
{
    struct owner owner;
    int rc = owner_find(way, &owner, err);
    if (rc != 0 || !owner.is_other)
        return rc;
    (void)snprintf(folder->owner, sizeof(folder->owner), "%s", owner.name);
    if ((rc = keep_groups(folder, err)) != 0)
        return rc;
    folder->works_as_owner = true;
    return owner_work_as(&owner, folder->path, err);
}

/* --- open and close --- */

static int walk(struct folder *folder, enum folder_use use, struct err *err)
{
    struct way way;
    int rc = way_begin(&way, folder->path, err);
    if (rc != 0)
        return rc;
    while ((rc = way_walk(&way, err)) == -ERR_NOT_FOUND &&
           (use == FOLDER_WRITE || (use == FOLDER_FILL && way_is_last(&way))))
        if ((rc = settle(folder, &way, err)) != 0 ||
            (rc = way_make(&way, use == FOLDER_WRITE ? MODE_SHARED : MODE_PRIVATE, err)) != 0)
            break;
    if (rc == 0)
        rc = settle(folder, &way, err);
    if (rc == 0) {
        folder->fd = openat(way.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder->fd < 0)
            rc = err_errno(err, errno, "open the folder %s", folder->path);
    }
    way_end(&way);
    return rc;
}

static int lock(const struct folder *folder, struct err *err)
{
    static const struct timespec pause = {.tv_nsec = LOCK_PAUSE};
    for (int tries = 0; flock(folder->fd, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EWOULDBLOCK)
            return err_errno(err, errno, "lock the folder %s", folder->path);
        if (tries == LOCK_TRIES)
            return err_set(err, ERR_UNAVAILABLE,
                           "another process has the folder %s locked: wait for it to end; "
                           "`lslocks` shows its pid",
                           folder->path);
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

int folder_open(struct folder *folder, const char *path, enum folder_use use, struct err *err)
{
    *folder = (struct folder){.path = path, .fd = -1};
    int rc = walk(folder, use, err);
    if (rc == 0 && use == FOLDER_WRITE)
        rc = lock(folder, err);
    if (rc != 0)
        folder_close(folder);
    return rc;
}

void folder_close(struct folder *folder)
{
    if (folder->fd >= 0)
        (void)close(folder->fd);
    folder->fd = -1;
    become_root(folder);
    free(folder->groups);
    folder->groups = NULL;
}

/* --- files --- */

bool folder_has(const struct folder *folder, const char *name)
{
    struct stat st;
    return fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static int refuse_link(const struct folder *folder, const char *name, struct err *err)
{
    return err_set(err, ERR_PRECONDITION,
                   "%s/%s is a link, and is not followed: put the file itself there", folder->path,
                   name);
}

static int read_all(const struct folder *folder, const char *name, int fd, struct text *text,
                    struct err *err)
{
    char bytes[4096];
    size_t total = 0;
    ssize_t size;
    int rc = 0;
    while (rc == 0 && (size = read(fd, bytes, sizeof(bytes))) != 0) {
        if (size > 0) {
            text_add(text, bytes, (size_t)size);
            total += (size_t)size;
        } else if (errno != EINTR) {
            rc = err_errno(err, errno, "read %s/%s", folder->path, name);
        }
        if (total > FILE_MAX)
            rc = err_set(err, ERR_OUT_OF_RANGE, "%s/%s is larger than 64 MiB", folder->path, name);
    }
    text_wipe(bytes, sizeof(bytes));
    return rc == 0 && text->failed ? err_no_memory(err, name) : rc;
}

int folder_read(const struct folder *folder, const char *name, struct text *text, struct err *err)
{
    struct stat st;
    int rc;
    int fd = openat(folder->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ELOOP)
        return refuse_link(folder, name, err);
    if (fd < 0 || fstat(fd, &st) != 0)
        rc = err_errno(err, errno, "open %s/%s", folder->path, name);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(err, ERR_PRECONDITION, "%s/%s is not a file", folder->path, name);
    else
        rc = read_all(folder, name, fd, text, err);
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

/* As far as this process may give a file away: its own user, or its own group, will do else. */
static void keep_owner(int fd, const struct stat *former)
{
    if (fchown(fd, former->st_uid, former->st_gid) != 0 &&
        fchown(fd, (uid_t)-1, former->st_gid) != 0)
        return;
}

/* Puts TEXT into the new file of the name FILE, which is or becomes NAME. */
static int write_new(const struct folder *folder, const char *file, const char *name,
                     const struct text *text, mode_t mode, const struct stat *former,
                     struct err *err)
{
    int fd = openat(folder->fd, file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return err_set(err, ERR_PRECONDITION, "%s/%s exists already", folder->path, file);
    if (fd < 0)
        return err_errno(err, errno, "make %s/%s", folder->path, file);
    if (former != NULL)
        keep_owner(fd, former);
    size_t done = 0;
    int failed = fchmod(fd, mode) != 0 ? errno : 0;
    while (failed == 0 && done < text->size) {
        ssize_t size = write(fd, text->bytes + done, text->size - done);
        if (size >= 0)
            done += (size_t)size;
        else if (errno != EINTR)
            failed = errno;
    }
    if (failed == 0 && fsync(fd) != 0)
        failed = errno;
    if (close(fd) != 0 && failed == 0)
        failed = errno;
    if (failed == 0)
        return 0;
    (void)unlinkat(folder->fd, file, 0);
    return err_errno(err, failed, "write %s/%s", folder->path, name);
}

static void staged_name(const char *name, char staged[NAME_MAX])
{
    (void)snprintf(staged, NAME_MAX, ".%s.new", name);
}

int folder_stage(const struct folder *folder, const char *name, const struct text *text,
                 mode_t mode, struct err *err)
{
    char staged[NAME_MAX];
    struct stat st;
    bool has_former = fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (text->failed)
        return err_no_memory(err, name);
    if (has_former && S_ISLNK(st.st_mode))
        return refuse_link(folder, name, err);
    staged_name(name, staged);
    /* One that was left behind when a process or the machine ended: the lock is ours. */
    (void)unlinkat(folder->fd, staged, 0);
    return write_new(folder, staged, name, text, mode, has_former ? &st : NULL, err);
}

void folder_unstage(const struct folder *folder, const char *name)
{
    char staged[NAME_MAX];
    staged_name(name, staged);
    (void)unlinkat(folder->fd, staged, 0);
}

static int sync_names(const struct folder *folder, struct err *err)
{
    /* Some file systems have no such thing for folders. */
    if (fsync(folder->fd) != 0 && errno != EINVAL)
        return err_errno(err, errno, "write the folder %s", folder->path);
    return 0;
}

int folder_publish(const struct folder *folder, const char *name, struct err *err)
{
    char staged[NAME_MAX];
    struct err unsure;
    staged_name(name, staged);
    if (renameat(folder->fd, staged, folder->fd, name) != 0) {
        int rc = err_errno(err, errno, "replace %s/%s", folder->path, name);
        folder_unstage(folder, name);
        return rc;
    }
    /* It is in its place for all who look, and what depends on that has to go on. */
    if (sync_names(folder, &unsure) != 0)
        log_warning("a file was replaced, but a power cut may bring back the former",
                    log_str("file", name), log_str("error", unsure.msg));
    return 0;
}

int folder_replace(const struct folder *folder, const char *name, const struct text *text,
                   mode_t mode, struct err *err)
{
    int rc = folder_stage(folder, name, text, mode, err);
    return rc != 0 ? rc : folder_publish(folder, name, err);
}

int folder_create(const struct folder *folder, const char *name, const struct text *text,
                  mode_t mode, struct err *err)
{
    if (text->failed)
        return err_no_memory(err, name);
    int rc = write_new(folder, name, name, text, mode, NULL, err);
    if (rc == 0 && (rc = sync_names(folder, err)) != 0)
        (void)unlinkat(folder->fd, name, 0);
    return rc;
}

int folder_remove(const struct folder *folder, const char *name, struct err *err)
{
    if (unlinkat(folder->fd, name, 0) != 0)
        return err_errno(err, errno, "remove %s/%s", folder->path, name);
    return 0;
}
