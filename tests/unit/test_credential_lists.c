/* SPDX-License-Identifier: Apache-2.0 */
/* authorized.crt and tokens.map, read and edited as text; key pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "credential/authorized.h"
#include "credential/authorized_lines.h"
#include "credential/pair.h"
#include "credential/tokens.h"
#include "scratch.h"

#define BEGIN "-----BEGIN CERTIFICATE-----\n"
#define END   "-----END CERTIFICATE-----\n"

/* The blocks of a text, at most MOST, go to BLOCKS. */
static size_t read_blocks(const char *text, struct block *blocks, size_t most)
{
    struct lines lines;
    size_t count = 0;
    lines_begin(&lines, text, strlen(text));
    while (count < most && lines_block(&lines, &blocks[count]))
        count++;
    return count;
}

static void test_a_mark_holds_for_the_next_block(void **state)
{
    (void)state;
    static const char text[] =
        "words\n# client: one read\r\nmore\n" BEGIN "AA\n" END BEGIN "AA\n" END
        "# client:  two \t\n" BEGIN "AA\n" END "# placeholder: x\n" BEGIN "AA\n" END;
    struct block blocks[8];
    assert_int_equal(read_blocks(text, blocks, 8), 4);
    assert_string_equal(blocks[0].name, "one");
    assert_int_equal(blocks[0].role, ROLE_READ);
    assert_int_equal(blocks[0].line, 4);
    assert_int_equal(blocks[0].begin, strlen("words\n"));
    assert_int_equal(blocks[0].end, blocks[1].begin);
    assert_string_equal(blocks[1].name, "");
    assert_int_equal(blocks[1].pem, blocks[1].begin);
    assert_string_equal(blocks[2].name, "two");
    assert_int_equal(blocks[2].role, ROLE_WRITE);
    assert_true(blocks[3].is_placeholder);
    assert_int_equal(blocks[3].end, strlen(text));
    for (int i = 0; i < 4; i++) {
        assert_null(blocks[i].fault);
        assert_null(blocks[i].name_fault);
    }
}

static void test_broken_blocks_spoil_no_others(void **state)
{
    (void)state;
    static const char *const broken[] = {
        BEGIN "AA\n",
        BEGIN "AA\n-----END CERTIFICATE----------BEGIN CERTIFICATE-----\nAA\n" END,
        "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN TRUSTED CERTIFICATE-----\nAA\n-----END TRUSTED CERTIFICATE-----\n",
        BEGIN "AA\n-----END PRIVATE KEY-----\n",
    };
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        char text[512];
        struct block blocks[8];
        (void)snprintf(text, sizeof(text), "# client: bad\n%s# client: good\n" BEGIN "AA\n" END,
                       broken[i]);
        size_t count = read_blocks(text, blocks, 8);
        assert_in_range(count, 2, 3);
        assert_non_null(blocks[0].fault);
        assert_null(blocks[count - 1].fault);
        assert_string_equal(blocks[count - 1].name, "good");
    }
}

static void test_bad_names_and_roles_are_faults(void **state)
{
    (void)state;
    static const char *const marks[] = {"# client:", "# client: a\"b", "# client: a admin",
                                        "# client: a read write", "# client: caf\xc3\xa9"};
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        char text[256];
        struct block block;
        (void)snprintf(text, sizeof(text), "%s\n" BEGIN "AA\n" END, marks[i]);
        assert_int_equal(read_blocks(text, &block, 1), 1);
        assert_non_null(block.name_fault);
        assert_string_equal(block.name, "");
    }
}

