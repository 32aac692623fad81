/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of all listeners: how many are under way, and the wait for their end. */
#ifndef ASSETD_TRANSPORT_FLIGHT_H
#define ASSETD_TRANSPORT_FLIGHT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* A call's memory that waits for the next call: a member of what it is. */
struct flight_spare {
    struct flight_spare *next;
};

struct flight {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* when a count goes down to 0 */
    size_t count;               /* of calls, armed or under way: at 0 the queue may be shut down */
    size_t under_way;           /* of these, calls of clients */
    int64_t last_arrival;       /* of a client's call: clock_steady */
    atomic_bool stopping;       /* calls that come now are UNAVAILABLE */
    struct flight_spare *spare; /* of calls that have ended */
};

int flight_init(struct flight *flight, struct err *err);

/* Waits until no call is left, and gives the spare memory to FREE. */
void flight_fini(struct flight *flight, void (*free)(struct flight_spare *spare));

/* Counts a call that is about to be armed; memory for it, or NULL if there is none to spare. */
struct flight_spare *flight_enter(struct flight *flight);

/* A client has made the call. */
void flight_arrive(struct flight *flight);

/*
 * The call is over, or was never armed. SPARE, its memory or NULL, is the flight's from then on,
 * and so may be the end of all that was served: the last use of the call.
 */
void flight_leave(struct flight *flight, struct flight_spare *spare, bool was_under_way);

/*
 * Refuses the calls that come from now on, and waits until those under way have ended; false if
 * GRACE milliseconds passed first. Then waits, a second at most and not beyond GRACE, for a moment
 * in which no client calls: those who call in a row have met the refusal and gone.
 */
bool flight_stop(struct flight *flight, int64_t grace);

#endif
