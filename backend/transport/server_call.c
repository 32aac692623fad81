/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a call: from the core to its handler, and the handler's requests back to the core. */
#include "transport/server_call.h"

#include <assert.h>
#include <stdlib.h>

#include "base/log.h"
#include "rpc/queue.h"
#include "rpc/slices.h"
#include "service/messages.h"
#include "transport/access.h"
#include "transport/codec.h"

struct server_call {
    struct call call; /* what the handler sees; first, so that one is found from the other */
    struct server_method *method;
    grpc_call *core;
    gpr_timespec deadline;
    grpc_call_details details; /* of unknown methods */
    grpc_metadata_array metadata;
    grpc_byte_buffer *received;
    grpc_byte_buffer *sending;
    grpc_slice space;   /* what call_message_space gave */
    grpc_slice message; /* of a failure's status */
    grpc_metadata details_metadata;
    struct arena arena;          /* call->arena */
    struct arena message_memory; /* of one received message of a stream */
    struct rpc_tag tag;          /* of the one batch that is under way */
    struct rpc_tag close_tag;    /* of the close of a stream, or of what is watched */
    enum role role;              /* what the client may do, where the listener lets it */
    int closed_by_client;        /* filled by the core with the close */
    atomic_uint references;      /* the row of events, and the close if it has a tag of its own */
    bool sent_metadata;
    bool is_watched;           /* a unary call whose close has a tag of its own */
    struct flight_spare spare; /* once it has ended */
};

static struct server_call *server_call_of(struct call *call)
{
    return (struct server_call *)call;
}

static bool is_unary(const struct server_call *call)
{
    return call->call.method->shape == METHOD_UNARY;
}

/* --- memory --- */

static struct server_call *of_spare(struct flight_spare *spare)
{
    return (struct server_call *)((char *)spare - offsetof(struct server_call, spare));
}

static struct server_call *make_call(struct flight *flight)
{
    struct flight_spare *spare = flight_enter(flight);
    if (spare != NULL)
        return of_spare(spare);
    struct server_call *call = calloc(1, sizeof(*call));
    if (call == NULL) {
        flight_leave(flight, NULL, false);
        return NULL;
    }
    arena_init(&call->arena);
    arena_init(&call->message_memory);
    grpc_metadata_array_init(&call->metadata);
    return call;
}

void server_call_free(struct flight_spare *spare)
{
    struct server_call *call = of_spare(spare);
    arena_fini(&call->arena);
    arena_fini(&call->message_memory);
    grpc_metadata_array_destroy(&call->metadata);
    free(call);
}

/* Keeps the call's memory for the next one. The last use of the call. */
static void retire(struct server_call *call, bool was_under_way)
{
    arena_reset(&call->arena);
    arena_reset(&call->message_memory);
    call->metadata.count = 0;
    flight_leave(call->method->listener->flight, &call->spare, was_under_way);
}

static void drop_buffer(grpc_byte_buffer **buffer)
{
    if (*buffer != NULL)
        grpc_byte_buffer_destroy(*buffer);
    *buffer = NULL;
}

static void drop_slice(grpc_slice *slice)
{
    grpc_slice_unref(*slice);
    *slice = grpc_empty_slice();
}

/* Gives back one reference, and with the last one the call. */
static void release(struct server_call *call)
{
    if (atomic_fetch_sub(&call->references, 1) != 1)
        return;
    drop_buffer(&call->received);
    drop_buffer(&call->sending);
    drop_slice(&call->space);
    drop_slice(&call->message);
    drop_slice(&call->details_metadata.value);
    if (call->method->method == NULL)
        grpc_call_details_destroy(&call->details);
    grpc_call_unref(call->core); /* and with it the elements of the metadata */
    retire(call, true);
}

/* --- batches --- */

static void start_batch(struct server_call *call, const grpc_op *ops, size_t count,
                        struct rpc_tag *tag)
{
    grpc_call_error error = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    /* Anything else is a batch that is malformed: our mistake, which no client can bring about. */
    if (error != GRPC_CALL_OK) {
        log_error("batch-refused", log_str("reason", grpc_call_error_to_string(error)),
                  log_str("method", call->call.method->path));
        abort();
    }
}

