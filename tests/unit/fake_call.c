/* SPDX-License-Identifier: Apache-2.0 */
/* What service/call.h asks of a transport, in memory. */
#include "fake_call.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "service/messages.h"

/* Seconds after which a handler that asks for nothing fails the test, rather than hang it. */
enum { PATIENCE = 60 };

static struct fake_call *fake_of(struct call *call)
{
    return (struct fake_call *)call;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size != 0 ? size : 1);
    assert_non_null(memory);
    return memory;
}

static void drop_runs(struct fake_call *fake)
{
    for (size_t i = 0; i < fake->call.raw_count; i++)
        free(fake->runs[i].bytes);
    free(fake->runs);
    free(fake->spans);
    fake->runs = NULL;
    fake->spans = NULL;
    fake->call.raw = NULL;
    fake->call.raw_count = 0;
}

/* From the handler's request on, the message it was handed is gone. */
static void ask(struct fake_call *fake, enum fake_request request)
{
    assert_int_equal(fake->request, FAKE_NONE);
    assert_false(fake->ended);
    fake->request = request;
    if (request != FAKE_OFFLOAD)
        drop_runs(fake);
    assert_int_equal(sem_post(&fake->asked), 0);
}

static void wait_for_request(struct fake_call *fake)
{
    struct timespec until;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &until), 0);
    until.tv_sec += PATIENCE;
    while (sem_timedwait(&fake->asked, &until) != 0)
        if (errno != EINTR)
            fail_msg("the handler asks for nothing");
    assert_int_not_equal(fake->request, FAKE_NONE);
}

static void record(struct fake_call *fake, uint8_t *bytes, size_t size)
{
    fake->messages = realloc(fake->messages, (fake->message_count + 1) * sizeof(fake->messages[0]));
    assert_non_null(fake->messages);
    fake->messages[fake->message_count++] = (struct fake_message){bytes, size};
}

static void record_packed(struct fake_call *fake, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = allocate(size);
    assert_int_equal(protobuf_c_message_pack(message, bytes), size);
    record(fake, bytes, size);
}

static void record_space(struct fake_call *fake, size_t size)
{
    assert_non_null(fake->space.bytes);
    assert_true(size <= fake->space.size);
    record(fake, fake->space.bytes, size);
    fake->space = (struct fake_message){0};
}

void call_watch(struct call *call)
{
    struct fake_call *fake = fake_of(call);
    assert_int_equal(call->method->shape, METHOD_UNARY);
    assert_int_equal(fake->request, FAKE_NONE);
    assert_false(fake->is_watched);
    fake->is_watched = true;
    if (fake->cancel_watch)
        fake_call_tell_cancelled(fake);
}

void call_receive(struct call *call)
{
    ask(fake_of(call), FAKE_RECEIVE);
}

void call_send(struct call *call, const ProtobufCMessage *message)
{
    record_packed(fake_of(call), message);
    ask(fake_of(call), FAKE_SEND);
}

uint8_t *call_message_space(struct call *call, size_t size)
{
    struct fake_call *fake = fake_of(call);
    free(fake->space.bytes);
    fake->space = (struct fake_message){allocate(size), size};
    return fake->space.bytes;
}

void call_send_filled(struct call *call, size_t size)
{
    record_space(fake_of(call), size);
    ask(fake_of(call), FAKE_SEND);
}

void call_finish(struct call *call, const ProtobufCMessage *message)
{
    record_packed(fake_of(call), message);
    call_finish_stream(call);
}

void call_finish_filled(struct call *call, size_t size)
{
    record_space(fake_of(call), size);
    call_finish_stream(call);
}

void call_finish_stream(struct call *call)
{
    fake_of(call)->status.code = ERR_OK;
    ask(fake_of(call), FAKE_FINISH);
}

void call_fail(struct call *call, const struct err *err)
{
    call_fail_with(call, err->code, err->msg, NULL);
}

void call_fail_with(struct call *call, enum err_code code, const char *message,
                    const ProtobufCMessage *details)
{
    assert_int_not_equal(code, ERR_OK);
    if (details != NULL) {
        assert_ptr_equal(details->descriptor, &google__rpc__precondition_failure__descriptor);
        fake_of(call)->violations =
            ((const Google__Rpc__PreconditionFailure *)details)->n_violations;
    }
    (void)err_set(&fake_of(call)->status, code, "%s", message);
    ask(fake_of(call), FAKE_FINISH);
}

void call_offload(struct call *call, void (*function)(struct call *call))
{
    call->offloaded = function;
    ask(fake_of(call), FAKE_OFFLOAD);
}

