/* SPDX-License-Identifier: Apache-2.0 */
/* Connections with nghttp2 sessions, served in turn by one thread. */
#include "client.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "exchange.h"
#include "fail.h"

enum {
    /* Windows as gRPC's clients come to have them: what is under way to one call, and to all. */
    STREAM_WINDOW = 4 << 20,
    CONNECTION_WINDOW = 16 << 20,
    BUFFER = 512 << 10,    /* bytes received or sent at once */
    FRAME_ROOM = 64 << 10, /* more than any frame takes */
    EVENTS = 64,
    PATIENCE = 60 * 1000, /* milliseconds without any event: it hangs */
    MESSAGE_MAX = 256,    /* bytes of a failure's message that are shown */
};

/* A call under way. */
struct call {
    const struct body *request;
    const struct body *answer;
    size_t run;       /* of the request: next to send */
    size_t run_sent;  /* bytes of it */
    size_t sent;      /* bytes in sum */
    size_t expected;  /* run of the answer that is to come next */
    size_t run_taken; /* bytes of it */
    size_t taken;     /* bytes in sum */
    uint8_t *kept;    /* all of them, where they are looked at in the end; heap */
    int status;       /* -1: none came */
    char message[MESSAGE_MAX];
};

struct connection {
    struct client *client;
    struct link link;
    nghttp2_session *session;
    bool is_ready; /* the server has said what it allows */
    uint8_t *out;  /* BUFFER bytes; heap */
    size_t out_size;
    size_t out_sent;
    bool is_blocked; /* what is left in OUT waits for the socket */
};

struct client {
    const char *scheme;
    int epoll;
    struct connection *connections; /* heap */
    unsigned connection_count;
    unsigned ready_count;
    nghttp2_session_callbacks *callbacks;
    uint8_t *in; /* BUFFER bytes; heap */
    const struct bodies *bodies;
    const struct client_load *load;
    uint64_t begun; /* calls */
    uint64_t done;
    int status; /* of the call that ended last */
};

/* --- calls --- */

static ssize_t on_read(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room,
                       uint32_t *flags, nghttp2_data_source *source, void *context)
{
    struct call *call = source->ptr;
    size_t size = 0;
    (void)session;
    (void)stream;
    (void)context;
    while (size < room && call->run < call->request->count) {
        struct span run = call->request->runs[call->run];
        size_t take = run.size - call->run_sent;
        if (take > room - size)
            take = room - size;
        memcpy(out + size, run.data + call->run_sent, take);
        size += take;
        call->run_sent += take;
        if (call->run_sent == run.size) {
            call->run++;
            call->run_sent = 0;
        }
    }
    call->sent += size;
    if (call->run == call->request->count)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)size;
}

static nghttp2_nv header(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)name,
                        .value = (uint8_t *)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

/* Begins the next call, if there is one left to make. */
static void begin_call(struct connection *connection)
{
    struct client *client = connection->client;
    const struct bodies *bodies = client->bodies;
    if (client->begun == client->load->count)
        return;
    uint64_t number = client->begun++;
    struct call *call = blobs_memory(1, sizeof(*call));
    call->request = &bodies->requests[number % bodies->count];
    call->answer = &bodies->answers[number % bodies->count % bodies->answer_count];
    call->status = -1;
    const nghttp2_nv headers[] = {
        header(":method", "POST"),
        header(":scheme", client->scheme),
        header(":path", bodies->path),
        header(":authority", "localhost"),
        header("te", "trailers"),
        header("content-type", "application/grpc"),
        header("user-agent", "assetd-bench"),
    };
    const nghttp2_data_provider body = {.source.ptr = call, .read_callback = on_read};
    int32_t stream = nghttp2_submit_request(connection->session, NULL, headers,
                                            sizeof(headers) / sizeof(headers[0]), &body, call);
    if (stream < 0)
        fail("%s: %s", bodies->path, nghttp2_strerror(stream));
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *context)
{
    struct connection *connection = context;
    struct call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    (void)flags;
    if (call == NULL)
        return 0;
    if (name_size == 7 && memcmp(name, ":status", 7) == 0 &&
        (value_size != 3 || memcmp(value, "200", 3) != 0))
        fail("%s: HTTP status %.*s", connection->client->bodies->path, (int)value_size,
             (const char *)value);
    if (name_size == 11 && memcmp(name, "grpc-status", 11) == 0)
        call->status = atoi((const char *)value);
    if (name_size == 12 && memcmp(name, "grpc-message", 12) == 0)
        (void)snprintf(call->message, sizeof(call->message), "%.*s", (int)value_size,
                       (const char *)value);
    return 0;
}

