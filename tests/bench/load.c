/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of one round: makes calls of one operation and tells what they cost the server, as one
 * line of JSON.
 *
 *     load ADDRESS OPERATION [KEY=NUMBER]...
 *
 * Operations: find, update, read, read-random, fetch, store, push-asset, fetch-asset; first-answer
 * waits for the server and makes one find, with whatever answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "exchange.h"

/* What the keys set, by their names. */
struct options {
    uint64_t calls;
    uint64_t connections;
    uint64_t in_flight;
    uint64_t pid;   /* of the server whose CPU time is told; 0: none */
    uint64_t bytes; /* 1: answers are compared byte by byte, 0: by their size */
    uint64_t base;  /* blobs in the store: see struct bodies_store */
    uint64_t small;
    uint64_t first;      /* of the blobs that are stored or streamed */
    uint64_t references; /* of each asset that is pushed */
    uint64_t seed;       /* of what is taken at random; not 0 */
};

static const struct key {
    const char *name;
    size_t offset;
} keys[] = {
    {"calls", offsetof(struct options, calls)},
    {"connections", offsetof(struct options, connections)},
    {"in-flight", offsetof(struct options, in_flight)},
    {"pid", offsetof(struct options, pid)},
    {"bytes", offsetof(struct options, bytes)},
    {"base", offsetof(struct options, base)},
    {"small", offsetof(struct options, small)},
    {"first", offsetof(struct options, first)},
    {"references", offsetof(struct options, references)},
    {"seed", offsetof(struct options, seed)},
};

enum {
    KEYS = sizeof(keys) / sizeof(keys[0]),
    NANOSECONDS = 1000000000,
    /* The server is done when it has used less than this in each of some pauses. */
    QUIET_NS = 200 * 1000,
    QUIET_PAUSES = 3,
    PAUSE_NS = 20 * 1000 * 1000,
    PAUSES_MAX = 250,
    RETRY_NS = 1000 * 1000,
    RETRIES_MAX = 300 * 1000,
};

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        client_fail("read a clock: %s", strerror(errno));
    return (int64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

static void pause_for(long nanoseconds)
{
    const struct timespec time = {.tv_nsec = nanoseconds};
    (void)nanosleep(&time, NULL);
}

/*
 * CPU time of all threads of PID, those that have ended included, in nanoseconds: what utime and
 * stime of /proc/PID/stat tell in ticks.
 */
static int64_t server_time(uint64_t pid)
{
    clockid_t clock;
    if (pid == 0)
        return 0;
    int rc = clock_getcpuclockid((pid_t)pid, &clock);
    if (rc != 0)
        client_fail("process %" PRIu64 ": %s", pid, strerror(rc));
    return read_clock(clock);
}

/* What the calls have left to do, in threads of the server's own, belongs to their cost. */
static int64_t settled_time(uint64_t pid)
{
    int64_t before = server_time(pid);
    unsigned quiet = 0;
    for (unsigned i = 0; i < PAUSES_MAX && quiet < QUIET_PAUSES && pid != 0; i++) {
        pause_for(PAUSE_NS);
        int64_t now = server_time(pid);
        quiet = now - before < QUIET_NS ? quiet + 1 : 0;
        before = now;
    }
    return before;
}

static void set_option(struct options *options, const char *argument)
{
    for (size_t i = 0; i < KEYS; i++) {
        size_t length = strlen(keys[i].name);
        if (strncmp(argument, keys[i].name, length) != 0 || argument[length] != '=')
            continue;
        char *end;
        uint64_t value = strtoull(argument + length + 1, &end, 10);
        if (end == argument + length + 1 || *end != '\0')
            break;
        memcpy((char *)options + keys[i].offset, &value, sizeof(value));
        return;
    }
    client_fail("load: cannot make sense of %s", argument);
}

static void make_bodies(const char *operation, const struct options *options, struct bodies *bodies)
{
    const struct bodies_store store = {.base = options->base, .small = options->small};
    if (strcmp(operation, "find") == 0)
        bodies_make_find(bodies, options->calls, &store, options->seed);
    else if (strcmp(operation, "update") == 0)
        bodies_make_update(bodies, options->calls, options->first);
    else if (strcmp(operation, "read") == 0)
        bodies_make_read(bodies, &store, 0);
    else if (strcmp(operation, "read-random") == 0)
        bodies_make_read(bodies, &store, options->seed);
    else if (strcmp(operation, "fetch") == 0)
        bodies_make_fetch(bodies, options->calls, options->first);
    else if (strcmp(operation, "store") == 0)
        bodies_make_store(bodies, options->calls, options->first);
    else if (strcmp(operation, "push-asset") == 0)
        bodies_make_push_assets(bodies, &store, options->references);
    else if (strcmp(operation, "fetch-asset") == 0)
        bodies_make_fetch_assets(bodies, &store);
    else
        client_fail("load: there is no operation %s", operation);
}

static void measure(const char *address, const char *operation, const struct options *options)
{
    struct bodies bodies;
    make_bodies(operation, options, &bodies);
    struct client *client = client_open(address, (unsigned)options->connections);
    if (client == NULL)
        client_fail("%s: %s", address, strerror(errno));
    int64_t cpu = settled_time(options->pid);
    int64_t own = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    int64_t begun = read_clock(CLOCK_MONOTONIC);
    client_run(client, &bodies, options->calls, (unsigned)options->in_flight,
               options->bytes != 0 ? CLIENT_BYTES : CLIENT_SIZE);
    int64_t ended = read_clock(CLOCK_MONOTONIC);
    own = read_clock(CLOCK_PROCESS_CPUTIME_ID) - own;
    cpu = settled_time(options->pid) - cpu;
    client_close(client);
    bodies_fini(&bodies);
    (void)printf("{\"calls\": %" PRIu64 ", \"seconds\": %.6f, \"cpu\": %.6f, \"own_cpu\": %.6f}\n",
                 options->calls, (double)(ended - begun) / NANOSECONDS, (double)cpu / NANOSECONDS,
                 (double)own / NANOSECONDS);
}

/* When the first answer is there, by the clock that all processes share. */
static void await_first_answer(const char *address, const struct options *options)
{
    struct bodies bodies;
    struct client *client = NULL;
    const struct bodies_store store = {.base = options->base, .small = options->small};
    bodies_make_find(&bodies, 1, &store, options->seed);
    for (unsigned i = 0; i < RETRIES_MAX && client == NULL; i++) {
        client = client_open(address, 1);
        if (client == NULL)
            pause_for(RETRY_NS);
    }
    if (client == NULL)
        client_fail("%s: %s", address, strerror(errno));
    client_run(client, &bodies, 1, 1, CLIENT_STATUS);
    (void)printf("{\"answered\": %.6f}\n", (double)read_clock(CLOCK_MONOTONIC) / NANOSECONDS);
    client_close(client);
    bodies_fini(&bodies);
}

int main(int argc, char **argv)
{
    struct options options = {
        .calls = 1, .connections = 1, .in_flight = 1, .bytes = 1, .base = 100, .seed = 1};
    if (argc < 3)
        client_fail("usage: load ADDRESS OPERATION [KEY=NUMBER]...");
    for (int i = 3; i < argc; i++)
        set_option(&options, argv[i]);
    if (options.calls == 0 || options.connections == 0 || options.in_flight == 0 ||
        options.base < EXCHANGE_BATCH || options.seed == 0)
        client_fail("load: a number is too small");
    if (strcmp(argv[2], "first-answer") == 0)
        await_first_answer(argv[1], &options);
    else
        measure(argv[1], argv[2], &options);
    return EXIT_SUCCESS;
}
