/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport without a network: delivers events to a handler, runs what it offloads, and records
 * what it asks for. It fails the test if an event is not answered by exactly one request, and what
 * a handler may not use any more is really gone, for the sanitizers to see.
 */
#ifndef ASSETD_TESTS_FAKE_CALL_H
#define ASSETD_TESTS_FAKE_CALL_H

#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>

#include "service/services.h"

/* What the handler asked for last. */
enum fake_request { FAKE_NONE, FAKE_RECEIVE, FAKE_SEND, FAKE_OFFLOAD, FAKE_FINISH };

/* Bytes of a message. */
struct fake_message {
    uint8_t *bytes;
    size_t size;
};

/* Embedded by the test; fake_call_init first. */
struct fake_call {
    struct call call; /* first, so that one is found from the other */
    struct arena arena;
    enum fake_request request;
    sem_t asked;                   /* once for each request, which may come from another thread */
    struct fake_message *messages; /* all that was sent, the answer of a unary call included */
    size_t message_count;
    struct fake_message space;
    struct err status; /* ERR_OK after a call that ended well */
    size_t violations; /* in its details, a PreconditionFailure */
    bool ended;
    bool is_watched;           /* the handler of a unary call has asked for `cancelled` */
    bool cancel_watch;         /* cancel the call at that moment */
    bool cancel_offload;       /* cancel the call before the next offloaded function is run */
    struct fake_message *runs; /* of the message being handled, each in memory of its own */
    struct span *spans;        /* the same, as the handler sees them */
};

void fake_call_init(struct fake_call *fake, const struct services *services,
                    const struct method *method, const struct conf_listener *listener,
                    const char *identity);

/* Ends the call as a disconnection would if it has not ended, and gives all back. */
void fake_call_fini(struct fake_call *fake);

/* Each delivers an event and goes on until the handler wants to receive, or has finished. */
void fake_call_start(struct fake_call *fake, const ProtobufCMessage *request);
void fake_call_message(struct fake_call *fake, const uint8_t *bytes, size_t size);
void fake_call_half_close(struct fake_call *fake);

/* The same as fake_call_message, with a run ending at each of COUNT ascending positions. */
void fake_call_message_in_runs(struct fake_call *fake, const uint8_t *bytes, size_t size,
                               const size_t *cuts, size_t count);

/* The client goes away: what the handler waits for never comes. */
void fake_call_cancel(struct fake_call *fake);

/* The two halves of fake_call_start: the event, and the wait for the end. */
void fake_call_begin(struct fake_call *fake, const ProtobufCMessage *request);
void fake_call_join(struct fake_call *fake);

/* A watched call's `cancelled`, and nothing else. Any thread, as long as FAKE is there. */
void fake_call_tell_cancelled(struct fake_call *fake);

/* Message INDEX unpacked as TYPE, to be freed with protobuf_c_message_free_unpacked. */
void *fake_call_unpack(const struct fake_call *fake, size_t index,
                       const ProtobufCMessageDescriptor *type);

#endif
