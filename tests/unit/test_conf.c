/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: every key and its default, and files that are damaged or not there. */
#include <grp.h>

#include "conf_text.h"

static void test_defaults(void **state)
{
    (void)state;
    struct loaded loaded;
    load(BOTH, strlen(BOTH), &loaded);
    assert_string_equal(loaded.printed, "");
    assert_int_equal(loaded.rc, 0);
    const struct conf *conf = &loaded.conf;
    assert_int_equal(conf->listener_count, 1);
    const struct conf_listener *listener = &conf->listeners[0];
    assert_string_equal(listener->address, "unix:/nowhere/pull.sock");
    assert_non_null(listener->path);
    assert_string_equal(listener->path, "/nowhere/pull.sock");
    assert_int_equal(listener->access, CONF_ACCESS_READ);
    assert_true(listener->instances.any);
    assert_int_equal(listener->socket_mode, 0660);
    assert_null(listener->socket_group);
    assert_null(listener->identity);
    assert_null(listener->tls);
    assert_int_equal(conf->instance_count, 1);
    const struct conf_instance *instance = &conf->instances[0];
    assert_string_equal(instance->name, "");
    assert_string_equal(instance->storage, "/nowhere/main");
    assert_false(instance->index_only);
    assert_null(instance->cas);
    assert_int_equal(instance->quota, 10000000000);
    assert_int_equal(instance->index_quota, 1 << 30);
    assert_int_equal(instance->expire_after, 0);
    assert_int_equal(instance->digest_function_count, 1);
    assert_int_equal(instance->digest_functions[0], DIGEST_SHA256);
    assert_true(instance->push.any);
    assert_true(instance->pull.any);
    assert_int_equal(conf->message_limit, 16 << 20);
    assert_int_equal(conf->stream_limit, 256);
    assert_int_equal(conf->pollers, 1);
    assert_int_equal(conf->workers, 8);
    assert_int_equal(conf->shutdown_grace, 5000);
    assert_null(conf->metrics_address);
    assert_int_equal(conf->log_level, LOG_LEVEL_INFO);
    unload(&loaded);
}

static void test_defaults_of_tls(void **state)
{
    (void)state;
    static const char text[] = "listeners:\n"
                               "  - address: '[::]:1'\n"
                               "    tls: {certificate: /etc/passwd, key: /etc/group}\n"
                               "  - address: '[::]:2'\n"
                               "    tls:\n"
                               "      client-ca: /etc/hosts\n"
                               "      key: /etc/group\n"
                               "      certificate: /etc/passwd\n" INSTANCES;
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    assert_string_equal(loaded.printed, "");
    assert_int_equal(loaded.rc, 0);
    const struct conf_tls *tls = loaded.conf.listeners[0].tls;
    assert_non_null(tls);
    assert_null(tls->client_ca);
    assert_int_equal(tls->client, CONF_CLIENT_ANYONE);
    assert_false(conf_listener_tells_identity(&loaded.conf.listeners[0]));
    tls = loaded.conf.listeners[1].tls;
    assert_non_null(tls);
    assert_string_equal(tls->client_ca, "/etc/hosts");
    assert_int_equal(tls->client, CONF_CLIENT_REQUIRE);
    assert_true(conf_listener_tells_identity(&loaded.conf.listeners[1]));
    unload(&loaded);
}

static void test_defaults_of_a_cas(void **state)
{
    (void)state;
    static const char text[] = BOTH "    index-only: true\n"
                                    "    cas: {address: grpc://buildbarn:8980}\n"
                                    "    name: team/kernel\n";
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    assert_string_equal(loaded.printed, "");
    assert_int_equal(loaded.rc, 0);
    const struct conf_cas *cas = loaded.conf.instances[0].cas;
    assert_non_null(cas);
    assert_string_equal(cas->address, "grpc://buildbarn:8980");
    assert_string_equal(cas->instance_name, "team/kernel");
    assert_null(cas->tls_ca);
    assert_null(cas->tls_certificate);
    assert_null(cas->tls_key);
    assert_null(cas->token_file);
    assert_int_equal(cas->trust, 600000);
    assert_int_equal(cas->timeout, 5000);
    assert_int_equal(cas->connections, 1);
    assert_int_equal(cas->on_unavailable, CONF_ON_UNAVAILABLE_FAIL);
    unload(&loaded);
}

