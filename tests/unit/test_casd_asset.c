/* SPDX-License-Identifier: Apache-2.0 */
/* Files of assets as buildbox-casd wrote them, and what BuildStream's messages reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/wire.h"
#include "control/casd_asset.h"

#define HELLO     "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define TREE      "3f80b3dbbe21ee6be2bca0edb2a40a1cca88a6e1c09bbe168ce53633de79bb9c"
#define BLOB      "\nAtype.googleapis.com/build.bazel.remote.asset.v1.FetchBlobResponse"
#define DIRECTORY "\nFtype.googleapis.com/build.bazel.remote.asset.v1.FetchDirectoryResponse"

/* As buildbox-casd 1.4.25 wrote them. */
static const struct sample {
    const char *name;
    const char *bytes;
    size_t size;
    enum asset_kind kind;
    const char *uri;
    size_t qualifier_count;
    int64_t expires_at;
    int64_t size_of_content;
} samples[] = {
#define SAMPLE(name, bytes) (name), (bytes), sizeof(bytes) - 1
    {SAMPLE("03b5e42ec120d546b8e40c42e088297ed5db3de51f6679dbda3e4c5eb86452a3",
            BLOB "\022Q\022\turn:plain*D\n@" HELLO "\020\005"),
     ASSET_BLOB, "urn:plain", 0, 0, 5},
    {SAMPLE("043aef04a2076a73243e704d75cfe071f96f5a5c373beb1503cf719ac2e367f1",
            DIRECTORY "\022O\022\007urn:dir*D\n@" TREE "\020L"),
     ASSET_DIRECTORY, "urn:dir", 0, 0, 76},
    {SAMPLE("43e43ed5c6e197bc58cdda814a26b8a4d96d282f70a44c4bf102f3c73867885c",
            BLOB "\022g\022\007urn:one\032\006\n\001b\022\0012\032\006\n\001a\022\0011\""
                 "\006\b\200\250\326\271\007*D\n@" HELLO "\020\005"),
     ASSET_BLOB, "urn:one", 2, 2000000000000, 5},
};
enum { SAMPLES = sizeof(samples) / sizeof(samples[0]), QUALIFIED = 2 };

struct outcome {
    struct arena arena;
    struct asset_key key;
    struct asset asset;
    struct err err;
    int rc;
};

static void name_of(const char *text, uint8_t name[CASD_NAME_SIZE])
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_parse(DIGEST_SHA256, text, strlen(text), 0, &digest, &err), 0);
    memcpy(name, digest.hash, CASD_NAME_SIZE);
}

/* The bytes stand at the end of their memory: who reads on is caught. */
static void read_bytes(struct outcome *outcome, const char *name, const void *bytes, size_t size)
{
    uint8_t hash[CASD_NAME_SIZE];
    uint8_t *copy = malloc(size + 1);
    assert_non_null(copy);
    memcpy(copy + 1, bytes, size);
    name_of(name, hash);
    arena_init(&outcome->arena);
    outcome->rc = casd_asset_read((struct span){copy + 1, size}, hash, &outcome->arena,
                                  &outcome->key, &outcome->asset, &outcome->err);
    free(copy);
}

static void test_samples(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        const struct sample *sample = &samples[i];
        struct outcome outcome;
        read_bytes(&outcome, sample->name, sample->bytes, sample->size);
        assert_int_equal(outcome.rc, 0);
        assert_int_equal(outcome.key.kind, sample->kind);
        assert_int_equal(outcome.key.function, DIGEST_SHA256);
        assert_string_equal(outcome.key.uri, sample->uri);
        assert_int_equal(outcome.key.qualifier_count, sample->qualifier_count);
        assert_int_equal(outcome.asset.expires_at, sample->expires_at);
        assert_int_equal(outcome.asset.content.size, sample->size_of_content);
        assert_int_equal(outcome.asset.blob_count + outcome.asset.directory_count, 0);
        if (i == QUALIFIED) {
            assert_string_equal(outcome.key.qualifiers[0].name, "a");
            assert_string_equal(outcome.key.qualifiers[0].value, "1");
            assert_string_equal(outcome.key.qualifiers[1].name, "b");
        }
        arena_fini(&outcome.arena);
    }
}

static void test_what_is_cut_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        for (size_t size = 0; size < samples[i].size; size++) {
            struct outcome outcome;
            read_bytes(&outcome, samples[i].name, samples[i].bytes, size);
            assert_int_equal(outcome.rc, -ERR_INVALID);
            arena_fini(&outcome.arena);
        }
    }
}

