/* SPDX-License-Identifier: Apache-2.0 */
/* Loading of a text as configuration file, and what must be printed about it. */
#ifndef ASSETD_TESTS_CONF_TEXT_H
#define ASSETD_TESTS_CONF_TEXT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/conf.h"

/* A file that was loaded, and what was printed about it. */
struct loaded {
    char file[64];
    struct conf conf;
    struct err err;
    int rc;
    char *printed;
    size_t printed_size;
};

static inline void load_file(const char *path, struct loaded *loaded)
{
    FILE *out = open_memstream(&loaded->printed, &loaded->printed_size);
    assert_non_null(out);
    loaded->rc = conf_load_to(path, out, &loaded->conf, &loaded->err);
    assert_int_equal(fclose(out), 0);
}

/* Loads a text as a file that is in no directory. */
static inline void load(const char *text, size_t size, struct loaded *loaded)
{
    int fd = memfd_create("conf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, size), size);
    (void)snprintf(loaded->file, sizeof(loaded->file), "/proc/self/fd/%d", fd);
    load_file(loaded->file, loaded);
    assert_int_equal(close(fd), 0);
}

static inline void unload(struct loaded *loaded)
{
    free(loaded->printed);
    conf_fini(&loaded->conf);
}

/* Puts FILE: in front of every line of TEXT. */
static inline char *expand(const char *file, const char *text)
{
    char *expanded = NULL;
    size_t size;
    FILE *out = open_memstream(&expanded, &size);
    assert_non_null(out);
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        (void)fprintf(out, "%s:%.*s\n", file, (int)length, text);
        text += length + (text[length] == '\n');
    }
    assert_int_equal(fclose(out), 0);
    return expanded;
}

static inline size_t count_errors(const char *printed)
{
    size_t count = 0;
    for (const char *line = printed; *line != '\0'; line = strchr(line, '\n') + 1) {
        const char *warning = strstr(line, ": warning: ");
        count += warning == NULL || warning > strchr(line, '\n');
    }
    return count;
}

/* What is printed about TEXT is exactly EXPECTED, a line for each fault without the file's name. */
static inline void assert_printed(const char *text, const char *expected)
{
    struct loaded loaded;
    load(text, strlen(text), &loaded);
    char *lines = expand(loaded.file, expected);
    size_t errors = count_errors(lines);
    assert_string_equal(loaded.printed, lines);
    if (errors > 0) {
        char message[128];
        (void)snprintf(message, sizeof(message), "%s has %zu fault%s", loaded.file, errors,
                       errors == 1 ? "" : "s");
        assert_int_equal(loaded.rc, -ERR_PRECONDITION);
        assert_string_equal(loaded.err.msg, message);
    } else {
        assert_int_equal(loaded.rc, 0);
    }
    free(lines);
    unload(&loaded);
}

/* assert_printed for a text that is made by a format. */
static inline void assert_printed_for(const char *expected, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static inline void assert_printed_for(const char *expected, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    assert_true(vasprintf(&text, format, args) >= 0);
    va_end(args);
    assert_printed(text, expected);
    free(text);
}

/* Lines 1 to 2, and what may follow them in line 3; both have room for more keys. */
#define LISTENERS "listeners:\n  - address: unix:/nowhere/pull.sock\n"
#define INSTANCES "instances:\n  - storage: /nowhere/main\n"
#define BOTH      LISTENERS INSTANCES

/* Three lines more in that instance, with room for more keys of its external CAS. */
#define CAS_AT(address) "    index-only: true\n    cas:\n      address: \"" address "\"\n"
#define CAS             CAS_AT("grpc://buildbarn:8980")

/* Every key there is, none with its default. Some are for files that must be there. */
#define EVERY_KEY                                                                   \
    "listeners:\n"                                                                  \
    "  - address: unix:/nowhere/pull.sock\n"                                        \
    "    access: read\n"                                                            \
    "    instances: ['', team/kernel]\n"                                            \
    "    socket-mode: '0600'\n"                                                     \
    "    socket-group: www-data\n"                                                  \
    "    identity: x-client-identity\n"                                             \
    "  - {address: '[::1]:8980', access: write, identity: who}\n"                   \
    "  - address: '[::]:11002'\n"                                                   \
    "    access: write\n"                                                           \
    "    tls: {certificate: /etc/passwd, key: /etc/group, client-ca: /etc/hosts,\n" \
    "          client: request}\n"                                                  \
    "instances:\n"                                                                  \
    "  - name: ''\n"                                                                \
    "    storage: /nowhere/main\n"                                                  \
    "    index-only: false\n"                                                       \
    "    quota: 50GiB\n"                                                            \
    "    index-quota: 2MB\n"                                                        \
    "    expire-after: 90d\n"                                                       \
    "    digest-functions: [sha512, sha256, sha1, sha384]\n"                        \
    "  - name: team/kernel\n"                                                       \
    "    storage: /nowhere/kernel\n"                                                \
    "    index-only: true\n"                                                        \
    "    cas:\n"                                                                    \
    "      address: grpcs://[2001:db8::1]:8980\n"                                   \
    "      instance-name: ''\n"                                                     \
    "      tls: {ca: /etc/passwd, certificate: /etc/group,\n"                       \
    "            key: /etc/hosts}\n"                                                \
    "      token-file: /etc/nsswitch.conf\n"                                        \
    "      trust: 0s\n"                                                             \
    "      timeout: 30s\n"                                                          \
    "      connections: 64\n"                                                       \
    "      on-unavailable: serve\n"                                                 \
    "    push: [ci-kernel]\n"                                                       \
    "    pull: [ci-kernel, alice@example.org]\n"                                    \
    "limits: {message: 4MiB, streams: 100}\n"                                       \
    "threads: {pollers: 2, workers: 64}\n"                                          \
    "shutdown-grace: 1m\n"                                                          \
    "metrics: {address: 'localhost:8982'}\n"                                        \
    "log: {level: trace}\n"

struct fault_case {
    const char *text;
    const char *expected;
};

static inline void assert_cases(const struct fault_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_printed(cases[i].text, cases[i].expected);
}

#define ASSERT_CASES(cases) assert_cases(cases, sizeof(cases) / sizeof(cases[0]))

#endif
