# SPDX-License-Identifier: Apache-2.0
"""Starting: addresses, sockets, the check of a configuration, the old command line, exits."""

import contextlib
import grp
import os
import re
import socket
import stat
import time
import subprocess

import pytest

from lib.client import fails
from lib.content import digest_of
from lib.ports import free_port
from lib.processes import as_anyone, user
from lib.server import ASSETD, PATIENCE, StartError, files_below, run_assetd


def start_refused(server):
    """Its exit status and log, for one that cannot start."""
    server.expects_errors = True
    with pytest.raises(StartError) as info:
        server.start(wait=False)
        server.process.wait(PATIENCE)
        server.wait_ready()
    return info.value.status, info.value.log


# Addresses that are taken


def test_a_live_unix_socket_is_refused_with_its_pid(assetd, folder):
    first = assetd()
    second = assetd(
        start=False,
        listeners=[{"address": first.push, "access": "write"}],
        instances=[{"name": "", "storage": str(folder / "other")}],
    )
    status, log = start_refused(second)
    assert status == 1
    assert first.push in log
    assert re.search(rf"\b{first.process.pid}\b", log)
    # The first is not disturbed.
    client = first.client()
    client.push_blob("urn:a", client.upload(b"x"))


def test_a_live_tcp_port_is_refused_with_its_pid(assetd, folder):
    port = free_port()
    first = assetd(listeners=[{"address": f"127.0.0.1:{port}", "access": "write"}])
    for number, address in enumerate((f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"[::]:{port}")):
        second = assetd(
            start=False,
            listeners=[{"address": address, "access": "read"}],
            instances=[{"name": "", "storage": str(folder / f"other{number}")}],
        )
        status, log = start_refused(second)
        assert status == 1
        assert str(port) in log
        assert re.search(rf"\b{first.process.pid}\b", log)
    first.client().upload(b"x")