/* Of a reload it stays as long as the server runs. */
static void test_no_more_is_kept_than_is_needed(void **state)
{
    (void)state;
    enum { COUNT = 50 };
    char text[16384] = LISTENERS "instances:\n", name[64];
    for (int i = 0; i < COUNT; i++) {
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used,
                       "  - name: team/%d\n    storage: /nowhere/%d\n    pull: [alice, ci]\n"
                       "    index-only: true\n    cas: {address: 'unix:/nowhere/cas'}\n",
                       i, i);
    }
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    assert_int_equal(loaded.rc, 0);
    const struct conf *conf = &loaded.conf;
    assert_int_equal(conf->instance_count, COUNT);
    for (int i = 0; i < COUNT; i++) {
        const struct conf_instance *instance = &conf->instances[i];
        (void)snprintf(name, sizeof(name), "team/%d", i);
        assert_string_equal(instance->name, name);
        assert_string_equal(instance->pull.names[1], "ci");
        assert_string_equal(instance->cas->address, "unix:/nowhere/cas");
        assert_string_equal(instance->cas->instance_name, name);
    }
    size_t needed = COUNT * (sizeof(conf->instances[0]) + sizeof(*conf->instances[0].cas) + 128);
    assert_true(conf->arena.total < 2 * needed);
    unload(&loaded);
}

static void test_nothing_is_kept_of_a_faulty_file(void **state)
{
    (void)state;
    struct loaded loaded;
    load(BOTH "surprise: 1\n", strlen(BOTH "surprise: 1\n"), &loaded);
    assert_int_equal(loaded.rc, -ERR_PRECONDITION);
    assert_int_equal(loaded.conf.arena.total, 0);
    assert_int_equal(loaded.conf.instance_count, 0);
    unload(&loaded);
}

static void assert_every_listener_key(const struct conf *conf)
{
    assert_int_equal(conf->listener_count, 3);
    const struct conf_listener *pull = &conf->listeners[0];
    assert_int_equal(pull->access, CONF_ACCESS_READ);
    assert_false(pull->instances.any);
    assert_int_equal(pull->instances.count, 2);
    assert_string_equal(pull->instances.names[0], "");
    assert_string_equal(pull->instances.names[1], "team/kernel");
    assert_int_equal(pull->socket_mode, 0600);
    assert_string_equal(pull->socket_group, "www-data");
    assert_int_equal(pull->socket_gid, getgrnam("www-data")->gr_gid);
    assert_string_equal(pull->identity, "x-client-identity");
    const struct conf_listener *push = &conf->listeners[1];
    assert_string_equal(push->address, "[::1]:8980");
    assert_null(push->path);
    assert_int_equal(push->access, CONF_ACCESS_WRITE);
    assert_true(push->instances.any);
    assert_string_equal(push->identity, "who");
    assert_null(push->tls);
    const struct conf_tls *tls = conf->listeners[2].tls;
    assert_non_null(tls);
    assert_string_equal(tls->certificate, "/etc/passwd");
    assert_string_equal(tls->key, "/etc/group");
    assert_string_equal(tls->client_ca, "/etc/hosts");
    assert_int_equal(tls->client, CONF_CLIENT_REQUEST);
}

static void assert_every_cas_key(const struct conf_cas *cas)
{
    assert_non_null(cas);
    assert_string_equal(cas->address, "grpcs://[2001:db8::1]:8980");
    assert_string_equal(cas->instance_name, "");
    assert_string_equal(cas->tls_ca, "/etc/passwd");
    assert_string_equal(cas->tls_certificate, "/etc/group");
    assert_string_equal(cas->tls_key, "/etc/hosts");
    assert_string_equal(cas->token_file, "/etc/nsswitch.conf");
    assert_int_equal(cas->trust, 0);
    assert_int_equal(cas->timeout, 30000);
    assert_int_equal(cas->connections, 64);
    assert_int_equal(cas->on_unavailable, CONF_ON_UNAVAILABLE_SERVE);
}