static void deliver_end(struct server_call *call)
{
    if (call->call.method->end != NULL)
        call->call.method->end(&call->call);
    release(call);
}

static void on_closed(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    struct server_call *call =
        (struct server_call *)((char *)tag - offsetof(struct server_call, close_tag));
    if (call->closed_by_client) {
        atomic_store(&call->call.is_cancelled, true);
        if (call->call.method->cancelled != NULL)
            call->call.method->cancelled(&call->call);
    }
    release(call);
}

/* Asks the core to tell when the call is over; other unary calls learn it with their answer. */
static void watch_close(struct server_call *call)
{
    call->close_tag.done = on_closed;
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                  .data.recv_close_on_server.cancelled = &call->closed_by_client};
    start_batch(call, &op, 1, &call->close_tag);
}

void call_watch(struct call *handled)
{
    struct server_call *call = server_call_of(handled);
    assert(is_unary(call) && !call->is_watched);
    call->is_watched = true;
    (void)atomic_fetch_add(&call->references, 1);
    watch_close(call);
}

static struct server_call *of_tag(struct rpc_tag *tag)
{
    return (struct server_call *)((char *)tag - offsetof(struct server_call, tag));
}

/* A batch failed: the client is gone, or our shutdown cancelled it. */
static void abandon(struct server_call *call)
{
    atomic_store(&call->call.is_cancelled, true);
    metrics_calls_add(call->method->listener->calls, call->method->method, GRPC_STATUS_CANCELLED);
    (void)grpc_call_cancel(call->core, NULL);
    deliver_end(call);
}

static void on_finished(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    deliver_end(of_tag(tag));
}

static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct server_call *call = of_tag(tag);
    drop_buffer(&call->sending);
    if (ok)
        call->call.method->sent(&call->call);
    else
        abandon(call);
}

/* Makes the bytes received, in their runs, the call's message. */
static int unpack(struct server_call *call, const struct span *spans, size_t count,
                  struct arena *arena, struct err *err)
{
    struct arena joined;
    arena_init(&joined);
    struct span bytes = slices_join(spans, count, &joined);
    int rc = bytes.data != NULL
                 ? codec_unpack(call->call.method->request, bytes, arena, &call->call.request, err)
                 : err_no_memory(err, "a request");
    arena_fini(&joined);
    return rc;
}

/* The limit is that of the call's own configuration: a reload ends no upload. */
static int check_size(struct server_call *call, struct err *err)
{
    int64_t limit = call->call.services->conf->message_limit;
    size_t size = grpc_byte_buffer_length(call->received);
    if (size <= (uint64_t)limit)
        return 0;
    drop_buffer(&call->received);
    return err_set(err, ERR_EXHAUSTED,
                   "the message has %zu bytes, at most %lld are taken: send less at once, or have "
                   "the operator raise message, under limits in the server's configuration",
                   size, (long long)limit);
}

/* What is unpacked is a copy: the bytes are given back. Raw messages stay as they came. */
static int take_message(struct server_call *call, struct arena *arena, struct err *err)
{
    size_t count;
    if (check_size(call, err) != 0)
        return -(int)err->code;
    struct span *spans = slices_of_buffer(call->received, arena, &count);
    if (spans == NULL)
        return err_no_memory(err, "a request");
    if (call->call.method->raw_request) {
        call->call.raw = spans;
        call->call.raw_count = count;
        return 0;
    }
    int rc = unpack(call, spans, count, arena, err);
    drop_buffer(&call->received);
    return rc;
}

static void finish(struct server_call *call, grpc_status_code status, const char *reason);

/* A message that is too large is the client's mistake, unlike all else that is exhausted. */
static void refuse_request(struct server_call *call, const struct err *err)
{
    if (err->code == ERR_EXHAUSTED)
        finish(call, (grpc_status_code)err_grpc_status(err->code), err->msg);
    else
        call_fail(&call->call, err);
}

