# SPDX-License-Identifier: Apache-2.0
"""Fetches and pushes by many clients while a CAS comes and goes, and what each may be answered."""

import collections
import itertools
import random
import re
import threading
import time

import grpc

from lib.content import Tree, digest_of
from lib.server import PATIENCE, wait_until

# Instances that are paired with the CAS.
INSTANCES = {
    "strict": {"trust": "0s"},
    "trusting": {"trust": "1h"},
    "serving": {"trust": "0s", "on_unavailable": "serve"},
}
# What each is asked, by how many clients, and is to answer while the CAS is up, and while it is
# not; the latter may come at any time, as the CAS may be slow for a moment.
TABLE = {
    ("fetch whole", "strict"): (2, "OK", "UNAVAILABLE"),
    ("fetch robbed", "strict"): (1, "NOT_FOUND", "UNAVAILABLE"),
    ("fetch unknown", "strict"): (1, "NOT_FOUND", "NOT_FOUND"),
    ("fetch remembered", "trusting"): (1, "OK", "OK"),
    ("fetch whole", "serving"): (1, "OK", "OK"),
    ("fetch robbed", "serving"): (1, "NOT_FOUND", "OK"),
    ("push whole", "strict"): (1, "OK", "UNAVAILABLE"),
    ("push whole", "serving"): (1, "OK", "UNAVAILABLE"),
    ("push partial", "trusting"): (3, "FAILED_PRECONDITION", "UNAVAILABLE"),
}

# And this while the CAS is not known to be gone: once it is back, what was found whole before is
# asked about anew, and so is answered as all the rest.
ALSO = {("fetch remembered", "trusting"): {"UNAVAILABLE"}}

# Answers of each kind after which a phase has shown what it has to.
ENOUGH = 10


class Asset:
    """A blob that references a tree; no other has any of it, so nobody else uploads it."""

    def __init__(self, name):
        self.uri = f"urn:of:{name}"
        self.file = b"the file of %s" % name.encode()
        self.blob = b"the blob of %s" % name.encode()
        self.tree = Tree({"sub": {"file": self.file}})
        self.blobs = [self.blob, *self.tree.blobs.values()]
        self.digests = [digest_of(blob) for blob in self.blobs]

    def push(self, client):
        client.push_blob(self.uri, self.digests[0], references_directories=[self.tree.root])

    def fetch(self, client):
        assert client.fetch_blob(self.uri).blob_digest == self.digests[0]


def outcome(call, client):
    """The status that it ends with."""
    try:
        call(client)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


class Phase:
    """A time in which the CAS answers, or does not, or both: IS_UP is True, False or None."""

    def __init__(self, is_up):
        self.is_up = is_up
        self.counts = collections.Counter()  # of (row of the table, status)
        self.trusted = set()  # URIs that "fetch remembered" was answered


