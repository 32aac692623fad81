# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged stays, whatever happens; what was not finished leaves no trace."""

import concurrent.futures
import itertools
import os
import re
import signal
import time

import grpc
import pytest

from lib.client import Client, fails
from lib.content import Tree, digest_of, noise
from lib.server import PATIENCE, bytes_below, files_below
from lib.uploads import held_write

MIB = 1 << 20


def push_until_it_breaks(client, numbers, acknowledged):
    """Pushes assets with a tree each; notes those that were answered."""
    try:
        for number in numbers:
            tree = Tree({"sub": {"file": b"file %d" % number}, "same": b"in all of them"})
            client.upload_tree(tree)
            artifact = client.upload(b"artifact %d" % number)
            client.push_blob(
                [f"urn:strong:{number}", f"urn:weak:{number}"],
                artifact,
                references_directories=[tree.root],
            )
            acknowledged.append(number)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error


def check_assets(client, numbers):
    for number in numbers:
        artifact = digest_of(b"artifact %d" % number)
        assert client.fetch_blob(f"urn:weak:{number}").blob_digest == artifact
        assert client.read(artifact) == b"artifact %d" % number
        assert client.read(digest_of(b"file %d" % number)) == b"file %d" % number


def test_every_acknowledged_push_survives_kill_9(server):
    """Twenty rounds, in each of which it is killed in the middle of pushes of four clients."""
    counter = itertools.count()
    everything = []
    for round_ in range(20):
        acknowledged = []
        clients = [server.client() for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pushes = [
                pool.submit(push_until_it_breaks, client, counter, acknowledged)
                for client in clients
            ]
            while len(acknowledged) < 3 + round_:
                assert not all(push.done() for push in pushes), server.log()
                time.sleep(0.001)
            server.kill()
            for push in pushes:
                push.result(PATIENCE)
        server.close_clients()
        server.start()
        check_assets(server.client(), acknowledged)
        everything.extend(acknowledged)
    check_assets(server.client(), everything)
    assert files_below(server.storage / "cas" / "uploads") == []


def test_a_restart_keeps_everything(server):
    client = server.client()
    data = noise(3 * MIB, "kept")
    client.write(data)
    tree = Tree({"a": {"b": noise(100_000, "also kept")}})
    client.upload_tree(tree)
    client.push_directory("urn:a", tree.root, {"q": "v"})
    client.push_blob("urn:a", digest_of(data), references_directories=[tree.root])
    for end in (server.stop, server.kill, server.stop):
        end()
        server.start()
        client = server.client()
        assert client.fetch_directory("urn:a", {"q": "v"}).root_directory_digest == tree.root
        assert client.fetch_blob("urn:a").blob_digest == digest_of(data)
        assert client.read(digest_of(data)) == data
        everything = [digest_of(blob) for blob in tree.blobs.values()]
        assert client.find_missing(everything) == []


def big_blob(seed):
    """256 MiB, quickly made."""
    return noise(MIB, seed) * 256


def test_sigterm_during_a_large_upload_and_download(assetd):
    """Neither ends by itself; after the grace both are cut off."""
    server = assetd(shutdown_grace="1s")
    client = server.client()
    there, coming = big_blob("there"), big_blob("coming")
    client.write(there, chunk=2 * MIB)

    download = client.read_stream(client.read_name(digest_of(there)), timeout=None)
    first = next(download).data
    assert first == there[: len(first)]

    with held_write(client, coming, at=64, chunk=2 * MIB, timeout=None) as upload:
        server.signal()
        assert server.wait() == 0
    for call in (upload.result, lambda: list(download)):
        with pytest.raises(grpc.RpcError) as info:
            call()
        assert info.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    server.close_clients()
    server.start()
    client = server.client()
    assert client.find_missing([digest_of(coming), digest_of(there)]) == [digest_of(coming)]
    with fails("NOT_FOUND"):
        client.read(digest_of(coming))
    with fails("FAILED_PRECONDITION"):
        client.push_blob("urn:a", digest_of(coming))
    assert files_below(server.storage / "cas" / "uploads") == []
    assert client.read(digest_of(there)) == there
    assert client.write(coming, chunk=2 * MIB) == len(coming)


def test_sigterm_lets_calls_in_flight_end(assetd):
    """Within the grace an upload is taken to its end, and answered."""
    server = assetd(shutdown_grace="60s")
    client = server.client()
    data = noise(8 * MIB, "in flight")
    with held_write(client, data, at=4, chunk=MIB) as upload:
        server.signal()
        # New calls are refused before the old ones have ended.
        while True:
            try:
                with Client(server.push) as late:
                    late.health()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                break
    assert upload.result(PATIENCE).committed_size == len(data)
    assert server.wait() == 0
    server.close_clients()
    server.start()
    assert server.client().read(digest_of(data)) == data


def test_calls_that_come_while_it_stops_are_unavailable(assetd):
    """And answered at once, by old connections and new ones: a client tries again elsewhere."""
    server = assetd(shutdown_grace="60s")
    client = server.client()
    data = noise(MIB, "in flight")

    def hammer(_):
        with Client(server.push) as other:
            while True:
                try:
                    other.fetch_blob("urn:none")
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        return error.code()

    with held_write(client, data, at=1, chunk=MIB // 2) as upload:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            codes = [pool.submit(hammer, number) for number in range(6)]
            time.sleep(0.1)
            server.signal()
            assert {code.result(PATIENCE) for code in codes} == {grpc.StatusCode.UNAVAILABLE}
    assert upload.result(PATIENCE).committed_size == len(data)
    assert server.wait() == 0


def test_sigint_ends_it_as_well(server):
    server.client().upload(b"x")
    server.close_clients()
    server.signal(signal.SIGINT)
    assert server.wait() == 0


# The quota


QUOTA = 8 * MIB
SIZE = 100_000


@pytest.fixture
def small(assetd, folder):
    return assetd(instances=[{"name": "", "storage": str(folder / "storage"), "quota": "8MiB"}])


def test_the_quota_is_never_exceeded(small, folder):
    """All that is on the disk counts, looked at between uploads of all sizes."""
    client = small.client()
    cas = folder / "storage" / "cas"
    for number in range(150):
        size = (1000, 30_000, 100_000, 700_000)[number % 4]
        client.write(noise(size, number), chunk=50_000)
        assert bytes_below(cas) <= QUOTA
    # It is used, too: nothing went before it had to.
    assert bytes_below(cas) > QUOTA * 3 // 4
    # The log tells of evictions, but not of each.
    told = [line for line in small.log().splitlines() if " event=evicted " in line]
    assert 1 <= len(told) < 10
    assert 'because="the quota is full"' in told[0]


def test_nothing_is_evicted_while_there_is_room(small):
    client = small.client()
    blobs = [noise(SIZE, number) for number in range(60)]
    for blob in blobs:
        client.upload(blob)
    assert client.find_missing([digest_of(blob) for blob in blobs]) == []


def test_the_least_recently_used_goes_first(small):
    """Of a hundred blobs, ten of them used again and again in different ways."""
    client = small.client()
    blobs = [noise(SIZE, number) for number in range(200)]
    digests = [digest_of(blob) for blob in blobs]
    used = range(0, 30, 6)
    uses = [
        lambda digest: client.find_missing([digest]),
        client.read,
        lambda digest: client.batch_read([digest]),
        lambda digest: client.upload(blobs[digests.index(digest)]),
        lambda digest: client.write(blobs[digests.index(digest)]),
    ]
    for number, blob in enumerate(blobs):
        client.upload(blob)
        if number >= 30:
            for position, use in zip(used, uses):
                use(digests[position])
    missing = {digest.hash for digest in client.find_missing(digests)}
    there = [number for number, digest in enumerate(digests) if digest.hash not in missing]
    # Those in use, and of the others the last, without a gap.
    assert there[: len(used)] == list(used)
    rest = there[len(used) :]
    assert rest == list(range(rest[0], 200))
    assert len(there) * SIZE > QUOTA * 3 // 4


def test_the_order_of_use_survives_a_restart(small):
    client = small.client()
    blobs = [noise(SIZE, number) for number in range(70)]
    digests = [digest_of(blob) for blob in blobs]
    for blob in blobs:
        client.upload(blob)
    assert client.find_missing(digests[:10]) == []
    small.restart()
    client = small.client()
    for number in range(70, 100):
        client.upload(noise(SIZE, number))
    missing = client.find_missing(digests)
    assert missing
    assert missing == digests[10 : 10 + len(missing)]


def test_a_blob_larger_than_the_quota_evicts_nothing(small):
    client = small.client()
    blobs = [noise(SIZE, number) for number in range(60)]
    for blob in blobs:
        client.upload(blob)
    large = noise(QUOTA + 1)
    with fails("RESOURCE_EXHAUSTED"):
        client.write(large)
    with fails("RESOURCE_EXHAUSTED"):
        client.write(large, chunk=1000)
    assert client.find_missing([digest_of(blob) for blob in blobs]) == []
    assert not client.has(digest_of(large))


def test_refusals_are_logged(assetd, folder):
    """A client may not say what it heard: BuildStream goes on to push, and hears something else."""
    server = assetd(instances=[{"name": "", "storage": str(folder / "storage"), "quota": "1MiB"}])
    client = server.client(metadata=[("x-request-id", "request-7")])
    large = noise(2 * MIB)
    client.batch_update([(digest_of(large), large)])
    with fails("RESOURCE_EXHAUSTED"):
        client.write(large)
    with fails("FAILED_PRECONDITION"):
        client.push_blob("urn:a", digest_of(large))
    lines = [line for line in server.log().splitlines() if "level=warning" in line]
    events = ["upload-refused", "call-failed", "push-refused"]
    assert [re.search("event=(\\S+)", line)[1] for line in lines] == events
    assert all("id=request-7" in line for line in lines)
    assert "quota" in lines[0] and "quota" in lines[1]
    assert "uri=urn:a" in lines[2] and digest_of(large).hash in lines[2]


def test_a_batch_with_one_that_does_not_fit(assetd, folder):
    """The others of the batch are taken."""
    server = assetd(instances=[{"name": "", "storage": str(folder / "storage"), "quota": "1MiB"}])
    client = server.client()
    small, large = b"small", noise(2 * MIB)
    answers = client.batch_update([(digest_of(large), large), (digest_of(small), small)])
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert [answer.status.code for answer in answers] == [exhausted, 0]
    assert client.read(digest_of(small)) == small


def test_a_smaller_quota_after_a_restart(small, folder):
    client = small.client()
    for number in range(70):
        client.upload(noise(SIZE, number))
    small.stop()
    small.configure(
        instances=[{"name": "", "storage": str(folder / "storage"), "quota": "4MiB"}]
    )
    small.start()
    client = small.client()
    client.upload(b"one more")
    assert bytes_below(folder / "storage" / "cas") <= QUOTA // 2
    digests = [digest_of(noise(SIZE, number)) for number in range(70)]
    missing = client.find_missing(digests)
    assert missing == digests[: len(missing)]
    assert len(missing) < 45


# A full disk


def on_a_small_disk(path, size):
    """The prefix of a server for which PATH is a file system of its own, of SIZE bytes."""
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    rights = "-m" if os.getuid() == 0 else "-rm"
    return ["unshare", rights, "sh", "-c", mount, str(path)]


def test_a_full_disk_is_an_error_to_the_one_upload(assetd, folder):
    """The quota allows more than there is; what is acknowledged is right all the same."""
    storage = folder / "storage"
    storage.mkdir()
    server = assetd(
        prefix=on_a_small_disk(storage, 8 * MIB),
        instances=[{"name": "", "storage": str(storage), "quota": "1GiB"}],
    )
    server.expects_errors = True
    client = server.client()
    acknowledged = []
    for number in range(60):
        data = noise(300_000 + 1000 * number, number)
        try:
            client.write(data)
            client.push_blob(f"urn:{number}", digest_of(data))
            acknowledged.append(number)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert len(acknowledged) > 10
    found = []
    for number in acknowledged:
        data = noise(300_000 + 1000 * number, number)
        try:
            digest = client.fetch_blob(f"urn:{number}").blob_digest
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            continue
        assert digest == digest_of(data)
        assert client.read(digest) == data
        found.append(number)
    assert acknowledged[-1] in found
    assert client.health() == 1
    # What an operator needs at 3 a.m.: it was foreseen, and it is named when it happens.
    assert f"event=quota-exceeds-disk path={storage}/cas" in server.log()
    assert 'because="the disk is full"' in server.log()
