/* SPDX-License-Identifier: Apache-2.0 */
/* Who calls, and whether the listener lets the method in. */
#ifndef ASSETD_TRANSPORT_ACCESS_H
#define ASSETD_TRANSPORT_ACCESS_H

#include <grpc/grpc.h>

#include "base/arena.h"
#include "base/err.h"
#include "credential/role.h"
#include "service/call.h"

/*
 * ERR_DENIED, with what to do, if LISTENER does not let METHOD in, or not for CLIENT, who is "" for
 * nobody: ROLE is what that client may do. Without TLS of our own all may do what LISTENER lets.
 */
int access_check(const struct conf_listener *listener, const struct method *method,
                 const char *client, enum role role, struct err *err);

/*
 * The identity that METADATA names on LISTENER, in ARENA: the value of the listener's identity key
 * if there is exactly one and it is a registered name's form; else "", which is nobody. NULL when
 * memory is out.
 */
const char *access_identity(const struct conf_listener *listener,
                            const grpc_metadata_array *metadata, struct arena *arena);

/* The proxy's x-request-id, cut to a sane length; "" if none. NULL when memory is out. */
const char *access_request_id(const grpc_metadata_array *metadata, struct arena *arena);

#endif