/* Goes along the answer that is expected; false: here it is another. */
static bool compare(struct call *call, const uint8_t *bytes, size_t size)
{
    while (size > 0 && call->expected < call->answer->count) {
        struct span run = call->answer->runs[call->expected];
        size_t take = run.size - call->run_taken;
        if (take > size)
            take = size;
        if (memcmp(run.data + call->run_taken, bytes, take) != 0)
            return false;
        bytes += take;
        size -= take;
        call->run_taken += take;
        if (call->run_taken == run.size) {
            call->expected++;
            call->run_taken = 0;
        }
    }
    return size == 0;
}

static void keep(struct call *call, const uint8_t *bytes, size_t size)
{
    call->kept = realloc(call->kept, call->taken + size);
    if (call->kept == NULL && size > 0)
        fail("no memory for an answer");
    memcpy(call->kept + call->taken, bytes, size);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes,
                   size_t size, void *context)
{
    struct connection *connection = context;
    struct client *client = connection->client;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    (void)flags;
    if (call == NULL)
        return 0;
    if (client->load->check == CLIENT_BYTES && !compare(call, bytes, size))
        fail("%s: a wrong answer, among bytes %zu to %zu", client->bodies->path, call->taken,
             call->taken + size);
    if (client->load->check == CLIENT_ENOUGH && client->bodies->is_right != NULL)
        keep(call, bytes, size);
    call->taken += size;
    return 0;
}

/* As the prefix tells it. */
static size_t message_size(const uint8_t prefix[EXCHANGE_PREFIX])
{
    return (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 | prefix[4];
}

/* What other servers answer may differ from ours, but not in what it says. */
static void check_meaning(const struct call *call, const struct bodies *bodies)
{
    const struct body *answer = call->answer;
    const uint8_t *kept = call->kept;
    if (bodies->is_right == NULL) {
        if (call->taken < answer->least)
            fail("%s: the answer has %zu bytes, not %zu at least", bodies->path, call->taken,
                 answer->least);
        return;
    }
    if (call->taken < EXCHANGE_PREFIX || kept[0] != 0 ||
        message_size(kept) != call->taken - EXCHANGE_PREFIX)
        fail("%s: the answer's %zu bytes are no single message", bodies->path, call->taken);
    const struct span right = {answer->runs[0].data + EXCHANGE_PREFIX,
                               answer->size - EXCHANGE_PREFIX};
    const struct span got = {kept + EXCHANGE_PREFIX, call->taken - EXCHANGE_PREFIX};
    if (!bodies->is_right(right, got))
        fail("%s: a wrong answer, of %zu bytes: it lacks what was asked for, has something else, "
             "or a status in it is not OK",
             bodies->path, call->taken);
}

/* Ends the process unless the call, which is over, is what it was to be. */
static void check_call(const struct call *call, const struct bodies *bodies,
                       const struct client_load *load, uint32_t error)
{
    const struct body *answer = call->answer;
    const char *path = bodies->path;
    if (call->status < 0)
        fail("%s: the call ended without a status (HTTP/2: %s)", path,
             nghttp2_http2_strerror(error));
    if (load->status == CLIENT_ANY_STATUS)
        return;
    if (call->status != load->status)
        fail("%s: status %d, not %d: %s", path, call->status, load->status, call->message);
    if (call->status != 0)
        return;
    if (call->sent != call->request->size)
        fail("%s: answered after %zu of %zu bytes: is it there already?", path, call->sent,
             call->request->size);
    if (load->check == CLIENT_ENOUGH)
        check_meaning(call, bodies);
    if (load->check <= CLIENT_SIZE && call->taken != answer->size)
        fail("%s: the answer has %zu bytes, not %zu", path, call->taken, answer->size);
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t error, void *context)
{
    struct connection *connection = context;
    struct client *client = connection->client;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call == NULL)
        return 0;
    check_call(call, client->bodies, client->load, error);
    client->status = call->status;
    free(call->kept);
    free(call);
    client->done++;
    begin_call(connection);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
    struct connection *connection = context;
    (void)session;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        fail("the server ends the connection: GOAWAY, %s: %.*s",
             nghttp2_http2_strerror(frame->goaway.error_code), (int)frame->goaway.opaque_data_len,
             (const char *)frame->goaway.opaque_data);
    if (frame->hd.type == NGHTTP2_SETTINGS && !connection->is_ready) {
        connection->is_ready = true;
        connection->client->ready_count++;
    }
    return 0;
}

/* --- connections --- */

