/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of the core. */
#include "transport/core.h"

#include "conf/conf.h"

enum {
    /*
     * HTTP/2 window that a peer may fill ahead of us, bytes of each stream: what keeps uploads
     * flowing. All of it waits in memory where the disk is slower than the network, so that it is
     * times the uploads under way. It bounds an upload to this much for each round trip: 25 MB/s
     * over 20 ms, to a client that comes directly. A proxy beside us has no round trip to speak of.
     */
    LOOKAHEAD = 512 << 10,
    READ_CHUNK = 256 << 10,
    METADATA_MAX = 64 << 10,
    /* Milliseconds between pings of a client that are no offence (gRPC keepalive, A8). */
    PING_INTERVAL_MIN = 500,
    /*
     * What the connections of all listeners may hold: far more than busy clients need. Beyond it
     * the core ends streams, rather than the kernel the process.
     */
    MEMORY_MAX = 512 << 20,
    /*
     * Milliseconds for TLS and the first words of HTTP/2. Who says nothing holds a descriptor for
     * so long, and a listener that has none left is lost.
     */
    HANDSHAKE_MAX = 20000,
};

grpc_resource_quota *core_memory_new(void)
{
    grpc_resource_quota *memory = grpc_resource_quota_create("assetd");
    grpc_resource_quota_resize(memory, MEMORY_MAX);
    return memory;
}

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

/*
 * The core looks at its limit when it has all of a message in memory: it protects nothing, and
 * cannot be changed later. The one that is configured is looked at when a call has its message.
 */
grpc_server *core_new(grpc_resource_quota *memory, unsigned streams)
{
    grpc_arg args[] = {
        {.type = GRPC_ARG_POINTER,
         .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {.p = memory, .vtable = grpc_resource_quota_arg_vtable()}},
        int_arg("grpc.http2.bdp_probe", 0),
        int_arg("grpc.http2.lookahead_bytes", LOOKAHEAD),
        int_arg("grpc.experimental.tcp_read_chunk_size", READ_CHUNK),
        int_arg("grpc.experimental.tcp_min_read_chunk_size", READ_CHUNK),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        /* The core inflates first and looks at the limit then: a small message can fill memory. */
        int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, CONF_MESSAGE_MAX),
        int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)streams),
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, METADATA_MAX),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MIN),
        int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MAX),
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
    };
    grpc_channel_args all = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
    return grpc_server_create(&all, NULL);
}
