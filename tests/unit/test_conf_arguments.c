/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: with a file, as bst-artifact-server had it, and when it is wrong. */
#include "conf_text.h"

#include <fcntl.h>

enum { ARGUMENTS_MAX = 16 };

/* A command line that was taken, and what was printed on the way. */
struct taken {
    struct conf conf;
    enum conf_action action;
    struct err err;
    int rc;
    char printed[2048];
};

/* Runs with the descriptor FD turned to a file in memory, and gives what was written there. */
static void begin_capture(int fd, int *saved)
{
    int file = memfd_create("output", MFD_CLOEXEC);
    assert_true(file >= 0);
    (void)fflush(NULL);
    *saved = dup(fd);
    assert_true(*saved >= 0);
    assert_true(dup2(file, fd) >= 0);
    assert_int_equal(close(file), 0);
}

static void end_capture(int fd, int saved, char *text, size_t size)
{
    (void)fflush(NULL);
    ssize_t length = pread(fd, text, size - 1, 0);
    assert_true(dup2(saved, fd) >= 0);
    assert_int_equal(close(saved), 0);
    assert_true(length >= 0);
    text[length] = '\0';
}

/* LINE is split at single blanks; '' stands for an empty argument. */
static void take(const char *line, struct taken *taken)
{
    char *arguments[ARGUMENTS_MAX + 1];
    static char words[256];
    int count = 0, saved;
    assert_true((size_t)snprintf(words, sizeof(words), "%s", line) < sizeof(words));
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(count < ARGUMENTS_MAX);
        if (strcmp(word, "''") == 0)
            word[0] = '\0';
        arguments[count++] = word;
    }
    arguments[count] = NULL;
    begin_capture(STDERR_FILENO, &saved);
    taken->rc = conf_from_arguments(count, arguments, &taken->conf, &taken->action, &taken->err);
    end_capture(STDERR_FILENO, saved, taken->printed, sizeof(taken->printed));
}

/* Whether PATH is NAME in the directory that the test runs in. */
static void assert_here(const char *path, const char *name)
{
    char *expected = NULL, *directory = getcwd(NULL, 0);
    assert_non_null(directory);
    assert_true(asprintf(&expected, "%s/%s", directory, name) >= 0);
    assert_string_equal(path, expected);
    free(expected);
    free(directory);
}

static void test_least_of_the_old_server(void **state)
{
    (void)state;
    struct taken taken;
    take("bst-artifact-server --port 11001 cache", &taken);
    assert_int_equal(taken.rc, 0);
    assert_string_equal(taken.printed, "");
    assert_int_equal(taken.action, CONF_SERVE);
    assert_int_equal(taken.conf.listener_count, 1);
    const struct conf_listener *listener = &taken.conf.listeners[0];
    assert_string_equal(listener->address, "[::]:11001");
    assert_null(listener->path);
    assert_int_equal(listener->access, CONF_ACCESS_READ);
    assert_true(listener->instances.any);
    assert_null(listener->identity);
    assert_int_equal(taken.conf.instance_count, 1);
    const struct conf_instance *instance = &taken.conf.instances[0];
    assert_string_equal(instance->name, "");
    assert_here(instance->storage, "cache");
    assert_false(instance->index_only);
    assert_int_equal(instance->quota, 10000000000);
    assert_int_equal(instance->digest_function_count, 1);
    assert_int_equal(instance->digest_functions[0], DIGEST_SHA256);
    assert_true(instance->push.any);
    assert_true(instance->pull.any);
    assert_int_equal(taken.conf.log_level, LOG_LEVEL_WARNING);
    assert_int_equal(taken.conf.message_limit, 16 << 20);
    assert_int_equal(taken.conf.workers, 8);
    conf_fini(&taken.conf);
}

static void test_all_of_the_old_server(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "assetd -p 1 --bind ::1 --enable-push --quota 5000 --log-level trace /srv/cache",
        "assetd -p1 --bind=[::1] --enable-push --quota=5kB --log-level=trace /srv/cache",
        "assetd --quota 7 /srv/cache -p 1 --enable-push --bind ::1 --quota 5kB --log-level trace",
        "assetd -p 1 --bind ::1 --enable-push --quota 5000 --log-level trace -- /srv/cache",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct taken taken;
        take(lines[i], &taken);
        assert_int_equal(taken.rc, 0);
        assert_string_equal(taken.printed, "");
        assert_int_equal(taken.action, CONF_SERVE);
        assert_string_equal(taken.conf.listeners[0].address, "[::1]:1");
        assert_int_equal(taken.conf.listeners[0].access, CONF_ACCESS_WRITE);
        assert_string_equal(taken.conf.instances[0].storage, "/srv/cache");
        assert_int_equal(taken.conf.instances[0].quota, 5000);
        assert_int_equal(taken.conf.log_level, LOG_LEVEL_TRACE);
        conf_fini(&taken.conf);
    }
}

