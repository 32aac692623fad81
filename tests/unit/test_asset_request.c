/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds of asset requests, the checksum qualifier, and what of a URI may be logged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/asset_request.h"
#include "store/checksum.h"

/* The empty blob, by two functions. */
#define EMPTY_SHA256 "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
#define EMPTY_SHA512                            \
    "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/" \
    "SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="

static int parse(const char *value, struct checksum *checksum)
{
    struct qualifier qualifiers[] = {{"other", "x"}, {"checksum.sri", value}};
    struct err err;
    return checksum_parse(qualifiers, 2, checksum, &err);
}

static void checksums_are_parsed(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        enum digest_function function;
        size_t count;
    } cases[] = {
        {EMPTY_SHA256, DIGEST_SHA256, 1},
        {"  " EMPTY_SHA256 "?opaque\t" EMPTY_SHA256, DIGEST_SHA256, 2},
        {EMPTY_SHA256 " " EMPTY_SHA512, DIGEST_SHA512, 1},
        {EMPTY_SHA512 " " EMPTY_SHA256 " md5-xyz", DIGEST_SHA512, 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct checksum checksum;
        struct digest empty;
        struct err err;
        assert_int_equal(parse(cases[i].value, &checksum), 0);
        assert_int_equal(checksum.function, cases[i].function);
        assert_int_equal(checksum.count, cases[i].count);
        assert_int_equal(digest_compute(checksum.function, "", 0, &empty, &err), 0);
        assert_true(checksum_matches(&checksum, &empty));
        assert_int_equal(digest_compute(checksum.function, "x", 1, &empty, &err), 0);
        assert_false(checksum_matches(&checksum, &empty));
    }
}

static void unusable_checksums_are_refused(void **state)
{
    (void)state;
    static const char *const values[] = {
        "",
        "md5-1B2M2Y8AsgTpgAmY7PhCfg==",
        "sha256",
        "sha256-",
        "sha256-AAAA",
        "sha384-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUx",
        "sha256-!7DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    };
    struct checksum checksum;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        assert_int_equal(parse(values[i], &checksum), -ERR_INVALID);
    struct err err;
    assert_int_equal(checksum_parse(NULL, 0, &checksum, &err), 0);
    assert_int_equal(checksum.count, 0);
}

static void secrets_of_uris_are_not_logged(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"https://user:secret@host/path", "https://host/path"},
        {"https://user:se@cret@host/path", "https://host/path"},
        {"https://user:p#w@host/path", "https://host/path"},
        {"https://user:pa/ss?w@host/path", "https://host/path"},
        {"//user:secret@host/path", "host/path"},
        {"https:/user:secret@host", "https:/host"},
        {"user:secret@host", "user:host"},
        {"https://host/path?token=secret#x", "https://host/path"},
        {"https://user:secret@host", "https://host"},
        {"urn:fdc:buildstream.build:2020:artifact:p/e/k", "urn:fdc:buildstream.build:2020:artifact:"
                                                          "p/e/k"},
    };
    struct arena arena;
    arena_init(&arena);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(asset_request_loggable(cases[i][0], &arena), cases[i][1]);
    arena_fini(&arena);
}

static void uris_are_bounded(void **state)
{
    (void)state;
    struct err err;
    char *longest = malloc(ASSET_URI_LENGTH_MAX + 2);
    assert_non_null(longest);
    memset(longest, 'u', ASSET_URI_LENGTH_MAX);
    longest[ASSET_URI_LENGTH_MAX] = '\0';
    char *many[ASSET_URIS_MAX + 1];
    for (size_t i = 0; i <= ASSET_URIS_MAX; i++)
        many[i] = longest;
    assert_int_equal(asset_request_uris(many, ASSET_URIS_MAX, &err), 0);
    assert_int_equal(asset_request_uris(many, ASSET_URIS_MAX + 1, &err), -ERR_INVALID);
    assert_int_equal(asset_request_uris(many, 0, &err), -ERR_INVALID);
    strcat(longest, "u");
    assert_int_equal(asset_request_uris(many, 1, &err), -ERR_INVALID);
    many[1] = (char *)"";
    assert_int_equal(asset_request_uris(many + 1, 1, &err), -ERR_INVALID);
    free(longest);
}

static void times_are_checked(void **state)
{
    (void)state;
    static const struct {
        int64_t seconds;
        int32_t nanos;
        int rc;
        int64_t time;
    } cases[] = {
        {0, 0, 0, 1},
        {1700000000, 999999999, 0, 1700000000999},
        {-1, 0, 0, -1000},
        {253402300799, 0, 0, 253402300799000},
        {253402300800, 0, -ERR_INVALID, 0},
        {-62135596801, 0, -ERR_INVALID, 0},
        {INT64_MAX, 0, -ERR_INVALID, 0},
        {0, -1, -ERR_INVALID, 0},
        {0, 1000000000, -ERR_INVALID, 0},
    };
    struct err err;
    int64_t time;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Google__Protobuf__Timestamp message = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
        message.seconds = cases[i].seconds;
        message.nanos = cases[i].nanos;
        assert_int_equal(asset_request_time(&message, "expire_at", &time, &err), cases[i].rc);
        if (cases[i].rc == 0)
            assert_true(time == cases[i].time);
    }
    assert_int_equal(asset_request_time(NULL, "expire_at", &time, &err), 0);
    assert_true(time == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_parsed),
        cmocka_unit_test(unusable_checksums_are_refused),
        cmocka_unit_test(secrets_of_uris_are_not_logged),
        cmocka_unit_test(uris_are_bounded),
        cmocka_unit_test(times_are_checked),
    };
    return cmocka_run_group_tests_name("asset_request", tests, NULL, NULL);
}
