/* SPDX-License-Identifier: Apache-2.0 */
/* The external CAS of each instance of a configuration that has one. */
#ifndef ASSETD_REMOTE_REMOTES_H
#define ASSETD_REMOTE_REMOTES_H

#include <stddef.h>

#include "conf/conf.h"
#include "remote/remote_cas.h"

/* Read only; any thread. */
struct remotes;

/*
 * Looks into the files that `cas` of the instances of CONF names, as far as this user may read
 * them. ERR_PRECONDITION: remotes_open would refuse one.
 */
int remotes_check(const struct conf *conf, struct err *err);

/*
 * Opens what the instances of CONF name as `cas`. CONF is borrowed until the close, as are those
 * that follow: what stays open goes on with the configuration that opened it. ERR_PRECONDITION: a
 * file that is named there cannot be used.
 */
int remotes_open(const struct conf *conf, struct remotes **remotes, struct err *err);

/*
 * Those of CONF, which takes the place of that of RUNNING. An instance whose `cas` is the same, in
 * all of its keys, goes on with what it has; others are opened. RUNNING goes on to be of use beside
 * NEXT, which owns it from now on. On failure nothing has changed. One thread.
 */
int remotes_follow(struct remotes *running, const struct conf *conf, struct remotes **next,
                   struct err *err);

/* Takes remotes_follow back: closes what NEXT has opened, and gives RUNNING back to its owner. */
void remotes_unfollow(struct remotes *next);

/* Closes all, those of former configurations too. Nobody waits for them any more. NULL is fine. */
void remotes_close(struct remotes *remotes);

/* The CAS of the instance INDEX of the configuration; NULL: it has none. */
struct remote_cas *remotes_at(const struct remotes *remotes, size_t index);

#endif
