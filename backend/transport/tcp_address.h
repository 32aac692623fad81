/* SPDX-License-Identifier: Apache-2.0 */
/* TCP addresses as the system takes them, and which process has one that is in use. */
#ifndef ASSETD_TRANSPORT_TCP_ADDRESS_H
#define ASSETD_TRANSPORT_TCP_ADDRESS_H

#include <netdb.h>
#include <sys/socket.h>

#include "base/err.h"

/* ADDRESS ("HOST:PORT" or "[HOST]:PORT") looked up to listen at; for freeaddrinfo afterwards. */
int tcp_address_resolve(const char *address, struct addrinfo **found, struct err *err);

/*
 * Sets ERR to ERR_UNAVAILABLE: ADDRESS, whose binary form is SOCKADDR, is in use; with the pid and
 * name of the process where /proc tells us (it does for our own user's, and for root). Returns the
 * negated code.
 */
int tcp_address_in_use(const char *address, const struct sockaddr *sockaddr, struct err *err);

#endif
