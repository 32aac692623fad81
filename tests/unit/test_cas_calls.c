/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to an external CAS: what is asked, and what is made of each kind of answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "far_cas.h"
#include "service/messages.h"

/* A small blob and its digest, as the code and as messages have it. */
struct blob {
    char text[32];
    size_t size;
    struct digest digest;
    char hash[2 * DIGEST_HASH_MAX + 1];
    REAPI(Digest) message;
};

static void make_blob(struct blob *blob, int number)
{
    blob->size = (size_t)snprintf(blob->text, sizeof(blob->text), "blob %d", number);
    blob->digest = far_cas_digest(blob->text, blob->size);
    build__bazel__remote__execution__v2__digest__init(&blob->message);
    blob->message.hash = digest_hex(&blob->digest, blob->hash);
    blob->message.size_bytes = (int64_t)blob->size;
}

enum { BLOBS = 4 };

static void make_blobs(struct blob blobs[BLOBS], struct digest digests[BLOBS])
{
    for (int i = 0; i < BLOBS; i++) {
        make_blob(&blobs[i], i);
        digests[i] = blobs[i].digest;
    }
}

/* Connections to a server that is there. */
static int set_up(void **state)
{
    (void)far_cas_set_up(state);
    far_cas_serve(*state);
    far_cas_open(*state);
    return 0;
}

/* --- FindMissingBlobs --- */

static void answer_missing(struct far_cas *cas, REAPI(Digest) **digests, size_t count)
{
    REAPI(FindMissingBlobsResponse)
    response = BUILD__BAZEL__REMOTE__EXECUTION__V2__FIND_MISSING_BLOBS_RESPONSE__INIT;
    response.missing_blob_digests = digests;
    response.n_missing_blob_digests = count;
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add(cas, &response.base);
}

static void find_asks_for_all_and_takes_any_order(void **state)
{
    struct far_cas *cas = *state;
    struct blob blobs[BLOBS];
    struct digest digests[BLOBS];
    bool is_missing[BLOBS];
    struct err err;
    make_blobs(blobs, digests);
    REAPI(Digest) *missing[] = {&blobs[3].message, &blobs[1].message};
    answer_missing(cas, missing, 2);
    assert_int_equal(far_cas_find(cas, digests, BLOBS, is_missing, &err), ERR_OK);
    static const bool expected[BLOBS] = {false, true, false, true};
    assert_memory_equal(is_missing, expected, sizeof(expected));
    assert_string_equal(
        cas->path, "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs");
    REAPI(FindMissingBlobsRequest) *request =
        build__bazel__remote__execution__v2__find_missing_blobs_request__unpack(
            NULL, cas->request_size, cas->request);
    assert_non_null(request);
    assert_string_equal(request->instance_name, "far/away");
    assert_int_equal(request->n_blob_digests, BLOBS);
    for (size_t i = 0; i < BLOBS; i++) {
        assert_string_equal(request->blob_digests[i]->hash, blobs[i].hash);
        assert_int_equal(request->blob_digests[i]->size_bytes, blobs[i].size);
    }
    assert_int_equal(request->digest_function, 0);
    build__bazel__remote__execution__v2__find_missing_blobs_request__free_unpacked(request, NULL);
    /* What an earlier answer said is not left over. */
    answer_missing(cas, NULL, 0);
    assert_int_equal(far_cas_find(cas, digests, BLOBS, is_missing, &err), ERR_OK);
    for (size_t i = 0; i < BLOBS; i++)
        assert_false(is_missing[i]);
    assert_int_equal(cas_connections_calls(cas->connections), 2);
}

