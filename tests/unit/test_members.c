/* SPDX-License-Identifier: Apache-2.0 */
/* Who may log in, by the text of an authorized.crt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "credential/certificate.h"
#include "credential/members.h"
#include "credential/pair.h"

enum { PAIRS = 5 };

/* In the usual form. */
static struct text pairs[PAIRS];

static int make_pairs(void **state)
{
    static const char *const name = "same subject";
    (void)state;
    for (size_t i = 0; i < PAIRS; i++) {
        struct text key = {.bytes = NULL};
        struct err err;
        if (pair_make(PAIR_CLIENT, &name, 1, 2, &key, &pairs[i], &err) != 0)
            fail_msg("%s", err.msg);
        text_fini(&key);
    }
    return 0;
}

static int free_pairs(void **state)
{
    (void)state;
    for (size_t i = 0; i < PAIRS; i++)
        text_fini(&pairs[i]);
    return 0;
}

/* --- texts --- */

static void add(struct text *text, const char *words)
{
    text_add(text, words, strlen(words));
}

static void add_pair(struct text *text, size_t index)
{
    text_add(text, pairs[index].bytes, pairs[index].size);
}

static void parse(struct members *members, struct text *text)
{
    struct err err;
    if (members_parse(members, "FILE", text, &err) != 0)
        fail_msg("%s", err.msg);
    assert_null(text->bytes);
}

/* It cannot be read, and REASON is why. */
static void refuse(struct text *text, const char *reason)
{
    struct members members;
    struct err err;
    assert_int_equal(members_parse(&members, "FILE", text, &err), -ERR_INVALID);
    if (strstr(err.msg, reason) == NULL)
        fail_msg("%s", err.msg);
    members_fini(&members);
}

static const struct member *find(const struct members *members, size_t index)
{
    return members_find(members, pairs[index].bytes, pairs[index].size);
}

static void assert_is(const struct member *member, const char *name, enum role role)
{
    assert_non_null(member);
    assert_string_equal(member->name, name);
    assert_int_equal(member->role, role);
    assert_true(member->not_after > certificate_now());
}

/* --- the tests --- */

static void each_is_found_with_name_and_role(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    struct certificate certificate;
    struct err err;
    char name[32];
    add(&text, "# client: one\n");
    add_pair(&text, 0);
    add(&text, "\nwords\n# client: two read\n");
    add_pair(&text, 1);
    add_pair(&text, 2);
    parse(&members, &text);
    assert_is(find(&members, 0), "one", ROLE_WRITE);
    assert_is(find(&members, 1), "two", ROLE_READ);
    assert_int_equal(certificate_read(pairs[2].bytes, pairs[2].size, &certificate, &err), 0);
    (void)snprintf(name, sizeof(name), "cert-%.16s", certificate.sha1);
    assert_is(find(&members, 2), name, ROLE_WRITE);
    assert_null(find(&members, 3));
    assert_int_equal(members.count, 3);
    assert_int_equal(members.left_out, 0);
    assert_int_equal(members.roots.size, strlen(members.roots.bytes) + 1);
    members_fini(&members);
}

static void a_part_of_one_is_nobody(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add_pair(&text, 0);
    parse(&members, &text);
    for (size_t size = 0; size < pairs[0].size; size++)
        assert_null(members_find(&members, pairs[0].bytes, size));
    add_pair(&text, 0);
    add_pair(&text, 1);
    assert_null(members_find(&members, text.bytes, text.size));
    text_fini(&text);
    members_fini(&members);
}

static void line_ends_and_other_text_do_not_matter(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add(&text, "subject=CN = x\r\n# client: one\r\n");
    for (size_t i = 0; i < pairs[0].size; i++) {
        if (pairs[0].bytes[i] == '\n')
            add(&text, " \r");
        text_add(&text, pairs[0].bytes + i, 1);
    }
    add(&text, "the end");
    parse(&members, &text);
    assert_is(find(&members, 0), "one", ROLE_WRITE);
    assert_memory_equal(members.roots.bytes, pairs[0].bytes, pairs[0].size);
    members_fini(&members);
}

static void the_first_of_copies_counts(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add(&text, "# client: one read\n");
    add_pair(&text, 0);
    add(&text, "# client: two\n");
    add_pair(&text, 0);
    add_pair(&text, 0);
    parse(&members, &text);
    assert_is(find(&members, 0), "one", ROLE_READ);
    assert_int_equal(members.count, 1);
    assert_int_equal(members.left_out, 0);
    assert_int_equal(members.roots.size, pairs[0].size + 1);
    members_fini(&members);
}

