# SPDX-License-Identifier: Apache-2.0
"""Listeners that do TLS themselves: who gets in, as whom, and how connections begin and end."""

import contextlib
import os
import pathlib
import re
import socket
import ssl

import grpc
import pytest
import yaml

from lib.certificates import fingerprint, make_pair
from lib.client import fails
from lib.content import digest_of, noise
from lib.metrics import figures
from lib.ports import free_port
from lib.reloads import kept_keys, reload
from lib.server import PATIENCE, run_assetd, run_tool, wait_until
from lib.tls import SHUT_OUT, TlsFiles, accepted, is_closed, open_socket, outcome
from lib.uploads import held_write
from nginx import methods
from nginx.clients import Http2, Target, call

DATA = b"pushed through TLS"

# By name: which certificates are asked for.
CLIENTS = {"anyone": None, "require": "require", "request": "request"}
LISTENERS = [f"{client}-{access}" for client in CLIENTS for access in ("read", "write")]

# The identity of who is let in; SHUT_OUT, and those who can connect but may call nothing.
UNNAMED = "cert-"
WHO = {
    "none": None,
    "member": "member",
    "reader": "reader",
    "unnamed": UNNAMED,
    "signer": "signer",
    "child": "child",
    "orphan": "orphan",
    "twice": "first",
    "unknown": SHUT_OUT,
    "namesake": SHUT_OUT,
    "expired": SHUT_OUT,
    "signed": "UNAUTHENTICATED",
    "signed-chain": "UNAUTHENTICATED",
    "employee": "UNAUTHENTICATED",
    "ill-named": "UNAUTHENTICATED",
}


def make_clients(files):
    """The pairs of WHO, and authorized.crt with those that are members."""

    def pair(name, subject=None, **options):
        make_pair(files.own, name, subject or name, **options)
        if name != "signed-chain":
            (files.own / f"{name}.crt").write_text(files.certificate(name))

    def authorize(name, comment=""):
        files.append("authorized.crt", comment + files.certificate(name))

    files.client("member")
    files.client("reader", "read")
    # As the usual openssl command makes them: it can sign others.
    pair("signer", is_ca=True)
    files.assetctl("add", "signer", files.own / "signer.crt")
    pair("signed", "member", issuer="signer")
    pair("signed-chain", "member", issuer="signer")
    # Others' authorities: one with a member of its own, one that is not in the file.
    pair("company", is_ca=True)
    authorize("company", "# client: company\n")
    pair("employee", "company", issuer="company")
    pair("child", "member", issuer="company")
    authorize("child", "# client: child\n")
    pair("elsewhere", is_ca=True)
    pair("orphan", issuer="elsewhere")
    authorize("orphan", "# client: orphan\n")
    pair("unnamed")
    authorize("unnamed")
    pair("twice")
    authorize("twice", "# client: first read\n")
    authorize("twice", "# client: second\n")
    pair("ill-named")
    authorize("ill-named", "# client: a name\n")
    pair("expired", days=-1)
    authorize("expired", "# client: late\n")
    pair("unknown")
    pair("namesake", "member", is_ca=True)


class Door:
    """A server with all kinds of listeners; FILES are theirs."""

    def __init__(self, assetd, folder):
        self.files = TlsFiles(folder)
        make_clients(self.files)
        self.listeners = {}
        for kind in LISTENERS:
            client, access = kind.split("-")
            self.listeners[kind] = self.files.listener(access, CLIENTS[client])
        plain = {"address": f"127.0.0.1:{free_port()}", "access": "write"}
        self.listeners["plain"] = plain
        self.server = assetd(
            listeners=[plain, *(self.listeners[kind] for kind in LISTENERS)],
            instances=[
                {"name": "", "storage": str(folder / "main")},
                {
                    "name": "team",
                    "storage": str(folder / "team"),
                    "push": ["member"],
                    "pull": ["member", "reader"],
                },
            ],
            log={"level": "trace"},
        )
        self.server.client().upload(DATA)

    def connect(self, kind, who, *, instance="", **options):
        name = None if who == "none" else who
        return self.files.connect(
            self.server, self.listeners[kind], name, instance=instance, **options
        )

    def identities(self, kind, before):
        """Of the calls at that listener in the log from BEFORE on."""
        address = self.listeners[kind]["address"]
        lines = self.server.log()[before:].splitlines()
        calls = [line for line in lines if "event=call " in line and f"listener={address}" in line]
        return [line.partition(" identity=")[2].split(" ")[0].strip('"') for line in calls]


