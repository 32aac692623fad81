/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with a configuration file is told with its place, its path and what to do. */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "conf_text.h"

static void test_syntax(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {"", "1:1: (file): is empty; see config/minimal.yaml for one to start with"},
        {"# nothing\n", "1:1: (file): is empty; see config/minimal.yaml for one to start with"},
        {"---\n", "2:1: (file): has no value; give it a mapping (key: value), or remove the key"},
        {"- a\n", "1:1: (file): must be a mapping (key: value), not a list"},
        {"listeners: [\n", "2:1: (syntax): did not find expected node content, while parsing a "
                           "flow node that begins in line 2"},
        {"a: 'b\n", "2:1: (syntax): found unexpected end of stream, while scanning a quoted scalar "
                    "that begins in line 1"},
        {"listeners:\n\t- address: x\n",
         "2:1: (syntax): found character that cannot start any token; the line begins with a tab: "
         "indent with blanks"},
        {"a: b: c\n", "1:5: (syntax): mapping values are not allowed in this context"},
        {"log:\n  level: \xc3(\n",
         "2:11: (syntax): invalid trailing UTF-8 octet: 0x28; the file must be UTF-8 text"},
        {"log: {\xc3\xa4: \xff}\n",
         "1:10: (syntax): invalid leading UTF-8 octet: 0xff; the file must be UTF-8 text"},
        {"\xff\xfel\0o\0", "1:1: (syntax): invalid leading UTF-8 octet: 0xff; the file must be "
                           "UTF-8 text"},
        {BOTH "log: {level: \"in\\0fo\"}\n", "5:14: log.level: has a line break or another control "
                                             "character; write it on one line"},
        {BOTH "log: {level: \"in\\nfo\"}\n", "5:14: log.level: has a line break or another control "
                                             "character; write it on one line"},
        {BOTH "\"l\\eg\": 1\n", "5:1: l?g: a key must be one word"},
        {BOTH "? [a, b]\n: c\n", "5:3: (file): a key must be one word"},
        {BOTH "---\n" BOTH,
         "5:1: (file): a second document begins; a configuration is one, remove the --- line"},
        {BOTH "log: &l {level: info}\n", "5:6: log: anchors are not supported; remove &l"},
        {LISTENERS "instances:\n  - &a {storage: /nowhere/a}\n  - *a\n",
         "4:5: instances[0]: anchors are not supported; remove &a\n"
         "5:5: instances[1]: aliases are not supported; write the value itself instead of *a"},
        {BOTH "log: {level: !!str info}\n",
         "5:14: log.level: tags are not supported; remove tag:yaml.org,2002:str"},
        {BOTH "log: {level: info}\nlog: {level: trace}\n",
         "6:1: log: is given twice, first in line 5; keep one of them"},
        {BOTH "log: {level: info, level: info}\n",
         "5:20: log.level: is given twice, first in line 5; keep one of them"},
        {"a: [[[[[[[[1]]]]]]]]\n", "1:11: a[0][0][0][0][0][0][0]: is nested more than 8 levels "
                                   "deep"},
    };
    ASSERT_CASES(cases);
}

