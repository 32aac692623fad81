/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacking of requests: what the generated code would let through, and what must pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/wire.h"
#include "service/messages.h"
#include "transport/codec.h"

static const ProtobufCMessageDescriptor *const push_type =
    &build__bazel__remote__asset__v1__push_blob_request__descriptor;

static int unpack(const uint8_t *bytes, size_t size, struct arena *arena, struct err *err)
{
    const ProtobufCMessage *message;
    return codec_unpack(push_type, (struct span){bytes, size}, arena, &message, err);
}

static void requests_come_back(void **state)
{
    (void)state;
    ASSET(PushBlobRequest) request = BUILD__BAZEL__REMOTE__ASSET__V1__PUSH_BLOB_REQUEST__INIT;
    ASSET(Qualifier) qualifier = BUILD__BAZEL__REMOTE__ASSET__V1__QUALIFIER__INIT;
    ASSET(Qualifier) *qualifiers[] = {&qualifier};
    char *uris[] = {(char *)"urn:a", (char *)"urn:b"};
    qualifier.name = (char *)"resource_type";
    qualifier.value = (char *)"\xc3\xa9";
    request.uris = uris;
    request.n_uris = 2;
    request.qualifiers = qualifiers;
    request.n_qualifiers = 1;
    uint8_t bytes[256];
    size_t size = protobuf_c_message_pack(&request.base, bytes);
    struct arena arena;
    struct err err;
    const ProtobufCMessage *message;
    arena_init(&arena);
    assert_int_equal(codec_unpack(push_type, (struct span){bytes, size}, &arena, &message, &err),
                     0);
    const ASSET(PushBlobRequest) *unpacked = (const ASSET(PushBlobRequest) *)message;
    assert_int_equal(unpacked->n_uris, 2);
    assert_string_equal(unpacked->uris[1], "urn:b");
    assert_string_equal(unpacked->qualifiers[0]->value, "\xc3\xa9");
    arena_fini(&arena);
}

static void strings_are_text(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *field;
    } cases[] = {
        {"\x12\x05"
         "ur\0ix",
         7, "uris"},
        {"\x12\x02\xff\xfe", 4, "uris"},
        {"\x1a\x05\x0a\x03"
         "a\0b",
         7, "Qualifier.name"},
        {"\x2a\x05\x0a\x03"
         "\xc0\x80x",
         7, "Digest.hash"},
    };
    struct arena arena;
    struct err err;
    arena_init(&arena);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(unpack((const uint8_t *)cases[i].bytes, cases[i].size, &arena, &err),
                         -ERR_INVALID);
        assert_non_null(strstr(err.msg, cases[i].field));
    }
    arena_fini(&arena);
}

/* Two bytes each on the wire, dozens in memory. */
static void tiny_elements_are_bounded(void **state)
{
    (void)state;
    enum { COUNT = (1 << 18) + 1 };
    uint8_t *bytes = malloc(2 * COUNT);
    assert_non_null(bytes);
    for (size_t i = 0; i < COUNT; i++) {
        bytes[2 * i] = 0x32; /* references_blobs */
        bytes[2 * i + 1] = 0;
    }
    struct arena arena;
    struct err err;
    arena_init(&arena);
    assert_int_equal(unpack(bytes, 2 * (COUNT - 1), &arena, &err), 0);
    arena_reset(&arena);
    assert_int_equal(unpack(bytes, 2 * COUNT, &arena, &err), -ERR_INVALID);
    arena_fini(&arena);
    free(bytes);
}

/* Whatever the bytes are, they are a message or an error, and memory stays whole. */
static void any_bytes_are_survived(void **state)
{
    (void)state;
    static const uint8_t seed[] = "\x0a\x01i\x12\x05urn:a\x1a\x06\x0a\x01n\x12\x01v\x2a\x04\x0a"
                                  "\x02zz\x22\x02\x08\x05\x32\x02\x0a\x00\x40\x01";
    unsigned random = 1;
    struct arena arena;
    struct err err;
    arena_init(&arena);
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[sizeof(seed) - 1];
        memcpy(bytes, seed, sizeof(bytes));
        for (int change = 0; change < 1 + round % 4; change++) {
            random = random * 1103515245 + 12345;
            bytes[(random >> 8) % sizeof(bytes)] = (uint8_t)(random >> 20);
        }
        int rc = unpack(bytes, sizeof(bytes) - (size_t)round % 7, &arena, &err);
        assert_true(rc == 0 || rc == -ERR_INVALID);
        arena_reset(&arena);
    }
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_come_back),
        cmocka_unit_test(strings_are_text),
        cmocka_unit_test(tiny_elements_are_bounded),
        cmocka_unit_test(any_bytes_are_survived),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