@pytest.fixture(scope="module")
def shared_door(module_assetd, module_folder):
    return Door(module_assetd, module_folder)


@pytest.fixture
def door(shared_door):
    yield shared_door
    shared_door.server.close_clients()


def read(client):
    assert client.has(digest_of(DATA))


def write(client):
    client.batch_update([(digest_of(DATA), DATA)])


# Who gets in


def expected(kind, who):
    """What a read and a write come to."""
    client, access = kind.split("-")
    identity = WHO[who]
    if client == "anyone":
        return "OK", "OK" if access == "write" else "PERMISSION_DENIED"
    if identity is None and client == "require":
        return SHUT_OUT, SHUT_OUT
    if identity in (SHUT_OUT, "UNAUTHENTICATED"):
        return identity, identity
    reads_only = who in ("reader", "twice", "none")
    return "OK", "PERMISSION_DENIED" if access == "read" or reads_only else "OK"


@pytest.mark.parametrize("kind", LISTENERS)
@pytest.mark.parametrize("who", WHO)
def test_who_gets_in(door, who, kind):
    client = door.connect(kind, who)
    assert (outcome(read, client), outcome(write, client)) == expected(kind, who)


@pytest.mark.parametrize("kind", LISTENERS)
@pytest.mark.parametrize("who", WHO)
def test_as_whom(door, who, kind):
    """By the file, whatever the certificate says of itself, and whatever is sent."""
    if expected(kind, who)[0] != "OK":
        identity = None
    elif kind.startswith("anyone") or WHO[who] is None:
        identity = ""
    elif WHO[who] == UNNAMED:
        identity = UNNAMED + fingerprint(door.files.own / "unnamed.crt")[:16]
    else:
        identity = WHO[who]
    before = len(door.server.log())
    for metadata in ((), (("x-client-identity", "member"),)):
        outcome(read, door.connect(kind, who, metadata=metadata))
    if expected(kind, who)[0] == SHUT_OUT:
        assert door.identities(kind, before) == []
        return
    wait_until(lambda: len(door.identities(kind, before)) == 2, "the calls are not logged")
    assert door.identities(kind, before) == [identity or ""] * 2


@pytest.mark.parametrize("who", ["signed", "signed-chain", "employee", "ill-named"])
def test_who_is_not_in_the_file_is_told_what_to_do(door, who):
    with fails("UNAUTHENTICATED", door.files.fingerprint(who)) as info:
        read(door.connect("require-write", who))
    assert "authorized.crt" in info.value.details()
    assert "assetctl cert add" in info.value.details()


@pytest.mark.parametrize("kind", ["require-write", "request-write"])
@pytest.mark.parametrize("method", [*methods.READS, *methods.WRITES, *methods.UNKNOWN])
def test_no_method_takes_a_certificate_that_a_member_signed(door, kind, method):
    client = door.connect(kind, "signed")
    code, _ = call(client.channel, method)
    # What is no method at all is that for everybody.
    assert code == "UNAUTHENTICATED" or (
        code == "UNIMPLEMENTED" and call(door.server.client().channel, method)[0] == code
    )


@pytest.mark.parametrize(
    "kind, who",
    [("require-write", "reader"), ("request-write", "none"), ("require-read", "member")],
)
def test_no_write_without_the_right(door, kind, who):
    client = door.connect(kind, who)
    plain = door.server.client()
    for method in methods.WRITES:
        allowed, _ = call(plain.channel, method)
        denied, message = call(client.channel, method)
        assert denied == (allowed if allowed == "UNIMPLEMENTED" else "PERMISSION_DENIED"), message
    for method in methods.READS:
        if not method.endswith("Watch"):
            assert call(client.channel, method)[0] == call(plain.channel, method)[0]


def test_who_may_not_write_is_told_why(door):
    with fails("PERMISSION_DENIED", "reader.*read"):
        write(door.connect("require-write", "reader"))
    with fails("PERMISSION_DENIED", "certificate"):
        write(door.connect("request-write", "none"))


