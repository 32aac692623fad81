/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration as YAML: what is printed means the same when it is read. */
#include "conf/print.h"
#include "conf_text.h"

static void assert_same_text(const char *one, const char *other)
{
    if (one == NULL || other == NULL)
        assert_ptr_equal(one, other);
    else
        assert_string_equal(one, other);
}

static void assert_same_names(const struct conf_names *one, const struct conf_names *other)
{
    assert_int_equal(one->any, other->any);
    if (one->any)
        return;
    assert_int_equal(one->count, other->count);
    for (size_t i = 0; i < one->count; i++)
        assert_string_equal(one->names[i], other->names[i]);
}

static void assert_same_tls(const struct conf_tls *one, const struct conf_tls *other)
{
    assert_int_equal(one != NULL, other != NULL);
    if (one == NULL)
        return;
    assert_same_text(one->certificate, other->certificate);
    assert_same_text(one->key, other->key);
    assert_same_text(one->client_ca, other->client_ca);
    assert_int_equal(one->client, other->client);
}

static void assert_same_listener(const struct conf_listener *one, const struct conf_listener *other)
{
    assert_string_equal(one->address, other->address);
    assert_same_text(one->path, other->path);
    assert_int_equal(one->access, other->access);
    assert_same_names(&one->instances, &other->instances);
    assert_int_equal(one->socket_mode, other->socket_mode);
    assert_same_text(one->socket_group, other->socket_group);
    assert_int_equal(one->socket_gid, other->socket_gid);
    assert_same_text(one->identity, other->identity);
    assert_same_tls(one->tls, other->tls);
}

static void assert_same_cas(const struct conf_cas *one, const struct conf_cas *other)
{
    assert_int_equal(one != NULL, other != NULL);
    if (one == NULL)
        return;
    assert_same_text(one->address, other->address);
    assert_same_text(one->instance_name, other->instance_name);
    assert_same_text(one->tls_ca, other->tls_ca);
    assert_same_text(one->tls_certificate, other->tls_certificate);
    assert_same_text(one->tls_key, other->tls_key);
    assert_same_text(one->token_file, other->token_file);
    assert_int_equal(one->trust, other->trust);
    assert_int_equal(one->timeout, other->timeout);
    assert_int_equal(one->connections, other->connections);
    assert_int_equal(one->on_unavailable, other->on_unavailable);
}

static void assert_same_instance(const struct conf_instance *one, const struct conf_instance *other)
{
    assert_string_equal(one->name, other->name);
    assert_string_equal(one->storage, other->storage);
    assert_int_equal(one->index_only, other->index_only);
    assert_same_cas(one->cas, other->cas);
    assert_int_equal(one->quota, other->quota);
    assert_int_equal(one->index_quota, other->index_quota);
    assert_int_equal(one->expire_after, other->expire_after);
    assert_int_equal(one->digest_function_count, other->digest_function_count);
    for (size_t i = 0; i < one->digest_function_count; i++)
        assert_int_equal(one->digest_functions[i], other->digest_functions[i]);
    assert_same_names(&one->push, &other->push);
    assert_same_names(&one->pull, &other->pull);
}

static void assert_same(const struct conf *one, const struct conf *other)
{
    assert_int_equal(one->listener_count, other->listener_count);
    for (size_t i = 0; i < one->listener_count; i++)
        assert_same_listener(&one->listeners[i], &other->listeners[i]);
    assert_int_equal(one->instance_count, other->instance_count);
    for (size_t i = 0; i < one->instance_count; i++)
        assert_same_instance(&one->instances[i], &other->instances[i]);
    assert_int_equal(one->message_limit, other->message_limit);
    assert_int_equal(one->stream_limit, other->stream_limit);
    assert_int_equal(one->pollers, other->pollers);
    assert_int_equal(one->workers, other->workers);
    assert_int_equal(one->shutdown_grace, other->shutdown_grace);
    assert_same_text(one->metrics_address, other->metrics_address);
    assert_int_equal(one->log_level, other->log_level);
}

/* What is printed of CONF; the caller frees it. */
static char *print(const struct conf *conf)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    conf_print(conf, out);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(strlen(text), size);
    return text;
}

/* Printed, and read again, CONF is the same. */
static void assert_comes_back(const struct conf *conf)
{
    struct loaded loaded;
    char *text = print(conf);
    load(text, strlen(text), &loaded);
    assert_string_equal(loaded.printed, "");
    assert_int_equal(loaded.rc, 0);
    assert_same(conf, &loaded.conf);
    unload(&loaded);
    free(text);
}

static void assert_text_comes_back(const char *text)
{
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    assert_int_equal(loaded.rc, 0);
    assert_comes_back(&loaded.conf);
    unload(&loaded);
}

static void test_every_key_comes_back(void **state)
{
    (void)state;
    assert_text_comes_back(EVERY_KEY);
}