/* The name vouches for URI and qualifiers; content and time are found or not, and bounded. */
static void test_no_flipped_bit_gives_another_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        for (size_t bit = 0; bit < 8 * samples[i].size; bit++) {
            struct outcome outcome;
            char *bytes = malloc(samples[i].size);
            assert_non_null(bytes);
            memcpy(bytes, samples[i].bytes, samples[i].size);
            bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
            read_bytes(&outcome, samples[i].name, bytes, samples[i].size);
            if (outcome.rc == 0) {
                assert_int_equal(outcome.key.kind, samples[i].kind);
                assert_string_equal(outcome.key.uri, samples[i].uri);
                assert_int_equal(outcome.key.qualifier_count, samples[i].qualifier_count);
                assert_true(outcome.asset.content.size >= 0);
            } else {
                assert_int_equal(outcome.rc, -ERR_INVALID);
            }
            arena_fini(&outcome.arena);
            free(bytes);
        }
    }
}

static void test_another_name_is_refused(void **state)
{
    struct outcome outcome;
    (void)state;
    read_bytes(&outcome, samples[1].name, samples[0].bytes, samples[0].size);
    assert_int_equal(outcome.rc, -ERR_INVALID);
    assert_non_null(strstr(outcome.err.msg, "another name"));
    arena_fini(&outcome.arena);
}

/* Neither would be found by a fetch, which has each name once. */
static void test_a_qualifier_that_comes_twice_is_refused(void **state)
{
    static const char twice[] =
        BLOB "\022g\022\007urn:one\032\006\n\001a\022\0012\032\006\n\001a\022"
             "\0011\"\006\b\200\250\326\271\007*D\n@" HELLO "\020\005";
    struct outcome outcome;
    (void)state;
    read_bytes(&outcome, samples[QUALIFIED].name, twice, sizeof(twice) - 1);
    assert_int_equal(outcome.rc, -ERR_INVALID);
    assert_string_equal(outcome.err.msg, "qualifier \"a\" comes twice");
    arena_fini(&outcome.arena);
}

/* --- references --- */

/* A message as it grows. */
struct message {
    uint8_t bytes[4096];
    size_t size;
};

static void add_bytes(struct message *message, uint32_t number, const void *bytes, size_t size)
{
    uint8_t *out = message->bytes + message->size;
    message->size += wire_put_varint(out, number << 3 | WIRE_BYTES);
    out = message->bytes + message->size;
    message->size += wire_put_varint(out, size);
    memcpy(message->bytes + message->size, bytes, size);
    message->size += size;
}

static void add_message(struct message *message, uint32_t number, const struct message *inner)
{
    add_bytes(message, number, inner->bytes, inner->size);
}

/* A Digest that is told from others by its size. */
static struct message digest_of(uint8_t size)
{
    struct message digest = {.size = 0};
    if (size == 0)
        return digest;
    add_bytes(&digest, 1, HELLO, strlen(HELLO));
    digest.bytes[digest.size++] = 2 << 3 | WIRE_VARINT;
    digest.bytes[digest.size++] = size;
    return digest;
}

static void add_digest(struct message *message, uint32_t number, uint8_t size)
{
    struct message digest = digest_of(size);
    add_message(message, number, &digest);
}

static void refer(struct outcome *outcome, const char *uri, enum asset_kind kind,
                  const struct message *content)
{
    outcome->key = (struct asset_key){.kind = kind, .uri = uri};
    outcome->asset = (struct asset){.pushed_at = 0};
    arena_init(&outcome->arena);
    outcome->rc = casd_asset_refer(&outcome->key, (struct span){content->bytes, content->size},
                                   &outcome->arena, &outcome->asset, &outcome->err);
}

static void check_sizes(const struct digest *digests, size_t count, const char *sizes)
{
    assert_int_equal(count, strlen(sizes));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(digests[i].size, sizes[i]);
}

static const char artifact[] = "urn:fdc:buildstream.build:2020:artifact:project/element/key";
static const char source[] = "urn:fdc:buildstream.build:2020:source:key";

