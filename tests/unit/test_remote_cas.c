/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of checks, who shares them, and how they are cancelled. */
#include "remote_site.h"

/* --- what is remembered --- */

static void test_what_was_found_whole_is_trusted_for_a_while(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct digest other = put_directory(100, 3);
    struct remote_cas_stats stats;
    struct asked asked;
    assert_false(trusts(&root, true));
    start(&asked, &root, true, false);
    atomic_fetch_add(&fake_time, TRUST - 1);
    assert_false(trusts(&root, true));
    fake_answer_all();
    assert_told(&asked, ERR_OK);
    assert_true(trusts(&root, true));
    assert_false(trusts(&other, true));
    /* A check that comes in the moment after the question is answered as well. */
    start(&asked, &root, true, false);
    assert_told(&asked, ERR_OK);
    remote_cas_stats(cas, &stats);
    assert_int_equal(stats.remembered, 2);
    assert_int_equal(stats.whole, 1);
    /* It counts from the begin of the check. */
    atomic_fetch_add(&fake_time, 1);
    assert_false(trusts(&root, true));
    assert_int_equal(fake_calls(FAKE_FIND), 1);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), 2);
    assert_true(trusts(&root, true));
    atomic_fetch_add(&fake_time, TRUST - 1);
    assert_true(trusts(&root, true));
}

static void test_nothing_is_trusted_where_trust_is_none(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    reopen(0);
    for (size_t i = 1; i < 4; i++) {
        assert_int_equal(check_tree(&root).code, ERR_OK);
        assert_false(trusts(&root, true));
        assert_int_equal(fake_calls(FAKE_FIND), i);
    }
}

static void test_bad_news_ends_the_trust(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct digest file = digest_of(1, 100);
    struct asked asked;
    assert_int_equal(check_tree(&root).code, ERR_OK);
    fake_remove(&file);
    assert_true(trusts(&root, true));
    start(&asked, &root, true, true);
    fake_answer_all();
    assert_told(&asked, ERR_PRECONDITION);
    assert_false(trusts(&root, true));
    /* No news do not. */
    fake_put(&file, NULL);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    fake_fail_next(1);
    start(&asked, &root, true, true);
    fake_answer_all();
    assert_told(&asked, ERR_UNAVAILABLE);
    assert_true(trusts(&root, true));
}

/* It may have come back with less than it had. */
static void test_what_was_found_before_the_cas_was_lost_is_asked_anew(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_true(trusts(&root, true));
    atomic_fetch_add(&fake_time, 1);
    fake_lose();
    assert_false(trusts(&root, true));
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_true(trusts(&root, true));
    assert_int_equal(fake_calls(FAKE_FIND), 2);
}

/* --- sharing --- */

static void test_a_check_under_way_is_shared(void **state)
{
    enum { LATE = 5 };
    (void)state;
    struct digest root = put_directory(1, 3);
    struct asked first, late[LATE];
    struct remote_cas_stats stats;
    start(&first, &root, true, false);
    for (size_t i = 0; i < LATE; i++)
        start(&late[i], &root, true, false);
    fake_answer_all();
    assert_told(&first, ERR_OK);
    for (size_t i = 0; i < LATE; i++)
        assert_told(&late[i], ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), 1);
    remote_cas_stats(cas, &stats);
    assert_int_equal(stats.whole, 1);
    assert_int_equal(stats.remembered, 0);
    assert_int_equal(stats.calls, 3); /* capabilities, read, find */
}

static void test_who_comes_late_has_bad_news_asked_anew_together(void **state)
{
    enum { LATE = 5 };
    (void)state;
    struct digest root = put_directory(1, 3);
    struct digest file = digest_of(1, 100);
    struct asked first, second, late[LATE], later;
    fake_remove(&file);
    start(&first, &root, true, false);
    assert_true(fake_answer_one()); /* the read */
    for (size_t i = 0; i < LATE; i++)
        start(&late[i], &root, true, false);
    start(&second, &root, true, true);
    assert_int_equal(fake_waiting(), 2);
    assert_true(fake_answer_one());
    assert_told(&first, ERR_PRECONDITION);
    assert_int_equal(first.check.missing.count, 1);
    /* The fresh one has its own; the late ones have begun one together. */
    assert_waits(&second);
    assert_int_equal(fake_waiting(), 2);
    fake_put(&file, NULL);
    start(&later, &root, true, false);
    assert_int_equal(fake_waiting(), 2);
    fake_answer_all();
    assert_told(&second, ERR_OK);
    for (size_t i = 0; i < LATE; i++)
        assert_told(&late[i], ERR_OK);
    assert_told(&later, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), 3);
}

static void test_who_came_late_is_told_bad_news_by_the_second_check(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct digest file = digest_of(1, 100);
    struct asked first, late, later;
    fake_remove(&file);
    start(&first, &root, true, false);
    start(&late, &root, true, false);
    assert_true(fake_answer_one());
    assert_true(fake_answer_one());
    assert_told(&first, ERR_PRECONDITION);
    assert_waits(&late);
    start(&later, &root, true, false);
    fake_fail_next(1);
    assert_true(fake_answer_one());
    assert_told(&late, ERR_PRECONDITION);
    assert_waits(&later);
    fake_answer_all();
    assert_told(&later, ERR_UNAVAILABLE);
    assert_int_equal(fake_calls(FAKE_FIND), 3);
}

