# SPDX-License-Identifier: Apache-2.0
"""`assetctl import-casd`: what the old server, or a casd, has stored becomes ours."""

import datetime
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from lib import logs
from lib.api import reapi
from lib.bst import Bst, elements_with
from lib.casd_folder import CasdFolder, place_of, snapshot
from lib.client import fails, timestamp
from lib.content import EMPTY, Tree, digest_of, name_of, noise
from lib.folders import new_folder
from lib.old_server import OldServer
from lib.peers import Casd
from lib.ports import free_port
from lib.project import ELEMENTS, make_project
from lib.server import ASSETCTL, PATIENCE, run_assetctl, shown_by_assetctl, wait_until

DAY = 86400
NOBODY = 65534
NAMES = {
    "blobs": ("imported", "bytes", "there", "without_room", "broken"),
    "assets": ("imported", "there", "expired", "incomplete", "broken"),
}
OUTCOME = re.compile(
    r"blobs: (\d+) imported, of (\d+) bytes, (\d+) there already, (\d+) without room, "
    r"(\d+) broken\n"
    r"assets: (\d+) imported, (\d+) there already, (\d+) expired, (\d+) not whole, (\d+) broken\n"
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: no folder of another user")


def run_import(repo, storage, *arguments, status=0, **options):
    """
    What was counted, but for bytes and what is 0, and the lines that were told, but for those of
    the progress. OPTIONS are of the process.
    """
    done = run_assetctl("import-casd", *arguments, repo, storage, **options)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    found = OUTCOME.fullmatch(done.stdout)
    assert found, done.stdout + done.stderr
    counts = [int(count) for count in found.groups()]
    outcome = {}
    for what, names in NAMES.items():
        outcome[what] = dict(zip(names, counts))
        counts = counts[len(names) :]
        outcome[what] = {key: n for key, n in outcome[what].items() if n and key != "bytes"}
    return outcome, [line for line in done.stderr.splitlines() if line.startswith("assetctl: ")]


def refuses(repo, storage, *arguments, status=1, **options):
    """It imports nothing, and says why on stderr."""
    done = run_assetctl("import-casd", *arguments, repo, storage, **options)
    assert done.returncode == status and not done.stdout, f"{done.stdout}\n{done.stderr}"
    return done.stderr


@pytest.fixture
def storage(folder):
    """A storage directory that is there, and empty, as root wants it."""
    path = folder / "storage"
    path.mkdir(mode=0o750)
    return path


@pytest.fixture
def source(folder):
    return CasdFolder(folder / "repo")


def serve(assetd, storage, **instance):
    """A server of that storage."""
    return assetd(instances=[{"name": "", "storage": str(storage), **instance}])


def old_command_line(assetd, repo):
    """A server that is started as the old one was, and reads."""
    port = free_port()
    return assetd(["--port", str(port), str(repo)], f"127.0.0.1:{port}")


def export(server):
    config = server.folder / "assetd.yaml"
    done = run_assetctl("export", "--config", config, "")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# What the old server has of a real bst


class Made:
    """What a user of BuildStream has pushed to the old server."""

    def __init__(self, folder, session):
        self.folder = folder
        self.repo = folder / "repo"
        self.project = make_project(folder / "project", "import-casd")
        server = OldServer(self.repo, folder / "old.log")
        with logs.shown(session, server):
            try:
                self.user = Bst(folder / "user", self.project)
                with logs.shown(session, self.user):
                    self.url = server.start().url
                    self.push_to(self.url)
                    self.built = self.user.checkout(folder / "built")
                server.stop()
            finally:
                server.finish()

    def push_to(self, url):
        self.user.configure([{"url": url, "push": True}])
        self.user.run("build", "all.bst")
        self.user.run("artifact", "push", "--deps", "all", "all.bst")
        self.user.run("source", "push", "--deps", "all", "all.bst")


@pytest.fixture(scope="module")
def made(request):
    folder = new_folder()
    try:
        yield Made(folder, request.session)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def repo(made, folder):
    """A folder of the old server, of the test's own."""
    return shutil.copytree(made.repo, folder / "repo")


def puller(made, folder, server, session):
    """A user who has nothing but the project."""
    user = Bst(folder / "puller", made.project, [{"url": f"http://{server.address}"}])
    return logs.shown(session, user)


def pulls_all(made, folder, server, session):
    with puller(made, folder, server, session) as user:
        output = user.run("artifact", "pull", "--deps", "all", "all.bst")
        assert elements_with(output, "Pulled artifact") == ELEMENTS
        assert user.checkout(folder / "pulled") == made.built


def test_the_folder_itself_becomes_the_storage(assetd, made, repo, folder, request):
    """The server that is started in the place of the old one gives what that had."""
    before = snapshot(repo)
    outcome, told = run_import(repo, repo)
    assert outcome["blobs"]["imported"] > 100 and outcome["assets"]["imported"] > 10
    assert set(outcome["blobs"]) == {"imported", "there"} and set(outcome["assets"]) == {"imported"}
    assert not told
    server = old_command_line(assetd, repo)
    pulls_all(made, folder, server, request.session)
    server.stop()
    assert snapshot(repo, leave_out=("assetd", "index")) == before


def test_another_folder_becomes_the_storage(assetd, made, repo, storage, folder, request):
    before = snapshot(repo)
    outcome, _ = run_import(repo, storage)
    assert set(outcome["blobs"]) == {"imported", "there"} and set(outcome["assets"]) == {"imported"}
    assert snapshot(repo) == before
    pulls_all(made, folder, old_command_line(assetd, storage), request.session)


def test_references_are_those_that_a_push_has(assetd, made, storage):
    """casd forgets what a push references; BuildStream's content tells it."""

    def essence(server):
        lines = export(server)
        for line in lines:
            for name in ("references_blobs", "references_directories"):
                line[name] = sorted(set(line.get(name, ())))
            del line["pushed_at"], line["fetched_at"]
        return sorted(lines, key=lambda line: (line["kind"], line["uri"]))

    run_import(made.repo, storage)
    imported = essence(serve(assetd, storage))
    assert any(line["references_directories"] for line in imported)

    port = free_port()
    direct = assetd(
        listeners=[{"address": f"127.0.0.1:{port}", "access": "write"}],
        address=f"127.0.0.1:{port}",
    )
    made.push_to(f"http://127.0.0.1:{port}")
    assert essence(direct) == imported


def test_what_is_truncated_is_left_out_with_its_artifact(assetd, made, repo, folder, request):
    """The others come from the server; the client builds the one that is missing, as on a miss."""
    tool = digest_of((made.project / "files" / "many" / "tool").read_bytes())
    path = repo / place_of("cas", tool.hash)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    before = snapshot(repo)
    outcome, told = run_import(repo, repo, status=1)
    assert outcome["blobs"]["broken"] == 1
    assert f"{place_of('cas', tool.hash)}: what is in it has another hash" in told[0]
    # Both keys of the artifact "many", at least, and its sources.
    assert outcome["assets"]["incomplete"] >= 3
    assert any(":artifact:import-casd/many/" in line and "not whole" in line for line in told)
    assert any(name_of(tool) in line for line in told)
    assert snapshot(repo, leave_out=("assetd", "index")) == before

    server = old_command_line(assetd, repo)
    with puller(made, folder, server, request.session) as user:
        output = user.run("artifact", "pull", "--deps", "all", "all.bst", check=False)
        pulled = elements_with(output, "Pulled artifact")
        assert {"base", "fetched"} <= pulled and "many" not in pulled
        user.run("build", "all.bst")
        assert user.checkout(folder / "pulled") == made.built


def test_content_is_durable_before_what_names_it(folder, source, storage):
    """As a push: a power cut between the two leaves content that nobody names, not a dead name."""
    source.asset("urn:a", source.blob(b"content"))
    trace = folder / "trace"
    done = subprocess.run(
        # The leak check of a sanitizer wants to trace by itself.
        [*("env", "LSAN_OPTIONS=detect_leaks=0", "strace", "-f", "-q", "-y", "-o", trace)]
        + [*("-e", "trace=fsync,fdatasync,syncfs", ASSETCTL, "import-casd", source.path, storage)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    synced = re.findall(r"sync\(\d+<[^>]*/storage/([^>]+)", trace.read_text())
    segments = [at for at, name in enumerate(synced) if re.fullmatch(r"cas/log/\w+", name)]
    commits = [at for at, name in enumerate(synced) if name == "index/data.mdb"]
    assert segments and min(segments) < max(commits), synced


# What casd keeps of assets


def test_keys_and_content_of_assets(assetd, folder, storage):
    """Pushed to a real casd: qualifiers, expiry, directories, the empty blob."""
    tree = Tree({"file": b"in a tree", "below": {"other": noise(300_000)}})
    qualifiers = {"vcs.branch": "mäin", "B": "1", "a": "", "\u2603": "x"}
    later = timestamp(4102444800.5)
    soon = timestamp(time.time() + 1)
    peer = Casd(folder / "casd").start()
    try:
        client = peer.client()
        data = noise(5000)
        client.upload(data)
        client.upload_tree(tree)
        client.push_blob("urn:blob", digest_of(data))
        client.push_blob(["urn:same", "urn:too"], digest_of(data), references_blobs=[EMPTY])
        client.push_blob("urn:qualified", digest_of(data), qualifiers, expire_at=later)
        client.push_blob("urn:expired", digest_of(data), expire_at=soon)
        client.push_directory("urn:blob", tree.root)
        client.push_blob('urn:"\n\u009b', EMPTY)
    finally:
        peer.finish()
    wait_until(lambda: time.time() > soon.seconds + 1, "it is not that late")

    outcome, told = run_import(peer.storage, storage)
    assert outcome["assets"] == {"imported": 6, "expired": 1} and not told
    client = serve(assetd, storage).client()
    for uri in "urn:blob", "urn:same", "urn:too":
        assert client.fetch_blob(uri).blob_digest == digest_of(data)
    assert client.fetch_blob("urn:qualified", qualifiers).expires_at == later
    for uri in "urn:qualified", "urn:expired":
        with fails("NOT_FOUND"):
            client.fetch_blob(uri)
    assert client.fetch_directory("urn:blob").root_directory_digest == tree.root
    assert client.fetch_blob('urn:"\n\u009b').blob_digest == EMPTY
    assert client.read(digest_of(data)) == data
    assert client.read(digest_of(noise(300_000))) == noise(300_000)


def test_times_are_those_of_the_files(assetd, source, storage):
    """The last change is the last use; a push is not later than the file was made."""
    old = time.time() - 100 * DAY
    source.asset("urn:old", source.blob(b"x"), used=old)
    source.asset("urn:to-come", source.blob(b"x"), used=time.time() + DAY)
    begun = time.time()
    run_import(source.path, storage)
    lines = {line["uri"]: line for line in export(serve(assetd, storage))}

    def seconds(line, name):
        return datetime.datetime.fromisoformat(line[name]).timestamp()

    assert abs(seconds(lines["urn:old"], "fetched_at") - old) < 2
    assert lines["urn:old"]["pushed_at"] == lines["urn:old"]["fetched_at"]
    assert seconds(lines["urn:to-come"], "fetched_at") < begun + 60


def test_what_was_used_long_ago_expires(folder, source, storage):
    config = folder / "assetd.yaml"
    config.write_text(
        json.dumps(
            {
                "listeners": [{"address": f"unix:{folder}/s", "access": "read"}],
                "instances": [{"name": "", "storage": str(storage), "expire-after": "90d"}],
            }
        )
    )
    source.asset("urn:old", source.blob(b"x"), used=time.time() - 100 * DAY)
    source.asset("urn:new", source.blob(b"x"), used=time.time() - 80 * DAY)
    outcome, _ = run_import(source.path, storage, "--config", config)
    assert outcome["assets"] == {"imported": 1, "expired": 1}


def test_what_was_pushed_since_stays(assetd, source, storage):
    source.asset("urn:a", source.blob(b"old"), used=time.time() - DAY)
    server = serve(assetd, storage)
    client = server.client()
    client.push_blob("urn:a", client.upload(b"new"))
    server.stop()
    outcome, _ = run_import(source.path, storage)
    assert outcome["assets"] == {"there": 1}
    assert server.start().client().fetch_blob("urn:a").blob_digest == digest_of(b"new")


def test_what_was_pushed_to_the_old_server_since_replaces(assetd, source, storage):
    source.asset("urn:a", source.blob(b"old"), used=time.time() - DAY)
    run_import(source.path, storage)
    source.asset("urn:a", source.blob(b"new"))
    outcome, _ = run_import(source.path, storage)
    assert outcome["assets"] == {"imported": 1}
    assert serve(assetd, storage).client().fetch_blob("urn:a").blob_digest == digest_of(b"new")


def test_an_asset_without_its_content_is_counted(assetd, source, storage):
    tree = Tree({"file": b"present", "missing": b"missing"})
    source.blob(b"present")
    for directory in tree.directories_as_bytes():
        source.blob(directory)
    source.asset("urn:tree", tree.root, is_directory=True)
    source.asset("urn:blob", digest_of(b"missing"))
    source.asset("urn:no-tree", source.blob(b"no Directory"), is_directory=True)
    source.asset("urn:whole", digest_of(b"present"))
    outcome, told = run_import(source.path, storage)
    assert outcome["assets"] == {"imported": 1, "incomplete": 3}
    assert sum(name_of(digest_of(b"missing")) in line for line in told) == 2
    client = serve(assetd, storage).client()
    client.fetch_blob("urn:whole")
    with fails("NOT_FOUND"):
        client.fetch_directory("urn:tree")


# What is broken


def test_broken_blobs_are_told_and_left_out(assetd, source, storage):
    sizes = (0, 1, 1000, 262_144, 262_145, 3_000_000)
    sound = [source.blob(noise(size, "sound")) for size in sizes]

    def spoil(data, change):
        path = source.path / place_of("cas", source.blob(data).hash)
        change(path)
        return path

    def replace(path, make):
        path.unlink()
        make()

    bad = [
        spoil(b"empty", lambda path: path.write_bytes(b"")),
        spoil(noise(1000, "cut"), lambda path: os.truncate(path, 999)),
        spoil(noise(3_000_000, "cut"), lambda path: os.truncate(path, 2_999_999)),
        spoil(noise(3_000_000, "more"), lambda path: os.truncate(path, 3_000_001)),
        spoil(noise(300_000, "other"), lambda path: path.write_bytes(noise(300_000, "not that"))),
        spoil(b"link", lambda path: replace(path, lambda: path.symlink_to("/etc/passwd"))),
        spoil(b"folder", lambda path: replace(path, path.mkdir)),
        spoil(b"fifo", lambda path: replace(path, lambda: os.mkfifo(path))),
        spoil(b"name", lambda path: path.rename(path.with_name("0" * 61))),
        spoil(b"upper", lambda path: path.rename(path.with_name("F" * 62))),
    ]
    names = [str(path.relative_to(source.path)) for path in bad[:8]]
    objects = source.path / "cas" / "objects"
    (objects / "stray").write_bytes(b"")
    (objects / "xy").mkdir()
    before = snapshot(source.path)
    outcome, told = run_import(source.path, storage, status=1)
    assert outcome["blobs"] == {"imported": 5, "there": 1, "broken": 12}
    for name in [*names, "0" * 61, "F" * 62, "cas/objects/stray", "cas/objects/xy"]:
        assert sum(name in line for line in told) == 1, (name, told)
    assert snapshot(source.path) == before
    client = serve(assetd, storage).client()
    assert not client.find_missing(sound)
    assert client.read(sound[-1]) == noise(3_000_000, "sound")
    assert not client.has(digest_of(b"fifo"))


def test_broken_assets_are_told_and_left_out(source, storage):
    digest = source.blob(b"content")
    good = source.asset("urn:good", digest)
    data = good.read_bytes()
    paths = [source.asset(f"urn:bad{number}", digest) for number in range(5)]
    paths[0].write_bytes(data)  # of another URI
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[3].write_bytes(bytes(2_000_000))
    paths[4].write_bytes(paths[4].read_bytes().replace(b"FetchBlob", b"FetchBlub"))
    source.asset("urn:" + "x" * 8189, digest)
    source.asset("urn:sha1", digest_of(b"content", "sha1"))
    source.asset("urn:nothing", reapi.Digest())
    artifact = "urn:fdc:buildstream.build:2020:artifact:p/e/0"
    source.asset(artifact, digest)
    (source.path / "assets" / "objects" / "00").mkdir(exist_ok=True)
    (source.path / "assets" / "objects" / "00" / "link").symlink_to(good)
    outcome, told = run_import(source.path, storage, status=1)
    assert outcome["assets"] == {"imported": 1, "broken": 10}
    for path in paths:
        assert sum(str(path.relative_to(source.path)) in line for line in told) == 1, told
    assert any("8193 bytes" in line for line in told)
    assert any("no Artifact of BuildStream" in line for line in told)


def test_only_the_first_are_told_one_by_one(source, storage):
    for number in range(40):
        (source.path / "cas" / "objects" / f"x{number}").mkdir()
    outcome, told = run_import(source.path, storage, status=1)
    assert outcome["blobs"] == {"broken": 40}
    assert len(told) == 18  # 16, that there are more, and that there are no assets
    assert "counted only" in told[16] and "no assets/objects" in told[17]


def test_progress_goes_to_stderr(source, storage):
    """A line for each tenth, or one that is rewritten."""
    for number in range(20):
        source.blob(noise(500_000, number))
    done = run_assetctl("import-casd", source.path, storage)
    assert re.findall(r"^import-casd: \d+ % of 9\.5 MiB, \d+ MiB/s$", done.stderr, re.M)
    assert "\r" not in done.stderr
    source.blob(noise(500_000, "another"))
    shown = shown_by_assetctl("import-casd", source.path, storage).replace(b"\x1b[K", b"")
    assert re.search(rb"\rimport-casd: \d+ % of 10\.0 MiB, \d+ MiB/s\r[^\n]", shown)


# Again, and ended early


def fill(source, count, seed=0):
    """Blobs of some hundred bytes, a tree, and assets; returns how many assets."""
    for number in range(count):
        source.blob(noise(100 + number % 900, f"{seed}/{number}"))
    trees = [Tree({f"file{i}": noise(50, f"{seed}/{n}/{i}") for i in range(20)}) for n in range(20)]
    for tree in trees:
        for data in tree.blobs.values():
            source.blob(data)
        source.asset(f"urn:{seed}:{tree.root.hash}", tree.root, is_directory=True)
    return len(trees)


def test_what_is_there_is_passed_over(source, storage):
    count = fill(source, 100)
    first, _ = run_import(source.path, storage)
    again, told = run_import(source.path, storage)
    assert again["blobs"] == {"there": first["blobs"]["imported"]}
    assert again["assets"] == {"there": count} and not told
    source.asset("urn:more", source.blob(b"more"))
    more, _ = run_import(source.path, storage)
    assert more["blobs"]["imported"] == 1 and more["assets"]["imported"] == 1


def test_it_goes_on_after_a_kill(assetd, source, storage):
    """Killed again and again at any point, it comes to the same end."""
    count = fill(source, 3000)
    for number in range(15):
        process = subprocess.Popen(
            [ASSETCTL, "import-casd", source.path, storage],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(0, 0.02 * (number + 1)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    outcome, told = run_import(source.path, storage)
    assert sum(outcome["assets"].values()) == count and not told
    assert set(outcome["assets"]) <= {"imported", "there"}
    done = run_assetctl("check", storage)
    assert done.returncode == 0, done.stdout
    assert f"{count} assets, 0 of them incomplete" in done.stdout
    client = serve(assetd, storage).client()
    blobs = [digest_of(noise(100 + n % 900, f"0/{n}")) for n in range(3000)]
    assert not client.find_missing(blobs)


def test_a_casd_beside_it_is_not_harmed(assetd, folder, storage):
    """It stores meanwhile, and what comes too late is taken next time."""
    peer = Casd(folder / "casd").start()
    try:
        client = peer.client()
        data = [noise(2000, n) for n in range(400)]
        for number in range(0, 400, 100):
            client.upload(*data[number : number + 100])
            client.push_blob(f"urn:{number}", digest_of(data[number]))
            run_import(peer.storage, storage)
        assert not client.find_missing([digest_of(blob) for blob in data])
        assert client.read(digest_of(data[7])) == data[7]
    finally:
        peer.finish()
    outcome, _ = run_import(peer.storage, storage)
    assert outcome == {"blobs": {"there": 401}, "assets": {"there": 4}}
    ours = serve(assetd, storage).client()
    assert ours.fetch_blob("urn:300").blob_digest == digest_of(data[300])


# The quota

MIB = 1 << 20


def test_the_newest_are_taken_as_far_as_the_quota_has_room(assetd, source, storage):
    """What was there before stays; what has no room is told; a larger quota takes it too."""
    server = serve(assetd, storage, quota="8MiB")
    ours = server.client().upload(noise(MIB, "ours"))
    server.stop()
    now = time.time()
    blobs = [source.blob(noise(100_000, n), used=now - n) for n in range(100)]
    source.asset("urn:new", blobs[0], used=now)
    source.asset("urn:old", blobs[99], used=now)
    outcome, told = run_import(source.path, storage, "--quota", "8MiB", status=1)
    taken = outcome["blobs"]["imported"]
    assert 40 < taken < 75 and outcome["blobs"]["without_room"] == 100 - taken
    assert outcome["assets"] == {"imported": 1, "incomplete": 1}
    assert any(f"{100 - taken} blobs of {(100 - taken) * 100_000} bytes" in line for line in told)
    assert any("larger --quota than 8MiB" in line for line in told)

    client = server.start().client()
    missing = {digest.hash for digest in client.find_missing(blobs)}
    assert {blob.hash for blob in blobs[taken:]} == missing
    assert client.has(ours)
    server.stop()

    outcome, _ = run_import(source.path, storage, "--quota", "20MiB")
    assert outcome["blobs"] == {"imported": 100 - taken, "there": taken}
    assert outcome["assets"] == {"imported": 1, "there": 1}


def test_one_that_is_too_large_does_not_keep_others_out(source, storage):
    now = time.time()
    source.blob(noise(9 * MIB), used=now)
    source.blob(b"small", used=now - DAY)
    outcome, told = run_import(source.path, storage, "--quota", str(8 * MIB), status=1)
    assert outcome["blobs"] == {"imported": 1, "without_room": 1}
    assert any("too large for the quota" in line for line in told)


def configured(folder, storage, **instance):
    config = folder / "assetd.yaml"
    listeners = [{"address": f"unix:{folder}/s", "access": "read"}]
    instances = [
        {"name": "other", "storage": str(folder / "other"), "index-only": True},
        {"name": "", "storage": str(storage), **instance},
    ]
    config.write_text(json.dumps({"listeners": listeners, "instances": instances}))
    return config


def test_the_quota_is_that_of_the_instance(folder, source, storage):
    """By whatever path its storage is named; unless another one is given."""
    link = folder / "link"
    link.symlink_to(storage)
    config = configured(folder, link, quota="4MiB")
    for number in range(50):
        source.blob(noise(100_000, number))
    outcome, told = run_import(source.path, storage, "--config", config, status=1)
    assert outcome["blobs"]["without_room"] > 10
    assert any("than 4MiB" in line for line in told)
    run_import(source.path, storage, "--config", config, "--quota", "20MiB")


# What is refused


def test_an_instance_that_has_no_cas_is_refused(folder, source, storage):
    config = configured(folder, storage, **{"index-only": True})
    assert "is index-only" in refuses(source.path, storage, "--config", config)
    config = configured(folder, storage, **{"digest-functions": ["sha1"]})
    assert "does not serve sha256" in refuses(source.path, storage, "--config", config)
    assert not list(storage.iterdir())


def test_a_running_server_is_named(assetd, source):
    server = assetd()
    told = refuses(source.path, server.storage)
    assert f"process {server.process.pid}:" in told and "stop that process first" in told
    assert "systemctl stop assetd, or bst-artifact-serve-receive" in told


def test_a_storage_that_is_made_is_told(source, storage):
    """It may be another than was meant."""
    if os.geteuid() == 0:
        os.chown(storage, NOBODY, NOBODY)
    source.blob(b"x")
    made = storage / "misspelt"
    outcome, told = run_import(source.path, made)
    assert outcome["blobs"] == {"imported": 1}
    assert f"assetctl: {made} is not there yet, and is made" in told
    _, told = run_import(source.path, made)
    assert not [line for line in told if "is made" in line]


def test_other_folders_are_refused(folder, storage):
    told = refuses(folder / "nothing", storage)
    assert "No such file" in told
    (folder / "empty").mkdir()
    assert "it has no cas/objects" in refuses(folder / "empty", storage)
    assert not list(storage.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [(), ("repo",), ("repo", ""), ("repo", "storage", "more"), ("repo", "storage", "--quota=x")],
)
def test_wrong_usage(arguments):
    done = run_assetctl("import-casd", *arguments)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("assetctl: ")


def test_help():
    done = run_assetctl("import-casd", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: assetctl import-casd ")


# Rights


@as_root
def test_root_reads_what_only_its_owner_may(folder, source):
    """The storage is another user's, who cannot read the source."""
    source.asset("urn:a", source.blob(b"content"))
    for path in [source.path, *source.path.rglob("*")]:
        os.chown(path, NOBODY - 1, NOBODY - 1)
        path.chmod(0o700 if path.is_dir() else 0o600)
    storage = folder / "storage"
    storage.mkdir()
    os.chown(storage, NOBODY, NOBODY)
    before = snapshot(source.path)
    outcome, _ = run_import(source.path, storage)
    assert outcome == {"blobs": {"imported": 1}, "assets": {"imported": 1}}
    assert snapshot(source.path) == before
    assert {path.lstat().st_uid for path in storage.rglob("*")} == {NOBODY}


@as_root
@pytest.mark.parametrize("link", ["cas", "cas/objects", "assets/objects"])
@pytest.mark.parametrize("owner", [NOBODY - 2, 0])
def test_nobody_leads_root_into_the_folder_of_another(folder, source, link, owner):
    """Whom the source belongs to may not have the storage's user read what is private."""
    private = CasdFolder(folder / "private")
    private.asset("urn:a", private.blob(b"private"))
    source.asset("urn:b", source.blob(b"content"))
    theirs, ours = private.path / link, source.path / link
    shutil.rmtree(ours)
    ours.symlink_to(theirs)
    for top, user in ((private.path, owner), (source.path, NOBODY - 1)):
        for path in [top, *top.rglob("*")]:
            os.chown(path, user, user, follow_symlinks=False)
    private.path.chmod(0o700)
    storage = folder / "storage"
    storage.mkdir()
    os.chown(storage, NOBODY, NOBODY)
    told = refuses(source.path, storage)
    assert "Permission denied" in told and "one user may have led" in told
    assert not list(storage.rglob("*"))
    # What anyone may read is no secret.
    private.path.chmod(0o755)
    outcome, _ = run_import(source.path, storage)
    assert outcome["blobs"] == {"imported": 1}


@as_root
def test_what_may_not_be_read_is_told(folder, source):
    """By others than root: the rest is imported."""
    hidden = source.path / place_of("cas", source.blob(b"hidden").hash)
    hidden.chmod(0o600)
    source.blob(b"content")
    storage = folder / "storage"
    storage.mkdir()
    os.chown(storage, NOBODY, NOBODY)
    rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    outcome, told = run_import(source.path, storage, status=1, **rights)
    assert outcome["blobs"] == {"imported": 1, "broken": 1}
    assert hidden.name in told[0] and "Permission denied" in told[0]
    (source.path / "cas").chmod(0o700)
    told = refuses(source.path, storage, **rights)
    assert "Permission denied" in told and "run it as root" in told


@as_root
def test_root_does_not_make_a_storage_of_its_own(folder, source):
    assert "would be root's" in refuses(source.path, folder / "storage")
    assert not (folder / "storage").exists()