/* Whatever bytes there are, reading ends, within the text. */
static void test_any_text_can_be_read(void **state)
{
    (void)state;
    static const char *const parts[] = {
        BEGIN,  END,         "# client: ", "name",          "\n",    "\r\n",
        "AAAA", "-----END ", "\0",         "# placeholder", " read", "-----BEGIN "};
    enum { PARTS = sizeof(parts) / sizeof(parts[0]) };
    unsigned random = 1;
    for (int round = 0; round < 2000; round++) {
        struct text text = {.bytes = NULL};
        struct lines lines;
        struct block block;
        size_t end = 0;
        for (int i = 0; i < 12; i++) {
            random = random * 1103515245 + 12345;
            const char *part = parts[(random >> 16) % PARTS];
            text_add(&text, part, strlen(part) + (*part == '\0'));
        }
        lines_begin(&lines, text.bytes, text.size);
        while (lines_block(&lines, &block)) {
            assert_true(block.begin >= end);
            assert_true(block.begin <= block.pem);
            assert_true(block.pem < block.end);
            assert_true(block.end <= text.size);
            end = block.end;
        }
        text_fini(&text);
    }
}

static void test_a_pair_belongs_together(void **state)
{
    (void)state;
    static const char *const names[] = {"localhost", "127.0.0.1", "LOCALHOST", "::1"};
    struct text keys[2] = {{.bytes = NULL}}, certificates[2] = {{.bytes = NULL}};
    struct certificate read[2];
    struct err err;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pair_make(PAIR_SERVER, names, 4, 10, &keys[i], &certificates[i], &err), 0);
        assert_int_equal(
            certificate_read(certificates[i].bytes, certificates[i].size, &read[i], &err), 0);
    }
    assert_true(certificate_fits(&certificates[0], &keys[0]));
    assert_false(certificate_fits(&certificates[0], &keys[1]));
    assert_false(certificate_fits(&keys[0], &certificates[0]));
    assert_string_not_equal(read[0].sha256, read[1].sha256);
    assert_string_equal(read[0].names, "localhost,127.0.0.1,::1");
    assert_false(read[0].can_sign);
    assert_true(read[0].has_key_id);
    assert_int_equal(read[0].not_after - read[0].not_before, 10 * 24 * 3600 + 3600);
    for (int i = 0; i < 2; i++) {
        text_fini(&keys[i]);
        text_fini(&certificates[i]);
    }
}

static void test_what_is_no_certificate_is_not_read(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        BEGIN,
        BEGIN "AAAA\n" END,
        BEGIN "?\n" END,
        "\x30\x82",
        /* Nobody is asked for its passphrase. */
        BEGIN "Proc-Type: 4,ENCRYPTED\n"
              "DEK-Info: AES-128-CBC,00000000000000000000000000000000\n"
              "\nAAAA\n" END,
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct certificate certificate;
        struct err err;
        assert_int_equal(certificate_read(texts[i], strlen(texts[i]), &certificate, &err),
                         -ERR_INVALID);
        assert_non_null(strstr(err.msg, "OpenSSL says"));
    }
}

static void test_errors_are_those_of_the_call(void **state)
{
    (void)state;
    static const char *const name = "x";
    struct text failed = {.failed = true}, pem = {.bytes = NULL};
    struct certificate certificate;
    struct err err;
    ERR_raise(ERR_LIB_USER, ERR_R_MALLOC_FAILURE);
    assert_int_equal(certificate_read(BEGIN "?\n" END, strlen(BEGIN "?\n" END), &certificate, &err),
                     -ERR_INVALID);
    assert_int_equal(pair_make(PAIR_CLIENT, &name, 1, 1, &failed, &pem, &err), -ERR_NO_MEMORY);
    assert_null(strstr(err.msg, "OpenSSL"));
    text_fini(&pem);
}

/* How many allocations OpenSSL has until one fails; 0: none does. */
static unsigned countdown;

static void *allocate(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return countdown != 0 && --countdown == 0 ? NULL : malloc(size);
}

static void *reallocate(void *memory, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return countdown != 0 && --countdown == 0 ? NULL : realloc(memory, size);
}

static void release(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    free(memory);
}