/* The largest of all: the request is many slices of the network, and so is the answer. */
static void find_takes_as_many_as_it_says(void **state)
{
    struct far_cas *cas = *state;
    struct digest *digests = calloc(CAS_FIND_MAX, sizeof(*digests));
    bool *is_missing = calloc(CAS_FIND_MAX, sizeof(*is_missing));
    REAPI(Digest) *messages = calloc(CAS_FIND_MAX, sizeof(*messages));
    REAPI(Digest) **missing = calloc(CAS_FIND_MAX, sizeof(REAPI(Digest) *));
    char(*hashes)[2 * DIGEST_HASH_MAX + 1] = calloc(CAS_FIND_MAX, sizeof(*hashes));
    struct err err;
    assert_true(digests != NULL && is_missing != NULL && messages != NULL && missing != NULL &&
                hashes != NULL);
    for (size_t i = 0; i < CAS_FIND_MAX; i++) {
        assert_int_equal(digest_compute(DIGEST_SHA512, &i, sizeof(i), &digests[i], &err), 0);
        build__bazel__remote__execution__v2__digest__init(&messages[i]);
        messages[i].hash = digest_hex(&digests[i], hashes[i]);
        messages[i].size_bytes = sizeof(i);
        missing[CAS_FIND_MAX - 1 - i] = &messages[i];
    }
    answer_missing(cas, missing, CAS_FIND_MAX - 1);
    assert_int_equal(far_cas_find(cas, digests, CAS_FIND_MAX, is_missing, &err), ERR_OK);
    assert_false(is_missing[0]);
    for (size_t i = 1; i < CAS_FIND_MAX; i++)
        assert_true(is_missing[i]);
    free(digests);
    free(is_missing);
    free(messages);
    free(missing);
    free(hashes);
}

static void fail_find(struct far_cas *cas, const char *reason)
{
    struct blob blobs[BLOBS];
    struct digest digests[BLOBS];
    bool is_missing[BLOBS];
    struct err err;
    make_blobs(blobs, digests);
    assert_int_equal(far_cas_find(cas, digests, BLOBS - 1, is_missing, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, reason);
    far_cas_assert_says(cas, &err, "FindMissingBlobs: ");
}

static void find_refuses_answers_that_are_none(void **state)
{
    struct far_cas *cas = *state;
    struct blob blobs[BLOBS];
    struct digest digests[BLOBS];
    make_blobs(blobs, digests);
    REAPI(Digest) *missing[] = {&blobs[1].message, &blobs[3].message};
    answer_missing(cas, missing, 2);
    fail_find(cas, "was not asked for");
    fail_find(cas, blobs[3].hash);
    blobs[1].message.size_bytes++; /* another digest */
    answer_missing(cas, missing, 1);
    fail_find(cas, "was not asked for");
    blobs[1].message.size_bytes = -1;
    answer_missing(cas, missing, 1);
    fail_find(cas, "negative");
    blobs[1].message.hash = (char *)"abc";
    answer_missing(cas, missing, 1);
    fail_find(cas, "malformed");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "\x12\x7f", 2);
    fail_find(cas, "malformed");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "\x12\x02\x0a\x7f", 4);
    fail_find(cas, "malformed");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    fail_find(cas, "OK without an answer");
}

/* Whatever it is, it is not ours to wait for, and the CAS answers. */
static void answers_that_are_none_do_not_open_the_breaker(void **state)
{
    struct far_cas *cas = *state;
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "\x12\x7f", 2);
    for (int i = 0; i < 5; i++)
        fail_find(cas, "malformed");
    far_cas_answer(cas, GRPC_STATUS_INVALID_ARGUMENT, "no such instance");
    for (int i = 0; i < 5; i++)
        fail_find(cas, "INVALID_ARGUMENT: no such instance");
    assert_true(cas_connections_are_up(cas->connections));
    assert_int_equal(far_cas_logged(cas, "cas-lost"), 0);
}

static void answers_that_are_too_large_are_refused(void **state)
{
    struct far_cas *cas = *state;
    static uint8_t large[9 << 20];
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, large, sizeof(large));
    fail_find(cas, "RESOURCE_EXHAUSTED");
}

