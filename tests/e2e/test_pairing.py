# SPDX-License-Identifier: Apache-2.0
"""The index paired with a CAS by others, as users of BuildStream meet the two."""

import contextlib
import itertools
import json
import re
import signal

import grpc
import pytest

from lib import logs
from lib.api import reapi
from lib.bst import elements_with
from lib.client import fails, missing_of
from lib.content import Tree, digest_of, name_of, noise
from lib.external_cas import index_only
from lib.paired_load import INSTANCES, Load
from lib.peers import PEERS, Casd
from lib.ports import free_port
from lib.project import ELEMENTS
from lib.server import wait_until
from nginx.credentials import made_credentials
from nginx.front import running_front
from nginx.served import listeners


@contextlib.contextmanager
def running(peer, session):
    with logs.shown(session, peer):
        try:
            yield peer.start()
        finally:
            peer.finish()


@pytest.fixture(params=PEERS)
def peer(request, folder):
    with running(PEERS[request.param](folder / "peer"), request.session) as peer:
        yield peer


def artifact_uris(user):
    """What BuildStream asks for when it pulls the elements of the project."""
    shown = user.run("show", "--format", "key of %{name} is %{full-key}", "all.bst")
    keys = dict(re.findall(r"key of (\w+)\.bst is ([0-9a-f]{64})", shown))
    assert keys.keys() == ELEMENTS
    project = json.loads((user.project / "project.conf").read_text())["name"]
    prefix = f"urn:fdc:buildstream.build:2020:artifact:{project}"
    return [f"{prefix}/{name}/{key}" for name, key in keys.items()]


def wait_until_missed(client, uris):
    """Until what was found whole is trusted no longer."""

    def is_missed(uri):
        try:
            client.fetch_blob(uri)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            return True
        return False

    for uri in uris:
        wait_until(lambda: is_missed(uri), f"{uri} is still trusted")


def test_index_and_storage_apart(peer, paired, bst, folder):
    """`type: index` and `type: storage`. What has lost a file is built and pushed again."""
    port = free_port()
    paired(peer, {"listeners": [{"address": f"127.0.0.1:{port}", "access": "write"}]})
    user = bst(
        {"url": f"http://127.0.0.1:{port}", "type": "index", "push": True},
        {"url": f"http://{peer.address}", "type": "storage", "push": True},
    )
    output = user.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    built = user.checkout(folder / "built")
    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built

    peer.lose(digest_of(built["many/level1/part2/leaf/file7.bin"][2]))
    user.wipe()
    output = user.run("build", "all.bst")
    pushed = elements_with(output, "Pushed artifact")
    assert pushed == ({"many", "made"} if peer.loses_one else ELEMENTS)
    assert elements_with(output, "Pulled artifact") == ELEMENTS - pushed

    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "healed") == built


@pytest.fixture
def behind_nginx(assetd, folder, request):
    """Starts assetd, paired with a peer, and nginx with a layout before both of them."""
    with contextlib.ExitStack() as stack:

        def start(peer, layout, **keys):
            server = assetd(start=False)
            instances = [index_only(folder, cas=peer, **keys)]
            server.configure(listeners=listeners(server.folder), instances=instances)
            server.start()
            credentials = stack.enter_context(made_credentials())
            front = running_front(
                request.session, layout, credentials, run=server.folder, cas=peer.address
            )
            return server, stack.enter_context(front)

        yield start


def cache(front, push, port=11001):
    """One server of BuildStream's configuration. Who pushes has a certificate."""
    own, tls = front.credentials.own, front.credentials.tls
    auth = {"server-cert": str(tls / "server.crt")}
    if push:
        auth["client-key"], auth["client-cert"] = str(own / "writer.key"), str(own / "writer.crt")
    return {"url": f"https://localhost:{front.ports[port]}", "push": push, "auth": auth}


def test_one_host_name(peer, behind_nginx, bst, folder):
    """nginx sends to each what is for it. What was found whole is trusted for a while only."""
    server, front = behind_nginx(peer, "pairing", trust="1s")
    ci, user = bst(cache(front, push=True)), bst(cache(front, push=False))
    output = ci.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    built = ci.checkout(folder / "built")
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built

    peer.lose_all()
    wait_until_missed(server.client(), artifact_uris(user))
    ci.wipe()
    output = ci.run("build", "all.bst")
    assert not elements_with(output, "Pulled artifact")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "healed") == built


def test_two_ports(behind_nginx, bst, folder, request):
    """Anyone pulls from one; who has a certificate pushes to the other."""
    with running(Casd(folder / "peer"), request.session) as peer:
        _, front = behind_nginx(peer, "pairing-two-ports")
        ci, user = bst(cache(front, push=True, port=11002)), bst(cache(front, push=False))
        output = ci.run("build", "all.bst")
        assert elements_with(output, "Pushed artifact") == ELEMENTS
        built = ci.checkout(folder / "built")
        output = user.run("artifact", "pull", "--deps", "all", "all.bst")
        assert elements_with(output, "Pulled artifact") == ELEMENTS
        assert user.checkout(folder / "pulled") == built


