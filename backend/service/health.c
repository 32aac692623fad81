/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.health.v1.Health: whether the server, or one of its services, takes calls.
 *
 * A watch is in one of two states, which change under the lock:
 *
 *   busy   a request to the transport is outstanding, or about to be made by one thread
 *   idle   none is: the client knows all there is to know
 *
 * It begins busy. `sent` finds out what is next, and makes it idle if that is nothing. Whoever has
 * news for an idle watch (health_stop, `cancelled`) makes it busy first, and so is the only one to
 * make a request; news for a busy watch are found by its next `sent`, or its send fails and `end`
 * comes. A call that was asked to finish stays busy until `end`.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "service/handlers.h"
#include "service/messages.h"
#include "service/services.h"

/* One Watch, in the memory of its call. */
struct watch {
    struct call *call;
    bool is_known; /* the service is one of ours */
    bool is_idle;
    HEALTH(HealthCheckResponse__ServingStatus) told; /* what the client knows; first UNKNOWN */
    struct watch *previous, *next;                   /* in the list of all */
    struct watch *claimed;                           /* the next one that health_stop made busy */
};

struct health {
    pthread_mutex_t lock;
    bool is_stopping;
    struct watch *watches;
};

int health_new(struct health **out, struct err *err)
{
    struct health *health = calloc(1, sizeof(*health));
    if (health == NULL)
        return err_no_memory(err, "the health service");
    (void)pthread_mutex_init(&health->lock, NULL);
    *out = health;
    return 0;
}

void health_free(struct health *health)
{
    if (health == NULL)
        return;
    assert(health->watches == NULL);
    (void)pthread_mutex_destroy(&health->lock);
    free(health);
}

/* Whether NAME is the server as a whole ("") or a service of the method table. */
static bool is_known(const char *name)
{
    size_t length = strlen(name);
    if (length == 0)
        return true;
    for (size_t i = 0; i < method_count; i++) {
        const char *path = methods[i].path + 1;
        if (strncmp(path, name, length) == 0 && path[length] == '/')
            return true;
    }
    return false;
}

/* What there is to tell of a service. The lock is held. */
static HEALTH(HealthCheckResponse__ServingStatus) status_of(const struct health *health,
                                                            bool is_known_service)
{
    if (!is_known_service)
        return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    if (health->is_stopping)
        return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
}

void health_check_start(struct call *call)
{
    const HEALTH(HealthCheckRequest) *request = (const void *)call->request;
    struct health *health = call->services->health;
    struct err err;
    if (!is_known(request->service)) {
        (void)err_set(&err, ERR_NOT_FOUND, "service %.200s is not served here", request->service);
        call_fail(call, &err);
        return;
    }
    HEALTH(HealthCheckResponse) response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    (void)pthread_mutex_lock(&health->lock);
    response.status = status_of(health, true);
    (void)pthread_mutex_unlock(&health->lock);
    call_finish(call, &response.base);
}

/* Makes the next request of a busy watch, or makes it idle. The call may be gone afterwards. */
static void proceed(struct watch *watch)
{
    struct call *call = watch->call;
    struct health *health = call->services->health;
    HEALTH(HealthCheckResponse) response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    (void)pthread_mutex_lock(&health->lock);
    response.status = status_of(health, watch->is_known);
    bool is_cancelled = atomic_load(&call->is_cancelled);
    bool has_news = response.status != watch->told;
    bool is_idle = !is_cancelled && !has_news && !health->is_stopping;
    watch->told = response.status;
    watch->is_idle = is_idle;
    (void)pthread_mutex_unlock(&health->lock);

    if (is_idle)
        return;
    if (is_cancelled) {
        struct err err;
        (void)err_set(&err, ERR_CANCELLED, "the watch was cancelled");
        call_fail(call, &err);
    } else if (has_news) {
        call_send(call, &response.base);
    } else {
        call_finish_stream(call);
    }
}

void health_watch_start(struct call *call)
{
    const HEALTH(HealthCheckRequest) *request = (const void *)call->request;
    struct health *health = call->services->health;
    struct err err;
    struct watch *watch = arena_calloc(call->arena, 1, sizeof(*watch));
    if (watch == NULL) {
        (void)err_no_memory(&err, "a watch");
        call_fail(call, &err);
        return;
    }
    watch->call = call;
    watch->is_known = is_known(request->service);

    (void)pthread_mutex_lock(&health->lock);
    watch->next = health->watches;
    if (watch->next != NULL)
        watch->next->previous = watch;
    health->watches = watch;
    call->state = watch;
    (void)pthread_mutex_unlock(&health->lock);
    proceed(watch);
}

void health_watch_sent(struct call *call)
{
    proceed(call->state);
}

/* May come beside any other event, also before `start` has ended and after `end`. */
void health_watch_cancelled(struct call *call)
{
    struct health *health = call->services->health;
    (void)pthread_mutex_lock(&health->lock);
    struct watch *watch = call->state;
    bool was_idle = watch != NULL && watch->is_idle;
    if (was_idle)
        watch->is_idle = false;
    (void)pthread_mutex_unlock(&health->lock);
    if (was_idle)
        proceed(watch);
}

void health_watch_end(struct call *call)
{
    struct health *health = call->services->health;
    (void)pthread_mutex_lock(&health->lock);
    struct watch *watch = call->state;
    if (watch != NULL) {
        if (watch->next != NULL)
            watch->next->previous = watch->previous;
        if (watch->previous != NULL)
            watch->previous->next = watch->next;
        else
            health->watches = watch->next;
        call->state = NULL;
    }
    (void)pthread_mutex_unlock(&health->lock);
}

void health_stop(struct health *health)
{
    struct watch *claimed = NULL;
    (void)pthread_mutex_lock(&health->lock);
    health->is_stopping = true;
    for (struct watch *watch = health->watches; watch != NULL; watch = watch->next) {
        if (!watch->is_idle)
            continue;
        watch->is_idle = false;
        watch->claimed = claimed;
        claimed = watch;
    }
    (void)pthread_mutex_unlock(&health->lock);
    /* None of them can go before its request is made, which is up to this thread alone. */
    while (claimed != NULL) {
        struct watch *next = claimed->claimed;
        proceed(claimed);
        claimed = next;
    }
}