static void failures_say_what_the_server_said(void **state)
{
    struct far_cas *cas = *state;
    struct digest digests[2] = {far_cas_digest("a", 1), {.size = 5 << 20}};
    uint8_t *found[1];
    struct span message;
    struct err err;
    digests[1].function = DIGEST_SHA256;
    far_cas_answer(cas, GRPC_STATUS_PERMISSION_DENIED, "team kernel may not read");
    fail_find(cas, "PERMISSION_DENIED: team kernel may not read");
    assert_int_equal(far_cas_read(cas, &digests[0], 1, found, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "BatchReadBlobs: PERMISSION_DENIED: team kernel may not read");
    /* A failure more would open the breaker. */
    answer_missing(cas, NULL, 0);
    far_cas_await(cas);
    far_cas_answer(cas, GRPC_STATUS_PERMISSION_DENIED, "team kernel may not read");
    assert_int_equal(far_cas_read(cas, &digests[1], 1, found, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "ByteStream.Read: PERMISSION_DENIED: team kernel may not read");
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "GetCapabilities: PERMISSION_DENIED: team kernel may not read");
    assert_null(message.data);
}

/* --- BatchReadBlobs --- */

/* An answer with the blobs as they are, to be changed by the test and then given. */
struct batch {
    struct blob blobs[BLOBS];
    struct digest digests[BLOBS];
    REAPI(BatchReadBlobsResponse__Response) responses[BLOBS];
    REAPI(BatchReadBlobsResponse__Response) *list[BLOBS];
    Google__Rpc__Status statuses[BLOBS];
    size_t count;
};

static void make_batch(struct batch *batch)
{
    make_blobs(batch->blobs, batch->digests);
    batch->count = BLOBS;
    for (size_t i = 0; i < BLOBS; i++) {
        REAPI(BatchReadBlobsResponse__Response) *response = &batch->responses[i];
        build__bazel__remote__execution__v2__batch_read_blobs_response__response__init(response);
        google__rpc__status__init(&batch->statuses[i]);
        response->digest = &batch->blobs[i].message;
        response->data.data = (uint8_t *)batch->blobs[i].text;
        response->data.len = batch->blobs[i].size;
        batch->list[i] = response;
    }
}

static void answer_batch(struct far_cas *cas, struct batch *batch)
{
    REAPI(BatchReadBlobsResponse)
    response = BUILD__BAZEL__REMOTE__EXECUTION__V2__BATCH_READ_BLOBS_RESPONSE__INIT;
    response.responses = batch->list;
    response.n_responses = batch->count;
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add(cas, &response.base);
}

/* Reads all of the batch: those of IS_FOUND come, and the others are absent. */
static void read_batch(struct far_cas *cas, struct batch *batch, const bool is_found[BLOBS])
{
    uint8_t *found[BLOBS];
    struct err err;
    answer_batch(cas, batch);
    if (far_cas_read(cas, batch->digests, BLOBS, found, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < BLOBS; i++) {
        if (is_found[i]) {
            assert_non_null(found[i]);
            assert_memory_equal(found[i], batch->blobs[i].text, batch->blobs[i].size);
        } else {
            assert_null(found[i]);
        }
        free(found[i]);
    }
}

static void fail_batch(struct far_cas *cas, struct batch *batch, const char *reason)
{
    uint8_t *found[BLOBS];
    struct err err;
    answer_batch(cas, batch);
    assert_int_equal(far_cas_read(cas, batch->digests, BLOBS, found, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, reason);
    far_cas_assert_says(cas, &err, "BatchReadBlobs: ");
    for (size_t i = 0; i < BLOBS; i++)
        free(found[i]);
}

static void batch_tells_what_is_there_and_what_is_not(void **state)
{
    struct far_cas *cas = *state;
    struct batch batch;
    make_batch(&batch);
    read_batch(cas, &batch, (const bool[BLOBS]){true, true, true, true});
    assert_string_equal(
        cas->path, "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs");
    REAPI(BatchReadBlobsRequest) *request =
        build__bazel__remote__execution__v2__batch_read_blobs_request__unpack(
            NULL, cas->request_size, cas->request);
    assert_non_null(request);
    assert_string_equal(request->instance_name, "far/away");
    assert_int_equal(request->n_digests, BLOBS);
    assert_int_equal(request->n_acceptable_compressors, 0);
    build__bazel__remote__execution__v2__batch_read_blobs_request__free_unpacked(request, NULL);
    /* In another order, one missing, one with an OK that is spelled out. */
    batch.list[0] = &batch.responses[3];
    batch.list[3] = &batch.responses[0];
    batch.responses[3].status = &batch.statuses[3];
    batch.responses[1].status = &batch.statuses[1];
    batch.responses[1].data.len = 0;
    batch.statuses[1].code = GRPC_STATUS_NOT_FOUND;
    batch.statuses[1].message = (char *)"evicted";
    read_batch(cas, &batch, (const bool[BLOBS]){true, false, true, true});
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 0);
}

static void content_of_another_digest_is_absent_and_logged(void **state)
{
    struct far_cas *cas = *state;
    struct batch batch;
    make_batch(&batch);
    batch.responses[0].data.data = (uint8_t *)"blob 9";
    batch.responses[2].data.len--;
    batch.responses[3].data.len = 0;
    batch.responses[3].status = &batch.statuses[3];
    batch.statuses[3].code = GRPC_STATUS_DATA_LOSS;
    read_batch(cas, &batch, (const bool[BLOBS]){false, true, false, false});
    assert_int_equal(far_cas_logged(cas, "event=cas-damaged instance=near"), 3);
    assert_int_equal(far_cas_logged(cas, batch.blobs[0].hash), 1);
    assert_int_equal(far_cas_logged(cas, batch.blobs[2].hash), 1);
    assert_int_equal(far_cas_logged(cas, batch.blobs[3].hash), 1);
}

static void batch_refuses_answers_that_are_none(void **state)
{
    struct far_cas *cas = *state;
    struct batch batch;
    uint8_t *found[BLOBS];
    struct err err;
    make_batch(&batch);
    batch.responses[2].status = &batch.statuses[2];
    batch.statuses[2].code = GRPC_STATUS_INTERNAL;
    batch.statuses[2].message = (char *)"the disk is gone";
    fail_batch(cas, &batch, "INTERNAL: the disk is gone");
    fail_batch(cas, &batch, batch.blobs[2].hash);
    make_batch(&batch);
    batch.count = BLOBS - 1;
    fail_batch(cas, &batch, "of 4 blobs that were asked for it has 3");
    make_batch(&batch);
    batch.list[3] = &batch.responses[0];
    fail_batch(cas, &batch, "answered already");
    make_batch(&batch);
    batch.blobs[1].message.size_bytes++;
    fail_batch(cas, &batch, "not asked for");
    make_batch(&batch);
    batch.responses[1].compressor = BUILD__BAZEL__REMOTE__EXECUTION__V2__COMPRESSOR__VALUE__ZSTD;
    fail_batch(cas, &batch, "compressed");
    make_batch(&batch);
    batch.responses[1].digest = NULL;
    fail_batch(cas, &batch, "malformed");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "\x0a\x03\x1a\x7f\x08", 5);
    assert_int_equal(far_cas_read(cas, batch.digests, BLOBS, found, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "malformed");
    assert_true(cas_connections_are_up(cas->connections));
}

/* --- ByteStream.Read --- */

enum { LARGE = 3 * CAS_BATCH_MAX + 12345 };

struct large {
    uint8_t *data;
    struct digest digest;
};

static void make_large(struct large *large)
{
    large->data = malloc(LARGE);
    assert_non_null(large->data);
    for (size_t i = 0; i < LARGE; i++)
        large->data[i] = (uint8_t)(i * 7 + (i >> 9));
    large->digest = far_cas_digest(large->data, LARGE);
}

/* Adds a message with the bytes FROM up to, not including, TO. */
static void add_piece(struct far_cas *cas, const struct large *large, size_t from, size_t to)
{
    BYTESTREAM(ReadResponse) response = GOOGLE__BYTESTREAM__READ_RESPONSE__INIT;
    response.data.data = large->data + from;
    response.data.len = to - from;
    far_cas_add(cas, &response.base);
}

static void answer_large(struct far_cas *cas, const struct large *large, size_t size)
{
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    add_piece(cas, large, 0, 100);
    add_piece(cas, large, 100, 100);
    add_piece(cas, large, 100, 2 << 20);
    add_piece(cas, large, 2 << 20, size);
}

/* The blob as it is read; NULL: it is not there. */
static uint8_t *read_large(struct far_cas *cas, const struct large *large)
{
    uint8_t *found;
    struct err err;
    if (far_cas_read(cas, &large->digest, 1, &found, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    return found;
}

/* What was asked for in the last call. */
static void assert_resource(const struct far_cas *cas, const struct large *large,
                            const char *prefix)
{
    char name[256], text[DIGEST_TEXT_MAX];
    BYTESTREAM(ReadRequest) *request =
        google__bytestream__read_request__unpack(NULL, cas->request_size, cas->request);
    assert_non_null(request);
    (void)snprintf(name, sizeof(name), "%sblobs/%s", prefix, digest_text(&large->digest, text));
    assert_string_equal(request->resource_name, name);
    assert_int_equal(request->read_offset, 0);
    assert_int_equal(request->read_limit, 0);
    google__bytestream__read_request__free_unpacked(request, NULL);
}

static void large_ones_are_read_as_streams(void **state)
{
    struct far_cas *cas = *state;
    struct large large;
    make_large(&large);
    answer_large(cas, &large, LARGE);
    uint8_t *found = read_large(cas, &large);
    assert_non_null(found);
    assert_memory_equal(found, large.data, LARGE);
    free(found);
    assert_string_equal(cas->path, "/google.bytestream.ByteStream/Read");
    assert_resource(cas, &large, "far/away/");
    far_cas_close(cas);
    cas->conf.instance_name = "";
    far_cas_open(cas);
    found = read_large(cas, &large);
    assert_non_null(found);
    free(found);
    assert_resource(cas, &large, "");
    free(large.data);
}

static void large_ones_can_be_absent(void **state)
{
    struct far_cas *cas = *state;
    struct large large;
    make_large(&large);
    far_cas_answer(cas, GRPC_STATUS_NOT_FOUND, "no such blob");
    assert_null(read_large(cas, &large));
    assert_true(cas_connections_are_up(cas->connections));
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 0);
    /* Too little, too much, another content. */
    answer_large(cas, &large, LARGE - 1);
    assert_null(read_large(cas, &large));
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 1);
    large.digest.size--;
    answer_large(cas, &large, LARGE);
    assert_null(read_large(cas, &large));
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 2);
    large.digest.size++;
    large.data[LARGE / 2] ^= 1;
    answer_large(cas, &large, LARGE);
    assert_null(read_large(cas, &large));
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 3);
    /* Too little, and said so. */
    answer_large(cas, &large, LARGE - 1);
    cas->answer.status = GRPC_STATUS_DATA_LOSS;
    assert_null(read_large(cas, &large));
    assert_int_equal(far_cas_logged(cas, "cas-damaged"), 4);
    free(large.data);
}

