/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with the `cas` of an instance: its addresses, files, and this server as a CAS. */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "conf_text.h"

#define FILE_KEY "instances[0].cas.tls."

static void test_shape(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {BOTH CAS, ""},
        {BOTH "    index-only: true\n    cas: {}\n",
         "6:10: instances[0].cas: has no address, which it needs"},
        {BOTH "    index-only: true\n    cas: grpc://buildbarn:8980\n",
         "6:10: instances[0].cas: must be a mapping (key: value), not a single value"},
        {BOTH "    index-only: true\n    cas:\n",
         "6:9: instances[0].cas: has no value; give it a mapping (key: value), or remove the key"},
        {BOTH CAS "      instance: main\n",
         "8:7: instances[0].cas.instance: is no key here; allowed are address, instance-name, tls, "
         "token-file, trust, timeout, connections, on-unavailable"},
        {BOTH CAS "      instance-name: a/blobs\n",
         "8:22: instances[0].cas.instance-name: the segment \"blobs\" is reserved by the Remote "
         "Execution API; choose another"},
        {BOTH CAS "      instance-name: a//b\n",
         "8:22: instances[0].cas.instance-name: \"a//b\" has an empty segment; single slashes go "
         "between segments only"},
        {BOTH CAS "      instance-name: \"\"\n", ""},
    };
    ASSERT_CASES(cases);
}

static void test_it_is_for_index_only_instances(void **state)
{
    (void)state;
#define NOT_INDEX_ONLY                                                                          \
    "instances[0].cas: is for instances without a CAS of their own; write index-only: true as " \
    "well, or remove it"
    static const struct fault_case cases[] = {
        {BOTH "    cas: {address: grpc://buildbarn:8980}\n", "5:5: " NOT_INDEX_ONLY},
        {BOTH "    index-only: false\n    cas: {address: grpc://buildbarn:8980}\n",
         "6:5: " NOT_INDEX_ONLY},
        {BOTH "    cas: {address: grpc://buildbarn:8980}\n    index-only: true\n", ""},
        /* It is not known what was meant. */
        {BOTH "    index-only: yes\n    cas: {address: grpc://buildbarn:8980}\n",
         "5:17: instances[0].index-only: \"yes\" must be one of true, false"},
        {BOTH "    index-only: [true]\n    cas: {address: grpc://buildbarn:8980}\n",
         "5:17: instances[0].index-only: must be a single value (\"\" for an empty one), not a "
         "list"},
    };
    ASSERT_CASES(cases);
}

