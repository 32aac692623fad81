/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers of the table in methods.c; each service is a file of its own. */
#ifndef ASSETD_SERVICE_HANDLERS_H
#define ASSETD_SERVICE_HANDLERS_H

#include "base/err.h"
#include "service/call.h"

/* build.bazel.remote.asset.v1.Fetch */
void fetch_blob_start(struct call *call);
void fetch_directory_start(struct call *call);
void fetch_cancelled(struct call *call);

/* build.bazel.remote.asset.v1.Push */
void push_blob_start(struct call *call);
void push_directory_start(struct call *call);
void push_cancelled(struct call *call);

/* build.bazel.remote.execution.v2.Capabilities */
void capabilities_get_start(struct call *call);
void capabilities_get_cancelled(struct call *call);
void capabilities_get_end(struct call *call);

/* build.bazel.remote.execution.v2.ContentAddressableStorage */
void storage_find_missing_start(struct call *call);
void storage_batch_update_start(struct call *call);
void storage_batch_read_start(struct call *call);
void storage_get_tree_start(struct call *call);
void storage_get_tree_sent(struct call *call);
void storage_get_tree_end(struct call *call);

/* google.bytestream.ByteStream */
void bytestream_read_start(struct call *call);
void bytestream_read_sent(struct call *call);
void bytestream_write_start(struct call *call);
void bytestream_write_message(struct call *call);
void bytestream_write_half_close(struct call *call);
void bytestream_write_end(struct call *call);
void bytestream_query_write_status_start(struct call *call);

/* grpc.health.v1.Health. What is watched is made at start and told when the server stops. */
struct health;
int health_new(struct health **health, struct err *err);
void health_free(struct health *health);
/* From now on the answer is NOT_SERVING; watchers are told, and their calls end. */
void health_stop(struct health *health);
void health_check_start(struct call *call);
void health_watch_start(struct call *call);
void health_watch_sent(struct call *call);
void health_watch_cancelled(struct call *call);
void health_watch_end(struct call *call);

/* grpc.reflection.v1 and v1alpha.ServerReflection: the same messages under two names. */
void reflection_start(struct call *call);
void reflection_message(struct call *call);
void reflection_half_close(struct call *call);
void reflection_sent(struct call *call);

#endif
