/* SPDX-License-Identifier: Apache-2.0 */
/* GetCapabilities of an instance with an external CAS: what that can do, as far as both can. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "fake_remote_cas.h"
#include "fake_services.h"

#define FUNCTION(name) BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST_FUNCTION__VALUE__##name
#define CAPABILITIES   &build__bazel__remote__execution__v2__server_capabilities__descriptor

enum { RACES = 400, UNKNOWN_FIELD = 1000 };

static const struct fake_answer unreachable = {.code = ERR_UNAVAILABLE,
                                               .text = "cas.example.com does not answer"};

static int reset(void **state)
{
    (void)state;
    fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_FAIL;
    fake_remote_reset();
    return 0;
}

/* --- what the CAS says --- */

/* A CAS of FUNCTIONS; version 2.2 to 2.3, batches of 1234 bytes, and a field that we do not know.
 */
static struct span message_of(const REAPI(DigestFunction__Value) *functions, size_t count)
{
    static uint8_t bytes[512];
    static uint8_t tail[] = {'n', 'e', 'w'};
    ProtobufCMessageUnknownField unknown = {.tag = UNKNOWN_FIELD,
                                            .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED};
    uint8_t unknown_data[] = {sizeof(tail), tail[0], tail[1], tail[2]};
    unknown.len = sizeof(unknown_data);
    unknown.data = unknown_data;
    Build__Bazel__Semver__SemVer low = BUILD__BAZEL__SEMVER__SEM_VER__INIT, high = low;
    low.major = high.major = 2;
    low.minor = 2;
    high.minor = 3;
    REAPI(CacheCapabilities) cache;
    build__bazel__remote__execution__v2__cache_capabilities__init(&cache);
    cache.digest_functions = (REAPI(DigestFunction__Value) *)functions;
    cache.n_digest_functions = count;
    cache.max_batch_total_size_bytes = 1234;
    cache.base.n_unknown_fields = 1;
    cache.base.unknown_fields = &unknown;
    REAPI(ServerCapabilities) message;
    build__bazel__remote__execution__v2__server_capabilities__init(&message);
    message.cache_capabilities = &cache;
    message.low_api_version = &low;
    message.high_api_version = &high;
    message.base.n_unknown_fields = 1;
    message.base.unknown_fields = &unknown;
    size_t size = protobuf_c_message_get_packed_size(&message.base);
    assert_true(size <= sizeof(bytes));
    assert_int_equal(protobuf_c_message_pack(&message.base, bytes), size);
    return (struct span){bytes, size};
}

static void say(struct span message)
{
    fake_remote_capabilities(message, (struct fake_answer){.code = ERR_OK});
}

/* --- calls --- */

static void begin_get(struct fake_call *fake, const char *instance)
{
    REAPI(GetCapabilitiesRequest) request =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__GET_CAPABILITIES_REQUEST__INIT;
    request.instance_name = (char *)instance;
    fake_call_init(fake, &fake_services, fake_method("Capabilities/GetCapabilities"),
                   &fake_listener, "");
    fake_call_begin(fake, &request.base);
}

static void get(struct fake_call *fake)
{
    begin_get(fake, "paired");
    fake_call_join(fake);
}

static REAPI(ServerCapabilities) *unpack(struct fake_call *fake)
{
    assert_true(fake->ended);
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    REAPI(ServerCapabilities) *response = fake_call_unpack(fake, 0, CAPABILITIES);
    fake_call_fini(fake);
    return response;
}

static void drop(REAPI(ServerCapabilities) *response)
{
    build__bazel__remote__execution__v2__server_capabilities__free_unpacked(response, NULL);
}

static void assert_unknown_field(const ProtobufCMessage *message)
{
    assert_int_equal(message->n_unknown_fields, 1);
    assert_int_equal(message->unknown_fields[0].tag, UNKNOWN_FIELD);
    assert_memory_equal(message->unknown_fields[0].data, "\3new", 4);
}

/* The call had the answer of an index by itself: the functions of the instance, no batches. */
static void assert_own(struct fake_call *fake)
{
    REAPI(ServerCapabilities) *response = unpack(fake);
    assert_int_equal(response->cache_capabilities->n_digest_functions, 2);
    assert_int_equal(response->cache_capabilities->max_batch_total_size_bytes, 0);
    assert_int_equal(response->low_api_version->minor, 0);
    drop(response);
}

/* --- tests --- */

static void they_are_those_of_the_cas_that_the_instance_has_too(void **state)
{
    (void)state;
    struct fake_call fake;
    static const REAPI(DigestFunction__Value) functions[] = {FUNCTION(BLAKE3), FUNCTION(SHA1),
                                                             FUNCTION(MD5), FUNCTION(SHA256)};
    say(message_of(functions, 4));
    get(&fake);
    REAPI(ServerCapabilities) *response = unpack(&fake);
    REAPI(CacheCapabilities) *cache = response->cache_capabilities;
    assert_int_equal(cache->n_digest_functions, 2);
    assert_int_equal(cache->digest_functions[0], FUNCTION(SHA1));
    assert_int_equal(cache->digest_functions[1], FUNCTION(SHA256));
    assert_int_equal(cache->max_batch_total_size_bytes, 1234);
    assert_null(cache->action_cache_update_capabilities);
    assert_int_equal(response->low_api_version->minor, 2);
    assert_int_equal(response->high_api_version->minor, 3);
    assert_unknown_field(&response->base);
    assert_unknown_field(&cache->base);
    drop(response);
    assert_int_equal(fake_remote_asked().capabilities, 1);
}