def test_lists_of_instances(door):
    """They go by the name in the file."""
    team = {who: door.connect("require-write", who, instance="team") for who in WHO}
    data = b"of the team"
    digest = team["member"].upload(data)
    team["member"].push_blob("urn:a", digest)
    assert team["reader"].fetch_blob("urn:a").blob_digest == digest
    for who in ("unnamed", "signer", "child", "twice"):
        with fails("PERMISSION_DENIED", WHO[who]):
            team[who].has(digest)
    for kind in ("request-write", "anyone-write", "plain"):
        options = {"instance": "team", "metadata": [("x-client-identity", "member")]}
        if kind == "plain":
            client = door.server.client(**options)
        else:
            client = door.connect(kind, "none", **options)
        with fails("PERMISSION_DENIED"):
            client.has(digest)
        with fails("PERMISSION_DENIED"):
            client.upload(data)


# Handshakes


def target_of(files, listener, name=None):
    """For clients that look at the handshake."""
    port = int(listener["address"].rpartition(":")[2])
    pair = (files.own / f"{name}.{kind}" for kind in ("key", "crt")) if name else ()
    return Target(port, "localhost", files.own / "root.crt", *pair)


def handshake(target, **settings):
    context = target.context()
    for name, value in settings.items():
        setattr(context, name, value)
    # Else this side would refuse the old versions itself.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with target.connect(context) as connection:
        return connection.version(), connection.selected_alpn_protocol()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("kind", ["anyone-read", "require-write", "request-write"])
def test_new_versions_of_tls_alone_are_taken(door, kind):
    target = target_of(door.files, door.listeners[kind], "member")
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        spoken = handshake(target, minimum_version=version, maximum_version=version)
        assert spoken == (name, "h2")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(target, minimum_version=version, maximum_version=version)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("who", ["none", "unknown", "namesake", "expired"])
def test_the_handshake_itself_refuses(door, who, version):
    """With TLS 1.3 the client has said all that it says, and learns it when it reads."""
    target = target_of(door.files, door.listeners["require-write"], None if who == "none" else who)
    context = target.context()
    context.minimum_version = context.maximum_version = version
    try:
        connection = target.connect(context)
    except (ssl.SSLError, ConnectionError):
        return
    assert version == ssl.TLSVersion.TLSv1_3
    with connection:
        assert is_closed(connection)


def test_the_whole_chain_of_the_server_is_shown(door):
    """Its file has the authority behind it."""
    address = door.listeners["anyone-read"]["address"]
    command = ["openssl", "s_client", "-connect", address, "-showcerts", "-alpn", "h2"]
    shown = run_tool(*command, errors="replace")
    assert shown.count("BEGIN CERTIFICATE") == 2
    assert "ALPN protocol: h2" in shown


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_does_not_outlive_its_certificate(assetd, folder, version):
    """Revoked, its client gets nothing by taking up the session from before."""
    files = TlsFiles(folder)
    files.client("member")
    files.client("other")
    listener = files.listener(client="require")
    server = assetd(listeners=beside_plain(folder, listener))
    target = target_of(files, listener, "member")

    def resumed(connection):
        connection.context.minimum_version = connection.context.maximum_version = version
        return connection

    with resumed(Http2(target)) as first:
        assert first.call(methods.HEALTH) == "0"
    with Http2(target, resumed=first) as second:
        assert second.call(methods.HEALTH) == "0"
        assert second.socket.session_reused
    files.assetctl("revoke", "member")
    try:
        with Http2(target, resumed=second) as third:
            assert third.call(methods.HEALTH) in ("closed", "16")
    except (ssl.SSLError, ConnectionError):
        pass
    assert outcome(read_nothing, files.connect(server, listener, "other")) == "OK"


def read_nothing(client):
    client.health()


def test_a_plain_client_at_a_port_with_tls(door):
    for kind in LISTENERS:
        client = door.server.client(door.listeners[kind]["address"])
        with fails(SHUT_OUT):
            client.health()
    assert outcome(read, door.connect("anyone-read", "none")) == "OK"


def test_a_client_with_tls_at_a_plain_port(door):
    with fails(SHUT_OUT):
        read(door.connect("plain", "member"))
    read(door.server.client())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(70000),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        bytes(1000),
        noise(1000, "garbage"),
    ],
    ids=["http1", "h2c", "too long a record", "cut hello", "zeros", "noise"],
)
def test_garbage_instead_of_a_handshake(door, data):
    with open_socket(door.listeners["require-write"]) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert is_closed(connection)
    assert outcome(read, door.connect("require-write", "member")) == "OK"


