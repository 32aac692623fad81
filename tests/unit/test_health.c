/* SPDX-License-Identifier: Apache-2.0 */
/* Health: who is told what, and that a watch makes one request at a time, whatever comes beside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "service/handlers.h"
#include "service/messages.h"
#include "service/services.h"

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
};

/* What a handler asked for and was not answered yet. */
enum asked { ASKED_NOTHING, ASKED_SEND, ASKED_FINISH, ASKED_FAIL };

/* A call without a transport: the tests deliver its events. */
struct test_call {
    struct call call; /* first, so that one is found from the other */
    struct arena arena;
    HEALTH(HealthCheckRequest) request;
    atomic_int asked;
    atomic_int status;                   /* of the last message sent */
    int code;                            /* of the failure */
    struct test_call *cancelled_by_send; /* is cancelled while this one sends */
};

static struct services services;

static void ask(struct call *call, enum asked asked)
{
    /* Two requests at once would be a fault of the handler. */
    int nothing = ASKED_NOTHING;
    assert_true(
        atomic_compare_exchange_strong(&((struct test_call *)call)->asked, &nothing, (int)asked));
}

static void take_status(struct call *call, const ProtobufCMessage *message)
{
    assert_ptr_equal(message->descriptor, &grpc__health__v1__health_check_response__descriptor);
    const HEALTH(HealthCheckResponse) *response = (const void *)message;
    atomic_store(&((struct test_call *)call)->status, (int)response->status);
}

void call_send(struct call *call, const ProtobufCMessage *message)
{
    struct test_call *other = ((struct test_call *)call)->cancelled_by_send;
    if (other != NULL) {
        atomic_store(&other->call.is_cancelled, true);
        health_watch_cancelled(&other->call);
    }
    take_status(call, message);
    ask(call, ASKED_SEND);
}

void call_finish(struct call *call, const ProtobufCMessage *message)
{
    take_status(call, message);
    ask(call, ASKED_FINISH);
}

void call_finish_stream(struct call *call)
{
    ask(call, ASKED_FINISH);
}

void call_fail(struct call *call, const struct err *err)
{
    ((struct test_call *)call)->code = (int)err->code;
    ask(call, ASKED_FAIL);
}

/* The other requests are there for the linker; health makes none of them. */
void call_watch(struct call *call)
{
    (void)call;
    fail();
}

void call_receive(struct call *call)
{
    (void)call;
    fail();
}

uint8_t *call_message_space(struct call *call, size_t size)
{
    (void)call;
    (void)size;
    fail();
    return NULL;
}

void call_send_filled(struct call *call, size_t size)
{
    (void)call;
    (void)size;
    fail();
}

void call_finish_filled(struct call *call, size_t size)
{
    (void)call;
    (void)size;
    fail();
}

void call_fail_with(struct call *call, enum err_code code, const char *message,
                    const ProtobufCMessage *details)
{
    (void)call;
    (void)code;
    (void)message;
    (void)details;
    fail();
}

void call_offload(struct call *call, void (*function)(struct call *call))
{
    (void)call;
    (void)function;
    fail();
}

static void init_call(struct test_call *call, const char *service)
{
    *call = (struct test_call){.request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT};
    arena_init(&call->arena);
    call->request.service = (char *)service;
    call->call.services = &services;
    call->call.arena = &call->arena;
    call->call.request = &call->request.base;
}

/* Takes back what was asked for, which must be ASKED. */
static void answered(struct test_call *call, enum asked asked)
{
    assert_int_equal(atomic_exchange(&call->asked, ASKED_NOTHING), (int)asked);
}

static void start_watch(struct test_call *call, const char *service)
{
    init_call(call, service);
    health_watch_start(&call->call);
}

/* The message is out, and the handler goes on. */
static void sent(struct test_call *call, int status)
{
    assert_int_equal(atomic_load(&call->status), status);
    answered(call, ASKED_SEND);
    health_watch_sent(&call->call);
}

static void cancel(struct test_call *call)
{
    atomic_store(&call->call.is_cancelled, true);
    health_watch_cancelled(&call->call);
}

/* The last request, which must be ASKED, is done. */
static void end(struct test_call *call, enum asked asked)
{
    answered(call, asked);
    health_watch_end(&call->call);
    assert_int_equal(atomic_load(&call->asked), ASKED_NOTHING);
    arena_fini(&call->arena);
}

static int set_up(void **state)
{
    struct err err;
    (void)state;
    return health_new(&services.health, &err);
}

/* Asserts in passing that no watch was left. */
static int tear_down(void **state)
{
    (void)state;
    health_free(services.health);
    return 0;
}

static void check(const char *service, enum asked asked, int status)
{
    struct test_call call;
    init_call(&call, service);
    health_check_start(&call.call);
    answered(&call, asked);
    if (asked == ASKED_FINISH)
        assert_int_equal(atomic_load(&call.status), status);
    else
        assert_int_equal(call.code, ERR_NOT_FOUND);
    arena_fini(&call.arena);
}

