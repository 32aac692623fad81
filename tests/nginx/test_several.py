# SPDX-License-Identifier: Apache-2.0
"""Several assetd behind one port: what goes on without one of them, and what is lost with it."""

import collections

import pytest

from nginx.clients import call
from nginx.methods import FETCH, PUSH
from nginx.standins import DyingBackend

READERS = ("one-pull", "two-pull", "three-pull")
CALLS = 60


def statuses(front, method):
    """How often each status was the answer to CALLS calls, over one connection each ten."""
    found = collections.Counter()
    for _ in range(CALLS // 10):
        with front.channel("several", "write-token") as channel:
            metadata = front.caller("write-token").metadata
            found.update(call(channel, method, metadata)[0] for _ in range(10))
    return found


def arrived(front):
    """How often each socket was asked."""
    return collections.Counter(
        {name: len(backend.take()) for name, backend in front.backends.items()}
    )


def test_readers_share_the_reads(fronts):
    front = fronts("several")
    calls = [front.call("several", FETCH) for _ in range(CALLS)]
    assert calls == [("OK", "")] * CALLS
    counts = arrived(front)
    assert +counts == {name: counts[name] for name in READERS}
    assert counts.total() == CALLS


@pytest.mark.parametrize("stopped", READERS)
def test_reads_go_on_without_a_reader(own_front, stopped):
    front = own_front("several")
    front.backends[stopped].stop()
    assert [front.call("several", FETCH)[0] for _ in range(CALLS)] == ["OK"] * CALLS
    assert arrived(front).total() == CALLS


def test_no_reader_is_left_alone_after_a_failure(own_front):
    """A client can bring failures about, by calls that the core ends the connection for."""
    front = own_front("several")
    for name in READERS:
        front.backends[name].stop()
    dying = [DyingBackend(front.backends[name].path) for name in READERS]
    try:
        codes = [front.call("several", FETCH)[0] for _ in range(CALLS)]
    finally:
        for backend in dying:
            backend.stop()
    assert codes == ["UNAVAILABLE"] * CALLS
    assert sum(backend.calls for backend in dying) == CALLS


def test_the_second_writer_is_asked_when_the_first_is_gone(own_front):
    front = own_front("several")
    assert statuses(front, PUSH) == {"OK": CALLS}
    assert +arrived(front) == {"one-push": CALLS}
    front.backends["one-push"].stop()
    assert statuses(front, PUSH) == {"OK": CALLS}
    assert +arrived(front) == {"two-push": CALLS}
    front.backends["two-push"].stop()
    assert statuses(front, PUSH) == {"UNAVAILABLE": CALLS}


def test_a_call_that_was_sent_is_not_sent_again(own_front):
    """Of a server that dies its calls are lost, and the next ones go elsewhere."""
    front = own_front("several")
    front.backends["one-push"].stop()
    dying = DyingBackend(front.backends["one-push"].path)
    try:
        counts = statuses(front, PUSH)
    finally:
        dying.stop()
    assert set(counts) == {"OK", "UNAVAILABLE"}
    assert counts["UNAVAILABLE"] == dying.calls
    assert arrived(front).total() == counts["OK"]
