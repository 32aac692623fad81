/* SPDX-License-Identifier: Apache-2.0 */
/* Assets as lines of JSON, and the lines of a stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/asset_json.h"
#include "control/lines.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define ABC   "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define FULL                                                                                 \
    "{\"kind\":\"directory\",\"uri\":\"urn:\\u00E4\\\"\\n\",\"qualifiers\":{"                \
    "\"a\":\"\",\"vcs.branch\":\"main\"},\"digest_function\":\"sha256\",\"digest\":"         \
    "\"" ABC "/3\",\"references_blobs\":[\"" EMPTY "/0\",\"" ABC "/9223372036854775807\"],"  \
    "\"references_directories\":[\"" ABC "/7\"],\"pushed_at\":\"2026-11-23T10:00:00.123Z\"," \
    "\"fetched_at\":\"2026-11-24T00:00:00.000Z\",\"expires_at\":\"2028-02-29T23:59:59.999Z\"}"

/* What every line must have, and room for more members. */
#define LEAST                                                                        \
    "\"kind\":\"blob\",\"uri\":\"urn:a\",\"digest_function\":\"sha256\",\"digest\":" \
    "\"" ABC "/3\""

struct line {
    struct arena arena;
    struct asset_key key;
    struct asset asset;
    struct err err;
    int rc;
};

static void read_bytes(struct line *line, const char *text, size_t length)
{
    arena_init(&line->arena);
    line->rc = asset_json_read(text, length, &line->arena, &line->key, &line->asset, &line->err);
}

static void read_text(struct line *line, const char *text)
{
    read_bytes(line, text, strlen(text));
    if (line->rc != 0)
        fail_msg("%s: %s", text, line->err.msg);
}