static void test_keys(void **state)
{
    (void)state;
    static const char all[] = "listeners, instances, limits, threads, shutdown-grace, metrics, log";
    assert_printed_for("1:1: (file): has no listeners, which it needs\n"
                       "1:1: (file): has no instances, which it needs",
                       "log: {level: info}\n");
    char expected[512];
    (void)snprintf(expected, sizeof(expected),
                   "5:1: limit: is no key here; did you mean limits? Allowed are %s\n"
                   "6:1: quota: is no key here; allowed are %s\n",
                   all, all);
    assert_printed(BOTH "limit: {}\nquota: 1GiB\n", expected);
    static const struct fault_case cases[] = {
        {LISTENERS "    acess: write\n" INSTANCES,
         "3:5: listeners[0].acess: is no key here; did you mean access? Allowed are address, "
         "access, instances, socket-mode, socket-group, identity, tls"},
        {BOTH "    digest_functions: [sha256]\n",
         "5:5: instances[0].digest_functions: is no key here; did you mean digest-functions? "
         "Allowed are name, storage, index-only, quota, index-quota, expire-after, "
         "digest-functions, cas, push, pull"},
        {BOTH "limits: {mesage: 1MiB}\n", "5:10: limits.mesage: is no key here; did you mean "
                                          "message? Allowed are message, streams"},
        {BOTH "threads: {x: 1}\n", "5:11: threads.x: is no key here; allowed are pollers, workers"},
        {BOTH "log: {\"\": 1}\n", "5:7: log.: is no key here; allowed are level"},
        {BOTH "log:\n", "5:5: log: has no value; give it a mapping (key: value), or remove the "
                        "key"},
        {BOTH "log: info\n", "5:6: log: must be a mapping (key: value), not a single value"},
        {BOTH "log: {level: [info]}\n",
         "5:14: log.level: must be a single value (\"\" for an empty one), not a list"},
        {BOTH "log: {level: ~}\n", "5:14: log.level: has no value; give it a single value (\"\" "
                                   "for an empty one), or remove the key"},
        {BOTH "metrics: {}\n", "5:10: metrics: has no address, which it needs"},
        {"listeners: []\n" INSTANCES, "1:12: listeners: is empty; it needs at least one"},
        {LISTENERS "instances: []\n", "3:12: instances: is empty; it needs at least one"},
        {"listeners: x\n" INSTANCES, "1:12: listeners: must be a list, not a single value"},
        {"listeners: [x]\n" INSTANCES,
         "1:13: listeners[0]: must be a mapping (key: value), not a single value"},
        {"listeners: [{access: read}]\n" INSTANCES,
         "1:13: listeners[0]: has no address, which it needs"},
        {LISTENERS "instances: [{name: a}]\n",
         "3:13: instances[0]: has no storage, which it needs"},
    };
    ASSERT_CASES(cases);
}

#define AN_ADDRESS(address) "listeners: [{address: \"" address "\"}]\n" INSTANCES
#define BAD_ADDRESS         "1:23: listeners[0].address: "