static void assert_every_instance_key(const struct conf *conf)
{
    assert_int_equal(conf->instance_count, 2);
    const struct conf_instance *both = &conf->instances[0];
    assert_string_equal(both->name, "");
    assert_int_equal(both->quota, INT64_C(50) << 30);
    assert_int_equal(both->index_quota, 2000000);
    assert_int_equal(both->expire_after, INT64_C(90) * 86400000);
    assert_int_equal(both->digest_function_count, 4);
    assert_int_equal(both->digest_functions[0], DIGEST_SHA512);
    assert_int_equal(both->digest_functions[1], DIGEST_SHA256);
    assert_int_equal(both->digest_functions[2], DIGEST_SHA1);
    assert_int_equal(both->digest_functions[3], DIGEST_SHA384);
    const struct conf_instance *kernel = &conf->instances[1];
    assert_string_equal(kernel->name, "team/kernel");
    assert_true(kernel->index_only);
    assert_every_cas_key(kernel->cas);
    assert_false(kernel->push.any);
    assert_int_equal(kernel->push.count, 1);
    assert_string_equal(kernel->push.names[0], "ci-kernel");
    assert_false(kernel->pull.any);
    assert_int_equal(kernel->pull.count, 2);
    assert_string_equal(kernel->pull.names[0], "ci-kernel");
    assert_string_equal(kernel->pull.names[1], "alice@example.org");
}

static void test_every_key(void **state)
{
    (void)state;
    struct loaded loaded;
    load(EVERY_KEY, strlen(EVERY_KEY), &loaded);
    assert_string_equal(loaded.printed, "");
    assert_int_equal(loaded.rc, 0);
    assert_every_listener_key(&loaded.conf);
    assert_every_instance_key(&loaded.conf);
    assert_int_equal(loaded.conf.message_limit, 4 << 20);
    assert_int_equal(loaded.conf.stream_limit, 100);
    assert_int_equal(loaded.conf.pollers, 2);
    assert_int_equal(loaded.conf.workers, 64);
    assert_int_equal(loaded.conf.shutdown_grace, 60000);
    assert_string_equal(loaded.conf.metrics_address, "localhost:8982");
    assert_int_equal(loaded.conf.log_level, LOG_LEVEL_TRACE);
    unload(&loaded);
}

static void test_who_writes(void **state)
{
    (void)state;
    static const char text[] = "listeners:\n"
                               "  - {address: 'unix:/nowhere/pull.sock'}\n"
                               "  - {address: 'unix:/nowhere/push.sock', access: write,\n"
                               "     instances: [pushed, team/pushed]}\n"
                               "  - {address: 'unix:/nowhere/admin.sock', access: admin,\n"
                               "     instances: [kept]}\n"
                               "instances:\n"
                               "  - {name: '', storage: /nowhere/main}\n"
                               "  - {name: pushed, storage: /nowhere/pushed}\n"
                               "  - {name: kept, storage: /nowhere/kept}\n"
                               "  - {name: team, storage: /nowhere/team}\n"
                               "  - {name: team/pushed, storage: /nowhere/both}\n";
    static const bool expected[] = {false, true, true, false, true};
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    assert_int_equal(loaded.rc, 0);
    struct conf *conf = &loaded.conf;
    assert_int_equal(conf->instance_count, 5);
    for (size_t i = 0; i < conf->instance_count; i++)
        assert_int_equal(conf_instance_is_written(conf, &conf->instances[i]), expected[i]);
    conf->listeners[0].access = CONF_ACCESS_WRITE; /* which serves all */
    assert_true(conf_instance_is_written(conf, &conf->instances[0]));
    unload(&loaded);
}

static void test_shipped_files(void **state)
{
    (void)state;
    static const char *const paths[] = {"config/minimal.yaml", "config/full.yaml"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct loaded loaded;
        load_file(paths[i], &loaded);
        assert_string_equal(loaded.printed, "");
        assert_int_equal(loaded.rc, 0);
        unload(&loaded);
    }
}

