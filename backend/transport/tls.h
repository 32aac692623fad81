/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS of a listener, by files that are read again when they change: what connections are shown and
 * asked for, and who calls.
 *
 * The files are looked at when a client connects, by calls once a second at most, and by
 * tls_refresh. Certificate and key are taken over together, the list of clients on its own, each
 * only if all of it is good: else the old stays in force, which the log tells once
 * (tls-files-kept). What is broken, and a list of clients without any, is believed once it is a
 * second old: so files look while they are being written.
 * Connections that are open stay so; who calls is looked up for each call.
 */
#ifndef ASSETD_TRANSPORT_TLS_H
#define ASSETD_TRANSPORT_TLS_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <stdbool.h>

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"
#include "credential/role.h"

struct tls;

/*
 * Reads the files of LISTENER, which has TLS and is borrowed. Whatever is wrong with them is an
 * error; a list of clients that has nobody is only warned of.
 */
int tls_open(const struct conf_listener *listener, struct tls **tls, struct err *err);

/* For one server of the core's, which must be gone before TLS is closed. */
grpc_server_credentials *tls_credentials(struct tls *tls);

/* Looks at the files, and believes what they hold however fresh it is. Any thread. */
void tls_refresh(struct tls *tls);

/* Whether clients are asked for their certificates. */
bool tls_knows_clients(const struct tls *tls);

/*
 * Where they are, who makes CALL: *NAME in ARENA, "" for nobody, and what the client may do where
 * the listener lets it. ERR_UNAUTHENTICATED: its certificate is not in the file itself, or no
 * longer, or has expired. Any thread; it may read the files.
 */
int tls_identify(struct tls *tls, grpc_call *call, struct arena *arena, const char **name,
                 enum role *role, struct err *err);

/* NULL is fine. */
void tls_close(struct tls *tls);

/* Judges the files of each listener of CONF, but for those that who calls may not read. */
int tls_check(const struct conf *conf, struct err *err);

#endif
