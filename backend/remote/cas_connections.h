/* SPDX-License-Identifier: Apache-2.0 */
/* The calls under way on the connections to an external CAS; for the files that make calls. */
#ifndef ASSETD_REMOTE_CAS_CONNECTIONS_H
#define ASSETD_REMOTE_CAS_CONNECTIONS_H

#include "base/arena.h"
#include "remote/cas_calls.h"
#include "rpc/client_call.h"

struct cas_call;
struct cas_channels;

/* One RPC. */
struct cas_method {
    const char *path; /* "/package.Service/Method" */
    const char *name; /* in messages */
    bool is_unary;
    unsigned also_fine; /* 1 << STATUS of those, beside OK, that are answers as well */
    /* Takes a message, which lives until it returns. A fault of it ends the call. */
    int (*message)(struct cas_call *call, struct span message, struct err *err);
    /* The last: tells the caller. ERR NULL: the status is OK or ALSO_FINE. */
    void (*done)(struct cas_call *call, grpc_status_code status, const struct err *err);
    void (*free)(struct cas_call *call);
};

/* Embedded in what a method needs; zeroed to begin, but for METHOD. */
struct cas_call {
    struct client_call rpc; /* first */
    const struct cas_method *method;
    struct cas_connections *connections; /* this and all below are set by cas_call_begin */
    struct cas_channels *channels;
    bool is_try;
    bool has_message;
    struct err fault;   /* of a message; ERR_OK: none */
    struct arena arena; /* of one message */
    struct cas_call *next;
    struct cas_call *previous;
};

/*
 * Begins CALL with REQUEST, both of which are taken over, on failure too. ERR_AWAY: the breaker
 * does not let it through; ERR_UNAVAILABLE: a file cannot be read; ERR_CANCELLED; ERR_NO_MEMORY.
 */
int cas_call_begin(struct cas_connections *connections, struct cas_call *call,
                   grpc_byte_buffer *request, struct err *err);

/* TEXT, which the CAS sent, without the token that was sent to it: in the arena of CALL. */
const char *cas_call_quote(struct cas_call *call, struct span text);

const struct conf_cas *cas_connections_conf(const struct cas_connections *connections);

/* The instance, for the log. */
const char *cas_connections_label(const struct cas_connections *connections);

#endif
