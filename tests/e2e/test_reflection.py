# SPDX-License-Identifier: Apache-2.0
"""Server reflection: a client that comes without our definitions finds them, in either version."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2 as reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from lib.client import TIMEOUT, fails

SERVICES = {
    "build.bazel.remote.asset.v1.Fetch",
    "build.bazel.remote.asset.v1.Push",
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "google.bytestream.ByteStream",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}

ASSET = "build/bazel/remote/asset/v1/remote_asset.proto"
REAPI = "build/bazel/remote/execution/v2/remote_execution.proto"

NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]


@pytest.fixture(scope="module")
def channel(module_assetd):
    """To a listener that only reads."""
    server = module_assetd()
    return server.client(server.pull).channel


@pytest.fixture(params=["v1", "v1alpha"])
def ask(request, channel):
    """Sends requests down one stream; returns the responses, one to each and in their order."""
    call = channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection.ServerReflectionResponse.FromString,
    )

    def send(*requests):
        requests = [reflection.ServerReflectionRequest(**fields) for fields in requests]
        responses = list(call(iter(requests), timeout=TIMEOUT))
        assert [response.original_request for response in responses] == requests
        return responses

    return send


def files_of(response):
    """The files of an answer, of which the first defines what was asked for."""
    assert response.WhichOneof("message_response") == "file_descriptor_response", response
    files = response.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]


def error_of(response):
    assert response.WhichOneof("message_response") == "error_response", response
    assert response.error_response.error_message
    return response.error_response.error_code


def test_list_services(ask):
    (response,) = ask({"list_services": "*"})
    names = [service.name for service in response.list_services_response.service]
    assert sorted(names) == sorted(SERVICES)


def test_file_with_all_that_it_imports(ask):
    files = files_of(ask({"file_by_filename": ASSET})[0])
    names = [file.name for file in files]
    assert names[0] == ASSET
    assert len(names) == len(set(names))
    # Each import is among them: directly, as the second, or through it, as the third.
    assert {ASSET, REAPI, "build/bazel/semver/semver.proto"} <= set(names)
    for file in files:
        assert set(file.dependency) <= set(names)


def test_file_without_imports_comes_alone(ask):
    (file,) = files_of(ask({"file_by_filename": "grpc/health/v1/health.proto"})[0])
    assert [service.name for service in file.service] == ["Health"]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("build.bazel.remote.asset.v1.Fetch", ASSET),
        ("build.bazel.remote.asset.v1.Fetch.FetchBlob", ASSET),
        ("build.bazel.remote.asset.v1.FetchBlobRequest", ASSET),
        ("build.bazel.remote.asset.v1.FetchBlobRequest.uris", ASSET),
        ("build.bazel.remote.execution.v2.BatchUpdateBlobsRequest.Request", REAPI),
        ("build.bazel.remote.execution.v2.BatchUpdateBlobsRequest.Request.data", REAPI),
        ("build.bazel.remote.execution.v2.DigestFunction.Value", REAPI),
        ("build.bazel.remote.execution.v2.DigestFunction.SHA256", REAPI),
        ("google.protobuf.Timestamp", "google/protobuf/timestamp.proto"),
        (
            "grpc.reflection.v1.ServerReflectionRequest.message_request",
            "grpc/reflection/v1/reflection.proto",
        ),
        (
            "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
            "grpc/reflection/v1alpha/reflection.proto",
        ),
    ],
)
def test_file_of_symbol(ask, symbol, file):
    assert files_of(ask({"file_containing_symbol": symbol})[0])[0].name == file


@pytest.mark.parametrize(
    "symbol",
    [
        "",
        ".",
        "build.bazel.remote.asset.v1",
        "build.bazel.remote.asset.v1.",
        ".build.bazel.remote.asset.v1.Fetch",
        "build.bazel.remote.asset.v1.Fetch.",
        "build.bazel.remote.asset.v1.FetchBlob",
        "build.bazel.remote.asset.v1.Fetch.FetchBlob.more",
        "build.bazel.remote.execution.v2.DigestFunction.Value.SHA256",
        "build.bazel.remote.execution.v2.Execution",
        "build.bazel.remote.execution.v2.BatchUpdateBlobsRequest.data",
    ],
)
def test_unknown_symbol(ask, symbol):
    assert error_of(ask({"file_containing_symbol": symbol})[0]) == NOT_FOUND


def test_extensions(ask):
    message = "build.bazel.remote.execution.v2.Digest"
    extension = {"containing_type": message, "extension_number": 1000}
    missing, none, unknown, service = ask(
        {"file_containing_extension": extension},
        {"all_extension_numbers_of_type": message},
        {"all_extension_numbers_of_type": f"{message}.hash"},
        {"all_extension_numbers_of_type": "build.bazel.remote.asset.v1.Fetch"},
    )
    assert error_of(missing) == NOT_FOUND
    assert none.all_extension_numbers_response.base_type_name == message
    assert not none.all_extension_numbers_response.extension_number
    assert error_of(unknown) == NOT_FOUND
    assert error_of(service) == NOT_FOUND


def test_error_does_not_end_the_stream(ask):
    unknown, nothing, file = ask(
        {"file_by_filename": "unknown.proto"}, {"host": "here"}, {"file_by_filename": ASSET}
    )
    assert error_of(unknown) == NOT_FOUND
    assert error_of(nothing) == UNIMPLEMENTED
    assert nothing.valid_host == "here"
    assert files_of(file)[0].name == ASSET


def test_call_from_reflection_alone(channel):
    """What a tool such as grpcurl does: everything that it knows, it has asked for."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("build.bazel.remote.asset.v1.Fetch")
    method = service.FindMethodByName("FetchBlob")
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    with fails("NOT_FOUND"):
        call(request(uris=["urn:fdc:assetd.test:2024:none"]), timeout=TIMEOUT)
