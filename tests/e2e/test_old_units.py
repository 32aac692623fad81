# SPDX-License-Identifier: Apache-2.0
"""The two units of bst-artifact-server on one folder, by its command line: to pull, and to push."""

import concurrent.futures
import itertools
import os
import pathlib
import pwd
import random
import re
import shutil
import threading

import grpc
import pytest

from lib.client import Client, fails, is_answered
from lib.content import Tree, digest_of, noise
from lib.disk_use import Watch, disk_use, look
from lib.peers import Casd
from lib.ports import free_port
from lib.server import PATIENCE, StartError, wait_until

MB = 10**6

OK = 0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]

# A killed server is found again at once.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
]


class Units:
    """Servers by the old command line, of which those that push let clients write."""

    def __init__(self, assetd, folder):
        self.assetd = assetd
        self.repo = folder / "artifacts"

    def _unit(self, *options, prefix=(), start=True):
        port = free_port()
        arguments = ["--port", str(port), *options, str(self.repo)]
        return self.assetd(arguments, f"127.0.0.1:{port}", prefix=prefix, start=start)

    def pull(self, *options, **others):
        return self._unit(*options, **others)

    def push(self, *options, **others):
        return self._unit("--enable-push", *options, **others)


@pytest.fixture
def units(assetd, folder):
    return Units(assetd, folder)


def content_of(number):
    tree = Tree({"sub": {"file": noise(500, f"file {number}")}, "same": b"in all of them"})
    return tree, noise(100_000 if number % 10 == 0 else 20_000, f"artifact {number}")


def large(begin, end):
    """Numbers of artifacts of 100 kB each."""
    return range(10 * begin, 10 * end, 10)


def push_known(client, number):
    """What was uploaded."""
    tree, artifact = content_of(number)
    client.push_blob(f"urn:{number}", digest_of(artifact), references_directories=[tree.root])


def push(client, number):
    tree, artifact = content_of(number)
    client.upload(artifact, *tree.blobs.values())
    push_known(client, number)


def is_whole(client, number):
    """Whether it is found; then it must be whole."""
    tree, artifact = content_of(number)
    try:
        found = client.fetch_blob(f"urn:{number}").blob_digest
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return False
        raise
    assert found == digest_of(artifact)
    blobs = [artifact, *tree.blobs.values()]
    answers = client.batch_read([digest_of(blob) for blob in blobs])
    assert [answer.data for answer in answers] == blobs, f"{number} was answered, and is not whole"
    return True


def size_of(number):
    return len(content_of(number)[1])


def check_whole(client, *numbers):
    for number in numbers:
        assert is_whole(client, number), f"{number} is not found"


def warnings(server):
    """What it said, but for that anyone can write without TLS."""
    lines = server.log().splitlines()
    return [line for line in lines if "--enable-push: warning" not in line]


# Started in any order


@pytest.fixture(scope="module")
def casd_folder(module_folder):
    """The folder of a buildbox-casd that has ended, with blobs and assets in it."""
    casd = Casd(module_folder / "casd")
    try:
        client = casd.start().client()
        for number in range(5):
            push(client, number)
        casd.end()
    finally:
        casd.finish()
    return casd.storage


def listing(folder):
    """All that is below FOLDER: names, sizes, modes, times of change."""
    paths = [pathlib.Path(folder), *pathlib.Path(folder).rglob("*")]
    stats = {str(path.relative_to(folder)): path.lstat() for path in paths}
    return {name: (st.st_mode, st.st_size, st.st_mtime_ns) for name, st in stats.items()}


def make_nothing(units, casd_folder):
    pass


def make_empty(units, casd_folder):
    units.repo.mkdir()


def make_old(units, casd_folder):
    shutil.copytree(casd_folder, units.repo, symlinks=True)


ORDERS = ("pull first", "push first", "at once")


@pytest.mark.parametrize("make", [make_nothing, make_empty, make_old])
@pytest.mark.parametrize("order", ORDERS)
def test_the_units_start_in_any_order(units, casd_folder, make, order):
    """Nothing that the old server left is touched, and its content not taken for ours."""
    make(units, casd_folder)
    old = [path for path in units.repo.iterdir()] if units.repo.exists() else []
    before = {path: listing(path) for path in old}
    if order == "pull first":
        pull, pushing = units.pull(), units.push()
    elif order == "push first":
        pushing, pull = units.push(), units.pull()
    else:
        pull, pushing = units.pull(start=False), units.push(start=False)
        for server in (pull, pushing):
            server.start(wait=False)
        for server in (pull, pushing):
            server.wait_ready()
        # The pull unit may be the one that makes the store, and has it for itself meanwhile.
        wait_until(
            lambda: is_answered(lambda: pushing.client().upload(b"x")), "the push unit never writes"
        )
    for server in (pull, pushing):
        with fails("NOT_FOUND"):
            server.client().fetch_blob("urn:0")
    with fails("PERMISSION_DENIED"):
        pull.client().push_blob("urn:0", digest_of(b""))
    for number in range(3):
        push(pushing.client(), number)
        for server in (pull, pushing):
            check_whole(server.client(), number)
    for server in (pull, pushing):
        server.restart()
        check_whole(server.client(), *range(3))
    for path in old:
        assert listing(path) == before[path]


