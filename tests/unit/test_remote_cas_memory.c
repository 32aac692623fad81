/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks against an external CAS for which each allocation of memory fails in turn. The sanitizers
 * bring their own allocators: under them nothing fails, and only the script is run.
 */
#include "base/log.h"
#include "failing_memory.h"
#include "fake_cas_calls.h"
#include "remote/remote_cas.h"
#include "test_tree_messages.h"

/* --- the script --- */

enum { FILES = 14000, CHECKS = 3, MANY = 1000000, SAMPLES = 200 };

static const struct conf_cas conf = {.address = "grpc://cas.example.com:8980",
                                     .instance_name = "",
                                     .trust = 1000,
                                     .timeout = 5000,
                                     .connections = 1};

/* A tree that is whole, one with a large directory, one of which a file is missing. */
static struct digest roots[CHECKS];
static const enum err_code outcomes[CHECKS] = {ERR_OK, ERR_OK, ERR_PRECONDITION};

static struct digest put_directory(size_t files, uint8_t seed, const struct digest *below)
{
    struct message message = {0};
    struct digest digest = {.function = DIGEST_SHA256, .size = 100, .hash = {seed}};
    struct err err;
    char name[24];
    for (size_t i = 0; i < files; i++) {
        memcpy(digest.hash + 1, &i, sizeof(i));
        (void)snprintf(name, sizeof(name), "%08zu", i);
        add_file(&message, name, &digest);
        if (seed != 0)
            fake_put(&digest, NULL);
    }
    if (below != NULL)
        add_directory(&message, "below", below);
    assert_int_equal(digest_compute(DIGEST_SHA256, message.data, message.size, &digest, &err), 0);
    fake_put(&digest, message.data);
    free(message.data);
    return digest;
}

static void put_trees(void)
{
    struct digest below = put_directory(2, 1, NULL);
    roots[0] = put_directory(3, 2, &below);
    struct digest large = put_directory(FILES, 3, NULL);
    roots[1] = put_directory(1, 4, &large);
    roots[2] = put_directory(1, 0, &below);
}

struct asked {
    struct remote_check check; /* first */
    struct tree_list list;
    unsigned told;
    enum err_code code;
};

static void on_done(struct remote_check *check, const struct err *err)
{
    struct asked *asked = (struct asked *)check;
    asked->told++;
    asked->code = err != NULL ? err->code : ERR_OK;
}

static void on_told(struct remote_capabilities *capabilities, struct span message,
                    const struct err *err)
{
    (void)message;
    (void)err;
    capabilities->cas = NULL;
}

/* Every check is told once, and what it is told is true, or that there is no memory. */
static bool check_all(struct remote_cas *cas, bool is_fresh)
{
    bool had_memory = true;
    struct asked asked[CHECKS];
    for (size_t i = 0; i < CHECKS; i++) {
        asked[i] = (struct asked){
            .check = {.cas = cas, .list_count = 1, .is_fresh = is_fresh, .done = on_done},
            .list = {&roots[i], 1, true}};
        asked[i].check.lists = &asked[i].list;
        remote_check_start(&asked[i].check);
    }
    fake_answer_all();
    for (size_t i = 0; i < CHECKS; i++) {
        assert_int_equal(asked[i].told, 1);
        if (asked[i].code == ERR_NO_MEMORY)
            had_memory = false;
        else
            assert_int_equal(asked[i].code, outcomes[i]);
    }
    return had_memory;
}

/* Returns how many allocations there were. */
static unsigned do_once(unsigned nth, unsigned times)
{
    struct remote_cas *cas;
    struct err err;
    fail_memory(nth, times);
    int rc = remote_cas_open(&conf, "", NULL, &cas, &err);
    if (rc == 0) {
        struct remote_capabilities capabilities = {.cas = cas, .done = on_told};
        fake_answer_all();
        remote_capabilities_start(&capabilities);
        fake_answer_all();
        assert_null(capabilities.cas);
        (void)check_all(cas, false);
        (void)check_all(cas, true);
    }
    unsigned count = restore_memory();
    if (rc != 0) {
        assert_int_equal(rc, -ERR_NO_MEMORY);
        assert_int_equal(fake.open, 0);
        return count;
    }
    /* With memory all is as it should be. */
    assert_true(check_all(cas, false));
    assert_true(check_all(cas, true));
    remote_cas_close(cas);
    return count;
}

static void sweep(unsigned times)
{
    unsigned count = do_once(0, 0);
    unsigned step = count / SAMPLES + 1;
    for (unsigned nth = 1; nth <= count; nth += step)
        (void)do_once(nth, times);
}

static void test_an_allocation_that_fails(void **state)
{
    (void)state;
    sweep(1);
}

static void test_memory_that_stays_short(void **state)
{
    (void)state;
    sweep(MANY);
}

static int set_up(void **state)
{
    (void)state;
    fake_begin_test(FAKE_WHEN_TOLD);
    put_trees();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fake_end_test();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_allocation_that_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory_that_stays_short, set_up, tear_down),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