def test_a_port_of_another_program_is_refused(assetd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = assetd(
            start=False, listeners=[{"address": f"127.0.0.1:{port}", "access": "read"}]
        )
        status, log = start_refused(server)
    assert status == 1
    assert re.search(rf"\b{os.getpid()}\b", log)


def test_a_socket_of_another_program_is_refused(assetd, folder):
    path = folder / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        server = assetd(start=False, listeners=[{"address": f"unix:{path}", "access": "read"}])
        status, log = start_refused(server)
        assert status == 1
        assert re.search(rf"\b{os.getpid()}\b", log)
        assert path.is_socket()


def test_a_second_listener_that_is_refused_leaves_no_first(assetd, folder):
    """Nothing is served by halves: the socket of the first is not there afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = assetd(
            start=False,
            listeners=[
                {"address": f"unix:{folder}/first.sock", "access": "write"},
                {"address": f"127.0.0.1:{port}", "access": "read"},
            ],
        )
        status, _ = start_refused(server)
    assert status == 1
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError):
        probe.connect(f"{folder}/first.sock")


def test_a_stale_socket_is_replaced(assetd, folder):
    path = folder / "stale.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    assert path.is_socket()
    server = assetd(listeners=[{"address": f"unix:{path}", "access": "write"}])
    server.client(f"unix:{path}").upload(b"x")


def test_a_listener_that_is_lost_ends_the_server(assetd):
    """Out of descriptors the core accepts never again: who supervises us is to start us anew."""
    server = assetd(prefix=["prlimit", "--nofile=128:128"])
    server.expects_errors = True
    path = server.pull.removeprefix("unix:")
    end = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as idle:
        while server.process.poll() is None and time.monotonic() < end:
            connection = idle.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(0.1)
            with contextlib.suppress(OSError):
                connection.connect(path)
            if "event=listener-lost" in server.log():
                time.sleep(0.05)
        assert server.wait() == 1
    assert "Too many open files" in server.log()
    assert "event=listener-lost" in server.log()
    server.start().client().upload(b"served again")


def test_the_directory_of_a_socket_that_is_missing_is_named(assetd, folder):
    path = folder / "none" / "pull.sock"
    server = assetd(start=False, listeners=[{"address": f"unix:{path}", "access": "read"}])
    status, log = start_refused(server)
    assert status == 1
    reason = f"there is no directory {path.parent}; make it, for {user()} to write to"
    assert f"unix:{path}: {reason}" in log
    assert "tmpfiles" not in log


def test_what_makes_the_shipped_directory_of_the_sockets_is_named(assetd, folder):
    """As after its removal by hand; in a /run of its own."""
    server = assetd(
        start=False,
        prefix=mounted("tmpfs", "/run"),
        listeners=[{"address": "unix:/run/assetd/pull.sock", "access": "read"}],
    )
    status, log = start_refused(server)
    assert status == 1
    assert "unix:/run/assetd/pull.sock: there is no directory /run/assetd; " in log
    assert "`systemd-tmpfiles --create assetd.conf`" in log


def test_who_may_not_write_to_the_directory_of_a_socket_is_named(assetd, folder):
    path = folder / "sockets" / "pull.sock"
    path.parent.mkdir(mode=0o500)
    server = assetd(
        start=False,
        prefix=as_anyone(),
        listeners=[{"address": f"unix:{path}", "access": "read"}],
    )
    status, log = start_refused(server)
    assert status == 1
    assert f"unix:{path}: cannot listen there; may {user()} write to {path.parent}?" in log


# What is read only: by the sandbox of a unit of systemd, or as it is mounted


def mounted(options, path):
    """The prefix of a server for which PATH is a file system of its own."""
    kind, *more = options.split()
    mount = f'mount -t {kind} {" ".join(more)} none "$0" && exec "$@"'
    rights = "-m" if os.getuid() == 0 else "-rm"
    return ["unshare", rights, "sh", "-c", mount, str(path)]


def test_storage_that_is_read_only(assetd, folder):
    storage = folder / "disk"
    storage.mkdir()
    server = assetd(
        start=False,
        prefix=mounted("tmpfs -o ro", storage),
        instances=[{"name": "", "storage": str(storage / "main")}],
    )
    status, log = start_refused(server)
    assert status == 1
    assert f"make directory {storage}/main: Read-only file system; " in log
    assert "is it in the unit's ReadWritePaths=?" in log


def test_storage_that_became_read_only(assetd, folder):
    """All directories are there already."""
    server = assetd()
    server.client().upload(b"x")
    server.stop()
    bind = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    rights = "-m" if os.getuid() == 0 else "-rm"
    server.prefix = ["unshare", rights, "sh", "-c", bind, str(server.storage)]
    status, log = start_refused(server)
    assert status == 1
    assert re.search(r"Read-only file system; .*is it in the unit's ReadWritePaths=\?", log)


def test_a_socket_where_all_is_read_only(assetd, folder):
    path = folder / "sockets" / "pull.sock"
    path.parent.mkdir()
    server = assetd(
        start=False,
        prefix=mounted("tmpfs -o ro", path.parent),
        listeners=[{"address": f"unix:{path}", "access": "read"}],
    )
    status, log = start_refused(server)
    assert status == 1
    assert f"unix:{path}: {path.parent} is read only; " in log
    assert "is it in the unit's ReadWritePaths=?" in log


# Sockets of servers that are gone


def test_the_socket_of_a_killed_server_is_replaced(server):
    server.client().upload(b"x")
    server.close_clients()
    server.kill()
    server.start()
    assert server.client().has(digest_of(b"x"))


def test_a_file_in_the_place_of_a_socket_is_left_alone(assetd, folder):
    path = folder / "precious.sock"
    path.write_text("precious")
    server = assetd(start=False, listeners=[{"address": f"unix:{path}", "access": "write"}])
    status, log = start_refused(server)
    assert status == 1
    assert str(path) in log
    assert path.read_text() == "precious"


# Mode and group


@pytest.mark.parametrize("mode", [None, "0600", "0660", "0666", "0700"])
def test_the_mode_of_a_socket(assetd, folder, mode):
    listener = {"address": f"unix:{folder}/a.sock", "access": "write"}
    if mode is not None:
        listener["socket-mode"] = mode
    assetd(listeners=[listener])
    found = stat.S_IMODE((folder / "a.sock").stat().st_mode)
    assert found == int(mode or "0660", 8)


def test_the_group_of_a_socket(assetd, folder):
    """Root can give it to any group, others to one of theirs."""
    mine = [gid for gid in os.getgroups() if gid != os.getgid()]
    groups = mine if os.getuid() != 0 else [grp.getgrnam("nogroup").gr_gid]
    if not groups:
        groups = [os.getgid()]
    name = grp.getgrgid(groups[0]).gr_name
    assetd(
        listeners=[
            {"address": f"unix:{folder}/a.sock", "access": "write", "socket-group": name}
        ]
    )
    found = (folder / "a.sock").stat()
    assert found.st_gid == groups[0]
    assert stat.S_IMODE(found.st_mode) == 0o660


# Storage


def test_the_storage_is_made(assetd, folder):
    server = assetd(instances=[{"name": "", "storage": str(folder / "a" / "b")}])
    server.client().upload(b"x")
    assert stat.S_IMODE((folder / "a" / "b").stat().st_mode) == 0o750
    for kind in ("index", "cas"):
        assert (folder / "a" / "b" / kind / "format").is_file()


def test_a_foreign_cas_is_left_alone(assetd, folder):
    """The old server's repository: nothing in it is read, counted, evicted or deleted."""
    objects = folder / "storage" / "cas" / "objects" / "ab"
    objects.mkdir(parents=True)
    (objects / "cdef").write_bytes(b"of the old server" * 1000)
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "quota": "1MiB"}]
    )
    client = server.client()
    for number in range(30):
        client.upload(b"%06d" % number * 10_000)
    assert files_below(folder / "storage" / "cas") == ["objects/ab/cdef"]
    assert (objects / "cdef").read_bytes() == b"of the old server" * 1000
    assert (folder / "storage" / "assetd" / "cas" / "format").is_file()
    (line,) = [line for line in server.log().splitlines() if "level=warning" in line]
    assert f" event=storage-foreign path={folder}/storage/cas " in line
    assert f"assetctl import-casd {folder}/storage {folder}/storage;" in line


