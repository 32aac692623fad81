# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: what is taken over while calls go on, what needs a restart, what is kept of a bad file."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import urllib.request

import grpc
import pytest

from lib.client import TIMEOUT, fails
from lib.content import digest_of, noise
from lib.external_cas import index_only
from lib.ports import free_port
from lib.reloads import hang_up, kept_keys, load, reload, reload_fails
from lib.server import PATIENCE, StartError, run_assetd, wait_until
from lib.uploads import held_write

STORAGE = "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
IDENTITY = "x-client-identity"
LOAD = noise(200_000, "load")


def instance(server, name, **keys):
    return {"name": name, "storage": str(server.folder / f"of-{name or 'main'}"), **keys}


def put_and_get(client, number, count):
    """A turn of a load: pushes, fetches and reads."""
    uri = f"urn:load:{number}:{count}"
    data = LOAD + uri.encode()
    digest = client.upload(data)
    client.push_blob(uri, digest)
    assert client.fetch_blob(uri).blob_digest == digest
    assert client.read(digest) == data


# What is wrong with a file


def test_of_a_broken_file_every_fault_is_logged_and_nothing_is_changed(server):
    client = server.client()
    client.upload(b"x")
    log = reload_fails(server, limits={"message": 5}, log={"level": "loud"}, surprise=1)
    path = str(server.folder / "assetd.yaml")
    faults = re.findall(rf"event=conf-fault at={re.escape(path)}:\d+:\d+ key=(\S+) reason=", log)
    assert sorted(faults) == ["limits.message", "log.level", "surprise"]
    assert re.search(r'event=reload-failed reason=".*assetd.yaml has 3 faults" .*kept', log)
    assert client.has(digest_of(b"x"))
    # Mended, it is taken.
    del server.config["surprise"]
    log = reload(server, limits={"message": "1MiB"}, log={"level": "info"})
    assert "conf-fault" not in log


def test_a_file_that_is_gone_changes_nothing(server):
    server.expects_errors = True
    path = server.folder / "assetd.yaml"
    text = path.read_text()
    path.unlink()
    assert "No such file" in hang_up(server, event="reload-failed")
    path.write_text(text)
    hang_up(server)
    server.client().upload(b"x")


def test_warnings_are_logged(server):
    port = free_port()
    log = reload(
        server,
        listeners=[*server.config["listeners"], {"address": f"[::]:{port}", "access": "write"}],
    )
    assert re.search(r"level=warning event=conf-warning at=\S+ key=listeners\[2\].access", log)


def test_without_a_file_nothing_is_done(assetd, folder):
    port = free_port()
    server = assetd(
        ["--port", port, "--bind", "127.0.0.1", "--enable-push", folder / "cache"],
        f"127.0.0.1:{port}",
    )
    assert "--config" in hang_up(server, event="reload-ignored")
    server.client().upload(b"x")


def test_a_signal_before_it_serves_is_not_lost_and_does_not_end_it(assetd):
    server = assetd(start=False)
    server.start(wait=False)
    wait_until(lambda: blocks_hangup(server.process.pid), "it blocks no signal")
    server.signal(signal.SIGHUP)
    server.wait_ready()
    wait_until(lambda: "event=reloaded" in server.log(), server.log)


def blocks_hangup(pid):
    """In any of its threads: to the one that waits for the signal, it is not blocked."""
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        lines = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends
            lines = path.read_text(encoding="ascii").splitlines()
        blocked = next((line.split()[1] for line in lines if line.startswith("SigBlk")), "0")
        if int(blocked, 16) >> (signal.SIGHUP - 1) & 1:
            return True
    return False


def test_a_check_reloads_and_makes_nothing(server):
    server.configure(instances=[*server.config["instances"], instance(server, "new")])
    before = server.log()
    result = run_assetd("--config", server.folder / "assetd.yaml", "--check")
    assert result.returncode == 0
    assert not (server.folder / "of-new").exists()
    assert server.log() == before


# What is taken over


