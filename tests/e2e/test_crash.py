# SPDX-License-Identifier: Apache-2.0
"""Processes are killed at any moment of a mixed load, and what was acknowledged stays."""

import contextlib
import itertools
import os
import random
import subprocess
import threading
import time

import grpc

from lib.content import Tree, digest_of
from lib.disk_use import Watch
from lib.server import ASSETCTL, PATIENCE, wait_until
from lib.shared_storage import SharedStorage, reading

ROUNDS = 50
QUOTA = 22 * 10**6
WATCHED = 60  # assets
# Bytes that are thrown away, and bytes of that which are read, from one fetch of all that is watched
# to the next. Either is a use, and what was used longest ago goes first. An asset is fetched in each
# of two rounds, be it as the first in one and as the last in the other: both together, twice, and
# all that is watched have to be less than the quota, by far, as segments go as a whole.
THROWN = QUOTA // 8
READ = QUOTA // 13

# Of cas/shared.
SHARED_BOOT_ID = 32

OK = 0
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]

# A killed server is found again at once.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
]


class Unavailable(Exception):
    """The server is dead, or does not write at present."""


def call(function, *arguments, reasons=None, **options):
    """
    The answer; None if it is NOT_FOUND, and REASONS has why. Nothing else may happen than what a
    kill explains.
    """
    try:
        return function(*arguments, **options)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            if reasons is not None:
                reasons.append(error.details())
            return None
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise AssertionError(f"{error.code()}: {error.details()}") from error
        raise Unavailable from error


class Asset:
    """What was pushed once under a URI: an artifact and a tree that it references."""

    def __init__(self, rng, uri):
        self.uri = uri

        def blob(most):
            return rng.randbytes(rng.randint(1, most))

        self.artifact = blob(rng.choice((500, 5000, 100_000)))
        self.tree = Tree({"sub": {"file": blob(3000), "other": blob(30)}, "same": b"in all"})
        self.blobs = {digest_of(data).hash: data for data in (self.artifact, b"in all")}
        self.blobs.update(self.tree.blobs)
        self.digest = digest_of(self.artifact)


class Model:
    """What was acknowledged of what is under watch."""

    def __init__(self):
        self.lock = threading.Lock()
        self.possible = {}  # by URI: what a fetch may find, the last being what it must
        self.acknowledged = {}  # by URI

    def begin(self, asset):
        with self.lock:
            self.possible.setdefault(asset.uri, []).append(asset)

    def acknowledge(self, asset):
        with self.lock:
            self.possible[asset.uri] = [asset]
            self.acknowledged.pop(asset.uri, None)
            self.acknowledged[asset.uri] = asset
            # The oldest is not watched any more.
            while len(self.acknowledged) > WATCHED:
                del self.acknowledged[next(iter(self.acknowledged))]

    def watched(self):
        with self.lock:
            return list(self.acknowledged)

    def expected(self, uri):
        """All that a fetch that begins now may find; nothing: it is not watched any more."""
        with self.lock:
            return list(self.possible[uri]) if uri in self.acknowledged else []


