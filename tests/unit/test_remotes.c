/* SPDX-License-Identifier: Apache-2.0 */
/* The external CAS of a configuration: what a reload keeps, opens, and takes back. */
#include "base/log.h"
#include "fake_cas_calls.h"
#include "remote/remotes.h"

static const struct conf_cas usual = {.address = "grpcs://cas.example.com:8980",
                                      .instance_name = "kernel",
                                      .tls_ca = "ca",
                                      .tls_certificate = "certificate",
                                      .tls_key = "key",
                                      .token_file = "token",
                                      .trust = 600000,
                                      .timeout = 5000,
                                      .connections = 2,
                                      .on_unavailable = CONF_ON_UNAVAILABLE_FAIL};

static int set_up(void **state)
{
    (void)state;
    fake_begin_test(FAKE_AT_ONCE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fake_end_test();
    return 0;
}

static struct remotes *open_remotes(struct conf_instance *instances, size_t count,
                                    struct conf *conf)
{
    struct remotes *remotes;
    struct err err;
    *conf = (struct conf){.instances = instances, .instance_count = count};
    if (remotes_open(conf, &remotes, &err) != 0)
        fail_msg("%s", err.msg);
    return remotes;
}

static struct remotes *follow(struct remotes *running, struct conf_instance *instances,
                              size_t count, struct conf *conf)
{
    struct remotes *next;
    struct err err;
    *conf = (struct conf){.instances = instances, .instance_count = count};
    if (remotes_follow(running, conf, &next, &err) != 0)
        fail_msg("%s", err.msg);
    return next;
}

static void test_instances_have_their_own(void **state)
{
    (void)state;
    struct conf conf;
    struct conf_cas copy = usual;
    struct conf_instance instances[] = {
        {.name = ""}, {.name = "a", .cas = &usual}, {.name = "b", .cas = &copy}};
    struct remotes *remotes = open_remotes(instances, 3, &conf);
    assert_null(remotes_at(remotes, 0));
    assert_non_null(remotes_at(remotes, 1));
    assert_non_null(remotes_at(remotes, 2));
    assert_ptr_not_equal(remotes_at(remotes, 1), remotes_at(remotes, 2));
    assert_null(remotes_at(remotes, 3));
    assert_int_equal(fake.open, 2);
    assert_int_equal(fake.queues, 1);
    remotes_close(remotes);
}

static void test_without_any_there_is_no_thread(void **state)
{
    (void)state;
    struct conf first, second, third;
    struct conf_instance none[] = {{.name = ""}, {.name = "a"}};
    struct conf_instance one[] = {{.name = "a", .cas = &usual}, {.name = ""}};
    struct remotes *remotes = open_remotes(none, 2, &first);
    assert_int_equal(fake.queues, 0);
    /* The first that is needed starts it, unless that is taken back. */
    struct remotes *next = follow(remotes, one, 2, &second);
    assert_int_equal(fake.queues, 1);
    assert_non_null(remotes_at(next, 0));
    remotes_unfollow(next);
    assert_int_equal(fake.queues, 0);
    assert_int_equal(fake.open, 0);
    next = follow(remotes, one, 2, &second);
    next = follow(next, one, 2, &third);
    assert_int_equal(fake.queues, 1);
    assert_int_equal(fake.open, 1);
    remotes_close(next);
    remotes_close(NULL);
}

/* By name, wherever it stands; nothing of a configuration of the past is gone. */
static void test_what_is_the_same_is_kept(void **state)
{
    (void)state;
    struct conf first, second, third;
    char address[64], name[] = {'a', '\0'};
    (void)strcpy(address, usual.address);
    struct conf_cas copy = usual;
    copy.address = address;
    struct conf_instance before[] = {
        {.name = "a", .cas = &usual}, {.name = "b", .cas = &usual}, {.name = "c"}};
    struct conf_instance after[] = {
        {.name = "c", .cas = &usual}, {.name = "b"}, {.name = name, .cas = &copy}};
    struct remotes *running = open_remotes(before, 3, &first);
    struct remotes *next = follow(running, after, 3, &second);
    assert_ptr_equal(remotes_at(next, 2), remotes_at(running, 0));
    assert_null(remotes_at(next, 1));
    assert_non_null(remotes_at(next, 0));
    assert_ptr_not_equal(remotes_at(next, 0), remotes_at(running, 1));
    assert_int_equal(fake.open, 3);
    /* Calls that came before go on with what they have. */
    assert_non_null(remotes_at(running, 1));
    struct remotes *last = follow(next, before, 3, &third);
    assert_ptr_equal(remotes_at(last, 0), remotes_at(running, 0));
    assert_int_equal(fake.open, 4);
    remotes_close(last);
}

static void test_each_key_counts(void **state)
{
    (void)state;
    struct conf_cas changed[10];
    struct conf conf, other;
    struct conf_instance instance = {.name = "a", .cas = &usual};
    struct remotes *running = open_remotes(&instance, 1, &conf);
    for (size_t i = 0; i < 10; i++)
        changed[i] = usual;
    changed[0].address = "grpcs://cas.example.com:8981";
    changed[1].instance_name = "";
    changed[2].tls_ca = NULL;
    changed[3].tls_certificate = "other";
    changed[4].tls_key = NULL;
    changed[5].token_file = "other";
    changed[6].trust = 0;
    changed[7].timeout++;
    changed[8].connections++;
    changed[9].on_unavailable = CONF_ON_UNAVAILABLE_SERVE;
    for (size_t i = 0; i < 10; i++) {
        struct conf_instance next_instance = {.name = "a", .cas = &changed[i]};
        struct remotes *next = follow(running, &next_instance, 1, &other);
        assert_ptr_not_equal(remotes_at(next, 0), remotes_at(running, 0));
        remotes_unfollow(next);
        assert_int_equal(fake.open, 1);
    }
    remotes_close(running);
}

static void test_on_failure_nothing_has_changed(void **state)
{
    (void)state;
    struct conf first, second;
    struct remotes *next;
    struct err err;
    struct conf_cas bad = usual, good = usual;
    bad.address = fake.unusable = "grpcs://bad.example.com:8980";
    good.trust = 1;
    struct conf_instance before[] = {{.name = "a", .cas = &usual}};
    struct conf_instance after[] = {{.name = "a", .cas = &good}, {.name = "b", .cas = &bad}};
    struct remotes *running = open_remotes(before, 1, &first);
    second = (struct conf){.instances = after, .instance_count = 2};
    assert_int_equal(remotes_follow(running, &second, &next, &err), -ERR_PRECONDITION);
    assert_string_equal(err.msg,
                        "instance \"b\": cas: grpcs://bad.example.com:8980 cannot be used");
    assert_int_equal(fake.open, 1);
    assert_non_null(remotes_at(running, 0));
    remotes_close(running);
    assert_int_equal(remotes_open(&second, &next, &err), -ERR_PRECONDITION);
    assert_int_equal(fake.open, 0);
    assert_int_equal(fake.queues, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_instances_have_their_own),       TEST(test_without_any_there_is_no_thread),
        TEST(test_what_is_the_same_is_kept),       TEST(test_each_key_counts),
        TEST(test_on_failure_nothing_has_changed),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
