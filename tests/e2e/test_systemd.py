# SPDX-License-Identifier: Apache-2.0
"""What is shipped for systemd: the units, their sandbox, and the folders that they count on."""

import grp
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import urllib.request

import grpc
import pytest
import yaml

from lib.client import Client
from lib.content import Tree, digest_of, noise
from lib.ports import free_port
from lib.server import ASSETD, CHECKOUT, PATIENCE, run_assetd, run_tool, wait_until
from lib.tls import TlsFiles

SHIPPED = CHECKOUT / "deploy" / "systemd"
SERVICES = ("assetd.service", "assetd@.service")
# For the two ports of bst-artifact-server, on one folder.
PULL = "bst-artifact-serve.service"
PUSH = "bst-artifact-serve-receive.service"
PAIR = {"certificate": "crt", "key": "key"}


def settings(name):
    """The settings of a unit as (section, key, value), in their order."""
    section = None
    found = []
    for line in (SHIPPED / name).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append((section, key, value))
    return found


def values(name, key):
    return [value for _, k, value in settings(name) if k == key]


def words(name, key):
    return [word for value in values(name, key) for word in value.split()]


@pytest.fixture
def root(folder):
    """A root folder with the units and what they start, and a stand-in for nginx's own unit."""
    units = folder / "etc" / "systemd" / "system"
    shutil.copytree(SHIPPED, units)
    for program, source in (("usr/sbin/assetd", ASSETD), ("bin/sh", "/bin/sh")):
        (folder / program).parent.mkdir(parents=True)
        shutil.copy(source, folder / program)
    (folder / "usr/bin").mkdir()
    (folder / "usr/bin/bst-artifact-server").symlink_to("../sbin/assetd")
    (units / "nginx.service").write_text("[Service]\nType=forking\nExecStart=/bin/sh\n")
    return folder


# --- the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["assetd.service", "assetd@kernel.service", "nginx.service", PULL, PUSH]
)
def test_the_units_are_right(root, name):
    output = run_tool(
        *("systemd-analyze", "verify", "--man=no", "--recursive-errors=no"),
        *(f"--root={root}", name),
    )
    assert output == ""


@pytest.mark.parametrize("name", [*SERVICES, PULL, PUSH])
def test_the_units_are_sandboxed(name):
    """At most 2.0 of 10."""
    unit = SHIPPED / name
    run_tool("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", unit)


def test_one_and_several_differ_in_the_name_alone():
    one, several = (settings(name) for name in SERVICES)
    assert len(one) > 40
    named = [
        (section, key, value.replace("/%i.yaml", "/assetd.yaml").removesuffix(" %i"))
        for section, key, value in several
    ]
    assert named == one
    assert "%i" in " ".join(values(SERVICES[1], "ExecStart"))


def test_pull_and_push_differ_in_what_they_serve_alone():
    pull, push = (settings(name) for name in (PULL, PUSH))
    assert len(pull) > 40
    assert [key for _, key, _ in pull] == [key for _, key, _ in push]
    differing = [one[1] for one, other in zip(pull, push) if one != other]
    assert differing == ["Description", "ExecStart"]


def test_under_the_old_name_the_sandbox_is_the_same():
    """But for what the unit says itself, and groups of sockets, which are not there."""
    own = {"ProtectHome", "RemoveIPC", "ReadWritePaths", "InaccessiblePaths", "ExecPaths"}
    texts = ((SHIPPED / name).read_text() for name in ("assetd.service", PULL))
    assetd, pull = (
        {
            line
            for line in text[text.index("NoNewPrivileges=") : text.index("[Install]")].splitlines()
            if line and not line.startswith("#") and line.partition("=")[0] not in own
        }
        for text in texts
    )
    assert len(pull) > 20
    assert assetd - pull == {"SystemCallFilter=chown fchownat"}
    assert pull <= assetd
    assert values(PULL, "ProtectHome") == ["read-only"]


