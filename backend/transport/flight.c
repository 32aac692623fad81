/* SPDX-License-Identifier: Apache-2.0 */
/* One lock and two counts; waiting is for the thread that stops the server. */
#include "transport/flight.h"

#include <time.h>

#include "base/clock.h"

/* Milliseconds. */
enum {
    QUIET = 200,       /* without a new call, after which no client calls in a row */
    QUIET_WAIT = 1000, /* to wait for that at most: many clients are never quiet */
};

int flight_init(struct flight *flight, struct err *err)
{
    *flight = (struct flight){.count = 0};
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    int rc = pthread_mutex_init(&flight->lock, NULL);
    if (rc == 0)
        rc = pthread_cond_init(&flight->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    return rc == 0 ? 0 : err_errno(err, rc, "make a lock");
}

void flight_fini(struct flight *flight, void (*free)(struct flight_spare *spare))
{
    (void)pthread_mutex_lock(&flight->lock);
    while (flight->count != 0)
        (void)pthread_cond_wait(&flight->changed, &flight->lock);
    struct flight_spare *spare = flight->spare;
    (void)pthread_mutex_unlock(&flight->lock);
    while (spare != NULL) {
        struct flight_spare *next = spare->next;
        free(spare);
        spare = next;
    }
    (void)pthread_cond_destroy(&flight->changed);
    (void)pthread_mutex_destroy(&flight->lock);
}

struct flight_spare *flight_enter(struct flight *flight)
{
    (void)pthread_mutex_lock(&flight->lock);
    struct flight_spare *spare = flight->spare;
    if (spare != NULL)
        flight->spare = spare->next;
    flight->count++;
    (void)pthread_mutex_unlock(&flight->lock);
    return spare;
}

void flight_arrive(struct flight *flight)
{
    int64_t now = clock_steady();
    (void)pthread_mutex_lock(&flight->lock);
    flight->under_way++;
    flight->last_arrival = now;
    (void)pthread_mutex_unlock(&flight->lock);
}

void flight_leave(struct flight *flight, struct flight_spare *spare, bool was_under_way)
{
    (void)pthread_mutex_lock(&flight->lock);
    if (spare != NULL) {
        spare->next = flight->spare;
        flight->spare = spare;
    }
    flight->count--;
    if (was_under_way)
        flight->under_way--;
    if (flight->count == 0 || (was_under_way && flight->under_way == 0))
        (void)pthread_cond_broadcast(&flight->changed);
    (void)pthread_mutex_unlock(&flight->lock);
}

static int64_t earlier(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

bool flight_stop(struct flight *flight, int64_t grace)
{
    int64_t now = clock_steady();
    int64_t until = now + grace;
    bool ended = false;
    atomic_store(&flight->stopping, true);
    (void)pthread_mutex_lock(&flight->lock);
    for (;;) {
        if (!ended && flight->under_way == 0) {
            ended = true;
            until = earlier(until, now + QUIET_WAIT);
        }
        int64_t wake = ended ? earlier(until, flight->last_arrival + QUIET) : until;
        if (now >= wake)
            break;
        struct timespec time = {.tv_sec = wake / 1000, .tv_nsec = wake % 1000 * 1000000};
        (void)pthread_cond_timedwait(&flight->changed, &flight->lock, &time);
        now = clock_steady();
    }
    (void)pthread_mutex_unlock(&flight->lock);
    return ended;
}
