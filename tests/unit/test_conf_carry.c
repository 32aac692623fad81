/* SPDX-License-Identifier: Apache-2.0 */
/* One configuration after another: what is taken over, and what is put back and told. */
#include "conf/carry.h"
#include "conf_text.h"

/* A configuration that runs, one that is to follow, and what that lost. */
struct pair {
    struct loaded running;
    struct loaded next;
    struct conf_kept_list kept;
};

static void carry(const char *running, const char *next, struct pair *pair)
{
    struct err err;
    load(running, strlen(running), &pair->running);
    load(next, strlen(next), &pair->next);
    assert_int_equal(pair->running.rc, 0);
    assert_int_equal(pair->next.rc, 0);
    conf_kept_init(&pair->kept, &pair->next.conf.arena);
    assert_int_equal(conf_carry(&pair->running.conf, &pair->next.conf, &pair->kept, &err), 0);
}

static void drop(struct pair *pair)
{
    unload(&pair->next);
    unload(&pair->running);
}

/* What was put back is exactly EXPECTED, a line "KEY: RUNNING -> WANTED" for each. */
static void assert_kept(const struct pair *pair, const char *expected)
{
    char *lines = NULL;
    size_t size;
    FILE *out = open_memstream(&lines, &size);
    assert_non_null(out);
    for (const struct conf_kept *one = pair->kept.first; one != NULL; one = one->next)
        (void)fprintf(out, "%s: %s -> %s\n", one->key, one->running, one->wanted);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(lines, expected);
    free(lines);
}

static void assert_carried(const char *running, const char *next, const char *expected)
{
    struct pair pair;
    carry(running, next, &pair);
    assert_kept(&pair, expected);
    drop(&pair);
}

#define PULL "  - address: unix:/nowhere/pull.sock\n"
#define PUSH "  - address: unix:/nowhere/push.sock\n    access: write\n"

static void test_the_same_again(void **state)
{
    (void)state;
    assert_carried(BOTH, BOTH, "");
    assert_carried(LISTENERS PUSH INSTANCES "limits: {streams: 5}\nthreads: {workers: 2}\n"
                                            "metrics: {address: \"127.0.0.1:1\"}\n",
                   LISTENERS PUSH INSTANCES "metrics: {address: \"127.0.0.1:1\"}\n"
                                            "threads: {workers: 2}\nlimits: {streams: 5}\n",
                   "");
}

static void test_what_is_taken_over(void **state)
{
    (void)state;
    struct pair pair;
    carry(BOTH,
          LISTENERS "    instances: [new]\n    identity: x-name\n"
                    "instances:\n  - storage: /nowhere/new\n    name: new\n"
                    "limits: {message: 1MiB}\nshutdown-grace: 9s\nlog: {level: error}\n",
          &pair);
    assert_kept(&pair, "");
    const struct conf *conf = &pair.next.conf;
    assert_int_equal(conf->listener_count, 1);
    assert_string_equal(conf->listeners[0].identity, "x-name");
    assert_false(conf->listeners[0].instances.any);
    assert_int_equal(conf->instance_count, 1);
    assert_string_equal(conf->instances[0].name, "new");
    assert_int_equal(conf->message_limit, 1 << 20);
    assert_int_equal(conf->shutdown_grace, 9000);
    assert_int_equal(conf->log_level, LOG_LEVEL_ERROR);
    drop(&pair);
}

static void test_lists_and_digest_functions_are_taken_over(void **state)
{
    (void)state;
    struct pair pair;
    carry(LISTENERS "    identity: x\n" INSTANCES "    pull: [a]\n",
          LISTENERS "    identity: x\n" INSTANCES
                    "    pull: [b, c]\n    digest-functions: [sha1, sha256]\n",
          &pair);
    assert_kept(&pair, "");
    const struct conf_instance *instance = &pair.next.conf.instances[0];
    assert_false(conf_names_include(&instance->pull, "a"));
    assert_true(conf_names_include(&instance->pull, "c"));
    assert_int_equal(instance->digest_function_count, 2);
    drop(&pair);
}

static void test_numbers_and_metrics(void **state)
{
    (void)state;
    struct pair pair;
    carry(BOTH,
          BOTH "limits: {streams: 7}\nthreads: {pollers: 2, workers: 3}\n"
               "metrics: {address: \"127.0.0.1:1\"}\n",
          &pair);
    assert_kept(&pair, "limits.streams: 256 -> 7\n"
                       "threads.pollers: 1 -> 2\n"
                       "threads.workers: 8 -> 3\n"
                       "metrics.address:  -> 127.0.0.1:1\n");
    assert_int_equal(pair.next.conf.stream_limit, 256);
    assert_int_equal(pair.next.conf.pollers, 1);
    assert_int_equal(pair.next.conf.workers, 8);
    assert_null(pair.next.conf.metrics_address);
    drop(&pair);
    assert_carried(BOTH "metrics: {address: \"127.0.0.1:1\"}\n", BOTH,
                   "metrics.address: 127.0.0.1:1 -> \n");
}

