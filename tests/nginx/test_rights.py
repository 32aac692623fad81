# SPDX-License-Identifier: Apache-2.0
"""Who may call what on which port, and where the call arrives."""

import socket
import ssl

import pytest

ASSET = "/build.bazel.remote.asset.v1"
REAPI = "/build.bazel.remote.execution.v2"
CAS = f"{REAPI}.ContentAddressableStorage"

READS = [
    f"{ASSET}.Fetch/FetchBlob",
    f"{ASSET}.Fetch/FetchDirectory",
    f"{REAPI}.Capabilities/GetCapabilities",
    f"{REAPI}.ActionCache/GetActionResult",
    f"{CAS}/FindMissingBlobs",
    f"{CAS}/BatchReadBlobs",
    f"{CAS}/GetTree",
    f"{CAS}/SplitBlob",
    "/google.bytestream.ByteStream/Read",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
]
WRITES = [
    f"{ASSET}.Push/PushBlob",
    f"{ASSET}.Push/PushDirectory",
    f"{REAPI}.ActionCache/UpdateActionResult",
    f"{CAS}/BatchUpdateBlobs",
    f"{CAS}/SpliceBlob",
    "/google.bytestream.ByteStream/Write",
    "/google.bytestream.ByteStream/QueryWriteStatus",
]
UNKNOWN = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    f"{REAPI}.Execution/Execute",
    f"{ASSET}.Push/Pull",
    "/",
    "/favicon.ico",
]
REGISTERED = {"client": "demo", "alice": "alice"}
REFUSED = {
    None: "client-cert",
    "unknown": "authorized.crt",
    "namesake": "authorized.crt",
    "signed": "authorized.crt",
    "expired": "expired",
    "unmapped": "authorized.crt",
}


@pytest.mark.parametrize("method", READS)
def test_anyone_reads_on_the_pull_port(front, method):
    assert front.call("pull", method) == ("OK", "")
    assert [call.method for call in front.read.take()] == [method]
    assert not front.write.take()


@pytest.mark.parametrize("client", [None, *REGISTERED])
@pytest.mark.parametrize("method", WRITES)
def test_nobody_writes_on_the_pull_port(front, method, client):
    code, message = front.call("pull", method, client)
    assert code == "PERMISSION_DENIED"
    assert "push port" in message and "client certificate" in message
    assert not front.read.take() and not front.write.take()


@pytest.mark.parametrize("client", REGISTERED)
@pytest.mark.parametrize("method", READS + WRITES)
def test_registered_clients_read_and_write_on_the_push_port(front, method, client):
    assert front.call("push", method, client) == ("OK", "")
    [call] = front.write.take()
    assert call.method == method
    assert call.values("x-client-identity") == [REGISTERED[client]]
    assert not front.read.take()


@pytest.mark.parametrize("client", REFUSED)
@pytest.mark.parametrize("method", [READS[0], WRITES[0], "/grpc.health.v1.Health/Check", "/x/y"])
def test_others_are_unauthenticated_on_the_push_port(front, method, client):
    code, message = front.call("push", method, client)
    assert code == "UNAUTHENTICATED"
    assert REFUSED[client] in message
    assert not front.read.take() and not front.write.take()


@pytest.mark.parametrize("port, client", [("pull", None), ("push", "client")])
@pytest.mark.parametrize("method", UNKNOWN)
def test_unknown_methods_are_unimplemented(front, method, port, client):
    assert front.call(port, method, client)[0] == "UNIMPLEMENTED"
    assert not front.read.take() and not front.write.take()


def spellings(method):
    """Of a path that a server might take for METHOD's after some tidying up."""
    service, name = method[1:].split("/")
    return [
        f"//{service}/{name}",
        f"/{service}//{name}",
        f"/{service}/./{name}",
        f"/x/../{service}/{name}",
        f"/{service}/x/../{name}",
        f"/grpc.health.v1.Health/Check/../../{service}/{name}",
        f"/{service}/%{ord(name[0]):02x}{name[1:]}",
        f"/{service}%2f{name}",
        f"/%{ord(service[0]):02x}{service[1:]}/{name}",
        f"/{service}/{name}?x",
        f"/{service}/{name}?",
        f"/{service}/{name}#x",
        f"/{service}/{name}/",
        f"/{service}/{name};x",
        f"/{service}/{name}%00",
        f"/{service}/{name}%20",
    ]


@pytest.mark.parametrize("method", WRITES)
def test_other_spellings_of_writes_reach_nothing_over_http2(front, method):
    with front.channel("pull") as channel:
        for path in spellings(method):
            call = channel.unary_unary(path)
            with pytest.raises(Exception) as info:
                call(b"", timeout=30)
            assert info.value.code().name in ("UNIMPLEMENTED", "INTERNAL"), path
    # The map ignores case, and so does not let this pass as anything but a write either.
    assert front.call("pull", method.upper())[0] == "PERMISSION_DENIED"
    assert not front.read.take() and not front.write.take()


def http1_status(front, port, request_line):
    """What nginx answers over HTTP/1.1: the header grpc-status, else HTTP's status."""
    context = ssl.create_default_context(cafile=front.tls / "server.crt")
    with (
        socket.create_connection(("localhost", front.port(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        request = (
            f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\n"
            "TE: trailers\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        )
        tls.sendall(request.encode() + bytes(5))
        answer = b""
        while received := tls.recv(65536):
            answer += received
    head = answer.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:])
    return headers.get("grpc-status", head[0].split()[1])


@pytest.mark.parametrize("method", WRITES)
def test_other_spellings_of_writes_reach_nothing_over_http1(front, method):
    for path in [method, f"https://localhost{method}", *spellings(method)]:
        for verb in ("POST", "PUT", "GET"):
            assert http1_status(front, "pull", f"{verb} {path}") in ("7", "12", "400"), path
    assert not front.read.take() and not front.write.take()


def test_the_push_port_wants_a_certificate_over_http1(front):
    assert http1_status(front, "push", f"POST {WRITES[0]}") == "16"
    assert not front.write.take()
