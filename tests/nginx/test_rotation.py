# SPDX-License-Identifier: Apache-2.0
"""Credentials that are added, revoked, replaced while nginx runs: they count from the reload on."""

from lib.certificates import make_pair
from nginx.clients import Http2
from nginx.credentials import Caller
from nginx.methods import FETCH, PUSH


def outcome(front, caller):
    """The status of a write, and the identities of what arrived."""
    code, _ = front.call("one-port", PUSH, caller)
    return code, [call.values("x-client-identity") for _, call in front.take()]


def test_a_certificate(own_front):
    front = own_front("one-port")
    credentials = front.credentials
    path = make_pair(credentials.own, "newcomer", "newcomer")
    assert outcome(front, Caller("newcomer")) == ("UNAUTHENTICATED", [])
    credentials.assetctl("cert", "add", "laptop", path)
    front.reload()
    assert outcome(front, Caller("newcomer")) == ("OK", [["laptop"]])
    credentials.assetctl("cert", "revoke", "laptop")
    front.reload()
    assert outcome(front, Caller("newcomer")) == ("UNAUTHENTICATED", [])
    assert outcome(front, "writer") == ("OK", [["writer"]])


def test_a_token(own_front):
    front = own_front("one-port")
    token = front.credentials.add_token("ci", "write")
    caller = Caller(None, (f"Bearer {token}",))
    assert outcome(front, caller) == ("UNAUTHENTICATED", [])
    front.reload()
    assert outcome(front, caller) == ("OK", [["ci"]])
    front.credentials.assetctl("token", "revoke", "ci")
    front.reload()
    assert outcome(front, caller) == ("UNAUTHENTICATED", [])
    assert outcome(front, "write-token") == ("OK", [["t-write"]])


def test_a_session_of_tls_does_not_outlive_its_certificate(own_front):
    front = own_front("one-port")
    target = front.target("one-port", "writer")
    with Http2(target) as first:
        assert first.call(PUSH) == "0"
    with Http2(target, resumed=first) as second:
        assert second.call(PUSH) == "0"
        assert second.socket.session_reused
    front.credentials.assetctl("cert", "revoke", "writer")
    front.reload()
    with Http2(target, resumed=second) as third:
        assert third.call(PUSH) == "16"
        assert third.call(FETCH) == "16"


def test_the_certificate_of_the_server(own_front):
    front = own_front("one-port")
    with Http2(front.target("one-port")) as connection:
        before = connection.socket.getpeercert(binary_form=True)
    front.credentials.assetctl("cert", "server", "localhost", "--replace")
    front.reload()
    with Http2(front.target("one-port")) as connection:
        assert connection.socket.getpeercert(binary_form=True) != before
        assert connection.call(FETCH) == "0"