static void test_tls_of_the_old_server(void **state)
{
    (void)state;
    struct taken taken;
    take("bst-artifact-server --port 11001 --server-key k --server-cert c cache", &taken);
    assert_int_equal(taken.rc, 0);
    assert_string_equal(taken.printed, "");
    const struct conf_listener *listener = &taken.conf.listeners[0];
    assert_int_equal(listener->access, CONF_ACCESS_READ);
    assert_non_null(listener->tls);
    assert_here(listener->tls->certificate, "c");
    assert_here(listener->tls->key, "k");
    assert_null(listener->tls->client_ca);
    assert_int_equal(listener->tls->client, CONF_CLIENT_ANYONE);
    conf_fini(&taken.conf);
    take("bst-artifact-server --port 11002 --server-key k --server-cert c --client-certs a "
         "--enable-push cache",
         &taken);
    assert_int_equal(taken.rc, 0);
    assert_string_equal(taken.printed, "");
    listener = &taken.conf.listeners[0];
    assert_int_equal(listener->access, CONF_ACCESS_WRITE);
    assert_non_null(listener->tls);
    assert_here(listener->tls->client_ca, "a");
    assert_int_equal(listener->tls->client, CONF_CLIENT_REQUIRE);
    conf_fini(&taken.conf);
    take("bst-artifact-server --port 11001 cache", &taken);
    assert_int_equal(taken.rc, 0);
    assert_null(taken.conf.listeners[0].tls);
    conf_fini(&taken.conf);
}

/* The paths stay as they are where the server could not go by whole ones. */
static void test_a_directory_that_is_gone(void **state)
{
    (void)state;
    char directory[] = "/tmp/assetd-test-XXXXXX";
    int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct taken taken;
    assert_true(here >= 0);
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
    assert_int_equal(rmdir(directory), 0);
    take("bst-artifact-server --port 1 --server-key k --server-cert ../c cache", &taken);
    assert_int_equal(fchdir(here), 0);
    assert_int_equal(close(here), 0);
    assert_int_equal(taken.rc, 0);
    assert_string_equal(taken.conf.instances[0].storage, "cache");
    assert_string_equal(taken.conf.listeners[0].tls->key, "k");
    assert_string_equal(taken.conf.listeners[0].tls->certificate, "../c");
    conf_fini(&taken.conf);
}

static void test_warnings(void **state)
{
    (void)state;
#define ANYONE(more)                                                                       \
    "--enable-push: warning: anyone who can reach [::]:11002 can write; add " more ", or " \
    "--bind 127.0.0.1 with nginx in front\n"
    static const struct {
        const char *line;
        const char *expected;
    } cases[] = {
        {"assetd -p 11002 --enable-push --index-only cache",
         ANYONE("--server-key, --server-cert and --client-certs")},
        {"assetd -p 11002 --enable-push --server-key k --server-cert c cache",
         ANYONE("--client-certs FILE")},
        {"assetd -p 11002 --enable-push --server-key k --server-cert c --client-certs a cache", ""},
        {"assetd -p 11002 --enable-push --bind 127.0.0.1 cache", ""},
        {"assetd -p 11002 --server-key k --server-cert c cache", ""},
        {"assetd -p 11002 --index-only --quota 5GiB cache",
         "--quota: warning: is that of the CAS, and does nothing with --index-only\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct taken taken;
        take(cases[i].line, &taken);
        assert_int_equal(taken.rc, 0);
        assert_string_equal(taken.printed, cases[i].expected);
        conf_fini(&taken.conf);
    }
}

static void test_files(void **state)
{
    (void)state;
    struct taken taken;
    take("assetd --config config/minimal.yaml", &taken);
    assert_int_equal(taken.rc, 0);
    assert_int_equal(taken.action, CONF_SERVE);
    assert_int_equal(taken.conf.listener_count, 2);
    conf_fini(&taken.conf);
    take("assetd --check --config=config/full.yaml", &taken);
    assert_int_equal(taken.rc, 0);
    assert_int_equal(taken.action, CONF_CHECK);
    assert_string_equal(taken.printed, "");
    conf_fini(&taken.conf);
    take("assetd --config /nowhere/assetd.yaml --check", &taken);
    assert_int_equal(taken.rc, -ERR_NOT_FOUND);
    assert_int_equal(taken.action, CONF_CHECK);
    conf_fini(&taken.conf);
    take("assetd --config /dev/null --check", &taken);
    assert_int_equal(taken.rc, -ERR_PRECONDITION);
    assert_string_equal(taken.printed, "/dev/null:1:1: (file): is empty; see config/minimal.yaml "
                                       "for one to start with\n");
    assert_string_equal(taken.err.msg, "/dev/null has 1 fault");
    conf_fini(&taken.conf);
}

static void test_help_and_version(void **state)
{
    (void)state;
    struct taken taken;
    take("assetd --help", &taken);
    assert_int_equal(taken.rc, 0);
    assert_int_equal(taken.action, CONF_HELP);
    conf_fini(&taken.conf);
    take("assetd --config nowhere --version", &taken);
    assert_int_equal(taken.rc, 0);
    assert_int_equal(taken.action, CONF_VERSION);
    conf_fini(&taken.conf);
}

static void test_printing(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "assetd -p 1 --print-config cache",
        "assetd --print-config --config config/minimal.yaml",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct taken taken;
        take(lines[i], &taken);
        assert_int_equal(taken.rc, 0);
        assert_int_equal(taken.action, CONF_PRINT);
        assert_true(taken.conf.listener_count > 0);
        conf_fini(&taken.conf);
    }
}