static void test_addresses(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {AN_ADDRESS("127.0.0.1:8980"), ""},
        {AN_ADDRESS("localhost:65535"), ""},
        {AN_ADDRESS("[::]:1"), ""},
        {AN_ADDRESS(""), BAD_ADDRESS "\"\" is no address; write unix:/PATH, HOST:PORT or "
                                     "[HOST]:PORT"},
        {AN_ADDRESS("8980"), BAD_ADDRESS "\"8980\" is no address; write unix:/PATH, HOST:PORT or "
                                         "[HOST]:PORT"},
        {AN_ADDRESS(":8980"), BAD_ADDRESS "has no host; write [::]:8980 for all addresses"},
        {AN_ADDRESS("*:8980"), BAD_ADDRESS "has no host; write [::]:8980 for all addresses"},
        {AN_ADDRESS("::1:8980"), BAD_ADDRESS "an IPv6 address is written [::1]:8980"},
        {AN_ADDRESS("[::1]"), BAD_ADDRESS "\"1]\" is no port; write a number from 1 to 65535"},
        {AN_ADDRESS("[localhost]:1"),
         BAD_ADDRESS "\"localhost\" is no IPv6 address; only these are in brackets"},
        {AN_ADDRESS("127.0.0.256:1"), BAD_ADDRESS "\"127.0.0.256\" is no IPv4 address"},
        {AN_ADDRESS("http://a:1"),
         BAD_ADDRESS "\"http://a\" is no host; write unix:/PATH, HOST:PORT or [HOST]:PORT"},
        {AN_ADDRESS("a:0"), BAD_ADDRESS "\"0\" is no port; write a number from 1 to 65535"},
        {AN_ADDRESS("a:65536"), BAD_ADDRESS "\"65536\" is no port; write a number from 1 to 65535"},
        {AN_ADDRESS("a:http"), BAD_ADDRESS "\"http\" is no port; write a number from 1 to 65535"},
        {AN_ADDRESS("a:4294967297"),
         BAD_ADDRESS "\"4294967297\" is no port; write a number from 1 to 65535"},
        {AN_ADDRESS("unix:pull.sock"),
         BAD_ADDRESS "the path of a unix socket begins with /, as in unix:/run/assetd/pull.sock"},
        {AN_ADDRESS("unix:/run/"),
         BAD_ADDRESS "the path of a unix socket names a file, as in unix:/run/assetd/pull.sock"},
        {AN_ADDRESS("unix:/etc/passwd"),
         BAD_ADDRESS "/etc/passwd exists and is no socket; choose another path, or remove it"},
    };
    ASSERT_CASES(cases);
    char path[256];
    memset(path, 'a', 107);
    path[107] = '\0';
    assert_printed_for("", "listeners: [{address: \"unix:/%s\"}]\n" INSTANCES, path + 1);
    assert_printed_for(BAD_ADDRESS "the path of a unix socket has at most 107 bytes, this has 108",
                       "listeners: [{address: \"unix:/%s\"}]\n" INSTANCES, path);
    memset(path, 'a', 254);
    path[254] = '\0';
    assert_printed_for(BAD_ADDRESS "the host has more than 253 bytes",
                       "listeners: [{address: \"%s:1\"}]\n" INSTANCES, path);
}

static void test_listener_values(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {LISTENERS "    access: Write\n" INSTANCES,
         "3:13: listeners[0].access: \"Write\" must be one of read, write, admin"},
        {LISTENERS "    socket-mode: 660\n" INSTANCES, ""},
        {LISTENERS "    socket-mode: \"0668\"\n" INSTANCES,
         "3:18: listeners[0].socket-mode: \"0668\" is no mode; write three or four octal digits, "
         "such as \"0660\""},
        {LISTENERS "    socket-mode: \"01777\"\n" INSTANCES,
         "3:18: listeners[0].socket-mode: \"01777\" is more than \"0777\"; write one such as "
         "\"0660\""},
        {LISTENERS "    socket-mode: u=rw\n" INSTANCES,
         "3:18: listeners[0].socket-mode: \"u=rw\" is no mode; write three or four octal digits, "
         "such as \"0660\""},
        {LISTENERS "    socket-group: no such group\n" INSTANCES,
         "3:19: listeners[0].socket-group: there is no group \"no such group\"; make it (addgroup "
         "--system), or name that of the proxy, such as www-data"},
        {LISTENERS "    identity: X-Client\n" INSTANCES,
         "3:15: listeners[0].identity: \"X-Client\" is no metadata key; it is 1 to 64 of a-z 0-9 _ "
         ". -, such as x-client-identity"},
        {LISTENERS "    identity: \":path\"\n" INSTANCES,
         "3:15: listeners[0].identity: \":path\" is no metadata key; it is 1 to 64 of a-z 0-9 _ . "
         "-, such as x-client-identity"},
        {LISTENERS "    identity: \"\"\n" INSTANCES,
         "3:15: listeners[0].identity: \"\" is no metadata key; it is 1 to 64 of a-z 0-9 _ . -, "
         "such as x-client-identity"},
        {LISTENERS "    identity: grpc-client\n" INSTANCES,
         "3:15: listeners[0].identity: begins with grpc-, which gRPC keeps for itself"},
        {LISTENERS "    identity: x-client-bin\n" INSTANCES,
         "3:15: listeners[0].identity: ends with -bin, which gRPC takes for encoded bytes"},
        {LISTENERS "    instances: []\n" INSTANCES,
         "3:16: listeners[0].instances: is empty, so that nothing is served; name instances, or "
         "remove the key to serve all"},
        {LISTENERS "    instances: [\"\", kernel]\n" INSTANCES,
         "3:21: listeners[0].instances[1]: there is no instance \"kernel\"; the list instances "
         "says which there are"},
        {LISTENERS "    instances: [\"\", \"\"]\n" INSTANCES,
         "3:21: listeners[0].instances[1]: \"\" is listed twice, first in line 3"},
    };
    ASSERT_CASES(cases);
}

