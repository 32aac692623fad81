# SPDX-License-Identifier: Apache-2.0
"""The files of TLS while they change: read again at once, and no call is lost."""

import itertools
import os
import pathlib
import random
import shutil
import threading
import time

import pytest

from lib.certificates import make_pair
from lib.client import fails, pieces
from lib.content import digest_of, noise
from lib.reloads import hang_up, load
from lib.server import PATIENCE, wait_until
from lib.tls import MEMBERS, PAIR, SHUT_OUT, Site, TlsFiles, open_socket, outcome
from lib.uploads import held_write

DATA = b"content"
DIGEST = digest_of(DATA)


@pytest.fixture
def files(folder):
    files = TlsFiles(folder)
    files.client("member")
    return files


@pytest.fixture
def site(assetd, folder, files):
    site = Site(assetd, folder, files)
    site.server.start()
    return site


# Ways in which files are changed: each is given what they are to hold, by name


def by_rename(files, texts):
    for name, text in texts.items():
        files.replace(name, text)


def in_place(files, texts):
    for name, text in texts.items():
        files.path(name).write_text(text)


def padded(texts):
    """Of one size, whatever they hold."""
    return {name: text.ljust(8192, "\n") for name, text in texts.items()}


def keeping_times(files, texts):
    """As by `cp -p` or `rsync -t`, and of the same size."""
    for name, text in padded(texts).items():
        before = files.path(name).stat()
        files.path(name).write_text(text)
        os.utime(files.path(name), ns=(before.st_atime_ns, before.st_mtime_ns))


versions = itertools.count()


def by_links(files, texts):
    """As certbot does: each name leads to the newest of an archive."""
    archive = files.folder / "archive"
    archive.mkdir(exist_ok=True)
    for name, text in texts.items():
        version = archive / f"{next(versions)}-{name}"
        version.write_text(text)
        swap_link(files.path(name), version)


def by_a_linked_folder(files, texts):
    """As volumes of containers do: all names lead through one link."""
    version = files.folder / f"..{next(versions)}"
    version.mkdir()
    for name in (*PAIR, MEMBERS):
        (version / name).write_text(texts.get(name) or files.path(name).read_text())
    swap_link(files.folder / "..data", version)
    for name in (*PAIR, MEMBERS):
        link, target = files.path(name), pathlib.Path("..data") / name
        if not link.is_symlink() or link.readlink() != target:
            swap_link(link, target)


def swap_link(link, target):
    new = link.with_name(f"{link.name}.new")
    new.symlink_to(target)
    os.replace(new, link)


WAYS = {
    way.__name__: way for way in (by_rename, in_place, keeping_times, by_links, by_a_linked_folder)
}


def each_way(test):
    return pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())(test)


# What is taken over


@each_way
def test_a_new_pair_is_for_new_connections(site, files, way):
    client = site.connect()
    client.upload(DATA)
    seen = {site.seen()}
    for count in range(2, 5):
        way(files, files.new_pair())
        seen.add(site.seen())
        assert len(seen) == count
        assert files.server_fingerprint() in seen
        assert client.has(DIGEST)
    assert "event=tls-files " in site.server.log()


def test_a_new_pair_by_assetctl(site, files):
    client = site.connect()
    client.upload(DATA)
    before = site.seen()
    files.assetctl("server", "localhost", "127.0.0.1", "--replace")
    assert site.seen() == files.server_fingerprint() != before
    assert client.has(DIGEST)


def test_no_change_is_too_quick_to_be_seen(site, files):
    """Of the same size, at the same place, within one tick of the file system's clock."""
    rows = itertools.cycle([padded(files.new_pair()) for _ in range(8)])
    for _ in range(60):
        in_place(files, next(rows))
        # The files are looked at as soon as somebody connects.
        with open_socket(site.listener):
            time.sleep(random.random() / 2000)
            in_place(files, next(rows))
        assert site.seen() == files.server_fingerprint()


def test_a_change_that_keeps_size_and_times_is_seen(site, files):
    """Also if nothing has changed for so long that the files are not read any more."""
    in_place(files, padded(files.new_pair()))
    before = site.seen()
    changed = max(files.path(name).stat().st_ctime for name in PAIR)
    wait_until(lambda: time.time() > changed + 3, "the clock stands still")
    assert site.seen() == before
    keeping_times(files, files.new_pair())
    assert site.seen() == files.server_fingerprint() != before