class Load:
    """Threads that do one thing again and again, until they are stopped."""

    def __init__(self, seed, model, servers, budgets):
        self.model = model
        self.budgets = budgets
        self.over = threading.Event()
        self.failures = []
        self.counts = dict.fromkeys(("pushed", "thrown", "watched", "read"), 0)
        self.thrown = []  # some of what was thrown away
        writer = servers[0]
        works = [
            (self.push, [writer.client(options=RECONNECT)]),
            (self.push, [writer.client(options=RECONNECT)]),
            (self.throw, [writer.client(options=RECONNECT)]),
            (self.throw, [writer.client(options=RECONNECT)]),
            (self.watch, [reading(server, options=RECONNECT) for server in servers]),
            (self.read, [reading(server, options=RECONNECT) for server in servers]),
        ]
        self.threads = [
            threading.Thread(
                target=self.run, args=(work, random.Random(f"{seed} {number}"), number, clients)
            )
            for number, (work, clients) in enumerate(works)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads), "a call hangs"
        if self.failures:
            raise self.failures[0]

    def run(self, work, rng, number, clients):
        for turn in itertools.count():
            if self.over.is_set():
                return
            try:
                work(rng, f"{number}:{turn}", rng.choice(clients))
            except Unavailable:
                self.over.wait(0.005)
            except BaseException as failure:
                self.failures.append(failure)
                self.over.set()

    def upload(self, rng, client, blobs):
        """In batches or one by one."""
        if rng.random() < 0.7:
            pairs = [(digest_of(data), data) for data in blobs]
            codes = {answer.status.code for answer in call(client.batch_update, pairs)}
            assert codes <= {OK, UNAVAILABLE}, codes
            if codes != {OK}:
                raise Unavailable
        else:
            for data in blobs:
                assert call(client.write, data, chunk=10_000) == len(data)

    def push(self, rng, turn, client):
        # Now and then over what was pushed before.
        uri = f"urn:{turn.partition(':')[0]}:{rng.randrange(200)}"
        asset = Asset(rng, uri)
        self.upload(rng, client, asset.blobs.values())
        self.model.begin(asset)
        call(client.push_blob, uri, asset.digest, references_directories=[asset.tree.root])
        self.model.acknowledge(asset)
        self.counts["pushed"] += 1

    def throw(self, rng, turn, client):
        if rng.random() < 0.5:
            sizes = [rng.randint(1, 8000) for _ in range(rng.randint(1, 40))]
        else:
            sizes = [rng.choice((30_000, 300_000, 1_500_000))]
        with self.budgets.thrown.take(sum(sizes)) as is_taken:
            if not is_taken:
                self.over.wait(0.002)
                return
            blobs = [rng.randbytes(size) for size in sizes]
            self.upload(rng, client, blobs)
        self.thrown = [*self.thrown[-20:], digest_of(rng.choice(blobs))]
        self.counts["thrown"] += 1

    def watch(self, rng, turn, client):
        """The budgets begin anew after each round through all that is watched."""
        watched = self.model.watched()
        if not watched:
            self.over.wait(0.002)
            return
        for uri in rng.sample(watched, len(watched)):
            if self.over.is_set():
                return
            check(client, self.model, uri)
        self.budgets.renew()
        self.counts["watched"] += 1

    def read(self, rng, turn, client):
        """What may be evicted meanwhile."""
        if not self.thrown:
            self.over.wait(0.002)
            return
        digest = rng.choice(self.thrown)
        with self.budgets.read.take(digest.size_bytes) as is_taken:
            if not is_taken:
                self.over.wait(0.002)
                return
            if rng.random() < 0.5:
                (answer,) = call(client.batch_read, [digest])
                assert answer.status.code in (OK, NOT_FOUND, UNAVAILABLE), answer.status
                data = answer.data if answer.status.code == OK else None
            else:
                data = call(client.read, digest)
        assert data is None or digest_of(data) == digest, "wrong bytes"
        self.counts["read"] += 1


class Budget:
    """Bytes of which some are taken, until all of them are there again."""

    def __init__(self, most):
        self.lock = threading.Lock()
        self.most = self.left = most
        self.busy = 0  # of what was taken, what is still being worked with

    @contextlib.contextmanager
    def take(self, size):
        """For the time of the work with them; whether so many were left."""
        with self.lock:
            is_taken = size <= self.left
            taken = size if is_taken else 0
            self.left -= taken
            self.busy += taken
        try:
            yield is_taken
        finally:
            with self.lock:
                self.busy -= taken

    def renew(self):
        with self.lock:
            self.left = self.most - self.busy


class Budgets:
    def __init__(self):
        self.thrown = Budget(THROWN)
        self.read = Budget(READ)

    def renew(self):
        self.thrown.renew()
        self.read.renew()


