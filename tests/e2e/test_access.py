# SPDX-License-Identifier: Apache-2.0
"""Who may do what: through nginx, on the sockets themselves, and by the lists of instances."""

import concurrent.futures

import pytest

from lib.certificates import make_pair
from lib.client import fails, missing_of
from lib.content import digest_of, noise
from lib.ports import free_port

DATA = b"what everyone tries to write"
DIGEST = digest_of(DATA)

# Every method that writes, or tells of writing.
WRITES = {
    "PushBlob": lambda client: client.push_blob("urn:a", DIGEST),
    "PushDirectory": lambda client: client.push_directory("urn:a", DIGEST),
    "BatchUpdateBlobs": lambda client: client.batch_update([(DIGEST, DATA)]),
    "Write": lambda client: client.write(DATA),
    "QueryWriteStatus": lambda client: client.query_write_status(client.write_name(DIGEST)),
    "PushBlob without uris": lambda client: client.push_blob([], None),
}

READS = {
    "FindMissingBlobs": lambda client: client.find_missing([DIGEST]),
    "BatchReadBlobs": lambda client: client.batch_read([DIGEST]),
    "Capabilities": lambda client: client.capabilities(),
}

UNKNOWN = (
    "/build.bazel.remote.asset.v1.Fetch/NoSuchMethod",
    "/build.bazel.remote.execution.v2.Execution/Execute",
    "/no.such.Service/Method",
    "/",
    "/x",
)


def each(calls):
    return pytest.mark.parametrize("call", calls.values(), ids=calls.keys())


# Through nginx


@each(WRITES)
def test_no_write_on_the_pull_port(site, call):
    """Not even with the certificate that may write on the other."""
    for key in (None, "client"):
        with site.client(site.pull_port, key=key) as client, fails("PERMISSION_DENIED"):
            call(client)


@each(READS)
def test_anyone_reads_on_the_pull_port(site, call):
    with site.client(site.pull_port) as client:
        call(client)


@each({**WRITES, **READS})
def test_without_a_certificate_the_push_port_is_shut(site, call):
    with site.client(site.push_port) as client, fails("UNAUTHENTICATED"):
        call(client)


@pytest.mark.parametrize("name", ["stranger", "demo"])
def test_an_unknown_certificate_is_refused(site, folder, name):
    """Also under the name of one that is registered: the name proves nothing."""
    make_pair(folder, "unknown", name)
    pair = (folder / "unknown.key", folder / "unknown.crt")
    for call in (*WRITES.values(), *READS.values()):
        with site.client(site.push_port, key=pair) as client, fails("UNAUTHENTICATED"):
            call(client)


def test_a_certificate_signed_by_a_registered_one_is_refused(site, folder):
    """Whoever holds a registered certificate cannot let in others."""
    for name in ("client.key", "client.crt"):
        (folder / name).write_bytes(site.tls(name).read_bytes())
    make_pair(folder, "signed", "demo", issuer="client")
    pair = (folder / "signed.key", folder / "signed.crt")
    with site.client(site.push_port, key=pair) as client, fails("UNAUTHENTICATED"):
        client.push_blob("urn:a", DIGEST)


def test_push_and_pull_through_nginx(site):
    """Messages of all sizes pass both ways, the large ones streamed."""
    data = noise(20 << 20, "through nginx")
    digest = digest_of(data)
    with site.client(site.push_port, key="client") as client:
        assert client.write(data, chunk=2 << 20) == len(data)
        small = client.upload(b"through nginx", noise(3 << 20, "a batch"))
        client.push_blob("urn:through-nginx", small, references_blobs=[digest])
    with site.client(site.pull_port) as client:
        assert client.fetch_blob("urn:through-nginx").blob_digest == small
        assert client.read(digest) == data
        assert client.read(digest, 10 << 20) == data[10 << 20 :]


def test_details_pass_through_nginx(site):
    """The names of what is missing reach the client, binary metadata that they are."""
    absent = [digest_of(b"absent %d" % number) for number in range(16)]
    with site.client(site.push_port, key="client") as client:
        with fails("FAILED_PRECONDITION") as info:
            client.push_blob("urn:absent", absent[0], references_blobs=absent[1:])
    assert len(missing_of(info.value)) == 16


@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_methods_through_nginx(site, path):
    for port, key in ((site.pull_port, None), (site.push_port, "client")):
        with site.client(port, key=key) as client, fails("UNIMPLEMENTED"):
            client.raw(path)


def test_a_miss_through_nginx_is_not_found(site):
    with site.client(site.pull_port) as client, fails("NOT_FOUND"):
        client.fetch_blob("urn:never-pushed")
    with site.client(site.pull_port) as client, fails("INVALID_ARGUMENT", "(?i)uri"):
        client.fetch_blob([])


# On the sockets themselves


