/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of a walk, each with the memory that it needs. */
#ifndef ASSETD_REMOTE_REMOTE_WALK_CALLS_H
#define ASSETD_REMOTE_REMOTE_WALK_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "remote/remote_walk.h"

/* One FindMissingBlobs. */
struct remote_walk_find {
    struct remote_walk_call call; /* first */
    struct cas_find find;
    struct digest_set digests;
    bool is_missing[CAS_FIND_MAX];
};

/* Empty; NULL when memory is out. */
struct remote_walk_find *remote_walk_find_new(struct remote_walk *walk);
void remote_walk_find_free(struct remote_walk_find *find);

/* Sends what was put in. On failure FIND is gone. */
int remote_walk_find_send(struct remote_walk_find *find, struct err *err);

/* One BatchReadBlobs, or the ByteStream.Read of one large directory. */
struct remote_walk_read {
    struct remote_walk_call call; /* first */
    struct cas_read read;
    struct remote_walk_read *next; /* to be looked into */
    struct digest *digests;
    size_t count;
    size_t capacity;
    int64_t bytes;                       /* of content */
    bool is_sent;                        /* by the walk's side: not to be changed any more */
    struct tree_directory **directories; /* those that are there, pinned; else NULL */
    size_t looked_into;                  /* how many have been */
    struct err fault;                    /* of what was read; ERR_OK: none */
};

struct remote_walk_read *remote_walk_read_new(struct remote_walk *walk);
void remote_walk_read_free(struct remote_walk_read *read);

/* Whether DIGEST can be put in beside what is. */
bool remote_walk_read_has_room(const struct remote_walk_read *read, const struct digest *digest);
int remote_walk_read_add(struct remote_walk_read *read, const struct digest *digest,
                         struct err *err);

/* Sends what was put in. On failure READ is gone. */
int remote_walk_read_send(struct remote_walk_read *read, struct err *err);

/* remote_walk's: CALL has ended, with ERR unless that is NULL, and is the walk's again. */
void remote_walk_take_back(struct remote_walk_call *call, const struct err *err);

#endif
