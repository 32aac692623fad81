# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent: the server answers, and serves on."""

import concurrent.futures
import contextlib
import random
import socket
import struct
import time

import grpc
import pytest

from lib.api import asset, bytestream, reapi
from lib.client import TIMEOUT, fails
from lib.content import EMPTY, digest_of, name_of, noise
from lib.server import PATIENCE

FETCH = "/build.bazel.remote.asset.v1.Fetch/"
PUSH = "/build.bazel.remote.asset.v1.Push/"
REMOTE = "/build.bazel.remote.execution.v2."
STORAGE = f"{REMOTE}ContentAddressableStorage/"
BYTE_STREAM = "/google.bytestream.ByteStream/"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"

# Every method, with a message that has all that it can have.
DIGEST = digest_of(b"x")
BLOB = reapi.BatchUpdateBlobsRequest.Request(digest=DIGEST, data=b"x")
QUALIFIER = asset.Qualifier(name="n", value="v")
MESSAGES = {
    f"{FETCH}FetchBlob": asset.FetchBlobRequest(uris=["urn:a"] * 3, qualifiers=[QUALIFIER]),
    f"{FETCH}FetchDirectory": asset.FetchDirectoryRequest(uris=["urn:a"]),
    f"{PUSH}PushBlob": asset.PushBlobRequest(
        uris=["urn:a"], blob_digest=DIGEST, references_blobs=[DIGEST, EMPTY]
    ),
    f"{PUSH}PushDirectory": asset.PushDirectoryRequest(
        uris=["urn:a"], root_directory_digest=DIGEST, references_directories=[EMPTY]
    ),
    f"{REMOTE}Capabilities/GetCapabilities": reapi.GetCapabilitiesRequest(instance_name=""),
    f"{STORAGE}FindMissingBlobs": reapi.FindMissingBlobsRequest(blob_digests=[DIGEST, EMPTY]),
    f"{STORAGE}BatchUpdateBlobs": reapi.BatchUpdateBlobsRequest(requests=[BLOB]),
    f"{STORAGE}BatchReadBlobs": reapi.BatchReadBlobsRequest(digests=[DIGEST, EMPTY]),
    f"{STORAGE}GetTree": reapi.GetTreeRequest(root_digest=DIGEST, page_size=2),
    f"{BYTE_STREAM}Read": bytestream.ReadRequest(
        resource_name=f"blobs/{DIGEST.hash}/1", read_limit=1
    ),
    f"{BYTE_STREAM}Write": bytestream.WriteRequest(
        resource_name=f"uploads/u/blobs/{DIGEST.hash}/1", data=b"x", finish_write=True
    ),
    f"{BYTE_STREAM}QueryWriteStatus": bytestream.QueryWriteStatusRequest(
        resource_name=f"uploads/u/blobs/{DIGEST.hash}/1"
    ),
    "/grpc.health.v1.Health/Check": asset.Qualifier(name="no such service"),
    REFLECTION.format("v1"): asset.Qualifier(name="host"),
    REFLECTION.format("v1alpha"): asset.Qualifier(name="host"),
}

# What a server may say to a message that makes no sense, or happens to make some.
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}


def call_with(client, path, *messages):
    """Any method with any messages: its status."""
    method = client.channel.stream_stream(
        path, request_serializer=lambda x: x, response_deserializer=lambda x: x
    )
    call = method(iter(messages), timeout=TIMEOUT)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error.code()
    return call.code()


def mutations(message, count, seed):
    """COUNT damaged copies of a message, always the same."""
    good = message.SerializeToString()
    source = random.Random(seed)
    for _ in range(count):
        data = bytearray(good)
        kind = source.randrange(5)
        if kind == 0 and data:
            data[source.randrange(len(data))] = source.randrange(256)
        elif kind == 1:
            del data[source.randrange(len(data) + 1) :]
        elif kind == 2:
            at = source.randrange(len(data) + 1)
            data[at:at] = source.randbytes(source.randrange(1, 20))
        elif kind == 3:
            data = bytearray(source.randbytes(source.randrange(1, 200)))
        else:
            data += bytes([source.randrange(256)]) + b"\xff" * source.randrange(12)
        yield bytes(data)


@pytest.fixture(scope="module")
def module_server(module_assetd):
    return module_assetd()


@pytest.mark.parametrize("path", MESSAGES.keys(), ids=lambda path: path.rpartition(".")[2])
def test_damaged_messages(module_server, path):
    client = module_server.client()
    client.upload(b"x")
    for data in mutations(MESSAGES[path], 150, path):
        assert call_with(client, path, data) in ANSWERS, data
    assert client.health() == 1


@pytest.mark.parametrize("path", MESSAGES.keys(), ids=lambda path: path.rpartition(".")[2])
def test_messages_too_few_or_too_many(module_server, path):
    client = module_server.client()
    good = MESSAGES[path].SerializeToString()
    for messages in ((), (good, good, good)):
        call_with(client, path, *messages)
        assert client.health() == 1


