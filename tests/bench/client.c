/* SPDX-License-Identifier: Apache-2.0 */
/* Connections with nghttp2 sessions, served in turn by one thread. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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
    int status;       /* -1: none came */
    char message[MESSAGE_MAX];
};

struct connection {
    struct client *client;
    int fd;
    nghttp2_session *session;
    uint8_t *out; /* BUFFER bytes; heap */
    size_t out_size;
    size_t out_sent;
    bool is_blocked; /* what is left in OUT waits for the socket */
};

struct client {
    const char *address;
    int epoll;
    struct connection *connections; /* heap */
    unsigned connection_count;
    nghttp2_session_callbacks *callbacks;
    uint8_t *in; /* BUFFER bytes; heap */
    const struct bodies *bodies;
    enum client_check check;
    uint64_t count; /* of calls to be made */
    uint64_t begun;
    uint64_t done;
};

_Noreturn void client_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

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
    if (client->begun == client->count)
        return;
    uint64_t number = client->begun++;
    struct call *call = blobs_memory(1, sizeof(*call));
    call->request = &bodies->requests[number % bodies->count];
    call->answer = &bodies->answers[number % bodies->count % bodies->answer_count];
    call->status = -1;
    const nghttp2_nv headers[] = {
        header(":method", "POST"),
        header(":scheme", "http"),
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
        client_fail("%s: %s", bodies->path, nghttp2_strerror(stream));
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
        client_fail("%s: HTTP status %.*s", connection->client->bodies->path, (int)value_size,
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

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes,
                   size_t size, void *context)
{
    struct connection *connection = context;
    struct client *client = connection->client;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    (void)flags;
    if (call == NULL)
        return 0;
    if (client->check == CLIENT_BYTES && !compare(call, bytes, size))
        client_fail("%s: a wrong answer, among bytes %zu to %zu", client->bodies->path, call->taken,
                    call->taken + size);
    call->taken += size;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t error, void *context)
{
    struct connection *connection = context;
    struct client *client = connection->client;
    const char *path = client->bodies->path;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call == NULL)
        return 0;
    if (call->status != 0)
        client_fail("%s: status %d %s (HTTP/2: %s)", path, call->status, call->message,
                    nghttp2_http2_strerror(error));
    if (call->sent != call->request->size)
        client_fail("%s: answered after %zu of %zu bytes", path, call->sent, call->request->size);
    if (client->check != CLIENT_STATUS && call->taken != call->answer->size)
        client_fail("%s: the answer has %zu bytes, not %zu", path, call->taken, call->answer->size);
    free(call);
    client->done++;
    begin_call(connection);
    return 0;
}

/* --- connections --- */

/* Sends until the socket takes no more or nothing is left. */
static void send_all(struct connection *connection)
{
    for (;;) {
        while (connection->out_sent < connection->out_size) {
            ssize_t sent = send(connection->fd, connection->out + connection->out_sent,
                                connection->out_size - connection->out_sent, MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN) {
                connection->is_blocked = true;
                return;
            }
            if (sent < 0)
                client_fail("send: %s", strerror(errno));
            connection->out_sent += (size_t)sent;
        }
        connection->is_blocked = false;
        connection->out_size = connection->out_sent = 0;
        while (connection->out_size + FRAME_ROOM <= BUFFER) {
            const uint8_t *bytes;
            ssize_t size = nghttp2_session_mem_send(connection->session, &bytes);
            if (size < 0 || size > FRAME_ROOM)
                client_fail("send: %s", size < 0 ? nghttp2_strerror((int)size) : "a huge frame");
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
    if (epoll_ctl(connection->client->epoll, operation, connection->fd, &event) != 0)
        client_fail("epoll: %s", strerror(errno));
}

static void flush(struct connection *connection)
{
    bool was_blocked = connection->is_blocked;
    send_all(connection);
    watch(connection, EPOLL_CTL_MOD, was_blocked);
}

static void receive(struct connection *connection)
{
    uint8_t *in = connection->client->in;
    ssize_t size = recv(connection->fd, in, BUFFER, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0)
        client_fail("the server is gone: %s", size == 0 ? "end of connection" : strerror(errno));
    ssize_t taken = nghttp2_session_mem_recv(connection->session, in, (size_t)size);
    if (taken != size)
        client_fail("receive: %s", nghttp2_strerror((int)taken));
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        client_fail("%s: too long for a socket", path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static int connect_tcp(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[INET_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    int yes = 1;
    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        client_fail("%s: no HOST:PORT", text);
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    address.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        client_fail("%s: no IPv4 address", host);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        client_fail("fcntl: %s", strerror(errno));
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
        client_fail("begin a connection: %s", nghttp2_strerror(rc));
}

struct client *client_open(const char *address, unsigned connections)
{
    struct client *client = blobs_memory(1, sizeof(*client));
    client->address = address;
    client->in = blobs_memory(1, BUFFER);
    client->connections = blobs_memory(connections, sizeof(client->connections[0]));
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (client->epoll < 0 || nghttp2_session_callbacks_new(&client->callbacks) != 0)
        client_fail("begin: %s", strerror(errno));
    nghttp2_session_callbacks_set_on_header_callback(client->callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(client->callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(client->callbacks, on_close);
    for (unsigned i = 0; i < connections; i++) {
        struct connection *connection = &client->connections[i];
        connection->client = client;
        connection->fd =
            strncmp(address, "unix:", 5) == 0 ? connect_unix(address + 5) : connect_tcp(address);
        if (connection->fd < 0) {
            int reason = errno;
            client_close(client);
            errno = reason;
            return NULL;
        }
        client->connection_count++;
        set_nonblocking(connection->fd);
        begin_session(connection);
        watch(connection, EPOLL_CTL_ADD, false);
    }
    return client;
}

void client_close(struct client *client)
{
    for (unsigned i = 0; i < client->connection_count; i++) {
        nghttp2_session_del(client->connections[i].session);
        (void)close(client->connections[i].fd);
        free(client->connections[i].out);
    }
    nghttp2_session_callbacks_del(client->callbacks);
    (void)close(client->epoll);
    free(client->connections);
    free(client->in);
    free(client);
}

void client_run(struct client *client, const struct bodies *bodies, uint64_t count,
                unsigned in_flight, enum client_check check)
{
    struct epoll_event events[EVENTS];
    client->bodies = bodies;
    client->check = check;
    client->count = count;
    client->begun = client->done = 0;
    for (unsigned i = 0; i < in_flight; i++)
        begin_call(&client->connections[i % client->connection_count]);
    for (unsigned i = 0; i < client->connection_count; i++)
        flush(&client->connections[i]);
    while (client->done < client->count) {
        int ready = epoll_wait(client->epoll, events, EVENTS, PATIENCE);
        if (ready == 0)
            client_fail("%s: no answer", bodies->path);
        if (ready < 0 && errno != EINTR)
            client_fail("epoll: %s", strerror(errno));
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0)
                receive(connection);
            flush(connection);
        }
    }
}
