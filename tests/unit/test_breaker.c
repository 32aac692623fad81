/* SPDX-License-Identifier: Apache-2.0 */
/* The circuit breaker: when it opens, when one call tries, and what closes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "remote/breaker.h"

/* Any time of a monotonic clock. */
static const int64_t start = 1000000;

static void fail_until_open(struct breaker *breaker, int64_t now)
{
    bool is_try;
    for (int i = 1; i <= BREAKER_FAILURES; i++) {
        assert_true(breaker_admit(breaker, now, &is_try));
        assert_false(is_try);
        assert_int_equal(breaker_fail(breaker, now, is_try), i == BREAKER_FAILURES);
    }
    assert_true(breaker->is_open);
}

/* Fails the try that is made at the end of the pause, which must be PAUSE long; the end of it. */
static int64_t fail_a_try(struct breaker *breaker, int64_t now, int64_t pause)
{
    bool is_try;
    assert_false(breaker_admit(breaker, now + pause - 1, &is_try));
    assert_true(breaker_admit(breaker, now + pause, &is_try));
    assert_true(is_try);
    assert_false(breaker_fail(breaker, now + pause, is_try));
    return now + pause;
}

static void failures_in_a_row_open_it(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    bool is_try;
    fail_until_open(&breaker, start);
    assert_false(breaker_admit(&breaker, start, &is_try));
}

static void an_answer_between_failures_keeps_it_closed(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    for (int i = 0; i < 3 * BREAKER_FAILURES; i++) {
        if (i % (BREAKER_FAILURES - 1) == 0)
            assert_false(breaker_succeed(&breaker));
        assert_false(breaker_fail(&breaker, start, false));
    }
    assert_false(breaker.is_open);
}

static void one_call_tries_and_opens_the_way(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    bool is_try;
    fail_until_open(&breaker, start);
    assert_true(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    assert_true(is_try);
    assert_false(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    assert_true(breaker_succeed(&breaker));
    assert_false(breaker_succeed(&breaker));
    assert_true(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    assert_false(is_try);
    /* It begins as it did at first. */
    fail_until_open(&breaker, start);
    (void)fail_a_try(&breaker, start, BREAKER_PAUSE_FIRST);
}

static void pauses_double_up_to_a_bound(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    int64_t now = start, pause = BREAKER_PAUSE_FIRST;
    fail_until_open(&breaker, now);
    for (; pause < BREAKER_PAUSE_MOST; pause *= 2)
        now = fail_a_try(&breaker, now, pause);
    now = fail_a_try(&breaker, now, BREAKER_PAUSE_MOST);
    (void)fail_a_try(&breaker, now, BREAKER_PAUSE_MOST);
}

/* They were let through together, and end together. */
static void late_failures_count_for_nothing(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    bool is_try;
    fail_until_open(&breaker, start);
    assert_false(breaker_fail(&breaker, start, false));
    assert_true(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    assert_false(breaker_fail(&breaker, start + BREAKER_PAUSE_FIRST, false));
    breaker_forget(&breaker, false);
    /* The try is still under way. */
    assert_false(breaker_admit(&breaker, start + BREAKER_PAUSE_MOST, &is_try));
    assert_true(breaker_succeed(&breaker));
}

static void after_a_try_that_was_given_up_the_next_call_tries(void **state)
{
    (void)state;
    struct breaker breaker = {.failures = 0};
    bool is_try;
    fail_until_open(&breaker, start);
    assert_true(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    breaker_forget(&breaker, is_try);
    assert_true(breaker_admit(&breaker, start + BREAKER_PAUSE_FIRST, &is_try));
    assert_true(is_try);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_in_a_row_open_it),
        cmocka_unit_test(an_answer_between_failures_keeps_it_closed),
        cmocka_unit_test(one_call_tries_and_opens_the_way),
        cmocka_unit_test(pauses_double_up_to_a_bound),
        cmocka_unit_test(late_failures_count_for_nothing),
        cmocka_unit_test(after_a_try_that_was_given_up_the_next_call_tries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
