# SPDX-License-Identifier: Apache-2.0
"""assetd itself behind the shipped files: long uploads, many calls at once, reloads."""

import os

import grpc
import pytest

from lib.client import fails
from lib.content import digest_of
from lib.server import PATIENCE, wait_until
from lib.uploads import held_write
from nginx.clients import call
from nginx.methods import FETCH, HEALTH
from nginx.standins import CountingBackend

MANY = 3000
LARGE = 64 << 20


def test_a_blob_that_is_there_may_be_uploaded_again(served):
    """assetd answers before the upload has ended; the client gets that answer."""
    client = served("push").client("push", "writer")
    data = os.urandom(LARGE)
    assert client.write(data) == LARGE
    for _ in range(3):
        assert client.write(data) == LARGE


def test_three_thousand_calls_at_once_on_one_connection(served):
    pair = served("pull")
    client = pair.client("pull")
    before = len(pair.front.access_log())
    check = client.channel.unary_unary(HEALTH)
    calls = [check.future(b"", timeout=PATIENCE) for _ in range(MANY)]
    assert {call.result() for call in calls} == {b"\x08\x01"}
    wait_until(lambda: len(pair.front.access_log()) == before + MANY, pair.front.log)
    assert len({line["connection"] for line in pair.front.access_log()[before:]}) == 1


def test_a_reload_breaks_no_upload(served):
    pair = served("push")
    data = os.urandom(LARGE)
    with held_write(pair.client("push", "writer"), data, at=100) as upload:
        pair.front.reload()
    assert upload.result().committed_size == LARGE
    assert pair.client("pull").read(digest_of(data)) == data


def test_a_reload_breaks_no_download(served):
    pair = served("push")
    data = os.urandom(LARGE)
    pair.client("push", "writer").write(data)
    reader = pair.client("pull")
    answers = reader.read_stream(reader.read_name(digest_of(data)))
    received = [next(answers).data]
    pair.front.reload()
    received += [answer.data for answer in answers]
    assert b"".join(received) == data


@pytest.mark.parametrize("place", ["one-port", "pull"])
def test_a_message_that_would_fill_memory_is_refused_by_nginx(served, place):
    """The gRPC core has it whole in memory before it looks at its size."""
    front = served(place).front
    assert front.call(place, FETCH, messages=[bytes(LARGE)]) == (
        "RESOURCE_EXHAUSTED",
        "nginx: request too large",
    )


def test_lists_go_by_the_registered_name(served):
    """Through nginx to assetd's own lists: nobody is on them by a claim."""
    pair = served("one-port", push=["writer"], pull=["t-read", "writer"])
    blob = b"listed"
    claim = [("x-client-identity", "writer")]
    pair.client("one-port", "writer").upload(blob)
    for caller in ("ca", "write-token", "nobody", "reader"):
        for metadata in ([], claim):
            client = pair.client("one-port", caller, metadata)
            with pytest.raises(grpc.RpcError) as info:
                client.upload(blob)
            assert info.value.code().name in ("PERMISSION_DENIED", "UNAUTHENTICATED")
            with fails("PERMISSION_DENIED"):
                client.has(digest_of(blob))
    assert pair.client("one-port", "read-token").has(digest_of(blob))


def test_connections_to_assetd_are_kept(own_front):
    """Opening one costs more than a small call."""
    front = own_front("pull")
    front.backends["pull"].stop()
    backend = CountingBackend(front.backends["pull"].path)
    try:
        with front.channel("pull") as channel:
            assert [call(channel, FETCH)[0] for _ in range(50)] == ["OK"] * 50
        assert backend.calls == 50
        # Now and then nginx gives one up.
        assert backend.connections < 10
    finally:
        front.stop()
        backend.stop()