static void test_check(void **state)
{
    (void)state;
    check("", ASKED_FINISH, SERVING);
    check("build.bazel.remote.asset.v1.Fetch", ASKED_FINISH, SERVING);
    check("build.bazel.remote.asset.v1.Fetch/FetchBlob", ASKED_FAIL, 0);
    check("build.bazel.remote.asset.v1", ASKED_FAIL, 0);
    check("unknown", ASKED_FAIL, 0);
    health_stop(services.health);
    check("", ASKED_FINISH, NOT_SERVING);
    check("build.bazel.remote.asset.v1.Fetch", ASKED_FINISH, NOT_SERVING);
    check("unknown", ASKED_FAIL, 0);
}

static void test_idle_watch_is_cancelled(void **state)
{
    struct test_call call;
    (void)state;
    start_watch(&call, "");
    sent(&call, SERVING);
    assert_int_equal(atomic_load(&call.asked), ASKED_NOTHING);
    cancel(&call);
    assert_int_equal(call.code, ERR_CANCELLED);
    end(&call, ASKED_FAIL);
}

static void test_cancelled_while_sending(void **state)
{
    struct test_call sending, failing;
    (void)state;
    /* The message went out all the same: `sent` comes. */
    start_watch(&sending, "");
    cancel(&sending);
    sent(&sending, SERVING);
    end(&sending, ASKED_FAIL);
    /* It did not: `end` comes at once. */
    start_watch(&failing, "");
    cancel(&failing);
    end(&failing, ASKED_SEND);
}

static void test_cancelled_after_the_end(void **state)
{
    struct test_call call;
    (void)state;
    start_watch(&call, "");
    end(&call, ASKED_SEND);
    cancel(&call);
    assert_int_equal(atomic_load(&call.asked), ASKED_NOTHING);
}

static void test_end_of_a_watch_that_never_started(void **state)
{
    struct test_call call;
    (void)state;
    init_call(&call, "");
    cancel(&call);
    end(&call, ASKED_NOTHING);
}

static void test_stop(void **state)
{
    struct test_call idle, sending, unknown, late;
    (void)state;
    start_watch(&idle, "");
    sent(&idle, SERVING);
    start_watch(&sending, "");
    start_watch(&unknown, "unknown");
    sent(&unknown, SERVICE_UNKNOWN);

    health_stop(services.health);
    sent(&idle, NOT_SERVING);
    end(&idle, ASKED_FINISH);
    sent(&sending, SERVING);
    sent(&sending, NOT_SERVING);
    end(&sending, ASKED_FINISH);
    end(&unknown, ASKED_FINISH);

    start_watch(&late, "");
    sent(&late, NOT_SERVING);
    end(&late, ASKED_FINISH);
}

/* health_stop is about to make the request of one when it is cancelled: one is made in all. */
static void test_cancelled_by_the_way_of_a_stop(void **state)
{
    struct test_call first, second;
    (void)state;
    start_watch(&first, "");
    sent(&first, SERVING);
    start_watch(&second, "");
    sent(&second, SERVING);
    first.cancelled_by_send = &second;
    second.cancelled_by_send = &first;
    health_stop(services.health);
    /* Whichever was told first has sent, and the other was found cancelled. */
    bool first_sent = atomic_load(&first.asked) == ASKED_SEND;
    end(first_sent ? &first : &second, ASKED_SEND);
    end(first_sent ? &second : &first, ASKED_FAIL);
}

/* --- the same on threads --- */

enum { WATCHES = 8, ROUNDS = 200 };

static struct test_call calls[WATCHES];
static atomic_uint finished;

/* The transport of one call: answers what is asked for until the call ends. */
static void *run_transport(void *argument)
{
    struct test_call *call = argument;
    for (;;) {
        int asked = atomic_load(&call->asked);
        if (asked == ASKED_NOTHING) {
            (void)sched_yield();
            continue;
        }
        atomic_store(&call->asked, ASKED_NOTHING);
        if (asked == ASKED_SEND) {
            health_watch_sent(&call->call);
            continue;
        }
        health_watch_end(&call->call);
        atomic_fetch_add(&finished, 1);
        return NULL;
    }
}

static void *run_cancel(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < WATCHES; i += 2)
        cancel(&calls[i]);
    return NULL;
}

/* Cancellations beside a stop: each watch ends, and makes no second request (see ask). */
static void test_threads(void **state)
{
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct err err;
        pthread_t transports[WATCHES], canceller;
        assert_int_equal(health_new(&services.health, &err), 0);
        atomic_store(&finished, 0);
        for (size_t i = 0; i < WATCHES; i++) {
            start_watch(&calls[i], i % 3 == 0 ? "unknown" : "");
            assert_int_equal(pthread_create(&transports[i], NULL, run_transport, &calls[i]), 0);
        }
        assert_int_equal(pthread_create(&canceller, NULL, run_cancel, NULL), 0);
        health_stop(services.health);
        (void)pthread_join(canceller, NULL);
        for (size_t i = 0; i < WATCHES; i++) {
            (void)pthread_join(transports[i], NULL);
            arena_fini(&calls[i].arena);
        }
        assert_int_equal(atomic_load(&finished), WATCHES);
        health_free(services.health);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_check, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_idle_watch_is_cancelled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancelled_while_sending, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancelled_after_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_end_of_a_watch_that_never_started, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancelled_by_the_way_of_a_stop, set_up, tear_down),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