/* The numbers are those of buildstream.v2.Artifact. */
static void test_an_artifact_tells_all_that_is_pushed_with_it(void **state)
{
    struct message message = {.size = 0};
    struct message log = {.size = 0};
    struct message sandbox = {.size = 0};
    struct outcome outcome;
    (void)state;
    message.bytes[message.size++] = 1 << 3 | WIRE_VARINT;
    message.bytes[message.size++] = 1;
    add_bytes(&message, 5, "strong", 6);
    add_digest(&message, 8, 'a');
    add_bytes(&message, 9, "\n\001p", 3);
    add_digest(&message, 10, 'b');
    add_bytes(&log, 1, "log", 3);
    add_digest(&log, 2, 'c');
    add_message(&message, 11, &log);
    add_message(&message, 11, &log);
    add_digest(&message, 12, 'd');
    add_digest(&message, 13, 'e');
    add_digest(&message, 14, 'f');
    add_digest(&message, 15, 0);
    add_digest(&message, 17, 'h');
    add_bytes(&sandbox, 2, "/", 1);
    add_digest(&sandbox, 3, 'i');
    add_digest(&sandbox, 3, 'j');
    add_message(&message, 18, &sandbox);
    refer(&outcome, artifact, ASSET_BLOB, &message);
    assert_int_equal(outcome.rc, 0);
    check_sizes(outcome.asset.blobs, outcome.asset.blob_count, "bccf");
    check_sizes(outcome.asset.directories, outcome.asset.directory_count, "adehij");
    arena_fini(&outcome.arena);
    /* What is cut between two fields is another artifact; elsewhere it is none. */
    for (size_t size = 0; size < message.size; size++) {
        struct message cut = message;
        cut.size = size;
        refer(&outcome, artifact, ASSET_BLOB, &cut);
        assert_true(outcome.rc == 0 || outcome.rc == -ERR_INVALID);
        arena_fini(&outcome.arena);
    }
}

static void test_a_source_tells_its_files(void **state)
{
    struct message message = {.size = 0};
    struct outcome outcome;
    (void)state;
    add_digest(&message, 2, 'a');
    refer(&outcome, source, ASSET_BLOB, &message);
    assert_int_equal(outcome.rc, 0);
    check_sizes(outcome.asset.blobs, outcome.asset.blob_count, "");
    check_sizes(outcome.asset.directories, outcome.asset.directory_count, "a");
    arena_fini(&outcome.arena);
}

static void test_only_buildstreams_blobs_tell(void **state)
{
    const struct {
        const char *uri;
        enum asset_kind kind;
        bool is_telling;
    } keys[] = {
        {artifact, ASSET_BLOB, true},
        {source, ASSET_BLOB, true},
        {source, ASSET_DIRECTORY, false},
        {"urn:fdc:buildstream.build:2020:other", ASSET_BLOB, false},
        {"https://example.com/urn:fdc:buildstream.build:2020:source:", ASSET_BLOB, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const struct asset_key key = {.kind = keys[i].kind, .uri = keys[i].uri};
        assert_int_equal(casd_asset_is_telling(&key), keys[i].is_telling);
    }
}

static void test_content_that_is_no_message_is_refused(void **state)
{
    struct message malformed = {.bytes = "no message", .size = 10};
    struct message bad_hash = {.size = 0};
    struct message digest = {.size = 0};
    struct outcome outcome;
    (void)state;
    refer(&outcome, artifact, ASSET_BLOB, &malformed);
    assert_int_equal(outcome.rc, -ERR_INVALID);
    assert_non_null(strstr(outcome.err.msg, "no Artifact of BuildStream"));
    arena_fini(&outcome.arena);
    add_bytes(&digest, 1, HELLO, 10);
    add_message(&bad_hash, 2, &digest);
    refer(&outcome, source, ASSET_BLOB, &bad_hash);
    assert_int_equal(outcome.rc, -ERR_INVALID);
    assert_non_null(strstr(outcome.err.msg, "no Source of BuildStream"));
    arena_fini(&outcome.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_what_is_cut_is_refused),
        cmocka_unit_test(test_no_flipped_bit_gives_another_key),
        cmocka_unit_test(test_another_name_is_refused),
        cmocka_unit_test(test_a_qualifier_that_comes_twice_is_refused),
        cmocka_unit_test(test_an_artifact_tells_all_that_is_pushed_with_it),
        cmocka_unit_test(test_a_source_tells_its_files),
        cmocka_unit_test(test_only_buildstreams_blobs_tell),
        cmocka_unit_test(test_content_that_is_no_message_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
