/* SPDX-License-Identifier: Apache-2.0 */
/* Messages from bytes and bytes from messages, with what the generated code does not check. */
#ifndef ASSETD_TRANSPORT_CODEC_H
#define ASSETD_TRANSPORT_CODEC_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/span.h"

/*
 * Unpacks BYTES as a message of TYPE, in ARENA. ERR_INVALID, with the field's name, for bytes that
 * are no message, for strings with a NUL or that are no UTF-8, and for more elements than any
 * honest request has: a few bytes each on the wire, they would take far more in memory.
 */
int codec_unpack(const ProtobufCMessageDescriptor *type, struct span bytes, struct arena *arena,
                 const ProtobufCMessage **message, struct err *err);

#endif