def check(client, model, uri):
    """What was acknowledged is found, whole and right."""
    before = model.expected(uri)
    reasons = []
    answer = call(client.fetch_blob, uri, reasons=reasons)
    # What was pushed meanwhile may be found as well.
    possible = {asset.digest.hash: asset for asset in (*before, *model.expected(uri))}
    if not before or not possible:
        return
    assert answer is not None, f"{uri} was acknowledged, and is not found: {reasons}"
    asset = possible.get(answer.blob_digest.hash)
    assert asset is not None or not model.expected(uri), f"{uri} is something else"
    if asset is None:
        return
    digests = [digest_of(data) for data in asset.blobs.values()]
    for read in call(client.batch_read, digests):
        if read.status.code == UNAVAILABLE:
            raise Unavailable
        # Over a push of something else it may have been evicted since.
        if read.status.code == NOT_FOUND and asset not in model.expected(uri):
            return
        assert read.status.code == OK, f"of {uri}: {read.status}"
        assert read.data == asset.blobs[read.digest.hash], "wrong bytes"


def is_checked(client, model, uri):
    try:
        check(client, model, uri)
        return True
    except Unavailable:
        return False


def check_all(servers, model):
    """Nothing else goes on: all that was acknowledged is there, for each of them."""
    for server in servers:
        client = reading(server)
        for uri in model.watched():
            # What the store holds may still be being found out.
            wait_until(lambda: is_checked(client, model, uri), f"{uri} stays unavailable")


def distrust(storage):
    """As if the processes had ended with the machine: what they shared is of another boot."""
    with open(storage / "cas" / "shared", "r+b") as shared:
        shared.seek(SHARED_BOOT_ID)
        shared.write(b"00000000-0000-0000-0000-000000000000")


def assert_sound(storage):
    """All that the storage holds is what it should be, servers running or not."""
    done = subprocess.run(
        [ASSETCTL, "check", str(storage)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_round(rng, seed, servers, model, budgets, counts, distrusted=None):
    """DISTRUSTED: the storage directory, if it is to be as after a power cut."""
    victims = rng.choice(
        [servers[:1], servers[:1], servers[1:2], servers[2:], servers[:2], servers]
    )
    if distrusted is not None:
        victims = servers
    victims = rng.sample(victims, len(victims))
    with Load(seed, model, servers, budgets) as load:
        load.over.wait(rng.uniform(0.05, 0.5))
        for server in victims:
            server.kill()
            load.over.wait(rng.choice((0, 0, 0.02)))
        if distrusted is not None:
            distrust(distrusted)
        for server in rng.sample(victims, len(victims)):
            server.start(wait=rng.random() < 0.5)
        load.over.wait(rng.uniform(0, 0.2))
    for server in servers:
        server.wait_ready()
    check_all(servers, model)
    for name, count in load.counts.items():
        counts[name] = counts.get(name, 0) + count
    for server in servers:
        server.close_clients()


def test_kill_9_at_any_moment(assetd, folder):
    """
    Of the writing process, of those that read, or of all, in fifty rounds; in some the tables are
    made anew as well, as they are after a power cut.
    """
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(10**9))
    print(f"CRASH_SEED={seed} makes the same choices again")
    rng = random.Random(seed)
    shared = SharedStorage(assetd, folder, quota=f"{QUOTA}B")
    servers = [shared.writer(), shared.reader(), shared.reader()]
    model, budgets, counts = Model(), Budgets(), {}
    begun = time.monotonic()
    with Watch(shared.storage / "cas") as watch:
        for number in range(ROUNDS):
            print(f"round {number}, {time.monotonic() - begun:.1f} s: {counts}")
            distrusted = shared.storage if number % 10 == 9 else None
            run_round(rng, f"{seed} {number}", servers, model, budgets, counts, distrusted)
            assert_sound(shared.storage)
    watch.assert_within(QUOTA)
    assert all(counts.values()), counts
    assert len(model.watched()) == WATCHED
    for server in rng.sample(servers, len(servers)):
        server.stop()
    assert_sound(shared.storage)
    assert any("event=evicted" in server.log() for server in servers)
    assert any("event=cas-rebuilt" in server.log() for server in servers)