#define TCP(address, more) "listeners:\n  - address: \"" address "\"\n" more INSTANCES

#define ANYONE_WRITES(address)                                                                   \
    "anyone who can reach " address " can write; ask for their certificates by client-ca under " \
    "tls, or listen at a unix socket or 127.0.0.1, with nginx in front"

static void test_listener_rules(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {TCP("127.0.0.1:1", "    access: admin\n"),
         "3:13: listeners[0].access: admin is only for unix sockets, whose mode says who may "
         "connect; change the address to unix:/PATH"},
        {LISTENERS "    access: admin\n" INSTANCES, ""},
        {TCP("127.0.0.1:1", "    identity: who\n"), ""},
        {TCP("[::ffff:127.0.0.2]:1", "    identity: who\n"), ""},
        {TCP("[::1]:1", "    identity: who\n"), ""},
        {TCP("localhost:1", "    identity: who\n"), ""},
        {TCP("10.0.0.1:1", "    identity: who\n"),
         "3:15: listeners[0].identity: would be believed from anyone who can reach 10.0.0.1:1; "
         "listen at a unix socket or 127.0.0.1, with nginx in front"},
        {TCP("[::]:1", "    identity: who\n"),
         "3:15: listeners[0].identity: would be believed from anyone who can reach [::]:1; listen "
         "at a unix socket or 127.0.0.1, with nginx in front"},
        {TCP("localhost.example.org:1", "    identity: who\n"),
         "3:15: listeners[0].identity: would be believed from anyone who can reach "
         "localhost.example.org:1; listen at a unix socket or 127.0.0.1, with nginx in front"},
        {TCP("127.0.0.1:1", "    socket-mode: \"0660\"\n    socket-group: www-data\n"),
         "3:5: listeners[0].socket-mode: is only for unix sockets, and 127.0.0.1:1 is none; remove "
         "it\n"
         "4:5: listeners[0].socket-group: is only for unix sockets, and 127.0.0.1:1 is none; "
         "remove it"},
        {TCP("127.0.0.1:1", "    access: write\n"), ""},
        {TCP("0.0.0.0:1", "    access: write\n"),
         "3:13: listeners[0].access: warning: " ANYONE_WRITES("0.0.0.0:1")},
    };
    ASSERT_CASES(cases);
}

#define TLS(more) "    tls: {certificate: /etc/passwd, key: /etc/group" more "}\n"

