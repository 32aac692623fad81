/* SPDX-License-Identifier: Apache-2.0 */
/* The groups are those of the account: a folder's own may be one that its owner is not in. */
#include "credential/owner.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int owner_find(const struct way *way, struct owner *owner, struct err *err)
{
    struct stat st;
    *owner = (struct owner){.is_other = false};
    if (geteuid() != 0 || way->is_roots)
        return 0;
    if (fstat(way->fd, &st) != 0)
        return err_errno(err, errno, "look at the folder %s", way->path);
    if (st.st_uid == 0)
        return err_set(err, ERR_PRECONDITION,
                       "%s is root's, but another user can put something else in its place, or "
                       "into it: move it, let nobody else write to it and what is above it, or "
                       "give it to that user",
                       way->path);
    if (way->other != 0)
        return err_set(err, ERR_PRECONDITION,
                       "the way to %s is first user %u's and then user %u's, so that the one can "
                       "lead into any folder of another user: give a way that is root's and the "
                       "folder's owner's alone",
                       way->path, (unsigned)way->first, (unsigned)way->other);
    const struct passwd *entry = getpwuid(st.st_uid);
    owner->is_other = true;
    owner->user = st.st_uid;
    owner->group = entry != NULL ? entry->pw_gid : st.st_gid;
    owner->has_account = entry != NULL;
    if (entry != NULL)
        (void)snprintf(owner->name, sizeof(owner->name), "%s", entry->pw_name);
    else
        (void)snprintf(owner->name, sizeof(owner->name), "user %u", (unsigned)st.st_uid);
    return 0;
}

static int take_groups(const struct owner *owner)
{
    return owner->has_account ? initgroups(owner->name, owner->group) : setgroups(1, &owner->group);
}

static int fault(const struct owner *owner, const char *path, struct err *err)
{
    return err_errno(err, errno, "work as %s, who owns %s", owner->name, path);
}

int owner_work_as(const struct owner *owner, const char *path, struct err *err)
{
    if (take_groups(owner) != 0 || setegid(owner->group) != 0 || seteuid(owner->user) != 0)
        return fault(owner, path, err);
    return 0;
}

int owner_become(const struct owner *owner, const char *path, struct err *err)
{
    if (take_groups(owner) != 0 || setresgid(owner->group, owner->group, owner->group) != 0 ||
        setresuid(owner->user, owner->user, owner->user) != 0)
        return fault(owner, path, err);
    return 0;
}