static void test_listeners_come_and_go(void **state)
{
    (void)state;
    struct pair pair;
    carry(LISTENERS INSTANCES, LISTENERS PUSH INSTANCES, &pair);
    assert_kept(&pair, "listeners[1].address:  -> unix:/nowhere/push.sock\n");
    assert_int_equal(pair.next.conf.listener_count, 1);
    drop(&pair);

    carry(LISTENERS PUSH INSTANCES, "listeners:\n" PUSH INSTANCES, &pair);
    assert_kept(&pair, "listeners: unix:/nowhere/pull.sock -> \n");
    assert_int_equal(pair.next.conf.listener_count, 2);
    assert_string_equal(pair.next.conf.listeners[0].address, "unix:/nowhere/pull.sock");
    assert_string_equal(pair.next.conf.listeners[1].address, "unix:/nowhere/push.sock");
    drop(&pair);

    carry(LISTENERS PUSH INSTANCES,
          LISTENERS "  - address: unix:/nowhere/new.sock\n    access: write\n" INSTANCES, &pair);
    assert_kept(&pair, "listeners[1].address: unix:/nowhere/push.sock -> unix:/nowhere/new.sock\n");
    assert_string_equal(pair.next.conf.listeners[1].address, "unix:/nowhere/push.sock");
    drop(&pair);
}

static void test_listeners_in_another_order(void **state)
{
    (void)state;
    struct pair pair;
    carry(LISTENERS PUSH INSTANCES, "listeners:\n" PUSH "    identity: x\n" PULL INSTANCES, &pair);
    assert_kept(&pair, "");
    assert_string_equal(pair.next.conf.listeners[0].address, "unix:/nowhere/pull.sock");
    assert_null(pair.next.conf.listeners[0].identity);
    assert_string_equal(pair.next.conf.listeners[1].identity, "x");
    drop(&pair);
}

/* Each of these decides who gets in: what goes with the new value may not go with the old one. */
static void test_a_listener_keeps_all_or_nothing(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"    access: write\n", "listeners[0].access: read -> write\n"},
        {"    socket-mode: \"0600\"\n", "listeners[0].socket-mode: 0660 -> 0600\n"},
        {"    socket-group: www-data\n", "listeners[0].socket-group:  -> www-data\n"},
    };
    static const char rest[] = "listeners[0].identity:  -> x\n"
                               "listeners[0].instances: [\"\"] -> any\n";
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pair pair;
        char next[512], kept[256];
        (void)snprintf(kept, sizeof(kept), "%s%s", cases[i][1], rest);
        (void)snprintf(next, sizeof(next), "%s%s%s", LISTENERS "    identity: x\n", cases[i][0],
                       INSTANCES "  - storage: /nowhere/new\n    name: new\n");
        carry(BOTH, next, &pair);
        assert_kept(&pair, kept);
        const struct conf_listener *listener = &pair.next.conf.listeners[0];
        assert_int_equal(listener->access, CONF_ACCESS_READ);
        assert_int_equal(listener->socket_mode, 0660);
        assert_null(listener->identity);
        /* "Any" was any of those that there were. */
        assert_true(conf_names_include(&listener->instances, ""));
        assert_false(conf_names_include(&listener->instances, "new"));
        drop(&pair);
    }
}

#define CERTIFICATE   "certificate: /etc/passwd, key: /etc/group"
#define TCP           "listeners:\n  - address: 127.0.0.1:1\n"
#define TCP_TLS(more) TCP "    tls: {" CERTIFICATE more "}\n"