# What an old folder is said of


def foreign(server):
    return [line for line in server.log().splitlines() if " event=storage-foreign " in line]


def test_an_old_folder_is_told_of_by_the_push_unit_alone(units, casd_folder):
    """Once, with its size and what imports it."""
    make_old(units, casd_folder)
    pushing = units.push()
    pull = units.pull()
    assert warnings(pull) == []
    (line,) = warnings(pushing)
    assert " event=storage-foreign " in line and "level=warning" in line
    assert f" path={units.repo}/cas " in line
    assert f" bytes={disk_use(units.repo / 'cas')} " in line
    assert f" instead={units.repo}/assetd/cas " in line
    assert f"assetctl import-casd {units.repo} {units.repo};" in line
    for server in (pull, pushing):
        server.restart()
    assert warnings(pull) == []
    # It is there still.
    assert len(foreign(pushing)) == 2
    # Ours stays where it is when it is taken away.
    push(pushing.client(), 0)
    shutil.rmtree(units.repo / "cas")
    for server in (pull, pushing):
        server.restart()
        check_whole(server.client(), 0)
    assert len(foreign(pushing)) == 2


def test_an_old_folder_with_the_pull_unit_first(units, casd_folder):
    """Who looks there why nothing is found is told why."""
    make_old(units, casd_folder)
    pull = units.pull()
    assert len(warnings(pull)) == len(foreign(pull)) == 1
    assert f"assetctl import-casd {units.repo} {units.repo};" in pull.log()
    pull.restart()
    assert len(foreign(pull)) == 1


def test_an_old_folder_by_a_relative_path(assetd, folder, casd_folder):
    """The command that is told works from everywhere."""
    server_folder = folder / "s0"
    server_folder.mkdir()
    shutil.copytree(casd_folder, server_folder / "repo")
    port = free_port()
    server = assetd(["--port", str(port), "repo"], f"127.0.0.1:{port}")
    repo = server_folder / "repo"
    assert f"assetctl import-casd {repo} {repo};" in server.log()


