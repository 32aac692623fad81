# SPDX-License-Identifier: Apache-2.0
"""Nobody has an identity but by a credential, and credentials go no further than nginx."""

import pytest

from lib.server import wait_until
from nginx.clients import FAMILIES, Http2, http1_call
from nginx.credentials import Caller
from nginx.layouts import PLACES
from nginx.methods import FETCH, PUSH

IDENTITY = "x-client-identity"

CLAIMS = {
    "once": [(IDENTITY, "ca")],
    "twice": [(IDENTITY, "ca"), (IDENTITY, "writer")],
    "empty": [(IDENTITY, "")],
    "empty-first": [(IDENTITY, ""), (IDENTITY, "ca")],
    "underscores": [("x_client_identity", "ca"), ("x-client_identity", "ca")],
    "in-both-spellings": [("x_client_identity", "ca"), (IDENTITY, "ca")],
    "binary": [(f"{IDENTITY}-bin", "Y2E")],
}
CAPITALS = [("X-Client-Identity", "ca"), ("X-CLIENT-IDENTITY", "ca")]


def arrivals(front):
    return [(socket, call.method, call.values(IDENTITY)) for socket, call in front.take()]


@pytest.mark.parametrize("caller", ["nobody", "writer", "reader", "write-token"])
@pytest.mark.parametrize("place", PLACES)
def test_a_claimed_identity_changes_nothing(fronts, place, caller):
    front = fronts(place)
    headers = front.caller(caller).metadata
    with Http2(front.target(place, caller)) as connection:
        for method in (FETCH, PUSH):
            without = connection.call(method, headers), arrivals(front)
            for name, claim in CLAIMS.items():
                claimed = connection.call(method, [*headers, *claim]), arrivals(front)
                assert claimed == without, name


@pytest.mark.parametrize("caller", ["nobody", "writer", "write-token"])
@pytest.mark.parametrize("place", PLACES)
def test_a_claim_in_capitals_changes_nothing(fronts, place, caller):
    """HTTP/2 has no capitals; over HTTP/1.1 they are the same name."""
    front = fronts(place)
    headers, target = front.caller(caller).metadata, front.target(place, caller)
    without = http1_call(target, f"POST {FETCH}", headers), arrivals(front)
    assert (http1_call(target, f"POST {FETCH}", [*headers, *CAPITALS]), arrivals(front)) == without
    with Http2(target) as connection:
        assert connection.call(FETCH, [*headers, *CAPITALS]) != "0"
    assert not front.take()


TOKENS = ["read-token", "write-token", "never-token", "write-basic"]


@pytest.mark.parametrize("place", PLACES)
def test_two_tokens_are_refused(fronts, place):
    """Whichever they are: one of them would be looked at, and nobody could say which."""
    front = fronts(place)
    for one in TOKENS:
        for other in TOKENS:
            headers = front.caller(one).metadata + front.caller(other).metadata
            with Http2(front.target(place)) as connection:
                assert connection.call(FETCH, headers) != "0", (one, other)
            assert http1_call(front.target(place), f"POST {FETCH}", headers) != "0", (one, other)
            both = Caller(None, [value for _, value in headers])
            for family, calls in FAMILIES.items():
                [(code, _)] = calls(front.target(place), [FETCH], both.metadata)
                assert code != "OK", (one, other, family)
    assert not front.take()


@pytest.mark.parametrize("place", PLACES)
def test_credentials_are_neither_handed_on_nor_logged(fronts, place):
    front = fronts(place)
    secrets = front.credentials.secrets()
    for caller, (_, authorization) in front.callers.items():
        if not authorization:
            continue
        for method in (FETCH, PUSH, "/x/y"):
            front.call(place, method, caller)
    for _, call in front.take():
        assert call.values("authorization") == []
        assert not any(secret in str(value) for _, value in call.metadata for secret in secrets)
    with Http2(front.target(place)) as connection:
        # Such as nginx complains of.
        bearer = front.caller("write-token").metadata
        connection.call(FETCH, bearer * 2)
        connection.call("//", bearer)
        connection.call(FETCH, [*bearer, ("x-long", "x" * 40000)])
        connection.call(FETCH, [*bearer, ("x bad", "x")])
    last = f"/the/last/{place}"
    front.call(place, last)
    wait_until(lambda: last in front.all_logs(), front.log)
    assert not [secret for secret in secrets if secret in front.all_logs()]


@pytest.mark.parametrize("host", ["tools.example.com", "other.example.com", "localhost", ""])
def test_a_call_for_another_host_than_the_handshakes_is_refused(fronts, host):
    """Whoever is known under one name is not under another, and the connection is one of them."""
    front = fronts("kernel")
    with Http2(front.target("kernel", "writer")) as connection:
        assert connection.call(FETCH, authority="kernel.example.com") == "0"
        assert len(front.take()) == 1
        for method in (FETCH, PUSH):
            assert connection.call(method, authority=host) in ("7", "400"), method
    assert not front.take()
