# SPDX-License-Identifier: Apache-2.0
"""Bits that flip on the disk: what they hit is never served, and what is beside it stays."""

import re

import grpc
import pytest

from lib.api import reapi
from lib.client import fails
from lib.content import digest_of, name_of, noise
from lib.segments import damage, find_record, flip, wait_evacuated

MIB = 1 << 20
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


@pytest.fixture
def server(server):
    server.expects_errors = True
    return server


def broken_lines(server, data):
    """Who carries a segment's blobs elsewhere knows half of their hashes."""
    digest = digest_of(data)
    half = f"hash-begins={digest.hash[:32]} size={digest.size_bytes}"
    line = f"level=error event=blob-broken .*(digest={name_of(digest)}|{half}) "
    return re.findall(line, server.log())


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_damaged_content_is_never_sent(server, is_running):
    """The blob is gone, its asset as well, and the next push heals; its neighbours are moved."""
    client = server.client()
    blobs = [noise(20_000, f"damaged {number}") for number in range(40)]
    client.upload(*blobs)
    for number, blob in enumerate(blobs):
        client.push_blob(f"urn:{number}", digest_of(blob))
    if not is_running:
        server.stop()
    broken = blobs.pop(17)
    digest = digest_of(broken)
    path = damage(server.storage, broken, at=12_345)
    assert find_record(server.storage, blobs[3])[0] == path
    if not is_running:
        server.start()
        client = server.client()

    with fails("NOT_FOUND"):
        client.read(digest)
    (answer,) = client.batch_read([digest])
    assert answer.status.code == NOT_FOUND
    assert not client.has(digest)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:17")
    assert len(broken_lines(server, broken)) == 1

    wait_evacuated(path)
    assert [answer.data for answer in client.batch_read(map(digest_of, blobs))] == blobs
    for number in (*range(17), *range(18, 40)):
        client.fetch_blob(f"urn:{number}")
    client.upload(broken)
    client.push_blob("urn:17", digest)
    assert client.fetch_blob("urn:17").blob_digest == digest
    assert client.read(digest) == broken
    server.restart()
    client = server.client()
    blobs.append(broken)
    assert [answer.data for answer in client.batch_read(map(digest_of, blobs))] == blobs
    assert len(broken_lines(server, broken)) == 1


def test_a_batch_finds_what_is_damaged_in_it(server):
    client = server.client()
    blobs = [noise(5000, f"batch {number}") for number in range(100)]
    client.upload(*blobs)
    for number in (0, 50, 99):
        damage(server.storage, blobs[number], at=4999)
    answers = client.batch_read(map(digest_of, blobs))
    for number, (answer, blob) in enumerate(zip(answers, blobs)):
        if number in (0, 50, 99):
            assert (answer.status.code, answer.data) == (NOT_FOUND, b"")
            assert len(broken_lines(server, blob)) == 1
        else:
            assert (answer.status.code, answer.data) == (0, blob)


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_a_read_that_comes_upon_damage_ends(server, is_running):
    """What was sent before it is right."""
    client = server.client()
    # Its record shares the segment with others.
    before, after = noise(5000, "before"), noise(5000, "after")
    client.upload(before)
    data = noise(9 * MIB, "damaged in the middle")
    digest = digest_of(data)
    client.write(data)
    client.upload(after)
    if not is_running:
        server.stop()
    path = damage(server.storage, data, at=7 * MIB + 70_000)
    if not is_running:
        server.start()
        client = server.client()

    received = []
    with fails("NOT_FOUND"):
        for answer in client.read_stream(client.read_name(digest)):
            received.append(answer.data)
    received = b"".join(received)
    assert 0 < len(received) <= 7 * MIB + 65536
    assert data.startswith(received)
    assert len(broken_lines(server, data)) == 1
    assert not client.has(digest)
    wait_evacuated(path)
    assert client.read(digest_of(before)) == before
    assert client.read(digest_of(after)) == after
    client.write(data)
    assert client.read(digest) == data


def test_damage_that_comes_while_a_blob_is_read(server):
    """The client does not take what is under way, so the end is read when it is damaged."""
    client = server.client()
    data = noise(MIB, "taken slowly") * 32
    client.write(data, chunk=2 * MIB)
    stream = client.read_stream(client.read_name(digest_of(data)))
    received = [next(stream).data]
    path = damage(server.storage, data, at=len(data) - 1)
    with fails("NOT_FOUND"):
        received.extend(answer.data for answer in stream)
    received = b"".join(received)
    assert len(received) >= 16 * MIB and data.startswith(received)
    # Nothing else was in it.
    wait_evacuated(path)