static void check_written(const struct line *line, const char *text)
{
    char *written = NULL;
    size_t size;
    struct err err;
    FILE *file = open_memstream(&written, &size);
    assert_non_null(file);
    assert_int_equal(asset_json_write(&line->key, &line->asset, file, &err), 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(written[size - 1], '\n');
    written[size - 1] = '\0';
    assert_string_equal(written, text);
    free(written);
}

static void all_of_an_asset_comes_back(void **state)
{
    struct line line;
    (void)state;
    read_text(&line, FULL);
    assert_int_equal(line.key.kind, ASSET_DIRECTORY);
    assert_int_equal(line.key.function, DIGEST_SHA256);
    assert_string_equal(line.key.uri, "urn:\xc3\xa4\"\n");
    assert_int_equal(line.key.qualifier_count, 2);
    assert_string_equal(line.key.qualifiers[1].name, "vcs.branch");
    assert_string_equal(line.key.qualifiers[1].value, "main");
    assert_int_equal(line.asset.content.size, 3);
    assert_int_equal(line.asset.blob_count, 2);
    assert_true(digest_is_empty(&line.asset.blobs[0]));
    assert_true(line.asset.blobs[1].size == INT64_MAX);
    assert_int_equal(line.asset.directory_count, 1);
    assert_int_equal(line.asset.directories[0].size, 7);
    assert_true(line.asset.pushed_at == INT64_C(1795428000123));
    assert_true(line.asset.fetched_at == INT64_C(1795478400000));
    assert_true(line.asset.expires_at == INT64_C(1835481599999));
    check_written(&line, FULL);
    arena_fini(&line.arena);
}

/* Who looks at an export looks at what clients have sent: it must not steer a terminal. */
static void what_is_written_is_ascii(void **state)
{
    struct line line;
    (void)state;
    read_text(&line,
              "{\"kind\":\"blob\",\"uri\":\"urn:\xc2\x9b\",\"qualifiers\":{\"\xe2\x80\xae\":"
              "\"\xf0\x9f\x98\x80\"},\"digest_function\":\"sha256\",\"digest\":\"" ABC "/3\"}");
    assert_string_equal(line.key.uri, "urn:\xc2\x9b");
    check_written(&line,
                  "{\"kind\":\"blob\",\"uri\":\"urn:\\u009B\",\"qualifiers\":{\"\\u202E\":"
                  "\"\\uD83D\\uDE00\"},\"digest_function\":\"sha256\",\"digest\":\"" ABC "/3\"}");
    arena_fini(&line.arena);
}

static void what_is_empty_is_left_out(void **state)
{
    struct line line;
    (void)state;
    read_text(&line, " { " LEAST ", \"qualifiers\": {}, \"references_blobs\": [] }\r");
    assert_int_equal(line.key.kind, ASSET_BLOB);
    assert_int_equal(line.key.qualifier_count, 0);
    assert_int_equal(line.asset.blob_count + line.asset.directory_count, 0);
    assert_true(line.asset.pushed_at == 0 && line.asset.fetched_at == 0);
    assert_true(line.asset.expires_at == 0);
    check_written(&line, "{" LEAST "}");
    arena_fini(&line.arena);
}

static void every_function_has_its_name(void **state)
{
    static const char *const names[] = {"sha256", "sha1", "sha384", "sha512"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        enum digest_function function = digest_function_by_name(names[i]);
        struct digest digest;
        struct line line;
        struct err err;
        char text[512];
        char name[DIGEST_TEXT_MAX];
        assert_int_equal(digest_compute(function, "abc", 3, &digest, &err), 0);
        (void)snprintf(
            text, sizeof(text),
            "{\"kind\":\"blob\",\"uri\":\"u\",\"digest_function\":\"%s\",\"digest\":\"%s\","
            "\"references_blobs\":[\"%s\"]}",
            names[i], digest_text(&digest, name), name);
        read_text(&line, text);
        assert_true(digest_equal(&line.asset.content, &digest));
        check_written(&line, text);
        arena_fini(&line.arena);
    }
}

static void times_are_those_of_utc(void **state)
{
    static const struct {
        const char *text;
        int64_t at;
        const char *written; /* NULL: the same */
    } cases[] = {
        {"1970-01-01T00:00:00.001Z", 1, NULL},
        {"1970-01-01T00:00:00Z", 1, "1970-01-01T00:00:00.001Z"}, /* 0 is no time at all */
        {"1969-12-31T23:59:59.999Z", -1, NULL},
        {"2000-02-29T12:34:56.7Z", 951827696700, "2000-02-29T12:34:56.700Z"},
        {"2000-02-29T12:34:56.789999999Z", 951827696789, "2000-02-29T12:34:56.789Z"},
        {"0001-01-01T00:00:00.000Z", -62135596800000, NULL},
        {"9999-12-31T23:59:59.999Z", 253402300799999, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct line line;
        char text[512];
        (void)snprintf(text, sizeof(text), "{" LEAST ",\"expires_at\":\"%s\"}", cases[i].text);
        read_text(&line, text);
        assert_true(line.asset.expires_at == cases[i].at);
        (void)snprintf(text, sizeof(text), "{" LEAST ",\"expires_at\":\"%s\"}",
                       cases[i].written != NULL ? cases[i].written : cases[i].text);
        check_written(&line, text);
        arena_fini(&line.arena);
    }
}

/* What a clock that is far off has left in an index can be written, and read again. */
static void times_out_of_bounds_are_written(void **state)
{
    struct line line;
    (void)state;
    read_text(&line, "{" LEAST "}");
    line.asset.pushed_at = INT64_MIN;
    line.asset.fetched_at = INT64_MAX;
    check_written(&line, "{" LEAST ",\"pushed_at\":\"0001-01-01T00:00:00.000Z\",\"fetched_at\":"
                         "\"9999-12-31T23:59:59.999Z\"}");
    arena_fini(&line.arena);
}

static void what_is_wrong_is_refused(void **state)
{
    static const char *const cases[][2] = {
        {"", "no JSON"},
        {"{", "no JSON"},
        {"{" LEAST "} x", "no JSON"},
        {"{" LEAST "}{" LEAST "}", "no JSON"},
        {"[]", "not an object"},
        {"{}", "\"kind\" is missing"},
        {"{" LEAST ",\"uri\":\"urn:b\"}", "duplicate"},
        {"{" LEAST ",\"references_blob\":[]}", "did you mean \"references_blobs\""},
        {"{" LEAST ",\"comment\":\"x\"}", "\"comment\" is not known"},
        {"{" LEAST ",\"qualifiers\":[]}", "not an object of names and values"},
        {"{" LEAST ",\"qualifiers\":{\"a\":\"1\",\"a\":\"1\"}}", "duplicate"},
        {"{" LEAST ",\"qualifiers\":{\"\":\"1\"}}", "name of a qualifier has 0 bytes"},
        {"{" LEAST ",\"qualifiers\":{\"a\":1}}", "qualifiers: \"a\" is not a string"},
        {"{" LEAST ",\"references_blobs\":\"" ABC "/3\"}", "not a list"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/3\",\"" ABC "\"]}",
         "\"references_blobs\" at 1: it is not"},
        {"{" LEAST ",\"references_directories\":[null]}", "\"references_directories\" at 0"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/\"]}", "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/-1\"]}", "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/+1\"]}", "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/ 1\"]}", "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/1x\"]}", "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"" ABC "/9223372036854775808\"]}",
         "no number of bytes"},
        {"{" LEAST ",\"references_blobs\":[\"abc/3\"]}", "3 characters"},
        {"{" LEAST ",\"pushed_at\":1795428000}", "\"pushed_at\" is no time like"},
        {"{" LEAST ",\"pushed_at\":\"\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23T10:00:00\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23T10:00:00.Z\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23T10:00:00.0123456789Z\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23T10:00:00+01:00\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23T10:00:00Zx\"}", "no time"},
        {"{" LEAST ",\"pushed_at\":\"2026-11-23 10:00:00Z\"}", "no time"},
        {"{" LEAST ",\"fetched_at\":\"2026-02-29T10:00:00Z\"}", "\"fetched_at\" is no time"},
        {"{" LEAST ",\"expires_at\":\"2026-13-01T10:00:00Z\"}", "\"expires_at\" is no time"},
        {"{" LEAST ",\"expires_at\":\"2026-12-01T24:00:00Z\"}", "no time"},
        {"{" LEAST ",\"expires_at\":\"2026-12-01T10:60:00Z\"}", "no time"},
        {"{" LEAST ",\"expires_at\":\"2026-12-01T10:00:60Z\"}", "no time"},
        {"{" LEAST ",\"expires_at\":\"0000-12-01T10:00:00Z\"}", "no time"},
        {"{" LEAST ",\"expires_at\":null}", "no time"},
        {"{\"kind\":\"tree\",\"uri\":\"u\",\"digest_function\":\"sha256\",\"digest\":\"x\"}",
         "neither \"blob\" nor"},
        {"{\"kind\":\"blob\",\"uri\":\"\",\"digest_function\":\"sha256\",\"digest\":\"x\"}",
         "\"uri\" has 0 bytes"},
        {"{\"kind\":\"blob\",\"uri\":1,\"digest_function\":\"sha256\",\"digest\":\"x\"}",
         "\"uri\" is not a string"},
        {"{\"kind\":\"blob\",\"uri\":\"\\u0000\",\"digest_function\":\"sha256\",\"digest\":\"x\"}",
         "no JSON"},
        {"{\"kind\":\"blob\",\"uri\":\"\xc3\",\"digest_function\":\"sha256\",\"digest\":\"x\"}",
         "no JSON"},
        {"{\"kind\":\"blob\",\"uri\":\"u\",\"digest_function\":\"md5\",\"digest\":\"x\"}",
         "none of \"sha256\""},
        {"{\"kind\":\"blob\",\"uri\":\"u\",\"digest_function\":\"sha1\",\"digest\":\"" ABC "/3\"}",
         "sha1 has 40"},
        {"{\"kind\":\"blob\",\"uri\":\"u\",\"digest_function\":\"sha256\"}",
         "\"digest\" is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct line line;
        read_bytes(&line, cases[i][0], strlen(cases[i][0]));
        if (line.rc != -ERR_INVALID)
            fail_msg("%s was not refused", cases[i][0]);
        if (strstr(line.err.msg, cases[i][1]) == NULL)
            fail_msg("%s: %s", cases[i][0], line.err.msg);
        arena_fini(&line.arena);
    }
}

static void no_part_of_a_line_is_one(void **state)
{
    static const char full[] = FULL;
    (void)state;
    for (size_t length = 0; length < sizeof(full) - 1; length++) {
        char *exact = malloc(length + 1);
        struct line line;
        assert_non_null(exact);
        memcpy(exact + 1, full, length);
        read_bytes(&line, exact + 1, length);
        assert_int_equal(line.rc, -ERR_INVALID);
        arena_fini(&line.arena);
        free(exact);
    }
}

/* A line of one member that is repeated: LONGEST is accepted, one more is not. */
static void check_bound(const char *before, const char *repeated, const char *between,
                        const char *after, size_t longest)
{
    size_t one = strlen(repeated) + strlen(between);
    char *text = malloc(strlen(before) + (longest + 1) * one + strlen(after) + 1);
    assert_non_null(text);
    for (size_t count = longest; count <= longest + 1; count++) {
        struct line line;
        char *end = stpcpy(text, before);
        for (size_t i = 0; i < count; i++)
            end = stpcpy(stpcpy(end, i > 0 ? between : ""), repeated);
        end = stpcpy(end, after);
        read_bytes(&line, text, (size_t)(end - text));
        assert_int_equal(line.rc, count == longest ? 0 : -ERR_INVALID);
        arena_fini(&line.arena);
    }
    free(text);
}

static void bounds_are_those_of_a_push(void **state)
{
    char before[1024];
    (void)state;
    check_bound("{\"kind\":\"blob\",\"digest_function\":\"sha256\",\"digest\":\"" ABC
                "/3\",\"uri\":\"",
                "\\u0001", "", "\"}", ASSET_URI_LENGTH_MAX);
    check_bound("{" LEAST ",\"qualifiers\":{\"a\":\"", "v", "", "\"}}", ASSET_QUALIFIER_VALUE_MAX);
    check_bound("{" LEAST ",\"qualifiers\":{\"", "n", "", "\":\"\"}}", ASSET_QUALIFIER_NAME_MAX);
    check_bound("{" LEAST ",\"references_blobs\":[", "\"" ABC "/1\"", ",", "]}",
                ASSET_REFERENCES_MAX);
    (void)snprintf(before, sizeof(before), "{" LEAST ",\"references_blobs\":[\"%s\"],%s", ABC "/3",
                   "\"references_directories\":[");
    check_bound(before, "\"" ABC "/1\"", ",", "]}", ASSET_REFERENCES_MAX - 1);
}

static void qualifiers_are_counted(void **state)
{
    (void)state;
    for (int count = ASSET_QUALIFIERS_MAX; count <= ASSET_QUALIFIERS_MAX + 1; count++) {
        char text[4096];
        struct line line;
        int length = snprintf(text, sizeof(text), "{" LEAST ",\"qualifiers\":{");
        for (int i = 0; i < count; i++)
            length += snprintf(text + length, sizeof(text) - (size_t)length, "%s\"q%d\":\"\"",
                               i > 0 ? "," : "", i);
        length += snprintf(text + length, sizeof(text) - (size_t)length, "}}");
        read_bytes(&line, text, (size_t)length);
        assert_int_equal(line.rc, count == ASSET_QUALIFIERS_MAX ? 0 : -ERR_INVALID);
        arena_fini(&line.arena);
    }
}

static void a_file_that_is_full_is_an_error(void **state)
{
    struct line line;
    (void)state;
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    (void)setvbuf(full, NULL, _IONBF, 0);
    read_text(&line, FULL);
    assert_int_equal(asset_json_write(&line.key, &line.asset, full, &line.err), -ERR_EXHAUSTED);
    assert_non_null(strstr(line.err.msg, "No space left"));
    (void)fclose(full);
    arena_fini(&line.arena);
}

/* --- lines --- */

/* A stream that a child writes in pieces of SIZE bytes. */
static int begin_stream(const char *text, size_t length, size_t size, pid_t *child)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    *child = fork();
    assert_true(*child >= 0);
    if (*child == 0) {
        (void)close(fds[0]);
        for (size_t at = 0; at < length; at += size)
            if (write(fds[1], text + at, size < length - at ? size : length - at) < 0)
                break;
        _exit(0);
    }
    (void)close(fds[1]);
    return fds[0];
}

static void check_lines(const char *text, size_t length, size_t piece, const char *const *wanted)
{
    pid_t child;
    struct lines lines = {.fd = begin_stream(text, length, piece, &child), .longest = 10};
    struct span line;
    bool is_there;
    struct err err;
    uint64_t count = 0;
    for (; *wanted != NULL; wanted++) {
        int rc = lines_next(&lines, &line, &is_there, &err);
        assert_true(is_there);
        assert_int_equal(lines.count, ++count);
        if (strcmp(*wanted, "too long") == 0) {
            assert_int_equal(rc, -ERR_INVALID);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(line.size, strlen(*wanted));
        assert_memory_equal(line.data, *wanted, line.size);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(lines_next(&lines, &line, &is_there, &err), 0);
        assert_false(is_there);
    }
    assert_int_equal(lines.bytes, length);
    lines_fini(&lines);
    (void)close(lines.fd);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void lines_come_one_by_one(void **state)
{
    static const struct {
        const char *text;
        const char *lines[6];
    } cases[] = {
        {"", {NULL}},
        {"\n", {"", NULL}},
        {"a", {"a", NULL}},
        {"a\n\nbc\n", {"a", "", "bc", NULL}},
        {"0123456789\n0123456789", {"0123456789", "0123456789", NULL}},
        {"0123456789x\na\n", {"too long", "a", NULL}},
        {"a\n0123456789xxxxxxxxxxxxxxxxxxxxxxx\nb", {"a", "too long", "b", NULL}},
        {"a\n0123456789x", {"a", "too long", NULL}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t piece = 1; piece <= 64; piece = piece * 3 + 1)
            check_lines(cases[i].text, strlen(cases[i].text), piece, cases[i].lines);
}

static void a_line_without_end_takes_no_memory(void **state)
{
    struct lines lines = {.longest = 1 << 20};
    struct span line;
    bool is_there;
    struct err err;
    pid_t child;
    enum { SIZE = 32 << 20 };
    char *text = malloc(SIZE);
    (void)state;
    assert_non_null(text);
    memset(text, 'x', SIZE);
    text[SIZE - 2] = '\n';
    lines.fd = begin_stream(text, SIZE, 1 << 16, &child);
    assert_int_equal(lines_next(&lines, &line, &is_there, &err), -ERR_INVALID);
    assert_true(is_there && lines.capacity < 4 << 20);
    assert_int_equal(lines_next(&lines, &line, &is_there, &err), 0);
    assert_true(is_there && line.size == 1);
    lines_fini(&lines);
    (void)close(lines.fd);
    assert_int_equal(waitpid(child, NULL, 0), child);
    free(text);
}

static void a_stream_that_cannot_be_read_is_an_error(void **state)
{
    struct lines lines = {.fd = -1, .longest = 10};
    struct span line;
    bool is_there;
    struct err err;
    (void)state;
    assert_int_equal(lines_next(&lines, &line, &is_there, &err), -ERR_IO);
    assert_false(is_there);
    lines_fini(&lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_an_asset_comes_back),
        cmocka_unit_test(what_is_written_is_ascii),
        cmocka_unit_test(what_is_empty_is_left_out),
        cmocka_unit_test(every_function_has_its_name),
        cmocka_unit_test(times_are_those_of_utc),
        cmocka_unit_test(times_out_of_bounds_are_written),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(no_part_of_a_line_is_one),
        cmocka_unit_test(bounds_are_those_of_a_push),
        cmocka_unit_test(qualifiers_are_counted),
        cmocka_unit_test(a_file_that_is_full_is_an_error),
        cmocka_unit_test(lines_come_one_by_one),
        cmocka_unit_test(a_line_without_end_takes_no_memory),
        cmocka_unit_test(a_stream_that_cannot_be_read_is_an_error),
    };
    return cmocka_run_group_tests_name("asset_json", tests, NULL, NULL);
}
