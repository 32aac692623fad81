/* SPDX-License-Identifier: Apache-2.0 */
/* TCP addresses as the system takes them, and which process has one that is in use. */
#ifndef ASSETD_TRANSPORT_TCP_ADDRESS_H
#define ASSETD_TRANSPORT_TCP_ADDRESS_H

#include "base/err.h"

/*
 * Looks up ADDRESS ("HOST:PORT" or "[HOST]:PORT") and binds a socket to it, for the caller to
 * close. ERR_UNAVAILABLE: it is in use; with the pid and name of the process where /proc tells us
 * (it does for our own user's, and for root).
 */
int tcp_address_bind(const char *address, int *fd, struct err *err);

#endif
