/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses to listen at, and addresses of other servers. */
#ifndef ASSETD_CONF_ADDRESS_H
#define ASSETD_CONF_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { ADDRESS_HOST_MAX = 253 }; /* bytes of a host name, RFC 1123 */

struct address {
    const char *path; /* of a unix socket, within the text; NULL: TCP, and the rest is set */
    char host[ADDRESS_HOST_MAX + 1];
    unsigned port;    /* 1 to 65535 */
    uint8_t ip[16];   /* IPv4 as ::ffff:a.b.c.d */
    bool has_ip;      /* if not, HOST is a name */
    bool is_loopback; /* no other machine can reach it */
};

/*
 * Takes an address to listen at apart, which is unix:/PATH, HOST:PORT or [HOST]:PORT; TEXT must
 * live as long as ADDRESS. No name is looked up. ERR_INVALID, with how to write it, if it is none.
 */
int address_parse(const char *text, struct address *address, struct err *err);

/*
 * The same for the address of another server: unix:/PATH, grpc://HOST:PORT or, IS_TLS then,
 * grpcs://HOST:PORT; an IPv6 HOST in brackets.
 */
int address_parse_server(const char *text, struct address *address, bool *is_tls, struct err *err);

/*
 * Whether two TCP addresses cannot both be listened at: the same port of the same host, or of all.
 * Two unix sockets are the same if their paths are, which is for the caller to see.
 */
bool address_overlaps(const struct address *a, const struct address *b);

/*
 * Whether who connects to SERVER, of TCP, comes to what this machine listens at LISTENER, as far as
 * can be told without asking anyone.
 */
bool address_reaches(const struct address *server, const struct address *listener);

#endif
