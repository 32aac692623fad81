/* SPDX-License-Identifier: Apache-2.0 */
/* Whose rights root works with in a folder, so that nobody leads it to what is not theirs. */
#ifndef ASSETD_CREDENTIAL_OWNER_H
#define ASSETD_CREDENTIAL_OWNER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "credential/way.h"

struct owner {
    bool is_other; /* than this process, which is root's then: it is to take these rights */
    uid_t user;
    gid_t group;
    bool has_account;
    char name[LOGIN_NAME_MAX]; /* of the account; without one "user UID", for people */
};

/*
 * Looks whose rights are wanted where WAY has come to: the folder's owner's, unless nobody but root
 * could have led it there, or the process is not root's. ERR_PRECONDITION: the folder is root's,
 * and another user could put something else in its place; or the way is that of several users, the
 * first of whom could have led it into the folder of the last.
 */
int owner_find(const struct way *way, struct owner *owner, struct err *err);

/* Takes the rights: until root takes its own back (effective ids), or for good. PATH is for ERR. */
int owner_work_as(const struct owner *owner, const char *path, struct err *err);
int owner_become(const struct owner *owner, const char *path, struct err *err);

#endif
