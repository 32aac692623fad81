/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An RPC as its handler sees it. Handlers know messages and stores, and nothing of gRPC: what they
 * ask for here is done by the transport.
 *
 * A call is a row of events, delivered one at a time, never two at once, but on changing threads.
 * To each event the handler answers with exactly one request (call_receive, call_send...,
 * call_finish...), at once or later, from any thread; from then on the call is the transport's
 * again, and may be gone.
 *
 *   start       the call has come; of unary and server-streaming methods with its request
 *   message     one message has come, after call_receive
 *   half_close  the client will send no more, after call_receive
 *   sent        the message is on its way, the next may be sent, after call_send...
 *   cancelled   see below
 *   end         the last event, after call_finish... or a cancellation: give back what STATE holds;
 *               it comes without `start`, and STATE NULL, for a call that was refused before
 *
 * A cancellation (the client, its deadline or our shutdown) makes requests fail: instead of the
 * event that was asked for, `end` comes. Only a method that stays silent for long (Health.Watch, or
 * one that waits for another server) needs the `cancelled` event: it may come at any time after
 * `start`, beside the others and even after `end`, with is_cancelled already true, and must not
 * block. What is in the call's arena is there until it returns. Of unary methods it comes for those
 * calls alone that asked for it by call_watch.
 *
 * start, message, half_close and sent must not block: what does is handed to call_offload.
 */
#ifndef ASSETD_SERVICE_CALL_H
#define ASSETD_SERVICE_CALL_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/pool.h"
#include "base/span.h"
#include "conf/conf.h"

struct call;
struct instance;
struct services;

enum method_shape { METHOD_UNARY, METHOD_SERVER_STREAM, METHOD_CLIENT_STREAM, METHOD_BIDI };

/* What a listener must let in for the method to be called there. */
enum method_right { METHOD_READ, METHOD_WRITE };

/* One RPC. The table of all of them is service/methods.c. */
struct method {
    const char *path; /* "/package.Service/Method" */
    enum method_shape shape;
    enum method_right right;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response;
    bool raw_request; /* messages are handed over as bytes, not unpacked (ByteStream.Write) */
    void (*start)(struct call *call);
    void (*message)(struct call *call);
    void (*half_close)(struct call *call);
    void (*sent)(struct call *call);
    void (*cancelled)(struct call *call);
    void (*end)(struct call *call);
};

struct call {
    const struct method *method;
    const struct services *services; /* what handlers work with: as it was when the call came */
    const struct conf_listener *listener; /* likewise */
    const char *identity;                 /* registered name of the client; "" is nobody */
    const char *request_id;               /* given by the proxy; "" if none */
    struct arena *arena; /* lives as long as the call; message memory of streams does not */
    /* The request, or the message of a `message` event, until the handler's next request. */
    const ProtobufCMessage *request;
    const struct span *raw; /* instead, for raw_request: the message's bytes, in RAW_COUNT runs */
    size_t raw_count;
    void *state;              /* the handler's own */
    atomic_bool is_cancelled; /* of unary calls that are not watched: never known before `end` */
    struct job job;           /* of call_offload */
    void (*offloaded)(struct call *call);
};

/*
 * Of a unary call, once, while the handler owes a request: from now on `cancelled` comes, perhaps
 * before this returns. It costs as much as a message, which calls that are answered at once save.
 */
void call_watch(struct call *call);

/* Asks for the next message of the client: `message` or `half_close` follows. */
void call_receive(struct call *call);

/* Sends MESSAGE, packed before this returns, on a stream: `sent` follows. */
void call_send(struct call *call, const ProtobufCMessage *message);

/*
 * For messages that are packed by hand: SIZE bytes to fill, which become the message that
 * call_send_filled sends. NULL when memory is out. Asking again drops the first.
 */
uint8_t *call_message_space(struct call *call, size_t size);
void call_send_filled(struct call *call, size_t size);

/*
 * Ends the call: with MESSAGE (packed before this returns) and OK; with the message of
 * call_message_space and OK; with OK alone (server streams); with an error. DETAILS, which may be
 * NULL, goes along as the google.rpc.Status of a failure.
 */
void call_finish(struct call *call, const ProtobufCMessage *message);
void call_finish_filled(struct call *call, size_t size);
void call_finish_stream(struct call *call);
void call_fail(struct call *call, const struct err *err);
void call_fail_with(struct call *call, enum err_code code, const char *message,
                    const ProtobufCMessage *details);

/* Runs FUNCTION on a worker thread, where it may block. In answer to an event, as the others. */
void call_offload(struct call *call, void (*function)(struct call *call));

#endif