static void without_a_function_in_common_the_operator_must_act(void **state)
{
    (void)state;
    struct fake_call fake;
    static const REAPI(DigestFunction__Value) functions[] = {FUNCTION(BLAKE3), FUNCTION(SHA512),
                                                             (REAPI(DigestFunction__Value))99};
    say(message_of(functions, 3));
    get(&fake);
    assert_non_null(strstr(fake.status.msg, fake_cas.address));
    assert_non_null(strstr(fake.status.msg, "blake3, sha512, unknown"));
    assert_non_null(strstr(fake.status.msg, "sha256, sha1"));
    fake_assert_failed(&fake, ERR_PRECONDITION, "digest-functions");
    say(message_of(functions, 0));
    get(&fake);
    fake_assert_failed(&fake, ERR_PRECONDITION, "no function");
    say((struct span){(const uint8_t *)"", 0});
    get(&fake);
    fake_assert_failed(&fake, ERR_PRECONDITION, "no function");
    /* More than the message has room for. */
    REAPI(DigestFunction__Value) many[100];
    for (size_t i = 0; i < 100; i++)
        many[i] = FUNCTION(MURMUR3);
    say(message_of(many, 100));
    get(&fake);
    fake_assert_failed(&fake, ERR_PRECONDITION, "murmur3, murmur3");
}

static void a_cas_that_does_not_tell_leaves_those_of_the_index(void **state)
{
    (void)state;
    struct fake_call fake;
    get(&fake);
    assert_own(&fake);
    assert_int_equal(fake_remote_asked().capabilities, 1);
}

static void a_cas_that_cannot_be_asked_is_the_operators_choice(void **state)
{
    (void)state;
    struct fake_call fake;
    const struct fake_answer answers[] = {unreachable,
                                          {.code = ERR_AWAY, .text = "is tried again in 100 ms"}};
    for (int i = 0; i < 3; i++) {
        if (i < 2)
            fake_remote_capabilities((struct span){.size = 0}, answers[i]);
        else
            say((struct span){(const uint8_t *)"\x0a\x7f", 2});
        fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_FAIL;
        get(&fake);
        fake_assert_failed(&fake, i == 1 ? ERR_AWAY : ERR_UNAVAILABLE,
                           i < 2 ? answers[i].text : fake_cas.address);
        fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_SERVE;
        get(&fake);
        assert_own(&fake);
    }
}

static void instances_without_one_ask_nothing(void **state)
{
    (void)state;
    struct fake_call fake;
    begin_get(&fake, "index");
    fake_call_join(&fake);
    assert_false(fake.is_watched);
    assert_own(&fake);
    begin_get(&fake, "nowhere");
    fake_call_join(&fake);
    fake_assert_failed(&fake, ERR_NOT_FOUND, "nowhere");
    assert_int_equal(fake_remote_asked().capabilities, 0);
}

/* The CAS answers later, when there is no call any more. */
static void a_cancelled_call_waits_no_longer(void **state)
{
    (void)state;
    struct fake_call fake;
    fake_remote_answer_when(FAKE_WHEN_TOLD);
    begin_get(&fake, "paired");
    fake_call_tell_cancelled(&fake);
    fake_call_join(&fake);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
    assert_int_equal(fake_remote_asked().waiting, 1);
    fake_remote_answer_waiting();

    /* Before it is asked. */
    REAPI(GetCapabilitiesRequest)
    request = BUILD__BAZEL__REMOTE__EXECUTION__V2__GET_CAPABILITIES_REQUEST__INIT;
    request.instance_name = (char *)"paired";
    fake_call_init(&fake, &fake_services, fake_method("Capabilities/GetCapabilities"),
                   &fake_listener, "");
    fake.cancel_watch = true;
    fake_call_start(&fake, &request.base);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
    fake_remote_answer_waiting();

    /* After the answer. */
    begin_get(&fake, "paired");
    fake_remote_answer_waiting();
    fake_call_join(&fake);
    fake_call_tell_cancelled(&fake);
    assert_own(&fake);
}

static void *tell_cancelled(void *argument)
{
    fake_call_tell_cancelled(argument);
    return NULL;
}

static void cancellations_and_answers_race(void **state)
{
    (void)state;
    fake_remote_answer_when(FAKE_ON_A_THREAD);
    for (int i = 0; i < RACES; i++) {
        struct fake_call fake;
        pthread_t thread;
        begin_get(&fake, "paired");
        assert_int_equal(pthread_create(&thread, NULL, tell_cancelled, &fake), 0);
        fake_call_join(&fake);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (fake.status.code == ERR_CANCELLED)
            fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
        else
            assert_own(&fake);
    }
    while (fake_remote_asked().waiting != 0)
        continue;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, reset, reset)
    const struct CMUnitTest tests[] = {
        TEST(they_are_those_of_the_cas_that_the_instance_has_too),
        TEST(without_a_function_in_common_the_operator_must_act),
        TEST(a_cas_that_does_not_tell_leaves_those_of_the_index),
        TEST(a_cas_that_cannot_be_asked_is_the_operators_choice),
        TEST(instances_without_one_ask_nothing),
        TEST(a_cancelled_call_waits_no_longer),
        TEST(cancellations_and_answers_race),
    };
    return cmocka_run_group_tests(tests, fake_services_set_up, fake_services_tear_down);
}
