/* SPDX-License-Identifier: Apache-2.0 */
/* The batches of an outgoing call: one after the other, so that its events are a row as well. */
#include "rpc/client_call.h"

#include <grpc/support/time.h>
#include <stdlib.h>

#include "base/log.h"
#include "rpc/slices.h"

/* It outlives the user's part: a cancellation may come until ENDED has returned. */
struct client_call_state {
    struct client_call *call;
    bool is_unary;
    struct rpc_queue *queue;
    grpc_call *core;
    struct rpc_tag tag; /* of the one batch that is under way */
    grpc_byte_buffer *request;
    grpc_byte_buffer *received;
    grpc_metadata authorization;
    size_t authorization_count; /* 0 or 1 */
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code status;
    grpc_slice text;
    bool is_out_of_memory;
    struct arena arena; /* of one message, then of the text */
};

static struct client_call_state *of_tag(struct rpc_tag *tag)
{
    return (struct client_call_state *)((char *)tag - offsetof(struct client_call_state, tag));
}

static void start_batch(struct client_call_state *state, const grpc_op *ops, size_t count)
{
    grpc_call_error error = grpc_call_start_batch(state->core, ops, count, &state->tag, NULL);
    /* Anything else is a batch that is malformed: our mistake, which no server can bring about. */
    if (error != GRPC_CALL_OK) {
        log_error("batch-refused", log_str("reason", grpc_call_error_to_string(error)));
        abort();
    }
}

static void free_state(struct client_call_state *state)
{
    if (state->request != NULL)
        grpc_byte_buffer_destroy(state->request);
    if (state->received != NULL)
        grpc_byte_buffer_destroy(state->received);
    if (state->authorization_count != 0)
        grpc_slice_unref(state->authorization.value);
    grpc_metadata_array_destroy(&state->initial);
    grpc_metadata_array_destroy(&state->trailing);
    grpc_slice_unref(state->text);
    arena_fini(&state->arena);
    grpc_call_unref(state->core);
    free(state);
}

/* --- its events --- */

static bool deliver_message(struct client_call_state *state)
{
    size_t count;
    arena_reset(&state->arena);
    struct span *runs = slices_of_buffer(state->received, &state->arena, &count);
    state->is_out_of_memory = runs == NULL;
    bool go_on = runs != NULL && state->call->message(state->call, runs, count);
    grpc_byte_buffer_destroy(state->received);
    state->received = NULL;
    return go_on;
}

static void deliver_end(struct client_call_state *state)
{
    arena_reset(&state->arena);
    const char *text = slices_to_string(state->text, &state->arena);
    if (state->is_out_of_memory) {
        state->status = GRPC_STATUS_RESOURCE_EXHAUSTED;
        text = "no memory for the answer";
    }
    struct rpc_queue *queue = state->queue;
    state->call->ended(state->call, state->status, text != NULL ? text : "");
    free_state(state);
    rpc_queue_end_call(queue);
}

static grpc_op receive_status(struct client_call_state *state)
{
    return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                     .data.recv_status_on_client = {.trailing_metadata = &state->trailing,
                                                    .status = &state->status,
                                                    .status_details = &state->text}};
}

static grpc_op receive_message(struct client_call_state *state)
{
    return (grpc_op){.op = GRPC_OP_RECV_MESSAGE,
                     .data.recv_message.recv_message = &state->received};
}

/* The one batch of a unary call. */
static void on_answered(struct rpc_tag *tag, bool ok)
{
    (void)ok; /* the status says it */
    struct client_call_state *state = of_tag(tag);
    if (state->received != NULL && state->status == GRPC_STATUS_OK)
        (void)deliver_message(state);
    deliver_end(state);
}

static void on_status(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    deliver_end(of_tag(tag));
}

/* The core reports the failure of a batch as the lack of a message: the status says the rest. */
static void on_received(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    struct client_call_state *state = of_tag(tag);
    bool was_last = state->received == NULL;
    bool go_on = !was_last && deliver_message(state);
    if (!was_last && !go_on)
        (void)grpc_call_cancel(state->core, NULL);
    grpc_op op = go_on ? receive_message(state) : receive_status(state);
    if (!go_on)
        tag->done = on_status;
    start_batch(state, &op, 1);
}

/* --- the user's requests --- */

int client_call_init(struct client_call *call, const struct client_call_options *options,
                     struct err *err)
{
    struct client_call_state *state = calloc(1, sizeof(*state));
    if (state == NULL)
        return err_no_memory(err, "a call to another server");
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                         gpr_time_from_millis(options->timeout, GPR_TIMESPAN));
    state->call = call;
    state->is_unary = options->is_unary;
    state->queue = options->queue;
    state->core = grpc_channel_create_call(
        options->channel, NULL, GRPC_PROPAGATE_DEFAULTS, rpc_queue_core(options->queue),
        grpc_slice_from_static_string(options->path), NULL, deadline, NULL);
    state->text = grpc_empty_slice();
    grpc_metadata_array_init(&state->initial);
    grpc_metadata_array_init(&state->trailing);
    arena_init(&state->arena);
    if (options->authorization != NULL) {
        state->authorization.key = grpc_slice_from_static_string("authorization");
        state->authorization.value = grpc_slice_from_copied_string(options->authorization);
        state->authorization_count = 1;
    }
    call->state = state;
    return 0;
}

void client_call_start(struct client_call *call, grpc_byte_buffer *request)
{
    struct client_call_state *state = call->state;
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = state->authorization_count,
                                        .metadata = &state->authorization}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
         .data.recv_initial_metadata.recv_initial_metadata = &state->initial},
        receive_message(state),
        receive_status(state),
    };
    state->request = request;
    rpc_queue_begin_call(state->queue);
    state->tag.done = state->is_unary ? on_answered : on_received;
    start_batch(state, ops, state->is_unary ? 6 : 5);
}

void client_call_cancel(struct client_call *call)
{
    (void)grpc_call_cancel(call->state->core, NULL);
}

const char *client_call_status_name(grpc_status_code status)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    return (unsigned)status < sizeof(names) / sizeof(names[0]) ? names[status] : "UNKNOWN";
}
