/* SPDX-License-Identifier: Apache-2.0 */
/* What all else stands on: errors, arena, log, digests, UTF-8, the wire format, threads. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/user.h"
#include "base/utf8.h"
#include "base/wire.h"

/* --- errors --- */

static void errors_are_wrapped_outward(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(err_set(&err, ERR_NOT_FOUND, "no %s", "bread"), -ERR_NOT_FOUND);
    assert_int_equal(err_wrap(&err, "shop %d", 7), -ERR_NOT_FOUND);
    assert_string_equal(err.msg, "shop 7: no bread");
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void errno_becomes_a_code(void **state)
{
    (void)state;
    static const struct {
        int errnum;
        enum err_code code;
        int grpc;
    } cases[] = {
        {ENOSPC, ERR_EXHAUSTED, 8},  {EDQUOT, ERR_EXHAUSTED, 8}, {ENOENT, ERR_NOT_FOUND, 5},
        {ENOMEM, ERR_NO_MEMORY, 14}, {EIO, ERR_IO, 14},          {EACCES, ERR_DENIED, 7},
    };
    struct err err;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        (void)err_errno(&err, cases[i].errnum, "write");
        assert_int_equal(err.code, cases[i].code);
        assert_int_equal(err_grpc_status(err.code), cases[i].grpc);
    }
    assert_string_equal(err.msg, "write: Permission denied");
}

static void a_server_that_is_away_is_unavailable_to_clients(void **state)
{
    (void)state;
    assert_int_equal(err_grpc_status(ERR_AWAY), err_grpc_status(ERR_UNAVAILABLE));
    assert_string_equal(err_name(ERR_AWAY), "away");
}

static void long_messages_are_cut(void **state)
{
    (void)state;
    struct err err;
    char text[2 * ERR_MESSAGE_SIZE];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    (void)err_set(&err, ERR_IO, "%s", text);
    (void)err_wrap(&err, "outer");
    assert_int_equal(strlen(err.msg), ERR_MESSAGE_SIZE - 1);
    assert_memory_equal(err.msg, "outer: xxx", 10);
}

static void what_to_do_goes_behind(void **state)
{
    (void)state;
    struct err err;
    char text[ERR_MESSAGE_SIZE - 2];
    (void)err_errno(&err, EACCES, "open %s", "file");
    assert_int_equal(err_append(&err, "; may %s read it?", "user a"), -ERR_DENIED);
    assert_string_equal(err.msg, "open file: Permission denied; may user a read it?");
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    (void)err_set(&err, ERR_IO, "%s", text);
    (void)err_append(&err, "\xe2\x82\xac");
    assert_true(utf8_is_text((const uint8_t *)err.msg, strlen(err.msg)));
    (void)err_append(&err, "%s%s", text, text);
    assert_int_equal(strlen(err.msg), ERR_MESSAGE_SIZE - 1);
}

/* --- users --- */

static void users_have_names_or_numbers(void **state)
{
    (void)state;
    char text[USER_TEXT_SIZE];
    assert_string_equal(user_text(0, text), "user root");
    assert_string_equal(user_text(4000000001, text), "user 4000000001");
}

/* A client that is strict about UTF-8 could not read the answer otherwise. */
static void messages_are_valid_utf8(void **state)
{
    (void)state;
    struct err err;
    (void)err_set(&err, ERR_INVALID, "%.4s|%s|%s", "abc\xc3\xa9", "\xff", "\xe2\x82\xac");
    assert_string_equal(err.msg, "abc?|?|\xe2\x82\xac");
    for (size_t length = ERR_MESSAGE_SIZE - 4; length < ERR_MESSAGE_SIZE + 4; length++) {
        char text[2 * ERR_MESSAGE_SIZE];
        memset(text, 'x', length);
        memcpy(text + length, "\xe2\x82\xac", 4);
        (void)err_set(&err, ERR_INVALID, "%s", text);
        assert_true(utf8_is_text((const uint8_t *)err.msg, strlen(err.msg)));
        (void)err_wrap(&err, "o");
        assert_true(utf8_is_text((const uint8_t *)err.msg, strlen(err.msg)));
    }
}

