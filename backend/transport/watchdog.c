/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that asks the pollers and tells the service manager. */
#include "transport/watchdog.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/notify.h"

enum {
    /* How often in an interval the pollers are asked; twice is what sd_watchdog_enabled(3) says. */
    ASKED = 4,
    /* How often between two questions each has been there. */
    BEATS = 2,
};

struct watchdog {
    struct rpc_queue *queue;
    int64_t pause; /* milliseconds between two questions */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    bool stopping;
};

int64_t watchdog_beat(int64_t interval)
{
    if (interval == 0)
        return 0;
    return interval > ASKED * BEATS ? interval / (ASKED * BEATS) : 1;
}

/* Whether the watchdog is to stop; waits a pause for that. */
static bool is_stopped(struct watchdog *watchdog)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t nanoseconds = until.tv_nsec + watchdog->pause % 1000 * 1000000;
    until.tv_sec += watchdog->pause / 1000 + nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    int rc = 0;
    (void)pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->stopping && rc == 0)
        rc = pthread_cond_timedwait(&watchdog->stopped, &watchdog->lock, &until);
    bool stopping = watchdog->stopping;
    (void)pthread_mutex_unlock(&watchdog->lock);
    return stopping;
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;
    int64_t unanswered = 0; /* questions in a row */
    while (!is_stopped(watchdog)) {
        if (rpc_queue_has_answered(watchdog->queue)) {
            if (unanswered >= ASKED / 2)
                log_warning("pollers-back", log_num("after_ms", unanswered * watchdog->pause));
            unanswered = 0;
            notify_watchdog();
        } else if (++unanswered == ASKED / 2) {
            log_error("pollers-stuck", log_num("for_ms", unanswered * watchdog->pause),
                      log_str("answer", "the service manager is not told that assetd is alive, and "
                                        "will restart it"));
        }
    }
    return NULL;
}

/* Its thread has ended, or was never there. */
static void free_watchdog(struct watchdog *watchdog)
{
    (void)pthread_cond_destroy(&watchdog->stopped);
    (void)pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}

int watchdog_start(struct rpc_queue *queue, int64_t interval, struct watchdog **out,
                   struct err *err)
{
    struct watchdog *watchdog = calloc(1, sizeof(*watchdog));
    if (watchdog == NULL)
        return err_no_memory(err, "the watchdog");
    watchdog->queue = queue;
    watchdog->pause = interval > ASKED ? interval / ASKED : 1;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&watchdog->lock, NULL);
    (void)pthread_cond_init(&watchdog->stopped, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    int rc = pthread_create(&watchdog->thread, NULL, watch, watchdog);
    if (rc != 0) {
        free_watchdog(watchdog);
        return err_errno(err, rc, "start a thread");
    }
    (void)pthread_setname_np(watchdog->thread, "watchdog");
    *out = watchdog;
    return 0;
}

void watchdog_stop(struct watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    (void)pthread_mutex_lock(&watchdog->lock);
    watchdog->stopping = true;
    (void)pthread_cond_signal(&watchdog->stopped);
    (void)pthread_mutex_unlock(&watchdog->lock);
    (void)pthread_join(watchdog->thread, NULL);
    free_watchdog(watchdog);
}