/* The text of --help for PROGRAM, which is of short lines. */
static void take_usage(const char *program, char *text, size_t size)
{
    int saved;
    begin_capture(STDOUT_FILENO, &saved);
    conf_print_usage(program);
    end_capture(STDOUT_FILENO, saved, text, size);
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        assert_non_null(strchr(line, '\n'));
        assert_true(strcspn(line, "\n") <= 80);
    }
}

static void test_usage_names_every_option(void **state)
{
    (void)state;
    static const char *const programs[] = {"/usr/bin/assetd", "bst-artifact-server"};
    static const char *const expected[] = {
        "--config FILE ",
        "--check ",
        "-p, --port N ",
        "--bind ADDRESS ",
        "--enable-push ",
        "--quota BYTES ",
        "--index-only ",
        "--log-level LEVEL ",
        "--server-key FILE ",
        "--server-cert FILE ",
        "--client-certs FILE ",
        "--print-config ",
        "--help ",
        "--version ",
        "(default: 10GB)",
        "(default: all)",
        "(default: warning)",
        "(default: read only)",
    };
    char text[4096];
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        take_usage(programs[i], text, sizeof(text));
        for (size_t j = 0; j < sizeof(expected) / sizeof(expected[0]); j++)
            assert_non_null(strstr(text, expected[j]));
    }
}

/* Whoever calls the old program is shown its command line first. */
static void test_usage_by_name(void **state)
{
    (void)state;
    static const char assetd[] = "usage: assetd --config FILE [--check]\n"
                                 "       assetd --port N [OPTION]... REPO\n";
    static const char old[] = "usage: bst-artifact-server --port N [OPTION]... REPO\n"
                              "       bst-artifact-server --config FILE [--check]\n";
    char text[4096];
    take_usage("/usr/bin/assetd", text, sizeof(text));
    assert_memory_equal(text, assetd, strlen(assetd));
    assert_true(strstr(text, "--config FILE  ") < strstr(text, "--port N  "));
    take_usage("/usr/local/bin/bst-artifact-server", text, sizeof(text));
    assert_memory_equal(text, old, strlen(old));
    assert_true(strstr(text, "--port N  ") < strstr(text, "--config FILE  "));
    assert_non_null(strstr(text, "bst-artifact-server(8)"));
}