/* Sends until the socket takes no more or nothing is left. */
static void send_all(struct connection *connection)
{
    for (;;) {
        while (connection->out_sent < connection->out_size) {
            size_t sent = link_send(&connection->link, connection->out + connection->out_sent,
                                    connection->out_size - connection->out_sent);
            connection->is_blocked = sent == 0;
            if (sent == 0)
                return;
            connection->out_sent += sent;
        }
        connection->out_size = connection->out_sent = 0;
        while (connection->out_size + FRAME_ROOM <= BUFFER) {
            const uint8_t *bytes;
            ssize_t size = nghttp2_session_mem_send(connection->session, &bytes);
            if (size < 0 || size > FRAME_ROOM)
                fail("send: %s", size < 0 ? nghttp2_strerror((int)size) : "a huge frame");
            if (size == 0)
                break;
            memcpy(connection->out + connection->out_size, bytes, (size_t)size);
            connection->out_size += (size_t)size;
        }
        if (connection->out_size == 0)
            return;
    }
}

static void watch(struct connection *connection, int operation, bool was_blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (connection->is_blocked ? EPOLLOUT : 0U),
                                .data.ptr = connection};
    if (operation == EPOLL_CTL_MOD && was_blocked == connection->is_blocked)
        return;
    if (epoll_ctl(connection->client->epoll, operation, connection->link.fd, &event) != 0)
        fail("epoll: %s", strerror(errno));
}

static void flush(struct connection *connection)
{
    bool was_blocked = connection->is_blocked;
    send_all(connection);
    watch(connection, EPOLL_CTL_MOD, was_blocked);
}

/* TLS may keep bytes that the socket does not tell of, so it is asked until there are none. */
static void receive(struct connection *connection)
{
    uint8_t *in = connection->client->in;
    size_t size;
    do {
        size = link_receive(&connection->link, in, BUFFER);
        ssize_t taken = nghttp2_session_mem_recv(connection->session, in, size);
        if (taken < 0 || (size_t)taken != size)
            fail("receive: %s", nghttp2_strerror((int)taken));
    } while (size > 0 && connection->link.tls != NULL);
}

static void begin_session(struct connection *connection)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
    };
    connection->out = blobs_memory(1, BUFFER);
    int rc =
        nghttp2_session_client_new(&connection->session, connection->client->callbacks, connection);
    if (rc == 0)
        rc = nghttp2_submit_settings(connection->session, 0, settings,
                                     sizeof(settings) / sizeof(settings[0]));
    if (rc == 0)
        rc = nghttp2_session_set_local_window_size(connection->session, 0, 0, CONNECTION_WINDOW);
    if (rc != 0)
        fail("begin a connection: %s", nghttp2_strerror(rc));
}

/* Waits for what the server sends, and deals with it. */
static void serve(struct client *client, const char *waited_for)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(client->epoll, events, EVENTS, PATIENCE);
    if (ready == 0)
        fail("%s: no answer for %d s", waited_for, PATIENCE / 1000);
    if (ready < 0 && errno != EINTR)
        fail("epoll: %s", strerror(errno));
    for (int i = 0; i < ready; i++) {
        struct connection *connection = events[i].data.ptr;
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0)
            receive(connection);
        flush(connection);
    }
}

/* --- the client --- */

static void set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
}

struct client *client_open(const char *address, unsigned connections, struct ssl_ctx_st *tls)
{
    struct client *client = blobs_memory(1, sizeof(*client));
    client->scheme = tls != NULL ? "https" : "http";
    client->in = blobs_memory(1, BUFFER);
    client->connections = blobs_memory(connections, sizeof(client->connections[0]));
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (client->epoll < 0 || nghttp2_session_callbacks_new(&client->callbacks) != 0)
        fail("begin: %s", strerror(errno));
    set_callbacks(client->callbacks);
    for (unsigned i = 0; i < connections; i++) {
        struct connection *connection = &client->connections[i];
        connection->client = client;
        if (link_open(&connection->link, address, tls) != 0) {
            int reason = errno;
            client_close(client);
            errno = reason;
            return NULL;
        }
        client->connection_count++;
        begin_session(connection);
        watch(connection, EPOLL_CTL_ADD, false);
        flush(connection);
    }
    while (client->ready_count < connections)
        serve(client, address);
    return client;
}

void client_close(struct client *client)
{
    for (unsigned i = 0; i < client->connection_count; i++) {
        nghttp2_session_del(client->connections[i].session);
        link_close(&client->connections[i].link);
        free(client->connections[i].out);
    }
    nghttp2_session_callbacks_del(client->callbacks);
    (void)close(client->epoll);
    free(client->connections);
    free(client->in);
    free(client);
}

int client_run(struct client *client, const struct bodies *bodies, const struct client_load *load)
{
    client->bodies = bodies;
    client->load = load;
    client->begun = client->done = 0;
    for (unsigned i = 0; i < load->in_flight; i++)
        begin_call(&client->connections[i % client->connection_count]);
    for (unsigned i = 0; i < client->connection_count; i++)
        flush(&client->connections[i]);
    while (client->done < load->count)
        serve(client, bodies->path);
    return client->status;
}