def test_the_log_level(server):
    client = server.client()
    reload(server, log={"level": "trace"})
    client.health()
    wait_until(lambda: "event=call " in server.log(), "no line of level trace")
    reload(server, log={"level": "info"})
    before = len(server.log())
    client.health()
    client.upload(b"x")
    assert "event=call " not in server.log()[before:]


def test_the_message_limit_in_both_directions(server):
    client = server.client()
    path = f"{STORAGE}BatchUpdateBlobs"

    def assert_limit(limit):
        with fails("RESOURCE_EXHAUSTED", rf"has {limit + 1} bytes, at most {limit} are .*message"):
            client.raw(path, b"\0" * (limit + 1))
        with fails("INVALID_ARGUMENT"):
            client.raw(path, b"\0" * limit)
        batch = client.capabilities().cache_capabilities.max_batch_total_size_bytes
        assert batch == min(limit - limit // 64, (4 << 20) - (64 << 10))

    assert_limit(16 << 20)
    assert kept_keys(reload(server, limits={"message": "1MiB"})) == []
    assert_limit(1 << 20)
    reload(server, limits={"message": "32MiB"})
    assert_limit(32 << 20)


def test_a_stream_keeps_the_message_limit_that_it_began_with(server):
    data = noise(3 << 20, "held")
    with held_write(server.client(), data, 1, chunk=1 << 20) as call:
        reload(server, limits={"message": "64KiB"})
    assert call.result(PATIENCE).committed_size == len(data)
    with fails("RESOURCE_EXHAUSTED", "at most 65536"):
        server.client().write(noise(3 << 20, "late"), chunk=1 << 20)
    server.client().write(noise(3 << 20, "late"), chunk=60_000)


def identified(server, name, **options):
    return server.client(metadata=[(IDENTITY, name)], **options)


def with_identity(server, **keys):
    return [{**listener, "identity": IDENTITY, **keys} for listener in server.config["listeners"]]


def test_lists_of_instances(server):
    reload(server, listeners=with_identity(server))
    alice, ci = identified(server, "alice"), identified(server, "ci")
    digest = alice.upload(b"x")
    only = {"name": "", "storage": str(server.storage)}
    reload(server, instances=[{**only, "push": ["ci"], "pull": ["ci"]}])
    with fails("PERMISSION_DENIED", "push"):
        alice.batch_update([(digest, b"x")])
    with fails("PERMISSION_DENIED", "pull"):
        alice.has(digest)
    ci.upload(b"y")
    reload(server, instances=[{**only, "push": ["ci"]}])
    assert alice.has(digest)
    with fails("PERMISSION_DENIED", "push"):
        alice.batch_update([(digest, b"x")])
    reload(server, instances=[only])
    alice.upload(b"z")


def test_the_identity_of_a_listener(server):
    only = {"name": "", "storage": str(server.storage), "push": ["ci"]}
    reload(server, listeners=with_identity(server), instances=[only])
    ci = identified(server, "ci")
    ci.upload(b"x")
    reload(server, listeners=with_identity(server, identity="x-other"))
    with fails("PERMISSION_DENIED"):
        ci.batch_update([(digest_of(b"y"), b"y")])
    server.client(metadata=[("x-other", "ci")]).upload(b"y")


def test_the_instances_of_a_listener(server):
    both = [*server.config["instances"], instance(server, "team")]
    reload(server, instances=both)
    client = server.client(server.pull, "team")
    assert not client.has(digest_of(b"x"))
    pull, push = server.config["listeners"]
    reload(server, listeners=[{**pull, "instances": [""]}, push])
    with fails("NOT_FOUND", "team"):
        client.has(digest_of(b"x"))
    assert not server.client(instance="team").has(digest_of(b"x"))
    reload(server, listeners=[{**pull, "instances": ["team"]}, push])
    assert not client.has(digest_of(b"x"))


def test_digest_functions(server):
    client = server.client()
    only = server.config["instances"][0]
    digest = digest_of(b"x", "sha1")
    with fails("INVALID_ARGUMENT", "not served"):
        client.has(digest)
    reload(server, instances=[{**only, "digest-functions": ["sha256", "sha1"]}])
    assert client.upload(b"x", function="sha1") == digest
    reload(server, instances=[only])
    with fails("INVALID_ARGUMENT", "not served"):
        client.has(digest)


def test_the_shutdown_grace(server):
    client = server.client()
    with held_write(client, noise(1 << 20, "held"), 1) as call:
        reload(server, shutdown_grace="0s")
        server.signal()
        assert server.wait() == 0
        assert "grace_ms=0" in server.log()
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


# Instances that come and go


def test_a_new_instance(server):
    server.client().upload(b"main")
    team = server.client(instance="team")
    with fails("NOT_FOUND", "team"):
        team.has(digest_of(b"x"))
    log = reload(server, instances=[*server.config["instances"], instance(server, "team")])
    assert re.search(r"event=instance-added instance=team storage=\S+of-team", log)
    assert not team.has(digest_of(b"main"))
    digest = team.upload(b"x")
    team.push_blob("urn:x", digest)
    server.close_clients()
    server.restart()
    team = server.client(instance="team")
    assert team.fetch_blob("urn:x").blob_digest == digest
    assert server.client().has(digest_of(b"main"))


def test_a_new_instance_that_cannot_be_opened_fails_all(server):
    """The one before it in the file, opened first, is not served either, and is let go."""
    blocked = server.folder / "blocked"
    (blocked / "index").mkdir(parents=True)
    (blocked / "index" / "format").write_text("assetd index 999 " + "0" * 32 + "\n")
    good, bad = instance(server, "good"), {"name": "bad", "storage": str(blocked)}
    log = reload_fails(
        server,
        instances=[*server.config["instances"], good, bad],
        log={"level": "trace"},
    )
    assert re.search(r'reason="instance \\"bad\\": .*version 999', log)
    assert "instance-added" not in log
    server.client().health()
    assert "event=call " not in server.log()
    with fails("NOT_FOUND", "good"):
        server.client(instance="good").has(digest_of(b"x"))
    # Nobody holds the storage of the good one: another process may write to it.
    fds = {os.readlink(fd.path) for fd in os.scandir(f"/proc/{server.process.pid}/fd")}
    assert not any(fd.startswith(good["storage"]) for fd in fds)
    reload(server, instances=[server.config["instances"][0], good])
    server.client(instance="good").upload(b"x")


def test_an_instance_that_is_removed_and_named_again(server):
    main = server.config["instances"]
    team = instance(server, "team")
    reload(server, instances=[*main, team])
    client = server.client(instance="team")
    digest = client.upload(b"x")
    client.push_blob("urn:x", digest)
    data = noise(1 << 20, "held")
    with held_write(client, data, 1) as call:
        log = reload(server, instances=main)
        assert re.search(r'event=instance-gone instance=team .*stays open', log)
        with fails("NOT_FOUND", "team"):
            client.fetch_blob("urn:x")
    # What was under way ends well.
    assert call.result(PATIENCE).committed_size == len(data)
    log = reload(server, instances=[team, *main])
    assert "event=instance-added instance=team" in log
    assert client.fetch_blob("urn:x").blob_digest == digest
    assert client.read(digest_of(data)) == data


def test_storage_under_another_name(server):
    link = server.folder / "link"
    old = instance(server, "old")
    reload(server, instances=[*server.config["instances"], old])
    digest = server.client(instance="old").upload(b"x")
    link.symlink_to(old["storage"])
    reload(
        server,
        instances=[server.config["instances"][0], {"name": "new", "storage": str(link)}],
    )
    with fails("NOT_FOUND", "old"):
        server.client(instance="old").has(digest)
    new = server.client(instance="new")
    assert new.has(digest)
    new.upload(b"y")


@pytest.mark.parametrize("order", [1, -1])
def test_storage_that_another_instance_keeps_fails_all(server, order):
    """The first keeps its storage until a restart, so that nobody else can have it."""
    main = server.config["instances"][0]
    wanted = [
        {**main, "storage": str(server.folder / "elsewhere")},
        {"name": "thief", "storage": main["storage"]},
    ]
    log = reload_fails(server, instances=wanted[::order])
    assert (
        rf'reason="instance \"thief\": {main["storage"]} is the storage of instance \"\", '
        "which keeps it until assetd is restarted"
    ) in log
    server.client().upload(b"x")


@pytest.mark.parametrize("order", [1, -1])
def test_storage_within_storage_that_is_kept_fails_all(server, order):
    """A check sees the file alone, in which neither lies in the other."""
    client = server.client()
    client.upload(b"x")
    before = sorted(server.storage.rglob("*"))
    main = {"name": "", "storage": str(server.folder.with_name("elsewhere"))}
    link = server.folder / "link"
    link.symlink_to(server.storage / "cas")
    for path, what in (
        (link / "sub", f"{server.storage}/cas/sub lies inside {server.storage}, which is in use"),
        (server.folder, f"{server.folder} holds {server.storage}, which is in use"),
    ):
        wanted = [main, {"name": "new", "storage": str(path)}]
        assert reload_fails(server, instances=wanted[::order]).count(what) == 1
    assert sorted(server.storage.rglob("*")) == before
    assert not (server.folder / "index").exists()
    assert client.has(digest_of(b"x"))


def test_storage_within_storage_that_is_open_for_nobody_fails_all(server):
    main, team = server.config["instances"][0], instance(server, "team")
    reload(server, instances=[main, team])
    reload(server, instances=[main])
    inner = f"{team['storage']}/inner"
    log = reload_fails(server, instances=[main, {"name": "new", "storage": inner}])
    assert f"{inner} lies inside {team['storage']}, which is in use" in log
    assert not pathlib.Path(inner).exists()
    reload(server, instances=[main, team])


def test_a_directory_in_the_place_of_one_that_is_open_fails_all(server):
    """The index of the old one makes its files by the path."""
    main, team = server.config["instances"][0], instance(server, "team")
    reload(server, instances=[main, team])
    reload(server, instances=[main])
    path = pathlib.Path(team["storage"])
    path.rename(server.folder / "moved")
    wanted = [main, {**team, "name": "new"}]
    assert f"{path} leads to another directory" in reload_fails(server, instances=wanted)
    path.mkdir()
    assert f"{path} leads to another directory" in reload_fails(server, instances=wanted)
    assert not any(path.iterdir())
    server.restart()
    server.client(instance="new").upload(b"x")


def test_metrics_show_the_instances_of_the_day(assetd):
    port = free_port()
    server = assetd(metrics={"address": f"127.0.0.1:{port}"})

    def page():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as answer:
            return answer.read().decode()

    assert 'assetd_cas_quota_bytes{instance=""} 10000000000' in page()
    main = server.config["instances"][0]
    reload(server, instances=[{**main, "quota": "1GiB"}, instance(server, "team", quota="2GiB")])
    assert 'assetd_cas_quota_bytes{instance=""} 10000000000' in page()
    assert f'assetd_cas_quota_bytes{{instance="team"}} {2 << 30}' in page()
    reload(server, instances=[main])
    assert "team" not in page()


# What needs a restart


def test_what_needs_a_restart_is_told_and_the_rest_is_taken(server):
    main = server.config["instances"][0]
    reload(server, listeners=with_identity(server))
    pull, push = server.config["listeners"]
    log = reload(
        server,
        listeners=[
            {**pull, "address": f"unix:{server.folder}/moved.sock"},
            push,
            {"address": f"unix:{server.folder}/more.sock"},
        ],
        instances=[
            {
                **main,
                "quota": "20GB",
                "index-quota": "2GiB",
                "expire-after": "3d",
                "push": ["ci"],
            }
        ],
        limits={"streams": 7, "message": "1MiB"},
        threads={"pollers": 2, "workers": 3},
        metrics={"address": f"127.0.0.1:{free_port()}"},
    )
    assert sorted(kept_keys(log)) == [
        "instances[0].expire-after",
        "instances[0].index-quota",
        "instances[0].quota",
        "limits.streams",
        "listeners[0].address",
        "listeners[2].address",
        "metrics.address",
        "threads.pollers",
        "threads.workers",
    ]
    assert f"running={server.pull} file=unix:{server.folder}/moved.sock" in log
    assert 'running=10000000000B file=20000000000B' in log
    assert not (server.folder / "moved.sock").exists()
    assert not server.client(server.pull).has(digest_of(b"x"))
    with fails("PERMISSION_DENIED", "push"):
        identified(server, "alice").upload(b"x")
    with fails("RESOURCE_EXHAUSTED", "at most 1048576"):
        server.client().raw(f"{STORAGE}FindMissingBlobs", b"\0" * (2 << 20))
    # After a restart there is nothing to tell any more.
    server.close_clients()
    server.address = server.push
    server.restart()
    assert kept_keys(hang_up(server)) == []


@pytest.mark.parametrize("keys", [{"access": "write"}, {"socket-mode": "0600"}])
def test_a_listener_that_needs_a_restart_keeps_all_it_has(server, keys):
    """Half of it would let in what neither file lets in."""
    pull, push = server.config["listeners"]
    only = {"name": "", "storage": str(server.storage), "pull": ["ci"]}
    team = instance(server, "team")
    log = reload(
        server,
        listeners=[{**pull, **keys, "identity": IDENTITY}, push],
        instances=[only, team],
    )
    assert kept_keys(log) == [
        f"listeners[0].{next(iter(keys))}",
        "listeners[0].identity",
        "listeners[0].instances",
    ]
    ci = identified(server, "ci", address=server.pull)
    with fails("PERMISSION_DENIED", "identity"):
        ci.has(digest_of(b"x"))
    # Nor does it serve what came since.
    with fails("NOT_FOUND", "team"):
        server.client(server.pull, "team").has(digest_of(b"x"))
    server.client(instance="team").upload(b"x")


def test_an_instance_whose_storage_changes_keeps_all_it_has(server):
    main = server.config["instances"][0]
    reload(server, instances=[{**main, "pull": []}])
    log = reload(server, instances=[{"name": "", "storage": str(server.folder / "public")}])
    assert kept_keys(log) == ["instances[0].storage", "instances[0].pull"]
    assert "running=[] file=any" in log
    with fails("PERMISSION_DENIED", "pull"):
        server.client().has(digest_of(b"x"))
    assert not (server.folder / "public").exists()


def test_a_cas_for_an_instance_that_has_one_of_its_own_waits(server):
    main = server.config["instances"][0]
    paired = {**main, "index-only": True, "cas": {"address": f"unix:{server.folder}/cas.sock"}}
    log = reload(server, instances=[paired])
    assert kept_keys(log) == ["instances[0].cas", "instances[0].index-only"]
    assert f'running="" file=unix:{server.folder}/cas.sock' in log
    server.client().upload(b"content")
    server.client().push_blob("urn:a", digest_of(b"content"))


def test_what_stays_index_only_is_checked_until_the_restart(assetd, folder, cas):
    server = assetd(instances=[index_only(folder, cas=cas)])
    client, digest = server.client(), digest_of(b"content")
    cas.put(b"content")
    client.push_blob("urn:a", digest)
    log = reload(server, instances=[{**index_only(folder), "index-only": False}])
    assert kept_keys(log) == ["instances[0].cas", "instances[0].index-only"]
    client.fetch_blob("urn:a")
    cas.remove(digest)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")


def test_rights_that_are_taken_away_in_vain_are_told(server):
    pull, push = with_identity(server)
    main, team = server.config["instances"][0], instance(server, "team")
    reload(
        server,
        listeners=[pull, push],
        instances=[{**main, "push": ["alice", "ci"]}, team],
    )
    log = reload(
        server,
        listeners=[{**pull, "socket-mode": "0600", "instances": [""]}, push],
        instances=[{**main, "storage": str(server.folder / "other"), "push": ["ci"]}, team],
    )
    assert sorted(kept_keys(log)) == [
        "instances[0].push",
        "instances[0].storage",
        "listeners[0].instances",
        "listeners[0].socket-mode",
    ]
    assert 'running="[alice, ci]" file=[ci]' in log
    identified(server, "alice").upload(b"x")
    assert not identified(server, "alice", address=server.pull, instance="team").has(digest_of(b"x"))


def test_whether_an_instance_is_written_stays(server):
    """It reads beside the writer that may be there, and goes on to write what it wrote."""
    pull, push = server.config["listeners"]
    main, team = server.config["instances"][0], instance(server, "team")
    reload(server, instances=[main, team], listeners=[pull, {**push, "instances": [""]}])
    log = reload(server, listeners=[pull, push])
    # It was opened while its write listener served it not.
    assert kept_keys(log) == ["instances[1]"]
    assert 'running="only read" file=written' in log
    with fails("UNAVAILABLE", "only reads"):
        server.client(instance="team").push_blob("urn:x", digest_of(b"x"))
    server.client().upload(b"x")


# Storage of another user


def belongs_to_another(folder):
    """
    A directory of another user's, and what makes root of a server: nothing, if the tests run as
    root, or else a namespace, in which all that is the real root's is somebody else's.
    """
    if os.getuid() != 0:
        return pathlib.Path("/var/lib"), ("unshare", "--map-root-user")
    path = folder / "of-nobody"
    path.mkdir()
    shutil.chown(path, "nobody")
    return path, ()


def test_root_makes_nothing_in_storage_of_another_user(assetd, folder):
    path, prefix = belongs_to_another(folder)
    before = sorted(path.iterdir())
    for storage in (path, path / "assetd-missing" / "main"):
        server = assetd(
            start=False, prefix=prefix, instances=[{"name": "", "storage": str(storage)}]
        )
        server.expects_errors = True
        with pytest.raises(StartError) as info:
            server.start()
        assert info.value.status == 1
        assert re.search(rf"runs as root, but {path} belongs to user \S+: run it as", server.log())
    assert sorted(path.iterdir()) == before


def test_nor_after_a_reload(assetd, folder):
    path, prefix = belongs_to_another(folder)
    server = assetd(prefix=prefix)
    instances = [*server.config["instances"], {"name": "new", "storage": str(path)}]
    log = reload_fails(server, instances=instances)
    assert f"runs as root, but {path} belongs to" in log
    server.client().upload(b"x")


# Under load


def test_no_call_is_lost(server):
    data = noise(64 << 20, "stream")
    main, (pull, push) = server.config["instances"][0], server.config["listeners"]
    steps = [
        {"log": {"level": "warning"}},
        {"log": {"level": "info"}, "limits": {"message": "4MiB"}},
        {"instances": [instance(server, "team"), main]},
        {"instances": [main]},
        {"listeners": [{**pull, "instances": [""]}, {**push, "identity": IDENTITY}]},
        {"instances": [{**main, "digest-functions": ["sha1", "sha256"]}]},
        {"limits": {"message": "16MiB", "streams": 100}},
    ]
    with load(server, put_and_get):
        for at, step in enumerate(steps):
            with held_write(server.client(), data, at * 10 + 1) as call:
                server.configure(**step)
                server.signal(signal.SIGHUP)
            assert call.result(PATIENCE).committed_size == len(data)
            data = data[1:]
    wait_until(lambda: "limits.streams" in server.log(), server.log)
    assert "reload-failed" not in server.log()


def test_a_hundred_reloads_under_load(server):
    main, team = server.config["instances"][0], instance(server, "team")
    hang_up(server)
    with load(server, put_and_get):
        for number in range(100):
            server.configure(
                instances=[main, team] if number % 2 else [main],
                limits={"message": f"{number % 7 + 1}MiB"},
            )
            hang_up(server)
    assert server.log().count("event=reloaded") == 101
    # Taken back in each second one, it is opened once.
    assert not server.client(instance="team").has(digest_of(b"x"))
    assert len(re.findall(r"event=instance-added", server.log())) == 50
