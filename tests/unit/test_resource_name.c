/* SPDX-License-Identifier: Apache-2.0 */
/* Resource names of ByteStream: what is taken, what it means, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "service/resource_name.h"

#define SHA1   "da39a3ee5e6b4b0d3255bfef95601890afd80709"
#define SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SHA384 SHA256 "95b0d8f47ab7d5c84c7c8b7d9f2a6c55"
#define UUID   "6f1d3b1c-52c8-4a3e-9c4e-6b0d5f3d2a10"

static const struct conf_instance conf = {
    .name = "",
    .digest_functions = {DIGEST_SHA256, DIGEST_SHA1},
    .digest_function_count = 2,
};
static const struct instance instance = {.conf = &conf};

static int parse_bytes(enum resource_use use, const char *text, size_t size, struct arena *arena,
                       struct resource_name *name, struct digest *digest, struct err *err)
{
    /* Memory of exactly this size, for the sanitizers to see reads behind it. */
    uint8_t *copy = malloc(size != 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    int rc = resource_name_split(use, (struct span){copy, size}, arena, name, err);
    free(copy);
    return rc == 0 ? resource_name_digest(name, &instance, digest, err) : rc;
}

struct taken {
    enum resource_use use;
    const char *text;
    const char *instance;
    enum digest_function function;
    int64_t size;
};

static const struct taken taken[] = {
    {RESOURCE_READ, "blobs/" SHA256 "/0", "", DIGEST_SHA256, 0},
    {RESOURCE_READ, "blobs/" SHA1 "/17", "", DIGEST_SHA1, 17},
    {RESOURCE_READ, "main/blobs/" SHA256 "/17", "main", DIGEST_SHA256, 17},
    {RESOURCE_READ, "team/kernel/blobs/" SHA256 "/17", "team/kernel", DIGEST_SHA256, 17},
    {RESOURCE_READ, "a//b/blobs/" SHA256 "/17", "a//b", DIGEST_SHA256, 17},
    {RESOURCE_READ, "blobsy/blobs/" SHA256 "/17", "blobsy", DIGEST_SHA256, 17},
    {RESOURCE_READ, "blobs/sha256/" SHA256 "/17", "", DIGEST_SHA256, 17},
    {RESOURCE_READ, "blobs/" SHA256 "/9223372036854775807", "", DIGEST_SHA256, INT64_MAX},
    {RESOURCE_WRITE, "uploads/" UUID "/blobs/" SHA256 "/17", "", DIGEST_SHA256, 17},
    {RESOURCE_WRITE, "team/kernel/uploads/" UUID "/blobs/" SHA1 "/17", "team/kernel", DIGEST_SHA1,
     17},
    {RESOURCE_WRITE, "uploads/" UUID "/blobs/" SHA256 "/17/", "", DIGEST_SHA256, 17},
    {RESOURCE_WRITE, "uploads/" UUID "/blobs/" SHA256 "/17/usr/lib/blobs/x", "", DIGEST_SHA256, 17},
    {RESOURCE_WRITE, "uploads/" UUID "/blobs/sha1/" SHA1 "/17/more", "", DIGEST_SHA1, 17},
};

static void test_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        struct arena arena;
        struct resource_name name;
        struct digest digest;
        struct err err = {.msg = ""};
        char hex[2 * DIGEST_HASH_MAX + 1];
        arena_init(&arena);
        int rc = parse_bytes(taken[i].use, taken[i].text, strlen(taken[i].text), &arena, &name,
                             &digest, &err);
        if (rc != 0)
            fail_msg("%s: %s", taken[i].text, err.msg);
        assert_string_equal(name.instance, taken[i].instance);
        assert_int_equal(digest.function, taken[i].function);
        assert_int_equal(digest.size, taken[i].size);
        assert_string_equal(digest_hex(&digest, hex),
                            taken[i].function == DIGEST_SHA1 ? SHA1 : SHA256);
        arena_fini(&arena);
    }
}

struct refused {
    enum resource_use use;
    const char *text;
    const char *reason; /* what the message must say */
};