class Load:
    """
    Clients of SERVER, which has an instance for each of INSTANCES paired with PEER. In the block of
    `with` they are at work; NEVER is what they were answered, and must not have been.
    """

    def __init__(self, server, peer):
        self.server = server
        self.peer = peer
        self.never = []
        self.phase = Phase(None)
        self.is_over = False
        self.names = itertools.count()
        self.lock = threading.Lock()
        self.clients = {name: server.client(instance=name) for name in INSTANCES}
        self.robbed = [self._new_asset() for _ in range(3)]
        self.remembered = [self._new_asset() for _ in range(10)]
        self.turns = itertools.cycle(self.remembered)
        self.built_again = set()  # URIs of those that a CAS had lost
        self.acknowledged = {name: [] for name in INSTANCES}

    def _new_asset(self):
        return Asset(f"asset-{next(self.names)}")

    # --- before and after ------------------------------------------------------------------------

    def prepare(self):
        """The assets that are there from the start; the CAS loses a part of some."""
        cas = self.peer.client()
        for asset in self.robbed:
            cas.upload(*asset.blobs)
            for name in ("strict", "serving"):
                asset.push(self.clients[name])
        self.peer.lose(*(digest_of(asset.file) for asset in self.robbed))
        cas = self.peer.client()
        for asset in self.remembered:
            cas.upload(*asset.blobs)
            for name, client in self.clients.items():
                asset.push(client)
                asset.fetch(client)
                self.acknowledged[name].append(asset)

    def check(self):
        """Afterwards: all that was acknowledged is there, and what was robbed can be healed."""
        cas = self.peer.client()
        for name, assets in self.acknowledged.items():
            for asset in assets:
                missing = cas.find_missing(asset.digests)
                assert not missing or not self.peer.survives_kill, asset.uri
                if not missing:
                    asset.fetch(self.clients[name])
        for asset in self.robbed:
            cas.upload(*asset.blobs)
            for name in ("strict", "serving"):
                asset.push(self.clients[name])
                asset.fetch(self.clients[name])
        for name in INSTANCES:
            events = self._events(name)
            assert events == ["lost", "back"] * (len(events) // 2), f"{name}: {events}"

    # --- the phases ------------------------------------------------------------------------------

    def changes(self):
        """From now on the CAS may answer or not."""
        self.phase = Phase(None)

    def show(self, is_up):
        """The CAS answers, or does not; until every client has seen what that means for it."""
        wanted = [(row, up if is_up else down) for row, (_, up, down) in TABLE.items()]
        self._wait(is_up, lambda phase: all(phase.counts[each] >= ENOUGH for each in wanted))
        if is_up:
            # The CAS has answered: from here on each is asked about, and trusted until it is lost.
            self._wait(is_up, lambda phase: len(phase.trusted) == len(self.remembered))

    def _wait(self, is_up, is_shown):
        self.phase = phase = Phase(is_up)

        def is_over():
            assert not self.never, self.never[0]
            return is_shown(phase)

        wait_until(is_over, lambda: f"not yet: {phase.counts}")

    def lost(self):
        """The instances of which the log said last that they have lost the CAS."""
        return {name for name in INSTANCES if self._events(name)[-1:] == ["lost"]}

    def _events(self, instance):
        return re.findall(rf"event=cas-(lost|back) instance={instance} ", self.server.log())

    # --- the clients -----------------------------------------------------------------------------

    def __enter__(self):
        self.threads = [
            threading.Thread(target=self._run, args=row)
            for row, (count, *_) in TABLE.items()
            for _ in range(count)
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, what, instance):
        client = self.server.client(instance=instance)
        cas = self.peer.client(timeout=2)
        make = getattr(self, "_" + what.replace(" ", "_"))
        try:
            while not self.is_over:
                phase = self.phase
                status, asset = make(client, cas, instance)
                self._note(phase, (what, instance), status, asset, cas)
                time.sleep(0.002)
        except Exception as error:  # of a thread, which nobody else would hear of
            self.never.append(f"{what}, {instance}: {error!r}")

    def _note(self, phase, row, status, asset, cas):
        _, up, down = TABLE[row]
        is_whole_through = phase is self.phase
        if is_whole_through:
            with self.lock:
                phase.counts[row, status] += 1
                if row[0] == "fetch remembered" and status == "OK":
                    phase.trusted.add(asset.uri)
        is_down = is_whole_through and phase.is_up is False
        may = {down} if is_down else {up, down, *ALSO.get(row, ())}
        if status not in may and not self._may_be_lost(row, asset, cas):
            self.never.append(f"{row}: {status} instead of {may}, {asset.uri}")

    def _may_be_lost(self, row, asset, cas):
        """Whether the CAS may lack what it had, and does, or did, as far as it can be asked."""
        if self.peer.survives_kill or not row[0].endswith(("whole", "remembered")):
            return False
        try:
            return asset.uri in self.built_again or bool(cas.find_missing(asset.digests))
        except grpc.RpcError:
            return True

    def _fetch_whole(self, client, _cas, instance):
        asset = random.choice(self.acknowledged[instance][-20:])
        return outcome(asset.fetch, client), asset

    def _fetch_robbed(self, client, _cas, _instance):
        asset = random.choice(self.robbed)
        return outcome(asset.fetch, client), asset

    def _fetch_unknown(self, client, _cas, _instance):
        asset = self._new_asset()
        return outcome(asset.fetch, client), asset

    def _fetch_remembered(self, client, cas, _instance):
        """What a CAS has lost when it was killed is built again."""
        asset = next(self.turns)
        status = outcome(asset.fetch, client)
        if status == "NOT_FOUND" and not self.peer.survives_kill:
            self.built_again.add(asset.uri)
            self._is_uploaded(cas, asset.blobs)
            again = outcome(asset.push, client)
            status = outcome(asset.fetch, client) if again == "OK" else again
        return status, asset

    def _push_whole(self, client, cas, instance):
        """Of a new asset or, if that cannot be uploaded, once more of one that is there."""
        asset = self._new_asset()
        is_new = self._is_uploaded(cas, asset.blobs)
        if not is_new:
            asset = random.choice(self.acknowledged[instance][-20:])
        status = outcome(asset.push, client)
        if is_new and status == "OK":
            self.acknowledged[instance].append(asset)
        return status, asset

    def _push_partial(self, client, cas, _instance):
        asset = self._new_asset()
        self._is_uploaded(cas, [blob for blob in asset.blobs if blob != asset.file])
        return outcome(asset.push, client), asset

    def _is_uploaded(self, cas, blobs):
        if not self.phase.is_up:
            return False
        try:
            cas.upload(*blobs)
        except grpc.RpcError:
            return False
        return True