/* Each key on its own: none is forgotten because of another, or printed under no heading. */
static void test_single_keys_come_back(void **state)
{
    (void)state;
    static const char *const texts[] = {
        BOTH,
        BOTH "limits: {message: 1GiB}\n",
        BOTH "limits: {streams: 1}\n",
        BOTH "threads: {pollers: 64}\n",
        BOTH "threads: {workers: 1}\n",
        BOTH "shutdown-grace: 0s\n",
        BOTH "shutdown-grace: 61s\n",
        BOTH "log: {level: error}\n",
        BOTH "log: {level: warning}\n",
        BOTH "log: {level: info}\n",
        BOTH "metrics: {address: '127.0.0.1:8982'}\n",
        BOTH "metrics: {address: 'LocalHost:8982'}\n",
        BOTH "    quota: 1B\n",
        BOTH "    quota: 9223372036854775807B\n",
        BOTH "    quota: 1023GiB\n",
        BOTH "    index-quota: 1MiB\n",
        BOTH "    index-quota: 1048577B\n",
        BOTH "    expire-after: 1s\n",
        BOTH "    expire-after: 36500d\n",
        BOTH "    digest-functions: [sha1]\n",
        BOTH "    digest-functions: [sha256, sha512]\n",
        BOTH "    push: []\n",
        BOTH "    pull: []\n",
        BOTH "    name: ''\n",
        BOTH "    index-only: true\n",
        BOTH CAS,
        BOTH CAS_AT("grpcs://a:1") "      tls: {ca: /etc/passwd}\n",
        BOTH CAS_AT("grpcs://a:1") "      tls: {certificate: /etc/passwd, key: /etc/group}\n",
        BOTH CAS_AT("unix:/nowhere/cas") "      trust: 30d\n      instance-name: 'no'\n",
        LISTENERS "    instances: ['']\n" INSTANCES,
        LISTENERS "    access: admin\n    socket-mode: '0007'\n" INSTANCES,
        LISTENERS "    access: write\n    socket-mode: '0777'\n" INSTANCES,
        "listeners:\n  - {address: '[::1]:1', tls: {certificate: /etc/passwd, key: "
        "/etc/hosts}}\n" INSTANCES,
        "listeners:\n  - {address: 'a:1', tls: {certificate: /etc/passwd, key: /etc/hosts,\n"
        "     client-ca: /etc/group}}\n" INSTANCES,
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_text_comes_back(texts[i]);
}

static void test_shipped_files_come_back(void **state)
{
    (void)state;
    static const char *const paths[] = {"config/minimal.yaml", "config/full.yaml"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct loaded loaded;
        load_file(paths[i], &loaded);
        assert_int_equal(loaded.rc, 0);
        assert_comes_back(&loaded.conf);
        unload(&loaded);
    }
}

/* What YAML would take for something else than these bytes, without quotes or even with them. */
static const char *const odd_texts[] = {"null",
                                        "NULL",
                                        "~",
                                        "true",
                                        "Off",
                                        "y",
                                        "1",
                                        "0x10",
                                        "1e3",
                                        "12:30:45",
                                        ".5",
                                        "-",
                                        "- a",
                                        "?",
                                        "? a",
                                        ":",
                                        "a:",
                                        "a: b",
                                        "a:b",
                                        ":a",
                                        "#",
                                        "#a",
                                        "a #b",
                                        "a#b",
                                        "[a]",
                                        "a]",
                                        "{a: b}",
                                        "a}",
                                        "a,b",
                                        ",",
                                        "&a",
                                        "*a",
                                        "!a",
                                        "!!str a",
                                        "|",
                                        ">",
                                        "%a",
                                        "@a",
                                        "`a`",
                                        "'",
                                        "'a'",
                                        "\"",
                                        "\"a\"",
                                        "a\"b",
                                        "\\",
                                        "a\\nb",
                                        "\\x41",
                                        "=",
                                        "<<",
                                        "---",
                                        "...",
                                        " ",
                                        " a",
                                        "a ",
                                        "a  b",
                                        "\xc2\x80",
                                        "\xc2\x85",
                                        "\xc2\xa0",
                                        "\xc3\xbc",
                                        "\xe2\x80\xa8",
                                        "\xe2\x80\xa9",
                                        "\xef\xbb\xbf",
                                        "a\xef\xbb\xbf",
                                        "\xef\xbf\xbe",
                                        "\xef\xbf\xbf",
                                        "\xed\x9f\xbf",
                                        "\xee\x80\x80",
                                        "\xf0\x90\x80\x80",
                                        "\xf0\x9f\x98\x80",
                                        "\xf4\x8f\xbf\xbf"};

static void test_odd_texts_come_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(odd_texts) / sizeof(odd_texts[0]); i++) {
        char storage[256], address[256];
        const char *names[] = {odd_texts[i], ""};
        struct conf conf;
        struct conf_listener listener;
        struct conf_instance instances[2];
        conf_set_defaults(&conf);
        conf.listeners = &listener;
        conf.listener_count = 1;
        conf.instances = instances;
        conf.instance_count = 2;
        conf_listener_set_defaults(&listener);
        conf_instance_set_defaults(&instances[0]);
        conf_instance_set_defaults(&instances[1]);
        (void)snprintf(address, sizeof(address), "unix:/nowhere/%s/%s", odd_texts[i], odd_texts[i]);
        listener.address = address;
        listener.path = address + strlen("unix:");
        listener.instances = (struct conf_names){.names = names, .count = 2};
        (void)snprintf(storage, sizeof(storage), "/nowhere/%s", odd_texts[i]);
        instances[0].storage = storage;
        instances[1].name = odd_texts[i];
        instances[1].storage = "/elsewhere";
        assert_comes_back(&conf);
        conf_fini(&conf);
    }
}