static void test_who_comes_late_is_told_at_once_that_the_cas_cannot_be_asked(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct asked first, late;
    start(&first, &root, true, false);
    fake_fail_next(1);
    assert_true(fake_answer_one()); /* the read */
    start(&late, &root, true, false);
    assert_true(fake_answer_one());
    assert_told(&first, ERR_UNAVAILABLE);
    assert_told(&late, ERR_UNAVAILABLE);
    assert_int_equal(fake_waiting(), 0);
}

static void test_a_fresh_check_shares_nothing_but_its_result(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct asked first, second, third;
    start(&first, &root, true, true);
    start(&second, &root, true, true);
    fake_answer_all();
    assert_told(&first, ERR_OK);
    assert_told(&second, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), 2);
    assert_true(trusts(&root, true));
    start(&first, &root, true, true);
    assert_waits(&first);
    /* Another may share it. */
    start(&third, &root, true, false);
    assert_waits(&third);
    fake_answer_all();
    assert_told(&first, ERR_OK);
    assert_told(&third, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), 3);
}

/* --- the queue --- */

static void test_checks_begin_in_order_some_at_a_time(void **state)
{
    enum { COUNT = REMOTE_CHECKS_MAX + 3 };
    (void)state;
    struct asked asked[COUNT], same;
    for (size_t i = 0; i < COUNT; i++) {
        struct digest file = put_file(i);
        start(&asked[i], &file, false, false);
    }
    assert_int_equal(fake_waiting(), REMOTE_CHECKS_MAX);
    /* One that has not begun is shared as well, and who comes is not late. */
    struct digest last = digest_of(COUNT - 1, 100);
    fake_remove(&last);
    start(&same, &last, false, false);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(fake_calls(FAKE_FIND),
                         REMOTE_CHECKS_MAX + i < COUNT ? REMOTE_CHECKS_MAX + i : COUNT);
        assert_true(fake_answer_one());
        assert_told(&asked[i], i == COUNT - 1 ? ERR_PRECONDITION : ERR_OK);
    }
    assert_told(&same, ERR_PRECONDITION);
    assert_int_equal(fake_waiting(), 0);
}

/* --- cancelling --- */

static void test_a_check_is_cancelled_at_any_time(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct asked before, first, second, after;
    /* Before it starts. */
    prepare(&before, &before.list, 1);
    before.digest = root;
    before.list = (struct tree_list){&before.digest, 1, true};
    cancel(&before);
    assert_waits(&before);
    remote_check_start(&before.check);
    assert_told(&before, ERR_CANCELLED);
    assert_int_equal(fake_calls(FAKE_READ), 0);
    /* While it is under way, which it stays: for others, or to be remembered. */
    start(&first, &root, true, false);
    start(&second, &root, true, false);
    cancel(&first);
    assert_told(&first, ERR_CANCELLED);
    assert_waits(&second);
    cancel(&second);
    assert_told(&second, ERR_CANCELLED);
    memset(&first, 0xAA, sizeof(first));
    memset(&second, 0xAA, sizeof(second));
    fake_answer_all();
    assert_true(trusts(&root, true));
    /* When it has been told, which is once. */
    start(&after, &root, true, true);
    fake_answer_all();
    assert_told(&after, ERR_OK);
    cancel(&after);
    assert_told(&after, ERR_OK);
}

static void test_a_check_that_has_not_begun_is_dropped_with_its_last_user(void **state)
{
    (void)state;
    struct asked begun[REMOTE_CHECKS_MAX], one, other, kept;
    struct digest file = put_file(1000);
    struct digest last = put_file(1001);
    for (size_t i = 0; i < REMOTE_CHECKS_MAX; i++) {
        struct digest digest = put_file(i);
        start(&begun[i], &digest, false, false);
    }
    start(&one, &file, false, false);
    start(&other, &file, false, false);
    start(&kept, &last, false, false);
    cancel(&one);
    /* Its lists may be gone, and those of the other are as good. */
    memset(&one, 0xAA, sizeof(one));
    cancel(&other);
    assert_told(&other, ERR_CANCELLED);
    fake_answer_all();
    assert_told(&kept, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), REMOTE_CHECKS_MAX + 1);
    assert_int_equal(fake_asked(&file), 0);
    /* Where one of them stays it is made. */
    for (size_t i = 0; i < REMOTE_CHECKS_MAX; i++)
        start(&begun[i], &begun[i].digest, false, true);
    start(&one, &file, false, false);
    start(&other, &file, false, false);
    cancel(&one);
    memset(&one, 0xAA, sizeof(one));
    fake_answer_all();
    assert_told(&other, ERR_OK);
    assert_int_equal(fake_asked(&file), 1);
}