def meant_by(name):
    """What the command line of a unit means, as the YAML that it prints."""
    (start,) = values(name, "ExecStart")
    (folder,) = values(name, "WorkingDirectory")
    program, *arguments = start.split()
    assert program == "/usr/bin/bst-artifact-server"
    whole = [f"{folder}/{word}" if "." in word else word for word in arguments[:-1]]
    done = run_assetd(*whole, "--print-config", f"{folder}/{arguments[-1]}")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_pull_and_push_are_two_ways_to_one_folder():
    """The commands of the units: nobody writes without a certificate, and both have one storage."""
    pull, push = (meant_by(name) for name in (PULL, PUSH))
    pair = {key: f"/home/artifacts/server.{kind}" for key, kind in PAIR.items()}
    assert pull["listeners"] == [{"address": "[::]:11001", "access": "read", "tls": pair}]
    authorized = {"client-ca": "/home/artifacts/authorized.crt", "client": "require"}
    assert push["listeners"] == [
        {"address": "[::]:11002", "access": "write", "tls": {**pair, **authorized}}
    ]
    assert pull["instances"] == push["instances"]
    (instance,) = pull["instances"]
    assert instance["storage"] == "/home/artifacts/artifacts"
    for name in (PULL, PUSH):
        assert words(name, "ReadWritePaths") == ["-/home/artifacts"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_reload_checks_first_what_was_started(name):
    (start,) = values(name, "ExecStart")
    check, _ = values(name, "ExecReload")
    assert check == f"{start} --check"


def test_the_shipped_configuration_keeps_to_what_the_units_let_it_write():
    conf = yaml.safe_load((CHECKOUT / "config" / "minimal.yaml").read_text())
    (line,) = re.findall(r"^d .*$", (SHIPPED / "tmpfiles.d" / "assetd.conf").read_text(), re.M)
    _, sockets, _, user, group = line.split()
    assert [user] == values("assetd.service", "User")
    writable = [path.removeprefix("-") for path in words("assetd.service", "ReadWritePaths")]
    assert sockets in writable
    for listener in conf["listeners"]:
        assert listener["socket-group"] == group
        assert str(pathlib.Path(listener["address"].removeprefix("unix:")).parent) == sockets
    for instance in conf["instances"]:
        assert str(pathlib.Path(instance["storage"]).parent) in writable


# --- user and folders ----------------------------------------------------------------------------


def test_the_user(folder):
    output = run_tool(
        *("systemd-sysusers", "--dry-run", f"--root={folder}"),
        SHIPPED / "sysusers.d" / "assetd.conf",
    )
    assert "Would create user 'assetd'" in output or "Creating user 'assetd'" in output, output
    assert [*values("assetd.service", "User"), *values("assetd.service", "Group")] == ["assetd"] * 2


def test_the_folder_of_the_sockets(folder):
    """There the users have our own numbers, for those who may not give files away."""
    (folder / "etc").mkdir()
    (folder / "etc" / "passwd").write_text(f"assetd:x:{os.getuid()}:{os.getgid()}::/:/bin/false\n")
    (folder / "etc" / "group").write_text(f"assetd:x:77:\nwww-data:x:{os.getgid()}:\n")
    run_tool(
        *("systemd-tmpfiles", "--create", f"--root={folder}"),
        SHIPPED / "tmpfiles.d" / "assetd.conf",
    )
    assert stat.S_IMODE((folder / "run" / "assetd").stat().st_mode) == 0o2750


def as_user(user, gid):
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={gid}", "--clear-groups")


def test_sockets_take_the_group_of_their_folder(folder, assetd):
    """
    nginx's group may connect, though assetd is no member of it; others may not. As root with three
    users, else with what one has.
    """
    is_root = os.getuid() == 0
    user = pwd.getpwnam("nobody") if is_root else pwd.getpwuid(os.getuid())
    group = grp.getgrnam("www-data") if is_root else grp.getgrgid(os.getgid())
    sockets, own, program = folder / "run", folder / "s0", folder / "assetd"
    for made in (sockets, own):
        made.mkdir()
        os.chown(made, user.pw_uid, group.gr_gid)
    sockets.chmod(0o2750)
    # That user may not be let in where the program was built.
    shutil.copy(ASSETD, program)
    path = sockets / "pull.sock"
    assetd(
        prefix=[
            *(as_user(user, user.pw_gid) if is_root else ()),
            *("sh", "-c", f'shift; exec {program} "$@"', "sh"),
        ],
        listeners=[{"address": f"unix:{path}", "access": "read", "socket-group": group.gr_name}],
    )
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (user.pw_uid, group.gr_gid)
    assert stat.S_IMODE(status.st_mode) == 0o660
    if is_root:
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        other = pwd.getpwnam("daemon")
        run_tool(*as_user(other, group.gr_gid), "/usr/bin/python3", "-c", connect)
        with pytest.raises(AssertionError, match="PermissionError"):
            run_tool(*as_user(other, other.pw_gid), "/usr/bin/python3", "-c", connect)


# --- the sandbox ---------------------------------------------------------------------------------


def calls_of(group):
    """The system calls of a group of systemd's, or one that is named by itself."""
    if not group.startswith("@"):
        return {group}
    calls = set()
    for line in run_tool("systemd-analyze", "syscall-filter", "--no-pager", group).splitlines()[1:]:
        if word := line.split("#")[0].strip():
            calls |= calls_of(word)
    return calls


def allowed_calls():
    """Of SystemCallFilter, whose first line says what is let in, and the next what less or more."""
    allowed = calls_of("@default")
    for line in values("assetd.service", "SystemCallFilter"):
        named = set().union(*(calls_of(word) for word in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


@pytest.fixture(scope="module")
def trace(module_folder, module_assetd):
    """What a server asks of the kernel that is made to do all that there is to do."""
    port = free_port()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(module_folder / "notify"))
    own_group = grp.getgrgid(os.getgid()).gr_name
    server = module_assetd(
        start=False,
        instances=[{"name": "", "storage": str(module_folder / "storage"), "quota": "4MiB"}],
        metrics={"address": f"127.0.0.1:{port}"},
    )
    server.config["listeners"][0]["socket-group"] = own_group
    files = TlsFiles(module_folder)
    files.client("ci")
    listener = files.listener(client="require")
    server.config["listeners"] += [
        {"address": f"localhost:{free_port()}", "access": "read"},
        listener,
    ]
    server.configure()
    traces = []
    with manager:
        for end in (server.kill, server.stop):
            traces.append(module_folder / f"trace{len(traces)}")
            server.prefix = [
                # The leak check of a sanitizer wants to trace by itself.
                *("env", f"NOTIFY_SOCKET={module_folder}/notify", "LSAN_OPTIONS=detect_leaks=0"),
                *("strace", "-D", "-f", "-q", "-s", "0", "-o", traces[-1]),
            ]
            server.start()
            use(server)
            rotate(files, listener)
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).close()
            reload(server)
            end()
    return "".join(map(whole_trace, traces))


def whole_trace(path):
    """The tracer ends after the server, whose process is the first in its file."""

    def has_ended():
        text = path.read_text()
        return re.search(rf"^{text.split()[0]} +\+\+\+ ", text, re.M)

    wait_until(has_ended, f"{path} ends in the middle")
    return path.read_text()


def reload(server):
    """Reads its configuration again, which has an instance more."""
    name = f"new{server.process.pid}"
    instance = {"name": name, "storage": str(server.folder / name)}
    server.configure(instances=[*server.config["instances"], instance])
    server.signal(signal.SIGHUP)
    with Client(server.push, name) as client:
        wait_until(lambda: knows(client), server.log)
        client.push_blob("urn:blob", client.upload(b"blob"))


def rotate(files, listener):
    """Who has another certificate now, of the server and of the client, is let in."""
    for _ in range(2):
        with files.dial(listener, "ci") as client:
            client.push_blob("urn:blob", client.upload(b"blob"))
        files.replace_server()
        files.client("ci")


def knows(client):
    try:
        return client.find_missing([]) == []
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        return False


def use(server):
    """Pushes, fetches, and writes more than there is room for."""
    with server.client() as client, server.client(server.config["listeners"][2]["address"]) as other:
        tree = Tree({"file": b"content", "folder": {"link": "../file"}})
        client.push_directory("urn:tree", client.upload_tree(tree))
        client.get_tree(client.fetch_directory("urn:tree").root_directory_digest)
        client.push_blob("urn:blob", client.upload(b"blob"))
        other.fetch_blob("urn:blob")
        for seed in range(12):
            assert client.write(noise(700_000, seed)) == 700_000
        assert other.read(digest_of(noise(700_000, 11))) == noise(700_000, 11)


def test_the_sandbox_lets_assetd_do_its_work(trace):
    called = set(re.findall(r"^\d+ +(\w+)\(", trace, re.M)) - {"execve"}
    assert {"bind", "mmap", "chown", "unlinkat"} <= called
    assert called <= allowed_calls()
    families = set(re.findall(r" socket\((AF_\w+)", trace))
    assert {"AF_UNIX", "AF_INET"} <= families
    assert families <= set(words("assetd.service", "RestrictAddressFamilies"))


def test_no_memory_is_made_executable(trace):
    """MemoryDenyWriteExecute: a program's code is mapped for execution from the start, or never."""
    assert re.search(r" mmap\(.*PROT_EXEC", trace)
    assert not re.findall(r" mmap\(.*PROT_WRITE\|PROT_EXEC.*", trace)
    assert not re.findall(r" (?:pkey_)?mprotect\(.*PROT_EXEC.*", trace)
