/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to an external CAS: away and back, and how they come to an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "far_cas.h"
#include "remote/breaker.h"

/* --- away and back --- */

static void a_server_that_is_away_is_left_alone_and_tried_again(void **state)
{
    struct far_cas *cas = *state;
    struct err err;
    far_cas_answer_whole(cas);
    far_cas_open(cas);
    assert_true(cas_connections_are_up(cas->connections));
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "FindMissingBlobs: UNAVAILABLE: ");
    assert_true(cas_connections_are_up(cas->connections));
    far_cas_lose(cas);
    assert_int_equal(far_cas_logged(cas, "level=warning event=cas-lost instance=near"), 1);
    assert_int_equal(far_cas_logged(cas, "pushes are UNAVAILABLE, and so are fetches"), 1);
    /* That it was lost counts from when it is back: until then it has what it had. */
    assert_int_equal(cas_connections_lost_at(cas->connections), 0);
    far_cas_serve(cas);
    far_cas_await(cas);
    int64_t lost_at = cas_connections_lost_at(cas->connections);
    assert_true(lost_at > 0 && lost_at <= clock_steady());
    assert_int_equal(far_cas_logged(cas, "event=cas-lost"), 1);
    assert_int_equal(far_cas_logged(cas, "level=info event=cas-back instance=near"), 1);
    /* The same once more. */
    far_cas_stop(cas);
    far_cas_lose(cas);
    far_cas_serve(cas);
    far_cas_await(cas);
    assert_true(cas_connections_lost_at(cas->connections) > lost_at);
    assert_int_equal(far_cas_logged(cas, "event=cas-lost"), 2);
    assert_int_equal(far_cas_logged(cas, "event=cas-back"), 2);
}

static void calls_are_refused_while_it_is_left_alone(void **state)
{
    struct far_cas *cas = *state;
    struct digest digest = far_cas_digest("a", 1);
    struct span message;
    uint8_t *found;
    struct err err;
    cas->conf.on_unavailable = CONF_ON_UNAVAILABLE_SERVE;
    far_cas_answer(cas, GRPC_STATUS_UNAVAILABLE, "out of disks");
    far_cas_serve(cas);
    far_cas_open(cas);
    far_cas_lose(cas);
    assert_int_equal(far_cas_logged(cas, "answered as stored"), 1);
    /* Try until one comes between two tries, however slow this machine is. */
    for (;;) {
        uint64_t calls = cas_connections_calls(cas->connections);
        enum err_code code = far_cas_try(cas, &err);
        far_cas_assert_says(cas, &err, "UNAVAILABLE: out of disks");
        bool is_refused = cas_connections_calls(cas->connections) == calls;
        assert_int_equal(code, is_refused ? ERR_AWAY : ERR_UNAVAILABLE);
        if (is_refused)
            break;
    }
    far_cas_assert_says(cas, &err, "does not answer, and is tried again in ");
    /* The others go by the same breaker. */
    while (far_cas_read(cas, &digest, 1, &found, &err) != ERR_AWAY ||
           strstr(err.msg, "does not answer") == NULL)
        continue;
    while (far_cas_ask(cas, &message, &err) != ERR_AWAY ||
           strstr(err.msg, "does not answer") == NULL)
        continue;
}

/* --- calls side by side --- */

enum { ROW = 8 };

struct row {
    struct {
        struct cas_capabilities call; /* first */
        struct row *row;
    } calls[ROW];
    atomic_size_t codes[ERR_CODES];
    atomic_size_t ended;
};

static void on_row(struct cas_capabilities *call, struct span message, const struct err *err)
{
    struct row *row = ((__typeof__(&row->calls[0]))call)->row;
    (void)message;
    atomic_fetch_add(&row->codes[err != NULL ? err->code : ERR_OK], 1);
    atomic_fetch_add(&row->ended, 1);
}

static size_t requests_of(struct far_cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    size_t requests = cas->requests;
    (void)pthread_mutex_unlock(&cas->lock);
    return requests;
}

