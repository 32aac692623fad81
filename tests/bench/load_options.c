/* SPDX-License-Identifier: Apache-2.0 */
/* A table of the keys, each with how its value is read. */
#include "load_options.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "fail.h"

static bool parse_number(const char *value, uint64_t *number)
{
    char *end;
    *number = strtoull(value, &end, 10);
    return *value >= '0' && *value <= '9' && *end == '\0';
}

static bool read_number(struct load_options *options, size_t offset, const char *value)
{
    uint64_t number;
    if (!parse_number(value, &number))
        return false;
    memcpy((char *)options + offset, &number, sizeof(number));
    return true;
}

static bool read_text(struct load_options *options, size_t offset, const char *value)
{
    memcpy((char *)options + offset, &value, sizeof(value));
    return *value != '\0';
}

static bool read_pid(struct load_options *options, size_t offset, const char *value)
{
    (void)offset;
    return options->pid_count < LOAD_OPTIONS_PIDS &&
           parse_number(value, &options->pids[options->pid_count++]);
}

static bool read_check(struct load_options *options, size_t offset, const char *value)
{
    static const char *const names[] = {
        [CLIENT_BYTES] = "bytes",
        [CLIENT_SIZE] = "size",
        [CLIENT_ENOUGH] = "enough",
        [CLIENT_STATUS] = "status",
    };
    (void)offset;
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(value, names[i]) == 0) {
            options->check = (enum client_check)i;
            return true;
        }
    }
    return false;
}

static const struct key {
    const char *name;
    /* Puts VALUE at OFFSET; false: it makes no sense. */
    bool (*read)(struct load_options *options, size_t offset, const char *value);
    size_t offset;
} keys[] = {
    {"calls", read_number, offsetof(struct load_options, calls)},
    {"connections", read_number, offsetof(struct load_options, connections)},
    {"in-flight", read_number, offsetof(struct load_options, in_flight)},
    {"base", read_number, offsetof(struct load_options, base)},
    {"small", read_number, offsetof(struct load_options, small)},
    {"first", read_number, offsetof(struct load_options, first)},
    {"size", read_number, offsetof(struct load_options, size)},
    {"blobs", read_number, offsetof(struct load_options, blobs)},
    {"assets", read_number, offsetof(struct load_options, assets)},
    {"references", read_number, offsetof(struct load_options, references)},
    {"seed", read_number, offsetof(struct load_options, seed)},
    {"status", read_number, offsetof(struct load_options, status)},
    {"tls", read_text, offsetof(struct load_options, authorities)},
    {"certificate", read_text, offsetof(struct load_options, certificate)},
    {"key", read_text, offsetof(struct load_options, key)},
    {"check", read_check, 0},
    {"pid", read_pid, 0},
};

static void set_option(struct load_options *options, const char *argument)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        size_t length = strlen(keys[i].name);
        if (strncmp(argument, keys[i].name, length) == 0 && argument[length] == '=' &&
            keys[i].read(options, keys[i].offset, argument + length + 1))
            return;
    }
    fail("load: cannot make sense of %s", argument);
}

void load_options_init(struct load_options *options, char **arguments, int count)
{
    *options = (struct load_options){.calls = 1,
                                     .connections = 1,
                                     .in_flight = 1,
                                     .base = EXCHANGE_BASE,
                                     .size = EXCHANGE_STREAM,
                                     .assets = EXCHANGE_ASSETS};
    for (int i = 0; i < count; i++)
        set_option(options, arguments[i]);
    if (options->calls == 0 || options->connections == 0 || options->in_flight == 0 ||
        options->assets == 0)
        fail("load: calls, connections, in-flight and assets begin at 1");
    if (options->base < EXCHANGE_BATCH)
        fail("load: base begins at %d", EXCHANGE_BATCH);
    if (options->size == 0 || options->size % EXCHANGE_BLOB != 0)
        fail("load: size is a multiple of %d", EXCHANGE_BLOB);
    if (options->authorities == NULL && (options->certificate != NULL || options->key != NULL))
        fail("load: certificate and key are for TLS, and need tls");
}