static const struct refused refused[] = {
    {RESOURCE_READ, "", "is empty"},
    {RESOURCE_READ, "/", "not of the form"},
    {RESOURCE_READ, "main", "not of the form"},
    {RESOURCE_READ, "blobs", "not of the form"},
    {RESOURCE_READ, "/blobs/" SHA256 "/17", "not of the form"},
    {RESOURCE_READ, "blobs/", "not of the form"},
    {RESOURCE_READ, "blobs/" SHA256, "not of the form"},
    {RESOURCE_READ, "blobs/" SHA256 "/", "decimal"},
    {RESOURCE_READ, "blobs//17", "0 characters"},
    {RESOURCE_READ, "blobs/" SHA256 "/17/more", "not of the form"},
    {RESOURCE_READ, "blobs/" SHA256 "/-1", "decimal"},
    {RESOURCE_READ, "blobs/" SHA256 "/+1", "decimal"},
    {RESOURCE_READ, "blobs/" SHA256 "/017", "decimal"},
    {RESOURCE_READ, "blobs/" SHA256 "/1e3", "decimal"},
    {RESOURCE_READ, "blobs/" SHA256 "/9223372036854775808", "decimal"},
    {RESOURCE_READ, "blobs/" SHA256 "/99999999999999999999999", "decimal"},
    {RESOURCE_READ, "blobs/zz/5", "2 characters"},
    {RESOURCE_READ, "blobs/" SHA256 "0/5", "65 characters"},
    {RESOURCE_READ, "blobs/E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/5",
     "lower-case"},
    {RESOURCE_READ, "blobs/" SHA384 "/5", "SHA384 is not served"},
    {RESOURCE_READ, "blobs/sha512/" SHA256 "/5", "SHA512 is not served"},
    {RESOURCE_READ, "blobs/sha1/" SHA256 "/5", "64 characters"},
    {RESOURCE_READ, "blobs/blake3/" SHA256 "/5", "blake3 is not served"},
    {RESOURCE_READ, "blobs/sha256", "not of the form"},
    {RESOURCE_READ, "compressed-blobs/zstd/" SHA256 "/5", "compressed"},
    {RESOURCE_READ, "blobs/" SHA256 "/\xff", "UTF-8"},
    {RESOURCE_READ, "uploads/" UUID "/" SHA256 "/5", "not of the form"},
    {RESOURCE_WRITE, "blobs/" SHA256 "/5", "not of the form"},
    {RESOURCE_WRITE, "uploads", "not of the form"},
    {RESOURCE_WRITE, "uploads/" UUID, "not of the form"},
    {RESOURCE_WRITE, "uploads/" UUID "/blobs", "not of the form"},
    {RESOURCE_WRITE, "uploads//blobs/" SHA256 "/5", "not of the form"},
    {RESOURCE_WRITE, "uploads/a/b/blobs/" SHA256 "/5", "not of the form"},
    {RESOURCE_WRITE, "uploads/blobs/" SHA256 "/5", "not of the form"},
    {RESOURCE_WRITE, "uploads/" UUID "/compressed-blobs/zstd/" SHA256 "/5", "compressed"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct arena arena;
        struct resource_name name;
        struct digest digest;
        struct err err = {.msg = ""};
        arena_init(&arena);
        int rc = parse_bytes(refused[i].use, refused[i].text, strlen(refused[i].text), &arena,
                             &name, &digest, &err);
        if (rc != -ERR_INVALID || strstr(err.msg, refused[i].reason) == NULL)
            fail_msg("%s: %d, %s", refused[i].text, rc, err.msg);
        arena_fini(&arena);
    }
}

/* The instance is known before the rest is looked at, so that an unknown one is told first. */
static void test_instance_before_digest(void **state)
{
    (void)state;
    static const char text[] = "other/blobs/nonsense";
    struct arena arena;
    struct resource_name name;
    struct err err;
    arena_init(&arena);
    struct span span = {(const uint8_t *)text, sizeof(text) - 1};
    assert_int_equal(resource_name_split(RESOURCE_READ, span, &arena, &name, &err), 0);
    assert_string_equal(name.instance, "other");
    arena_fini(&arena);
}

static void test_nul_and_length(void **state)
{
    (void)state;
    static char text[RESOURCE_NAME_MAX + 1];
    static const char start[] = "uploads/" UUID "/blobs/" SHA256 "/17/";
    struct arena arena;
    struct resource_name name;
    struct digest digest;
    struct err err;
    arena_init(&arena);
    memset(text, 'x', sizeof(text));
    memcpy(text, start, sizeof(start) - 1);
    assert_int_equal(
        parse_bytes(RESOURCE_WRITE, text, RESOURCE_NAME_MAX, &arena, &name, &digest, &err), 0);
    assert_int_equal(
        parse_bytes(RESOURCE_WRITE, text, RESOURCE_NAME_MAX + 1, &arena, &name, &digest, &err),
        -ERR_INVALID);
    text[RESOURCE_NAME_MAX - 1] = '\0';
    assert_int_equal(
        parse_bytes(RESOURCE_WRITE, text, RESOURCE_NAME_MAX, &arena, &name, &digest, &err),
        -ERR_INVALID);
    arena_fini(&arena);
}

/* Names with a byte or two changed, or cut short: taken or refused with a reason, never worse. */
static void test_mutations(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (size_t round = 0; round < 20000; round++) {
        const struct taken *from = &taken[round % (sizeof(taken) / sizeof(taken[0]))];
        static const char bytes[] = "/-+0a9zA.\xc3\xa9\xff";
        char text[256];
        size_t size = strlen(from->text);
        memcpy(text, from->text, size);
        for (unsigned change = 0; change < 2; change++) {
            random = random * 1664525 + 1013904223;
            text[(random >> 16) % size] = bytes[(random >> 8) % sizeof(bytes)];
        }
        if (round % 3 == 0)
            size = (random >> 12) % size;
        struct arena arena;
        struct resource_name name;
        struct digest digest;
        struct err err = {.msg = ""};
        arena_init(&arena);
        int rc = parse_bytes(from->use, text, size, &arena, &name, &digest, &err);
        if (rc == 0)
            assert_true(digest.size >= 0);
        else
            assert_true(rc == -ERR_INVALID && err.msg[0] != '\0');
        arena_fini(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nul_and_length),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_instance_before_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