static void test_tls(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {TCP("10.0.0.1:1", TLS("")), ""},
        {TCP("10.0.0.1:1", TLS(", client-ca: /etc/hosts, client: require")), ""},
        {TCP("127.0.0.1:1", "    identity: who\n" TLS("")), ""},
        {TCP("10.0.0.1:1", "    access: write\n" TLS(", client-ca: /etc/hosts")), ""},
        {TCP("10.0.0.1:1", "    access: write\n" TLS(", client-ca: /etc/hosts, client: request")),
         ""},
        {TCP("10.0.0.1:1", "    access: write\n" TLS("")),
         "3:13: listeners[0].access: warning: " ANYONE_WRITES("10.0.0.1:1")},
        {TCP("127.0.0.1:1", "    access: write\n" TLS("")), ""},
        {TCP("10.0.0.1:1", "    tls:\n"),
         "3:9: listeners[0].tls: has no value; give it a mapping (key: value), or remove the key"},
        {TCP("10.0.0.1:1", "    tls: true\n"),
         "3:10: listeners[0].tls: must be a mapping (key: value), not a single value"},
        {TCP("10.0.0.1:1", "    tls: {certificate: /etc/passwd}\n"),
         "3:10: listeners[0].tls: has no key, which it needs"},
        {TCP("10.0.0.1:1", "    tls: {key: /etc/passwd}\n"),
         "3:10: listeners[0].tls: has no certificate, which it needs"},
        {TCP("10.0.0.1:1", TLS(", ca: /etc/hosts")),
         "3:54: listeners[0].tls.ca: is no key here; allowed are certificate, key, client-ca, "
         "client"},
        {TCP("10.0.0.1:1", TLS(", client: request")),
         "3:54: listeners[0].tls.client: needs client-ca, the file of the certificates that are "
         "let in; write it as well, or remove client"},
        {TCP("10.0.0.1:1", TLS(", client-ca: /etc/hosts, client: maybe")),
         "3:85: listeners[0].tls.client: \"maybe\" must be one of request, require"},
        {TCP("10.0.0.1:1", TLS(", client-ca: hosts")),
         "3:65: listeners[0].tls.client-ca: \"hosts\" is no whole path; write it from / on, such "
         "as /etc/assetd/direct/server.crt"},
        {TCP("127.0.0.1:1", "    identity: who\n" TLS(", client-ca: /etc/hosts")),
         "3:5: listeners[0].identity: says who a client is, and so does its certificate, by "
         "client-ca in line 4; remove one of them"},
        {LISTENERS TLS("") INSTANCES,
         "3:5: listeners[0].tls: is only for TCP addresses, and unix:/nowhere/pull.sock is none; "
         "remove it"},
        {TCP("10.0.0.1:1", "    tls: {certificate: /nowhere/crt, key: /etc, client-ca: "
                           "/etc/passwd/x}\n"),
         "3:24: listeners[0].tls.certificate: there is no file /nowhere/crt; put it there, or "
         "name another\n"
         "3:43: listeners[0].tls.key: /etc is no regular file\n"
         "3:60: listeners[0].tls.client-ca: /etc/passwd/x: Not a directory"},
    };
    ASSERT_CASES(cases);
}

#define TWO(one, other) \
    "listeners: [{address: \"" one "\"},\n {address: \"" other "\"}]\n" INSTANCES
#define TAKEN(one, other)                                                                    \
    "2:12: listeners[1].address: " other " is taken by listeners[0].address in line 1 (" one \
    "); choose another address"

static void test_same_address(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {TWO("unix:/nowhere/a", "unix:/nowhere/b"), ""},
        {TWO("unix:/nowhere/a", "unix:/nowhere/b/.././a"),
         TAKEN("unix:/nowhere/a", "unix:/nowhere/b/.././a")},
        {TWO("127.0.0.1:1", "127.0.0.1:2"), ""},
        {TWO("127.0.0.1:1", "127.0.0.2:1"), ""},
        {TWO("127.0.0.1:1", "[::1]:1"), ""},
        {TWO("0.0.0.0:1", "[::1]:1"), ""},
        {TWO("a:1", "b:1"), ""},
        {TWO("127.0.0.1:1", "127.0.0.1:1"), TAKEN("127.0.0.1:1", "127.0.0.1:1")},
        {TWO("127.0.0.1:1", "[::ffff:7f00:1]:01"), TAKEN("127.0.0.1:1", "[::ffff:7f00:1]:01")},
        {TWO("[::1]:1", "[0:0::1]:1"), TAKEN("[::1]:1", "[0:0::1]:1")},
        {TWO("127.0.0.1:1", "[::]:1"), TAKEN("127.0.0.1:1", "[::]:1")},
        {TWO("0.0.0.0:1", "127.0.0.1:1"), TAKEN("0.0.0.0:1", "127.0.0.1:1")},
        {TWO("[::1]:1", "LocalHost:1"), TAKEN("[::1]:1", "LocalHost:1")},
        {TWO("a:1", "A:1"), TAKEN("a:1", "A:1")},
        {"listeners: [{address: \"127.0.0.1:1\"}]\n" INSTANCES "metrics: {address: \"[::]:1\"}\n",
         "4:20: metrics.address: [::]:1 is taken by listeners[0].address in line 1 (127.0.0.1:1); "
         "choose another address"},
    };
    ASSERT_CASES(cases);
}

