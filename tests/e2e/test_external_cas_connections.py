# SPDX-License-Identifier: Apache-2.0
"""How an external CAS is reached: addresses, TLS, tokens, and what a reload changes of that."""

import socket

import grpc
import pytest

from lib.client import fails, is_answered
from lib.content import Tree, digest_of
from lib.external_cas import BATCH_READ, FIND, Hold, alters, index_only, refuses
from lib.forwarder import Forwarder
from lib.ports import free_port
from lib.reloads import kept_keys, load, reload, reload_fails
from lib.server import StartError, run_assetctl, run_assetd, wait_until


def push(client, cas, content=b"content"):
    """Pushes it as urn:a; returns the digest."""
    digest = cas.put(content)
    client.push_blob("urn:a", digest)
    return digest


@pytest.mark.parametrize("where", ["tcp", "name", "unix"])
def test_plain_connections(external_cas, paired, monkeypatch, where):
    # Of no concern to it: where the CAS is, the configuration says.
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    cas = external_cas(None if where == "unix" else f"127.0.0.1:{free_port()}")
    named = {"address": cas.url.replace("127.0.0.1", "localhost")} if where == "name" else {}
    client = paired(cas, **named).client()
    digest = push(client, cas)
    assert client.fetch_blob("urn:a").blob_digest == digest


def test_calls_are_spread_over_connections(external_cas, paired):
    cas = external_cas(f"127.0.0.1:{free_port()}")
    client = paired(cas, connections=4).client()
    digest = push(client, cas)
    for _ in range(20):
        assert client.fetch_blob("urn:a").blob_digest == digest
    assert len({call.peer for call in cas.take()}) == 4


def test_a_connection_that_is_lost_without_a_word(external_cas, paired):
    """As by a firewall that has forgotten it: new ones would do."""
    cas = external_cas(f"127.0.0.1:{free_port()}")
    forwarder = Forwarder(cas.address, free_port())
    try:
        client = paired(cas, address=f"grpc://{forwarder.address}", timeout="1s").client()
        digest = push(client, cas)
        forwarder.lose_connections()
        with fails("UNAVAILABLE", "timeout"):
            client.fetch_blob("urn:a")
        wait_until(lambda: is_answered(client.fetch_blob, "urn:a"), "it makes no new one")
        assert client.fetch_blob("urn:a").blob_digest == digest
    finally:
        forwarder.stop()


def test_another_instance_of_the_same_server(assetd, folder):
    """As one that has a CAS may be what another pairs with, if it is served to anyone."""
    server = assetd(start=False)
    server.configure(
        instances=[
            {"name": "storage", "storage": str(folder / "storage")},
            {
                "name": "index",
                "storage": str(folder / "index"),
                "index-only": True,
                "cas": {"address": server.pull, "instance-name": "storage", "trust": "0s"},
            },
        ]
    )
    server.start()
    tree = Tree({"sub": {"file": b"content"}})
    blobs = [b"artifact", *tree.blobs.values()]
    digest = digest_of(b"artifact")
    storage, index = server.client(instance="storage"), server.client(instance="index")
    # It is asked before it listens.
    wait_until(lambda: is_answered(index.capabilities), "it never is its own CAS")
    for number, absent in enumerate(blobs):
        for data in blobs[:number]:
            storage.upload(data)
        with fails("FAILED_PRECONDITION"):
            index.push_blob("urn:a", digest, references_directories=[tree.root])
        assert not storage.has(digest_of(absent))
    storage.upload(*blobs)
    index.push_blob("urn:a", digest, references_directories=[tree.root])
    assert index.fetch_blob("urn:a").blob_digest == digest
    assert index.capabilities() == storage.capabilities()


def test_an_instance_cannot_be_its_own_cas(assetd, folder):
    server = assetd(start=False)
    server.expects_errors = True
    instance = index_only(folder)
    instance["cas"] = {"address": server.pull}
    server.configure(instances=[instance])
    with pytest.raises(StartError, match="has no CAS"):
        server.start()


def test_the_time_that_a_call_has_is_told(paired, cas):
    client = paired(cas, timeout="5m").client()
    push(client, cas)
    # The core rounds it up to what it can tell in few digits.
    assert all(60 < call.time_left < 310 for call in cas.take())


