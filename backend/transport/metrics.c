/* SPDX-License-Identifier: Apache-2.0 */
/* A very small HTTP server that knows one page. */
#include "transport/metrics.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "service/external.h"
#include "transport/tcp_address.h"

enum {
    REQUEST_MAX = 4096,
    /* Seconds for a client to send its request and to take the answer. */
    CLIENT_PATIENCE = 5,
    /* Milliseconds to wait where no connection can be taken. */
    ACCEPT_PAUSE = 100,
};

struct metrics {
    const struct services *_Atomic *services;
    const struct metrics_calls *calls;
    int listening;
    int stop; /* an eventfd */
    pthread_t thread;
};

int metrics_calls_init(struct metrics_calls *calls, struct err *err)
{
    calls->ended = calloc(method_count + 1, sizeof(calls->ended[0]));
    return calls->ended != NULL ? 0 : err_no_memory(err, "the counters");
}

void metrics_calls_fini(struct metrics_calls *calls)
{
    free(calls->ended);
    calls->ended = NULL;
}

void metrics_calls_add(struct metrics_calls *calls, const struct method *method, unsigned status)
{
    size_t row = method != NULL ? (size_t)(method - methods) : method_count;
    if (status < METRICS_STATUSES)
        atomic_fetch_add_explicit(&calls->ended[row][status], 1, memory_order_relaxed);
}

/* --- the page --- */