def test_a_foreign_cas_of_something_else_is_left_alone(assetd, folder):
    """What is not the old server's cannot be imported."""
    other = folder / "storage" / "cas"
    other.mkdir(parents=True)
    (other / "precious").write_bytes(b"of something else")
    server = assetd(instances=[{"name": "", "storage": str(folder / "storage")}])
    server.client().upload(b"x")
    assert files_below(other) == ["precious"]
    (line,) = [line for line in server.log().splitlines() if "level=warning" in line]
    assert f" event=storage-foreign path={folder}/storage/cas " in line
    assert "import" not in line


def test_a_newer_format_is_refused(server):
    """Whatever comes later: an older program does not touch it."""
    server.client().upload(b"x")
    server.stop()
    path = server.storage / "cas" / "format"
    content = path.read_text()
    name, kind, version, identity = content.split()
    assert version.isdigit()
    path.write_text(f"{name} {kind} 999 {identity}\n")
    before = files_below(server.storage)
    status, log = start_refused(server)
    assert status == 1
    assert "999" in log
    assert files_below(server.storage) == before
    path.write_text(content)
    server.start()
    assert server.client().has(digest_of(b"x"))


# The check of a configuration

GOOD = """\
listeners:
  - address: unix:{folder}/pull.sock
    access: read
instances:
  - name: ""
    storage: {folder}/storage
"""


def check(folder, text, only=True):
    """Has a configuration checked, ONLY that or by a start that must fail."""
    path = folder / "conf.yaml"
    path.write_text(text)
    return run_assetd("--config", path, *(["--check"] if only else []))


def test_check_of_a_good_configuration(folder):
    done = check(folder, GOOD.format(folder=folder))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # It says what would be, and makes nothing.
    assert files_below(folder) == ["conf.yaml"]
    assert not (folder / "storage").exists()


FAULTS = {
    "unknown key": ("    access: read\n", "    acess: read\n", 3, r"acess"),
    "word": ("    access: read\n", "    access: everything\n", 3, r"everything"),
    "bare size": ("/storage\n", "/storage\n    quota: 1000\n", 7, r"quota"),
    "bare time": ("instances", "shutdown-grace: 5\ninstances", 4, r"shutdown-grace"),
    "admin on TCP": (
        "unix:{folder}/pull.sock\n    access: read",
        "127.0.0.1:1\n    access: admin",
        3,
        r"admin",
    ),
    "no address": ("address: unix:{folder}/pull.sock\n    ", "", 2, r"address"),
    "reserved name": ('name: ""', "name: a/blobs/b", 5, r"blobs"),
    "cas beside one of its own": ("/storage\n", "/storage\n    cas: {{}}\n", 7, r"index-only"),
    "cas by another protocol": (
        "/storage\n",
        "/storage\n    index-only: true\n    cas: {{address: http://cas:80}}\n",
        8,
        r"grpc://",
    ),
    "no YAML": ("instances:", "instances: [", 5, r""),
}


