# SPDX-License-Identifier: Apache-2.0
"""Rates, switched on: what is over them is UNAVAILABLE, and nobody else notices."""

import grpc

from lib.server import PATIENCE, wait_until
from nginx.clients import Http2
from nginx.methods import FETCH, HEALTH

# Of rates.conf: what may come at once. In the layout "few-calls": what may be in flight.
BURST = 5000
IN_FLIGHT = 8


def test_calls_over_the_rate_are_unavailable(served):
    pair = served("limited")
    check = pair.client("limited").channel.unary_unary(HEALTH)
    calls = [check.future(b"", timeout=PATIENCE) for _ in range(BURST + 500)]
    errors = [call.exception() for call in calls]
    refused = [error for error in errors if error is not None]
    assert all(error is None for error in errors[:1000])
    assert 0 < len(refused) <= 500
    assert {error.code() for error in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert {error.details() for error in refused} == {"nginx: too many calls, try again later"}
    # Another address has a count of its own.
    with Http2(pair.front.target("limited"), source="127.0.0.2") as other:
        assert other.call(HEALTH) == "0"
    with Http2(pair.front.target("limited")) as same:
        assert same.call(HEALTH) == "14"


def test_calls_over_those_in_flight_are_unavailable(own_front):
    """Each call of a connection counts."""
    front = own_front("few-calls")
    target = front.target("few-calls")
    with Http2(target) as held:
        for _ in range(IN_FLIGHT):
            held.open(FETCH)
        assert held.call(FETCH) == "14"
        with Http2(target) as same:
            assert same.call(FETCH) == "14"
        with Http2(target, source="127.0.0.2") as other:
            assert other.call(FETCH) == "0"
    with Http2(target) as after:
        wait_until(lambda: after.call(FETCH) == "0", front.log)
