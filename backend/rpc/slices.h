/* SPDX-License-Identifier: Apache-2.0 */
/* Slices and byte buffers of the gRPC core, as spans and strings of ours. */
#ifndef ASSETD_RPC_SLICES_H
#define ASSETD_RPC_SLICES_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/span.h"

/*
 * The runs of bytes that BUFFER consists of, in an array in ARENA; the bytes stay the buffer's.
 * Returns NULL when memory is out; a message without bytes is one empty run.
 */
struct span *slices_of_buffer(grpc_byte_buffer *buffer, struct arena *arena, size_t *count);

/* All of the runs as one; copied into ARENA if there are several. NULL data: memory is out. */
struct span slices_join(const struct span *spans, size_t count, struct arena *arena);

/* A buffer of one slice, whose reference it takes over. */
grpc_byte_buffer *slices_to_buffer(grpc_slice slice);

/* Whether SLICE holds exactly the string. */
bool slices_equal_string(grpc_slice slice, const char *string);

/* A copy as a string; NULL when memory is out. */
char *slices_to_string(grpc_slice slice, struct arena *arena);

#endif