@pytest.mark.parametrize("old, new, line, reason", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("how", ["check", "start"])
def test_faults_are_located(folder, old, new, line, reason, how):
    """Printed as FILE:LINE:COLUMN: PATH: reason, by --check as at start."""
    assert old in GOOD
    text = GOOD.replace(old, new).format(folder=folder)
    done = check(folder, text, how == "check")
    assert done.returncode == 1
    located = [
        match
        for match in re.finditer(r"^(.+?):(\d+):(\d+): (.+)$", done.stderr, re.M)
        if match[1] == str(folder / "conf.yaml")
    ]
    assert located, done.stderr
    assert any(int(match[2]) in range(line - 1, line + 2) for match in located), done.stderr
    assert any(re.search(reason, match[4]) for match in located), done.stderr
    assert not (folder / "storage").exists()


def test_all_faults_are_told_at_once(folder):
    text = GOOD.format(folder=folder).replace("read", "raed") + "    quota: lots\nmeterics: {}\n"
    done = check(folder, text)
    assert done.returncode == 1
    assert len(re.findall(r"^.+?:\d+:\d+: ", done.stderr, re.M)) == 3, done.stderr


def test_a_warning_is_no_fault(folder):
    text = GOOD.format(folder=folder).replace(
        f"unix:{folder}/pull.sock\n    access: read", "0.0.0.0:1234\n    access: write"
    )
    done = check(folder, text)
    assert done.returncode == 0
    assert re.search(r"^.+?conf\.yaml:\d+:\d+: .*warning", done.stderr, re.M)


# Priorities: `journalctl -p warning` shows what keeps the server from starting


def run_into(path, *arguments, journal=True):
    """
    Runs assetd with FILE as its stderr, which is the journal's or another's as JOURNAL_STREAM says.
    Returns the lines that it wrote.
    """
    with open(path, "wb") as log:
        own = os.fstat(log.fileno())
        stream = f"{own.st_dev}:{own.st_ino if journal else own.st_ino + 1}"
        subprocess.run(
            [ASSETD, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=path.parent,
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=False,
            timeout=PATIENCE,
        )
    return path.read_text().splitlines()


def faulty(folder):
    """A file with a warning and a fault."""
    path = folder / "assetd.yaml"
    path.write_text(
        GOOD.format(folder=folder).replace(
            f"unix:{folder}/pull.sock\n    access: read", "0.0.0.0:1234\n    access: write"
        )
        + "meterics: {}\n"
    )
    return path


LINES = {
    "faults at start": (("--config", "assetd.yaml"), "433"),
    "faults by --check": (("--config", "assetd.yaml", "--check"), "433"),
    "no file": (("--config", "none.yaml"), "3"),
    "wrong usage": (("--port", "x", "repo"), "3"),
    "a wrong option behind a warning": (("--port=1", "--enable-push", "--quota=0", "repo"), "43"),
    "warnings, then the log": (
        ("--port=1", "--bind=192.0.2.1", "--enable-push", "--index-only", "--quota=1GiB", "repo"),
        "443",
    ),
}


@pytest.mark.parametrize("arguments, priorities", LINES.values(), ids=LINES.keys())
def test_each_line_has_its_priority_in_the_journal(folder, arguments, priorities):
    faulty(folder)
    lines = run_into(folder / "log", *arguments)
    assert [line[:3] for line in lines] == [f"<{priority}>" for priority in priorities], lines
    others = run_into(folder / "log", *arguments, journal=False)
    assert [line.startswith("<") for line in others] == [False] * len(lines), others
    for line, other in zip(lines, others):
        # The log leaves the time to the journal.
        assert line[3:] == re.sub(r"^ts=\S+ (?=level=)", "", other)


# Exit statuses


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--no-such-option",),
        ("--config",),
        ("--check",),
        ("--port", "x", "repo"),
        ("--port", "99999", "repo"),
        ("--port", "1234"),
        ("--port", "1234", "repo", "another"),
        ("--port", "1234", "--quota", "lots", "repo"),
        ("--port", "1234", "--log-level", "loud", "repo"),
        ("--config", "x.yaml", "--port", "1234"),
        ("--config", "x.yaml", "--check", "--print-config"),
        ("--print-config",),
        ("--port", "1234", "--server-key", "k", "repo"),
        ("--port", "1234", "--server-cert", "c", "repo"),
        ("--port", "1234", "--client-certs", "a", "repo"),
        ("repo",),
    ],
    ids=" ".join,
)
def test_usage_errors(folder, arguments):
    done = run_assetd(*arguments, cwd=folder)
    assert done.returncode == 2
    assert done.stderr
    assert list(folder.iterdir()) == []


