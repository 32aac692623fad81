/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of the server that tests answer for. */
#include "stub_server.h"

#include <grpc/support/alloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "base/arena.h"
#include "rpc/slices.h"

struct stub_call {
    struct rpc_tag tag; /* of the one batch that is under way; first */
    struct stub_server *server;
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *request;
    grpc_byte_buffer *sending[STUB_MESSAGES_MAX];
    size_t count;
    size_t sent;
    grpc_status_code status;
    grpc_slice text;
    int is_cancelled;
};

static void arm(struct stub_server *server);

static void start_batch(struct stub_call *call, const grpc_op *ops, size_t count,
                        void (*done)(struct rpc_tag *tag, bool ok))
{
    call->tag.done = done;
    if (grpc_call_start_batch(call->core, ops, count, &call->tag, NULL) != GRPC_CALL_OK)
        abort();
}

static void retire(struct stub_call *call)
{
    struct stub_server *server = call->server;
    for (size_t i = 0; i < call->count; i++)
        grpc_byte_buffer_destroy(call->sending[i]);
    if (call->request != NULL)
        grpc_byte_buffer_destroy(call->request);
    grpc_slice_unref(call->text);
    grpc_call_details_destroy(&call->details);
    grpc_metadata_array_destroy(&call->metadata);
    if (call->core != NULL)
        grpc_call_unref(call->core);
    free(call);
    (void)pthread_mutex_lock(&server->lock);
    server->calls--;
    (void)pthread_cond_signal(&server->changed);
    (void)pthread_mutex_unlock(&server->lock);
}

static void on_finished(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    retire((struct stub_call *)tag);
}

/* Sends one message after the other, then the status. */
static void on_sent(struct rpc_tag *tag, bool ok)
{
    struct stub_call *call = (struct stub_call *)tag;
    grpc_op ops[3];
    size_t count = 0;
    if (call->sent == 0)
        ops[count++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    if (ok && call->sent < call->count) {
        ops[count++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE,
                                 .data.send_message.send_message = call->sending[call->sent++]};
        start_batch(call, ops, count, on_sent);
        return;
    }
    ops[count++] = (grpc_op){
        .op = GRPC_OP_SEND_STATUS_FROM_SERVER,
        .data.send_status_from_server = {.status = call->status, .status_details = &call->text}};
    ops[count++] = (grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                             .data.recv_close_on_server.cancelled = &call->is_cancelled};
    start_batch(call, ops, count, on_finished);
}

static const char *find_authorization(const struct stub_call *call, struct arena *arena)
{
    for (size_t i = 0; i < call->metadata.count; i++)
        if (slices_equal_string(call->metadata.metadata[i].key, "authorization"))
            return slices_to_string(call->metadata.metadata[i].value, arena);
    return "";
}

static void ask_test(struct stub_call *call, struct stub_answer *answer)
{
    struct arena arena;
    size_t count;
    arena_init(&arena);
    struct span *runs = slices_of_buffer(call->request, &arena, &count);
    char *peer = grpc_call_get_peer(call->core);
    struct stub_request request = {
        .path = slices_to_string(call->details.method, &arena),
        .authorization = find_authorization(call, &arena),
        .peer = peer,
        .message = slices_join(runs, count, &arena),
        .core = call->core,
    };
    call->server->answer(call->server, &request, answer);
    gpr_free(peer);
    arena_fini(&arena);
}

static void on_request(struct rpc_tag *tag, bool ok)
{
    struct stub_call *call = (struct stub_call *)tag;
    struct stub_answer answer = {.status = GRPC_STATUS_OK};
    if (ok && call->request != NULL)
        ask_test(call, &answer);
    if (answer.hangs) {
        grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                      .data.recv_close_on_server.cancelled = &call->is_cancelled};
        start_batch(call, &op, 1, on_finished);
        return;
    }
    call->status = answer.status;
    if (answer.text != NULL)
        call->text = grpc_slice_from_copied_string(answer.text);
    for (; call->count < answer.count; call->count++) {
        const struct span *message = &answer.messages[call->count];
        call->sending[call->count] = slices_to_buffer(
            grpc_slice_from_copied_buffer((const char *)message->data, message->size));
    }
    on_sent(tag, true);
}

static void on_new(struct rpc_tag *tag, bool ok)
{
    struct stub_call *call = (struct stub_call *)tag;
    if (!ok) {
        retire(call);
        return;
    }
    arm(call->server);
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->request};
    start_batch(call, &op, 1, on_request);
}

static void arm(struct stub_server *server)
{
    struct stub_call *call = calloc(1, sizeof(*call));
    if (call == NULL)
        abort();
    call->server = server;
    call->text = grpc_empty_slice();
    call->tag.done = on_new;
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    (void)pthread_mutex_lock(&server->lock);
    server->calls++;
    (void)pthread_mutex_unlock(&server->lock);
    grpc_completion_queue *queue = rpc_queue_core(server->queue);
    if (grpc_server_request_call(server->core, &call->core, &call->details, &call->metadata, queue,
                                 queue, &call->tag) != GRPC_CALL_OK)
        retire(call); /* the server is being stopped */
}

int stub_server_start(struct stub_server *server, const char *address,
                      grpc_server_credentials *credentials)
{
    struct err err;
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->changed, NULL);
    server->calls = 0;
    server->is_stopped = false;
    if (rpc_queue_new(1, 0, &server->queue, &err) != 0)
        fail_msg("%s", err.msg);
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ALLOW_REUSEPORT};
    grpc_channel_args args = {.num_args = 1, .args = &arg};
    server->core = grpc_server_create(&args, NULL);
    grpc_server_register_completion_queue(server->core, rpc_queue_core(server->queue), NULL);
    if (credentials == NULL)
        credentials = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(server->core, address, credentials);
    grpc_server_credentials_release(credentials);
    assert_int_not_equal(port, 0);
    grpc_server_start(server->core);
    arm(server);
    return port;
}

static void on_stopped(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    struct stub_server *server =
        (struct stub_server *)((char *)tag - offsetof(struct stub_server, stopped));
    (void)pthread_mutex_lock(&server->lock);
    server->is_stopped = true;
    (void)pthread_cond_signal(&server->changed);
    (void)pthread_mutex_unlock(&server->lock);
}

void stub_server_stop(struct stub_server *server)
{
    server->stopped.done = on_stopped;
    grpc_server_shutdown_and_notify(server->core, rpc_queue_core(server->queue), &server->stopped);
    grpc_server_cancel_all_calls(server->core);
    (void)pthread_mutex_lock(&server->lock);
    while (!server->is_stopped || server->calls != 0)
        (void)pthread_cond_wait(&server->changed, &server->lock);
    (void)pthread_mutex_unlock(&server->lock);
    grpc_server_destroy(server->core);
    rpc_queue_free(server->queue);
    (void)pthread_cond_destroy(&server->changed);
    (void)pthread_mutex_destroy(&server->lock);
}
