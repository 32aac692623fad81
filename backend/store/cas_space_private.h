/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a space, for the files that make it up: cas_space.c, cas_evict.c, cas_carry.c. */
#ifndef ASSETD_STORE_CAS_SPACE_PRIVATE_H
#define ASSETD_STORE_CAS_SPACE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/cas_space.h"

/* One who waits for room, on the stack of its thread. */
struct cas_space_waiter {
    int64_t bytes;  /* that it wants to take; a relief: that are still to be evicted */
    bool is_relief; /* the disk is full: it takes nothing */
    bool is_done;
    int64_t since; /* milliseconds of the clock */
    int rc;
    struct err *err;
    struct cas_space_waiter *next;
};

/*
 * One lock guards all that changes but the atomic numbers, which are changed with it and read
 * without. It is never held during a system call on the disk.
 */
struct cas_space {
    struct cas_space_options options;
    int64_t segment_size; /* of the log */
    int64_t limit;        /* of what is used: the quota less what file systems take on their own */
    int64_t aside;        /* of that, what only copies may take */
    int64_t headroom;     /* that the thread keeps free when the store is that full */
    _Atomic int64_t patience; /* milliseconds that one waits while nothing can be evicted */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a waiter is done, or what it waits for goes on */
    pthread_cond_t wanted;  /* the thread has something to look at */
    _Atomic int64_t used;   /* bytes on disk, taken ones included */
    _Atomic int64_t fixed;  /* of these, what cannot be evicted */
    int64_t measured;       /* of these, directories and files of the store's own, as measured */
    int64_t ceiling;        /* of what is used with copies: the limit, or what was used before */
    struct cas_space_waiter *first;
    struct cas_space_waiter **last;
    int64_t progress; /* when something was given or evicted last */

    bool has_thread;
    pthread_t thread;
    atomic_bool stopping;
    atomic_bool is_blocked; /* one waits for room, and all is in use */
    int64_t retry_at;       /* before that it does not try again to evict */
    int64_t evacuate_at;    /* nor to evacuate */

    /* The thread's own: */
    int64_t trim_at;                /* the table was trimmed in vain: not before that */
    uint64_t blocking_hold;         /* of another process, because of which nothing went; 0: none */
    int64_t blocked_since;          /* when that was seen first */
    _Atomic int64_t holder_told_at; /* when the log said who keeps all; 0: never */
    uint32_t spared;       /* segments that were to go and stayed, since the last that went */
    int64_t untold;        /* blobs that were evicted, and not told of in the log yet */
    int64_t told_at;       /* when it was; 0: never */
    int64_t fault_told_at; /* likewise, of faults */
    const char *because;   /* of those that are untold */
    uint8_t *buffer;       /* of CAS_SPACE_BUFFER bytes */
};

enum { CAS_SPACE_BUFFER = 1 << 20 };

/* --- cas_space.c --- */

/* Takes BYTES for copies, from what is kept aside too; false if there is no room. Does not wait. */
bool cas_space_take_aside(struct cas_space *space, int64_t bytes);

#endif