/* What is told once is not told again by each call that was under way. */
static void calls_that_fail_behind_those_that_lost_it_are_no_news(void **state)
{
    static const struct timespec pause = {.tv_nsec = 5000000};
    struct far_cas *cas = *state;
    struct row row = {.ended = 0};
    struct err err;
    far_cas_hang(cas);
    far_cas_serve(cas);
    far_cas_open(cas);
    for (size_t i = 0; i < ROW; i++) {
        row.calls[i].call.done = on_row;
        row.calls[i].row = &row;
        assert_int_equal(cas_get_capabilities(cas->connections, &row.calls[i].call, &err), 0);
    }
    while (requests_of(cas) < ROW)
        (void)nanosleep(&pause, NULL);
    far_cas_stop(cas);
    while (atomic_load(&row.ended) < ROW)
        (void)nanosleep(&pause, NULL);
    assert_int_equal(atomic_load(&row.codes[ERR_UNAVAILABLE]), BREAKER_FAILURES);
    assert_int_equal(atomic_load(&row.codes[ERR_AWAY]), ROW - BREAKER_FAILURES);
    assert_int_equal(far_cas_logged(cas, "event=cas-lost"), 1);
}

/* A socket at 127.0.0.1 that takes connections, as far as the system does, or refuses them. */
static int make_socket(struct far_cas *cas, bool takes, char address[64])
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(name);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&name, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
    if (takes)
        assert_int_equal(listen(fd, 8), 0);
    (void)snprintf(address, 64, "grpc://127.0.0.1:%u", ntohs(name.sin_port));
    cas->conf.address = address;
    return fd;
}

static void refused_connections_are_told(void **state)
{
    struct far_cas *cas = *state;
    char address[64];
    struct err err;
    int fd = make_socket(cas, false, address);
    far_cas_open(cas);
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "refused");
    (void)close(fd);
}

/* As a process that was stopped: the system takes the connection, and nobody says a word. */
static void a_server_that_is_silent_costs_the_timeout(void **state)
{
    struct far_cas *cas = *state;
    char address[64];
    struct err err;
    cas->conf.timeout = 100;
    int fd = make_socket(cas, true, address);
    far_cas_open(cas);
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "FindMissingBlobs: ");
    far_cas_lose(cas);
    (void)close(fd);
}

static void an_answer_that_does_not_come_costs_the_timeout(void **state)
{
    struct far_cas *cas = *state;
    struct digest digest = {.size = 5 << 20, .function = DIGEST_SHA256};
    uint8_t *found;
    struct err err;
    cas->conf.timeout = 200;
    far_cas_hang(cas);
    far_cas_serve(cas);
    far_cas_open(cas);
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "DEADLINE_EXCEEDED");
    far_cas_assert_says(cas, &err, "(cas.timeout is 200 ms)");
    assert_int_equal(far_cas_read(cas, &digest, 1, &found, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "ByteStream.Read: DEADLINE_EXCEEDED");
    far_cas_lose(cas);
    far_cas_answer_whole(cas);
    far_cas_await(cas);
}

/* --- connections --- */

static void count_peers(struct far_cas *cas, unsigned connections)
{
    char address[64];
    struct err err;
    int port = far_cas_serve_at(cas, "127.0.0.1:0", NULL);
    (void)snprintf(address, sizeof(address), "grpc://127.0.0.1:%d", port);
    cas->conf.address = address;
    cas->conf.connections = connections;
    far_cas_answer_whole(cas);
    far_cas_open(cas);
    for (unsigned i = 0; i < 3 * connections; i++)
        if (far_cas_try(cas, &err) != ERR_OK)
            fail_msg("%s", err.msg);
    assert_int_equal(cas->peer_count, connections);
}

static void calls_share_one_connection(void **state)
{
    count_peers(*state, 1);
}

static void calls_are_spread_over_connections(void **state)
{
    count_peers(*state, 3);
}

static void hosts_are_looked_up(void **state)
{
    struct far_cas *cas = *state;
    char address[64];
    struct err err;
    int port = far_cas_serve_at(cas, "127.0.0.1:0", NULL);
    (void)snprintf(address, sizeof(address), "grpc://localhost:%d", port);
    cas->conf.address = address;
    far_cas_answer_whole(cas);
    far_cas_open(cas);
    if (far_cas_try(cas, &err) != ERR_OK)
        fail_msg("%s", err.msg);
}

/* --- the end --- */

enum { CALLS = 200, CALLERS = 3 };

/* Calls from several threads. */
struct crowd {
    struct far_cas *cas;
    atomic_uint begun;
    atomic_uint cancelled;
    atomic_uint others;
    atomic_bool is_refused;
};

struct crowd_call {
    struct cas_find find; /* first */
    struct crowd *crowd;
    struct digest digest;
    bool is_missing;
};

