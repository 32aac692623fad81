/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to a server, plain or with TLS, that never waits once it is
 * open. All functions end the process, with the reason, when anything is not as
 * it should be.
 */
#ifndef ASSETD_BENCH_LINK_H
#define ASSETD_BENCH_LINK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ssl_ctx_st;
struct ssl_st;

struct link {
    int fd;
    struct ssl_st *tls; /* NULL: plain */
};

/*
 * What connections with TLS share: the server's certificate is to be signed by
 * one of the file AUTHORITIES, for the name "localhost". CERTIFICATE and KEY,
 * files of the client's own, may be NULL, both.
 */
struct ssl_ctx_st *link_tls_new(const char *authorities, const char *certificate, const char *key);
void link_tls_free(struct ssl_ctx_st *tls);

/*
 * ADDRESS: HOST:PORT, an IPv4 address, or unix:/PATH. TLS: NULL for a plain
 * connection; with it HTTP/2 is agreed on before this returns. -1 with errno:
 * nobody listens there.
 */
int link_open(struct link *link, const char *address, struct ssl_ctx_st *tls);
void link_close(struct link *link);

/* Bytes that were sent, or received; 0: none now, wait for the socket. */
size_t link_send(struct link *link, const uint8_t *bytes, size_t size);
size_t link_receive(struct link *link, uint8_t *bytes, size_t room);

#endif