static void who_is_left_out_is_told_and_known_to_the_handshake(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add(&text, "# client: a name with blanks\n");
    add_pair(&text, 0);
    add(&text, "# placeholder: for nginx\n");
    add_pair(&text, 1);
    add(&text, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n# client: two\n");
    add_pair(&text, 2);
    parse(&members, &text);
    assert_null(find(&members, 0));
    assert_null(find(&members, 1));
    assert_is(find(&members, 2), "two", ROLE_WRITE);
    assert_int_equal(members.left_out, 2);
    assert_non_null(strstr(members.note, "FILE:2: "));
    assert_non_null(strstr(members.roots.bytes, "-----BEGIN CERTIFICATE-----"));
    assert_int_equal(members.roots.size, pairs[0].size + pairs[1].size + pairs[2].size + 1);
    members_fini(&members);
}

static void a_copy_of_one_who_is_left_out_is_let_in(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add(&text, "# client: a name with blanks\n");
    add_pair(&text, 0);
    add(&text, "# client: one\n");
    add_pair(&text, 0);
    parse(&members, &text);
    assert_is(find(&members, 0), "one", ROLE_WRITE);
    members_fini(&members);
}

static void a_list_of_nobody_is_one(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n", "# nobody\n", " \t# nobody\r\n\r\n  ", "#"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct text text = {.bytes = NULL};
        struct members members;
        add(&text, texts[i]);
        parse(&members, &text);
        assert_int_equal(members.count, 0);
        assert_null(find(&members, 0));
        assert_string_equal(members.roots.bytes, "");
        members_fini(&members);
    }
}

/* Else who was revoked would stay, since another one's name is wrong. */
static void a_list_of_those_who_are_left_out_is_one(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    add(&text, "# client: a name with blanks\n");
    add_pair(&text, 0);
    parse(&members, &text);
    assert_int_equal(members.count, 0);
    assert_int_equal(members.left_out, 1);
    members_fini(&members);
}

static void what_is_no_list_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *reason;
    } cases[] = {
        {"root:x:0:0\n", "FILE holds no certificate"},
        {"# a comment\n<html>\n", "FILE holds no certificate"},
        {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "FILE:1: "},
        {"-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n",
         "FILE:1: "},
        {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "FILE:1: "},
        {"-----BEGIN CERTIFICATE-----\n", "FILE:1: it has no line -----END"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text text = {.bytes = NULL};
        add(&text, cases[i].text);
        refuse(&text, cases[i].reason);
    }
}

/* Wherever `cat >>` has come to. */
static void a_list_that_is_cut_in_a_block_is_refused(void **state)
{
    (void)state;
    static const char first[] = "-----BEGIN CERTIFICATE-----";
    for (size_t size = strlen(first); size < pairs[1].size - 2; size++) {
        struct text text = {.bytes = NULL};
        add_pair(&text, 0);
        text_add(&text, pairs[1].bytes, size);
        refuse(&text, "FILE:");
    }
}

static void many_are_found(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    struct members members;
    for (size_t i = PAIRS; i-- > 1;) {
        char line[32];
        (void)snprintf(line, sizeof(line), "# client: c%zu\n", i);
        add(&text, line);
        add_pair(&text, i);
    }
    parse(&members, &text);
    assert_null(find(&members, 0));
    for (size_t i = 1; i < PAIRS; i++) {
        char name[8];
        (void)snprintf(name, sizeof(name), "c%zu", i);
        assert_is(find(&members, i), name, ROLE_WRITE);
    }
    members_fini(&members);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_found_with_name_and_role),
        cmocka_unit_test(a_part_of_one_is_nobody),
        cmocka_unit_test(line_ends_and_other_text_do_not_matter),
        cmocka_unit_test(the_first_of_copies_counts),
        cmocka_unit_test(who_is_left_out_is_told_and_known_to_the_handshake),
        cmocka_unit_test(a_copy_of_one_who_is_left_out_is_let_in),
        cmocka_unit_test(a_list_of_nobody_is_one),
        cmocka_unit_test(a_list_of_those_who_are_left_out_is_one),
        cmocka_unit_test(what_is_no_list_is_refused),
        cmocka_unit_test(a_list_that_is_cut_in_a_block_is_refused),
        cmocka_unit_test(many_are_found),
    };
    return cmocka_run_group_tests(tests, make_pairs, free_pairs);
}