@pytest.mark.parametrize("counted, told", [("123456789", "about 123456789"), ("", "more than ")])
def test_an_old_folder_that_cannot_be_measured(units, casd_folder, counted, told):
    """Or not within a second: then what buildbox-casd has counted is told, if it has."""
    make_old(units, casd_folder)
    (units.repo / "cas" / "disk_usage").write_text(counted)
    # Paths that are too long for the system.
    here = os.open(units.repo / "cas" / "tmp", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (line,) = foreign(units.push())
    assert f' bytes="{told}' in line


# Restarted under load


class Load:
    """Clients that push, and that pull from both, all the time until the block is left."""

    RECENT = 20  # of what was pushed last, which must be there
    AGAIN = 1  # second after which they try again, as BuildStream does

    def __init__(self, pull, pushing):
        self.over = threading.Event()
        self.numbers = itertools.count()
        self.acknowledged = []
        self.pulls = dict.fromkeys((pull, pushing), 0)
        self.ended = set()  # servers that may have been away,
        self.stopped = set()  # and of them those that were stopped
        self.works = [(self.push, pushing), (self.push, pushing)]
        self.works += [(self.pull, server) for server in (pull, pushing, pull)]
        self.pool = concurrent.futures.ThreadPoolExecutor(len(self.works))

    def __enter__(self):
        self.under_way = [
            self.pool.submit(self.run, work, server) for work, server in self.works
        ]
        return self

    def __exit__(self, *_):
        self.over.set()
        for each in self.under_way:
            each.result(PATIENCE)
        self.pool.shutdown()

    def run(self, work, server):
        try:
            # Not one that is closed when the server is stopped.
            with Client(server.address, options=RECONNECT) as client:
                while not self.over.is_set():
                    if not work(client, server):
                        assert server in self.ended, "UNAVAILABLE, though it runs all the time"
                        self.over.wait(self.AGAIN)
        finally:
            self.over.set()

    def is_answered(self, server, call, *arguments):
        """Whether CALL is; the only way to fail is UNAVAILABLE, or CANCELLED by a stop."""
        try:
            call(*arguments)
        except grpc.RpcError as error:
            # The gRPC core says so to calls that come at the moment of its shutdown.
            is_cancelled = error.code() == grpc.StatusCode.CANCELLED and server in self.stopped
            assert is_cancelled or error.code() == grpc.StatusCode.UNAVAILABLE, error
            return False
        return True

    def push(self, client, server):
        number = next(self.numbers)
        tree, artifact = content_of(number)
        blobs = [(digest_of(blob), blob) for blob in (artifact, *tree.blobs.values())]
        answers = []
        if not self.is_answered(server, lambda: answers.extend(client.batch_update(blobs))):
            return False
        codes = {answer.status.code for answer in answers}
        assert codes <= {OK, UNAVAILABLE}, codes
        if codes != {OK} or not self.is_answered(server, push_known, client, number):
            return False
        self.acknowledged.append(number)
        return True

    def pull(self, client, server):
        if not self.acknowledged:
            return True
        recent = random.choice(self.acknowledged[-self.RECENT :])
        found = []
        for number in (recent, random.choice(self.acknowledged)):
            if not self.is_answered(server, lambda: found.append(is_whole(client, number))):
                return False
        is_recent = recent in self.acknowledged[-5 * self.RECENT :]
        assert found[0] or not is_recent, f"{recent} was acknowledged, and is not found"
        self.pulls[server] += 1
        return True

    def end(self, server, how):
        self.ended.add(server)
        if how == "stop":
            self.stopped.add(server)
        getattr(server, how)()

    def goes_on(self):
        """Until all have done something again."""
        pushed, pulls = len(self.acknowledged), dict(self.pulls)
        wait_until(
            lambda: self.over.is_set()
            or (
                len(self.acknowledged) >= pushed + 5 * self.RECENT
                and all(self.pulls[server] > pulls[server] + 5 for server in pulls)
            ),
            lambda: f"nothing goes on: {len(self.acknowledged)}, {self.pulls.values()}",
        )


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("which", ["pull", "push", "both"])
def test_units_are_restarted_under_load(units, which, how):
    """
    Nothing acknowledged is lost, nothing is answered whose files are gone, and clients see nothing
    but UNAVAILABLE, of who is away alone; while the store is full and evicts all the time.
    """
    quota = 8 * MB
    pull, pushing = units.pull(), units.push("--quota", str(quota))
    victims = {"pull": [pull], "push": [pushing], "both": [pushing, pull]}[which]
    with Watch(units.repo / "cas") as watch, Load(pull, pushing) as load:
        load.goes_on()
        for _ in range(3):
            for server in victims:
                load.end(server, how)
            load.over.wait(0.05)
            for server in victims:
                server.start()
            load.goes_on()
    watch.assert_within(quota)
    for server in (pull, pushing):
        check_whole(server.client(), *load.acknowledged[-load.RECENT :])
    assert sum(map(size_of, load.acknowledged)) > quota, "it never was full"
    assert warnings(pull) == []


def test_the_pull_unit_goes_on_while_nobody_writes(units):
    pull, pushing = units.pull(), units.push()
    for number in range(5):
        push(pushing.client(), number)
    for end in (pushing.stop, pushing.kill):
        end()
        check_whole(pull.client(), *range(5))
        pull.restart()
        check_whole(pull.client(), *range(5))
        pushing.start()
        push(pushing.client(), 5)
        check_whole(pull.client(), *range(6))


# Life


# How content is asked for that no asset names.
USES = {
    "Read": lambda client, digest: client.read(digest),
    "BatchReadBlobs": lambda client, digest: client.batch_read([digest]),
    "FindMissingBlobs": lambda client, digest: client.find_missing([digest]),
}


def test_what_the_pull_unit_serves_lives_on(units):
    """While as much as three times the quota is pushed; what is of the same age and unused goes."""
    pull, pushing = units.pull(), units.push("--quota", str(8 * MB))
    client = pushing.client()

    def fill_up(name):
        """A small one would live on with others of its segment that are used."""
        client.upload(*(noise(10_000, f"behind {name}: {n}") for n in range(20)))

    used, unused = range(3), range(1000, 1003)
    for numbers in (used, unused):
        for number in numbers:
            push(client, number)
        fill_up(numbers)
    contents = {}
    for how in USES:
        contents[how] = client.upload(noise(20_000, how))
        fill_up(how)
    for number in range(3 * 80):
        client.upload(noise(100_000, number))
        if number % 10 == 0:
            for each in used:
                assert pull.client().fetch_blob(f"urn:{each}")
            for how, use in USES.items():
                use(pull.client(), contents[how])
    for server in (pull, pushing):
        check_whole(server.client(), *used)
        assert server.client().find_missing(contents.values()) == []
        for number in unused:
            assert not is_whole(server.client(), number)


# The quota


@pytest.mark.parametrize("quota", [None, "1MB", "2000", "1TiB"])
def test_the_quota_of_the_pull_unit_counts_for_nothing(units, quota):
    """Neither alone on a store that is larger, nor while the other writes: nor is it warned of."""
    pushing = units.push("--quota", str(20 * MB))
    for number in large(0, 60):
        push(pushing.client(), number)
    pushing.stop()
    cas = units.repo / "cas"
    size, log = disk_use(cas), listing(cas / "log")
    assert size > 4 * MB
    pull = units.pull(*([] if quota is None else ["--quota", quota]))
    check_whole(pull.client(), *large(0, 60))
    # What waits for its turn to write would have taken it.
    pull.restart()
    check_whole(pull.client(), *large(0, 60))
    assert (disk_use(cas), listing(cas / "log")) == (size, log)
    pushing.start()
    for number in large(60, 90):
        push(pushing.client(), number)
    for server in (pull, pushing):
        check_whole(server.client(), *large(0, 90))
    pull.stop()
    assert warnings(pull) == []
    check_whole(pushing.client(), *large(0, 90))


def test_a_smaller_quota_of_the_push_unit_is_reached(units):
    """While the pull unit reads what goes, and has its own idea of a quota."""
    pull, pushing = units.pull("--quota", "1TB"), units.push("--quota", str(20 * MB))
    for number in large(0, 120):
        push(pushing.client(), number)
    cas = units.repo / "cas"
    assert disk_use(cas) > 10 * MB
    pushing.stop()
    pushing.arguments[pushing.arguments.index(str(20 * MB))] = str(6 * MB)
    over = threading.Event()

    def read_on():
        count = 0
        while not over.is_set():
            is_whole(pull.client(), random.choice(large(0, 120)))
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reads = pool.submit(read_on)
        try:
            pushing.start()
            wait_until(lambda: look(cas) <= 6 * MB, lambda: f"{look(cas)} bytes")
        finally:
            over.set()
        assert reads.result(PATIENCE) > 0
    push(pushing.client(), 1)
    check_whole(pull.client(), 1)
    assert disk_use(cas) <= 6 * MB
    # And nothing more than had to.
    assert disk_use(cas) > 4 * MB
    pushing.stop()
    pushing.arguments[pushing.arguments.index(str(6 * MB))] = str(20 * MB)
    pushing.start()
    for number in large(120, 170):
        push(pushing.client(), number)
    assert disk_use(cas) > 8 * MB
    check_whole(pull.client(), *large(120, 170))


# One after the other


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_new_push_unit_takes_over(units, end):
    """Started before the old one ends, on a port of its own."""
    pull, former = units.pull(), units.push("--quota", str(20 * MB))
    push(former.client(), 0)
    latter = units.push("--quota", str(10 * MB))
    check_whole(latter.client(), 0)
    with fails("UNAVAILABLE", rf"process {former.process.pid}\b"):
        latter.client().push_blob("urn:refused", digest_of(b"in all of them"))
    push(former.client(), 1)
    getattr(former, end)()
    wait_until(lambda: is_answered(push_all_or_none, latter.client(), 2), latter.log)
    for server in (pull, latter):
        check_whole(server.client(), 0, 1, 2)
    assert warnings(pull) == []


def push_all_or_none(client, number):
    """With a call that says UNAVAILABLE first: of a batch each blob has a status of its own."""
    client.push_blob("urn:same", digest_of(b""))
    push(client, number)


# Of cas/shared.
SHARED_REBUILDING = 76


def test_a_push_unit_waits_for_what_the_pull_unit_does_after_a_power_cut(units):
    """That has the lock for as long, but does not write: nobody is to wait for its end."""
    pull = units.pull()
    former = units.push()
    shared = units.repo / "cas" / "shared"
    former_state = shared.read_bytes()[SHARED_REBUILDING : SHARED_REBUILDING + 4]
    assert former_state == bytes(4)
    with open(shared, "r+b") as file:
        file.seek(SHARED_REBUILDING)
        file.write(bytes([1, 0, 0, 0]))
    latter = units.push()
    waits = "finds out what is there after a power cut"
    assert f" holder={former.process.pid} " in latter.log() and waits in latter.log()
    text = rf"process {former.process.pid} finds out what is in {units.repo}/cas after a power"
    with fails("UNAVAILABLE", text):
        latter.client().write(b"x")
    with open(shared, "r+b") as file:
        file.seek(SHARED_REBUILDING)
        file.write(former_state)
    with fails("UNAVAILABLE", rf"process {former.process.pid} writes"):
        latter.client().write(b"x")
    push(former.client(), 0)
    check_whole(pull.client(), 0)


# --index-only is for both, or for none


def differing(server):
    return [line for line in server.log().splitlines() if " event=index-only-differs " in line]


@pytest.mark.parametrize("order", ORDERS[:2])
def test_a_push_unit_that_alone_is_index_only(units, order):
    """The pull unit knows what is pushed, but has no content for it, and says which to change."""
    starts = [units.pull, lambda: units.push("--index-only")]
    if order == "push first":
        pushing, pull = [start() for start in reversed(starts)]
    else:
        pull, pushing = [start() for start in starts]
    pushing.client().push_blob("urn:a", digest_of(b"elsewhere"))
    with fails("NOT_FOUND", "no longer whole"):
        pull.client().fetch_blob("urn:a")
    wait_until(lambda: differing(pull), pull.log)
    (line,) = differing(pull)
    assert f" process={pushing.process.pid} " in line
    assert f" path={units.repo}/index " in line
    assert "what is pushed there is NOT_FOUND here" in line
    # Both: then it is as it should be.
    pull.stop()
    pull.arguments.insert(0, "--index-only")
    pull.start()
    assert pull.client().fetch_blob("urn:a").blob_digest == digest_of(b"elsewhere")
    pushing.restart()
    assert pull.client().fetch_blob("urn:a").blob_digest == digest_of(b"elsewhere")
    pull.stop()
    assert len(differing(pull)) == 1


@pytest.mark.parametrize("order", ORDERS[:2])
def test_a_pull_unit_that_alone_is_index_only(units, order):
    """It would go on to answer with what the other has evicted."""
    starts = [lambda: units.pull("--index-only"), units.push]
    if order == "push first":
        pushing, pull = [start() for start in reversed(starts)]
    else:
        pull, pushing = [start() for start in starts]
    push(pushing.client(), 0)
    assert pull.client().fetch_blob("urn:0")
    with fails("UNIMPLEMENTED"):
        pull.client().find_missing([digest_of(b"x")])
    wait_until(lambda: differing(pull), pull.log)
    (line,) = differing(pull)
    assert f" process={pushing.process.pid} " in line
    # Each process that writes is told of, and none twice.
    pushing.restart()
    wait_until(lambda: len(differing(pull)) == 2, pull.log)
    pull.stop()
    assert len(differing(pull)) == 2


def test_the_former_process_does_not_count(units):
    """Both are changed, one after the other: nothing is said of what has ended."""
    pushing = units.push()
    pull = units.pull()
    pushing.kill()
    pull.stop()
    for server in (pull, pushing):
        server.arguments.insert(0, "--index-only")
        server.start()
    pushing.client().push_blob("urn:a", digest_of(b"elsewhere"))
    assert pull.client().fetch_blob("urn:a").blob_digest == digest_of(b"elsewhere")
    pull.stop()
    assert differing(pull) == []


# Users


def other_user():
    """What to put in front to be somebody who is not root, and who that is."""
    if os.geteuid() != 0:
        return (), pwd.getpwuid(os.geteuid()).pw_name
    nobody = pwd.getpwnam("nobody")
    ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    return ("setpriv", *ids), "nobody"


def test_a_folder_that_the_user_may_not_make(units):
    prefix, user = other_user()
    units.repo = pathlib.Path("/usr/artifacts")
    pull = units.pull(prefix=prefix, start=False)
    pull.expects_errors = True
    with pytest.raises(StartError) as info:
        pull.start()
    denied = "make directory /usr/artifacts: Permission denied"
    assert f"{denied}; user {user} may not write to /usr" in info.value.log


def test_units_of_different_users(units):
    """The second one is told whose the folder is, and what to do."""
    prefix, user = other_user()
    owner = "root"
    if os.geteuid() == 0:
        units.push()
    else:
        units.repo = pathlib.Path("/usr")
    pull = units.pull(prefix=prefix, start=False)
    pull.expects_errors = True
    with pytest.raises(StartError) as info:
        pull.start()
    assert info.value.status == 1
    reason = f"{units.repo} belongs to user {owner}, and this process runs as user {user}: "
    assert f"Permission denied; {reason}" in info.value.log
    assert "run as one user" in info.value.log