static void test_instance_names(void **state)
{
    (void)state;
    static const char *const reserved[] = {
        "blobs",      "uploads",      "actions",          "actionResults",
        "operations", "capabilities", "compressed-blobs",
    };
    static const char *const empty[] = {"/", "/a", "a/", "a//b"};
    static const char *const good[] = {"a", "team/kernel", "blob", "Blobs", "a/blobs2/b", "a b"};
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        char expected[256];
        (void)snprintf(expected, sizeof(expected),
                       "5:11: instances[0].name: the segment \"%s\" is reserved by the Remote "
                       "Execution API; choose another",
                       reserved[i]);
        assert_printed_for(expected, BOTH "    name: %s\n", reserved[i]);
        assert_printed_for(expected, BOTH "    name: a/%s\n", reserved[i]);
        assert_printed_for(expected, BOTH "    name: %s/b\n", reserved[i]);
    }
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        char expected[256];
        (void)snprintf(expected, sizeof(expected),
                       "5:11: instances[0].name: \"%s\" has an empty segment; single slashes go "
                       "between segments only",
                       empty[i]);
        assert_printed_for(expected, BOTH "    name: %s\n", empty[i]);
    }
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_printed_for("", BOTH "    name: %s\n", good[i]);
    char name[258];
    memset(name, 'a', 257);
    name[257] = '\0';
    assert_printed_for("5:11: instances[0].name: is longer than 256 bytes", BOTH "    name: %s\n",
                       name);
    assert_printed(BOTH "    name:\n",
                   "5:10: instances[0].name: has no value; give it a single value (\"\" for an "
                   "empty one), or remove the key");
    assert_printed(BOTH "  - storage: /nowhere/b\n    name: a\n  - name: \"\"\n"
                        "    storage: /nowhere/c\n  - storage: /nowhere/d\n    name: a\n",
                   "7:11: instances[2].name: \"\" is the name of instances[0] in line 4 already; "
                   "choose another\n"
                   "10:11: instances[3].name: \"a\" is the name of instances[1] in line 6 already; "
                   "choose another");
}