static void on_crowd_call(struct cas_find *find, const struct err *err)
{
    struct crowd_call *call = (struct crowd_call *)find;
    if (err != NULL && err->code == ERR_CANCELLED)
        atomic_fetch_add(&call->crowd->cancelled, 1);
    else
        atomic_fetch_add(&call->crowd->others, 1);
    free(call);
}

static void *call_until_refused(void *argument)
{
    struct crowd *crowd = argument;
    struct err err = {.code = ERR_OK};
    for (int i = 0; i < CALLS || !atomic_load(&crowd->is_refused); i++) {
        struct crowd_call *call = calloc(1, sizeof(*call));
        if (call == NULL)
            abort();
        call->crowd = crowd;
        call->digest = far_cas_digest(&i, sizeof(i));
        call->find = (struct cas_find){.digests = &call->digest,
                                       .count = 1,
                                       .is_missing = &call->is_missing,
                                       .done = on_crowd_call};
        if (cas_find_missing(crowd->cas->connections, &call->find, &err) == 0) {
            atomic_fetch_add(&crowd->begun, 1);
            continue;
        }
        free(call);
        if (err.code != ERR_CANCELLED)
            abort();
        atomic_store(&crowd->is_refused, true);
        return NULL;
    }
    return NULL;
}

static void cancelling_ends_what_is_under_way(void **state)
{
    struct far_cas *cas = *state;
    struct crowd crowd = {.cas = cas};
    pthread_t threads[CALLERS];
    struct err err;
    far_cas_hang(cas);
    far_cas_serve(cas);
    cas->conf.connections = 2;
    far_cas_open(cas);
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_until_refused, &crowd), 0);
    while (cas_connections_calls(cas->connections) < CALLS)
        continue;
    cas_connections_cancel(cas->connections);
    for (int i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(far_cas_try(cas, &err), ERR_CANCELLED);
    far_cas_close(cas);
    assert_true(atomic_load(&crowd.begun) >= CALLS);
    assert_int_equal(atomic_load(&crowd.cancelled), atomic_load(&crowd.begun));
    assert_int_equal(atomic_load(&crowd.others), 0);
    assert_int_equal(far_cas_logged(cas, "cas-lost"), 0);
}

static void closing_waits_for_what_is_under_way(void **state)
{
    struct far_cas *cas = *state;
    struct crowd crowd = {.cas = cas};
    struct err err;
    cas->conf.timeout = 300;
    far_cas_hang(cas);
    far_cas_serve(cas);
    far_cas_open(cas);
    for (int i = 0; i < 5; i++) {
        struct crowd_call *call = calloc(1, sizeof(*call));
        assert_non_null(call);
        call->crowd = &crowd;
        call->digest = far_cas_digest("a", 1);
        call->find = (struct cas_find){.digests = &call->digest,
                                       .count = 1,
                                       .is_missing = &call->is_missing,
                                       .done = on_crowd_call};
        assert_int_equal(cas_find_missing(cas->connections, &call->find, &err), 0);
    }
    far_cas_close(cas);
    assert_int_equal(atomic_load(&crowd.others), 5);
}

/* Connections that were never used, and calls after the server has gone. */
static void connections_close_without_a_call(void **state)
{
    struct far_cas *cas = *state;
    cas->conf.connections = 4;
    far_cas_open(cas);
    far_cas_close(cas);
    far_cas_serve(cas);
    far_cas_answer_whole(cas);
    far_cas_open(cas);
    far_cas_await(cas);
    far_cas_stop(cas);
    cas_connections_close(NULL);
}

#define WITH_CAS(test) cmocka_unit_test_setup_teardown(test, far_cas_set_up, far_cas_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CAS(a_server_that_is_away_is_left_alone_and_tried_again),
        WITH_CAS(calls_are_refused_while_it_is_left_alone),
        WITH_CAS(calls_that_fail_behind_those_that_lost_it_are_no_news),
        WITH_CAS(refused_connections_are_told),
        WITH_CAS(a_server_that_is_silent_costs_the_timeout),
        WITH_CAS(an_answer_that_does_not_come_costs_the_timeout),
        WITH_CAS(calls_share_one_connection),
        WITH_CAS(calls_are_spread_over_connections),
        WITH_CAS(hosts_are_looked_up),
        WITH_CAS(cancelling_ends_what_is_under_way),
        WITH_CAS(closing_waits_for_what_is_under_way),
        WITH_CAS(connections_close_without_a_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