# TLS


class Keys:
    """Key pairs of a server and of clients in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.run("server", "127.0.0.1")
        self.client("ci")

    def run(self, *arguments):
        done = run_assetctl("cert", arguments[0], "--dir", self.folder, *arguments[1:])
        assert done.returncode == 0, done.stderr

    def client(self, name):
        self.run("client", name, "--out", self.folder)

    def path(self, name):
        return self.folder / name

    def pair(self, name):
        return self.path(f"{name}.key"), self.path(f"{name}.crt")

    def tls(self, client=None):
        """The keys of `cas: tls:`."""
        key, certificate = self.pair(client) if client else (None, None)
        pair = {"certificate": str(certificate), "key": str(key)} if client else {}
        return {"ca": str(self.path("server.crt")), **pair}


@pytest.fixture
def keys(folder):
    return Keys(folder / "keys")


@pytest.fixture
def secure_cas(external_cas, keys):
    """Starts one that speaks TLS."""

    def start(**options):
        return external_cas(f"127.0.0.1:{free_port()}", tls=keys.pair("server"), **options)

    return start


def test_tls_with_a_ca_of_its_own(secure_cas, paired, keys):
    cas = secure_cas()
    client = paired(cas, tls=keys.tls()).client()
    digest = push(client, cas)
    assert client.fetch_blob("urn:a").blob_digest == digest


def test_tls_with_a_client_certificate(secure_cas, paired, keys):
    cas = secure_cas(clients=keys.path("ci.crt"))
    client = paired(cas, tls=keys.tls("ci")).client()
    digest = push(client, cas)
    assert client.fetch_blob("urn:a").blob_digest == digest


def wrong_ca(keys):
    other = Keys(keys.folder.with_name("others"))
    return {**keys.tls("ci"), "ca": str(other.path("server.crt"))}


def wrong_client(keys):
    keys.client("stranger")
    return keys.tls("stranger")


WRONG = {
    "another ca": wrong_ca,
    "the ca of the system": lambda keys: {**keys.tls("ci"), "ca": None},
    "no client certificate": lambda keys: keys.tls(),
    "another client certificate": wrong_client,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_tls_that_does_not_come_about(secure_cas, paired, keys, wrong):
    cas = secure_cas(clients=keys.path("ci.crt"))
    tls = {name: path for name, path in wrong(keys).items() if path}
    server = paired(cas, tls=tls)
    client = server.client()
    with fails("UNAVAILABLE", cas.url):
        push(client, cas)

    def is_lost():
        assert not is_answered(push, client, cas)
        return "event=cas-lost" in server.log()

    wait_until(is_lost, "the log does not tell it")
    assert cas.take() == []


def test_pairs_that_are_replaced_are_taken_when_it_reconnects(secure_cas, paired, keys):
    cas = secure_cas(clients=keys.path("ci.crt"))
    server = paired(cas, tls=keys.tls("ci"))
    client = server.client()
    push(client, cas)
    cas.stop()
    keys.run("server", "--replace", "127.0.0.1")
    keys.client("new")
    for kind in ("key", "crt"):
        keys.path(f"new.{kind}").rename(keys.path(f"ci.{kind}"))
    cas.start()
    wait_until(lambda: is_answered(push, client, cas), "it keeps the old ones")


FILES = {
    "ca": {"tls": {"ca": "/no/such/file"}},
    "certificate": {"tls": {"certificate": "/no/such/file", "key": "/no/such/file"}},
    "token": {"token_file": "/no/such/file"},
}


@pytest.mark.parametrize("config", FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_read_is_told_at_the_start(
    secure_cas, assetd, folder, keys, config
):
    cas = secure_cas()
    server = assetd(start=False, instances=[index_only(folder, cas=cas, **config)])
    server.expects_errors = True
    with pytest.raises(StartError) as info:
        server.start()
    assert info.value.status == 1
    assert "/no/such/file" in info.value.log
    # And at a reload, which leaves all as it is.
    server.configure(instances=[index_only(folder, cas=cas, tls=keys.tls())])
    server.start()
    log = reload_fails(server, instances=[index_only(folder, cas=cas, **config)])
    assert "/no/such/file" in log
    push(server.client(), cas)


USELESS = {
    "empty token": ("token_file", "", "is empty"),
    "token of several words": ("token_file", "Bearer word", "without \"Bearer\""),
    "ca": ("ca", "no PEM", "no certificate"),
    "certificate": ("certificate", "no PEM", "no certificate"),
    "key": ("key", "no PEM", "no private key"),
}


@pytest.mark.parametrize("name, text, reason", USELESS.values(), ids=USELESS.keys())
def test_a_file_of_no_use_is_found_by_check(secure_cas, assetd, folder, keys, name, text, reason):
    file = folder / "file"
    file.write_text(text)
    config = {"tls": keys.tls("ci")}
    (config if name == "token_file" else config["tls"])[name] = str(file)
    server = assetd(start=False, instances=[index_only(folder, cas=secure_cas(), **config)])
    done = run_assetd("--config", server.folder / "assetd.yaml", "--check")
    assert done.returncode == 1
    assert f'instance "": cas: {file}' in done.stderr
    assert reason in done.stderr


def test_a_port_without_tls_is_told_once(paired, cas, keys):
    """Whatever the number of connections that are tried."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        server = paired(cas, address=f"grpcs://127.0.0.1:{port}", tls=keys.tls())
        for _ in range(5):
            near, _ = plain.accept()
            near.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            near.close()
    told = [line for line in server.log().splitlines() if "event=grpc-core" in line]
    assert len(told) == 1, told
    assert "wrong version number" in told[0]


