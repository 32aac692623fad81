/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of calls to a CAS, written and read by hand: they are few, and can be large. */
#ifndef ASSETD_REMOTE_CAS_MESSAGE_H
#define ASSETD_REMOTE_CAS_MESSAGE_H

#include <grpc/grpc.h>
#include <stddef.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/span.h"

/*
 * A request whose field 1 is TEXT and whose field 2 is a row of digests. That is REAPI's
 * FindMissingBlobsRequest, BatchReadBlobsRequest and, with no digests, GetCapabilitiesRequest (all
 * of an instance name), and google.bytestream's ReadRequest (of a resource name). The digest
 * function stays unset: the length of the hash tells it, and older servers do not know the field.
 * NULL when memory is out.
 */
grpc_byte_buffer *cas_message_make(const char *text, const struct digest *digests, size_t count);

/* The Digest message BYTES, of FUNCTION. ERR_INVALID: it is none. */
int cas_message_digest(struct span bytes, enum digest_function function, struct digest *digest,
                       struct err *err);

#endif