@pytest.mark.parametrize("offset", [0, 9, 30], ids=["magic", "size", "hash"])
def test_a_damaged_header_of_a_record(server, offset):
    client = server.client()
    blobs = [noise(3000, f"header {number}") for number in range(10)]
    client.upload(*blobs)
    path, at = find_record(server.storage, blobs[4])
    flip(path, at + offset)
    with fails("NOT_FOUND"):
        client.read(digest_of(blobs[4]))
    wait_evacuated(path)
    missing = client.find_missing(map(digest_of, blobs))
    assert missing == [digest_of(blobs[4])]
    del blobs[4]
    assert [answer.data for answer in client.batch_read(map(digest_of, blobs))] == blobs


def test_a_file_that_is_cut_short(server):
    """Its blobs are gone one by one, as they are asked for."""
    client = server.client()
    blobs = [noise(30_000, f"cut {number}") for number in range(20)]
    client.upload(*blobs)
    path, at = find_record(server.storage, blobs[10])
    with open(path, "r+b") as file:
        file.truncate(at + 10_000)
    there = [answer.data for answer in client.batch_read(map(digest_of, blobs))]
    assert there == [*blobs[:10], *[b""] * 10]
    wait_evacuated(path)
    assert client.find_missing(map(digest_of, blobs)) == [digest_of(b) for b in blobs[10:]]
    client.upload(*blobs)
    assert [answer.data for answer in client.batch_read(map(digest_of, blobs))] == blobs


def test_a_reader_finds_damage_for_all(server, assetd):
    """It cannot write, and says it in the files that they share."""
    client = server.client()
    blobs = [noise(20_000, f"damaged {number}") for number in range(10)]
    client.upload(*blobs)
    client.push_blob("urn:a", digest_of(blobs[0]))
    reader = assetd(
        listeners=[{"address": f"unix:{server.folder}/reader.sock", "access": "read"}],
        instances=server.config["instances"],
    )
    reader.expects_errors = True
    reading = reader.client()
    assert reading.fetch_blob("urn:a").blob_digest == digest_of(blobs[0])
    damage(server.storage, blobs[0], at=19_999)
    with fails("NOT_FOUND"):
        reading.read(digest_of(blobs[0]))
    assert len(broken_lines(reader, blobs[0])) == 1
    assert broken_lines(server, blobs[0]) == []
    for each in (client, reading):
        with fails("NOT_FOUND"):
            each.fetch_blob("urn:a")
        assert each.find_missing(map(digest_of, blobs)) == [digest_of(blobs[0])]
    client.upload(blobs[0])
    assert reading.fetch_blob("urn:a").blob_digest == digest_of(blobs[0])
    assert reading.read(digest_of(blobs[0])) == blobs[0]


def test_a_made_up_digest_does_no_harm(client):
    """One that is nearly a blob's is not there, and the blob stays."""
    data = noise(5000, "nearly")
    digest = client.upload(data)
    last = "0" if digest.hash[-1] != "0" else "1"
    near = reapi.Digest(hash=digest.hash[:-1] + last, size_bytes=digest.size_bytes)
    for _ in range(3):
        with fails("NOT_FOUND"):
            client.read(near)
        (answer,) = client.batch_read([near])
        assert (answer.status.code, answer.data) == (NOT_FOUND, b"")
        answers = client.batch_read([digest, near, digest])
        assert [answer.data for answer in answers] == [data, b"", data]
    with fails("NOT_FOUND"):
        client.get_tree(near)
    assert client.read(digest) == data


def test_each_push_of_an_asset_is_checked_by_itself(assetd, folder):
    """What one was found to be says nothing of the next, whose content is gone elsewhere."""
    storage = folder / "small"
    server = assetd(instances=[{"name": "", "storage": str(storage), "quota": "100MB"}])
    server.expects_errors = True
    client = server.client()
    artifact = client.upload(b"artifact")
    # Each has a segment to itself.
    blobs = [noise(MIB, f"referenced {number}") for number in range(2)]
    for blob in blobs:
        client.write(blob)
        client.push_blob("urn:a", artifact, references_blobs=[digest_of(blob)])
        for _ in range(2):
            assert client.fetch_blob("urn:a").blob_digest == artifact
    damage(storage, blobs[1])
    with fails("NOT_FOUND"):
        client.read(digest_of(blobs[1]))
    with fails("NOT_FOUND", "no longer whole"):
        client.fetch_blob("urn:a")
    client.push_blob("urn:a", artifact, references_blobs=[digest_of(blobs[0])])
    assert client.fetch_blob("urn:a").blob_digest == artifact
