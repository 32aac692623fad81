# SPDX-License-Identifier: Apache-2.0
"""The CAS of the tests does what it says."""

import pytest

from lib.api import reapi
from lib.client import Client, fails
from lib.content import digest_of, noise
from lib.external_cas import (
    BATCH_READ,
    BATCH_UPDATE,
    FIND,
    READ,
    ExternalCas,
    Hold,
    alters,
    refuses,
)
from lib.ports import free_port


@pytest.fixture(params=["tcp", "unix"])
def cas(folder, request):
    unix = f"unix:{folder}/cas.sock"
    cas = ExternalCas(f"127.0.0.1:{free_port()}" if request.param == "tcp" else unix).start()
    yield cas
    cas.stop()


@pytest.fixture
def client(cas):
    with Client(cas.address) as client:
        yield client


def request_for(digest):
    return reapi.FindMissingBlobsRequest(blob_digests=[digest])


def test_what_it_has_is_found_and_read(cas, client):
    digest = client.upload(b"content")
    large = cas.put(noise(1_000_000))
    absent = digest_of(b"absent")
    assert client.find_missing([digest, absent, large]) == [absent]
    assert [one.data for one in client.batch_read([digest, absent])] == [b"content", b""]
    assert client.read(large) == noise(1_000_000)
    everything = [BATCH_UPDATE, FIND, BATCH_READ, READ]
    assert cas.take_names(*everything) == everything
    cas.remove(digest)
    assert not client.has(digest)
    with fails("NOT_FOUND"):
        client.read(digest)


def test_it_refuses_what_is_not_to_be_asked(cas, client):
    digest = cas.put(b"content")
    for digests in ([], [digest, digest], [digest_of(b"")], [digest, digest_of(b"x", "sha1")]):
        with fails("INVALID_ARGUMENT"):
            client.find_missing(digests)
    with fails("INVALID_ARGUMENT"):
        client.batch_read([cas.put(noise(1 << 20, n)) for n in range(3)])
    assert len(cas.refused) == 5
    # Which assetd may do: it does not know what the CAS can.
    with fails("INVALID_ARGUMENT"):
        client.has(digest_of(b"x", "sha1"))
    assert len(cas.refused) == 5
    with pytest.raises(AssertionError):
        cas.finish()


def test_faults(cas, client):
    digest = cas.put(b"content")
    with cas.fault(refuses("INTERNAL", "broken"), FIND):
        with fails("INTERNAL", "broken"):
            client.has(digest)
        assert client.read(digest) == b"content"
    with cas.fault(alters(lambda answer: answer.pop()), READ):
        assert client.read(digest) == b""
    with cas.fault(Hold(1)) as hold:
        call = client._cas.FindMissingBlobs.future(request_for(digest))
        hold.wait_for(1)
        assert client.has(digest)
        cas.remove(digest)
    assert not call.result().missing_blob_digests
    assert not client.has(digest)


def test_it_goes_and_comes_back(cas):
    digest = cas.put(b"content")
    for _ in range(3):
        with Client(cas.address) as client:
            assert client.has(digest)
        with cas.silent(), Client(cas.address) as client:
            with fails("DEADLINE_EXCEEDED"):
                client._call(client._cas.FindMissingBlobs, request_for(digest), timeout=0.1)
        cas.stop()
        with Client(cas.address) as client, fails("UNAVAILABLE"):
            client.has(digest)
        cas.start()


def test_held_calls_end_with_it(cas, client):
    digest = cas.put(b"content")
    with cas.fault(Hold()) as hold:
        calls = [client._cas.FindMissingBlobs.future(request_for(digest)) for _ in range(20)]
        hold.wait_for(20)
        calls.pop().cancel()
        cas.stop()
    for call in calls:
        with fails("UNAVAILABLE"):
            call.result()
