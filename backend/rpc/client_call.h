/* SPDX-License-Identifier: Apache-2.0 */
/* A call to another server: one request, any number of answers. */
#ifndef ASSETD_RPC_CLIENT_CALL_H
#define ASSETD_RPC_CLIENT_CALL_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "rpc/queue.h"

/* What is asked, of whom. */
struct client_call_options {
    grpc_channel *channel;     /* borrowed until ENDED */
    struct rpc_queue *queue;   /* likewise */
    const char *path;          /* "/package.Service/Method"; a constant */
    const char *authorization; /* the metadata of that name; copied; NULL: none */
    int64_t timeout;           /* milliseconds for all of the call, from client_call_init on */
    bool is_unary;             /* one answer, with OK alone: all of the call is one batch */
};

struct client_call_state;

/* Embedded by its user, who keeps it until ENDED is called. */
struct client_call {
    /* Set by the user: */
    /* Each message, in runs that live until it returns. False: enough, the call is cancelled. */
    bool (*message)(struct client_call *call, const struct span *runs, size_t count);
    /*
     * Once, as the last: STATUS is the gRPC status (GRPC_STATUS_CANCELLED after a cancellation of
     * ours), TEXT what the server, or the core, said of it. Runs on a poller, as MESSAGE: it must
     * not block.
     */
    void (*ended)(struct client_call *call, grpc_status_code status, const char *text);
    /* Its own: */
    struct client_call_state *state;
};

/*
 * Makes the call, which client_call_start must follow. ERR_NO_MEMORY is the only error: there is no
 * call then.
 */
int client_call_init(struct client_call *call, const struct client_call_options *options,
                     struct err *err);

/* Begins it with REQUEST, which is taken over. ENDED may come before this returns. */
void client_call_start(struct client_call *call, grpc_byte_buffer *request);

/*
 * Ends it soon, if it has not ended. Any thread, at any time from client_call_init on, until ENDED
 * returns.
 */
void client_call_cancel(struct client_call *call);

/* "PERMISSION_DENIED" and so on, as the gRPC documentation has it. */
const char *client_call_status_name(grpc_status_code status);

#endif