static void describe(FILE *page, const char *name, const char *type, const char *help)
{
    (void)fprintf(page, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_calls(FILE *page, const struct metrics_calls *calls)
{
    describe(page, "assetd_calls_total", "counter", "Calls that ended, by method and gRPC status.");
    for (size_t row = 0; row <= method_count; row++) {
        const char *path = row < method_count ? methods[row].path : "unknown";
        for (unsigned status = 0; status < METRICS_STATUSES; status++) {
            uint64_t count = atomic_load_explicit(&calls->ended[row][status], memory_order_relaxed);
            if (count != 0)
                (void)fprintf(page, "assetd_calls_total{method=\"%s\",status=\"%u\"} %llu\n", path,
                              status, (unsigned long long)count);
        }
    }
}

/* What is known of one instance at one moment. */
struct sample {
    bool has[3]; /* which parts, by enum part */
    struct asset_index_stats index;
    struct cas_stats cas;
    struct remote_cas_stats external;
    uint64_t index_quota;
    uint64_t cas_quota;
};

/* What a figure is of, which not every instance has. */
enum part { OF_INDEX, OF_CAS, OF_EXTERNAL };

/* One figure of every instance that has the part. */
struct figure {
    const char *name;
    const char *type;
    const char *help;
    size_t field; /* in struct sample, a uint64_t */
    enum part part;
};

#define IN_SAMPLE(member) offsetof(struct sample, member)

/* clang-format off */
static const struct figure figures[] = {
    {"assetd_index_assets", "gauge", "Assets in the index.", IN_SAMPLE(index.assets), OF_INDEX},
    {"assetd_index_bytes", "gauge", "Bytes of the index in use.",
     IN_SAMPLE(index.bytes), OF_INDEX},
    {"assetd_index_quota_bytes", "gauge", "Bytes that the index may have.",
     IN_SAMPLE(index_quota), OF_INDEX},
    {"assetd_index_evicted_total", "counter", "Assets evicted for the quota.",
     IN_SAMPLE(index.evicted), OF_INDEX},
    {"assetd_index_expired_total", "counter", "Assets expired.",
     IN_SAMPLE(index.expired), OF_INDEX},
    {"assetd_index_commits_total", "counter", "Group commits.",
     IN_SAMPLE(index.commits), OF_INDEX},
    {"assetd_cas_blobs", "gauge", "Blobs in the CAS.", IN_SAMPLE(cas.blobs), OF_CAS},
    {"assetd_cas_bytes", "gauge", "Bytes of the CAS on disk.", IN_SAMPLE(cas.bytes), OF_CAS},
    {"assetd_cas_quota_bytes", "gauge", "Bytes that the CAS may have.",
     IN_SAMPLE(cas_quota), OF_CAS},
    {"assetd_cas_evicted_total", "counter", "Blobs evicted for the quota.",
     IN_SAMPLE(cas.evicted), OF_CAS},
    {"assetd_cas_broken_total", "counter", "Blobs found damaged and dropped.",
     IN_SAMPLE(cas.broken), OF_CAS},
    {"assetd_external_checks_remembered_total", "counter",
     "Checks answered by what the external CAS said a while ago.",
     IN_SAMPLE(external.remembered), OF_EXTERNAL},
    {"assetd_external_checks_whole_total", "counter",
     "Checks by which the external CAS had all of an asset.",
     IN_SAMPLE(external.whole), OF_EXTERNAL},
    {"assetd_external_checks_missing_total", "counter",
     "Checks by which the external CAS did not have all of an asset.",
     IN_SAMPLE(external.missing), OF_EXTERNAL},
    {"assetd_external_checks_failed_total", "counter",
     "Checks for which the external CAS could not be asked.",
     IN_SAMPLE(external.failed), OF_EXTERNAL},
    {"assetd_external_calls_total", "counter", "Calls made to the external CAS.",
     IN_SAMPLE(external.calls), OF_EXTERNAL},
    {"assetd_external_up", "gauge",
     "1 if the external CAS answers, 0 while it is left alone as it does not.",
     IN_SAMPLE(external.is_up), OF_EXTERNAL},
};
/* clang-format on */

static void take_sample(const struct services *services, const struct instance *instance,
                        struct sample *sample)
{
    struct remote_cas *external = external_cas(services, instance);
    *sample = (struct sample){.has = {true, instance->cas != NULL, external != NULL},
                              .index_quota = (uint64_t)instance->conf->index_quota,
                              .cas_quota = (uint64_t)instance->conf->quota};
    asset_index_stats(instance->index, &sample->index);
    if (instance->cas != NULL)
        cas_stats(instance->cas, &sample->cas);
    if (external != NULL)
        remote_cas_stats(external, &sample->external);
}

/* A label's value, with what the format cannot have as it is. */
static void print_label(FILE *page, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n')
            (void)fputs("\\n", page);
        else
            (void)fprintf(page, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    }
}

static int print_figures(FILE *page, const struct services *services)
{
    const struct instances *instances = services->instances;
    size_t count = services->conf->instance_count;
    struct sample *samples = calloc(count, sizeof(samples[0]));
    if (samples == NULL)
        return -1;
    for (size_t n = 0; n < count; n++)
        take_sample(services, instances_at(instances, n), &samples[n]);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        const struct figure *figure = &figures[i];
        describe(page, figure->name, figure->type, figure->help);
        for (size_t n = 0; n < count; n++) {
            if (!samples[n].has[figure->part])
                continue;
            uint64_t value;
            memcpy(&value, (const char *)&samples[n] + figure->field, sizeof(value));
            (void)fprintf(page, "%s{instance=\"", figure->name);
            print_label(page, instances_at(instances, n)->conf->name);
            (void)fprintf(page, "\"} %llu\n", (unsigned long long)value);
        }
    }
    free(samples);
    return 0;
}

/* The page as a string of SIZE bytes, which the caller frees; NULL when memory is out. */
static char *make_page(const struct metrics *metrics, size_t *size)
{
    char *text = NULL;
    FILE *page = open_memstream(&text, size);
    if (page == NULL)
        return NULL;
    print_calls(page, metrics->calls);
    int rc = print_figures(page, atomic_load(metrics->services));
    if (fclose(page) == 0 && rc == 0)
        return text;
    free(text);
    return NULL;
}

/* --- HTTP --- */

/* A connection; it may take until its deadline, and no longer than until the server stops. */
struct client {
    int fd; /* does not block */
    int stop;
    struct timespec deadline; /* CLOCK_MONOTONIC */
};

static int milliseconds_left(const struct timespec *deadline)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t left = (deadline->tv_sec - now.tv_sec) * INT64_C(1000) +
                   (deadline->tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* Waits until the client has sent, or takes, something; false if it is to be given up. */
static bool wait_for(const struct client *client, short events)
{
    struct pollfd both[] = {{.fd = client->fd, .events = events},
                            {.fd = client->stop, .events = POLLIN}};
    int rc = poll(both, 2, milliseconds_left(&client->deadline));
    return rc > 0 && both[1].revents == 0;
}

/* What is not taken in time is not sent: the client asks again. */
static void send_all(const struct client *client, const char *data, size_t size)
{
    while (size > 0 && wait_for(client, POLLOUT)) {
        ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0)
            return;
        data += sent;
        size -= (size_t)sent;
    }
}

static void answer(const struct client *client, const char *status, const char *body, size_t size)
{
    char head[256];
    int length = snprintf(head, sizeof(head),
                          "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4\r\n"
                          "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                          status, size);
    send_all(client, head, (size_t)length);
    send_all(client, body, size);
}

/* Reads up to the end of the request's head; false if there is none within bounds. */
static bool read_request(const struct client *client, char request[REQUEST_MAX])
{
    size_t size = 0;
    while (size < REQUEST_MAX - 1 && wait_for(client, POLLIN)) {
        ssize_t got = recv(client->fd, request + size, REQUEST_MAX - 1 - size, 0);
        if (got <= 0)
            return false;
        size += (size_t)got;
        request[size] = '\0';
        if (strstr(request, "\r\n\r\n") != NULL)
            return true;
    }
    return false;
}

static void serve_client(const struct metrics *metrics, int fd)
{
    static const char unknown[] = "only GET /metrics is served here\n";
    struct client client = {.fd = fd, .stop = metrics->stop};
    (void)clock_gettime(CLOCK_MONOTONIC, &client.deadline);
    client.deadline.tv_sec += CLIENT_PATIENCE;
    char request[REQUEST_MAX];
    if (!read_request(&client, request))
        return;
    if (strncmp(request, "GET /metrics ", strlen("GET /metrics ")) != 0) {
        answer(&client, "404 Not Found", unknown, sizeof(unknown) - 1);
        return;
    }
    size_t size;
    char *page = make_page(metrics, &size);
    if (page == NULL)
        answer(&client, "503 Service Unavailable", "", 0);
    else
        answer(&client, "200 OK", page, size);
    free(page);
}

static void *serve(void *argument)
{
    const struct metrics *metrics = argument;
    struct pollfd events[] = {{.fd = metrics->stop, .events = POLLIN},
                              {.fd = metrics->listening, .events = POLLIN}};
    for (;;) {
        (void)poll(events, 2, -1);
        if (events[0].revents != 0)
            return NULL;
        int fd = accept4(metrics->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            serve_client(metrics, fd);
            (void)close(fd);
        } else {
            /* Out of descriptors, say: the connection stays where it is, and must not spin us. */
            (void)poll(events, 1, ACCEPT_PAUSE);
        }
    }
}

/* --- start and stop --- */

static int listen_at(const char *address, int *out, struct err *err)
{
    int fd;
    int rc = tcp_address_bind(address, &fd, err);
    if (rc != 0)
        return rc;
    if (listen(fd, 8) != 0) {
        rc = err_errno(err, errno, "%s: cannot listen there", address);
        (void)close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

int metrics_start(const char *address, const struct services *_Atomic *services,
                  const struct metrics_calls *calls, struct metrics **out, struct err *err)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    if (metrics == NULL)
        return err_no_memory(err, "the metrics");
    *metrics = (struct metrics){.services = services, .calls = calls, .listening = -1};
    metrics->stop = eventfd(0, EFD_CLOEXEC);
    int rc = metrics->stop < 0 ? err_errno(err, errno, "make an event") : 0;
    if (rc == 0)
        rc = listen_at(address, &metrics->listening, err);
    if (rc == 0) {
        int error = pthread_create(&metrics->thread, NULL, serve, metrics);
        if (error != 0)
            rc = err_errno(err, error, "start a thread");
    }
    if (rc == 0) {
        (void)pthread_setname_np(metrics->thread, "metrics");
        log_info("metrics", log_str("address", address));
        *out = metrics;
        return 0;
    }
    if (metrics->listening >= 0)
        (void)close(metrics->listening);
    if (metrics->stop >= 0)
        (void)close(metrics->stop);
    free(metrics);
    return err_wrap(err, "metrics");
}

void metrics_stop(struct metrics *metrics)
{
    if (metrics == NULL)
        return;
    (void)eventfd_write(metrics->stop, 1);
    (void)pthread_join(metrics->thread, NULL);
    (void)close(metrics->listening);
    (void)close(metrics->stop);
    free(metrics);
}
