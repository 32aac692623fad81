/* SPDX-License-Identifier: Apache-2.0 */
/* The server: its listeners, the calls that come in by them, and how both come to an end. */
#ifndef ASSETD_TRANSPORT_SERVER_H
#define ASSETD_TRANSPORT_SERVER_H

#include "base/err.h"
#include "service/services.h"

struct server;

/*
 * Opens every listener of the configuration in SERVICES, which is borrowed, and serves calls from
 * now on, on threads of its own. With a WATCHDOG (milliseconds, not 0) the service manager is told
 * in each that the server is alive, until it is stopped.
 */
int server_start(const struct services *services, int64_t watchdog, struct server **server,
                 struct err *err);

/*
 * Calls that come from now on are served by NEXT, whose listeners are those of the services before,
 * by number and address. Calls under way end with what they began with, so that all of it must live
 * as long as the server. One thread.
 */
void server_follow(struct server *server, const struct services *next);

/* Looks at the files of certificates, of all listeners that have any. One thread. */
void server_refresh(struct server *server);

/*
 * Takes no more calls, waits GRACE milliseconds for those in flight, cancels what is left a second
 * later, when the clients know of the stop, and frees the server. Handlers have all ended when it
 * returns.
 */
void server_stop(struct server *server, int64_t grace);

#endif
