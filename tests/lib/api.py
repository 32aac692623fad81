# SPDX-License-Identifier: Apache-2.0
"""The generated messages and stubs, under the short names that the tests use."""

from buildstream._protos.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from buildstream._protos.build.bazel.remote.asset.v1 import remote_asset_pb2_grpc as asset_grpc
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.build.bazel.remote.execution.v2 import (
    remote_execution_pb2_grpc as reapi_grpc,
)
from buildstream._protos.google.bytestream import bytestream_pb2 as bytestream
from buildstream._protos.google.bytestream import bytestream_pb2_grpc as bytestream_grpc
from buildstream._protos.google.rpc import status_pb2 as rpc_status
from google.rpc import error_details_pb2 as error_details
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1 import health_pb2_grpc as health_grpc

__all__ = [
    "asset",
    "asset_grpc",
    "bytestream",
    "bytestream_grpc",
    "error_details",
    "health",
    "health_grpc",
    "reapi",
    "reapi_grpc",
    "rpc_status",
]