static void test_instance_values(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {LISTENERS "instances: [{storage: \"\"}]\n",
         "3:23: instances[0].storage: \"\" is no whole path; write it from / on, such as "
         "/var/lib/assetd/main"},
        {LISTENERS "instances: [{storage: cache}]\n",
         "3:23: instances[0].storage: \"cache\" is no whole path; write it from / on, such as "
         "/var/lib/assetd/main"},
        {LISTENERS "instances: [{storage: /etc/passwd}]\n",
         "3:23: instances[0].storage: /etc/passwd is no directory"},
        {LISTENERS "instances: [{storage: /etc/passwd/main}]\n",
         "3:23: instances[0].storage: a part of /etc/passwd/main is no directory"},
        {BOTH "    index-only: yes\n",
         "5:17: instances[0].index-only: \"yes\" must be one of true, false"},
        {BOTH "    index-only: true\n    quota: 1GiB\n",
         "6:5: instances[0].quota: is that of the CAS, which an index-only instance has not; "
         "remove it, or write index-quota"},
        {BOTH "    digest-functions: []\n",
         "5:23: instances[0].digest-functions: is empty; name at least one, or remove the key for "
         "sha256"},
        {BOTH "    digest-functions: [sha256, md5]\n",
         "5:32: instances[0].digest-functions[1]: \"md5\" must be one of sha256, sha384, sha512, "
         "sha1"},
        {BOTH "    digest-functions: [sha1, sha256, sha1, sha1, sha1, sha1]\n",
         "5:38: instances[0].digest-functions[2]: \"sha1\" is listed twice; remove one\n"
         "5:44: instances[0].digest-functions[3]: \"sha1\" is listed twice; remove one\n"
         "5:50: instances[0].digest-functions[4]: \"sha1\" is listed twice; remove one\n"
         "5:56: instances[0].digest-functions[5]: \"sha1\" is listed twice; remove one"},
        {BOTH "    push: [\"\", a b, a/b, a, a]\n",
         "5:12: instances[0].push[0]: \"\" is no identity; it is 1 to 64 of A-Z a-z 0-9 . _ @ -\n"
         "5:16: instances[0].push[1]: \"a b\" is no identity; it is 1 to 64 of A-Z a-z 0-9 . _ @ "
         "-\n"
         "5:21: instances[0].push[2]: \"a/b\" is no identity; it is 1 to 64 of A-Z a-z 0-9 . _ @ "
         "-\n"
         "5:29: instances[0].push[4]: \"a\" is listed twice, first in line 5"},
        {BOTH "    pull: alice\n", "5:11: instances[0].pull: must be a list, not a single value"},
        {BOTH "    push: []\n    pull: []\n", ""},
    };
    ASSERT_CASES(cases);
    char name[66];
    memset(name, 'a', 65);
    name[65] = '\0';
    assert_printed_for("", LISTENERS "    identity: x\n" INSTANCES "    pull: [%s]\n", name + 1);
    char expected[256];
    (void)snprintf(expected, sizeof(expected),
                   "5:12: instances[0].pull[0]: \"%s\" is no identity; it is 1 to 64 of A-Z a-z "
                   "0-9 . _ @ -",
                   name);
    assert_printed_for(expected, BOTH "    pull: [%s]\n", name);
}

static void test_warned_lists(void **state)
{
    (void)state;
#define NOBODY(key, verb)                                                                   \
    "no listener that lets clients " verb " here has identity, or client-ca under tls, so " \
    "nobody is on this list and nobody can " key "; set one of them on that listener, or "  \
    "remove the list"
    static const struct fault_case cases[] = {
        {BOTH "    push: [a]\n    pull: [a]\n",
         "5:5: instances[0].push: warning: " NOBODY(
             "push", "write") "\n"
                              "6:5: instances[0].pull: warning: " NOBODY("pull", "read")},
        {LISTENERS "    identity: x\n    access: write\n" INSTANCES
                   "    push: [a]\n    pull: [a]\n",
         ""},
        {TCP("10.0.0.1:1",
             "    access: write\n" TLS(", client-ca: /etc/hosts")) "    push: [a]\n    pull: [a]\n",
         ""},
        {TCP("10.0.0.1:1", TLS("")) "    pull: [a]\n",
         "6:5: instances[0].pull: warning: " NOBODY("pull", "read")},
        {LISTENERS "    identity: x\n" INSTANCES "    push: [a]\n    pull: [a]\n",
         "6:5: instances[0].push: warning: " NOBODY("push", "write")},
        {LISTENERS "    identity: x\n    instances: [\"\"]\n"
                   "  - address: unix:/nowhere/other.sock\n" INSTANCES
                   "  - name: other\n    storage: /nowhere/other\n    pull: [a]\n",
         "10:5: instances[1].pull: warning: " NOBODY("pull", "read")},
        {LISTENERS "    instances: [\"\"]\n" INSTANCES
                   "  - name: other\n    storage: /nowhere/other\n",
         "6:5: instances[1]: warning: no listener serves this instance; add \"other\" to the "
         "instances of one"},
    };
    ASSERT_CASES(cases);
}