static void streams_that_break_are_failures(void **state)
{
    struct far_cas *cas = *state;
    struct large large;
    uint8_t *found;
    struct err err;
    make_large(&large);
    answer_large(cas, &large, LARGE - 1);
    cas->answer.status = GRPC_STATUS_INTERNAL;
    cas->answer.text = "a bad sector";
    assert_int_equal(far_cas_read(cas, &large.digest, 1, &found, &err), ERR_UNAVAILABLE);
    assert_null(found);
    far_cas_assert_says(cas, &err, "ByteStream.Read: INTERNAL: a bad sector");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "\x52\x7f", 2);
    assert_int_equal(far_cas_read(cas, &large.digest, 1, &found, &err), ERR_UNAVAILABLE);
    assert_null(found);
    far_cas_assert_says(cas, &err, "malformed");
    free(large.data);
}

/* --- GetCapabilities --- */

static void capabilities_are_handed_on(void **state)
{
    struct far_cas *cas = *state;
    REAPI(ServerCapabilities)
    capabilities = BUILD__BAZEL__REMOTE__EXECUTION__V2__SERVER_CAPABILITIES__INIT;
    REAPI(CacheCapabilities)
    cache = BUILD__BAZEL__REMOTE__EXECUTION__V2__CACHE_CAPABILITIES__INIT;
    struct span message;
    struct err err;
    cache.max_batch_total_size_bytes = 12345;
    capabilities.cache_capabilities = &cache;
    far_cas_add(cas, &capabilities.base);
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_OK);
    assert_int_equal(message.size, cas->used);
    assert_memory_equal(message.data, cas->bytes, cas->used);
    free((void *)message.data);
    assert_string_equal(cas->path, "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities");
    REAPI(GetCapabilitiesRequest) *request =
        build__bazel__remote__execution__v2__get_capabilities_request__unpack(
            NULL, cas->request_size, cas->request);
    assert_non_null(request);
    assert_string_equal(request->instance_name, "far/away");
    build__bazel__remote__execution__v2__get_capabilities_request__free_unpacked(request, NULL);
    /* Nothing to tell is an answer as well. */
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "", 0);
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_OK);
    assert_non_null(message.data);
    assert_int_equal(message.size, 0);
    free((void *)message.data);
}

