# SPDX-License-Identifier: Apache-2.0
"""With an external CAS: which calls it gets, and how much they may send."""

import pytest

from nginx.layouts import PLACES
from nginx.methods import (
    BATCH_UPDATE,
    BYTESTREAM,
    CAPABILITIES,
    FETCH,
    FIND,
    PUSH,
    READS,
    REAPI,
    WRITE,
    WRITES,
)

MIB = 1 << 20
PAIRED = ["content", "content-pull", "content-push"]


@pytest.mark.parametrize("place", PAIRED)
def test_what_the_cas_gets(fronts, place):
    """All but the index: its health is that of assetd."""
    front = fronts(place)
    writer, reader = PLACES[place].writer, PLACES[place].reader
    found = {}
    for method in READS + WRITES if writer else READS:
        assert front.call(place, method, writer or reader) == ("OK", "")
        [(found[method], _)] = front.take()
    of_cas = {method for method, socket in found.items() if socket == "cas"}
    assert of_cas == {method for method in found if method.startswith((f"{REAPI}.", BYTESTREAM))}
    assert CAPABILITIES in of_cas


@pytest.mark.parametrize("place", PAIRED)
def test_how_much_calls_may_send(own_front, place):
    """The same as with a CAS of assetd's own. Of what is too large the beginning may arrive."""
    front = own_front(place)
    writer, reader = PLACES[place].writer, PLACES[place].reader
    limits = [(FIND, 4, 6), (FETCH, 4, 6)]
    if writer:
        limits += [(BATCH_UPDATE, 16, 18), (PUSH, 16, 18)]
    for method, taken, refused in limits:
        answer = front.call(place, method, writer or reader, messages=[bytes(refused * MIB)])
        assert answer == ("RESOURCE_EXHAUSTED", "nginx: request too large")
        answer = front.call(place, method, writer or reader, messages=[bytes(taken * MIB)])
        assert answer == ("OK", "")
        assert taken * MIB in [call.received for _, call in front.take()]


@pytest.mark.parametrize("place", ["content", "content-push"])
def test_an_upload_may_be_of_any_size(fronts, place):
    front = fronts(place)
    assert front.call(place, WRITE, "writer", messages=[bytes(MIB)] * 32) == ("OK", "")
    [(_, call)] = front.take()
    assert call.received == 32 * MIB
