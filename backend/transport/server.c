/* SPDX-License-Identifier: Apache-2.0 */
/* Start and stop of the server. */
#include "transport/server.h"

#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "rpc/queue.h"
#include "transport/core.h"
#include "transport/listener.h"
#include "transport/metrics.h"
#include "transport/server_call.h"
#include "transport/watchdog.h"

enum { STOP_SECONDS = 1 }; /* for the peers to answer that they know of the stop, and to go */

struct server {
    const struct services *_Atomic services; /* those that calls are served by */
    struct rpc_queue *queue;
    struct watchdog *watchdog; /* NULL: none */
    struct metrics_calls calls;
    struct metrics *metrics; /* NULL: none */
    struct flight flight;
    struct message_space *space;
    struct server_listener *listeners;
    size_t count;           /* of listeners that were made */
    struct rpc_tag stopped; /* of the shutdown of every listener */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t stopping; /* listeners whose shutdown is not over */
};

static int register_methods(struct server_listener *listener, struct err *err)
{
    listener->methods = calloc(method_count + 1, sizeof(listener->methods[0]));
    if (listener->methods == NULL)
        return err_no_memory(err, "the methods");
    for (size_t i = 0; i < method_count; i++) {
        const struct method *method = &methods[i];
        bool has_request = server_call_has_request(method);
        listener->methods[i].method = method;
        listener->methods[i].handle = grpc_server_register_method(
            listener->core, method->path, NULL,
            has_request ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER : GRPC_SRM_PAYLOAD_NONE, 0);
        if (listener->methods[i].handle == NULL)
            return err_set(err, ERR_INTERNAL, "the core refuses method %s", method->path);
    }
    for (size_t i = 0; i <= method_count; i++)
        listener->methods[i].listener = listener;
    return 0;
}

static int arm_methods(struct server_listener *listener, struct err *err)
{
    for (size_t i = 0; i <= method_count; i++)
        for (unsigned n = 0; n < CORE_ARMED_PER_METHOD; n++) {
            int rc = server_call_arm(&listener->methods[i], err);
            if (rc != 0)
                return rc;
        }
    return 0;
}

static int bind_listener(struct server_listener *listener, const struct conf_listener *conf,
                         struct err *err)
{
    int rc = conf->tls != NULL ? tls_open(conf, &listener->tls, err) : 0;
    if (rc != 0)
        return rc;
    grpc_server_credentials *credentials = listener->tls != NULL
                                               ? tls_credentials(listener->tls)
                                               : grpc_insecure_server_credentials_create();
    rc = listener_bind(listener->core, conf, credentials, err);
    grpc_server_credentials_release(credentials);
    return rc;
}

/* What was made is left in the listener, for stop_listeners to take down. */
static int open_listener(struct server *server, struct server_listener *listener,
                         grpc_resource_quota *memory, struct err *err)
{
    const struct conf *conf = atomic_load(&server->services)->conf;
    listener->core = core_new(memory, conf->stream_limit);
    if (listener->core == NULL)
        return err_set(err, ERR_INTERNAL, "the core makes no server");
    server->count++;
    grpc_server_register_completion_queue(listener->core, listener->queue, NULL);
    int rc = register_methods(listener, err);
    if (rc == 0)
        rc = bind_listener(listener, &conf->listeners[listener->index], err);
    return rc;
}

static int open_listeners(struct server *server, struct err *err)
{
    const struct conf *conf = atomic_load(&server->services)->conf;
    int rc = 0;
    server->listeners = calloc(conf->listener_count, sizeof(server->listeners[0]));
    if (server->listeners == NULL)
        return err_no_memory(err, "the listeners");
    grpc_resource_quota *memory = core_memory_new();
    for (size_t i = 0; i < conf->listener_count && rc == 0; i++) {
        server->listeners[i] = (struct server_listener){.services = &server->services,
                                                        .index = i,
                                                        .queue = rpc_queue_core(server->queue),
                                                        .calls = &server->calls,
                                                        .flight = &server->flight,
                                                        .space = server->space};
        rc = open_listener(server, &server->listeners[i], memory, err);
    }
    grpc_resource_quota_unref(memory);
    return rc;
}

/* All addresses are open: only now may clients be served, so that a failed start serves none. */
static int serve(struct server *server, struct err *err)
{
    const struct conf *conf = atomic_load(&server->services)->conf;
    for (size_t i = 0; i < server->count; i++) {
        struct server_listener *listener = &server->listeners[i];
        grpc_server_start(listener->core);
        int rc = arm_methods(listener, err);
        if (rc != 0)
            return rc;
        log_info("listening", log_str("address", conf->listeners[i].address),
                 log_str("access", conf_access_name(conf->listeners[i].access)));
    }
    return 0;
}

