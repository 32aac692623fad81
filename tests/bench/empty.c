/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The empty handler: the gRPC core, set up as assetd sets it up, with handlers that read what they
 * are sent and answer zeros of the same sizes. What it costs is what no server on the core can
 * save. Of the content of requests it looks at what the size of the answer depends on.
 *
 *     empty ADDRESS
 *
 * Ends with SIGTERM.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "exchange.h"
#include "rpc/queue.h"
#include "transport/core.h"

/* As assetd has them where nothing is configured. */
enum { POLLERS = 1, STREAMS = 256 };

enum {
    HEAD_MAX = 512,     /* bytes of a request that hold its resource name */
    SIZE_TEXT_MAX = 21, /* characters of a size, with a NUL */
};

/* What assetd says of an asset that it does not have. */
#define MISS_MESSAGE "no asset is known for this URI and these qualifiers"

struct call;

/* One method: what its calls bring and get. */
struct method {
    const char *path;
    bool streams_requests;           /* messages are taken until there are no more */
    void (*look)(struct call *call); /* takes what the answer needs from a request; may be NULL */
    size_t size;                     /* bytes of the answer's message; of several, at most */
    void *registered;                /* the core's */
    grpc_slice message;
};

static void look_for_miss(struct call *call);
static void look_for_read(struct call *call);
static void look_for_write(struct call *call);

static struct method methods[] = {
    {.path = EXCHANGE_FIND, .size = EXCHANGE_FIND_ANSWER},
    {.path = EXCHANGE_UPDATE, .size = EXCHANGE_UPDATE_ANSWER},
    {.path = EXCHANGE_READ, .size = EXCHANGE_READ_ANSWER},
    {.path = EXCHANGE_FETCH, .look = look_for_read, .size = EXCHANGE_FETCH_MESSAGE},
    {.path = EXCHANGE_STORE,
     .streams_requests = true,
     .look = look_for_write,
     .size = EXCHANGE_STORE_ANSWER_MAX},
    {.path = EXCHANGE_PUSH_ASSET, .size = EXCHANGE_PUSH_ASSET_ANSWER},
    {.path = EXCHANGE_FETCH_ASSET, .look = look_for_miss, .size = EXCHANGE_FETCH_ASSET_ANSWER},
};

enum { METHODS = sizeof(methods) / sizeof(methods[0]) };

struct server {
    grpc_server *core;
    grpc_completion_queue *queue;
};

/* A call, used again for the next one when it is over. */
struct call {
    struct rpc_tag tag;
    const struct server *server;
    const struct method *method;
    grpc_call *core;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received;
    grpc_byte_buffer *sending;
    bool has_looked;
    bool has_sent;
    bool is_miss;     /* there is no answer but a status */
    size_t last_size; /* bytes of the last message of the answer */
    uint64_t before;  /* full messages before it */
    int was_cancelled;
};

static struct call *call_of(struct rpc_tag *tag)
{
    return (struct call *)((char *)tag - offsetof(struct call, tag));
}

static void check(grpc_call_error error)
{
    if (error == GRPC_CALL_OK)
        return;
    (void)fprintf(stderr, "empty: %s\n", grpc_call_error_to_string(error));
    abort();
}

static void arm(struct call *call);
static void send_next(struct call *call);

static void drop(grpc_byte_buffer **buffer)
{
    if (*buffer != NULL)
        grpc_byte_buffer_destroy(*buffer);
    *buffer = NULL;
}

static void on_finished(struct rpc_tag *tag, bool ok)
{
    struct call *call = call_of(tag);
    (void)ok;
    drop(&call->sending);
    drop(&call->received);
    grpc_call_unref(call->core);
    arm(call);
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct call *call = call_of(tag);
    drop(&call->sending);
    if (!ok)
        call->before = 0; /* the client is gone: the end is all that is left */
    send_next(call);
}

