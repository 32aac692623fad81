# SPDX-License-Identifier: Apache-2.0
"""
In the place of bst-artifact-server: the commands that its document tells to give, in their order,
with only ports, host and folders changed; BuildStream is configured as for the old server.
"""

import contextlib
import shutil

import grpc
import pytest

from lib import logs
from lib.bst import BstError, elements_with, listing
from lib.certificates import make_pair
from lib.client import Client, fails
from lib.content import digest_of, noise
from lib.ports import free_port
from lib.project import ELEMENTS, make_project
from lib.shell import Shell

# "Key pair for the server"
SERVER_PAIR = (
    "openssl req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -batch "
    '-subj "/CN=artifacts.com" -out server.crt -keyout server.key'
)
# "Authenticating users"
CLIENT_PAIR = (
    "openssl req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -batch "
    '-subj "/CN=client" -out client.crt -keyout client.key'
)
AUTHORIZE = "cat client.crt >> /home/artifacts/authorized.crt"
# "Serve the cache over https"
PULL = (
    "bst-artifact-server --port 11001 --server-key server.key --server-cert server.crt "
    "/home/artifacts/artifacts"
)
PUSH = (
    "bst-artifact-server --port 11002 --server-key server.key --server-cert server.crt "
    "--client-certs authorized.crt --enable-push /home/artifacts/artifacts"
)


class Cache:
    """The server's machine, whose user's home is the shell's folder, and a client's pair."""

    def __init__(self, folder):
        self.pull_port = free_port()
        self.push_port = free_port()
        self.home = folder / "home"
        self.client_folder = folder / "client"
        self.client_folder.mkdir()
        self.shell = Shell(
            self.home,
            {
                "/home/artifacts": self.home,
                "artifacts.com": "localhost",
                "11001": self.pull_port,
                "11002": self.push_port,
            },
        )
        self.pull = None
        self.push = None

    def make_pairs(self):
        self.shell.run(SERVER_PAIR)
        self.shell.run(f"cd {self.client_folder}\n{CLIENT_PAIR}")
        # The public certificate is copied to the server.
        shutil.copy(self.client_folder / "client.crt", self.home)
        self.shell.run(AUTHORIZE)

    def pair(self, name):
        return self.client_folder / f"{name}.key", self.client_folder / f"{name}.crt"

    def credentials(self, key=None):
        """Of a client that trusts the server, and has the pair KEY."""
        files = [file.read_bytes() for file in self.pair(key)] if key else []
        return grpc.ssl_channel_credentials((self.home / "server.crt").read_bytes(), *files)

    def client(self, port, key=None):
        return Client(f"localhost:{port}", credentials=self.credentials(key))

    def remote(self, push=False, port=None, key=None, **fields):
        """A server of BuildStream's configuration, with the keys that it had for the old one."""
        auth = {"server-cert": str(self.home / "server.crt")}
        if push and key is None:
            key = "client"
        if key:
            key_file, certificate = self.pair(key)
            auth["client-key"] = str(key_file)
            auth["client-cert"] = str(certificate)
        port = port or (self.push_port if push else self.pull_port)
        return {"url": f"https://localhost:{port}", "push": push, "auth": auth, **fields}


