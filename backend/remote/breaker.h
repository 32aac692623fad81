/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A circuit breaker: a server that does not answer is left alone for a while, so that not every
 * call waits for its timeout. Then one call tries; its answer opens the way for all.
 */
#ifndef ASSETD_REMOTE_BREAKER_H
#define ASSETD_REMOTE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum {
    BREAKER_FAILURES = 3,       /* in a row that open it */
    BREAKER_PAUSE_FIRST = 250,  /* milliseconds until the first try */
    BREAKER_PAUSE_MOST = 10000, /* each next pause is twice the last, up to this */
};

/* Embedded, zeroed to begin: closed, which lets all through. Its user's lock guards it. */
struct breaker {
    unsigned failures; /* in a row */
    bool is_open;      /* nothing is let through but a try */
    bool is_trying;    /* a try is under way */
    int64_t pause;     /* milliseconds, of the present one */
    int64_t next_try;  /* milliseconds of a monotonic clock */
};

/*
 * Whether a call may be made at NOW, and whether it is a try, which it is told again at its end.
 * After true, breaker_succeed, _fail or _forget must follow.
 */
bool breaker_admit(struct breaker *breaker, int64_t now, bool *is_try);

/* The call was answered. True if that closed the breaker: the server is back. */
bool breaker_succeed(struct breaker *breaker);

/*
 * It was not. True if that opened the breaker: the server is lost. Calls that were let through
 * before the breaker opened, and fail afterwards, count for nothing.
 */
bool breaker_fail(struct breaker *breaker, int64_t now, bool is_try);

/* It tells nothing, as we ended it ourselves; the next may try. */
void breaker_forget(struct breaker *breaker, bool is_try);

#endif
