# SPDX-License-Identifier: Apache-2.0
"""protos/ against the interface definitions that clients are built from."""

import functools
import pathlib
import subprocess
import sys
from importlib.util import find_spec

import pytest
from google.protobuf import descriptor_pb2

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "protos"

# The Python module that holds what each of our files is compared with.
UPSTREAM = {
    "build/bazel/remote/asset/v1/remote_asset.proto": (
        "buildstream._protos.build.bazel.remote.asset.v1.remote_asset_pb2"
    ),
    "build/bazel/remote/execution/v2/remote_execution.proto": (
        "buildstream._protos.build.bazel.remote.execution.v2.remote_execution_pb2"
    ),
    "build/bazel/semver/semver.proto": "buildstream._protos.build.bazel.semver.semver_pb2",
    "google/bytestream/bytestream.proto": "buildstream._protos.google.bytestream.bytestream_pb2",
    "google/rpc/error_details.proto": "google.rpc.error_details_pb2",
    "google/rpc/status.proto": "buildstream._protos.google.rpc.status_pb2",
    "grpc/health/v1/health.proto": "grpc_health.v1.health_pb2",
    "grpc/reflection/v1/reflection.proto": "grpc_reflection.v1.reflection_pb2",
    "grpc/reflection/v1alpha/reflection.proto": "grpc_reflection.v1alpha.reflection_pb2",
}

# What upstream has and is not served: whole services, and methods of services that are.
LEFT_OUT = {
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.Execution",
    "grpc.health.v1.Health.List",
}

# Run apart for each module: several of them register files of the same name.
PRINT_DESCRIPTOR = """
import importlib, sys
sys.stdout.buffer.write(importlib.import_module(sys.argv[1]).DESCRIPTOR.serialized_pb)
"""


@functools.cache
def read_upstream(path):
    """The upstream FileDescriptorProto of our file PATH."""
    module = UPSTREAM[path]
    # grpcio-reflection may have v1alpha only, from which v1 differs by the package's name alone.
    if module.startswith("grpc_reflection.v1.") and not find_spec("grpc_reflection.v1"):
        file = load_descriptor("grpc_reflection.v1alpha.reflection_pb2")
        rename_package(file, "grpc.reflection.v1")
        return file
    return load_descriptor(module)


def load_descriptor(module):
    command = [sys.executable, "-c", PRINT_DESCRIPTOR, module]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return descriptor_pb2.FileDescriptorProto.FromString(result.stdout)


def rename_package(file, package):
    """Moves FILE, all of whose types are its own, to another package."""

    def renamed(type_name):
        return type_name.replace(f".{file.package}.", f".{package}.")

    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = renamed(method.input_type)
            method.output_type = renamed(method.output_type)
    file.package = package


@pytest.fixture(scope="module")
def ours(module_folder):
    """Our FileDescriptorProtos by path, as the Makefile has them built."""
    out = module_folder / "descriptors.pb"
    paths = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    subprocess.run(["protoc", "-I", str(PROTOS), f"--descriptor_set_out={out}", *paths], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {file.name: file for file in files}


def json_name(name):
    """The name that protoc derives where a file gives none."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def normal_message(message):
    """MESSAGE with defaults filled in: two that mean the same compare equal."""
    copy = descriptor_pb2.DescriptorProto()
    copy.CopyFrom(message)
    for field in copy.field:
        field.json_name = field.json_name or json_name(field.name)
    nested = [normal_message(each) for each in copy.nested_type]
    del copy.nested_type[:]
    copy.nested_type.extend(nested)
    return copy


def normal_method(method):
    """METHOD without its options, such as the HTTP mapping, which are not part of the wire."""
    copy = descriptor_pb2.MethodDescriptorProto()
    copy.CopyFrom(method)
    copy.ClearField("options")
    copy.client_streaming = method.client_streaming
    copy.server_streaming = method.server_streaming
    return copy


def by_name(descriptors):
    return {each.name: each for each in descriptors}


def test_every_file_has_its_upstream(ours):
    assert sorted(ours) == sorted(UPSTREAM)


@pytest.mark.parametrize("path", sorted(UPSTREAM))
def test_same_interface(ours, path):
    """Whatever of upstream we keep is the same in full: numbers, types, labels, oneofs, maps."""
    file, upstream = ours[path], read_upstream(path)
    assert (file.package, file.syntax) == (upstream.package, upstream.syntax)

    messages = by_name(upstream.message_type)
    for message in file.message_type:
        assert message.name in messages
        assert str(normal_message(message)) == str(normal_message(messages[message.name]))

    enums = by_name(upstream.enum_type)
    for enum in file.enum_type:
        assert enum.name in enums
        assert str(enum) == str(enums[enum.name])
    assert not file.extension


@pytest.mark.parametrize("path", sorted(UPSTREAM))
def test_same_services(ours, path):
    """Services have upstream's methods, but for those that LEFT_OUT names."""
    file, upstream = ours[path], read_upstream(path)

    def methods(descriptor):
        return {
            f"{descriptor.package}.{service.name}.{method.name}": str(normal_method(method))
            for service in descriptor.service
            for method in service.method
        }

    def is_left_out(name):
        return name in LEFT_OUT or name.rpartition(".")[0] in LEFT_OUT

    expected = {name: text for name, text in methods(upstream).items() if not is_left_out(name)}
    assert methods(file) == expected


def test_left_out_exists_upstream():
    """No entry outlives what it stands for."""
    names = set()
    for path in UPSTREAM:
        upstream = read_upstream(path)
        for service in upstream.service:
            names.add(f"{upstream.package}.{service.name}")
            names.update(f"{upstream.package}.{service.name}.{m.name}" for m in service.method)
    assert LEFT_OUT <= names
