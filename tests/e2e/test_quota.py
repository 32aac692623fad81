# SPDX-License-Identifier: Apache-2.0
"""The quota of the CAS is never exceeded, and what was used last is what is there."""

import collections
import concurrent.futures
import itertools
import os
import random
import re
import threading

import grpc
import pytest

from lib.client import fails
from lib.content import Tree, digest_of, noise
from lib.disk_use import Watch, disk_use, look
from lib.server import PATIENCE

MB = 10**6
MIB = 1 << 20
GIB = 1 << 30


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
        assert look(cas) <= QUOTA
    # It is used, too: nothing went before it had to.
    assert disk_use(cas) > QUOTA * 3 // 4
    # The log tells of evictions, but not of each.
    told = [line for line in small.log().splitlines() if " event=evicted " in line]
    assert 1 <= len(told) < 10
    assert 'because="the quota is full"' in told[0]
    assert "level=info " in told[0]


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
    assert disk_use(folder / "storage" / "cas") <= QUOTA // 2
    digests = [digest_of(noise(SIZE, number)) for number in range(70)]
    missing = client.find_missing(digests)
    assert missing == digests[: len(missing)]
    assert len(missing) < 45


# Much more than fits


# Bytes of the blobs that are pushed one by one.
SIZES = {
    5 * MB: (100, 3000, 30_000, 300_000),
    22 * MB: (100, 5000, 50_000, 500_000, 1_500_000),
    GIB: (100, 1 * MIB, 8 * MIB, 24 * MIB),
}
CLIENTS = 8
ROUNDS = 10


class Last:
    """What was pushed last by all of them, a quarter of the quota."""

    def __init__(self, quota):
        self.quota = quota
        self.lock = threading.Lock()
        self.pushes = collections.deque()  # (uri, digests, bytes)
        self.bytes = 0

    def add(self, uri, digests):
        size = sum(digest.size_bytes for digest in digests)
        with self.lock:
            self.pushes.append((uri, digests, size))
            self.bytes += size
            while self.bytes > self.quota // 4:
                self.bytes -= self.pushes.popleft()[2]
        return size

    def check(self, client):
        assert self.pushes
        for uri, digests, _ in self.pushes:
            assert client.fetch_blob(uri).blob_digest == digests[0]
            for digest in digests:
                assert digest_of(client.read(digest)) == digest


class Pushes:
    """What one client pushes."""

    def __init__(self, client, name, quota, last):
        self.client = client
        self.name = name
        self.last = last
        self.sizes = SIZES[quota]
        self.random = random.Random(name)
        self.large = noise(max(self.sizes), name)
        self.numbers = itertools.count()
        # Fetched again and again: it has to stay all the time.
        self.tree = Tree({"a": {"b": b"of %d" % name}, "c": noise(5000, f"c of {name}")})
        client.upload_tree(self.tree)
        client.push_directory(f"urn:used:{name}", self.tree.root)

    def blob(self, size):
        stamp = b"%d:%d:" % (self.name, next(self.numbers))
        return stamp + self.large[: size - len(stamp)]

    def push(self, budget):
        while budget > 0:
            budget -= self.push_one()
            fetched = self.client.fetch_directory(f"urn:used:{self.name}")
            assert fetched.root_directory_digest == self.tree.root

    def push_one(self):
        if self.random.random() < 0.3:
            blobs = [self.blob(self.random.randint(100, 5000)) for _ in range(20)]
            self.client.upload(*blobs)
        else:
            size = self.random.choice(self.sizes)
            blobs = [self.blob(self.random.randint(size // 2 + 50, size))]
            self.client.write(blobs[0], chunk=MIB)
        digests = [digest_of(blob) for blob in blobs]
        uri = f"urn:{self.name}:{next(self.numbers)}"
        self.client.push_blob(uri, digests[0], references_blobs=digests[1:])
        return self.last.add(uri, digests)


@pytest.mark.parametrize(
    "quota",
    [
        pytest.param(5 * MB, id="5MB"),
        pytest.param(22 * MB, id="22MB"),
        pytest.param(GIB, id="1GiB"),
    ],
)
def test_ten_times_the_quota_by_eight_clients(assetd, folder, quota):
    """What is there at last is what was pushed last, and what was fetched meanwhile."""
    storage = folder / "storage"
    server = assetd(instances=[{"name": "", "storage": str(storage), "quota": f"{quota}B"}])
    with (
        Watch(storage / "cas") as watch,
        concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool,
    ):
        last = Last(quota)
        pushes = [Pushes(server.client(), name, quota, last) for name in range(CLIENTS)]
        for _ in range(ROUNDS):
            budget = 10 * quota // ROUNDS // CLIENTS
            for done in [pool.submit(each.push, budget) for each in pushes]:
                done.result(PATIENCE)
            assert disk_use(storage / "cas") <= quota
        last.check(server.client())
    watch.assert_within(quota)
    assert disk_use(storage / "cas") > quota * 3 // 4
    assert "event=evicted" in server.log()


@pytest.mark.parametrize("unit", [MB, MIB], ids=["MB", "MiB"])
def test_the_third_push_evicts_the_first_alone(assetd, folder, unit):
    """15 + 5 fit into 22 megabytes, and 5 + 5."""
    storage = folder / "storage"
    server = assetd(instances=[{"name": "", "storage": str(storage), "quota": f"{22 * unit}B"}])
    client = server.client()
    blobs = [noise(size * unit, size * number) for number, size in enumerate((15, 5, 5), 1)]
    with Watch(storage / "cas") as watch:
        for number, blob in enumerate(blobs):
            client.write(blob, chunk=MIB)
            client.push_blob(f"urn:{number}", digest_of(blob))
            if number == 1:
                assert client.read(digest_of(blobs[0])) == blobs[0]
                assert client.fetch_blob("urn:0").blob_digest == digest_of(blobs[0])
                assert client.fetch_blob("urn:1").blob_digest == digest_of(blobs[1])
                assert client.read(digest_of(blobs[1])) == blobs[1]
    watch.assert_within(22 * unit)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:0")
    assert not client.has(digest_of(blobs[0]))
    for number in (1, 2):
        digest = digest_of(blobs[number])
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest
        assert client.read(digest) == blobs[number]


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
    told = [line for line in server.log().splitlines() if " event=evicted " in line]
    assert 'because="the disk is full"' in told[0]
    assert "level=warning " in told[0]