static void on_received(struct rpc_tag *tag, bool ok)
{
    struct server_call *call = of_tag(tag);
    struct err err;
    if (!ok) {
        abandon(call);
        return;
    }
    if (call->received == NULL) {
        call->call.method->half_close(&call->call);
        return;
    }
    if (take_message(call, &call->message_memory, &err) != 0)
        refuse_request(call, &err);
    else
        call->call.method->message(&call->call);
}

void call_receive(struct call *handled)
{
    struct server_call *call = server_call_of(handled);
    drop_buffer(&call->received);
    arena_reset(&call->message_memory);
    call->tag.done = on_received;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->received};
    start_batch(call, &op, 1, &call->tag);
}

static grpc_byte_buffer *pack(const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    return slices_to_buffer(slice);
}

/* The operations of a batch, at most as many as a unary answer has. */
struct batch {
    grpc_op ops[4];
    size_t count;
};

static void batch_add_metadata(struct batch *batch, struct server_call *call)
{
    if (!call->sent_metadata)
        batch->ops[batch->count++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    call->sent_metadata = true;
}

static void batch_add_message(struct batch *batch, const struct server_call *call)
{
    batch->ops[batch->count++] =
        (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->sending};
}

static void send_buffer(struct server_call *call)
{
    struct batch batch = {.count = 0};
    batch_add_metadata(&batch, call);
    batch_add_message(&batch, call);
    call->tag.done = on_sent;
    start_batch(call, batch.ops, batch.count, &call->tag);
}

void call_send(struct call *handled, const ProtobufCMessage *message)
{
    struct server_call *call = server_call_of(handled);
    call->sending = pack(message);
    send_buffer(call);
}

uint8_t *call_message_space(struct call *handled, size_t size)
{
    struct server_call *call = server_call_of(handled);
    drop_slice(&call->space);
    if (!message_space_make(call->method->listener->space, size, &call->space))
        return NULL;
    return GRPC_SLICE_START_PTR(call->space);
}

/* Makes the first SIZE bytes of the space the message to send. */
static void take_space(struct server_call *call, size_t size)
{
    assert(size <= GRPC_SLICE_LENGTH(call->space));
    grpc_slice filled = grpc_slice_sub(call->space, 0, size);
    drop_slice(&call->space);
    call->sending = slices_to_buffer(filled);
}

void call_send_filled(struct call *handled, size_t size)
{
    struct server_call *call = server_call_of(handled);
    take_space(call, size);
    send_buffer(call);
}

/* Ends the call with STATUS and REASON, and with the message to send if there is one. */
static void finish(struct server_call *call, grpc_status_code status, const char *reason)
{
    struct batch batch = {.count = 0};
    if (status != GRPC_STATUS_OK)
        call->message = grpc_slice_from_copied_string(reason);
    batch_add_metadata(&batch, call);
    if (call->sending != NULL)
        batch_add_message(&batch, call);
    bool has_details = GRPC_SLICE_LENGTH(call->details_metadata.value) != 0;
    batch.ops[batch.count++] =
        (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                  .data.send_status_from_server = {
                      .status = status,
                      .status_details = status == GRPC_STATUS_OK ? NULL : &call->message,
                      .trailing_metadata_count = has_details ? 1 : 0,
                      .trailing_metadata = &call->details_metadata}};
    if (is_unary(call) && !call->is_watched)
        batch.ops[batch.count++] =
            (grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                      .data.recv_close_on_server.cancelled = &call->closed_by_client};
    metrics_calls_add(call->method->listener->calls, call->method->method, (unsigned)status);
    log_trace("call", log_str("method", call->call.method->path), log_num("status", status),
              log_str("reason", reason), log_str("listener", call->call.listener->address),
              log_str("identity", call->call.identity), log_str("id", call->call.request_id));
    call->tag.done = on_finished;
    start_batch(call, batch.ops, batch.count, &call->tag);
}

void call_finish(struct call *handled, const ProtobufCMessage *message)
{
    struct server_call *call = server_call_of(handled);
    call->sending = pack(message);
    finish(call, GRPC_STATUS_OK, "");
}

void call_finish_filled(struct call *handled, size_t size)
{
    struct server_call *call = server_call_of(handled);
    take_space(call, size);
    finish(call, GRPC_STATUS_OK, "");
}

void call_finish_stream(struct call *handled)
{
    finish(server_call_of(handled), GRPC_STATUS_OK, "");
}

/*
 * Faults of ours are logged here, once; a client's mistakes and misses are its own business. That a
 * server is away was told when it was lost: once for all the calls that meet it.
 */
static void log_fault(const struct server_call *call, enum err_code code, const char *message)
{
    if (code == ERR_AWAY)
        return;
    switch (err_grpc_status(code)) {
    case GRPC_STATUS_INTERNAL:
    case GRPC_STATUS_UNAVAILABLE:
    case GRPC_STATUS_DATA_LOSS:
    case GRPC_STATUS_RESOURCE_EXHAUSTED:
        log_warning("call-failed", log_str("method", call->call.method->path),
                    log_str("code", err_name(code)), log_str("reason", message),
                    log_str("listener", call->call.listener->address),
                    log_str("identity", call->call.identity), log_str("id", call->call.request_id));
        break;
    default:
        break;
    }
}

/* The whole status as google.rpc.Status in the trailing metadata, as gRPC libraries expect it. */
static void add_details(struct server_call *call, int status, const char *message,
                        const ProtobufCMessage *details)
{
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
    Google__Protobuf__Any *anys[] = {&any};
    Google__Rpc__Status rpc_status = GOOGLE__RPC__STATUS__INIT;
    any.type_url = arena_printf(&call->arena, "type.googleapis.com/%s", details->descriptor->name);
    any.value.len = protobuf_c_message_get_packed_size(details);
    any.value.data = arena_alloc(&call->arena, any.value.len);
    if (any.type_url == NULL || any.value.data == NULL)
        return; /* the message alone says it as well */
    (void)protobuf_c_message_pack(details, any.value.data);
    rpc_status.code = status;
    rpc_status.message = (char *)message;
    rpc_status.n_details = 1;
    rpc_status.details = anys;
    grpc_slice packed = grpc_slice_malloc(protobuf_c_message_get_packed_size(&rpc_status.base));
    (void)protobuf_c_message_pack(&rpc_status.base, GRPC_SLICE_START_PTR(packed));
    call->details_metadata.key = grpc_slice_from_static_string("grpc-status-details-bin");
    call->details_metadata.value = packed;
}

void call_fail_with(struct call *handled, enum err_code code, const char *message,
                    const ProtobufCMessage *details)
{
    struct server_call *call = server_call_of(handled);
    int status = err_grpc_status(code);
    log_fault(call, code, message);
    if (details != NULL)
        add_details(call, status, message, details);
    finish(call, (grpc_status_code)status, message);
}

void call_fail(struct call *call, const struct err *err)
{
    call_fail_with(call, err->code, err->msg, NULL);
}

static void run_offloaded(struct job *job)
{
    struct call *call = (struct call *)((char *)job - offsetof(struct call, job));
    call->offloaded(call);
}

void call_offload(struct call *call, void (*function)(struct call *call))
{
    call->offloaded = function;
    call->job.run = run_offloaded;
    pool_submit(call->services->workers, &call->job);
}

/* --- arrival --- */

/* Methods that are not served look to the rest like a unary one. */
static const struct method unknown_method = {.path = "unknown", .shape = METHOD_UNARY};

static void refuse_unknown(struct server_call *call)
{
    struct err err;
    const char *path = slices_to_string(call->details.method, &call->arena);
    (void)err_set(&err, ERR_UNIMPLEMENTED, "method %.200s is not served here",
                  path != NULL ? path : "?");
    call_fail(&call->call, &err);
}

bool server_call_has_request(const struct method *method)
{
    return method->shape == METHOD_UNARY || method->shape == METHOD_SERVER_STREAM;
}

/* The listener's right, then the message's form; what comes after is the handler's business. */
static int admit(struct server_call *call, struct err *err)
{
    const struct method *method = call->call.method;
    int rc = access_check(call->call.listener, method, call->call.identity, call->role, err);
    if (rc != 0 || !server_call_has_request(method))
        return rc;
    if (call->received == NULL)
        return err_set(err, ERR_INVALID, "%s needs a request message", method->path);
    return take_message(call, &call->arena, err);
}

/* Who calls: by TLS of our own, else as the proxy says. Both texts are there afterwards. */
static int identify(struct server_call *call, struct err *err)
{
    struct tls *tls = call->method->listener->tls;
    const char *identity = NULL, *request_id = access_request_id(&call->metadata, &call->arena);
    int rc = 0;
    call->role = ROLE_WRITE;
    if (tls != NULL && tls_knows_clients(tls))
        rc = tls_identify(tls, call->core, &call->arena, &identity, &call->role, err);
    else
        identity = access_identity(call->call.listener, &call->metadata, &call->arena);
    if (rc == 0 && (identity == NULL || request_id == NULL))
        rc = err_no_memory(err, "a call");
    call->call.identity = rc == 0 ? identity : "";
    call->call.request_id = request_id != NULL ? request_id : "";
    return rc;
}

static void start_handler(struct server_call *call)
{
    struct err err;
    if (identify(call, &err) != 0) {
        call_fail(&call->call, &err);
    } else if (atomic_load(&call->method->listener->flight->stopping)) {
        finish(call, GRPC_STATUS_UNAVAILABLE, "the server is stopping: try again");
    } else if (call->method->method == NULL) {
        refuse_unknown(call);
    } else if (admit(call, &err) != 0) {
        refuse_request(call, &err);
    } else {
        call->call.method->start(&call->call);
    }
}

static void begin(struct server_call *call)
{
    const struct server_listener *listener = call->method->listener;
    const struct services *services = atomic_load(listener->services);
    const struct conf_listener *conf = &services->conf->listeners[listener->index];
    call->call = (struct call){
        .method = call->method->method != NULL ? call->method->method : &unknown_method,
        .services = services,
        .listener = conf,
        .arena = &call->arena,
    };
    if (is_unary(call)) {
        start_handler(call);
        return;
    }
    /* The second reference is the close's, which may not be reported before the handler knows. */
    atomic_store(&call->references, 2);
    start_handler(call);
    watch_close(call);
}

static void on_arrival(struct rpc_tag *tag, bool ok)
{
    struct server_call *call = of_tag(tag);
    struct server_method *method = call->method;
    if (!ok) { /* the server stops; the core has taken nothing */
        if (method->method == NULL)
            grpc_call_details_destroy(&call->details);
        retire(call, false);
        return;
    }
    struct err err;
    flight_arrive(method->listener->flight);
    if (server_call_arm(method, &err) != 0)
        log_error("fewer-calls", log_str("reason", err.msg),
                  log_str("method", method->method != NULL ? method->method->path : "unknown"));
    begin(call);
}

int server_call_arm(struct server_method *method, struct err *err)
{
    struct server_listener *listener = method->listener;
    struct server_call *call = make_call(listener->flight);
    if (call == NULL)
        return err_no_memory(err, "a call");
    call->method = method;
    call->core = NULL;
    call->received = NULL;
    call->sending = NULL;
    call->space = grpc_empty_slice();
    call->message = grpc_empty_slice();
    call->details_metadata = (grpc_metadata){.value = grpc_empty_slice()};
    call->closed_by_client = 0;
    call->sent_metadata = false;
    call->is_watched = false;
    atomic_store(&call->references, 1);
    call->tag.done = on_arrival;
    grpc_call_error error;
    if (method->method != NULL) {
        grpc_byte_buffer **payload =
            server_call_has_request(method->method) ? &call->received : NULL;
        error = grpc_server_request_registered_call(listener->core, method->handle, &call->core,
                                                    &call->deadline, &call->metadata, payload,
                                                    listener->queue, listener->queue, &call->tag);
    } else {
        grpc_call_details_init(&call->details);
        error =
            grpc_server_request_call(listener->core, &call->core, &call->details, &call->metadata,
                                     listener->queue, listener->queue, &call->tag);
    }
    if (error == GRPC_CALL_OK)
        return 0;
    retire(call, false);
    return err_set(err, ERR_INTERNAL, "the core takes no calls: %s",
                   grpc_call_error_to_string(error));
}
