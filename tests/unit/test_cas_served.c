/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to a CAS as assetd serves one: both sides as they are, over a unix socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "far_cas.h"
#include "service/handlers.h"
#include "service/messages.h"
#include "transport/server.h"

/* The served side. */
static struct conf_listener listener = {
    .access = CONF_ACCESS_WRITE, .instances = {.any = true}, .socket_mode = 0600};
static char storage[PATH_MAX];
static struct conf_instance instance = {.name = "far/away",
                                        .storage = storage,
                                        .quota = 64 << 20,
                                        .index_quota = 16 << 20,
                                        .digest_functions = {DIGEST_SHA256, DIGEST_SHA512},
                                        .digest_function_count = 2,
                                        .push = {.any = true},
                                        .pull = {.any = true}};
static struct conf conf;
static struct services services = {.conf = &conf};
static struct server *server;

static int set_up(void **state)
{
    struct err err;
    (void)far_cas_set_up(state);
    struct far_cas *cas = *state;
    conf_set_defaults(&conf);
    conf.listeners = &listener;
    conf.listener_count = 1;
    conf.instances = &instance;
    conf.instance_count = 1;
    listener.address = cas->address;
    listener.path = cas->address + strlen("unix:");
    (void)scratch_path(&cas->scratch, "storage", storage);
    if (pool_new("test", 1, &services.workers, &err) != 0 ||
        instances_open(&conf, services.workers, &services.instances, &err) != 0 ||
        health_new(&services.health, &err) != 0 || server_start(&services, 0, &server, &err) != 0)
        fail_msg("%s", err.msg);
    far_cas_open(cas);
    return 0;
}

static int tear_down(void **state)
{
    far_cas_close(*state);
    health_stop(services.health);
    server_stop(server, 0);
    health_free(services.health);
    instances_close(services.instances);
    pool_free(services.workers);
    return far_cas_tear_down(state);
}

/* SIZE bytes that no other has; to be freed. */
static uint8_t *make_content(size_t size)
{
    static uint8_t number;
    uint8_t *data = malloc(size + 1);
    assert_non_null(data);
    number++;
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(number + i * 31 + (i >> 8));
    return data;
}

static void store(const struct digest *digest, const uint8_t *data)
{
    struct cas_blob blob = {.digest = *digest, .data = {data, (size_t)digest->size}};
    cas_put(instances_at(services.instances, 0)->cas, NULL, &blob, 1);
    assert_int_equal(blob.err.code, ERR_OK);
}

enum { BLOBS = 50, BLOB_SIZE = 20000 };

/* Every third is not there. */
static void assert_blobs(struct far_cas *cas, enum digest_function function)
{
    struct digest digests[BLOBS];
    uint8_t *data[BLOBS], *found[BLOBS];
    bool is_missing[BLOBS];
    struct err err;
    for (size_t i = 0; i < BLOBS; i++) {
        data[i] = make_content(BLOB_SIZE);
        assert_int_equal(digest_compute(function, data[i], BLOB_SIZE, &digests[i], &err), 0);
        if (i % 3 != 0)
            store(&digests[i], data[i]);
    }
    if (far_cas_find(cas, digests, BLOBS, is_missing, &err) != ERR_OK ||
        far_cas_read(cas, digests, BLOBS, found, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < BLOBS; i++) {
        assert_int_equal(is_missing[i], i % 3 == 0);
        assert_int_equal(found[i] == NULL, is_missing[i]);
        if (found[i] != NULL)
            assert_memory_equal(found[i], data[i], BLOB_SIZE);
        free(found[i]);
        free(data[i]);
    }
}

static void blobs_are_found_and_read(void **state)
{
    assert_blobs(*state, DIGEST_SHA256);
}

/* Of which no request names the function. */
static void other_functions_are_told_by_their_hashes(void **state)
{
    assert_blobs(*state, DIGEST_SHA512);
}

static void large_blobs_are_read(void **state)
{
    static const size_t sizes[] = {CAS_BATCH_MAX, CAS_BATCH_MAX + 1, 10 << 20};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *data = make_content(sizes[i]), *found;
        struct digest digest = far_cas_digest(data, sizes[i]);
        struct err err;
        assert_int_equal(far_cas_read(*state, &digest, 1, &found, &err), ERR_OK);
        assert_null(found);
        store(&digest, data);
        assert_int_equal(far_cas_read(*state, &digest, 1, &found, &err), ERR_OK);
        assert_non_null(found);
        assert_memory_equal(found, data, sizes[i]);
        free(found);
        free(data);
    }
}

static void capabilities_are_those_of_the_instance(void **state)
{
    struct span message;
    struct err err;
    if (far_cas_ask(*state, &message, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    REAPI(ServerCapabilities) *capabilities =
        build__bazel__remote__execution__v2__server_capabilities__unpack(NULL, message.size,
                                                                         message.data);
    assert_non_null(capabilities);
    assert_non_null(capabilities->cache_capabilities);
    assert_int_equal(capabilities->cache_capabilities->n_digest_functions, 2);
    build__bazel__remote__execution__v2__server_capabilities__free_unpacked(capabilities, NULL);
    free((void *)message.data);
}

static void an_instance_that_is_not_there_is_a_failure(void **state)
{
    struct far_cas *cas = *state;
    struct digest digest = {.size = 10 << 20, .function = DIGEST_SHA256};
    struct span message;
    uint8_t *found;
    struct err err;
    far_cas_close(cas);
    cas->conf.instance_name = "nowhere";
    far_cas_open(cas);
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "FindMissingBlobs: NOT_FOUND: ");
    far_cas_assert_says(cas, &err, "nowhere");
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "GetCapabilities: NOT_FOUND: ");
    /* The one call whose answers cannot be told apart. */
    assert_int_equal(far_cas_read(cas, &digest, 1, &found, &err), ERR_OK);
    assert_null(found);
}

#define SERVED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVED(blobs_are_found_and_read),
        SERVED(other_functions_are_told_by_their_hashes),
        SERVED(large_blobs_are_read),
        SERVED(capabilities_are_those_of_the_instance),
        SERVED(an_instance_that_is_not_there_is_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