static void test_no_client_is_left_out_where_memory_runs_out(void **state)
{
    (void)state;
    static const char *const name = "x";
    struct text key = {.bytes = NULL}, pem = {.bytes = NULL};
    struct err err;
    unsigned at = 0, given_up = 0;
    assert_int_equal(pair_make(PAIR_CLIENT, &name, 1, 1, &key, &pem, &err), 0);
    do {
        struct authorized authorized;
        struct text text = {.bytes = NULL};
        text_add(&text, pem.bytes, pem.size);
        countdown = ++at;
        int rc = authorized_parse(&authorized, &text, &err);
        if (rc != 0)
            assert_true(rc == -ERR_NO_MEMORY || rc == -ERR_INTERNAL);
        else
            assert_int_equal(authorized.clients[0].state, CLIENT_REGISTERED);
        given_up += rc != 0;
        authorized_fini(&authorized);
    } while (countdown == 0);
    countdown = 0;
    assert_true(given_up > 0);
    text_fini(&key);
    text_fini(&pem);
}

/* A list with a certificate for each of the names, one upon the other. */
static void fill(struct authorized *authorized, const char *const *names, size_t count)
{
    struct err err;
    for (size_t i = 0; i < count; i++) {
        struct text key = {.bytes = NULL}, pem = {.bytes = NULL};
        assert_int_equal(pair_make(PAIR_CLIENT, &names[i], 1, 1, &key, &pem, &err), 0);
        assert_int_equal(authorized_add(authorized, names[i], i % 2 == 0 ? ROLE_WRITE : ROLE_READ,
                                        pem.bytes, pem.size, &err),
                         0);
        text_fini(&key);
        text_fini(&pem);
    }
}