static void test_addresses(void **state)
{
    (void)state;
#define BAD_ADDRESS "7:16: instances[0].cas.address: "
#define NO_SERVER                                                                          \
    "\" is no address of a server; write grpc://HOST:PORT, grpcs://HOST:PORT for TLS, or " \
    "unix:/PATH"
    static const struct fault_case cases[] = {
        {BOTH CAS_AT("grpcs://cas.example.com:443"), ""},
        {BOTH CAS_AT("grpc://10.0.0.1:8980"), ""},
        {BOTH CAS_AT("grpcs://[2001:db8::1]:8980"), ""},
        {BOTH CAS_AT("unix:/nowhere/cas.sock"), ""},
        {BOTH CAS_AT(""), BAD_ADDRESS "\"" NO_SERVER},
        {BOTH CAS_AT("buildbarn:8980"), BAD_ADDRESS "\"buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("http://buildbarn:8980"), BAD_ADDRESS "\"http://buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("https://buildbarn:8980"), BAD_ADDRESS "\"https://buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("dns:///buildbarn:8980"), BAD_ADDRESS "\"dns:///buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("grpc:buildbarn:8980"), BAD_ADDRESS "\"grpc:buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("GRPC://buildbarn:8980"), BAD_ADDRESS "\"GRPC://buildbarn:8980" NO_SERVER},
        {BOTH CAS_AT("grpc://buildbarn"),
         BAD_ADDRESS "has no port; write one, as in buildbarn:8980"},
        {BOTH CAS_AT("grpc://[::1]"), BAD_ADDRESS "has no port; write one, as in [::1]:8980"},
        {BOTH CAS_AT("grpc://10.0.0.1"), BAD_ADDRESS "has no port; write one, as in 10.0.0.1:8980"},
        {BOTH CAS_AT("grpc://buildbarn:"),
         BAD_ADDRESS "\"\" is no port; write a number from 1 to 65535"},
        {BOTH CAS_AT("grpc://buildbarn:65536"),
         BAD_ADDRESS "\"65536\" is no port; write a number from 1 to 65535"},
        {BOTH CAS_AT("grpc://"), BAD_ADDRESS "\"\" names no host and port; write HOST:PORT"},
        {BOTH CAS_AT("grpc://:8980"),
         BAD_ADDRESS "\":8980\" names no host and port; write HOST:PORT"},
        {BOTH CAS_AT("grpc://*:8980"),
         BAD_ADDRESS "\"*:8980\" names no host and port; write HOST:PORT"},
        {BOTH CAS_AT("grpc://me@buildbarn:8980"),
         BAD_ADDRESS "\"me@buildbarn:8980\" names no host and port; write HOST:PORT"},
        {BOTH CAS_AT("grpc://buildbarn:8980/main"),
         BAD_ADDRESS "nothing follows the port; remove \"/main\" (instance-name is for the name of "
                     "an instance)"},
        {BOTH CAS_AT("grpc://buildbarn:8980/"),
         BAD_ADDRESS "nothing follows the port; remove \"/\" (instance-name is for the name of an "
                     "instance)"},
        {BOTH CAS_AT("grpc://::1:8980"),
         BAD_ADDRESS "an IPv6 address is in brackets; write it as in grpc://[::1]:8980"},
        {BOTH CAS_AT("grpc://[buildbarn]:8980"),
         BAD_ADDRESS "\"buildbarn\" is no IPv6 address; only these are in brackets"},
        {BOTH CAS_AT("grpc://10.0.0.256:8980"), BAD_ADDRESS "\"10.0.0.256\" is no IPv4 address"},
        {BOTH CAS_AT("grpc://0.0.0.0:8980"),
         BAD_ADDRESS "0.0.0.0 is to listen at, and leads to no server; on this machine write "
                     "127.0.0.1"},
        {BOTH CAS_AT("grpc://[::]:8980"),
         BAD_ADDRESS ":: is to listen at, and leads to no server; on this machine write 127.0.0.1"},
        {BOTH CAS_AT("unix:cas.sock"),
         BAD_ADDRESS "\"cas.sock\" is no whole path of a socket; write one as in "
                     "unix:/run/cas/cas.sock"},
        {BOTH CAS_AT("unix:/run/"),
         BAD_ADDRESS "\"/run/\" is no whole path of a socket; write one as in "
                     "unix:/run/cas/cas.sock"},
        {BOTH CAS_AT("unix:/etc/passwd"),
         BAD_ADDRESS "/etc/passwd exists and is no socket; write that of the CAS"},
    };
    ASSERT_CASES(cases);
    char path[128];
    memset(path, 'a', 107);
    path[107] = '\0';
    assert_printed_for("", BOTH CAS_AT("unix:/%s"), path + 1);
    assert_printed_for(BAD_ADDRESS "the path of a unix socket has at most 107 bytes, this has 108",
                       BOTH CAS_AT("unix:/%s"), path);
}

static void test_what_is_for_tls(void **state)
{
    (void)state;
#define NO_TLS(address)                                                                     \
    "8:7: instances[0].cas.tls: is for an address with grpcs://, and " address " is none; " \
    "change the address, or remove tls"
    static const struct fault_case cases[] = {
        {BOTH CAS_AT("grpcs://a:1") "      tls: {}\n", ""},
        {BOTH CAS_AT("grpc://a:1") "      tls: {ca: /etc/passwd}\n", NO_TLS("grpc://a:1")},
        {BOTH CAS_AT("unix:/nowhere/cas") "      tls: {}\n", NO_TLS("unix:/nowhere/cas")},
        {BOTH CAS_AT("grpcs://a:1") "      tls: {certificate: /etc/passwd}\n",
         "8:13: " FILE_KEY "certificate: is of no use without its key; write key as well, or "
         "remove it"},
        {BOTH CAS_AT("grpcs://a:1") "      tls: {key: /etc/passwd}\n",
         "8:13: " FILE_KEY "key: is of no use without its certificate; write certificate as well, "
         "or remove it"},
        {BOTH CAS_AT("grpcs://a:1") "      tls: {cert: /etc/passwd}\n",
         "8:13: " FILE_KEY "cert: is no key here; allowed are ca, certificate, key"},
    };
    ASSERT_CASES(cases);
}

/* Whoever is on the way to the CAS could read it, and write there as we may. */
static void test_a_token_is_not_sent_in_clear(void **state)
{
    (void)state;
    static const char *const good[] = {
        "grpcs://buildbarn:8980", "grpc://127.0.0.1:8980", "grpc://127.1.2.3:8980",
        "grpc://[::1]:8980",      "grpc://localhost:8980", "grpc://[::ffff:127.0.0.1]:8980",
        "unix:/nowhere/cas.sock",
    };
    static const char *const bad[] = {
        "grpc://buildbarn:8980",
        "grpc://10.0.0.1:8980",
        "grpc://128.0.0.1:8980",
        "grpc://[::2]:8980",
        "grpc://localhost.example.com:8980",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_printed_for("", BOTH CAS_AT("%s") "      token-file: /etc/passwd\n", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char expected[256];
        (void)snprintf(expected, sizeof(expected),
                       "8:7: instances[0].cas.token-file: anyone on the way to %s could read the "
                       "token; change the address to grpcs://HOST:PORT, or remove token-file",
                       bad[i]);
        assert_printed_for(expected, BOTH CAS_AT("%s") "      token-file: /etc/passwd\n", bad[i]);
    }
}

#define BY_TLS BOTH CAS_AT("grpcs://buildbarn:8980")

static void test_files(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {BY_TLS "      tls: {ca: ca.crt}\n",
         "8:17: " FILE_KEY "ca: \"ca.crt\" is no whole path; write it from / on, such as "
         "/etc/assetd/cas/ca.crt"},
        {BY_TLS "      tls: {ca: /nowhere/ca, certificate: /nowhere/crt, key: /nowhere/key}\n"
                "      token-file: /nowhere/token\n",
         "8:17: " FILE_KEY "ca: there is no file /nowhere/ca; put it there, or name another\n"
         "8:43: " FILE_KEY "certificate: there is no file /nowhere/crt; put it there, or name "
         "another\n"
         "8:62: " FILE_KEY "key: there is no file /nowhere/key; put it there, or name another\n"
         "9:19: instances[0].cas.token-file: there is no file /nowhere/token; put it there, or "
         "name another"},
        {BY_TLS "      tls: {ca: /etc}\n", "8:17: " FILE_KEY "ca: /etc is no regular file"},
        {BY_TLS "      token-file: /dev/zero\n",
         "8:19: instances[0].cas.token-file: /dev/zero is no regular file"},
        {BY_TLS "      tls: {ca: /etc/passwd/ca}\n",
         "8:17: " FILE_KEY "ca: /etc/passwd/ca: Not a directory"},
    };
    ASSERT_CASES(cases);
}

/* Who checks need not be who serves. */
static void test_files_that_cannot_be_read_are_warned_of(void **state)
{
    (void)state;
    enum { NOBODY = 65534 };
    char top[] = "/tmp/test_conf.XXXXXX", path[64], text[512], expected[512];
    bool is_root = geteuid() == 0;
    assert_non_null(mkdtemp(top));
    (void)snprintf(path, sizeof(path), "%s/token", top);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    (void)snprintf(text, sizeof(text), BY_TLS "      token-file: %s\n", path);
    assert_printed(text, "");
    (void)snprintf(expected, sizeof(expected), ": instances[0].cas.token-file: warning: user ");
    for (int i = 0; i < 2; i++) { /* neither the file, nor what it is in */
        struct loaded loaded;
        assert_int_equal(i == 0 ? chmod(path, 0) : chmod(top, 0), 0);
        assert_int_equal(is_root ? seteuid(NOBODY) : 0, 0);
        load(text, strlen(text), &loaded);
        assert_int_equal(is_root ? seteuid(0) : 0, 0);
        assert_int_equal(loaded.rc, 0);
        assert_non_null(strstr(loaded.printed, expected));
        assert_non_null(strstr(loaded.printed, " may not read "));
        assert_non_null(strstr(loaded.printed, "; the user that assetd runs as must be able to\n"));
        assert_string_equal(loaded.conf.instances[0].cas->token_file, path);
        unload(&loaded);
    }
    assert_int_equal(chmod(top, 0700), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(top), 0);
}

/* --- this server as its own CAS --- */

#define SITE(listener, instance, cas) \
    "listeners: [" listener "]\n"     \
    "instances: [{storage: /nowhere/a, index-only: true, cas: {" cas "}},\n  " instance "]\n"
#define LEADS \
    "2:68: instances[0].cas.address: leads to listeners[0].address of this server in line 1, "
#define OTHER "{name: b, storage: /nowhere/b}"

static void test_an_instance_does_not_ask_itself(void **state)
{
    (void)state;
#define ITSELF                                                                                   \
    LEADS "whose instance \"\" is index-only and has no CAS; name another as instance-name, or " \
          "write the address of the CAS"
    static const struct fault_case cases[] = {
        {SITE("{address: 'unix:/nowhere/s'}", OTHER, "address: 'unix:/nowhere/s'"), ITSELF},
        {SITE("{address: 'unix:/nowhere/s'}", OTHER, "address: 'unix:/nowhere/x/../s'"), ITSELF},
        {SITE("{address: '127.0.0.1:1'}", OTHER, "address: 'grpc://127.0.0.1:1'"), ITSELF},
        {SITE("{address: '127.0.0.1:1'}", OTHER, "address: 'grpc://localhost:1'"), ITSELF},
        {SITE("{address: '[::]:1'}", OTHER, "address: 'grpc://127.0.0.1:1'"), ITSELF},
        {SITE("{address: '0.0.0.0:1'}", OTHER, "address: 'grpc://localhost:1'"), ITSELF},
        {SITE("{address: '10.0.0.1:1'}", OTHER, "address: 'grpc://10.0.0.1:1'"), ITSELF},
        {SITE("{address: 'a:1'}", OTHER, "address: 'grpc://A:1'"), ITSELF},
        {SITE("{address: '127.0.0.1:1'}", OTHER, "address: 'grpcs://127.0.0.1:1'"),
         LEADS "which speaks no TLS; write grpc://"},
        {SITE("{address: '127.0.0.1:1'}",
              "{name: b, storage: /nowhere/b, index-only: true, cas: {address: "
              "'grpc://localhost:1', "
              "token-file: /nowhere/t}}",
              "address: 'grpc://127.0.0.1:1'"),
         ITSELF "\n"
                "3:67: instances[1].cas.address: leads to listeners[0].address of this server in "
                "line 1, whose instance \"b\" is index-only and has no CAS; name another as "
                "instance-name, or write the address of the CAS\n"
                "3:101: instances[1].cas.token-file: there is no file /nowhere/t; put it there, or "
                "name another"},
        /* Others. */
        {SITE("{address: 'unix:/nowhere/s'}", OTHER, "address: 'unix:/nowhere/t'"), ""},
        {SITE("{address: '127.0.0.1:1'}", OTHER, "address: 'grpc://127.0.0.1:2'"), ""},
        {SITE("{address: '127.0.0.1:1'}", OTHER, "address: 'grpc://127.0.0.2:1'"), ""},
        /* Which may be another machine, whatever is listened at here. */
        {SITE("{address: '[::]:1'}", OTHER, "address: 'grpc://10.0.0.1:1'"), ""},
        {SITE("{address: '0.0.0.0:1'}", OTHER, "address: 'grpc://buildbarn:1'"), ""},
    };
    ASSERT_CASES(cases);
}

static void test_another_instance_of_this_server_may_be_the_cas(void **state)
{
    (void)state;
#define HERE         "{address: 'unix:/nowhere/s'}"
#define B            "address: 'unix:/nowhere/s', instance-name: b"
#define LIMITED      "{name: b, storage: /nowhere/b, pull: [ci]}"
#define TLS(more)    "tls: {certificate: /etc/passwd, key: /etc/group" more "}"
#define CLIENT_CA    ", client-ca: /etc/hosts, client: "
#define TO_B(scheme) "address: '" scheme "://127.0.0.1:1', instance-name: b"
#define WITHOUT      ""
#define WITH         ", tls: {certificate: /etc/passwd, key: /etc/group}"
    static const struct fault_case cases[] = {
        {SITE(HERE, OTHER, B), ""},
        {SITE(HERE, "{name: b, storage: /nowhere/b, push: []}", B), ""},
        {SITE("{address: '127.0.0.1:1', " TLS("") "}", OTHER, TO_B("grpcs") WITHOUT), ""},
        {SITE("{address: '127.0.0.1:1', " TLS("") "}", OTHER, TO_B("grpc") WITHOUT),
         LEADS "which speaks TLS; write grpcs://"},
        {SITE("{address: '127.0.0.1:1', " TLS(CLIENT_CA "request") "}", OTHER,
              TO_B("grpcs") WITHOUT),
         ""},
        {SITE("{address: '127.0.0.1:1', " TLS(CLIENT_CA "require") "}", OTHER,
              TO_B("grpcs") WITHOUT),
         LEADS "which lets in only who has a certificate of its client-ca; write certificate and "
               "key under tls"},
        {SITE("{address: '127.0.0.1:1', " TLS(CLIENT_CA "require") "}", OTHER, TO_B("grpcs") WITH),
         ""},
        {SITE("{address: '127.0.0.1:1', " TLS(CLIENT_CA "request") "}", LIMITED,
              TO_B("grpcs") WITHOUT),
         LEADS "where the pull list of \"b\" refuses callers without an identity, as this would "
               "be; remove that list, or write the address of another CAS"},
        {SITE("{address: '127.0.0.1:1', " TLS(CLIENT_CA "request") "}", LIMITED,
              TO_B("grpcs") WITH),
         ""},
        {SITE(HERE, "{name: b, storage: /nowhere/b, index-only: true}", B),
         LEADS "whose instance \"b\" is index-only and has no CAS; name another as instance-name, "
               "or write the address of the CAS"},
        {SITE(HERE, OTHER, "address: 'unix:/nowhere/s', instance-name: c"),
         LEADS "which serves no instance \"c\"; name one that has a CAS as instance-name, or write "
               "the address of the CAS"},
        {SITE("{address: 'unix:/nowhere/s', instances: ['']}, {address: 'unix:/nowhere/t'}", OTHER,
              B),
         LEADS "which serves no instance \"b\"; name one that has a CAS as instance-name, or write "
               "the address of the CAS"},
        {SITE("{address: 'unix:/nowhere/s', identity: x}", LIMITED, B),
         LEADS "where the pull list of \"b\" refuses callers without an identity, as this would "
               "be; remove that list, or write the address of another CAS"},
        /* On which lists do not count. */
        {SITE("{address: 'unix:/nowhere/s', access: admin},\n"
              " {address: 'unix:/nowhere/t', identity: x}",
              LIMITED, B),
         ""},
    };
    ASSERT_CASES(cases);
}

static void test_a_socket_is_known_by_any_path(void **state)
{
    (void)state;
    char top[] = "/tmp/test_conf.XXXXXX", link[64], expected[512];
    assert_non_null(mkdtemp(top));
    (void)snprintf(link, sizeof(link), "%s/link", top);
    assert_int_equal(symlink(top, link), 0);
    (void)snprintf(expected, sizeof(expected), "%s", ITSELF);
    assert_printed_for(expected, SITE("{address: 'unix:%s/s'}", OTHER, "address: 'unix:%s/s'"), top,
                       link);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(rmdir(top), 0);
}

/* It may be started before, or after us. */
static void test_a_socket_that_exists_or_does_not(void **state)
{
    (void)state;
    char top[] = "/tmp/test_conf.XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(top));
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/cas", top);
    assert_printed_for("", BOTH CAS_AT("unix:%s"), address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_printed_for("", BOTH CAS_AT("unix:%s"), address.sun_path);
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(top), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_it_is_for_index_only_instances),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_what_is_for_tls),
        cmocka_unit_test(test_a_token_is_not_sent_in_clear),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_that_cannot_be_read_are_warned_of),
        cmocka_unit_test(test_an_instance_does_not_ask_itself),
        cmocka_unit_test(test_another_instance_of_this_server_may_be_the_cas),
        cmocka_unit_test(test_a_socket_is_known_by_any_path),
        cmocka_unit_test(test_a_socket_that_exists_or_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
