# SPDX-License-Identifier: Apache-2.0
"""
deploy/bst-artifact-server.md: its commands and files as they stand there, in their order, but for
folders, ports and host names. What is for root and systemd is done by a stand-in, or by hand.
"""

import contextlib
import grp
import os
import pwd
import re
import shutil
import ssl
from types import SimpleNamespace

import grpc
import pytest
import yaml

from lib import guide, logs
from lib.bst import elements_with
from lib.client import Client, fails
from lib.content import digest_of
from lib.old_server import OldServer
from lib.ports import free_port
from lib.project import ELEMENTS
from lib.server import CHECKOUT, wait_until
from lib.shell import Shell
from lib.site import Proxy

DOCUMENT = CHECKOUT / "deploy" / "bst-artifact-server.md"
BLOCKS = guide.read(DOCUMENT)
OLD = ("From the old server",)
NEW = ("A new server", "BuildStream", "Clients", "Certificates", "On to YAML", "On to nginx")


def test_every_block_is_gone_through():
    """By one of the tests below; only their language is known of those that no test runs."""
    assert {block.section for block in BLOCKS} == {*OLD, *NEW}
    fences = re.findall(r"^ *```(\S.*)$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert len(fences) == len(BLOCKS), "a fence has one word, or others than letters, behind it"


class Machines:
    """
    The machines of the document: the server's, and one of a client. MEMBER: where the pair of a
    client will be who is let in at the port with push, without .key and .crt.
    """

    def __init__(self, folder, session, member):
        self.session = session
        self.ports = {"11001": free_port(), "11002": free_port()}
        self.home = folder / "home"
        self.own = folder / "own"
        self.etc = folder / "etc"
        self.var = folder / "var"
        self.member = folder / member
        owner = f"{pwd.getpwuid(os.getuid()).pw_name}:{grp.getgrgid(os.getgid()).gr_name}"
        words = {
            "/home/artifacts": self.home,
            "/etc/assetd/tls": self.etc,
            "/var/lib/assetd": self.var,
            "/path/to": self.own,
            "assetd:assetd": owner,
            "cache.example.com": "localhost",
            **self.ports,
        }
        self.server = Shell(self.home, words)
        self.client = Shell(self.own, words)
        self.stack = contextlib.ExitStack()
        self.daemons = []
        self.printed = ""
        self.files = {}

    def do(self):
        """By the kind of a block."""
        return {
            "sh root": lambda text: None,
            "sh server": self.run,
            "sh client": self.client.run,
            "sh serve": self.serve,
            "sh move": self.move,
            "yaml push": lambda text: self.keep("push", text),
            "yaml project": lambda text: self.keep("project", text),
            "yaml apart": lambda text: self.keep("apart", text),
            "yaml server": lambda text: (self.home / "assetd.yaml").write_text(
                self.server.spell(text)
            ),
        }

    def run(self, text):
        self.printed = self.server.run(text)

    def keep(self, name, text):
        self.files[name] = yaml.safe_load(self.server.spell(text))

    def serve(self, text):
        """Each line in a terminal of its own; those before are stopped."""
        self.stop()
        for line in text.splitlines():
            port = (re.findall(r"--port (\d+)", line) or ["11002"])[0]
            key = self.member if port == "11002" else None
            address = f"localhost:{self.ports[port]}"
            daemon = self.server.daemon(line, address, self.credentials(key))
            self.stack.enter_context(logs.shown(self.session, daemon))
            self.stack.callback(daemon.finish)
            self.daemons.append(daemon.start())

    def stop(self):
        self.stack.close()
        self.daemons = []

    def move(self, text):
        """To the folders of the package, in which it has begun a store; systemctl only says so."""
        systemctl = self.server.bin / "systemctl"
        systemctl.write_text("#!/bin/sh\necho systemctl $*\n")
        systemctl.chmod(0o755)
        self.etc.mkdir()
        (self.var / "main").mkdir(parents=True)
        self.stop()
        self.run(text)

    def hand_out(self, *paths):
        """To the client's machine."""
        for path in paths:
            shutil.copy(self.home / path, self.own)

    def credentials(self, pair=None, root=None):
        """Of a client with the files PAIR.key and PAIR.crt, who trusts the certificates ROOT."""
        files = [self.own / f"{pair}.{kind}" for kind in ("key", "crt")] if pair else []
        root = root or self.home / "server.crt"
        return grpc.ssl_channel_credentials(*(file.read_bytes() for file in (root, *files)))

    def connect(self, port, pair=None, root=None):
        return Client(f"localhost:{self.ports[port]}", "", self.credentials(pair, root))

    def certificate(self):
        """What a new connection is shown."""
        return ssl.get_server_certificate(("localhost", self.ports["11001"]))


@pytest.fixture
def machines_of(folder, request):
    with contextlib.ExitStack() as stack:

        def make(member):
            machines = Machines(folder, request.session, member)
            stack.callback(machines.stop)
            return machines

        yield make


def test_from_the_old_server(machines_of, bst, folder, request):
    """BuildStream's own server fills the folder, and goes on while its content is taken along."""
    cache = machines_of("own/client")
    repo = cache.home / "artifacts"
    old = OldServer(repo, folder / "old.log")
    with logs.shown(request.session, old), contextlib.ExitStack() as stack:
        stack.callback(old.finish)
        old.start()
        ci = bst({"url": old.url, "push": True})
        assert elements_with(ci.run("build", "all.bst"), "Pushed artifact") == ELEMENTS
        ci.run("source", "push", "--deps", "all", "all.bst")
        built = ci.checkout(folder / "built")
        (ci.project / "archive.tar").unlink()
        old_pairs(cache)

        reader = guide.Reader(BLOCKS, OLD, cache.do())
        reader.go_past("import-casd")
        old.stop()
    reader.go_past("--enable-push")
    logged = cache.daemons[1].log()
    assert "event=storage-foreign" in logged and f"import-casd {repo} {repo}" in logged
    reader.go_past("cert list")
    assert cache.printed.count("grpc-status: 0") == 1
    assert re.search(r"^cert-[0-9a-f]{16} +write ", cache.printed, re.M)

    # The certificates are where the document of BuildStream has them.
    pull = {"auth": {"server-cert": str(cache.home / "server.crt")}}
    pull["url"] = f"https://localhost:{cache.ports['11001']}"
    pulls_all(bst(pull), built, folder / "pulled")
    with cache.connect("11002", "client") as client:
        write(client, "as before")
    reader.go_past("rm -r")
    assert not reader.left
    assert {path.name for path in repo.iterdir()} == {"assetd", "index"}
    pulls_all(bst(pull), built, folder / "pulled-later")


def old_pairs(cache):
    """By the commands of the old document."""
    pair = "openssl req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -batch -subj "
    cache.server.run(f'{pair} "/CN=localhost" -out server.crt -keyout server.key')
    cache.client.run(f'{pair} "/CN=client" -out client.crt -keyout client.key')
    shutil.copy(cache.own / "client.crt", cache.home)
    cache.server.run("cat client.crt >> /home/artifacts/authorized.crt")


def pulls_all(user, built, folder):
    """Artifacts and sources, whose origin is gone."""
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder) == built
    output = user.run("source", "fetch", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled source") == ELEMENTS


def write(client, text):
    """A push of TEXT under a URI that says so."""
    client.push_blob(f"urn:{text}", client.upload(text.encode()))


def read(client, text):
    """What was pushed under that URI; it must be TEXT."""
    digest = client.fetch_blob(f"urn:{text}").blob_digest
    assert client.read(digest) == text.encode()


def test_a_new_server(machines_of, site, assetd, bst, folder, request):
    """From nothing to a cache that has users, new certificates, and one process of a file."""
    cache = machines_of("home/keys/ci-kernel")
    reader = guide.Reader(BLOCKS, NEW, cache.do())
    reader.go_past("keys/ci-kernel.crt")
    assert cache.printed.count("grpc-status: 0") == 2

    reader.go_past("source-caches")
    reader.go_past("source-caches")
    cache.hand_out("server.crt", "keys/ci-kernel.crt", "keys/ci-kernel.key")
    builds_are_shared(cache, bst, folder)

    reader.go_past("type: storage")
    for remote in cache.files["apart"]["artifacts"]["servers"]:
        assert (remote["type"], remote["push"]) in (("index", True), ("storage", True))

    clients_come_and_go(cache, reader)
    the_pair_is_replaced(cache, reader)
    one_process_serves_both_ports(cache, reader)
    nginx_takes_over(cache, reader, assetd, site, request)
    assert not reader.left


def builds_are_shared(cache, bst, folder):
    """Who is configured to push does, who has the project alone pulls the same."""
    pushing = cache.files["push"]
    ci = bst(
        *pushing["artifacts"]["servers"], source_caches=pushing["source-caches"]["servers"]
    )
    output = ci.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    ci.run("source", "push", "--deps", "all", "all.bst")
    built = ci.checkout(folder / "built")
    (ci.project / "archive.tar").unlink()

    conf = ci.project / "project.conf"
    conf.write_text(yaml.safe_dump({**yaml.safe_load(conf.read_text()), **cache.files["project"]}))
    shutil.copy(cache.own / "server.crt", ci.project)
    user = bst()
    output = user.run("build", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built
    output = user.run("source", "fetch", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled source") == ELEMENTS


def clients_come_and_go(cache, reader):
    reader.go_past("/CN=alice")
    shutil.copy(cache.own / "alice.crt", cache.home)
    reader.go_past("cert add")
    reader.go_past("cert client bob")
    cache.hand_out("keys/bob.key", "keys/bob.crt")
    reader.go_past("cert list")
    assert re.search(r"^alice +write ", cache.printed, re.M)
    assert re.search(r"^bob +read ", cache.printed, re.M)
    with cache.connect("11002", "alice") as alice, cache.connect("11002", "bob") as bob:
        write(alice, "of alice")
        read(bob, "of alice")
        with fails("PERMISSION_DENIED"):
            write(bob, "of bob")
        reader.go_past("cert revoke")
        # The files are looked at once a second at most.
        wait_until(lambda: status_of(alice) == "UNAUTHENTICATED", "alice is still let in")
        read(bob, "of alice")


def status_of(client):
    try:
        client.find_missing([digest_of(b"any")])
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def the_pair_is_replaced(cache, reader):
    """While a client stays connected, and others are configured with both certificates."""
    former = cache.certificate()
    reader.go_past("both.crt")
    cache.hand_out("both.crt", "server.crt")
    with cache.connect("11002", cache.member) as open_before:
        read(open_before, "of alice")
        assert cache.certificate() == former
        reader.go_past("cp next")
        assert cache.certificate() != former
        assert cache.certificate().split() == (cache.home / "next/server.crt").read_text().split()
        write(open_before, "meanwhile")
    with cache.connect("11001", root=cache.own / "both.crt") as client:
        read(client, "meanwhile")


def one_process_serves_both_ports(cache, reader):
    """The file in the document is what --print-config prints, and the other port."""
    reader.go_past("--check")
    reader.go_past("listeners:")
    printed, shown = (
        yaml.safe_load((cache.home / name).read_text()) for name in ("push.yaml", "assetd.yaml")
    )
    assert printed == {**shown, "listeners": shown["listeners"][1:]}
    reader.go_past("assetd --config")
    with cache.connect("11002", cache.member) as client:
        write(client, "by one process")
    with cache.connect("11001") as client:
        read(client, "by one process")
        read(client, "of alice")
        with fails("PERMISSION_DENIED"):
            write(client, "by the pull port")


def nginx_takes_over(cache, reader, assetd, site, request):
    """The site with two ports, as shipped, with the files that were moved."""
    reader.go_past("cert update")
    assert len(re.findall("^systemctl ", cache.printed, re.M)) == 3
    sockets = cache.home / "sockets"
    sockets.mkdir()
    shared = {"socket-mode": "0666", "identity": "x-client-identity"}
    server = assetd(
        listeners=[
            {"address": f"unix:{sockets}/pull.sock", "access": "read", **shared},
            {"address": f"unix:{sockets}/push.sock", "access": "write", **shared},
        ],
        instances=[{"name": "", "storage": str(cache.var / "main")}],
    )
    for kind in ("key", "crt"):
        shutil.copy(f"{cache.member}.{kind}", cache.etc / f"client.{kind}")
    layout = SimpleNamespace(
        run=site.run, folder=cache.etc, pull_port=site.pull_port, push_port=site.push_port
    )
    proxy = Proxy(cache.home / "proxy", layout, SimpleNamespace(folder=sockets))
    with logs.shown(request.session, proxy), contextlib.ExitStack() as stack:
        stack.callback(proxy.stop)
        proxy.start()
        with proxy.client(proxy.push_port, key="client") as client:
            write(client, "behind nginx")
        with proxy.client(proxy.pull_port) as client:
            read(client, "behind nginx")
            read(client, "of alice")
        bob = cache.own / "bob.key", cache.own / "bob.crt"
        with proxy.client(proxy.push_port, key=bob) as client, fails("PERMISSION_DENIED"):
            write(client, "of bob")
        assert "identity=ci-kernel" in server.log()