static void on_stopped(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    struct server *server = (struct server *)((char *)tag - offsetof(struct server, stopped));
    (void)pthread_mutex_lock(&server->lock);
    server->stopping--;
    (void)pthread_cond_signal(&server->changed);
    (void)pthread_mutex_unlock(&server->lock);
}

/* Whether all listeners have stopped until DEADLINE (CLOCK_REALTIME; NULL: waits for that). */
static bool wait_stopped(struct server *server, const struct timespec *deadline)
{
    int rc = 0;
    (void)pthread_mutex_lock(&server->lock);
    while (server->stopping != 0 && rc == 0)
        rc = deadline != NULL ? pthread_cond_timedwait(&server->changed, &server->lock, deadline)
                              : pthread_cond_wait(&server->changed, &server->lock);
    bool stopped = server->stopping == 0;
    (void)pthread_mutex_unlock(&server->lock);
    return stopped;
}

/*
 * The core answers calls that come at the moment of its shutdown with CANCELLED, which clients do
 * not try again, or forgets them until they are cancelled. So it goes on while calls are under way
 * and while clients call in a row, we answer new calls with UNAVAILABLE, and only then is it shut
 * down. It says so to its connections, and the last words are ready when the peers have answered.
 * Cancelling before that would end connections with an error, after which some clients wait for
 * ever, past their deadlines, for calls that the core had not read yet.
 */
static void stop_listeners(struct server *server, int64_t grace)
{
    if (!flight_stop(&server->flight, grace))
        log_warning("cancelling-calls", log_num("after_ms", grace));
    server->stopping = server->count;
    server->stopped.done = on_stopped;
    for (size_t i = 0; i < server->count; i++)
        grpc_server_shutdown_and_notify(server->listeners[i].core, server->listeners[i].queue,
                                        &server->stopped);
    struct timespec deadline;
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += STOP_SECONDS;
    if (wait_stopped(server, &deadline))
        return;
    for (size_t i = 0; i < server->count; i++)
        grpc_server_cancel_all_calls(server->listeners[i].core);
    (void)wait_stopped(server, NULL);
}

int server_start(const struct services *services, int64_t watchdog, struct server **out,
                 struct err *err)
{
    const struct conf *conf = services->conf;
    struct server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return err_no_memory(err, "the server");
    atomic_init(&server->services, services);
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->changed, NULL);
    int rc = flight_init(&server->flight, err);
    if (rc == 0 && (server->space = message_space_new()) == NULL)
        rc = err_no_memory(err, "the messages");
    if (rc == 0)
        rc = metrics_calls_init(&server->calls, err);
    if (rc == 0)
        rc = rpc_queue_new(conf->pollers, watchdog_beat(watchdog), &server->queue, err);
    if (rc == 0)
        rc = open_listeners(server, err);
    if (rc == 0 && conf->metrics_address != NULL)
        rc = metrics_start(conf->metrics_address, &server->services, &server->calls,
                           &server->metrics, err);
    if (rc == 0)
        rc = serve(server, err);
    if (rc == 0 && watchdog != 0)
        rc = watchdog_start(server->queue, watchdog, &server->watchdog, err);
    if (rc != 0) {
        server_stop(server, 0);
        return rc;
    }
    *out = server;
    return 0;
}

void server_follow(struct server *server, const struct services *next)
{
    atomic_store(&server->services, next);
}

void server_refresh(struct server *server)
{
    for (size_t i = 0; i < server->count; i++)
        if (server->listeners[i].tls != NULL)
            tls_refresh(server->listeners[i].tls);
}

void server_stop(struct server *server, int64_t grace)
{
    if (server == NULL)
        return;
    stop_listeners(server, grace);
    flight_fini(&server->flight, server_call_free);
    for (size_t i = 0; i < server->count; i++) {
        grpc_server_destroy(server->listeners[i].core);
        free(server->listeners[i].methods);
    }
    watchdog_stop(server->watchdog);
    rpc_queue_free(server->queue);
    for (size_t i = 0; i < server->count; i++)
        tls_close(server->listeners[i].tls);
    metrics_stop(server->metrics);
    metrics_calls_fini(&server->calls);
    message_space_free(server->space);
    free(server->listeners);
    (void)pthread_cond_destroy(&server->changed);
    (void)pthread_mutex_destroy(&server->lock);
    free(server);
}