static void capabilities_can_be_unimplemented(void **state)
{
    struct far_cas *cas = *state;
    struct span message;
    struct err err;
    far_cas_answer(cas, GRPC_STATUS_UNIMPLEMENTED, "what?");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(far_cas_ask(cas, &message, &err), ERR_OK);
        assert_null(message.data);
    }
    assert_true(cas_connections_are_up(cas->connections));
    /* Of other calls it is a failure. */
    fail_find(cas, "UNIMPLEMENTED: what?");
}

static void capabilities_that_are_none_are_refused(void **state)
{
    struct far_cas *cas = *state;
    static uint8_t large[70 << 10];
    struct span message;
    struct err err;
    far_cas_add_bytes(cas, "\x0a\x02\x08", 3);
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "GetCapabilities: the answer is malformed");
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, large, sizeof(large));
    assert_int_equal(far_cas_ask(cas, &message, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "GetCapabilities: the answer is too large");
}

#define WITH_CAS(test) cmocka_unit_test_setup_teardown(test, set_up, far_cas_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CAS(find_asks_for_all_and_takes_any_order),
        WITH_CAS(find_takes_as_many_as_it_says),
        WITH_CAS(find_refuses_answers_that_are_none),
        WITH_CAS(answers_that_are_none_do_not_open_the_breaker),
        WITH_CAS(answers_that_are_too_large_are_refused),
        WITH_CAS(failures_say_what_the_server_said),
        WITH_CAS(batch_tells_what_is_there_and_what_is_not),
        WITH_CAS(content_of_another_digest_is_absent_and_logged),
        WITH_CAS(batch_refuses_answers_that_are_none),
        WITH_CAS(large_ones_are_read_as_streams),
        WITH_CAS(large_ones_can_be_absent),
        WITH_CAS(streams_that_break_are_failures),
        WITH_CAS(capabilities_are_handed_on),
        WITH_CAS(capabilities_can_be_unimplemented),
        WITH_CAS(capabilities_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