def test_a_port_of_http_is_told(paired, cas):
    """As nginx answers at one with TLS to who sends none."""
    with socket.create_server(("127.0.0.1", 0)) as http:
        port = http.getsockname()[1]
        server = paired(cas, address=f"grpc://127.0.0.1:{port}")
        near, _ = http.accept()
        with near:
            near.recv(4096)
            near.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    wait_until(lambda: "event=cas-unreachable" in server.log(), server.log)
    assert "http1.x server; is that the port of the CAS?" in server.log()


# Tokens


@pytest.mark.parametrize("where", ["tcp", "unix", "tls"])
def test_a_token_is_sent_and_read_again_when_it_changes(
    external_cas, secure_cas, paired, folder, keys, where
):
    token = folder / "token"
    token.write_text("a-first-token\n")
    options = {"token_file": str(token)}
    if where == "tls":
        cas = secure_cas()
        options["tls"] = keys.tls()
    else:
        cas = external_cas(f"127.0.0.1:{free_port()}" if where == "tcp" else None)
    server = paired(cas, **options)
    client = server.client()

    def sent():
        push(client, cas)
        client.capabilities()
        return [call.metadata.get("authorization") for call in cas.take()]

    assert set(map(str, sent())) == {"['Bearer a-first-token']"}
    (folder / "next").write_text("another-token")
    (folder / "next").rename(token)
    wait_until(lambda: sent()[-1] == ["Bearer another-token"], "the old one is sent for ever")
    assert "a-first-token" not in server.log() and "another-token" not in server.log()


def test_a_token_that_the_cas_repeats_is_told_to_nobody(paired, cas, folder):
    """Neither to clients nor to the log, whatever the CAS says of it."""
    (folder / "token").write_text("a-secret-token")
    server = paired(cas, token_file=str(folder / "token"), config={"log": {"level": "trace"}})
    client = server.client()
    tree = Tree({"file": b"content"})
    cas.put_tree(tree)
    text = "no such token: 'Bearer a-secret-token', a-secret-token"
    with cas.fault(refuses("UNAUTHENTICATED", text)), fails("UNAVAILABLE", "no such token"):
        push(client, cas)

    def refuse(answer):
        for response in answer.responses:
            response.status.code = grpc.StatusCode.PERMISSION_DENIED.value[0]
            response.status.message = text

    def is_told():
        with cas.fault(alters(refuse), BATCH_READ), fails("UNAVAILABLE") as info:
            client.push_directory("urn:tree", tree.root)
        assert "a-secret-token" not in info.value.details()
        return "PERMISSION_DENIED: no such token" in info.value.details()

    wait_until(is_told, "it is not told what the CAS says")
    assert "no such token" in server.log()
    assert "a-secret-token" not in server.log()


