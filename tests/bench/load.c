/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of one round: makes calls of one operation and tells what they cost the server, as one
 * line of JSON.
 *
 *     load ADDRESS OPERATION [KEY=VALUE]...
 *
 * The operations are in the table below, the keys in load_options.h. "cpu" has the seconds of each
 * process that was named by pid, in their order.
 *
 * first-answer and first-asset wait for the server and make one find or fetch-asset, again while
 * the server says UNAVAILABLE: "answered" is when it answered first, "right" when it answered with
 * the status that was wanted.
 */
#include <errno.h>
#include <grpc/status.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "exchange.h"
#include "fail.h"
#include "load_options.h"

enum {
    NANOSECONDS = 1000000000,
    /* The server is done when it has used less than this in each of some pauses. */
    QUIET_NS = 200 * 1000,
    QUIET_PAUSES = 3,
    PAUSE_NS = 20 * 1000 * 1000,
    PAUSES_MAX = 250,
    RETRY_NS = 1000 * 1000,
    RETRIES_MAX = 300 * 1000,
};

/* --- operations --- */

static void make_find(struct bodies *bodies, const struct load_options *options,
                      const struct bodies_store *store)
{
    bodies_make_find(bodies, options->calls, store, options->seed);
}

static void make_update(struct bodies *bodies, const struct load_options *options,
                        const struct bodies_store *store)
{
    (void)store;
    bodies_make_update(bodies, options->calls, options->first);
}

static void make_fill(struct bodies *bodies, const struct load_options *options,
                      const struct bodies_store *store)
{
    (void)options;
    bodies_make_fill(bodies, store);
}

static void make_read(struct bodies *bodies, const struct load_options *options,
                      const struct bodies_store *store)
{
    (void)options;
    bodies_make_read(bodies, store, 0);
}

static void make_read_random(struct bodies *bodies, const struct load_options *options,
                             const struct bodies_store *store)
{
    bodies_make_read(bodies, store, options->seed + 1);
}

static void make_fetch(struct bodies *bodies, const struct load_options *options,
                       const struct bodies_store *store)
{
    uint64_t blobs = options->blobs != 0 ? options->blobs : options->calls;
    (void)store;
    bodies_make_fetch(bodies, blobs, options->first, options->size, options->check == CLIENT_BYTES);
}

static void make_store(struct bodies *bodies, const struct load_options *options,
                       const struct bodies_store *store)
{
    (void)store;
    bodies_make_store(bodies, options->calls, options->first, options->size);
}

static void make_push_asset(struct bodies *bodies, const struct load_options *options,
                            const struct bodies_store *store)
{
    const struct bodies_assets assets = {options->first, options->calls};
    bodies_make_push_assets(bodies, store, &assets, options->references);
}

static void make_fetch_asset(struct bodies *bodies, const struct load_options *options,
                             const struct bodies_store *store)
{
    const struct bodies_assets assets = {options->first, options->assets};
    bodies_make_fetch_assets(bodies, options->calls, store, &assets, options->seed);
}

static void make_miss_asset(struct bodies *bodies, const struct load_options *options,
                            const struct bodies_store *store)
{
    (void)store;
    bodies_make_miss_assets(bodies, options->calls, options->first);
}

static const struct operation {
    const char *name;
    void (*make)(struct bodies *bodies, const struct load_options *options,
                 const struct bodies_store *store);
    bool is_once;  /* makes each call that there is, however many were asked for */
    bool is_first; /* waits for the server, makes one call, and tells when it was answered */
} operations[] = {
    /* FindMissingBlobs, BatchUpdateBlobs of new blobs and of the base, BatchReadBlobs */
    {.name = "find", .make = make_find},
    {.name = "update", .make = make_update},
    {.name = "fill", .make = make_fill, .is_once = true},
    {.name = "read", .make = make_read},
    {.name = "read-random", .make = make_read_random},
    /* Read and Write */
    {.name = "fetch", .make = make_fetch},
    {.name = "store", .make = make_store},
    /* PushBlob, FetchBlob of what is there, and of what is not */
    {.name = "push-asset", .make = make_push_asset},
    {.name = "fetch-asset", .make = make_fetch_asset},
    {.name = "miss-asset", .make = make_miss_asset},
    {.name = "first-answer", .make = make_find, .is_first = true},
    {.name = "first-asset", .make = make_fetch_asset, .is_first = true},
};

static const struct operation *find_operation(const char *name)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        if (strcmp(operations[i].name, name) == 0)
            return &operations[i];
    fail("load: there is no operation %s", name);
}

/* --- clocks --- */