static void end(struct fake_call *fake)
{
    fake->ended = true;
    if (fake->call.method->end != NULL)
        fake->call.method->end(&fake->call);
}

static void cancel(struct fake_call *fake)
{
    (void)err_set(&fake->status, ERR_CANCELLED, "cancelled");
    atomic_store(&fake->call.is_cancelled, true);
    if (fake->call.method->cancelled != NULL)
        fake->call.method->cancelled(&fake->call);
}

/* Answers the handler's requests until it waits for the client or has finished. */
static void go_on(struct fake_call *fake)
{
    for (;;) {
        wait_for_request(fake);
        enum fake_request request = fake->request;
        if (request == FAKE_OFFLOAD) {
            if (fake->cancel_offload)
                cancel(fake);
            fake->request = FAKE_NONE;
            fake->call.offloaded(&fake->call);
        } else if (request == FAKE_FINISH || atomic_load(&fake->call.is_cancelled)) {
            end(fake);
            return;
        } else if (request == FAKE_SEND) {
            fake->request = FAKE_NONE;
            fake->call.method->sent(&fake->call);
        } else {
            return;
        }
    }
}

void fake_call_init(struct fake_call *fake, const struct services *services,
                    const struct method *method, const struct conf_listener *listener,
                    const char *identity)
{
    memset(fake, 0, sizeof(*fake));
    assert_int_equal(sem_init(&fake->asked, 0, 0), 0);
    arena_init(&fake->arena);
    fake->call.method = method;
    fake->call.services = services;
    fake->call.listener = listener;
    fake->call.identity = identity;
    fake->call.request_id = "";
    fake->call.arena = &fake->arena;
}

void fake_call_fini(struct fake_call *fake)
{
    if (!fake->ended && fake->request != FAKE_NONE)
        fake_call_cancel(fake);
    for (size_t i = 0; i < fake->message_count; i++)
        free(fake->messages[i].bytes);
    free(fake->messages);
    free(fake->space.bytes);
    drop_runs(fake);
    arena_fini(&fake->arena);
    (void)sem_destroy(&fake->asked);
}

void fake_call_begin(struct fake_call *fake, const ProtobufCMessage *request)
{
    fake->call.request = request;
    fake->call.method->start(&fake->call);
}

void fake_call_join(struct fake_call *fake)
{
    go_on(fake);
}

void fake_call_start(struct fake_call *fake, const ProtobufCMessage *request)
{
    fake_call_begin(fake, request);
    fake_call_join(fake);
}

void fake_call_tell_cancelled(struct fake_call *fake)
{
    atomic_store(&fake->call.is_cancelled, true);
    fake->call.method->cancelled(&fake->call);
}

void fake_call_message_in_runs(struct fake_call *fake, const uint8_t *bytes, size_t size,
                               const size_t *cuts, size_t count)
{
    assert_int_equal(fake->request, FAKE_RECEIVE);
    fake->runs = allocate((count + 1) * sizeof(fake->runs[0]));
    fake->spans = allocate((count + 1) * sizeof(fake->spans[0]));
    size_t from = 0;
    for (size_t i = 0; i <= count; i++) {
        size_t run = (i < count ? cuts[i] : size) - from;
        fake->runs[i] = (struct fake_message){allocate(run), run};
        if (run != 0)
            memcpy(fake->runs[i].bytes, bytes + from, run);
        fake->spans[i] = (struct span){fake->runs[i].bytes, run};
        from += run;
    }
    fake->call.raw = fake->spans;
    fake->call.raw_count = count + 1;
    fake->request = FAKE_NONE;
    fake->call.method->message(&fake->call);
    go_on(fake);
}

void fake_call_message(struct fake_call *fake, const uint8_t *bytes, size_t size)
{
    fake_call_message_in_runs(fake, bytes, size, NULL, 0);
}

void fake_call_half_close(struct fake_call *fake)
{
    assert_int_equal(fake->request, FAKE_RECEIVE);
    fake->request = FAKE_NONE;
    fake->call.method->half_close(&fake->call);
    go_on(fake);
}

void fake_call_cancel(struct fake_call *fake)
{
    cancel(fake);
    end(fake);
}

void *fake_call_unpack(const struct fake_call *fake, size_t index,
                       const ProtobufCMessageDescriptor *type)
{
    assert_true(index < fake->message_count);
    void *message = protobuf_c_message_unpack(type, NULL, fake->messages[index].size,
                                              fake->messages[index].bytes);
    assert_non_null(message);
    return message;
}