@each(WRITES)
def test_a_read_listener_cannot_be_made_to_write(server, call):
    """Whatever the client says of itself: nginx may be bypassed."""
    for metadata in ((), (("x-client-identity", "demo"),), (("authorization", "Bearer x"),)):
        client = server.client(server.pull, metadata=metadata)
        with fails("PERMISSION_DENIED", "pull.sock|read"):
            call(client)
    assert server.client().find_missing([DIGEST]) == [DIGEST]


@each(READS)
def test_a_read_listener_lets_read(server, call):
    call(server.client(server.pull))


def test_what_is_pushed_on_one_listener_is_read_on_the_other(server):
    writer, reader = server.client(), server.client(server.pull)
    digest = writer.upload(b"both")
    writer.push_blob("urn:a", digest)
    assert reader.fetch_blob("urn:a").blob_digest == digest
    assert reader.read(digest) == b"both"


@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_methods_are_unimplemented(server, path):
    for address in (server.pull, server.push):
        client = server.client(address)
        with fails("UNIMPLEMENTED"):
            client.raw(path)
        with fails("UNIMPLEMENTED"):
            client.raw(path, b"\xff" * 1000)


def test_unknown_methods_do_not_hang(server):
    """More of them at once than a server may have been ready for."""
    client = server.client()

    def call(number):
        with fails("UNIMPLEMENTED"):
            client.raw(f"/no.such.Service/Method{number}")

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(call, range(300)))
    assert client.health() == 1


# Instances of a listener


def two_instances(folder, **fields):
    return [
        {"name": "main", "storage": str(folder / "main"), **fields},
        {"name": "team/kernel", "storage": str(folder / "kernel")},
    ]


def test_a_listener_limited_to_one_instance_does_not_know_the_other(assetd, folder):
    sockets = {name: f"unix:{folder}/{name}.sock" for name in ("all", "main")}
    server = assetd(
        listeners=[
            {"address": sockets["all"], "access": "write"},
            {"address": sockets["main"], "access": "write", "instances": ["main"]},
        ],
        instances=two_instances(folder),
    )
    for name in ("main", "team/kernel"):
        client = server.client(sockets["all"], instance=name)
        client.push_blob("urn:a", client.upload(name.encode()))
    limited = server.client(sockets["main"], instance="main")
    assert limited.fetch_blob("urn:a").blob_digest == digest_of(b"main")
    other = server.client(sockets["main"], instance="team/kernel")
    digest = digest_of(b"team/kernel")
    for call in (
        lambda: other.fetch_blob("urn:a"),
        lambda: other.fetch_blob([]),
        lambda: other.push_blob("urn:b", digest),
        lambda: other.find_missing([digest]),
        lambda: other.batch_read([digest]),
        lambda: other.batch_update([(digest, b"team/kernel")]),
        lambda: other.get_tree(digest),
        lambda: other.read(digest),
        lambda: other.write(b"team/kernel"),
        lambda: other.query_write_status(other.write_name(digest)),
        lambda: other.capabilities(),
    ):
        with fails("NOT_FOUND", "team/kernel"):
            call()
    # The empty name is one like any other, and nobody's here.
    with fails("NOT_FOUND"):
        server.client(sockets["all"]).fetch_blob("urn:a")


# Lists of instances

HEADER = "x-client-identity"


def clients_by_identity(server, address, *names, instance=""):
    return {
        name: server.client(
            address, instance, metadata=((HEADER, name),) if name is not None else ()
        )
        for name in names
    }


@pytest.fixture
def lists(assetd, folder):
    """push: [ci], pull: [ci, alice]; with identities on the sockets push and pull."""
    return assetd(
        listeners=[
            {"address": f"unix:{folder}/s0/pull.sock", "access": "read", "identity": HEADER},
            {"address": f"unix:{folder}/s0/push.sock", "access": "write", "identity": HEADER},
            {"address": f"unix:{folder}/s0/plain.sock", "access": "write"},
            {"address": f"unix:{folder}/s0/admin.sock", "access": "admin"},
        ],
        instances=[
            {
                "name": "",
                "storage": str(folder / "storage"),
                "push": ["ci"],
                "pull": ["ci", "alice"],
            },
            {"name": "open", "storage": str(folder / "open")},
        ],
    )


def test_push_and_pull_lists_hold(lists):
    by = clients_by_identity(lists, lists.push, "ci", "alice", "bob", None)
    digest = by["ci"].upload(DATA)
    by["ci"].push_blob("urn:a", digest)
    for name in ("alice", "bob", None):
        for call in WRITES.values():
            with fails("PERMISSION_DENIED", name or "identity"):
                call(by[name])
    for name in ("ci", "alice"):
        assert by[name].fetch_blob("urn:a").blob_digest == digest
        assert by[name].read(digest) == DATA
        by[name].capabilities()
    for name in ("bob", None):
        for call in (
            lambda client: client.fetch_blob("urn:a"),
            lambda client: client.fetch_blob([]),
            lambda client: client.read(digest),
            lambda client: client.get_tree(digest),
            *READS.values(),
        ):
            with fails("PERMISSION_DENIED", name or "identity"):
                call(by[name])