/* Each level of a tree takes a call: a few who leave at once could keep everyone waiting. */
static void test_a_check_that_nobody_waits_for_ends_soon(void **state)
{
    enum { DEPTH = 4 * REMOTE_WALK_UNWANTED_TURNS };
    (void)state;
    struct digest root = put_chain(1, DEPTH, 1);
    struct asked left[REMOTE_CHECKS_MAX], other, late;
    struct digest file = put_file(10000);
    for (size_t i = 0; i < REMOTE_CHECKS_MAX; i++)
        start(&left[i], &root, true, true);
    start(&other, &file, false, false);
    for (size_t i = 0; i < REMOTE_CHECKS_MAX; i++)
        cancel(&left[i]);
    assert_waits(&other);
    fake_answer_all();
    assert_told(&other, ERR_OK);
    assert_true(fake_calls(FAKE_READ) <= (REMOTE_WALK_UNWANTED_TURNS + 1) * REMOTE_CHECKS_MAX);
    assert_false(trusts(&root, true));
    /* Who comes meanwhile has it go on, or made once more. */
    start(&left[0], &root, true, true);
    cancel(&left[0]);
    assert_true(fake_answer_one());
    start(&late, &root, true, false);
    fake_answer_all();
    assert_told(&late, ERR_OK);
    assert_true(trusts(&root, true));
}

/* A tree of so many directories as there may be takes memory, and a push that names it none. */
static void test_large_trees_at_the_same_time_are_bounded(void **state)
{
    enum { PARTS = 40, EACH = 13000, COUNT = 3 };
    (void)state;
    struct message top = {0};
    struct asked asked[COUNT];
    char name[24];
    for (size_t part = 0; part < PARTS; part++) {
        struct message message = {0};
        for (size_t i = 0; i < EACH; i++) {
            struct digest absent = digest_of(1 + part * EACH + i, 100);
            (void)snprintf(name, sizeof(name), "%05zu", i);
            add_directory(&message, name, &absent);
        }
        struct digest digest = put_message(&message);
        (void)snprintf(name, sizeof(name), "%05zu", part);
        add_directory(&top, name, &digest);
    }
    struct digest root = put_message(&top);
    for (size_t i = 0; i < COUNT; i++)
        start(&asked[i], &root, true, true);
    size_t most = 0;
    while (fake_answer_one()) {
        size_t many = atomic_load(&cas->source.many);
        most = many > most ? many : most;
    }
    /* Each may find that there are too many by one. */
    assert_in_range(most, REMOTE_WALK_MANY, REMOTE_WALK_MANY + COUNT);
    assert_int_equal(atomic_load(&cas->source.many), 0);
    /* What was found missing until then is an answer, even so. */
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(atomic_load(&asked[i].told), 1);
        assert_true(asked[i].err.code == ERR_PRECONDITION || asked[i].err.code == ERR_UNAVAILABLE);
    }
    assert_int_equal(check_tree(&root).code, ERR_PRECONDITION);
}

static void test_a_cancelled_check_may_be_started_again(void **state)
{
    (void)state;
    struct digest root = put_directory(1, 3);
    struct asked asked;
    start(&asked, &root, true, false);
    cancel(&asked);
    assert_told(&asked, ERR_CANCELLED);
    atomic_store(&asked.is_cancelled, false);
    atomic_store(&asked.told, 0);
    remote_check_start(&asked.check);
    fake_answer_all();
    assert_told(&asked, ERR_OK);
}

static void test_closing_ends_what_is_under_way(void **state)
{
    enum { COUNT = REMOTE_CHECKS_MAX + 4 };
    (void)state;
    struct asked asked[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        struct digest root = put_directory(i, 2);
        start(&asked[i], &root, true, false);
    }
    for (size_t i = 0; i < COUNT / 2; i++)
        cancel(&asked[i]);
    remote_cas_close(cas);
    for (size_t i = 0; i < COUNT; i++)
        assert_told(&asked[i], ERR_CANCELLED);
    fake_answer_when(FAKE_AT_ONCE);
    open_cas(TRUST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_found_whole_is_trusted_for_a_while),
        TEST(test_nothing_is_trusted_where_trust_is_none),
        TEST(test_bad_news_ends_the_trust),
        TEST(test_what_was_found_before_the_cas_was_lost_is_asked_anew),
        TEST(test_a_check_under_way_is_shared),
        TEST(test_who_comes_late_has_bad_news_asked_anew_together),
        TEST(test_who_came_late_is_told_bad_news_by_the_second_check),
        TEST(test_who_comes_late_is_told_at_once_that_the_cas_cannot_be_asked),
        TEST(test_a_fresh_check_shares_nothing_but_its_result),
        TEST(test_checks_begin_in_order_some_at_a_time),
        TEST(test_a_check_is_cancelled_at_any_time),
        TEST(test_a_check_that_has_not_begun_is_dropped_with_its_last_user),
        TEST(test_a_check_that_nobody_waits_for_ends_soon),
        TEST(test_large_trees_at_the_same_time_are_bounded),
        TEST(test_a_cancelled_check_may_be_started_again),
        TEST(test_closing_ends_what_is_under_way),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
