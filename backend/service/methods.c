/* SPDX-License-Identifier: Apache-2.0 */
/* Every RPC that is served, and who may call it. What is not here does not exist. */
#include "service/handlers.h"
#include "service/messages.h"
#include "service/services.h"

#define FETCH       "/build.bazel.remote.asset.v1.Fetch/"
#define PUSH        "/build.bazel.remote.asset.v1.Push/"
#define REMOTE      "/build.bazel.remote.execution.v2."
#define BYTE_STREAM "/google.bytestream.ByteStream/"
#define GRPC_HEALTH "/grpc.health.v1.Health/"

#define ASSET_TYPE(name)      &build__bazel__remote__asset__v1__##name##__descriptor
#define REAPI_TYPE(name)      &build__bazel__remote__execution__v2__##name##__descriptor
#define BYTESTREAM_TYPE(name) &google__bytestream__##name##__descriptor
#define HEALTH_TYPE(name)     &grpc__health__v1__##name##__descriptor

/* clang-format off */
const struct method methods[] = {
    {.path = FETCH "FetchBlob", .shape = METHOD_UNARY, .right = METHOD_READ,
     .request = ASSET_TYPE(fetch_blob_request), .response = ASSET_TYPE(fetch_blob_response),
     .start = fetch_blob_start, .cancelled = fetch_cancelled},
    {.path = FETCH "FetchDirectory", .shape = METHOD_UNARY, .right = METHOD_READ,
     .request = ASSET_TYPE(fetch_directory_request),
     .response = ASSET_TYPE(fetch_directory_response),
     .start = fetch_directory_start, .cancelled = fetch_cancelled},

    {.path = PUSH "PushBlob", .shape = METHOD_UNARY, .right = METHOD_WRITE,
     .request = ASSET_TYPE(push_blob_request), .response = ASSET_TYPE(push_blob_response),
     .start = push_blob_start, .cancelled = push_cancelled},
    {.path = PUSH "PushDirectory", .shape = METHOD_UNARY, .right = METHOD_WRITE,
     .request = ASSET_TYPE(push_directory_request), .response = ASSET_TYPE(push_directory_response),
     .start = push_directory_start, .cancelled = push_cancelled},

    {.path = REMOTE "Capabilities/GetCapabilities", .shape = METHOD_UNARY, .right = METHOD_READ,
     .request = REAPI_TYPE(get_capabilities_request), .response = REAPI_TYPE(server_capabilities),
     .start = capabilities_get_start, .cancelled = capabilities_get_cancelled,
     .end = capabilities_get_end},

    {.path = REMOTE "ContentAddressableStorage/FindMissingBlobs", .shape = METHOD_UNARY,
     .right = METHOD_READ, .request = REAPI_TYPE(find_missing_blobs_request),
     .response = REAPI_TYPE(find_missing_blobs_response), .start = storage_find_missing_start},
    {.path = REMOTE "ContentAddressableStorage/BatchUpdateBlobs", .shape = METHOD_UNARY,
     .right = METHOD_WRITE, .request = REAPI_TYPE(batch_update_blobs_request),
     .response = REAPI_TYPE(batch_update_blobs_response), .start = storage_batch_update_start},
    {.path = REMOTE "ContentAddressableStorage/BatchReadBlobs", .shape = METHOD_UNARY,
     .right = METHOD_READ, .request = REAPI_TYPE(batch_read_blobs_request),
     .response = REAPI_TYPE(batch_read_blobs_response), .start = storage_batch_read_start},
    {.path = REMOTE "ContentAddressableStorage/GetTree", .shape = METHOD_SERVER_STREAM,
     .right = METHOD_READ, .request = REAPI_TYPE(get_tree_request),
     .response = REAPI_TYPE(get_tree_response), .start = storage_get_tree_start,
     .sent = storage_get_tree_sent, .end = storage_get_tree_end},

    {.path = BYTE_STREAM "Read", .shape = METHOD_SERVER_STREAM, .right = METHOD_READ,
     .request = BYTESTREAM_TYPE(read_request), .response = BYTESTREAM_TYPE(read_response),
     .start = bytestream_read_start, .sent = bytestream_read_sent},
    {.path = BYTE_STREAM "Write", .shape = METHOD_CLIENT_STREAM, .right = METHOD_WRITE,
     .request = BYTESTREAM_TYPE(write_request), .response = BYTESTREAM_TYPE(write_response),
     .raw_request = true, .start = bytestream_write_start, .message = bytestream_write_message,
     .half_close = bytestream_write_half_close, .end = bytestream_write_end},
    /* It tells what uploads have stored: a matter of those who may write. */
    {.path = BYTE_STREAM "QueryWriteStatus", .shape = METHOD_UNARY, .right = METHOD_WRITE,
     .request = BYTESTREAM_TYPE(query_write_status_request),
     .response = BYTESTREAM_TYPE(query_write_status_response),
     .start = bytestream_query_write_status_start},

    {.path = GRPC_HEALTH "Check", .shape = METHOD_UNARY, .right = METHOD_READ,
     .request = HEALTH_TYPE(health_check_request), .response = HEALTH_TYPE(health_check_response),
     .start = health_check_start},
    {.path = GRPC_HEALTH "Watch", .shape = METHOD_SERVER_STREAM, .right = METHOD_READ,
     .request = HEALTH_TYPE(health_check_request), .response = HEALTH_TYPE(health_check_response),
     .start = health_watch_start, .sent = health_watch_sent, .cancelled = health_watch_cancelled,
     .end = health_watch_end},

    {.path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", .shape = METHOD_BIDI,
     .right = METHOD_READ, .request = &grpc__reflection__v1__server_reflection_request__descriptor,
     .response = &grpc__reflection__v1__server_reflection_response__descriptor,
     .start = reflection_start, .message = reflection_message,
     .half_close = reflection_half_close, .sent = reflection_sent},
    {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
     .shape = METHOD_BIDI, .right = METHOD_READ, /* the messages of v1, byte by byte */
     .request = &grpc__reflection__v1__server_reflection_request__descriptor,
     .response = &grpc__reflection__v1__server_reflection_response__descriptor,
     .start = reflection_start, .message = reflection_message,
     .half_close = reflection_half_close, .sent = reflection_sent},
};
/* clang-format on */

const size_t method_count = sizeof(methods) / sizeof(methods[0]);
