/* SPDX-License-Identifier: Apache-2.0 */
/* What the requests of Fetch and Push have in common: URIs, qualifiers, times, and their bounds. */
#ifndef ASSETD_SERVICE_ASSET_REQUEST_H
#define ASSETD_SERVICE_ASSET_REQUEST_H

#include <stdint.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "service/messages.h"
#include "store/asset_index.h"

/* URIs of one request; the other bounds are those of assets. */
enum { ASSET_URIS_MAX = 64 };

/* ERR_INVALID, with what to do, if there is no URI, too many, or one of a wrong length. */
int asset_request_uris(char *const *uris, size_t count, struct err *err);

/* The qualifiers in ARENA; ERR_INVALID out of bounds, and for a name that comes twice. */
int asset_request_qualifiers(ASSET(Qualifier) *const *messages, size_t count, struct arena *arena,
                             const struct qualifier **qualifiers, struct err *err);

/*
 * MESSAGE as milliseconds since 1970, never 0, which is what NULL becomes; ERR_INVALID outside what
 * Timestamp allows. FIELD is for the message.
 */
int asset_request_time(const Google__Protobuf__Timestamp *message, const char *field, int64_t *time,
                       struct err *err);

/* URI as it may be logged: without user, password and query. "" when memory is out. */
const char *asset_request_loggable(const char *uri, struct arena *arena);

#endif