/* A connection has the TLS that it began with, and what its listener has. */
static void test_tls_needs_a_restart(void **state)
{
    (void)state;
    static const struct {
        const char *running;
        const char *next;
        const char *expected;
    } cases[] = {
        {TCP, TCP_TLS(""), "listeners[0].tls:  -> {" CERTIFICATE "}\n"},
        {TCP_TLS(""), TCP, "listeners[0].tls: {" CERTIFICATE "} -> \n"},
        {TCP_TLS(""), TCP_TLS(", client-ca: /etc/hosts"),
         "listeners[0].tls: {" CERTIFICATE "} -> {" CERTIFICATE
         ", client-ca: /etc/hosts, client: require}\n"},
        {TCP_TLS(", client-ca: /etc/hosts"), TCP_TLS(", client-ca: /etc/hosts, client: request"),
         "listeners[0].tls: {" CERTIFICATE
         ", client-ca: /etc/hosts, client: require} -> {" CERTIFICATE
         ", client-ca: /etc/hosts, client: request}\n"},
        {TCP_TLS(""), TCP "    tls: {certificate: /etc/hosts, key: /etc/group}\n",
         "listeners[0].tls: {" CERTIFICATE "} -> {certificate: /etc/hosts, key: /etc/group}\n"},
        {TCP_TLS(""), TCP "    tls: {certificate: /etc/passwd, key: /etc/hosts}\n",
         "listeners[0].tls: {" CERTIFICATE "} -> {certificate: /etc/passwd, key: /etc/hosts}\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pair pair;
        char running[512], next[512], kept[512];
        (void)snprintf(running, sizeof(running), "%s%s", cases[i].running, INSTANCES);
        (void)snprintf(next, sizeof(next), "%s    instances: [new]\n%s%s", cases[i].next, INSTANCES,
                       "  - storage: /nowhere/new\n    name: new\n");
        (void)snprintf(kept, sizeof(kept), "%slisteners[0].instances: [\"\"] -> [new]\n",
                       cases[i].expected);
        carry(running, next, &pair);
        assert_kept(&pair, kept);
        const struct conf_listener *listener = &pair.next.conf.listeners[0];
        assert_ptr_equal(listener->tls, pair.running.conf.listeners[0].tls);
        assert_false(conf_names_include(&listener->instances, "new"));
        drop(&pair);
    }
    assert_carried(TCP_TLS(", client-ca: /etc/hosts") INSTANCES,
                   TCP_TLS(", client: require, client-ca: /etc/hosts") INSTANCES, "");
}

static void test_an_instance_with_another_storage_keeps_all(void **state)
{
    (void)state;
    struct pair pair;
    carry(LISTENERS "    identity: x\n" INSTANCES "    pull: [a]\n",
          LISTENERS "    identity: x\ninstances:\n  - storage: /nowhere/public\n", &pair);
    assert_kept(&pair, "instances[0].storage: /nowhere/main -> /nowhere/public\n"
                       "instances[0].pull: [a] -> any\n");
    assert_string_equal(pair.next.conf.instances[0].storage, "/nowhere/main");
    assert_false(pair.next.conf.instances[0].pull.any);
    drop(&pair);
}

#define TWO "instances:\n  - storage: /nowhere/main\n  - storage: /nowhere/team\n    name: team\n"

static void test_rights_that_go_on_are_told(void **state)
{
    (void)state;
    /* With the storage that is not taken over, or the mode, whatever else was edited stays. */
    assert_carried(LISTENERS "    identity: x\n" INSTANCES
                             "    push: [alice, ci]\n    pull: [alice, ci]\n",
                   LISTENERS "    identity: x\ninstances:\n  - storage: /nowhere/new\n"
                             "    push: [ci]\n    pull: [ci, alice]\n"
                             "    digest-functions: [sha1, sha256]\n",
                   "instances[0].storage: /nowhere/main -> /nowhere/new\n"
                   "instances[0].push: [alice, ci] -> [ci]\n"
                   "instances[0].digest-functions: [sha256] -> [sha1, sha256]\n");
    assert_carried(LISTENERS "    identity: x\n" TWO,
                   LISTENERS
                   "    identity: y\n    instances: [\"\"]\n    socket-mode: \"0600\"\n" TWO,
                   "listeners[0].socket-mode: 0660 -> 0600\n"
                   "listeners[0].identity: x -> y\n"
                   "listeners[0].instances: [\"\", team] -> [\"\"]\n");
    /* The same instances, written otherwise. */
    assert_carried(LISTENERS TWO,
                   LISTENERS "    instances: [team, \"\"]\n    socket-mode: \"0600\"\n" TWO,
                   "listeners[0].socket-mode: 0660 -> 0600\n");
    /* One that has a new address is still at the former, with what it had. */
    assert_carried(LISTENERS "    identity: x\n" TWO,
                   "listeners:\n" PUSH "    instances: [team]\n    identity: x\n" TWO,
                   "listeners[0].address: unix:/nowhere/pull.sock -> unix:/nowhere/push.sock\n"
                   "listeners[0].access: read -> write\n"
                   "listeners[0].instances: [\"\", team] -> [team]\n");
}

/* What the storage was opened with may come from a configuration that is long gone. */
static void test_open_storage(void **state)
{
    (void)state;
    struct pair pair;
    struct conf_instance opened;
    conf_instance_set_defaults(&opened);
    opened.quota = 1000;
    opened.index_quota = 2000;
    opened.expire_after = 3000;
    opened.index_only = true;
    carry(BOTH, BOTH, &pair);
    conf_carry_storage(&opened, &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "instances[0].index-only: true -> false\n"
                       "instances[0].index-quota: 2000B -> 1073741824B\n"
                       "instances[0].expire-after: 3s -> \n");
    const struct conf_instance *instance = &pair.next.conf.instances[0];
    assert_true(instance->index_only);
    assert_int_equal(instance->quota, 1000);
    assert_int_equal(instance->index_quota, 2000);
    assert_int_equal(instance->expire_after, 3000);
    drop(&pair);

    opened = (struct conf_instance){.quota = 1000, .index_quota = 1 << 30};
    carry(BOTH, BOTH, &pair);
    conf_carry_storage(&opened, &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "instances[0].quota: 1000B -> 10000000000B\n");
    assert_int_equal(pair.next.conf.instances[0].quota, 1000);
    drop(&pair);

    carry(BOTH, BOTH, &pair);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "");
    conf_kept_add_instance(&pair.kept, 0, "", "only read", "written");
    assert_kept(&pair, "instances[0]: only read -> written\n");
    drop(&pair);
}

