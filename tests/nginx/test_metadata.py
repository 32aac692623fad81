# SPDX-License-Identifier: Apache-2.0
"""What else nginx hands on of a call, and what it writes down."""

import os
import re

import pytest

from lib.server import wait_until
from nginx.clients import Http2
from nginx.layouts import PLACES
from nginx.methods import FETCH, PUSH, UNKNOWN

REQUEST_METADATA = "build.bazel.remote.execution.v2.requestmetadata-bin"


@pytest.mark.parametrize("size", [16, 12 * 1024])
@pytest.mark.parametrize("place", PLACES)
def test_metadata_with_dots_arrives(fronts, place, size):
    front = fronts(place)
    value = os.urandom(size)
    metadata = [(REQUEST_METADATA, value), ("with_underscore", "kept")]
    caller = PLACES[place].reader
    assert front.call(place, FETCH, caller, metadata) == ("OK", "")
    [(_, call)] = front.take()
    assert call.values(REQUEST_METADATA) == [value]
    assert call.values("with_underscore") == ["kept"]


@pytest.mark.parametrize("place", PLACES)
def test_the_authority_is_the_one_that_was_called(fronts, place):
    front = fronts(place)
    caller = PLACES[place].reader
    assert front.call(place, FETCH, caller) == ("OK", "")
    [(_, call)] = front.take()
    target = front.target(place)
    assert call.authority == f"{target.host}:{target.port}"


def logged(front, before, expected):
    """Waits for a line of the access log, after the first BEFORE, that has all of EXPECTED."""
    wait_until(
        lambda: any(expected.items() <= line.items() for line in front.access_log()[before:]),
        lambda: f"no line with {expected} in {front.access_log()[before:]}",
    )


@pytest.mark.parametrize("caller", ["nobody", "writer", "reader", "write-token", "never-token"])
@pytest.mark.parametrize("place", PLACES)
def test_the_log_says_what_assetd_was_told(fronts, place, caller):
    front = fronts(place)
    for method, kind in ((FETCH, "read"), (PUSH, "write"), (UNKNOWN[0], "unknown")):
        before = len(front.access_log())
        code, _ = front.call(place, method, caller, [("x-request-id", "mine")])
        expected = {
            "method": method,
            "class": kind,
            "grpc_status": str(CODES[code]),
            "http_status": "200",
            "port": str(front.target(place).port),
        }
        arrived = front.take()
        if code == "OK":
            [(socket, call)] = arrived
            [expected["id"]] = call.values("x-request-id")
            assert re.fullmatch("[0-9a-f]{32}", expected["id"])
            expected["client"] = "".join(call.values("x-client-identity"))
            expected["verdict"] = "ok"
            expected["role"] = role(place, caller, kind)
        else:
            assert not arrived
            expected["verdict"] = str(CODES[code])
            expected["upstream"] = ""
        logged(front, before, expected)


@pytest.mark.parametrize("header", ["user-agent", "grpc-timeout"])
def test_the_log_can_be_read_whatever_clients_send(fronts, header):
    """What is no UTF-8 would make the whole line unreadable."""
    front = fronts("pull")
    before = len(front.access_log())
    with Http2(front.target("pull")) as connection:
        connection.call(FETCH, [(header.encode(), b"1S \xff\xfe")])
    key = {"user-agent": "agent", "grpc-timeout": "timeout"}[header]
    logged(front, before, {key: "(not ASCII)"})


def role(place, caller, kind):
    """As the access log has it, of a call that is served."""
    if place == "validator":
        return kind
    if place.endswith("pull"):
        return "none"
    return {"nobody": "none", "reader": "read"}.get(caller, "write")


CODES = {
    "OK": 0,
    "PERMISSION_DENIED": 7,
    "UNIMPLEMENTED": 12,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}
