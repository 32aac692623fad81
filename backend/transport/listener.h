/* SPDX-License-Identifier: Apache-2.0 */
/* Binding of listeners: addresses in use, unix sockets with their mode and group. */
#ifndef ASSETD_TRANSPORT_LISTENER_H
#define ASSETD_TRANSPORT_LISTENER_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include "base/err.h"
#include "conf/conf.h"

/*
 * Makes SERVER listen at LISTENER's address, with CREDENTIALS, which stay the caller's. An address
 * that another process listens at is ERR_UNAVAILABLE, with its pid where that can be told; the
 * socket file of a process that is gone is replaced. Nobody but our own user can connect to a unix
 * socket before it has its mode and group. The socket file goes with SERVER. Changes the process's
 * umask for a moment.
 */
int listener_bind(grpc_server *server, const struct conf_listener *listener,
                  grpc_server_credentials *credentials, struct err *err);

#endif