static void test_adding_and_removing_keep_the_rest(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "a", "c", "d"};
    struct authorized authorized = {.count = 0};
    struct text before = {.bytes = NULL};
    struct err err;
    size_t count;
    text_print(&authorized.text, "# my own words, without an end");
    fill(&authorized, names, 2);
    text_add(&before, authorized.text.bytes, authorized.text.size);
    fill(&authorized, names + 2, 3);
    assert_int_equal(authorized.count, 5);
    assert_int_equal(authorized_remove(&authorized, "nobody", &count, &err), 0);
    assert_int_equal(count, 0);
    char last[65];
    (void)snprintf(last, sizeof(last), "%s", authorized.clients[4].certificate.sha256);
    assert_int_equal(authorized_remove(&authorized, last, &count, &err), 0);
    assert_int_equal(authorized_remove(&authorized, "c", &count, &err), 0);
    assert_int_equal(
        authorized_remove(&authorized, authorized.clients[2].certificate.sha1, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(authorized.text.size, before.size);
    assert_memory_equal(authorized.text.bytes, before.bytes, before.size);
    assert_int_equal(authorized.count, 2);
    assert_int_equal(authorized.clients[1].role, ROLE_READ);
    text_fini(&before);
    authorized_fini(&authorized);
}

static void test_tokens_are_read_as_they_were_written(void **state)
{
    (void)state;
    struct scratch scratch;
    struct folder folder;
    struct tokens written, read;
    struct err err;
    char longest[IDENTITY_MAX + 1];
    size_t count;
    memset(longest, 'x', IDENTITY_MAX);
    longest[IDENTITY_MAX] = '\0';
    scratch_init(&scratch);
    assert_int_equal(folder_open(&folder, scratch.path, FOLDER_WRITE, &err), 0);
    assert_int_equal(tokens_load(&written, &folder, &err), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(
            tokens_add(&written, i % 3 == 0 ? longest : "ci", ROLE_READ, "2026-01-31", &err), 0);
    assert_int_equal(tokens_store(&written, &folder, &err), 0);
    assert_int_equal(tokens_load(&read, &folder, &err), 0);
    assert_int_equal(read.count, 40);
    for (size_t i = 0; i < 40; i++) {
        assert_string_equal(read.tokens[i].digits, written.tokens[i].digits);
        assert_string_equal(read.tokens[i].hash, written.tokens[i].hash);
        assert_string_equal(read.tokens[i].name, written.tokens[i].name);
        assert_string_equal(read.tokens[i].added, "2026-01-31");
    }
    assert_int_equal(tokens_remove(&read, "ci", &count, &err), 0);
    assert_int_equal(count, 26);
    assert_int_equal(read.count, 14);
    tokens_fini(&written);
    tokens_fini(&read);
    folder_close(&folder);
    scratch_fini(&scratch);
}

/* Each byte of a token's lines is looked at. */
static void test_no_changed_byte_of_a_token_is_taken(void **state)
{
    (void)state;
    struct scratch scratch;
    struct folder folder;
    struct tokens tokens;
    struct err err;
    scratch_init(&scratch);
    assert_int_equal(folder_open(&folder, scratch.path, FOLDER_WRITE, &err), 0);
    assert_int_equal(tokens_load(&tokens, &folder, &err), 0);
    assert_int_equal(tokens_add(&tokens, "ci", ROLE_WRITE, "2026-01-31", &err), 0);
    assert_int_equal(tokens_add(&tokens, "other", ROLE_READ, "2026-01-31", &err), 0);
    const struct token first = tokens.tokens[0];
    /* The mark of a comment, and the last digit of a date, may be another. */
    size_t from = first.begin + strlen("# token: ci write 2026-01-31");
    for (size_t at = from; at < first.end; at++) {
        struct tokens read;
        tokens.text.bytes[at] ^= 1;
        assert_int_equal(tokens_store(&tokens, &folder, &err), 0);
        assert_int_equal(tokens_load(&read, &folder, &err), -ERR_INVALID);
        assert_non_null(strstr(err.msg, "tokens.map:"));
        tokens_fini(&read);
        tokens.text.bytes[at] ^= 1;
    }
    tokens_fini(&tokens);
    folder_close(&folder);
    scratch_fini(&scratch);
}

static void test_the_same_token_twice_is_an_error(void **state)
{
    (void)state;
    struct scratch scratch;
    struct folder folder;
    struct tokens tokens, read;
    struct err err;
    scratch_init(&scratch);
    assert_int_equal(folder_open(&folder, scratch.path, FOLDER_WRITE, &err), 0);
    assert_int_equal(tokens_load(&tokens, &folder, &err), 0);
    assert_int_equal(tokens_add(&tokens, "ci", ROLE_WRITE, "2026-01-31", &err), 0);
    struct text copy = {.bytes = NULL};
    text_add(&copy, tokens.text.bytes + tokens.tokens[0].begin,
             tokens.tokens[0].end - tokens.tokens[0].begin);
    text_add(&tokens.text, copy.bytes, copy.size);
    assert_int_equal(tokens_store(&tokens, &folder, &err), 0);
    assert_int_equal(tokens_load(&read, &folder, &err), -ERR_INVALID);
    assert_non_null(strstr(err.msg, "the same token"));
    text_fini(&copy);
    tokens_fini(&tokens);
    tokens_fini(&read);
    folder_close(&folder);
    scratch_fini(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_mark_holds_for_the_next_block),
        cmocka_unit_test(test_broken_blocks_spoil_no_others),
        cmocka_unit_test(test_bad_names_and_roles_are_faults),
        cmocka_unit_test(test_any_text_can_be_read),
        cmocka_unit_test(test_a_pair_belongs_together),
        cmocka_unit_test(test_what_is_no_certificate_is_not_read),
        cmocka_unit_test(test_errors_are_those_of_the_call),
        cmocka_unit_test(test_no_client_is_left_out_where_memory_runs_out),
        cmocka_unit_test(test_adding_and_removing_keep_the_rest),
        cmocka_unit_test(test_tokens_are_read_as_they_were_written),
        cmocka_unit_test(test_no_changed_byte_of_a_token_is_taken),
        cmocka_unit_test(test_the_same_token_twice_is_an_error),
    };
    if (CRYPTO_set_mem_functions(allocate, reallocate, release) != 1)
        return EXIT_FAILURE;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