static void test_usage_errors(void **state)
{
    (void)state;
#define BOTH_NEEDED(which) \
    "--server-key and --server-cert are both needed for TLS; give --server-" which " FILE as well"
#define NOT_IN_A_FILE(path)                                                                     \
    "--print-config: \"" path "\" cannot stand in a file; choose a path of UTF-8 without line " \
    "breaks and other control characters"
#define NO_TLS "--client-certs is for TLS; give --server-key FILE and --server-cert FILE as well"
    static const struct {
        const char *line;
        const char *expected;
    } cases[] = {
        {"assetd", "nothing to serve; give --config FILE, or --port N REPO"},
        {"assetd cache", "--port is missing; give --port N, such as --port 11001"},
        {"assetd --port 1", "REPO is missing, the directory to keep the cache in"},
        {"assetd --port 1 ''", "REPO is missing, the directory to keep the cache in"},
        {"assetd --port 1 a b", "b: there can be one REPO only, and it is a"},
        {"assetd --port", "--port needs a value: --port N"},
        {"assetd --port= a", "--port has an empty value; write --port N"},
        {"assetd --port '' a", "--port has an empty value; write --port N"},
        {"assetd --port x a", "--port: \"x\" is no whole number"},
        {"assetd --port -1 a", "--port: \"-1\" is no whole number"},
        {"assetd --port 0 a", "--port: \"0\" is no port; give a number from 1 to 65535"},
        {"assetd --port 65536 a", "--port: \"65536\" is no port; give a number from 1 to 65535"},
        {"assetd --port 99999999999999999999 a",
         "--port: \"99999999999999999999\" is too large a number"},
        {"assetd --port 1 --bind a/b c", "--bind: \"a/b\" is no IP address or host name"},
        {"assetd --port 1 --bind 1.2.3 c", "--bind: \"1.2.3\" is no IP address or host name"},
        {"assetd --port 1 --bind unix:/a c", "--bind: \"unix:/a\" is no IP address or host name"},
        {"assetd --port 1 --quota 5G a",
         "--quota: \"5G\" is no size; write a whole number and its unit (B, KiB, MiB, GiB, TiB, "
         "kB, MB, GB or TB), such as 5GiB"},
        {"assetd --port 1 --quota 0 a",
         "--quota: nothing fits in 0 bytes; write a size such as 50GiB"},
        {"assetd --port 1 --quota 9999999TiB a", "--quota: \"9999999TiB\" is too large a number"},
        {"assetd --port 1 --log-level debug a",
         "--log-level: \"debug\" must be warning, info or trace"},
        {"assetd --port 1 --enable-push=1 a", "--enable-push takes no value"},
        {"assetd --prot 1 a", "there is no option --prot; did you mean --port?"},
        {"assetd --enable a", "there is no option --enable"},
        {"assetd -q a", "there is no option -q"},
        {"assetd --check", "--check needs the file to check: --config FILE --check"},
        {"assetd --config", "--config needs a value: --config FILE"},
        {"assetd --config config/full.yaml --port 1",
         "--port cannot go with --config; write it in the file"},
        {"assetd --config config/full.yaml --server-key k",
         "--server-key cannot go with --config; write it in the file"},
        {"assetd --config config/full.yaml cache",
         "cache: REPO cannot go with --config; name it as storage in the file"},
        {"assetd --config config/full.yaml --check --print-config",
         "--check and --print-config cannot go together; --print-config says what is wrong as "
         "well"},
        {"assetd --print-config", "nothing to serve; give --config FILE, or --port N REPO"},
        {"assetd --port 1 --print-config bad\xff", NOT_IN_A_FILE("bad?")},
        {"assetd --port 1 --print-config bad\n", NOT_IN_A_FILE("bad\n")},
        {"assetd --port 1 --print-config --server-cert c --server-key bad\x1b a",
         NOT_IN_A_FILE("bad\x1b")},
        {"assetd --port 1 --server-key k a", BOTH_NEEDED("cert")},
        {"assetd --port 1 --server-cert c a", BOTH_NEEDED("key")},
        {"assetd --port 1 --server-key k --client-certs c a", BOTH_NEEDED("cert")},
        {"assetd --port 1 --client-certs c a", NO_TLS},
        {"assetd --port 1 --server-key '' --server-cert c a",
         "--server-key has an empty value; write --server-key FILE"},
        {"assetd --port 1 --server-key k --server-cert c --client-certs '' a",
         "--client-certs has an empty value; write --client-certs FILE"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct taken taken;
        char expected[ERR_MESSAGE_SIZE];
        take(cases[i].line, &taken);
        (void)snprintf(expected, sizeof(expected), "%s (see assetd --help)", cases[i].expected);
        assert_int_equal(taken.rc, -ERR_INVALID);
        assert_string_equal(taken.err.msg, expected);
        assert_string_equal(taken.printed, "");
        conf_fini(&taken.conf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_of_the_old_server),
        cmocka_unit_test(test_all_of_the_old_server),
        cmocka_unit_test(test_tls_of_the_old_server),
        cmocka_unit_test(test_a_directory_that_is_gone),
        cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_printing),
        cmocka_unit_test(test_usage_names_every_option),
        cmocka_unit_test(test_usage_by_name),
        cmocka_unit_test(test_usage_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
