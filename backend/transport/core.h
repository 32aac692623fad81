/* SPDX-License-Identifier: Apache-2.0 */
/* The gRPC core's servers, as all of ours are set up. */
#ifndef ASSETD_TRANSPORT_CORE_H
#define ASSETD_TRANSPORT_CORE_H

#include <grpc/grpc.h>

/* Calls of one method that the core can take at once without asking us for more memory. */
enum { CORE_ARMED_PER_METHOD = 64 };

/* What the connections of all servers that share it may hold. To be unreferenced. */
grpc_resource_quota *core_memory_new(void);

/*
 * A server whose connections take memory from MEMORY, which is borrowed, and may each have STREAMS
 * calls under way. NULL: the core makes none.
 */
grpc_server *core_new(grpc_resource_quota *memory, unsigned streams);

#endif
