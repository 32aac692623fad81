/* SPDX-License-Identifier: Apache-2.0 */
/* Short names for the generated message types: REAPI(Digest) *digest. */
#ifndef ASSETD_SERVICE_MESSAGES_H
#define ASSETD_SERVICE_MESSAGES_H

#include "build/bazel/remote/asset/v1/remote_asset.pb-c.h"
#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "google/bytestream/bytestream.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

/* The struct of a message; the _INIT macros, functions and descriptors keep their long names. */
#define REAPI(name)      Build__Bazel__Remote__Execution__V2__##name
#define ASSET(name)      Build__Bazel__Remote__Asset__V1__##name
#define BYTESTREAM(name) Google__Bytestream__##name
#define HEALTH(name)     Grpc__Health__V1__##name

#endif
