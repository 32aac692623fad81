/* SPDX-License-Identifier: Apache-2.0 */
/* A completion queue of the gRPC core and the threads that serve it. */
#ifndef ASSETD_RPC_QUEUE_H
#define ASSETD_RPC_QUEUE_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* What is told when a batch ends: embedded by its user, who must keep it until DONE is called. */
struct rpc_tag {
    /* OK is the core's verdict on the batch. Runs on a poller: it must not block. */
    void (*done)(struct rpc_tag *tag, bool ok);
};

struct rpc_queue;

/*
 * Has the core look names up as the system does (nsswitch.conf, resolv.conf), not by a resolver of
 * its own; the environment variable GRPC_DNS_RESOLVER says otherwise. Once, before there are
 * threads.
 */
void rpc_prepare(void);

/*
 * Whether the core has given up a listener of this process, for good: SIGTERM was sent to the
 * process then.
 */
bool rpc_has_lost_listener(void);

/*
 * Starts the core and POLLERS threads. One poller is cheapest behind a proxy, two serve direct
 * clients better; more cost hand-offs between threads. The pollers run until rpc_queue_free.
 * BEAT is how many milliseconds a poller that has nothing to do waits before it shows that it is
 * there; 0: for ever.
 */
int rpc_queue_new(unsigned pollers, int64_t beat, struct rpc_queue **queue, struct err *err);

/*
 * The same for outgoing calls alone, with one poller that rests while none is under way: a thread
 * that polls has a part in all that the process hears of the network, and each event that it has to
 * hand to another thread costs both.
 */
int rpc_queue_new_for_calls(struct rpc_queue **queue, struct err *err);

/* A call is under way from before its first batch until its last has ended, on the poller. */
void rpc_queue_begin_call(struct rpc_queue *queue);
void rpc_queue_end_call(struct rpc_queue *queue);

/*
 * Whether every poller has come by since this was true last. One that does not for much longer than
 * a beat is stuck in what it was given to do. One thread at a time.
 */
bool rpc_queue_has_answered(struct rpc_queue *queue);

/* Every batch must have ended; a batch begun later would abort the process. Stops the core. */
void rpc_queue_free(struct rpc_queue *queue);

/* The core's queue, on which batches are begun with a struct rpc_tag as their tag. */
grpc_completion_queue *rpc_queue_core(const struct rpc_queue *queue);

#endif
