# SPDX-License-Identifier: Apache-2.0
"""A gRPC client of one listener, with the calls that the tests make."""

import contextlib
import re
import uuid

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from lib.api import (
    asset,
    asset_grpc,
    bytestream,
    bytestream_grpc,
    error_details,
    health,
    health_grpc,
    reapi,
    reapi_grpc,
    rpc_status,
)
from lib.content import digest_of, name_of

# No call of a test waits longer: a hang is a failure, not a hung run.
TIMEOUT = 30

CHUNK = 256 * 1024


@contextlib.contextmanager
def fails(code, match=None):
    """The block must fail with that status; MATCH is searched for in its message."""
    with pytest.raises(grpc.RpcError) as info:
        yield info
    error = info.value
    assert error.code() == getattr(grpc.StatusCode, code), f"{error.code()}: {error.details()}"
    assert error.details(), f"{code} came without a message"
    if match is not None:
        assert re.search(match, error.details()), error.details()


def is_answered(call, *arguments):
    """Whether CALL is; the only way to fail is UNAVAILABLE."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False
    return True


def missing_of(error):
    """The subjects of the google.rpc.PreconditionFailure that came with an error."""
    values = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
    assert len(values) == 1, "one grpc-status-details-bin"
    status = rpc_status.Status.FromString(values[0])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    subjects = []
    for detail in status.details:
        failure = error_details.PreconditionFailure()
        assert detail.Is(failure.DESCRIPTOR), detail.type_url
        detail.Unpack(failure)
        for violation in failure.violations:
            assert violation.type == "MISSING"
            subjects.append(violation.subject)
    return subjects


def timestamp(seconds):
    whole = int(seconds // 1)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


class Client:
    """
    ADDRESS is unix:/path or host:port. METADATA goes along with every call, which may take TIMEOUT
    seconds. Each client has a connection of its own.
    """

    def __init__(
        self, address, instance="", credentials=None, metadata=(), options=(), timeout=TIMEOUT
    ):
        self.instance = instance
        self.timeout = timeout
        self.metadata = tuple(metadata)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 1 << 20),
            *options,
        ]
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self._fetch = asset_grpc.FetchStub(self.channel)
        self._push = asset_grpc.PushStub(self.channel)
        self._cas = reapi_grpc.ContentAddressableStorageStub(self.channel)
        self._capabilities = reapi_grpc.CapabilitiesStub(self.channel)
        self._bytestream = bytestream_grpc.ByteStreamStub(self.channel)
        self._health = health_grpc.HealthStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _call(self, method, request, **options):
        options.setdefault("timeout", self.timeout)
        options.setdefault("metadata", self.metadata)
        return method(request, **options)

    def raw(self, path, message=b"", **options):
        """A unary call of any method by its path, with any bytes as its message."""
        method = self.channel.unary_unary(
            path, request_serializer=lambda x: x, response_deserializer=lambda x: x
        )
        return self._call(method, message, **options)

    # Health and capabilities

    def health(self, service="", wait=False, timeout=TIMEOUT):
        request = health.HealthCheckRequest(service=service)
        return self._call(self._health.Check, request, wait_for_ready=wait, timeout=timeout).status

    def capabilities(self):
        request = reapi.GetCapabilitiesRequest(instance_name=self.instance)
        return self._call(self._capabilities.GetCapabilities, request)

    # Remote Asset

    def _asset_request(self, kind, uris, qualifiers, fields):
        request = kind(instance_name=self.instance, **fields)
        request.uris.extend([uris] if isinstance(uris, str) else uris)
        for name, value in qualifiers.items() if isinstance(qualifiers, dict) else qualifiers:
            request.qualifiers.add(name=name, value=value)
        return request

    def fetch_blob(self, uris, qualifiers=(), **fields):
        request = self._asset_request(asset.FetchBlobRequest, uris, qualifiers, fields)
        return self._call(self._fetch.FetchBlob, request)

    def begin_fetch_blob(self, uris, **options):
        """The same, as a call that is under way."""
        request = self._asset_request(asset.FetchBlobRequest, uris, (), {})
        return self._call(self._fetch.FetchBlob.future, request, **options)

    def fetch_directory(self, uris, qualifiers=(), **fields):
        request = self._asset_request(asset.FetchDirectoryRequest, uris, qualifiers, fields)
        return self._call(self._fetch.FetchDirectory, request)

    def push_blob(self, uris, digest, qualifiers=(), **fields):
        if digest is not None:
            fields["blob_digest"] = digest
        request = self._asset_request(asset.PushBlobRequest, uris, qualifiers, fields)
        return self._call(self._push.PushBlob, request)

    def begin_push_blob(self, uris, digest, **options):
        """The same, as a call that is under way."""
        request = self._asset_request(asset.PushBlobRequest, uris, (), {"blob_digest": digest})
        return self._call(self._push.PushBlob.future, request, **options)

    def push_directory(self, uris, digest, qualifiers=(), **fields):
        if digest is not None:
            fields["root_directory_digest"] = digest
        request = self._asset_request(asset.PushDirectoryRequest, uris, qualifiers, fields)
        return self._call(self._push.PushDirectory, request)

    # Content-addressable storage

    def find_missing(self, digests, **fields):
        request = reapi.FindMissingBlobsRequest(
            instance_name=self.instance, blob_digests=digests, **fields
        )
        return list(self._call(self._cas.FindMissingBlobs, request).missing_blob_digests)

    def has(self, digest, **fields):
        return not self.find_missing([digest], **fields)

    def batch_update(self, blobs, **fields):
        """BLOBS: (digest, data) pairs. Returns the status code of each, in their order."""
        request = reapi.BatchUpdateBlobsRequest(instance_name=self.instance, **fields)
        for digest, data in blobs:
            request.requests.add(digest=digest, data=data)
        return self._call(self._cas.BatchUpdateBlobs, request).responses

    def upload(self, *blobs, function="sha256"):
        """Puts blobs that must be taken; returns the digest of the first."""
        pairs = [(digest_of(data, function), data) for data in blobs]
        for response in self.batch_update(pairs):
            assert response.status.code == 0, response.status.message
        return pairs[0][0]

    def upload_tree(self, tree):
        self.upload(*tree.blobs.values(), function=tree.function)
        return tree.root

    def batch_read(self, digests, **fields):
        request = reapi.BatchReadBlobsRequest(
            instance_name=self.instance, digests=digests, **fields
        )
        return self._call(self._cas.BatchReadBlobs, request).responses

    def get_tree(self, root, **fields):
        """The answers, page by page."""
        request = reapi.GetTreeRequest(
            instance_name=self.instance, root_digest=root, **fields
        )
        return list(self._call(self._cas.GetTree, request))

    # ByteStream

    def read_name(self, digest, infix=""):
        prefix = f"{self.instance}/" if self.instance else ""
        return f"{prefix}blobs/{infix}{name_of(digest)}"

    def write_name(self, digest, infix="", suffix="", key=None):
        prefix = f"{self.instance}/" if self.instance else ""
        key = key or str(uuid.uuid4())
        return f"{prefix}uploads/{key}/blobs/{infix}{name_of(digest)}{suffix}"

    def read_stream(self, name, offset=0, limit=0, **options):
        request = bytestream.ReadRequest(
            resource_name=name, read_offset=offset, read_limit=limit
        )
        return self._call(self._bytestream.Read, request, **options)

    def read_named(self, name, offset=0, limit=0):
        return b"".join(answer.data for answer in self.read_stream(name, offset, limit))

    def read(self, digest, offset=0, limit=0):
        return self.read_named(self.read_name(digest), offset, limit)

    def write_requests(self, requests, **options):
        """Write with these messages, an iterable of WriteRequest."""
        return self._call(self._bytestream.Write, iter(requests), **options)

    def write_stream(self, requests, **options):
        """The same, as a call that is under way."""
        return self._call(self._bytestream.Write.future, iter(requests), **options)

    def write(self, data, digest=None, name=None, chunk=CHUNK):
        """Writes DATA in pieces, under the name of its digest; returns the committed size."""
        digest = digest or digest_of(data)
        name = name or self.write_name(digest)
        return self.write_requests(pieces(name, data, chunk)).committed_size

    def query_write_status(self, name):
        request = bytestream.QueryWriteStatusRequest(resource_name=name)
        return self._call(self._bytestream.QueryWriteStatus, request)


def pieces(name, data, chunk=CHUNK):
    """The messages of a Write of DATA, at least one."""
    for offset in range(0, max(len(data), 1), chunk):
        part = data[offset : offset + chunk]
        yield bytestream.WriteRequest(
            resource_name=name,
            write_offset=offset,
            data=part,
            finish_write=offset + len(part) == len(data),
        )


def duration(seconds):
    return duration_pb2.Duration(seconds=seconds)