/* --- command lines --- */

enum { ARGUMENTS_MAX = 20 };

/* What the arguments, which end with NULL, mean as a file. */
static void assert_line_comes_back(const char *const *arguments, struct conf *conf)
{
    char *argv[ARGUMENTS_MAX + 1];
    enum conf_action action;
    struct err err;
    int argc = 0;
    for (; arguments[argc] != NULL; argc++) {
        assert_true(argc < ARGUMENTS_MAX);
        argv[argc] = (char *)(uintptr_t)arguments[argc];
    }
    argv[argc] = NULL;
    assert_int_equal(conf_from_arguments(argc, argv, conf, &action, &err), 0);
    assert_int_equal(action, CONF_PRINT);
    assert_comes_back(conf);
}

#define LINE(...)                                     \
    {                                                 \
        "assetd", "--print-config", __VA_ARGS__, NULL \
    }
#define FILES                                                                     \
    "--server-key", "config/full.yaml", "--server-cert", "./config/minimal.yaml", \
        "--client-certs", "/etc/passwd"

static void test_command_lines_come_back(void **state)
{
    (void)state;
    static const char *const lines[][ARGUMENTS_MAX + 1] = {
        LINE("-p", "11001", "cache"),
        LINE("--port", "11001", "--index-only", "/srv/cache"),
        LINE("-p1", "--enable-push", "--bind", "127.0.0.1", "--quota", "10000000000", "cache"),
        LINE("-p1", "--enable-push", "--bind", "::1", "--quota", "10000000001", "cache"),
        LINE("-p1", "--bind", "localhost", "--quota", "1", "--log-level", "trace", "cache"),
        LINE("-p1", "--log-level", "info", "--", "-cache"),
        LINE("-p1", "--server-key", "Makefile", "--server-cert", "Makefile", "cache"),
        LINE("-p1", "--enable-push", FILES, "a b: #c'\"\\"),
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct conf conf;
        assert_line_comes_back(lines[i], &conf);
        conf_fini(&conf);
    }
}

static void test_paths_are_whole_ones(void **state)
{
    (void)state;
    static const struct {
        const char *repo;
        const char *expected; /* behind the directory that the test runs in */
    } cases[] = {
        {"cache", "/cache"}, {"./cache", "/cache"},     {".", ""},     {"./", ""},
        {".//a/", "/a/"},    {"../cache", "/../cache"}, {".a", "/.a"}, {"...", "/..."},
    };
    char *directory = getcwd(NULL, 0);
    assert_non_null(directory);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct conf conf;
        char *expected = NULL;
        assert_true(asprintf(&expected, "%s%s", directory, cases[i].expected) >= 0);
        const char *const line[] = LINE("-p1", "--enable-push", FILES, cases[i].repo);
        assert_line_comes_back(line, &conf);
        assert_string_equal(conf.instances[0].storage, expected);
        free(expected);
        assert_true(asprintf(&expected, "%s/config/minimal.yaml", directory) >= 0);
        assert_string_equal(conf.listeners[0].tls->certificate, expected);
        assert_string_equal(conf.listeners[0].tls->client_ca, "/etc/passwd");
        free(expected);
        conf_fini(&conf);
    }
    free(directory);
}

/* As somebody who moves over will see it. */
static void test_the_text(void **state)
{
    (void)state;
    static const char *const line[] =
        LINE("-p", "11002", "--enable-push", "--server-key", "/etc/group", "--server-cert",
             "/etc/passwd", "--client-certs", "/etc/hosts", "/srv/cache");
    struct conf conf;
    assert_line_comes_back(line, &conf);
    char *text = print(&conf);
    const char *begin = strstr(text, "\nlisteners:");
    assert_non_null(begin);
    assert_int_equal(text[0], '#');
    assert_string_equal(begin, "\n"
                               "listeners:\n"
                               "  - address: \"[::]:11002\"\n"
                               "    access: write\n"
                               "    tls:\n"
                               "      certificate: /etc/passwd\n"
                               "      key: /etc/group\n"
                               "      client-ca: /etc/hosts\n"
                               "      client: require\n"
                               "instances:\n"
                               "  - name: \"\"\n"
                               "    storage: /srv/cache\n"
                               "    quota: 10GB\n"
                               "log:\n"
                               "  level: warning\n");
    free(text);
    conf_fini(&conf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_key_comes_back),
        cmocka_unit_test(test_single_keys_come_back),
        cmocka_unit_test(test_shipped_files_come_back),
        cmocka_unit_test(test_odd_texts_come_back),
        cmocka_unit_test(test_command_lines_come_back),
        cmocka_unit_test(test_paths_are_whole_ones),
        cmocka_unit_test(test_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
