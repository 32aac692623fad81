# SPDX-License-Identifier: Apache-2.0
"""What nginx hands on, what it takes away, and what it writes down."""

import os
import re

import pytest

from lib.server import wait_until

FETCH = "/build.bazel.remote.asset.v1.Fetch/FetchBlob"
WRITE = "/google.bytestream.ByteStream/Write"
REQUEST_METADATA = "build.bazel.remote.execution.v2.requestmetadata-bin"


@pytest.mark.parametrize("spoofed", ["alice", "", "demo"])
def test_a_claimed_identity_is_removed_on_the_pull_port(front, spoofed):
    assert front.call("pull", FETCH, metadata=[("x-client-identity", spoofed)]) == ("OK", "")
    assert front.read.take()[0].values("x-client-identity") == []


def test_a_certificate_on_the_pull_port_is_not_asked_for(front):
    assert front.call("pull", FETCH, "alice") == ("OK", "")
    assert front.read.take()[0].values("x-client-identity") == []


def test_a_claimed_identity_is_replaced_on_the_push_port(front):
    claims = [("x-client-identity", "alice"), ("x-client-identity", "root")]
    assert front.call("push", FETCH, "client", claims) == ("OK", "")
    assert front.write.take()[0].values("x-client-identity") == ["demo"]


@pytest.mark.parametrize("size", [16, 12 * 1024])
def test_metadata_with_dots_arrives(front, size):
    value = os.urandom(size)
    metadata = [(REQUEST_METADATA, value), ("with_underscore", "kept")]
    assert front.call("pull", FETCH, metadata=metadata) == ("OK", "")
    [call] = front.read.take()
    assert call.values(REQUEST_METADATA) == [value]
    assert call.values("with_underscore") == ["kept"]


def test_authorization_is_neither_handed_on_nor_logged(front):
    secret = "Bearer c0ffee5ec3e7"
    assert front.call("pull", FETCH, metadata=[("authorization", secret)]) == ("OK", "")
    [call] = front.read.take()
    assert call.values("authorization") == []
    front.access(call.values("x-request-id")[0])
    assert "c0ffee5ec3e7" not in (front.folder / "assetd.json").read_text() + front.log()


def test_the_log_names_call_and_client(front):
    claim = [("x-request-id", "mine")]
    assert front.call("push", WRITE, "alice", claim, [b"x" * 1000]) == ("OK", "")
    [call] = front.write.take()
    [request_id] = call.values("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    line = front.access(request_id)
    assert line["method"] == WRITE
    assert line["client"] == "alice"
    assert line["grpc_status"] == "0"
    assert line["http_status"] == "200"
    assert line["port"] == str(front.push_port)
    assert line["in"] > 1000
    assert line["verify"] == "SUCCESS"


@pytest.mark.parametrize(
    "port, client, expected",
    [
        ("pull", None, {"grpc_status": "7", "client": "", "verify": "NONE"}),
        ("push", "signed", {"grpc_status": "16", "client": "", "verify": "SUCCESS"}),
        ("push", None, {"grpc_status": "16", "client": "", "verify": "NONE"}),
    ],
)
def test_the_log_names_refusals(front, port, client, expected):
    before = len(front.access_log())
    front.call(port, WRITE, client)
    expected = {**expected, "method": WRITE, "class": "write", "upstream": ""}
    wait_until(
        lambda: any(expected.items() <= line.items() for line in front.access_log()[before:]),
        lambda: (front.folder / "assetd.json").read_text(),
    )


def test_the_authority_is_the_one_that_was_called(front):
    """Seen in HTTP's Host, which nginx takes from :authority."""
    with front.channel("pull") as channel:
        channel.unary_unary(FETCH)(b"", timeout=30)
    [call] = front.read.take()
    assert call.authority == f"localhost:{front.pull_port}"