@pytest.mark.parametrize("name", [*PAIR, MEMBERS])
def test_a_file_that_is_being_written_is_not_told_of(site, files, name):
    """As by `cp`: who connects meanwhile is served by the former, and nobody is warned."""
    text = files.path(name).read_text()
    judged = 0
    for _ in range(10):
        told, began = len(site.kept()), time.time()
        in_place(files, {name: text[: len(text) // 2]})
        outcomes = [site.of_new(), site.of_new()]
        # What is longer like that is not being written, but broken.
        if time.time() - began < 0.9:
            assert outcomes == ["OK", "OK"]
            assert len(site.kept()) == told
            judged += 1
        in_place(files, {name: text})
    assert judged > 0


def test_one_half_of_a_pair_changes_nothing(site, files):
    certificate, key = files.server_pair()
    for name, text in (("server.crt", certificate), ("server.key", key)):
        before = site.seen()
        files.replace(name, text)
        assert (site.seen() == before) == (name == "server.crt")
        assert site.of_new() == "OK"
    assert site.seen() == files.server_fingerprint()
    certificate, key = files.server_pair()
    for name, text in (("server.key", key), ("server.crt", certificate)):
        before = site.seen()
        files.replace(name, text)
        assert (site.seen() == before) == (name == "server.key")


@each_way
def test_members_come_and_go(site, files, way):
    """Who is gone is refused by the handshake, on an open connection at its next call."""
    make_pair(files.own, "comer", "comer")
    without = files.path(MEMBERS).read_text()
    open_one = site.connect()
    for _ in range(2):
        assert site.of_new("comer") == SHUT_OUT
        way(files, {MEMBERS: f"{without}# client: comer\n{files.certificate('comer')}"})
        assert site.of_new("comer") == "OK"
        comer = site.connect("comer")
        comer.upload(DATA)
        way(files, {MEMBERS: without})
        assert site.of_new("comer") == SHUT_OUT
        # The handshake has looked: no second passes.
        with fails("UNAUTHENTICATED", files.fingerprint("comer")):
            comer.has(DIGEST)
        assert open_one.has(DIGEST)
    assert site.of_new() == "OK"


def test_members_by_assetctl_and_by_hand(site, files):
    make_pair(files.own, "hand", "hand")
    files.append(MEMBERS, files.certificate("hand"))
    assert site.of_new("hand") == "OK"
    files.client("tool")
    assert [site.of_new(name) for name in ("hand", "tool", "member")] == ["OK"] * 3
    files.assetctl("revoke", "tool")
    files.assetctl("revoke", files.fingerprint("hand"))
    assert [site.of_new(name) for name in ("hand", "tool")] == [SHUT_OUT] * 2
    # Without anybody it may be half of a change.
    files.assetctl("revoke", "member")
    wait_until(lambda: site.of_new() == SHUT_OUT, "it still gets in")


def test_an_open_connection_alone_learns_of_the_change(site, files):
    """Nobody else connects: the calls look at the files, at most once a second."""
    client = site.connect()
    client.upload(DATA)
    files.assetctl("revoke", "member")
    wait_until(lambda: outcome(client.has, DIGEST) != "OK", "it goes on")
    assert outcome(client.has, DIGEST) == "UNAUTHENTICATED"
    by_rename(files, {MEMBERS: "# client: again read\n" + files.certificate("member")})
    wait_until(lambda: outcome(client.has, DIGEST) == "OK", "it is not let in again")
    assert outcome(client.upload, DATA) == "PERMISSION_DENIED"
    by_rename(files, {MEMBERS: "# client: again\n" + files.certificate("member")})
    wait_until(lambda: outcome(client.upload, DATA) == "OK", "it may not write again")


def test_calls_that_are_under_way_end_in_peace(site, files):
    files.client("other")
    client = site.connect()
    data = noise(4 << 20, "held")
    client.write(data)
    answers = client.read_stream(client.read_name(digest_of(data)))
    found = [next(answers).data]
    late = noise(1 << 20, "late")
    with held_write(client, late, 1) as held:
        files.assetctl("revoke", "member")
        assert site.of_new() == SHUT_OUT
        assert outcome(client.has, DIGEST) == "UNAUTHENTICATED"
    assert held.result(PATIENCE).committed_size == len(late)
    found += [answer.data for answer in answers]
    assert b"".join(found) == data
    assert site.connect("other").has(digest_of(late))


def test_a_certificate_that_expires_meanwhile(site, files):
    """On a connection that is open already, too."""
    for seconds in (2, 10, 50):
        make_pair(files.own, "brief", "brief", days=seconds / 86400)
        by_rename(files, {MEMBERS: files.certificate("brief") + files.certificate("member")})
        client = site.connect("brief")
        if outcome(client.upload, DATA) == "OK":
            break
    else:
        pytest.fail("it never gets in")
    wait_until(lambda: outcome(client.has, DIGEST) != "OK", "it is good for ever")
    with fails("UNAUTHENTICATED", f"expired.*{files.fingerprint('brief')}"):
        client.has(DIGEST)
    assert site.of_new("brief") == SHUT_OUT
    assert site.of_new() == "OK"


def test_a_reload_looks_at_the_files(site, files):
    """And believes what they hold, though it may be half of a change."""
    client = site.connect()
    client.upload(DATA)
    files.replace("server.key", files.server_pair()[1])
    assert "event=tls-files-kept" in hang_up(site.server)
    assert client.has(DIGEST)
    files.replace(MEMBERS, "")
    assert "event=tls-no-clients" in hang_up(site.server)
    assert outcome(client.has, DIGEST) == "UNAUTHENTICATED"
    assert site.of_new() == SHUT_OUT
    files.replace("server.crt", (files.own / "server.crt").read_text())
    assert "event=tls-files " in hang_up(site.server)


@pytest.mark.parametrize("how", ["another's", "cut", "gone"])
def test_a_broken_key_delays_no_revocation(site, files, how):
    """The list of clients counts on its own: for open connections, and for new ones."""
    files.client("other")
    client, other = site.connect(), site.connect("other")
    client.upload(DATA)
    assert other.has(DIGEST)
    before, key = site.seen(), files.path("server.key").read_text()
    if how == "gone":
        files.path("server.key").unlink()
    else:
        files.replace("server.key", files.server_pair()[1] if how == "another's" else key[:90])
    wait_until(lambda: site.of_new() == "OK" and site.kept(), "nothing is logged")
    files.assetctl("revoke", "member")
    wait_until(lambda: outcome(client.has, DIGEST) != "OK", "it goes on")
    with fails("UNAUTHENTICATED", files.fingerprint("member")):
        client.has(DIGEST)
    assert site.of_new() == SHUT_OUT
    files.client("comer")
    assert [site.of_new(name) for name in ("comer", "other")] == ["OK"] * 2
    assert other.has(DIGEST)
    [line] = site.kept()
    assert str(files.path("server.key")) in line and "list of clients" in line
    assert files.seen(site.listener, "other") == before
    files.replace_server()
    assert files.seen(site.listener, "other") == files.server_fingerprint() != before
    assert [site.of_new(name) for name in ("comer", "other", "member")] == ["OK", "OK", SHUT_OUT]


def test_a_broken_list_delays_no_new_pair(site, files):
    client = site.connect()
    client.upload(DATA)
    before = site.seen()
    files.append(MEMBERS, files.certificate("member")[:-100])
    assert site.of_new() == "OK"
    files.replace_server()
    assert site.seen() == files.server_fingerprint() != before
    assert client.has(DIGEST)
    wait_until(lambda: client.has(DIGEST) and site.kept(), "nothing is told of the list")
    [line] = site.kept()
    assert str(files.path(MEMBERS)) in line


def test_a_thousand_members(site, files):
    make_pair(files.own, "last", "last")
    crowd = files.own / "crowd"
    crowd.mkdir()
    many = [make_pair(crowd, f"c{number}", f"c{number}").read_text() for number in range(1000)]
    by_rename(files, {MEMBERS: "".join(many) + files.certificate("last")})
    shutil.copy(crowd / "c500.key", files.own)
    shutil.copy(crowd / "c500.crt", files.own)
    assert [site.of_new(name) for name in ("last", "c500", "member")] == ["OK", "OK", SHUT_OUT]


# Under load


class SlowStreams:
    """One Write and one Read over a connection of their own, which go on by step()."""

    def __init__(self, client):
        self.client = client
        self.data = noise(16 << 20, "slow")
        client.upload(self.data[:1])
        client.write(self.data)
        self.steps = threading.Semaphore(0)
        self.late = noise(8 << 20, "slow write")
        self.write = client.write_stream(self._pieces(), timeout=2 * PATIENCE)
        name = client.read_name(digest_of(self.data))
        self.read = client.read_stream(name, timeout=2 * PATIENCE)
        self.found = []

    def _pieces(self):
        for piece in pieces(self.client.write_name(digest_of(self.late)), self.late):
            self.steps.acquire(timeout=PATIENCE)
            yield piece

    def step(self):
        self.steps.release()
        self.found += [answer.data for answer in itertools.islice(self.read, 1)]

    def finish(self):
        self.steps.release(len(self.late))
        assert self.write.result(PATIENCE).committed_size == len(self.late)
        self.found += [answer.data for answer in self.read]
        assert b"".join(self.found) == self.data


def test_no_call_is_lost(site, files):
    """A thousand, on open connections and on new ones, while all files change again and again."""
    make_pair(files.own, "comer", "comer")
    files.client("other")
    without = files.path(MEMBERS).read_text()
    comer = f"# client: comer\n{files.certificate('comer')}"

    def turn(client, number, count):
        data = b"%d %d" % (number, count)
        digest = client.upload(data)
        assert client.read(digest) == data
        with files.dial(site.listener, ("member", "other")[count % 2]) as another:
            assert another.has(digest)

    def rotate(way):
        before = site.seen()
        way(files, {MEMBERS: without + comer})
        way(files, files.new_pair())
        assert site.seen() == files.server_fingerprint() != before
        assert site.of_new("comer") == "OK"
        half = len(without) + len(comer) // 2
        files.path(MEMBERS).write_text((without + comer)[:half])
        assert site.of_new() == "OK"
        by_rename(files, {MEMBERS: without})
        assert site.of_new("comer") == SHUT_OUT
        files.client("tool")
        files.assetctl("revoke", "tool")
        files.replace(MEMBERS, without)

    streams = SlowStreams(site.connect())
    with load(site.server, turn, site.connect) as counts:
        for way in itertools.cycle(WAYS.values()):
            if sum(counts) > 350 and len(streams.found) > 2 * len(WAYS):
                break
            rotate(way)
            streams.step()
    streams.finish()
    assert "event=call-failed" not in site.server.log()