static void test_units(void **state)
{
    (void)state;
#define NO_SIZE(text)                                                                       \
    "5:12: instances[0].quota: \"" text "\" is no size; write a whole number and its unit " \
    "(B, KiB, MiB, GiB, TiB, kB, MB, GB or TB), such as 5GiB"
#define NO_TIME(text)                                                                              \
    "5:19: instances[0].expire-after: \"" text "\" is no time; write a whole number and its unit " \
    "(s, m, h or d), such as 5d"
    static const struct fault_case cases[] = {
        {BOTH "    quota: 50\n", "5:12: instances[0].quota: has no unit; write 50GiB, not 50"},
        {BOTH "    quota: 10000000000\n",
         "5:12: instances[0].quota: has no unit; write 10000000000B, not 10000000000"},
        {BOTH "limits: {message: 16}\n", "5:19: limits.message: has no unit; write 16MiB, not 16"},
        {BOTH "    quota: 50G\n", NO_SIZE("50G")},
        {BOTH "    quota: 50gib\n", NO_SIZE("50gib")},
        {BOTH "    quota: 50 GiB\n", NO_SIZE("50 GiB")},
        {BOTH "    quota: 1.5GiB\n", NO_SIZE("1.5GiB")},
        {BOTH "    quota: -1GiB\n", NO_SIZE("-1GiB")},
        {BOTH "    quota: GiB\n", NO_SIZE("GiB")},
        {BOTH "    quota: \"\"\n", NO_SIZE("")},
        {BOTH "    quota: 0GiB\n", "5:12: instances[0].quota: \"0GiB\" is too small; the least is "
                                   "1B"},
        {BOTH "    quota: 8388608TiB\n",
         "5:12: instances[0].quota: \"8388608TiB\" is too large a number"},
        {BOTH "    quota: 9223372036854775808B\n",
         "5:12: instances[0].quota: \"9223372036854775808B\" is too large a number"},
        {BOTH "    index-quota: 1\n",
         "5:18: instances[0].index-quota: has no unit; write 1GiB, not 1"},
        {BOTH "    index-quota: 1023KiB\n",
         "5:18: instances[0].index-quota: \"1023KiB\" is too small; the least is 1MiB"},
        {BOTH "    expire-after: 90\n",
         "5:19: instances[0].expire-after: has no unit; write 90d, not 90"},
        {BOTH "shutdown-grace: 5\n", "5:17: shutdown-grace: has no unit; write 5s, not 5"},
        {BOTH "    expire-after: 90D\n", NO_TIME("90D")},
        {BOTH "    expire-after: never\n", NO_TIME("never")},
        {BOTH "    expire-after: 0s\n",
         "5:19: instances[0].expire-after: \"0s\" is too small; the least is 1s"},
        {BOTH "    expire-after: 36501d\n",
         "5:19: instances[0].expire-after: \"36501d\" is too large; the most is 36500d"},
        {BOTH "    expire-after: 106751991168d\n",
         "5:19: instances[0].expire-after: \"106751991168d\" is too large a number"},
        {BOTH CAS "      trust: 10\n",
         "8:14: instances[0].cas.trust: has no unit; write 10m, not 10"},
        {BOTH CAS "      trust: 30d\n", ""},
        {BOTH CAS "      trust: 31d\n",
         "8:14: instances[0].cas.trust: \"31d\" is too large; the most is 30d"},
        {BOTH CAS "      timeout: 5\n",
         "8:16: instances[0].cas.timeout: has no unit; write 5s, not 5"},
        {BOTH CAS "      timeout: 0s\n",
         "8:16: instances[0].cas.timeout: \"0s\" is too small; the least is 1s"},
        {BOTH CAS "      timeout: 11m\n",
         "8:16: instances[0].cas.timeout: \"11m\" is too large; the most is 10m"},
        {BOTH CAS "      connections: 0\n",
         "8:20: instances[0].cas.connections: \"0\" is too small; the least is 1"},
        {BOTH CAS "      connections: 65\n",
         "8:20: instances[0].cas.connections: \"65\" is too large; the most is 64"},
        {BOTH CAS "      on-unavailable: wait\n",
         "8:23: instances[0].cas.on-unavailable: \"wait\" must be one of fail, serve"},
        {BOTH "shutdown-grace: 0s\n", ""},
        {BOTH "shutdown-grace: 61m\n", "5:17: shutdown-grace: \"61m\" is too large; the most is "
                                       "1h"},
        {BOTH "limits: {message: 63KiB}\n",
         "5:19: limits.message: \"63KiB\" is too small; the least is 64KiB"},
        {BOTH "limits: {message: 2GiB}\n",
         "5:19: limits.message: \"2GiB\" is too large; the most is 1GiB"},
        {BOTH "limits: {streams: 0}\n", "5:19: limits.streams: \"0\" is too small; the least is 1"},
        {BOTH "threads: {pollers: 65, workers: -1}\n",
         "5:20: threads.pollers: \"65\" is too large; the most is 64\n"
         "5:33: threads.workers: \"-1\" is no whole number"},
        {BOTH "threads: {workers: 18446744073709551617}\n",
         "5:20: threads.workers: \"18446744073709551617\" is too large a number"},
        {BOTH "metrics: {address: unix:/nowhere/m}\n",
         "5:20: metrics.address: must be HOST:PORT, such as \"127.0.0.1:8982\""},
        {BOTH "metrics: {address: 8982}\n", "5:20: metrics.address: \"8982\" is no address; write "
                                            "unix:/PATH, HOST:PORT or [HOST]:PORT"},
        {BOTH "log: {level: debug}\n",
         "5:14: log.level: \"debug\" must be one of error, warning, info, trace"},
    };
    ASSERT_CASES(cases);
}

