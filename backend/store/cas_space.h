/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quota of the writing process: bytes are taken before they are written, and a thread evicts
 * the segments that were used longest ago when there are not enough.
 *
 * Everything in cas/ counts: segments in whole blocks, the digest table, the shared file, the
 * directories, and what others put there before the start. Room for one segment is kept aside for
 * what is carried forward.
 *
 * How a segment goes: what was used in it since it was written or carried is copied to the end of
 * the log, the copies are made durable and take the place of the originals in the digest table, the
 * segment becomes LEAVING, and FREE if nobody has used it meanwhile; then its file is removed. One
 * of which more than half was used stays instead, one with a single blob included: its marks of use
 * are taken off, and it counts as used halfway between its last use and now. What a hold relies on
 * stays.
 */
#ifndef ASSETD_STORE_CAS_SPACE_H
#define ASSETD_STORE_CAS_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "store/cas_log.h"
#include "store/cas_shared.h"
#include "store/digest_table.h"

struct cas_space;

struct cas_space_options {
    struct cas_shared *shared;  /* these three are borrowed */
    struct digest_table *table; /* its room is set to this space's */
    struct cas_log *log;
    int cas_fd, log_fd, table_fd; /* the directories, which grow and count; borrowed */
    int64_t quota;
    bool keeps_all;   /* evicts nothing: who finds no room is refused, and the headroom is kept */
    int64_t others;   /* bytes on disk of what was found in cas/ and is not ours */
    const char *path; /* of the store, for the log lines; borrowed */
};

/*
 * Counts what there is, from what the segments are charged; after digest_table_sweep and
 * cas_log_begin_writing, which remove files. ERR_INVALID: not even an empty store fits into the
 * quota; the message says how much is needed.
 */
int cas_space_new(const struct cas_space_options *options, struct cas_space **space,
                  struct err *err);

/* Stops the thread, if it was started; nothing waits in cas_space_take. */
void cas_space_free(struct cas_space *space);

/* Starts the thread. What is above the quota, which may have become smaller, goes. */
int cas_space_start(struct cas_space *space, struct err *err);

/*
 * Takes BYTES, and waits while the thread evicts for them. ERR_EXHAUSTED: they could never fit, and
 * nothing was evicted; or nothing could be evicted for some seconds, because all is in use. ERR_IO:
 * the disk fails at removing what should go, and that stays. Any thread.
 */
int cas_space_take(struct cas_space *space, int64_t bytes, struct err *err);
void cas_space_give(struct cas_space *space, int64_t bytes);

/* Whether BYTES could be taken by one who waits; ERR_EXHAUSTED. Evicts nothing. */
int cas_space_fits(const struct cas_space *space, int64_t bytes, struct err *err);

/* Of what was taken, BYTES are now SEGMENT's: they are given when it goes. */
void cas_space_charge(struct cas_space *space, struct cas_segment *segment, int64_t bytes);

/* The disk is full below the quota: evicts BYTES. False: could not be done. Blocks. */
bool cas_space_relieve(struct cas_space *space, int64_t bytes);

/* Something changed that may let a waiting eviction go on: a hold has ended. Cheap. */
void cas_space_wake(struct cas_space *space);

/* A segment became CAS_SEGMENT_BROKEN: it is evacuated soon. Cheap. */
void cas_space_broken(struct cas_space *space);

/* Bytes on disk, taken ones included. */
int64_t cas_space_used(const struct cas_space *space);

#endif
