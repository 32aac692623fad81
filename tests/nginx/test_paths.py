# SPDX-License-Identifier: Apache-2.0
"""Other spellings of a method's path: what nginx does not know by its exact name goes nowhere."""

import pytest

from nginx.clients import Http2, call, http1_call
from nginx.layouts import PLACES
from nginx.methods import READS, UNKNOWN, WRITES, capitals, spellings

# Of a call that was refused: grpc-status or HTTP's, or the end of the stream or the connection.
REFUSED = {"7", "12", "13", "16", "400", "405", "closed", "reset"}


@pytest.mark.parametrize("caller", ["nobody", "writer", "write-token"])
@pytest.mark.parametrize("place", PLACES)
def test_other_spellings_reach_nothing_over_http2(fronts, place, caller):
    front = fronts(place)
    headers = front.caller(caller).metadata
    with Http2(front.target(place, caller)) as connection:
        for method in WRITES:
            for path in spellings(method):
                assert connection.call(path, headers) in REFUSED, path
    assert not front.take()


@pytest.mark.parametrize("place", PLACES)
def test_other_spellings_reach_nothing_over_http1(fronts, place):
    front = fronts(place)
    for method in WRITES:
        for path in [method, f"https://{PLACES[place].host}{method}", *spellings(method)]:
            assert http1_call(front.target(place), f"POST {path}") in REFUSED, path
    assert not front.take()


@pytest.mark.parametrize("place", PLACES)
def test_other_verbs_are_no_way_to_write(fronts, place):
    front = fronts(place)
    for verb in ("GET", "PUT", "HEAD", "DELETE", "CONNECT"):
        for method in WRITES:
            assert http1_call(front.target(place), f"{verb} {method}") in REFUSED, method
    assert not front.take()


@pytest.mark.parametrize("place", PLACES)
def test_other_cases_of_writes_are_no_way_to_write(fronts, place):
    front = fronts(place)
    with Http2(front.target(place)) as connection:
        for method in WRITES:
            for path in capitals(method):
                assert connection.call(path) in REFUSED, path
    assert not front.take()


@pytest.mark.parametrize("place", PLACES)
def test_every_method_is_known(fronts, place):
    """The matrix has one of each class."""
    front = fronts(place)
    writer, reader = PLACES[place].writer, PLACES[place].reader
    caller = front.caller(writer or reader)
    with front.channel(place, caller) as channel:
        for method in READS + WRITES if writer else READS:
            assert call(channel, method, caller.metadata) == ("OK", "")
            assert [seen.method for _, seen in front.take()] == [method]
        for method in UNKNOWN:
            assert call(channel, method, caller.metadata)[0] == "UNIMPLEMENTED", method
    assert not front.take()
