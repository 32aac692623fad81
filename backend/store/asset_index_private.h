/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index from within: what asset_index.c and asset_writer.c share. */
#ifndef ASSETD_STORE_ASSET_INDEX_PRIVATE_H
#define ASSETD_STORE_ASSET_INDEX_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "store/asset_index.h"
#include "store/asset_shared.h"
#include "store/asset_tables.h"
#include "store/asset_uses.h"
#include "store/directory.h"

struct asset_index {
    struct store_directory directory;
    struct asset_shared shared;
    struct asset_tables tables;
    struct asset_uses uses; /* not written yet; of a process that reads: of late */
    int64_t (*now)(void);
    int64_t expire_after; /* milliseconds; 0: never */
    int64_t renew_after;  /* milliseconds */
    bool may_write;
    bool has_shared;
    enum asset_place place;

    pthread_t thread;
    bool has_thread;
    atomic_bool is_writing; /* this process */
    pthread_mutex_t lock;   /* of these: */
    pthread_cond_t work;
    struct asset_write *first;
    struct asset_write **last; /* where the next write is linked in */
    bool is_stopping;
    struct err holder; /* why it does not write, if it may */

    atomic_uint_fast64_t evicted;
    atomic_uint_fast64_t expired;
    atomic_uint_fast64_t commits;

    /* The thread's own: */
    bool has_take_over_failed;
    int warned_of;                /* pid of the last one that had the content in another place */
    int64_t upkeep_at;            /* when the last one was */
    struct timespec upkeep_until; /* when the next one is due, by the clock that is never set */
    bool is_upkeep_due;           /* whatever the clock says */
    struct timespec uses_until;   /* when the uses are looked at next, by that clock */
    size_t renewals_left;         /* that upkeep may go on to write until then */
    bool has_upkeep_failed;       /* the last one; the next is not hurried then */
};

enum { ASSET_UPKEEP_MS = 60 * 1000 }; /* from one writing of uses and sweep to the next */

/* Answers the writes from FIRST up to END, which are gone after that. */
void asset_writer_answer(struct asset_write *first, const struct asset_write *end,
                         const struct err *err);

/* --- the writing process, on the thread of the index --- */

/* Waits for writes, with the lock held, no longer than to the next look at the uses. */
void asset_writer_wait(struct asset_index *index);

/* Writes all that was queued: FIRST and those behind it, if any; before it, upkeep if it is due. */
void asset_writer_turn(struct asset_index *index, struct asset_write *first);

/* Writes the uses that are pending, at the end. */
void asset_writer_finish(struct asset_index *index);

#endif