@contextlib.contextmanager
def running(session, *servers):
    """Meanwhile these serve; they are started in that order."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(logs.shown(session, server))
            stack.callback(server.finish)
            server.start()
        yield


@pytest.fixture(scope="module")
def cache(module_folder, request):
    """Both servers of the document, on one folder."""
    cache = Cache(module_folder)
    cache.make_pairs()
    cache.pull = cache.shell.daemon(PULL, f"localhost:{cache.pull_port}", cache.credentials())
    cache.push = cache.shell.daemon(
        PUSH, f"localhost:{cache.push_port}", cache.credentials("client")
    )
    with running(request.session, cache.pull, cache.push):
        yield cache


@pytest.fixture
def other_project(folder, project):
    """A second project of the same server."""
    return make_project(folder / "other", f"{project.parent.name}-other")


# What the document promises


def test_two_projects_push_with_a_certificate_and_pull_without(
    cache, bst, folder, project, other_project
):
    """What anyone pulls from the port without push is what was built, after the cache was lost."""
    built = {}
    for number, of in enumerate((project, other_project)):
        ci = bst(cache.remote(push=True), of=of)
        output = ci.run("build", "all.bst")
        assert elements_with(output, "Pushed artifact") == ELEMENTS
        built[of] = ci.checkout(folder / f"built{number}")
        (of / "archive.tar").unlink()
    assert len({str(each) for each in built.values()}) == 2
    for number, of in enumerate((project, other_project)):
        user = bst(cache.remote(), of=of)
        output = user.run("build", "all.bst")
        assert elements_with(output, "Pulled artifact") == ELEMENTS
        assert "Build Queue: processed 0" in output
        assert user.checkout(folder / f"pulled{number}") == built[of]
    assert "level=error" not in cache.pull.log() + cache.push.log()


def test_who_pushed_pulls_after_a_wipe(cache, bst, folder):
    """The port with push lets its clients read as well."""
    user = bst(cache.remote(push=True))
    user.run("build", "all.bst")
    built = user.checkout(folder / "built")
    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built


def test_sources_come_from_it_when_their_origin_is_gone(cache, bst, folder):
    ci = bst(source_caches=[cache.remote(push=True)])
    ci.run("source", "fetch", "--deps", "all", "all.bst")
    ci.run("source", "push", "--deps", "all", "all.bst")
    ci.run("source", "checkout", "--directory", folder / "before", "fetched.bst")
    (ci.project / "archive.tar").unlink()

    user = bst(source_caches=[cache.remote()])
    output = user.run("source", "fetch", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled source") == ELEMENTS
    user.run("source", "checkout", "--directory", folder / "after", "fetched.bst")
    assert listing(folder / "after") == listing(folder / "before")


def test_the_project_declares_both_ports(cache, bst, folder):
    """In project.conf, with the certificates beside it; the user's configuration has no cache."""
    pull, push = cache.remote(), cache.remote(push=True)
    project = make_project(
        folder / "declaring",
        "declaring",
        extra={"artifacts": [pull, push], "source-caches": [pull, push]},
    )
    for remote in (pull, push):
        remote["auth"] = {
            name: shutil.copy(path, project).rpartition("/")[2]
            for name, path in remote["auth"].items()
        }
    ci = bst(of=project)
    output = ci.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    ci.wipe()
    output = ci.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS


# The port without push

DATA = b"what everyone tries to write"
DIGEST = digest_of(DATA)

# The last three are those that the old server let through.
WRITES = {
    "PushBlob": lambda client: client.push_blob("urn:a", DIGEST),
    "PushDirectory": lambda client: client.push_directory("urn:a", DIGEST),
    "BatchUpdateBlobs": lambda client: client.batch_update([(DIGEST, DATA)]),
    "Write": lambda client: client.write(DATA),
    "Write of a large blob": lambda client: client.write(noise(5 << 20, "large")),
}


def test_bst_is_told_on_the_port_without_push(cache, bst):
    """It leaves the server out with a warning that shows why, and builds."""
    user = bst(cache.remote(push=True, port=cache.pull_port))
    output = user.run("build", "all.bst")
    assert "Failed to initialize remote" in output
    assert "read" in output.split("Failed to initialize remote", 1)[1]
    assert "Build Queue: processed 5" in output
    assert not elements_with(output, "Pushed artifact")


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("key", [None, "client"], ids=["nobody", "member"])
def test_nothing_is_written_by_the_port_without_push(cache, write, key):
    """Whoever asks: it asks for no certificate."""
    with cache.client(cache.pull_port, key) as client, fails("PERMISSION_DENIED"):
        write(client)
    with cache.client(cache.push_port, "client") as client:
        assert not client.has(DIGEST)