#define STORAGES(one, other) \
    LISTENERS "instances: [{storage: \"" one "\"},\n {name: b, storage: \"" other "\"}]\n"

static void test_storages(void **state)
{
    (void)state;
    static const struct fault_case cases[] = {
        {STORAGES("/nowhere/a", "/nowhere/ab"), ""},
        {STORAGES("/nowhere/a", "/nowhere//b/../a/."),
         "4:21: instances[1].storage: /nowhere/a is the storage of instances[0].storage in line 3 "
         "already; each instance needs its own"},
        {STORAGES("/nowhere/a", "/nowhere/a/b"),
         "4:21: instances[1].storage: /nowhere/a/b lies inside /nowhere/a, which is "
         "instances[0].storage in line 3"},
        {STORAGES("/nowhere/a/b", "/nowhere/a/"),
         "4:21: instances[1].storage: /nowhere/a holds /nowhere/a/b, which is "
         "instances[0].storage in line 3"},
        {STORAGES("/", "/nowhere/a"), "4:21: instances[1].storage: /nowhere/a lies inside /, which "
                                      "is instances[0].storage in line 3"},
    };
    ASSERT_CASES(cases);
}

/* Paths that are told from each other only by looking at the disk. */
static void test_symlinks(void **state)
{
    (void)state;
    char made[] = "/tmp/test_conf.XXXXXX", top[32], link[64], loop[64], expected[512];
    char *real = realpath(mkdtemp(made), NULL);
    assert_non_null(real);
    assert_true((size_t)snprintf(top, sizeof(top), "%s", real) < sizeof(top));
    free(real);
    (void)snprintf(link, sizeof(link), "%s/link", top);
    (void)snprintf(loop, sizeof(loop), "%s/loop", top);
    assert_int_equal(symlink(top, link), 0);
    assert_int_equal(symlink(loop, loop), 0);
    (void)snprintf(expected, sizeof(expected),
                   "4:21: instances[1].storage: %s/a/b is the storage of instances[0].storage in "
                   "line 3 already; each instance needs its own",
                   top);
    assert_printed_for(expected, STORAGES("%s/a/b", "%s/a/b"), top, link);
    (void)snprintf(expected, sizeof(expected),
                   "4:21: instances[1].storage: %s/a/b lies inside %s, which is "
                   "instances[0].storage in line 3",
                   top, top);
    assert_printed_for(expected, STORAGES("%s", "%s/../%s/a/b"), link, link, strrchr(top, '/'));
    (void)snprintf(expected, sizeof(expected),
                   "3:23: instances[0].storage: %s: Too many levels of symbolic links", loop);
    assert_printed_for(expected, LISTENERS "instances: [{storage: \"%s\"}]\n", loop);
    (void)snprintf(expected, sizeof(expected),
                   "2:12: listeners[1].address: unix:%s/s is taken by listeners[0].address in "
                   "line 1 (unix:%s/s); choose another address",
                   link, top);
    assert_printed_for(expected, TWO("unix:%s/s", "unix:%s/s"), top, link);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(unlink(loop), 0);
    assert_int_equal(rmdir(top), 0);
}

/* What the server left behind, or has open, is no reason to refuse its own address. */
static void test_socket_that_exists(void **state)
{
    (void)state;
    char top[] = "/tmp/test_conf.XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(top));
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/sock", top);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_printed_for("", "listeners: [{address: \"unix:%s\"}]\n" INSTANCES, address.sun_path);
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(top), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_syntax),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_listener_values),
        cmocka_unit_test(test_listener_rules),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_same_address),
        cmocka_unit_test(test_instance_names),
        cmocka_unit_test(test_instance_values),
        cmocka_unit_test(test_warned_lists),
        cmocka_unit_test(test_storages),
        cmocka_unit_test(test_symlinks),
        cmocka_unit_test(test_socket_that_exists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