/* --- arena --- */

static void arena_gives_aligned_memory_apart(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena);
    uint8_t *previous = NULL;
    for (size_t i = 1; i < 3000; i++) {
        uint8_t *memory = arena_alloc(&arena, i);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % _Alignof(max_align_t), 0);
        memset(memory, (int)(i & 0xff), i);
        if (previous != NULL)
            assert_int_equal(previous[i - 2], (i - 1) & 0xff);
        previous = memory;
    }
    assert_string_equal(arena_printf(&arena, "%s-%d", "a", 5), "a-5");
    assert_null(arena_calloc(&arena, SIZE_MAX / 2, 3));
    assert_null(arena_alloc(&arena, SIZE_MAX - 3));
    arena_reset(&arena);
    assert_string_equal(arena_strdup(&arena, "again"), "again");
    arena_fini(&arena);
}

/* --- log --- */

static void log_lines_cannot_be_forged(void **state)
{
    (void)state;
    int ends[2];
    char text[4096];
    assert_int_equal(pipe(ends), 0);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    log_set_level(LOG_LEVEL_INFO);
    log_trace("dropped", log_str("key", "value"));
    log_info("event", log_str("plain", "a/b"), log_str("evil", "x\nlevel=error \"y\"\\"),
             log_str("empty", ""), log_num("number", -5));
    char longer[2000];
    memset(longer, 'u', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    log_info("more", log_str("long", longer),
             log_str("c1", "a\xc2\x9b"
                           "b"),
             log_str("line", "\xe2\x80\xa8"), log_str("bidi", "\xe2\x80\xae"),
             log_str("name", "\xc3\xa9"), log_str("last", "there"));
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    (void)close(ends[1]);
    ssize_t size = read(ends[0], text, sizeof(text) - 1);
    (void)close(ends[0]);
    assert_true(size > 0);
    text[size] = '\0';
    assert_non_null(strstr(text, "level=info event=event plain=a/b "
                                 "evil=\"x\\nlevel=error \\\"y\\\"\\\\\" empty=\"\" number=-5\n"));
    assert_null(strstr(text, "dropped"));
    assert_non_null(strstr(text, "uuu...\" c1=\"a\\xc2\\x9bb\" line=\"\\xe2\\x80\\xa8\" "
                                 "bidi=\"\\xe2\\x80\\xae\" name=\xc3\xa9 last=there\n"));
    size_t lines = 0;
    for (ssize_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    assert_int_equal(lines, 2);
}

/* --- digests --- */

static void digests_of_known_content(void **state)
{
    (void)state;
    /* FIPS 180-4 example values for "abc". */
    static const struct {
        const char *name;
        const char *hash;
    } cases[] = {
        {"sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {"sha384", "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
                   "8086072ba1e7cc2358baeca134c825a7"},
        {"sha512", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                   "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
    };
    struct err err;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum digest_function function = digest_function_by_name(cases[i].name);
        struct digest computed, parsed, empty;
        char hex[2 * DIGEST_HASH_MAX + 1], text[DIGEST_TEXT_MAX];
        assert_int_equal(digest_compute(function, "abc", 3, &computed, &err), 0);
        assert_string_equal(digest_hex(&computed, hex), cases[i].hash);
        assert_int_equal(
            digest_parse(function, cases[i].hash, strlen(cases[i].hash), 3, &parsed, &err), 0);
        assert_true(digest_equal(&computed, &parsed));
        assert_int_equal(digest_function_by_size(strlen(cases[i].hash) / 2), function);
        assert_non_null(strstr(digest_text(&parsed, text), "/3"));
        parsed.size = 4;
        assert_false(digest_equal(&computed, &parsed));
        assert_int_equal(digest_compute(function, "", 0, &empty, &err), 0);
        assert_true(digest_is_empty(&empty));
        assert_false(digest_is_empty(&computed));
        computed.size = 0;
        assert_false(digest_is_empty(&computed));
    }
}

static void malformed_digests_are_refused(void **state)
{
    (void)state;
    static const char good[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    struct digest digest;
    struct err err;
    char upper[] = "BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_int_equal(digest_parse(DIGEST_SHA256, good, 64, -1, &digest, &err), -ERR_INVALID);
    assert_int_equal(digest_parse(DIGEST_SHA256, good, 63, 1, &digest, &err), -ERR_INVALID);
    assert_int_equal(digest_parse(DIGEST_SHA1, good, 64, 1, &digest, &err), -ERR_INVALID);
    assert_int_equal(digest_parse(DIGEST_UNKNOWN, good, 64, 1, &digest, &err), -ERR_INVALID);
    assert_int_equal(digest_parse(DIGEST_SHA256, upper, 64, 1, &digest, &err), -ERR_INVALID);
    assert_int_equal(digest_parse(DIGEST_SHA256, "zz", 2, 1, &digest, &err), -ERR_INVALID);
    /* Each character, as the upper and the lower half of the first and the last byte. */
    for (int c = 0; c < 256; c++) {
        bool is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
        for (size_t i = 0; i < 4; i++) {
            static const size_t positions[] = {0, 1, 62, 63};
            char text[65], hex[2 * DIGEST_HASH_MAX + 1];
            memcpy(text, good, sizeof(text));
            text[positions[i]] = (char)c;
            int rc = digest_parse(DIGEST_SHA256, text, 64, 1, &digest, &err);
            assert_int_equal(rc, is_digit ? 0 : -ERR_INVALID);
            if (is_digit)
                assert_string_equal(digest_hex(&digest, hex), text);
        }
    }
}

/* --- UTF-8 --- */

static void utf8_is_told_from_other_bytes(void **state)
{
    (void)state;
    static const char *const good[] = {"",
                                       "urn:x",
                                       "\xc3\xa9",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x8d\x9e",
                                       "\xf4\x8f\xbf\xbf",
                                       "\xed\x9f\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc3",
                                      "\xc0\xaf",
                                      "\xc1\xbf",
                                      "\xe0\x80\xaf",
                                      "\xed\xa0\x80",
                                      "\xf0\x80\x80\xaf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "a\xe2\x82",
                                      "\xe2\x28\xa1"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(utf8_is_text((const uint8_t *)good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(utf8_is_text((const uint8_t *)bad[i], strlen(bad[i])));
    assert_false(utf8_is_text((const uint8_t *)"uri\0evil", 8));
}

/* Eight bytes may be looked at together: one that is wrong among them counts wherever it is. */
static void utf8_is_looked_at_byte_by_byte(void **state)
{
    enum { SIZE = 27 };
    static const uint8_t wrong[] = {0, 0x80, 0xc3, 0xff};
    uint8_t text[SIZE];
    (void)state;
    for (size_t size = 0; size <= SIZE; size++) {
        memset(text, 0x7f, sizeof(text));
        assert_true(utf8_is_text(text, size));
        for (size_t at = 0; at < size; at++) {
            for (size_t i = 0; i < sizeof(wrong); i++) {
                text[at] = wrong[i];
                assert_false(utf8_is_text(text, size));
            }
            text[at] = 1;
            assert_true(utf8_is_text(text, size));
        }
        for (size_t at = 0; at + 1 < size; at++) {
            memset(text, 'a', sizeof(text));
            memcpy(text + at, "\xc3\xa9", 2);
            assert_true(utf8_is_text(text, size));
        }
    }
}

static void utf8_is_cut_between_characters(void **state)
{
    (void)state;
    static const char text[] = "a\xc3\xa9\xe2\x82\xac";
    static const size_t lengths[] = {0, 1, 1, 3, 3, 3, 6, 6};
    for (size_t most = 0; most < sizeof(lengths) / sizeof(lengths[0]); most++)
        assert_int_equal(utf8_cut(text, most), lengths[most]);
}

/* --- wire format --- */

static void wire_fields_are_read(void **state)
{
    (void)state;
    static const uint8_t message[] = {
        0x08, 0x96, 0x01,                                     /* 1: varint 150 */
        0x12, 0x02, 'h',  'i',                                /* 2: "hi" */
        0x1d, 0x01, 0x00, 0x00, 0x00,                         /* 3: fixed32 1 */
        0x21, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* 4: fixed64 2 */
    };
    struct wire_reader reader = {.message = {message, sizeof(message)}};
    struct wire_field field;
    assert_true(wire_next(&reader, &field));
    assert_int_equal(field.number, 1);
    assert_int_equal(field.value, 150);
    assert_true(wire_next(&reader, &field));
    assert_int_equal(field.bytes.size, 2);
    assert_memory_equal(field.bytes.data, "hi", 2);
    assert_true(wire_next(&reader, &field));
    assert_int_equal(field.value, 1);
    assert_true(wire_next(&reader, &field));
    assert_int_equal(field.value, 2);
    assert_false(wire_next(&reader, &field));
    assert_false(reader.malformed);
    /* Cut anywhere inside a field, it is malformed. */
    for (size_t size = 1; size < sizeof(message); size++) {
        bool at_boundary = size == 3 || size == 7 || size == 12;
        reader = (struct wire_reader){.message = {message, size}};
        while (wire_next(&reader, &field))
            continue;
        assert_int_equal(reader.malformed, !at_boundary);
    }
}

static void wire_nonsense_is_malformed(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[12];
        size_t size;
    } cases[] = {
        {{0x00, 0x00}, 2},                                                     /* field 0 */
        {{0x0b}, 1},                                                           /* group */
        {{0x0f, 0x00}, 2},                                                     /* wire type 7 */
        {{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 11}, /* huge length */
        {{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 11},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct wire_reader reader = {.message = {cases[i].bytes, cases[i].size}};
        struct wire_field field;
        assert_false(wire_next(&reader, &field));
        assert_true(reader.malformed);
    }
}

static void varints_come_back(void **state)
{
    (void)state;
    for (unsigned shift = 0; shift < 64; shift++) {
        uint64_t value = (UINT64_C(1) << shift) + 5;
        uint8_t message[11] = {0x08};
        size_t size = wire_put_varint(message + 1, value);
        assert_int_equal(size, wire_varint_size(value));
        struct wire_reader reader = {.message = {message, size + 1}};
        struct wire_field field;
        assert_true(wire_next(&reader, &field));
        assert_true(field.value == value);
    }
}

/* --- threads --- */

struct counted {
    struct job job;
    atomic_int *count;
};

static void count_up(struct job *job)
{
    struct counted *counted = (struct counted *)(void *)job;
    (void)atomic_fetch_add(counted->count, 1);
}

static void pool_runs_every_job(void **state)
{
    (void)state;
    enum { JOBS = 1000 };
    static struct counted jobs[JOBS];
    atomic_int count = 0;
    struct pool *pool;
    struct err err;
    assert_int_equal(pool_new("test", 4, &pool, &err), 0);
    for (size_t i = 0; i < JOBS; i++) {
        jobs[i] = (struct counted){.job = {.run = count_up}, .count = &count};
        pool_submit(pool, &jobs[i].job);
    }
    pool_free(pool);
    assert_int_equal(atomic_load(&count), JOBS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_wrapped_outward),
        cmocka_unit_test(errno_becomes_a_code),
        cmocka_unit_test(a_server_that_is_away_is_unavailable_to_clients),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(messages_are_valid_utf8),
        cmocka_unit_test(arena_gives_aligned_memory_apart),
        cmocka_unit_test(what_to_do_goes_behind),
        cmocka_unit_test(users_have_names_or_numbers),
        cmocka_unit_test(log_lines_cannot_be_forged),
        cmocka_unit_test(digests_of_known_content),
        cmocka_unit_test(malformed_digests_are_refused),
        cmocka_unit_test(utf8_is_told_from_other_bytes),
        cmocka_unit_test(utf8_is_looked_at_byte_by_byte),
        cmocka_unit_test(utf8_is_cut_between_characters),
        cmocka_unit_test(wire_fields_are_read),
        cmocka_unit_test(wire_nonsense_is_malformed),
        cmocka_unit_test(varints_come_back),
        cmocka_unit_test(pool_runs_every_job),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