static void test_every_unit(void **state)
{
    (void)state;
    static const struct {
        const char *quota;
        int64_t bytes;
    } sizes[] = {
        {"7B", 7},
        {"7KiB", INT64_C(7) << 10},
        {"7MiB", INT64_C(7) << 20},
        {"7GiB", INT64_C(7) << 30},
        {"7TiB", INT64_C(7) << 40},
        {"7kB", 7000},
        {"7MB", 7000000},
        {"7GB", INT64_C(7000000000)},
        {"7TB", INT64_C(7000000000000)},
        {"9223372036854775807B", INT64_MAX},
    };
    static const struct {
        const char *time;
        int64_t milliseconds;
    } times[] = {{"7s", 7000}, {"7m", 420000}, {"7h", 25200000}, {"7d", 604800000}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char text[256];
        struct loaded loaded;
        (void)snprintf(text, sizeof(text), BOTH "    quota: %s\n", sizes[i].quota);
        load(text, strlen(text), &loaded);
        assert_int_equal(loaded.rc, 0);
        assert_int_equal(loaded.conf.instances[0].quota, sizes[i].bytes);
        unload(&loaded);
    }
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char text[256];
        struct loaded loaded;
        (void)snprintf(text, sizeof(text), BOTH "    expire-after: %s\n", times[i].time);
        load(text, strlen(text), &loaded);
        assert_int_equal(loaded.rc, 0);
        assert_int_equal(loaded.conf.instances[0].expire_after, times[i].milliseconds);
        unload(&loaded);
    }
}

/* One run shows all that is wrong, in the order of the file. */
static void test_all_faults_at_once(void **state)
{
    (void)state;
    assert_printed("log: {level: loud}\n"
                   "listeners:\n"
                   "  - address: 127.0.0.1:1\n"
                   "    access: admin\n"
                   "    acess: read\n"
                   "  - address: nowhere\n"
                   "    identity: A\n"
                   "instances:\n"
                   "  - storage: /nowhere/a\n"
                   "    quota: 5\n"
                   "  - storage: /nowhere/a\n"
                   "    name: blobs\n",
                   "1:14: log.level: \"loud\" must be one of error, warning, info, trace\n"
                   "4:13: listeners[0].access: admin is only for unix sockets, whose mode says who "
                   "may connect; change the address to unix:/PATH\n"
                   "5:5: listeners[0].acess: is no key here; did you mean access? Allowed are "
                   "address, access, instances, socket-mode, socket-group, identity, tls\n"
                   "6:14: listeners[1].address: \"nowhere\" is no address; write unix:/PATH, "
                   "HOST:PORT or [HOST]:PORT\n"
                   "7:15: listeners[1].identity: \"A\" is no metadata key; it is 1 to 64 of a-z "
                   "0-9 _ . -, such as x-client-identity\n"
                   "10:12: instances[0].quota: has no unit; write 5GiB, not 5\n"
                   "11:14: instances[1].storage: /nowhere/a is the storage of "
                   "instances[0].storage in line 9 already; each instance needs its own\n"
                   "12:11: instances[1].name: the segment \"blobs\" is reserved by the Remote "
                   "Execution API; choose another");
}