def test_a_configuration_that_is_not_there(folder):
    done = run_assetd("--config", folder / "none.yaml")
    assert done.returncode == 1
    assert "none.yaml" in done.stderr


def test_a_configuration_that_may_not_be_read(folder):
    """Such as one that root made, for root alone."""
    path = folder / "assetd.yaml"
    path.write_text(GOOD.format(folder=folder))
    path.chmod(0)
    done = subprocess.run(
        [*as_anyone(), ASSETD, "--config", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    reason = f"open {path}: Permission denied; may {user()} read it?"
    assert done.stderr.endswith(f": {reason}\n"), done.stderr


def test_help_and_version():
    done = run_assetd("--help")
    assert done.returncode == 0
    for option in ("--config", "--port", "--server-key", "--client-certs", "--print-config"):
        assert option in done.stdout
    done = run_assetd("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+", done.stdout)


def test_a_storage_that_cannot_be_made(assetd, folder):
    (folder / "file").write_text("")
    server = assetd(
        start=False, instances=[{"name": "", "storage": str(folder / "file" / "storage")}]
    )
    status, log = start_refused(server)
    assert status == 1
    assert str(folder / "file") in log


# The command line of the server that this one replaces


@pytest.mark.parametrize("port_option", ["-p {}", "--port {}", "--port={}", "-p{}"])
def test_the_old_command_line(assetd, folder, port_option):
    """It serves plain h2c on all addresses, and without --enable-push nobody writes."""
    port = free_port()
    options = port_option.format(port).split()
    writing = assetd(
        [*options, "--enable-push", str(folder / "repo")], f"127.0.0.1:{port}"
    )
    client = writing.client()
    digest = client.upload(b"x")
    client.push_blob("urn:a", digest)
    assert writing.client(f"[::1]:{port}").fetch_blob("urn:a").blob_digest == digest
    writing.stop()
    assert (folder / "repo" / "cas" / "format").is_file()

    reading = assetd([*options, str(folder / "repo")], f"127.0.0.1:{port}")
    client = reading.client()
    assert client.fetch_blob("urn:a").blob_digest == digest
    assert client.read(digest) == b"x"
    for call in (
        lambda: client.push_blob("urn:b", digest),
        lambda: client.upload(b"y"),
        lambda: client.write(b"y"),
    ):
        with fails("PERMISSION_DENIED"):
            call()


def test_the_old_options(assetd, folder):
    port = free_port()
    server = assetd(
        [
            *("--bind", "127.0.0.1", "--log-level", "trace", "--quota", "1000000"),
            *("--enable-push", "--port", str(port), str(folder / "repo")),
        ],
        f"127.0.0.1:{port}",
    )
    client = server.client()
    with fails("RESOURCE_EXHAUSTED"):
        client.write(b"x" * 2_000_000)
    client.upload(b"small")
    with pytest.raises(OSError):
        socket.create_connection(("::1", port), 5).close()


def test_the_old_command_line_with_an_index_only(assetd, folder):
    port = free_port()
    server = assetd(
        ["--index-only", "--enable-push", "--port", str(port), str(folder / "repo")],
        f"127.0.0.1:{port}",
    )
    client = server.client()
    digest = digest_of(b"elsewhere")
    client.push_blob("urn:a", digest)
    assert client.fetch_blob("urn:a").blob_digest == digest
    with fails("UNIMPLEMENTED"):
        client.find_missing([digest])


def test_the_old_name(folder):
    """Called as bst-artifact-server it is the same program, and says that name."""
    old = folder / "bst-artifact-server"
    old.symlink_to(ASSETD)
    done = subprocess.run([old], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "bst-artifact-server" in done.stderr