/* The next message, and with the last one the status. */
static void send_next(struct call *call)
{
    bool is_last = call->before == 0;
    grpc_slice details = grpc_slice_from_static_string(MISS_MESSAGE);
    grpc_op ops[4];
    size_t count = 0;
    if (!call->has_sent)
        ops[count++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    call->has_sent = true;
    if (!call->is_miss) {
        grpc_slice message = grpc_slice_sub(call->method->message, 0,
                                            is_last ? call->last_size : call->method->size);
        call->sending = grpc_raw_byte_buffer_create(&message, 1);
        grpc_slice_unref(message);
        ops[count++] =
            (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->sending};
    }
    if (is_last) {
        grpc_op end = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
        if (call->is_miss) {
            end.data.send_status_from_server.status = GRPC_STATUS_NOT_FOUND;
            end.data.send_status_from_server.status_details = &details;
        }
        ops[count++] = end;
        ops[count++] = (grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                                 .data.recv_close_on_server.cancelled = &call->was_cancelled};
    } else {
        call->before--;
    }
    call->tag.done = is_last ? on_finished : on_sent;
    check(grpc_call_start_batch(call->core, ops, count, &call->tag, NULL));
}

/* --- what the answer needs from a request --- */

/* The size at the end of the resource name, which is the first field of a request. */
static uint64_t size_asked(grpc_byte_buffer *request)
{
    uint8_t bytes[HEAD_MAX];
    char text[SIZE_TEXT_MAX] = "";
    size_t size = 0;
    grpc_byte_buffer_reader slices;
    grpc_slice *slice;
    struct wire_field name;
    if (grpc_byte_buffer_reader_init(&slices, request) == 0)
        return 0;
    while (size < sizeof(bytes) && grpc_byte_buffer_reader_peek(&slices, &slice) != 0) {
        size_t take = GRPC_SLICE_LENGTH(*slice);
        take = take < sizeof(bytes) - size ? take : sizeof(bytes) - size;
        memcpy(bytes + size, GRPC_SLICE_START_PTR(*slice), take);
        size += take;
    }
    grpc_byte_buffer_reader_destroy(&slices);
    struct wire_reader reader = {.message = {bytes, size}};
    if (!wire_next(&reader, &name) || name.type != WIRE_BYTES)
        return 0;
    const uint8_t *slash = memrchr(name.bytes.data, '/', name.bytes.size);
    if (slash == NULL)
        return 0;
    size_t length = (size_t)(name.bytes.data + name.bytes.size - slash - 1);
    memcpy(text, slash + 1, length < sizeof(text) ? length : sizeof(text) - 1);
    return strtoull(text, NULL, 10);
}

static void look_for_read(struct call *call)
{
    uint64_t size = size_asked(call->received);
    uint64_t before = size > 0 ? (size - 1) / EXCHANGE_PIECE : 0;
    call->before = before;
    call->last_size = wire_bytes_size(size - before * EXCHANGE_PIECE);
}

static void look_for_write(struct call *call)
{
    call->last_size = 1 + wire_varint_size(size_asked(call->received));
}

static void look_for_miss(struct call *call)
{
    call->is_miss = grpc_byte_buffer_length(call->received) == EXCHANGE_MISS_REQUEST;
}

static void look(struct call *call)
{
    if (!call->has_looked && call->method->look != NULL && call->received != NULL)
        call->method->look(call);
    call->has_looked = true;
}

/* --- calls --- */

static void receive(struct call *call);

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct call *call = call_of(tag);
    bool is_over = !ok || call->received == NULL;
    look(call);
    drop(&call->received);
    if (is_over)
        send_next(call);
    else
        receive(call);
}

static void receive(struct call *call)
{
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE,
                        .data.recv_message.recv_message = &call->received};
    call->tag.done = on_received;
    check(grpc_call_start_batch(call->core, &op, 1, &call->tag, NULL));
}

static void on_arrival(struct rpc_tag *tag, bool ok)
{
    struct call *call = call_of(tag);
    if (!ok)
        return;
    if (call->method->streams_requests) {
        receive(call);
        return;
    }
    look(call);
    send_next(call);
}

static void arm(struct call *call)
{
    const struct server *server = call->server;
    grpc_byte_buffer **payload = call->method->streams_requests ? NULL : &call->received;
    call->metadata.count = 0;
    call->has_looked = call->has_sent = call->is_miss = false;
    call->before = 0;
    call->last_size = call->method->size;
    call->tag.done = on_arrival;
    check(grpc_server_request_registered_call(server->core, call->method->registered, &call->core,
                                              &call->deadline, &call->metadata, payload,
                                              server->queue, server->queue, &call->tag));
}

static bool start(struct server *server, const char *address)
{
    grpc_resource_quota *memory = core_memory_new();
    server->core = core_new(memory, STREAMS);
    grpc_resource_quota_unref(memory);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    for (size_t i = 0; i < METHODS; i++) {
        struct method *method = &methods[i];
        method->message = grpc_slice_malloc_large(method->size);
        memset(GRPC_SLICE_START_PTR(method->message), 0, method->size);
        method->registered = grpc_server_register_method(
            server->core, method->path, NULL,
            method->streams_requests ? GRPC_SRM_PAYLOAD_NONE
                                     : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER,
            0);
    }
    grpc_server_credentials *plain = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(server->core, address, plain);
    grpc_server_credentials_release(plain);
    if (port == 0)
        return false;
    grpc_server_start(server->core);
    struct call *calls = calloc(METHODS * CORE_ARMED_PER_METHOD, sizeof(calls[0]));
    for (size_t i = 0; calls != NULL && i < METHODS * CORE_ARMED_PER_METHOD; i++) {
        calls[i].server = server;
        calls[i].method = &methods[i % METHODS];
        arm(&calls[i]);
    }
    return calls != NULL;
}

int main(int argc, char **argv)
{
    sigset_t waited;
    int number;
    struct err err;
    struct rpc_queue *queue;
    struct server server;
    if (argc != 2) {
        (void)fputs("usage: empty ADDRESS\n", stderr);
        return 2;
    }
    (void)sigemptyset(&waited);
    (void)sigaddset(&waited, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &waited, NULL);
    if (rpc_queue_new(POLLERS, 0, &queue, &err) != 0) {
        (void)fprintf(stderr, "empty: %s\n", err.msg);
        return EXIT_FAILURE;
    }
    server.queue = rpc_queue_core(queue);
    if (!start(&server, argv[1])) {
        (void)fprintf(stderr, "empty: cannot serve at %s\n", argv[1]);
        return EXIT_FAILURE;
    }
    (void)sigwait(&waited, &number);
    /* Nothing is kept that would have to be given back in order. */
    _Exit(EXIT_SUCCESS);
}