static void test_unreadable_files(void **state)
{
    (void)state;
    struct loaded loaded;
    load_file("/nowhere/assetd.yaml", &loaded);
    assert_int_equal(loaded.rc, -ERR_NOT_FOUND);
    assert_string_equal(loaded.err.msg, "open /nowhere/assetd.yaml: No such file or directory");
    assert_string_equal(loaded.printed, "");
    unload(&loaded);
    load_file("/etc", &loaded);
    assert_int_equal(loaded.rc, -ERR_IO);
    assert_string_equal(loaded.err.msg, "read /etc: Is a directory");
    unload(&loaded);
    load_file("/dev/zero", &loaded);
    assert_int_equal(loaded.rc, -ERR_EXHAUSTED);
    assert_string_equal(loaded.err.msg,
                        "read /dev/zero: longer than 262144 bytes, so no configuration");
    unload(&loaded);
}

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Changes SIZE bytes of TEXT, which has room for one more, in one small way. */
static size_t mutate(char *text, size_t size, uint32_t *seed)
{
    static const char likely[] = "[]{}:,-&*!|>'\"%@`#\n\t ?\\~\xff\xc3";
    size_t at = next_random(seed) % size;
    size_t length = next_random(seed) % (size - at < 40 ? size - at : 40);
    switch (next_random(seed) % 5) {
    case 0:
        text[at] = (char)next_random(seed);
        return size;
    case 1:
        text[at] = likely[next_random(seed) % (sizeof(likely) - 1)];
        return size;
    case 2:
        memmove(text + at + 1, text + at, size - at);
        text[at] = likely[next_random(seed) % (sizeof(likely) - 1)];
        return size + 1;
    case 3:
        memmove(text + at, text + at + length, size - at - length);
        return size - length;
    default:
        memmove(text + next_random(seed) % (size - length), text + at, length);
        return size;
    }
}

/* Every line names the file and a place in it, and there is a fault if and only if it fails. */
static void assert_well_reported(const struct loaded *loaded)
{
    size_t length = strlen(loaded->file);
    for (const char *line = loaded->printed; *line != '\0'; line = strchr(line, '\n') + 1) {
        unsigned row, column;
        assert_memory_equal(line, loaded->file, length);
        assert_int_equal(sscanf(line + length, ":%u:%u: ", &row, &column), 2);
        assert_true(row >= 1 && column >= 1);
    }
    size_t errors = count_errors(loaded->printed);
    assert_int_equal(loaded->rc, errors > 0 ? -ERR_PRECONDITION : 0);
}

static void test_mutations(void **state)
{
    (void)state;
    enum { ROUNDS = 4000, CHANGES = 6 };
    char original[16384], text[sizeof(original) + CHANGES];
    FILE *file = fopen("config/full.yaml", "r");
    assert_non_null(file);
    size_t original_size = fread(original, 1, sizeof(original), file);
    assert_true(original_size > 0 && original_size < sizeof(original));
    assert_int_equal(fclose(file), 0);
    uint32_t seed = 20240229;
    size_t refused = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct loaded loaded;
        size_t size = original_size;
        memcpy(text, original, original_size);
        for (unsigned changes = round % CHANGES + 1; changes > 0; changes--)
            size = mutate(text, size, &seed);
        load(text, size, &loaded);
        assert_well_reported(&loaded);
        refused += loaded.rc != 0;
        unload(&loaded);
    }
    assert_true(refused > ROUNDS / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_defaults_of_tls),
        cmocka_unit_test(test_defaults_of_a_cas),
        cmocka_unit_test(test_no_more_is_kept_than_is_needed),
        cmocka_unit_test(test_nothing_is_kept_of_a_faulty_file),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_who_writes),
        cmocka_unit_test(test_shipped_files),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_every_unit),
        cmocka_unit_test(test_all_faults_at_once),
        cmocka_unit_test(test_unreadable_files),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