def test_trees_of_all_shapes(peer, paired):
    """What is large, deep, wide or empty is found whole; each part of it is missed."""
    wide = {f"file{number:05}": b"the same" for number in range(12_000)}
    many = {f"dir{n}": {f"file{k}": b"%d of %d" % (k, n) for k in range(300)} for n in range(30)}
    deep = {"end": b"of the deep one"}
    for number in range(40):
        deep = {f"level{number}": deep, "beside": b"level %d" % number}
    tree = Tree({"wide": wide, "many": many, "deep": deep, "none": {"empty": b"", "nothing": {}}})
    blob = b"what references it"
    blobs = [blob, *filter(None, tree.blobs.values())]
    client = paired(peer).client()

    def upload():
        """As clients do, what is missing; the empty blob is everywhere."""
        cas = peer.client()
        missing = {digest.hash for digest in cas.find_missing([*map(digest_of, blobs)])}
        left = [each for each in blobs if digest_of(each).hash in missing]
        small = [each for each in left if len(each) < 100_000]
        for start in range(0, len(small), 1000):
            cas.upload(*small[start : start + 1000])
        for each in left:
            if len(each) >= 100_000:
                cas.write(each)

    upload()
    client.push_blob("urn:all", digest_of(blob), references_directories=[tree.root])
    client.push_directory("urn:tree", tree.root)
    for part in (b"299 of 29", b"of the deep one", tree.blobs[tree.digest(wide).hash], blob):
        assert client.fetch_blob("urn:all").blob_digest == digest_of(blob)
        assert client.fetch_directory("urn:tree").root_directory_digest == tree.root
        peer.lose(digest_of(part))
        with fails("NOT_FOUND"):
            client.fetch_blob("urn:all")
        upload()


def test_a_push_of_what_is_not_there_is_refused(peer, paired):
    tree = Tree({"there": b"is there", "sub": {"one": b"one is not", "two": b"nor is two"}})
    absent = [digest_of(b"one is not"), digest_of(b"nor is two")]
    client, cas = paired(peer).client(), peer.client()
    blob = cas.upload(b"the blob", *(b for b in tree.blobs.values() if digest_of(b) not in absent))
    with fails("FAILED_PRECONDITION") as info:
        client.push_blob("urn:a", blob, references_directories=[tree.root])
    assert sorted(missing_of(info.value)) == sorted(f"blobs/{name_of(d)}" for d in absent)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    cas.upload_tree(tree)
    client.push_blob("urn:a", blob, references_directories=[tree.root])
    assert client.fetch_blob("urn:a").blob_digest == blob


def test_another_size_is_another_digest(peer, paired):
    """Whatever the CAS makes of such a digest; and that it is asked for them harms nobody."""
    large = Tree({f"file{number:05}": b"the same" for number in range(15_000)})
    small = Tree({"sub": {"file": b"of the small one"}})
    client, cas = paired(peer).client(), peer.client()
    good = cas.upload(b"a blob")

    def resized(digest, size):
        return reapi.Digest(hash=digest.hash, size_bytes=size)

    for tree in (small, large):
        for blob in tree.blobs.values():
            cas.write(blob)
        for _ in range(4):
            with fails("FAILED_PRECONDITION"):
                client.push_directory("urn:x", resized(tree.root, tree.root.size_bytes + 1))
    with fails("FAILED_PRECONDITION"):
        client.push_blob("urn:x", good, references_blobs=[resized(good, 0)])
    client.push_blob("urn:good", good)


def test_capabilities_are_those_of_the_cas(peer, paired):
    """But for digest functions that the instance has not."""
    expected = peer.client().capabilities()
    assert reapi.DigestFunction.SHA256 in expected.cache_capabilities.digest_functions
    expected.cache_capabilities.digest_functions[:] = [reapi.DigestFunction.SHA256]
    assert paired(peer).client().capabilities() == expected


def test_what_is_fetched_is_not_evicted(paired, folder, request):
    """casd evicts what was not asked for: each fetch asks it for all that the asset has."""
    casd = Casd(folder / "peer")
    casd.quota = "20M"
    with running(casd, request.session):
        client, cas = paired(casd).client(), casd.client()
        kept, left = (Tree({"sub": {"file": noise(1000, name)}}) for name in ("kept", "left"))
        for tree in (kept, left):
            client.push_directory(f"urn:{tree.root.hash}", cas.upload_tree(tree))
        filler = itertools.count()

        def is_evicted():
            client.fetch_directory(f"urn:{kept.root.hash}")
            cas.upload(noise(1 << 20, next(filler)))
            return not any(casd.path(digest_of(blob)).exists() for blob in left.blobs.values())

        wait_until(is_evicted, "nothing is evicted")
        client.fetch_directory(f"urn:{kept.root.hash}")
        with fails("NOT_FOUND"):
            client.fetch_directory(f"urn:{left.root.hash}")


def test_the_cas_comes_and_goes_under_load(peer, assetd, folder):
    """
    Killed, paused and stopped while a dozen clients fetch and push: nobody is told what was not
    so, and once it is back all is as before.
    """
    server = assetd(
        instances=[
            index_only(folder, name, peer, instance_name="", timeout="2s", **keys)
            for name, keys in INSTANCES.items()
        ]
    )
    load = Load(server, peer)
    load.prepare()
    with load:
        load.show(is_up=True)
        for lose, bring_back in (
            (lambda: peer.end(signal.SIGKILL), peer.start),
            (peer.pause, peer.resume),
            (peer.end, peer.start),
        ):
            load.changes()
            lose()
            # What the CAS answered before has come by now.
            wait_until(lambda: load.lost() == set(INSTANCES), server.log)
            load.show(is_up=False)
            load.changes()
            bring_back()
            load.show(is_up=True)
    assert not load.never
    load.check()
