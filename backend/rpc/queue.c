/* SPDX-License-Identifier: Apache-2.0 */
/* The pollers: threads that take finished batches from the core and call their tags. */
#include "rpc/queue.h"

#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

struct poller {
    struct rpc_queue *queue;
    pthread_t thread;
    atomic_bool has_answered; /* since all had last */
};

struct rpc_queue {
    grpc_completion_queue *core;
    int64_t beat; /* milliseconds; 0: none */
    bool rests;   /* while no call is under way; the following are of such a queue */
    pthread_mutex_t lock;
    pthread_cond_t begun;
    size_t calls;
    bool is_over;
    unsigned count;
    struct poller pollers[];
};

/*
 * Whether TEXT was told lately. A channel that tries again and again to connect says the same each
 * time. Two that share a place are told more often than they had to be.
 */
static bool is_told(const char *text)
{
    enum { PLACES = 64, PAUSE = 600000 /* milliseconds */ };
    static _Atomic int64_t told[PLACES]; /* when, by clock_steady; 0: never */
    static _Atomic uint32_t what[PLACES];
    uint32_t hash = 2166136261U;
    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619U;
    int64_t now = clock_steady(), before = atomic_load(&told[hash % PLACES]);
    if (before != 0 && now - before < PAUSE && atomic_load(&what[hash % PLACES]) == hash)
        return true;
    atomic_store(&what[hash % PLACES], hash);
    atomic_store(&told[hash % PLACES], now);
    return false;
}

static atomic_bool has_lost_listener;

bool rpc_has_lost_listener(void)
{
    return atomic_load(&has_lost_listener);
}

/*
 * Out of descriptors, the core closes what it listens by and never opens it again. A server that
 * nobody can reach is worse than none: it is ended as by an operator, with all that it has under
 * way, for whoever supervises it to start it anew.
 */
static void lose_listener(const char *reason)
{
    log_error("listener-lost", log_str("reason", reason),
              log_str("answer", "a listener takes no more connections: the server ends, to be "
                                "started again; if too many files are open, let it have more "
                                "(LimitNOFILE=), or have a firewall limit connections"));
    atomic_store(&has_lost_listener, true);
    (void)kill(getpid(), SIGTERM);
}

/* The core's own messages are of use to who debugs it, and many tell of clients' doings. */
static void log_of_core(gpr_log_func_args *message)
{
    enum log_level level = message->severity == GPR_LOG_SEVERITY_ERROR && !is_told(message->message)
                               ? LOG_LEVEL_INFO
                               : LOG_LEVEL_TRACE;
    if (strstr(message->message, "Failed accept") != NULL)
        lose_listener(message->message);
    LOG_AT(level, "grpc-core", log_str("message", message->message), log_str("file", message->file),
           log_num("line", message->line));
}

void rpc_prepare(void)
{
    (void)setenv("GRPC_DNS_RESOLVER", "native", 0);
}

/* The next event, or a beat without one. */
static grpc_event next_event(struct rpc_queue *queue)
{
    gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (queue->beat != 0)
        until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                             gpr_time_from_millis(queue->beat, GPR_TIMESPAN));
    return grpc_completion_queue_next(queue->core, until, NULL);
}

static void rest(struct rpc_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    while (queue->calls == 0 && !queue->is_over)
        (void)pthread_cond_wait(&queue->begun, &queue->lock);
    (void)pthread_mutex_unlock(&queue->lock);
}

static void *poll_queue(void *argument)
{
    struct poller *poller = argument;
    for (;;) {
        if (poller->queue->rests)
            rest(poller->queue);
        grpc_event event = next_event(poller->queue);
        atomic_store_explicit(&poller->has_answered, true, memory_order_relaxed);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_QUEUE_TIMEOUT)
            continue;
        struct rpc_tag *tag = event.tag;
        tag->done(tag, event.success != 0);
    }
}

static int start(unsigned pollers, int64_t beat, bool rests, struct rpc_queue **out,
                 struct err *err)
{
    struct rpc_queue *queue = calloc(1, sizeof(*queue) + pollers * sizeof(queue->pollers[0]));
    if (queue == NULL)
        return err_no_memory(err, "the completion queue");
    gpr_set_log_function(log_of_core);
    grpc_init();
    queue->beat = beat;
    queue->rests = rests;
    (void)pthread_mutex_init(&queue->lock, NULL);
    (void)pthread_cond_init(&queue->begun, NULL);
    queue->core = grpc_completion_queue_create_for_next(NULL);
    for (; queue->count < pollers; queue->count++) {
        struct poller *poller = &queue->pollers[queue->count];
        poller->queue = queue;
        int rc = pthread_create(&poller->thread, NULL, poll_queue, poller);
        if (rc != 0) {
            rpc_queue_free(queue);
            return err_errno(err, rc, "start a poller");
        }
        (void)pthread_setname_np(poller->thread, rests ? "call-poller" : "poller");
    }
    *out = queue;
    return 0;
}

int rpc_queue_new(unsigned pollers, int64_t beat, struct rpc_queue **queue, struct err *err)
{
    return start(pollers, beat, false, queue, err);
}

int rpc_queue_new_for_calls(struct rpc_queue **queue, struct err *err)
{
    return start(1, 0, true, queue, err);
}

void rpc_queue_begin_call(struct rpc_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    if (queue->calls++ == 0)
        (void)pthread_cond_signal(&queue->begun);
    (void)pthread_mutex_unlock(&queue->lock);
}

void rpc_queue_end_call(struct rpc_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    queue->calls--;
    (void)pthread_mutex_unlock(&queue->lock);
}

void rpc_queue_free(struct rpc_queue *queue)
{
    if (queue == NULL)
        return;
    grpc_completion_queue_shutdown(queue->core);
    (void)pthread_mutex_lock(&queue->lock);
    queue->is_over = true;
    (void)pthread_cond_broadcast(&queue->begun);
    (void)pthread_mutex_unlock(&queue->lock);
    /* Without a poller somebody must still see the queue out. */
    if (queue->count == 0) {
        struct poller none = {.queue = queue};
        (void)poll_queue(&none);
    }
    for (unsigned i = 0; i < queue->count; i++)
        (void)pthread_join(queue->pollers[i].thread, NULL);
    grpc_completion_queue_destroy(queue->core);
    grpc_shutdown();
    (void)pthread_cond_destroy(&queue->begun);
    (void)pthread_mutex_destroy(&queue->lock);
    free(queue);
}

grpc_completion_queue *rpc_queue_core(const struct rpc_queue *queue)
{
    return queue->core;
}

bool rpc_queue_has_answered(struct rpc_queue *queue)
{
    bool have_all = true;
    for (unsigned i = 0; i < queue->count; i++)
        have_all &= atomic_load_explicit(&queue->pollers[i].has_answered, memory_order_relaxed);
    for (unsigned i = 0; have_all && i < queue->count; i++)
        atomic_store_explicit(&queue->pollers[i].has_answered, false, memory_order_relaxed);
    return have_all;
}