def test_deeply_nested_and_endless_messages(module_server):
    """Groups within groups, and lengths beyond the end."""
    client = module_server.client()
    for path in MESSAGES:
        for data in (b"\x0b" * 100_000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" * 10_001):
            assert call_with(client, path, data) in ANSWERS, path
    assert client.health() == 1


def test_a_message_over_the_limit(server):
    client = server.client()
    path = f"{STORAGE}BatchUpdateBlobs"
    for size in ((16 << 20) + 1, 40 << 20):
        with fails("RESOURCE_EXHAUSTED"):
            client.raw(path, b"\0" * size)
    # 16 MiB are a message still, if none that makes sense.
    with fails("INVALID_ARGUMENT"):
        client.raw(path, b"\0" * (16 << 20))
    client.upload(b"x")


def test_the_limit_is_configured(assetd):
    server = assetd(limits={"message": "1MiB"})
    client = server.client()
    with fails("RESOURCE_EXHAUSTED"):
        client.raw(f"{STORAGE}BatchUpdateBlobs", b"\0" * (1 << 20) + b"\0")
    limit = client.capabilities().cache_capabilities.max_batch_total_size_bytes
    assert 900_000 < limit < 1 << 20
    blob = noise(limit, "limit")
    client.upload(blob)
    # Large ones go through all the same.
    data = noise(3 << 20, "stream")
    client.write(data)
    assert client.read(digest_of(data)) == data
    (answer,) = client.batch_read([digest_of(blob)])
    assert answer.data == blob


def test_messages_over_the_limit_leave_the_log_alone(assetd):
    """Whoever may read could fill it otherwise, a line for each call."""
    server = assetd(limits={"message": "1MiB"}, log={"level": "trace"})
    client = server.client()
    large = b"\0" * (1 << 20) + b"\0"
    for _ in range(3):
        with fails("RESOURCE_EXHAUSTED", "has 1048577 bytes, at most 1048576 are .*raise message"):
            client.raw(f"{STORAGE}FindMissingBlobs", large)
        with fails("RESOURCE_EXHAUSTED", "at most 1048576"):
            client.write(noise(3 << 20, "stream"), chunk=2 << 20)
    assert server.log().count("at most 1048576 are taken") == 6
    assert "level=warning" not in server.log()
    assert "call-failed" not in server.log()


def test_a_thousand_calls_on_a_channel(server):
    client = server.client()
    digest = client.upload(b"x")
    client.push_blob("urn:a", digest)
    for _ in range(1000):
        assert client.fetch_blob("urn:a").blob_digest == digest


def test_many_calls_at_once(server):
    """More than the streams of a connection and than the calls that a server is ready for."""
    client = server.client()
    blobs = [noise(2000, number) for number in range(600)]

    def push(number):
        blob = blobs[number]
        client.upload(blob)
        client.push_blob(f"urn:{number}", digest_of(blob))
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest_of(blob)
        assert client.read(digest_of(blob)) == blob

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        list(pool.map(push, range(len(blobs))))


def test_many_connections_at_once(server):
    digest = server.client().upload(b"x")
    clients = [server.client(server.pull) for _ in range(64)]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert list(pool.map(lambda client: client.read(digest), clients)) == [b"x"] * 64


# Below gRPC


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def read_frames(connection, seconds, awaited):
    """The frames (kind, flags, payload) that come within a time, and until one is AWAITED."""
    data = b""
    frames = []
    connection.settimeout(0.05)
    end = time.monotonic() + seconds
    last = time.monotonic() + PATIENCE
    while time.monotonic() < end or (time.monotonic() < last and not any(map(awaited, frames))):
        try:
            part = connection.recv(65536)
        except TimeoutError:
            continue
        if not part:
            break
        data += part
        while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3], "big")):
            frames.append((data[3], data[4], data[9:size]))
            data = data[size:]
    return frames


def connect(server):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server.push.removeprefix("unix:"))
    return connection


def test_pings_of_an_idle_client_are_answered(server):
    """At the pace of clients that keep their connection alive: each has its answer."""
    with connect(server) as connection:
        connection.sendall(PREFACE + frame(SETTINGS) + frame(SETTINGS, ACK))
        frames = read_frames(connection, 0.7, lambda frame: frame[0] == SETTINGS)
        for number in range(4):
            connection.sendall(frame(PING, payload=struct.pack(">Q", number)))
            frames += read_frames(connection, 0.7, lambda frame: frame[0] == PING)
    answers = [payload for kind, flags, payload in frames if kind == PING and flags & ACK]
    assert answers == [struct.pack(">Q", number) for number in range(4)]
    assert not [payload for kind, _, payload in frames if kind == GOAWAY]


