# SPDX-License-Identifier: Apache-2.0
"""A validator decides who may call: what its answers mean, and nobody is let in without one."""

import socket
import threading

import pytest

from nginx.clients import FAMILIES, Http2
from nginx.methods import FETCH, PUSH

NAMED = {"X-Client-Identity": "ci-kernel"}

# status, headers: code, and the identity of what arrives.
ANSWERS = {
    "200": ((200, NAMED), "OK", ["ci-kernel"]),
    "204": ((204, NAMED), "OK", ["ci-kernel"]),
    "nobody": ((200, {}), "OK", []),
    "blank": ((200, {"X-Client-Identity": "a b"}), "OK", []),
    "quote": ((200, {"X-Client-Identity": 'a"b'}), "OK", []),
    "two": ((200, {"X-Client-Identity": "a, b"}), "OK", []),
    "long": ((200, {"X-Client-Identity": "x" * 65}), "OK", []),
    "longest": ((200, {"X-Client-Identity": "x" * 64}), "OK", ["x" * 64]),
    "302": ((302, {**NAMED, "Location": "/"}), "UNAVAILABLE", None),
    "400": ((400, NAMED), "UNAVAILABLE", None),
    "401": ((401, NAMED), "UNAUTHENTICATED", None),
    "403": ((403, NAMED), "PERMISSION_DENIED", None),
    "404": ((404, NAMED), "UNAVAILABLE", None),
    "429": ((429, NAMED), "UNAVAILABLE", None),
    "500": ((500, NAMED), "UNAVAILABLE", None),
    "502": ((502, NAMED), "UNAVAILABLE", None),
    "503": ((503, NAMED), "UNAVAILABLE", None),
}


def outcome(front, method=FETCH, family="grpcio"):
    """The status, and the identities of what arrived."""
    [(code, _)] = FAMILIES[family](front.target("validator"), [method])
    arrived = [(name, call.values("x-client-identity")) for name, call in front.take()]
    return code, arrived


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answer, code, identity", ANSWERS.values(), ids=ANSWERS)
def test_what_an_answer_means(fronts, answer, code, identity, family):
    front = fronts("validator")
    with front.validator.answering(answer):
        for method, name in ((FETCH, "pull"), (PUSH, "push")):
            arrived = [] if identity is None else [(name, identity)]
            assert outcome(front, method, family) == (code, arrived)


def test_an_answer_is_for_one_call(fronts):
    front = fronts("validator")
    with front.channel("validator") as channel:
        fetch = channel.unary_unary(FETCH)
        with front.validator.answering((200, NAMED)):
            fetch(b"", timeout=30)
        with front.validator.answering((401, {})), pytest.raises(Exception) as info:
            fetch(b"", timeout=30)
    assert info.value.code().name == "UNAUTHENTICATED"
    assert len(front.take()) == 1


def test_what_it_is_told(fronts):
    """Of the client its Authorization alone, so that nothing else can be taken for nginx's word."""
    front = fronts("validator")
    front.validator.asked.clear()
    claims = [
        ("authorization", "Bearer some"),
        ("x-client-identity", "root"),
        ("x-method-class", "read"),
        ("x-method", FETCH),
        ("x-real-ip", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-request-id", "mine"),
    ]
    with front.validator.answering((200, NAMED)):
        assert front.call("validator", PUSH, metadata=claims) == ("OK", "")
    [(_, call)] = front.take()
    [asked] = front.validator.asked
    assert sorted((name.lower(), value) for name, value in asked if name != "Host") == [
        ("authorization", "Bearer some"),
        ("x-method", PUSH),
        ("x-method-class", "write"),
        ("x-real-ip", "127.0.0.1"),
        ("x-request-id", *call.values("x-request-id")),
    ]


def test_the_client_does_not_choose_whom_it_is_asked_as(fronts):
    """By another Host another site of its server could answer, and say yes to anyone."""
    front = fronts("validator")
    front.validator.asked.clear()
    with front.validator.answering((200, NAMED)), Http2(front.target("validator")) as connection:
        assert connection.call(FETCH, authority="status.internal") == "0"
    front.take()
    [asked] = front.validator.asked
    assert [value for name, value in asked if name.lower() == "host"] == ["localhost"]


def test_it_is_not_asked_about_unknown_methods(fronts):
    front = fronts("validator")
    front.validator.asked.clear()
    with front.validator.answering((200, NAMED)):
        assert front.call("validator", "/x/y")[0] == "UNIMPLEMENTED"
        assert front.call("validator", "/assetd-validator")[0] == "UNIMPLEMENTED"
    assert front.validator.asked == [] and not front.take()


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_is_let_in_without_it(own_front, family):
    front = own_front("validator")
    front.validator.stop()
    for method in (FETCH, PUSH):
        assert outcome(front, method, family) == ("UNAVAILABLE", [])
    front.validator.answer = (200, NAMED)
    front.validator.start()
    assert outcome(front, FETCH, family) == ("OK", [("pull", ["ci-kernel"])])


# By the pair that the validator has.
BY_TLS = {"tls": "OK", "others": "UNAVAILABLE", None: "UNAVAILABLE"}


@pytest.mark.parametrize("pair, code", BY_TLS.items())
def test_by_tls_it_must_be_the_one_that_is_meant(own_front, pair, code):
    front = own_front("validator-tls")
    front.validator.stop()
    front.validator.answer = (200, NAMED)
    front.validator.tls = pair and getattr(front.credentials, pair)
    front.validator.start()
    assert front.call("validator-tls", PUSH)[0] == code
    assert len(front.take()) == (code == "OK")


@pytest.fixture
def odd_validator(own_front):
    """nginx whose validator answers each connection with some bytes, or none, and then waits."""
    over = threading.Event()
    opened = []

    def start(answer):
        front = own_front("validator")
        front.validator.stop()
        listener = socket.create_server(("127.0.0.1", front.validator.port))

        def serve():
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if answer:
                        connection.sendall(answer)
                    else:
                        over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        opened.append((listener, thread))
        return front

    yield start
    over.set()
    for listener, thread in opened:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_nobody_is_let_in_by_silence(odd_validator):
    assert outcome(odd_validator(b"")) == ("UNAVAILABLE", [])


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200", b"200 OK\r\n\r\n", b"\0\0\0", b"HTTP/1.1 2000 OK\r\n\r\n"]
)
def test_nobody_is_let_in_by_garbage(odd_validator, answer):
    assert outcome(odd_validator(answer)) == ("UNAVAILABLE", [])
