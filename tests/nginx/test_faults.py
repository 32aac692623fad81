# SPDX-License-Identifier: Apache-2.0
"""What clients are told when a server behind nginx is gone, or goes."""

import pytest

from nginx.clients import FAMILIES
from nginx.methods import FETCH, FIND, READ
from nginx.standins import DyingBackend


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_that_is_gone_is_unavailable(own_front, family):
    front = own_front("pull")
    front.backends["pull"].stop()
    [(code, message)] = FAMILIES[family](front.target("pull"), [FETCH])
    assert code == "UNAVAILABLE"
    assert "assetd does not answer" in message
    # The other socket is another's.
    assert front.call("push", FETCH, "writer") == ("OK", "")
    front.backends["pull"].start()
    assert front.call("pull", FETCH) == ("OK", "")


def test_a_cas_that_is_gone_leaves_the_index(own_front):
    front = own_front("content")
    front.backends["cas"].stop()
    for method in (FIND, READ):
        code, message = front.call("content", method)
        assert code == "UNAVAILABLE"
        assert "the CAS does not answer" in message
    assert front.call("index", FETCH) == ("OK", "")
    front.backends["cas"].start()
    front.backends["pull"].stop()
    assert "assetd does not answer" in front.call("index", FETCH)[1]
    assert front.call("content", FIND) == ("OK", "")


@pytest.mark.parametrize(
    "place, caller", [("pairing-tls", "nobody"), ("pull-tls", "nobody"), ("push-tls", "writer")]
)
def test_a_cas_by_tls_must_be_the_one_that_is_meant(own_front, place, caller):
    front = own_front(place)
    cas, credentials = front.backends["cas"], front.credentials
    for tls, code in (
        (credentials.tls, "OK"),
        (credentials.others, "UNAVAILABLE"),
        (None, "UNAVAILABLE"),
    ):
        cas.stop()
        cas.tls = tls
        cas.start()
        assert front.call(place, FIND, caller)[0] == code
        assert len(cas.take()) == (code == "OK")


@pytest.fixture
def dying(own_front):
    """nginx with two ports, whose read socket is one at which calls die."""
    backends = []

    def start(headers=()):
        front = own_front("pull")
        front.backends["pull"].stop()
        backends.append(DyingBackend(front.backends["pull"].path, headers))
        return front

    yield start
    for backend in backends:
        backend.stop()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_that_dies_before_its_answer_is_unavailable(dying, family):
    front = dying()
    [(code, _)] = FAMILIES[family](front.target("pull"), [FETCH])
    assert code == "UNAVAILABLE"


def test_a_server_that_dies_in_its_answer_is_a_fault(dying):
    front = dying([(":status", "200"), ("content-type", "application/grpc")])
    code, message = front.call("pull", FETCH)
    assert code == "INTERNAL"
    assert "RST_STREAM" in message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_web_page_in_place_of_a_server_is_unavailable(dying, family):
    """As a proxy before the CAS may answer."""
    front = dying([(":status", "503"), ("content-type", "text/html")])
    [(code, message)] = FAMILIES[family](front.target("pull"), [FETCH])
    assert code == "UNAVAILABLE"
    assert "assetd does not answer" in message