def header(name, value):
    """Of HPACK: a literal without indexing, neither part longer than 126 bytes."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


def call_without_window(connection, path, message):
    """A call whose answer cannot be sent: its headers come, and no data ever."""
    head = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    request = message.SerializeToString()
    connection.sendall(
        PREFACE
        + frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
        + frame(HEADERS, END_HEADERS, 1, b"".join(header(*pair) for pair in head.items()))
        + frame(DATA, END_STREAM, 1, b"\0" + struct.pack(">I", len(request)) + request)
    )
    frames = read_frames(connection, 0.5, lambda frame: frame[0] == HEADERS)
    assert [kind for kind, _, _ in frames if kind in (HEADERS, DATA)] == [HEADERS]


def test_a_client_that_takes_no_answer_holds_up_nobody(assetd, folder):
    """What was fetched, found or read by it may be evicted, and uploads go on."""
    server = assetd(instances=[{"name": "", "storage": str(folder / "s"), "quota": "4MiB"}])
    client = server.client()
    digest = client.upload(noise(2 << 20, "large"))
    client.push_blob("urn:a", digest)
    calls = {
        f"{FETCH}FetchBlob": asset.FetchBlobRequest(uris=["urn:a"]),
        f"{STORAGE}FindMissingBlobs": reapi.FindMissingBlobsRequest(blob_digests=[DIGEST]),
        f"{BYTE_STREAM}Read": bytestream.ReadRequest(resource_name=f"blobs/{name_of(digest)}"),
    }
    with contextlib.ExitStack() as stack:
        for path, message in calls.items():
            call_without_window(stack.enter_context(connect(server)), path, message)
        for number in range(100):
            client.upload(noise(100_000, number))
        assert not client.has(digest)


def test_compressed_messages_are_refused(server):
    """They could be of any size, once they are inflated."""
    client = server.client()
    digest = client.upload(b"x")
    request = reapi.FindMissingBlobsRequest(blob_digests=[digest] * 1000)
    find = client.channel.unary_unary(
        f"{STORAGE}FindMissingBlobs", type(request).SerializeToString
    )
    with fails("UNIMPLEMENTED", "gzip"):
        find(request, timeout=TIMEOUT, compression=grpc.Compression.Gzip)
    assert find(request, timeout=TIMEOUT) == b""


def test_unknown_fields_are_tolerated_in_reason(server):
    """A newer client may have some; a million of them is another matter."""
    client = server.client()
    fetch = client.channel.unary_unary(f"{FETCH}FetchBlob")
    request = asset.FetchBlobRequest(uris=["urn:none"]).SerializeToString()
    with fails("NOT_FOUND"):
        fetch(request + b"\x78\x01" * 100, timeout=TIMEOUT)
    with fails("INVALID_ARGUMENT", "unknown fields"):
        fetch(request + b"\x78\x01" * 100_000, timeout=TIMEOUT)


def test_keepalive_of_a_channel(server):
    """A client that pings every second without calls keeps its channel."""
    client = server.client(
        options=[
            ("grpc.keepalive_time_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    )
    client.upload(b"x")
    time.sleep(3.5)
    assert client.has(digest_of(b"x"))


GARBAGE = {
    "nothing": b"",
    "http/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(100),
    "noise": noise(5000),
    "half a preface": PREFACE[:10],
    "preface and noise": PREFACE + noise(5000),
    "a large frame": PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100_000),
    "data of no stream": PREFACE + frame(SETTINGS) + frame(0, 0, 7, b"x" * 100),
    "headers of garbage": PREFACE + frame(SETTINGS) + frame(1, 4, 1, noise(200)),
    "many settings": PREFACE + frame(SETTINGS) * 1000,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_on_the_socket(module_server, data):
    for _ in range(3):
        with connect(module_server) as connection:
            try:
                connection.sendall(data)
                connection.settimeout(0.2)
                connection.recv(100)
            except OSError:
                continue
    client = module_server.client()
    client.upload(b"x")
    assert client.health() == 1


def test_large_metadata(module_server):
    """Refused or taken, but not the end of other calls."""
    for size in (100, 5_000, 100_000):
        client = module_server.client(metadata=(("x-large", "x" * size),))
        try:
            client.find_missing([DIGEST])
        except grpc.RpcError as error:
            assert error.code() in (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.UNAVAILABLE,
            )
            assert size > 5_000
    assert module_server.client().health() == 1


def test_no_client_forges_a_line_of_the_log(server):
    client = server.client()
    digest = client.upload(b"x")
    forged = "urn:a\nts=2000-01-01 level=error event=forged"
    client.push_blob(forged, digest)
    with fails("NOT_FOUND"):
        client.fetch_blob(forged + "\n")
    server.stop()
    assert not [line for line in server.log().splitlines() if line.startswith("ts=2000")]


def test_no_password_is_logged(server):
    client = server.client(metadata=(("authorization", "Bearer s3cr3t-token"),))
    client.push_blob("https://user:s3cr3t-word@example.com/a?key=s3cr3t-key", client.upload(b"x"))
    server.stop()
    assert "s3cr3t" not in server.log()