def test_without_a_token_none_is_sent(paired, cas):
    client = paired(cas).client()
    push(client, cas)
    assert all("authorization" not in call.metadata for call in cas.take())


def test_the_metadata_of_clients_stay_here(paired, cas):
    server = paired(cas)
    client = server.client(metadata=[("authorization", "Bearer of-a-client"), ("x-mine", "1")])
    push(client, cas)
    client.fetch_blob("urn:a")
    for call in cas.take():
        assert not {"authorization", "x-mine"} & set(call.metadata)


# Reloads


def test_a_cas_comes_and_goes(external_cas, assetd, folder):
    one, two = external_cas(), external_cas()
    server = assetd(instances=[index_only(folder)])
    client = server.client()
    absent = digest_of(b"content")
    client.push_blob("urn:a", absent)
    reload(server, instances=[index_only(folder, cas=one, trust="10m")])
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    digest = push(client, one)
    client.fetch_blob("urn:a")
    # The same once more goes on, with what it remembers.
    one.take()
    reload(server, instances=[index_only(folder, cas=one, trust="10m")])
    client.fetch_blob("urn:a")
    assert one.take(FIND) == []
    # What another has is not known.
    reload(server, instances=[index_only(folder, cas=two, trust="10m")])
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    two.put(b"content")
    assert client.fetch_blob("urn:a").blob_digest == digest
    assert one.take(FIND) == []
    # It has no trust any more.
    two.take()
    reload(server, instances=[index_only(folder, cas=two, trust="0s")])
    client.fetch_blob("urn:a")
    client.fetch_blob("urn:a")
    assert len(two.take(FIND)) == 2
    two.remove(digest)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    log = reload(server, instances=[index_only(folder)])
    assert "reload-needs-restart" not in log
    assert client.fetch_blob("urn:a").blob_digest == digest
    assert two.take(FIND)[2:] == []


def test_a_cas_waits_for_the_restart_with_index_only(assetd, folder, cas):
    """Until then it is neither asked nor said to be paired with."""
    server = assetd(instances=[{"name": "", "storage": str(folder / "storage"), "quota": "20MB"}])
    instance = {**index_only(folder, cas=cas), "storage": str(folder / "storage")}
    log = reload(server, instances=[instance])
    assert kept_keys(log) == ["instances[0].cas", "instances[0].index-only"]
    client = server.client()
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest)
    assert client.fetch_blob("urn:a").blob_digest == digest
    assert cas.take() == []
    assert "cas-paired" not in server.log()
    server.restart()
    with fails("NOT_FOUND"):
        server.client().fetch_blob("urn:a")


def test_a_check_ends_well_though_its_cas_is_taken_away(assetd, folder, cas):
    server = assetd(instances=[index_only(folder, cas=cas)])
    client = server.client()
    digest = push(client, cas)
    with cas.fault(Hold(1), FIND) as hold:
        call = client.begin_fetch_blob("urn:a")
        hold.wait_for(1)
        reload(server, instances=[index_only(folder)])
        assert client.fetch_blob("urn:a").blob_digest == digest
    assert call.result().blob_digest == digest


def test_an_instance_with_a_cas_is_added_and_removed(assetd, folder, cas):
    server = assetd()
    main = server.config["instances"]
    for _ in range(2):
        reload(server, instances=[index_only(folder, "team", cas, instance_name=""), *main])
        client = server.client(instance="team")
        push(client, cas)
        reload(server, instances=main)
        with fails("NOT_FOUND", "team"):
            client.fetch_blob("urn:a")


def push_and_fetch(client, number, _count):
    """A turn of a load."""
    digest = digest_of(b"content")
    client.push_blob(f"urn:{number}", digest)
    assert client.fetch_blob(f"urn:{number}").blob_digest == digest
    client.capabilities()


def test_no_call_is_lost(external_cas, assetd, folder):
    one, two = external_cas(), external_cas()
    for cas in (one, two):
        cas.put(b"content")
    server = assetd(instances=[index_only(folder)])
    with load(server, push_and_fetch):
        for _ in range(8):
            for keys in ({"cas": one}, {"cas": two}, {"cas": two, "trust": "1h"}, {}):
                reload(server, instances=[index_only(folder, **keys)])
    assert one.take(FIND) and two.take(FIND)
    assert "reload-failed" not in server.log()
