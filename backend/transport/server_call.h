/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call on the side of the gRPC core. The states of one:
 *
 *   armed      handed to the core, which fills it when a client calls its method
 *   handling   the handler has it and owes a request (call_receive, call_send..., call_finish...)
 *   receiving, sending, finishing   a batch is under way
 *   ended      `end` was delivered; freed once the core has reported the call closed
 *
 * For streams, and for unary calls that are watched, the core also reports their close on a tag of
 * its own, at any time, which makes is_cancelled true if the call did not end by itself.
 */
#ifndef ASSETD_TRANSPORT_SERVER_CALL_H
#define ASSETD_TRANSPORT_SERVER_CALL_H

#include <grpc/grpc.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "rpc/message_space.h"
#include "service/services.h"
#include "transport/flight.h"
#include "transport/metrics.h"
#include "transport/tls.h"

struct server_call;

/* One method as registered at one listener's server. */
struct server_method {
    const struct method *method; /* NULL: whatever the table does not have */
    void *handle;                /* the core's */
    struct server_listener *listener;
};

/* One listener, with a server of the core's to itself: that tells which way a call came. */
struct server_listener {
    const struct services *_Atomic *services; /* a call loads them once, when it comes */
    size_t index;                             /* in the listeners of their configuration */
    grpc_server *core;
    struct tls *tls; /* NULL: in the clear */
    grpc_completion_queue *queue;
    struct server_method *methods; /* method_count, and one more for unknown ones */
    struct metrics_calls *calls;
    struct flight *flight;
    struct message_space *space;
};

/* Whether a call of METHOD comes with its one request, which the core is to read first. */
bool server_call_has_request(const struct method *method);

/* Makes a call and hands it to the core, for the next client that calls METHOD. */
int server_call_arm(struct server_method *method, struct err *err);

/* Gives back the memory of a call that has ended: for flight_fini. */
void server_call_free(struct flight_spare *spare);

#endif