# Connections that never become any


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def test_handshakes_that_do_not_go_on_hold_up_nobody(door):
    """Not those who say nothing, nor those who stop in the middle; and nothing is left of them."""
    listener = door.listeners["require-write"]
    idle = descriptors(door.server)
    hello = client_hello()
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(open_socket(listener))
            connection.sendall(hello[: (0, 5, 100, len(hello))[number % 4]])
        wait_until(lambda: accepted(door.server, listener) >= 200, "they are not connected")
        for who in ("member", "reader"):
            assert outcome(read, door.connect("require-write", who)) == "OK"
    door.server.close_clients()
    wait_until(lambda: descriptors(door.server) <= idle, "their descriptors are left")


def test_a_handshake_that_does_not_go_on_ends(door):
    """Nobody who has no certificate keeps a descriptor of the server's."""
    said = ("anyone-read", b""), ("require-write", b""), ("require-write", client_hello())
    with contextlib.ExitStack() as stack:
        connections = []
        for kind, words in said:
            connections.append(stack.enter_context(open_socket(door.listeners[kind])))
            connections[-1].sendall(words)
        for connection in connections:
            connection.settimeout(PATIENCE)
            assert is_over(connection)


def client_hello():
    """The first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_refused_connections_leave_nothing(door):
    idle = descriptors(door.server)
    target = target_of(door.files, door.listeners["require-write"], "unknown")
    context = target.context()
    for _ in range(100):
        with contextlib.suppress(ssl.SSLError, ConnectionError), target.connect(context) as tls:
            tls.recv(1)
    door.server.close_clients()
    wait_until(lambda: descriptors(door.server) <= idle, "their descriptors are left")


# With other features


@pytest.fixture
def files(folder):
    files = TlsFiles(folder)
    files.client("member")
    return files


def test_a_server_with_tls_alone(assetd, folder, files):
    """Its health is asked through TLS, its calls are among the figures."""
    listener, port = files.listener(client="require"), free_port()
    server = assetd(
        start=False, listeners=[listener], metrics={"address": f"127.0.0.1:{port}"}
    )
    server.credentials = files.credentials("member")
    server.start()
    client = files.connect(server, listener, "member")
    client.push_blob("urn:a", client.upload(DATA))
    assert client.read(digest_of(DATA)) == DATA
    push = f'method="{methods.PUSH}",status="0"'
    assert figures(port)["assetd_calls_total", push] == 1


def test_refused_calls_are_among_the_figures(assetd, files):
    make_pair(files.own, "signer", "signer", is_ca=True)
    files.assetctl("add", "signer", files.own / "signer.crt")
    make_pair(files.own, "signed", "signed", issuer="signer")
    listener, port = files.listener(client="require"), free_port()
    plain = {"address": f"127.0.0.1:{free_port()}", "access": "read"}
    server = assetd(listeners=[plain, listener], metrics={"address": f"127.0.0.1:{port}"})
    with fails("UNAUTHENTICATED"):
        files.connect(server, listener, "signed").fetch_blob("urn:a")
    assert figures(port)["assetd_calls_total", f'method="{methods.FETCH}",status="16"'] == 1


def test_messages_of_all_sizes_pass_both_ways(door):
    data = noise(20 << 20, "through TLS")
    client = door.connect("require-write", "member")
    assert client.write(data, chunk=2 << 20) == len(data)
    client.upload(noise(3 << 20, "a batch"))
    reader = door.connect("anyone-read", "none")
    assert reader.read(digest_of(data)) == data
    assert reader.batch_read([digest_of(noise(3 << 20, "a batch"))])[0].status.code == 0


def beside_plain(folder, *listeners):
    """LISTENERS, behind one that can be asked without TLS."""
    return [{"address": f"unix:{folder}/plain.sock", "access": "write"}, *listeners]


@pytest.mark.parametrize("key", ["certificate", "key", "client-ca", "client", "tls"])
def test_another_tls_needs_a_restart(assetd, folder, files, key):
    """It is named, and nothing of it is taken over before."""
    listener = files.listener(client="require")
    server = assetd(listeners=beside_plain(folder, listener))
    before = files.seen(listener, "member")
    other = files.path("other")
    other.mkdir()
    files.client("later")
    wanted = {**listener, "tls": dict(listener["tls"])}
    if key == "tls":
        del wanted["tls"]
    elif key == "client":
        wanted["tls"]["client"] = "request"
    else:
        name = wanted["tls"][key]
        other.joinpath("same").write_text(pathlib.Path(name).read_text())
        wanted["tls"][key] = str(other / "same")
    log = reload(server, listeners=beside_plain(folder, wanted))
    assert kept_keys(log) == ["listeners[1].tls"]
    assert files.seen(listener, "member") == before
    assert outcome(read_nothing, files.connect(server, listener)) == SHUT_OUT
    assert outcome(read_nothing, files.connect(server, listener, "later")) == "OK"
    assert kept_keys(reload(server, listeners=beside_plain(folder, listener))) == []


def test_what_else_a_reload_changes_holds_for_open_connections(assetd, folder, files):
    files.client("other")
    listener = files.listener(client="require")
    server = assetd(listeners=beside_plain(folder, listener))
    client = files.connect(server, listener, "other")
    client.upload(DATA)
    only = server.config["instances"][0]
    reload(server, instances=[{**only, "push": ["member"]}])
    with fails("PERMISSION_DENIED", "other"):
        client.upload(DATA)
    files.connect(server, listener, "member").upload(DATA)


@pytest.mark.parametrize("ends", [True, False])
def test_a_stop_during_a_stream(assetd, folder, files, ends):
    """It may end within the grace; else it is cancelled."""
    listener = files.listener(client="require")
    grace = "60s" if ends else "0s"
    server = assetd(listeners=beside_plain(folder, listener), shutdown_grace=grace)
    data = noise(1 << 20, "held")
    client = files.connect(server, listener, "member")
    with held_write(client, data, 1) as held:
        server.signal()
        wait_until(lambda: "event=stopping" in server.log(), server.log)
        if not ends:
            assert server.wait() == 0
    if ends:
        assert held.result(PATIENCE).committed_size == len(data)
        server.close_clients()
        assert server.wait() == 0
    else:
        assert held.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_stop_while_handshakes_are_under_way(assetd, folder, files):
    listener = files.listener(client="require")
    server = assetd(listeners=beside_plain(folder, listener))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_socket(listener)) for _ in range(20)]
        for connection in connections[::2]:
            connection.sendall(client_hello())
        wait_until(lambda: accepted(server, listener) == 20, "they are not connected")
        server.stop()
        assert all(map(is_over, connections))


def is_over(connection):
    """Whether it ends, whatever comes before that."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def test_it_prints_what_is_configured(assetd, folder, files):
    listeners = beside_plain(folder, files.listener(client="request"), files.listener("read"))
    server = assetd(start=False, listeners=listeners)
    done = run_assetd("--config", server.folder / "assetd.yaml", "--print-config")
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)["listeners"]
    assert [listener.get("tls") for listener in printed] == [
        listener.get("tls") for listener in listeners
    ]


@pytest.mark.parametrize(
    "change, key, reason",
    [
        ({"address": "unix:/tmp/a.sock"}, "tls", "unix"),
        ({"identity": "x-client-identity"}, "identity", "client-ca"),
        ({"tls": {"client-ca": None}}, "tls.client", "client-ca"),
        ({"tls": {"key": None}}, "tls", "key"),
        ({"tls": {"certificate": None}}, "tls", "certificate"),
        ({"tls": {"client": "maybe"}}, "tls.client", "require"),
        ({"tls": {"surprise": "a"}}, "tls.surprise", "is no key here"),
        ({"access": "admin"}, "access", "unix"),
    ],
)
def test_what_does_not_go_together_is_refused(assetd, files, change, key, reason):
    listener = files.listener(client="request")
    tls = {**listener["tls"], **change.pop("tls", {})}
    listener["tls"] = {name: value for name, value in tls.items() if value is not None}
    server = assetd(start=False, listeners=[{**listener, **change}])
    done = run_assetd("--config", server.folder / "assetd.yaml", "--check")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    found = re.findall(rf"assetd.yaml:\d+:\d+: listeners\[0\]\.{key}: (.*)", said)
    assert any(re.search(reason, line) for line in found), said
