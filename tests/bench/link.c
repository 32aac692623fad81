/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets, and OpenSSL over them. */
#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fail.h"

#define SERVER_NAME "localhost"

enum {
    TLS_READ = 128 << 10,        /* bytes: several records by one read */
    HANDSHAKE_MAX = 60 * 1000,   /* milliseconds between its steps */
    WRITE_MAX = 0x7fffffff >> 1, /* bytes that fit into OpenSSL's int */
};

/* What OpenSSL, or what it called, has against it. */
static const char *tls_reason(void)
{
    unsigned long error = ERR_peek_last_error();
    if (error == 0)
        return errno != 0 ? strerror(errno) : "end of connection";
    const char *text = ERR_reason_error_string(error);
    return text != NULL ? text : "unknown";
}

struct ssl_ctx_st *link_tls_new(const char *authorities, const char *certificate, const char *key)
{
    static const unsigned char protocols[] = "\x02h2";
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    /* OpenSSL writes without MSG_NOSIGNAL. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (tls == NULL || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_alpn_protos(tls, protocols, sizeof(protocols) - 1) != 0)
        fail("begin TLS: %s", tls_reason());
    if (SSL_CTX_load_verify_file(tls, authorities) != 1)
        fail("%s: no certificates to verify the server by: %s", authorities, tls_reason());
    if ((certificate == NULL) != (key == NULL))
        fail("a client's certificate and its key go together");
    if (certificate != NULL && (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
                                SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1))
        fail("%s and %s are no certificate and its key: %s", certificate, key, tls_reason());
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    (void)SSL_CTX_set_mode(tls,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls, 1);
    SSL_CTX_set_default_read_buffer_len(tls, TLS_READ);
    return tls;
}

void link_tls_free(struct ssl_ctx_st *tls)
{
    SSL_CTX_free(tls);
}

/* --- sockets --- */

/* Closes FD and keeps errno. */
static int give_up(int fd)
{
    int reason = errno;
    (void)close(fd);
    errno = reason;
    return -1;
}

/* That there is none is no matter of the server's. */
static int new_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("the client gets no socket: %s%s", strerror(errno),
             errno == EMFILE ? ": its own limit, not the server's, is too low: `ulimit -n`" : "");
    return fd;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        fail("%s: too long for a socket", path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = new_socket(AF_UNIX);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    return give_up(fd);
}

static int connect_tcp(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[INET_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    unsigned port = 0;
    int yes = 1;
    if (colon == NULL || (size_t)(colon - text) >= sizeof(host) ||
        sscanf(colon + 1, "%5u", &port) != 1 || port > UINT16_MAX)
        fail("%s: no HOST:PORT", text);
    (void)snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    address.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fail("%s: no IPv4 address", host);
    int fd = new_socket(AF_INET);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) == 0)
        return fd;
    return give_up(fd);
}

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        fail("fcntl: %s", strerror(errno));
}

/* --- TLS --- */

static void wait_for(int fd, short events, const char *address)
{
    struct pollfd waited = {.fd = fd, .events = events};
    int ready = poll(&waited, 1, HANDSHAKE_MAX);
    if (ready == 0)
        fail("%s: the server does not answer to TLS", address);
    if (ready < 0 && errno != EINTR)
        fail("poll: %s", strerror(errno));
}

static void shake_hands(SSL *tls, int fd, const char *address)
{
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_connect(tls);
        if (rc == 1)
            return;
        int error = SSL_get_error(tls, rc);
        long verdict = SSL_get_verify_result(tls);
        if (error == SSL_ERROR_WANT_READ)
            wait_for(fd, POLLIN, address);
        else if (error == SSL_ERROR_WANT_WRITE)
            wait_for(fd, POLLOUT, address);
        else if (verdict != X509_V_OK)
            fail("%s: the server's certificate is not good for " SERVER_NAME ": %s", address,
                 X509_verify_cert_error_string(verdict));
        else
            fail("%s: no TLS: %s", address, tls_reason());
    }
}

static SSL *begin_tls(struct ssl_ctx_st *context, int fd, const char *address)
{
    const unsigned char *protocol;
    unsigned protocol_size;
    SSL *tls = SSL_new(context);
    if (tls == NULL || SSL_set_fd(tls, fd) != 1 || SSL_set1_host(tls, SERVER_NAME) != 1 ||
        SSL_set_tlsext_host_name(tls, SERVER_NAME) != 1)
        fail("begin TLS: %s", tls_reason());
    shake_hands(tls, fd, address);
    SSL_get0_alpn_selected(tls, &protocol, &protocol_size);
    if (protocol_size != 2 || memcmp(protocol, "h2", 2) != 0)
        fail("%s: the server does not offer HTTP/2 (ALPN h2)", address);
    return tls;
}

/* What a call of OpenSSL that moved nothing means. */
static size_t no_progress(struct link *link, int rc)
{
    int error = SSL_get_error(link->tls, rc);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return 0;
    fail("the server is gone: TLS: %s",
         error == SSL_ERROR_ZERO_RETURN ? "end of connection" : tls_reason());
}

/* --- links --- */

int link_open(struct link *link, const char *address, struct ssl_ctx_st *tls)
{
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    *link = (struct link){.fd = is_unix ? connect_unix(address + 5) : connect_tcp(address)};
    if (link->fd < 0)
        return -1;
    set_nonblocking(link->fd);
    if (tls != NULL)
        link->tls = begin_tls(tls, link->fd, address);
    return 0;
}

void link_close(struct link *link)
{
    SSL_free(link->tls);
    (void)close(link->fd);
}

size_t link_send(struct link *link, const uint8_t *bytes, size_t size)
{
    if (link->tls != NULL) {
        ERR_clear_error();
        errno = 0;
        int sent = SSL_write(link->tls, bytes, size < WRITE_MAX ? (int)size : WRITE_MAX);
        return sent > 0 ? (size_t)sent : no_progress(link, sent);
    }
    ssize_t sent = send(link->fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("the server is gone: send: %s", strerror(errno));
    return sent > 0 ? (size_t)sent : 0;
}

size_t link_receive(struct link *link, uint8_t *bytes, size_t room)
{
    if (link->tls != NULL) {
        ERR_clear_error();
        errno = 0;
        int size = SSL_read(link->tls, bytes, room < WRITE_MAX ? (int)room : WRITE_MAX);
        return size > 0 ? (size_t)size : no_progress(link, size);
    }
    ssize_t size = recv(link->fd, bytes, room, 0);
    if (size == 0 || (size < 0 && errno != EAGAIN))
        fail("the server is gone: %s", size == 0 ? "end of connection" : strerror(errno));
    return size > 0 ? (size_t)size : 0;
}