def test_lists_on_the_read_listener(lists):
    by = clients_by_identity(lists, lists.pull, "ci", "alice", "bob", None)
    for name in ("ci", "alice"):
        by[name].find_missing([DIGEST])
        with fails("PERMISSION_DENIED", "pull.sock|read"):
            by[name].upload(DATA)
    for name in ("bob", None):
        with fails("PERMISSION_DENIED"):
            by[name].find_missing([DIGEST])


def test_lists_hold_through_nginx(proxied, folder):
    """The identity is the name that the certificate was registered under, not what is sent."""
    proxy = proxied(
        {"name": "", "storage": str(folder / "a"), "push": ["demo"], "pull": ["demo"]},
        {"name": "other", "storage": str(folder / "b"), "push": ["ci"], "pull": ["ci"]},
    )
    digest = digest_of(DATA)
    with proxy.client(proxy.push_port, key="client") as client:
        client.push_blob("urn:a", client.upload(DATA))
        assert client.fetch_blob("urn:a").blob_digest == digest
    for metadata in ((), ((HEADER, "demo"),), ((HEADER, "ci"),)):
        with proxy.client(proxy.pull_port) as client:
            client.metadata = metadata
            with fails("PERMISSION_DENIED"):
                client.fetch_blob("urn:a")
        with proxy.client(proxy.push_port, "other", key="client") as client:
            client.metadata = metadata
            for call in (*WRITES.values(), *READS.values()):
                with fails("PERMISSION_DENIED", "demo"):
                    call(client)


def test_an_instance_without_lists_is_open(lists):
    for client in clients_by_identity(lists, lists.push, "bob", None, instance="open").values():
        client.upload(DATA)
        assert client.read(DIGEST) == DATA


@pytest.mark.parametrize(
    "metadata",
    [
        [(HEADER, "ci"), (HEADER, "ci")],
        [(HEADER, "ci"), (HEADER, "alice")],
        [(HEADER, "bob"), (HEADER, "ci")],
        [(HEADER, "")],
        [(HEADER, "ci,alice")],
        [(HEADER, "c i")],
        [(HEADER, "CI")],
        [(HEADER, "/CN=ci")],
        [(HEADER, "ci*")],
        [(HEADER, "a" * 65)],
        [("x-client-identity2", "ci")],
        [("x-client", "ci")],
    ],
    ids=lambda metadata: ",".join(value[:10] for _, value in metadata) or None,
)
def test_a_repeated_or_malformed_identity_is_nobody(lists, metadata):
    client = lists.client(lists.push, metadata=metadata)
    with fails("PERMISSION_DENIED"):
        client.find_missing([DIGEST])
    with fails("PERMISSION_DENIED"):
        client.upload(DATA)


def test_an_identity_is_believed_only_where_it_is_configured(lists):
    address = f"unix:{lists.folder}/plain.sock"
    for client in clients_by_identity(lists, address, "ci", None).values():
        with fails("PERMISSION_DENIED"):
            client.upload(DATA)
        with fails("PERMISSION_DENIED"):
            client.find_missing([DIGEST])


def test_an_admin_listener_lets_everything(lists):
    """Without any identity; it is the operator's."""
    client = lists.client(f"unix:{lists.folder}/admin.sock")
    digest = client.upload(DATA)
    client.push_blob("urn:a", digest)
    assert client.fetch_blob("urn:a").blob_digest == digest
    assert client.read(digest) == DATA


@pytest.mark.parametrize("identity", ["a", "ci-kernel", "A.b_c@d-9", "a" * 64])
def test_names_that_identities_can_have(assetd, folder, identity):
    server = assetd(
        listeners=[
            {"address": f"unix:{folder}/s0/push.sock", "access": "write", "identity": HEADER}
        ],
        instances=[{"name": "", "storage": str(folder / "storage"), "push": [identity]}],
    )
    server.client(metadata=((HEADER, identity),)).upload(DATA)
    # The pull list is not given: whoever the listener lets read.
    assert server.client().read(DIGEST) == DATA
    with fails("PERMISSION_DENIED"):
        server.client(metadata=((HEADER, identity + "x"),)).upload(DATA)


def test_tcp_listeners(assetd):
    """Plain h2c, as for a proxy on the same machine; IPv4 and IPv6."""
    four, six = (free_port() for _ in range(2))
    server = assetd(
        listeners=[
            {"address": f"127.0.0.1:{four}", "access": "read"},
            {"address": f"[::1]:{six}", "access": "write"},
        ]
    )
    writer = server.client(f"[::1]:{six}")
    writer.push_blob("urn:a", writer.upload(DATA))
    reader = server.client(f"127.0.0.1:{four}")
    assert reader.fetch_blob("urn:a").blob_digest == DIGEST
    with fails("PERMISSION_DENIED"):
        reader.upload(DATA)
