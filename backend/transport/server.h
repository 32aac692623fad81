/* SPDX-License-Identifier: Apache-2.0 */
/* The server: its listeners, the calls that come in by them, and how both come to an end. */
#ifndef ASSETD_TRANSPORT_SERVER_H
#define ASSETD_TRANSPORT_SERVER_H

#include "base/err.h"
#include "service/services.h"

struct server;

/*
 * Opens every listener of the configuration in SERVICES, which is borrowed, and serves calls from
 * now on, on threads of its own.
 */
int server_start(const struct services *services, struct server **server, struct err *err);

/*
 * Takes no more calls, waits GRACE milliseconds for those in flight, cancels what is left, and
 * frees the server. Handlers have all ended when it returns.
 */
void server_stop(struct server *server, int64_t grace);

#endif