# The port with push


@contextlib.contextmanager
def refused_in_the_handshake(cache, key):
    with cache.client(cache.push_port, key) as client:
        with pytest.raises(grpc.RpcError) as info:
            yield client
    assert info.value.code() == grpc.StatusCode.UNAVAILABLE, info.value


def test_without_a_certificate_nobody_gets_in(cache):
    with refused_in_the_handshake(cache, None) as client:
        client.find_missing([DIGEST])


@pytest.mark.parametrize("is_ca", [True, False], ids=["CA", "leaf"])
def test_an_unknown_certificate_is_refused_in_the_handshake(cache, is_ca):
    """Under the name of the one that is known, too: names count for nothing."""
    make_pair(cache.client_folder, "unknown", "client", is_ca=is_ca)
    with refused_in_the_handshake(cache, "unknown") as client:
        client.find_missing([DIGEST])


@pytest.mark.parametrize("subject", ["client", "friend"])
def test_a_certificate_signed_by_a_member_is_refused(cache, subject):
    """The command of the document makes certificates that can sign others."""
    make_pair(cache.client_folder, "signed", subject, issuer="client")
    with cache.client(cache.push_port, "signed") as client:
        for call in (*WRITES.values(), lambda client: client.find_missing([DIGEST])):
            with fails("UNAUTHENTICATED"):
                call(client)


@pytest.mark.parametrize("key", [None, "unknown", "signed"])
def test_bst_pushes_nothing_without_the_certificate(cache, bst, key):
    make_pair(cache.client_folder, "unknown", "client", is_ca=True)
    make_pair(cache.client_folder, "signed", "client", issuer="client")
    # Who is shut out in the handshake tries again: 4 times, soon.
    config = {"connection-config": {"retry-delay": 1}}
    remote = cache.remote(port=cache.push_port, key=key, **config)
    user = bst({**remote, "push": True})
    output = user.run("build", "all.bst")
    assert "Failed to initialize remote" in output
    assert "Build Queue: processed 5" in output
    assert not elements_with(output, "Pushed artifact")
    with pytest.raises(BstError):
        user.run("artifact", "push", "all.bst")


# "For this scenario, you can add the `--index-only` flag to the above commands"


def test_index_only_beside_a_server_as_storage(cache, bst, folder, request):
    """Artifacts and sources, `type: index` and `type: storage`; both of both ports."""
    index = Cache(folder)
    for name in ("server.key", "server.crt", "authorized.crt"):
        shutil.copy(cache.home / name, index.home)
    index.client_folder = cache.client_folder
    servers = [
        index.shell.daemon(
            command.replace(" /home", " --index-only /home"), f"localhost:{port}", credentials
        )
        for command, port, credentials in (
            (PULL, index.pull_port, cache.credentials()),
            (PUSH, index.push_port, cache.credentials("client")),
        )
    ]

    def remotes(push):
        return index.remote(push=push, type="index"), cache.remote(push=push, type="storage")

    with running(request.session, *servers):
        ci = bst(*remotes(push=True))
        output = ci.run("build", "all.bst")
        assert elements_with(output, "Pushed artifact") == ELEMENTS
        ci.run("source", "push", "--deps", "all", "all.bst")
        built = ci.checkout(folder / "built")
        (ci.project / "archive.tar").unlink()

        user = bst(*remotes(push=False))
        output = user.run("artifact", "pull", "--deps", "all", "all.bst")
        assert elements_with(output, "Pulled artifact") == ELEMENTS
        assert user.checkout(folder / "pulled") == built
        output = user.run("source", "fetch", "--deps", "all", "all.bst")
        assert elements_with(output, "Pulled source") == ELEMENTS
    assert not (index.home / "artifacts" / "cas").exists()