#define PAIRED BOTH "    index-only: true\n    cas: {address: grpc://buildbarn:8980}\n"

static void test_a_cas_is_taken_over_as_a_whole(void **state)
{
    (void)state;
    struct pair pair;
    carry(PAIRED, BOTH "    index-only: true\n    cas: {address: unix:/nowhere/cas, trust: 0s}\n",
          &pair);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "");
    assert_string_equal(pair.next.conf.instances[0].cas->address, "unix:/nowhere/cas");
    assert_int_equal(pair.next.conf.instances[0].cas->trust, 0);
    drop(&pair);

    carry(PAIRED, BOTH "    index-only: true\n", &pair);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "");
    assert_null(pair.next.conf.instances[0].cas);
    drop(&pair);

    carry(BOTH "    index-only: true\n", PAIRED, &pair);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "");
    assert_string_equal(pair.next.conf.instances[0].cas->address, "grpc://buildbarn:8980");
    drop(&pair);
}

/* Its CAS is its own until a restart. */
static void test_a_cas_beside_one_that_is_open_is_put_back(void **state)
{
    (void)state;
    struct pair pair;
    carry(BOTH "    quota: 50GiB\n", PAIRED, &pair);
    /* Nobody is to open it: external CAS are opened before storage is. */
    assert_null(pair.next.conf.instances[0].cas);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "instances[0].cas:  -> grpc://buildbarn:8980\n"
                       "instances[0].index-only: false -> true\n");
    assert_false(pair.next.conf.instances[0].index_only);
    assert_null(pair.next.conf.instances[0].cas);
    drop(&pair);
}

/* Whoever adds a CAS of its own does not mean that nothing is checked until the restart. */
static void test_what_stays_index_only_is_checked_as_before(void **state)
{
    (void)state;
    struct pair pair;
    carry(PAIRED, BOTH, &pair);
    conf_carry_storage(&pair.running.conf.instances[0], &pair.next.conf, 0, &pair.kept);
    assert_kept(&pair, "instances[0].cas: grpc://buildbarn:8980 -> \n"
                       "instances[0].index-only: true -> false\n");
    assert_true(pair.next.conf.instances[0].index_only);
    assert_ptr_equal(pair.next.conf.instances[0].cas, pair.running.conf.instances[0].cas);
    drop(&pair);

    /* So is an instance that keeps its storage. */
    carry(PAIRED, LISTENERS "instances: [{storage: /nowhere/new}]\n", &pair);
    assert_kept(&pair, "instances[0].storage: /nowhere/main -> /nowhere/new\n");
    assert_ptr_equal(pair.next.conf.instances[0].cas, pair.running.conf.instances[0].cas);
    drop(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_again),
        cmocka_unit_test(test_what_is_taken_over),
        cmocka_unit_test(test_lists_and_digest_functions_are_taken_over),
        cmocka_unit_test(test_numbers_and_metrics),
        cmocka_unit_test(test_listeners_come_and_go),
        cmocka_unit_test(test_listeners_in_another_order),
        cmocka_unit_test(test_a_listener_keeps_all_or_nothing),
        cmocka_unit_test(test_tls_needs_a_restart),
        cmocka_unit_test(test_an_instance_with_another_storage_keeps_all),
        cmocka_unit_test(test_rights_that_go_on_are_told),
        cmocka_unit_test(test_open_storage),
        cmocka_unit_test(test_a_cas_is_taken_over_as_a_whole),
        cmocka_unit_test(test_a_cas_beside_one_that_is_open_is_put_back),
        cmocka_unit_test(test_what_stays_index_only_is_checked_as_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