static int64_t read_clock(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0)
        fail("read a clock: %s", strerror(errno));
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
static int64_t process_time(uint64_t pid)
{
    clockid_t clock;
    struct timespec time;
    int rc = clock_getcpuclockid((pid_t)pid, &clock);
    if (rc == 0 && clock_gettime(clock, &time) != 0)
        rc = errno;
    if (rc != 0)
        fail("process %" PRIu64 ", whose CPU time is to be told: %s", pid, strerror(rc));
    return (int64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

/* Of each of the processes; returns the sum. */
static int64_t server_times(const struct load_options *options, int64_t times[LOAD_OPTIONS_PIDS])
{
    int64_t sum = 0;
    for (size_t i = 0; i < options->pid_count; i++)
        sum += times[i] = process_time(options->pids[i]);
    return sum;
}

/* What the calls have left to do, in threads of the server's own, belongs to their cost. */
static void settled_times(const struct load_options *options, int64_t times[LOAD_OPTIONS_PIDS])
{
    int64_t before = server_times(options, times);
    unsigned quiet = 0;
    for (unsigned i = 0; i < PAUSES_MAX && quiet < QUIET_PAUSES && options->pid_count > 0; i++) {
        pause_for(PAUSE_NS);
        int64_t now = server_times(options, times);
        quiet = now - before < QUIET_NS ? quiet + 1 : 0;
        before = now;
    }
}

static double seconds(int64_t nanoseconds)
{
    return (double)nanoseconds / NANOSECONDS;
}

/* --- the round --- */

/* What a round needs beside its options. */
struct round {
    const char *address;
    struct ssl_ctx_st *tls;
    struct bodies bodies;
    struct client_load load;
};

static void measure(struct round *round, const struct load_options *options)
{
    int64_t before[LOAD_OPTIONS_PIDS];
    int64_t after[LOAD_OPTIONS_PIDS];
    struct client *client = client_open(round->address, (unsigned)options->connections, round->tls);
    if (client == NULL)
        fail("%s: %s", round->address, strerror(errno));
    settled_times(options, before);
    int64_t begun = read_clock();
    (void)client_run(client, &round->bodies, &round->load);
    int64_t ended = read_clock();
    settled_times(options, after);
    client_close(client);
    (void)printf("{\"calls\": %" PRIu64 ", \"seconds\": %.6f, \"cpu\": [", round->load.count,
                 seconds(ended - begun));
    for (size_t i = 0; i < options->pid_count; i++)
        (void)printf("%s%.6f", i > 0 ? ", " : "", seconds(after[i] - before[i]));
    (void)puts("]}");
}

static struct client *open_retrying(const struct round *round)
{
    for (unsigned i = 0; i < RETRIES_MAX; i++) {
        struct client *client = client_open(round->address, 1, round->tls);
        if (client != NULL)
            return client;
        pause_for(RETRY_NS);
    }
    fail("%s: %s", round->address, strerror(errno));
}

/* By the clock that all processes share. */
static void await_first_answer(struct round *round)
{
    struct client *client = open_retrying(round);
    const int wanted = round->load.status;
    int64_t answered = 0;
    round->load = (struct client_load){
        .count = 1, .in_flight = 1, .check = CLIENT_STATUS, .status = CLIENT_ANY_STATUS};
    for (unsigned i = 0; i < RETRIES_MAX; i++) {
        int status = client_run(client, &round->bodies, &round->load);
        int64_t now = read_clock();
        answered = answered != 0 ? answered : now;
        if (status == wanted) {
            (void)printf("{\"answered\": %.6f, \"right\": %.6f}\n", seconds(answered),
                         seconds(now));
            client_close(client);
            return;
        }
        if (status != GRPC_STATUS_UNAVAILABLE)
            fail("%s: status %d, not %d", round->bodies.path, status, wanted);
        pause_for(RETRY_NS);
    }
    fail("%s: unavailable for ever", round->bodies.path);
}

int main(int argc, char **argv)
{
    struct load_options options;
    struct bodies_store store;
    if (argc < 3)
        fail("usage: load ADDRESS OPERATION [KEY=VALUE]...");
    const struct operation *operation = find_operation(argv[2]);
    struct round round = {.address = argv[1]};
    load_options_init(&options, argv + 3, argc - 3);
    bodies_store_init(&store, options.base, options.small);
    operation->make(&round.bodies, &options, &store);
    bodies_store_fini(&store);
    round.load = (struct client_load){
        .count = operation->is_once ? round.bodies.count : options.calls,
        .in_flight = (unsigned)options.in_flight,
        .check = options.check,
        .status = (int)options.status,
    };
    if (options.authorities != NULL)
        round.tls = link_tls_new(options.authorities, options.certificate, options.key);
    if (operation->is_first)
        await_first_answer(&round);
    else
        measure(&round, &options);
    link_tls_free(round.tls);
    bodies_fini(&round.bodies);
    return EXIT_SUCCESS;
}
