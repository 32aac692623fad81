# SPDX-License-Identifier: Apache-2.0
"""An index paired with an external CAS: what is whole, what is missing, what that costs the CAS."""

import threading
import time

import grpc
import pytest

from lib.api import reapi
from lib.client import fails, missing_of
from lib.content import EMPTY, Tree, digest_of, name_of
from lib.external_cas import BATCH_READ, FIND, READ, Hold, alters, delays, index_only
from lib.reloads import reload
from lib.server import PATIENCE, wait_until


@pytest.fixture
def server(paired, cas):
    """Paired with CAS, which it asks each time."""
    return paired(cas)


CONTENT = {
    "file": b"a file",
    "a": {"b": {"c": {"deep": b"a deep file"}}, "same": {"x": b"x"}},
    "same": {"x": b"x"},
    "link": "file",
    "nothing": {},
    "empty": b"",
}


class Artifact:
    """A blob that references a blob and a tree, as BuildStream pushes it."""

    def __init__(self, cas, mark=b"", content=None):
        self.cas = cas
        self.content = content or CONTENT
        self.tree = Tree(self.content)
        self.blobs = [b"artifact" + mark, b"log" + mark, *self.tree.blobs.values()]
        self.blob, self.log = (digest_of(data) for data in self.blobs[:2])

    def names(self):
        """Of all that is to be there: what is empty always is."""
        return {name_of(digest_of(data)) for data in self.blobs if data}

    def upload(self, without=()):
        self.cas.put(*(data for data in self.blobs if digest_of(data) not in without))
        return self

    def push(self, client, uri="urn:a"):
        client.push_blob(
            uri,
            self.blob,
            references_blobs=[self.log],
            references_directories=[self.tree.root],
        )
        return self

    def digest(self, content):
        return self.tree.digest(content)


@pytest.fixture
def artifact(cas):
    """One whose content is in CAS."""
    return Artifact(cas).upload()


def is_miss(client, uri="urn:a"):
    try:
        client.fetch_blob(uri)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error.details()
        return True
    return False


# Push


def test_what_is_whole_is_pushed_and_fetched(client, artifact):
    artifact.push(client)
    client.push_directory("urn:a", artifact.tree.root)
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob
    assert client.fetch_directory("urn:a").root_directory_digest == artifact.tree.root


HOLES = {
    "the blob": lambda artifact: artifact.blob,
    "a blob reference": lambda artifact: artifact.log,
    "a directory reference": lambda artifact: artifact.tree.root,
    "a file": lambda artifact: artifact.digest(b"a file"),
    "a deep file": lambda artifact: artifact.digest(b"a deep file"),
    "a directory": lambda artifact: artifact.digest(CONTENT["a"]),
    "a deep directory": lambda artifact: artifact.digest(CONTENT["a"]["b"]["c"]),
}


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES.keys())
def test_what_is_missing_is_named_and_the_push_refused(client, cas, hole):
    artifact = Artifact(cas)
    lost = hole(artifact)
    artifact.upload(without=[lost])
    with fails("FAILED_PRECONDITION", rf"{name_of(lost)} \(1 in all\)") as info:
        artifact.push(client)
    assert missing_of(info.value) == [f"blobs/{name_of(lost)}"]
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    if lost not in (artifact.blob, artifact.log):
        with fails("FAILED_PRECONDITION", lost.hash) as info:
            client.push_directory("urn:a", artifact.tree.root)
        assert missing_of(info.value) == [f"blobs/{name_of(lost)}"]
    artifact.upload()
    artifact.push(client)
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob


def test_the_first_sixteen_missing_are_named_and_all_counted(client, cas):
    present = cas.put(b"present")
    absent = [digest_of(b"absent %d" % number) for number in range(37)]
    with fails("FAILED_PRECONDITION", r"\(37 in all\)") as info:
        client.push_blob("urn:a", present, references_blobs=absent)
    assert missing_of(info.value) == [f"blobs/{name_of(digest)}" for digest in absent[:16]]


def test_what_is_missing_twice_is_counted_once(client, cas):
    """Below two directories, among the references, and as the content."""
    files = [b"absent %d" % number for number in range(20)]
    tree = Tree({side: {f"{side}{n}": data for n, data in enumerate(files)} for side in "ab"})
    cas.put(*tree.directories_as_bytes())
    with fails("FAILED_PRECONDITION", r"\(20 in all\)") as info:
        client.push_blob(
            "urn:a",
            digest_of(files[3]),
            references_blobs=[digest_of(files[3]), digest_of(files[4])],
            references_directories=[tree.root, tree.root],
        )
    subjects = missing_of(info.value)
    assert len(subjects) == len(set(subjects)) == 16


def test_what_is_empty_is_always_there(client, cas):
    client.push_blob("urn:a", EMPTY, references_blobs=[EMPTY], references_directories=[EMPTY])
    client.push_directory("urn:a", EMPTY)
    assert client.fetch_blob("urn:a").blob_digest == EMPTY
    assert client.fetch_directory("urn:a").root_directory_digest == EMPTY
    assert cas.take(FIND) == cas.take(BATCH_READ) == []


def test_what_is_no_directory_is_refused_as_one(client, cas):
    garbage = cas.put(b"\xff\xff\xff\xffno directory")
    with fails("INVALID_ARGUMENT", garbage.hash):
        client.push_directory("urn:a", garbage)
    huge = reapi.Digest(hash=digest_of(b"huge").hash, size_bytes=(64 << 20) + 1)
    with fails("INVALID_ARGUMENT", huge.hash):
        client.push_directory("urn:a", huge)


def test_who_may_not_push_has_nothing_checked(server, assetd, cas, artifact):
    with fails("PERMISSION_DENIED"):
        artifact.push(server.client(server.pull))
    # Beside a server that writes, another one reads, and checks what it answers.
    second = assetd(instances=server.config["instances"]).client()
    with fails("UNAVAILABLE", str(server.process.pid)):
        artifact.push(second)
    assert cas.take() == []
    artifact.push(server.client())
    assert second.fetch_blob("urn:a").blob_digest == artifact.blob
    cas.remove(artifact.log)
    with fails("NOT_FOUND", "whole"):
        second.fetch_blob("urn:a")


# Content that goes


@pytest.mark.parametrize("heal", ["upload", "upload and push"])
def test_a_blob_is_removed_behind_our_back(server, client, cas, artifact, heal):
    lost = artifact.digest(b"a deep file")
    artifact.push(client)
    client.push_directory("urn:a", artifact.tree.root)
    cas.remove(lost)
    for _ in range(2):
        with fails("NOT_FOUND", "whole"):
            client.fetch_blob("urn:a")
        with fails("NOT_FOUND", "whole"):
            client.fetch_directory("urn:a")
    with fails("FAILED_PRECONDITION", lost.hash):
        artifact.push(client)
    # The entry is kept, on the disk too.
    server.restart()
    client = server.client()
    with fails("NOT_FOUND", "whole"):
        client.fetch_blob("urn:a")
    artifact.upload()
    if heal == "upload and push":
        artifact.push(client)
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob
    assert client.fetch_directory("urn:a").root_directory_digest == artifact.tree.root


def test_whatever_is_removed_is_noticed(server, cas, artifact):
    """By a server that knows the directories, and by a new one, which has to read them."""
    artifact.push(server.client())
    for is_new in (False, True):
        for hole in HOLES.values():
            cas.remove(hole(artifact))
            if is_new:
                server.restart()
            client = server.client()
            with fails("NOT_FOUND", "whole"):
                client.fetch_blob("urn:a")
            artifact.upload()
            assert client.fetch_blob("urn:a").blob_digest == artifact.blob


def test_what_was_found_whole_is_trusted(paired, cas, artifact):
    client = paired(cas, trust="10m").client()
    artifact.push(client)
    cas.take()
    cas.remove(artifact.digest(b"a deep file"))
    for _ in range(3):
        assert client.fetch_blob("urn:a").blob_digest == artifact.blob
    assert cas.take() == []
    # By a push it is not.
    with fails("FAILED_PRECONDITION"):
        artifact.push(client)


def test_until_the_trust_has_run_out(paired, cas, artifact):
    client = paired(cas, trust="1s").client()
    artifact.push(client)
    cas.remove(artifact.digest(b"a deep file"))
    wait_until(lambda: is_miss(client), "it is trusted for ever")
    # Bad news is not: the upload is seen at once.
    artifact.upload()
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob


def test_the_trust_begins_when_the_cas_is_asked(paired, cas, artifact):
    """However long it takes to answer: what went meanwhile is not trusted any longer than that."""
    server = paired(cas, trust="1s")
    client = server.client()
    artifact.push(client)
    server.restart()
    client = server.client()
    with cas.fault(Hold(1), FIND) as hold:
        fetch = client.begin_fetch_blob("urn:a")
        hold.wait_for(1)
        cas.remove(artifact.log)
        time.sleep(1.1)
    assert fetch.result().blob_digest == artifact.blob
    with fails("NOT_FOUND", "whole"):
        client.fetch_blob("urn:a")


def test_the_next_uri_is_taken_if_one_is_not_whole(client, cas):
    first, second = (Artifact(cas, mark, {"file": mark}).upload() for mark in (b"1", b"2"))
    first.push(client, "urn:first")
    second.push(client, "urn:second")
    cas.remove(first.digest(b"1"))
    answer = client.fetch_blob(["urn:none", "urn:first", "urn:second"])
    assert (answer.uri, answer.blob_digest) == ("urn:second", second.blob)
    cas.remove(second.log)
    with fails("NOT_FOUND", "whole"):
        client.fetch_blob(["urn:first", "urn:second", "urn:none"])
    first.upload()
    assert client.fetch_blob(["urn:none", "urn:first", "urn:second"]).uri == "urn:first"
    # Of 64, the last one.
    lost = cas.put(b"lost")
    uris = [f"urn:{number}" for number in range(63)]
    client.push_blob(uris, lost)
    cas.remove(lost)
    assert client.fetch_blob([*uris, "urn:first"]).uri == "urn:first"


def test_instances_have_their_own_cas(external_cas, assetd, folder):
    one, two = external_cas(instances=["one"]), external_cas(instances=["elsewhere"])
    server = assetd(
        instances=[
            index_only(folder, "one", one),
            index_only(folder, "two", two, instance_name="elsewhere"),
        ]
    )
    first, second = server.client(instance="one"), server.client(instance="two")
    digest = one.put(b"content")
    first.push_blob("urn:a", digest)
    with fails("FAILED_PRECONDITION", digest.hash):
        second.push_blob("urn:a", digest)
    two.put(b"content")
    second.push_blob("urn:a", digest)
    one.remove(digest)
    assert second.fetch_blob("urn:a").blob_digest == digest
    with fails("NOT_FOUND"):
        first.fetch_blob("urn:a")
    assert {call.instance for call in one.take()} == {"one"}
    assert {call.instance for call in two.take()} == {"elsewhere"}


def test_without_a_cas_all_is_answered_as_stored(assetd, folder, cas):
    server = assetd(
        instances=[index_only(folder), index_only(folder, "paired", cas, instance_name="")]
    )
    client = server.client()
    absent = digest_of(b"absent")
    client.push_blob("urn:a", absent, references_directories=[absent])
    assert client.fetch_blob("urn:a").blob_digest == absent
    wait_until(lambda: "event=cas-paired" in server.log(), server.log)
    (line,) = [line for line in server.log().splitlines() if "event=index-only" in line]
    assert 'instance=""' in line and "as stored" in line
    (line,) = [line for line in server.log().splitlines() if "event=cas-paired" in line]
    assert "instance=paired" in line and cas.url in line


def test_an_entry_that_is_no_tree_is_a_miss(assetd, folder, cas):
    """Nobody looked when it was pushed."""
    server = assetd(instances=[index_only(folder)])
    client = server.client()
    client.push_directory("urn:bad", cas.put(b"\xff\xff\xff\xffno directory"))
    client.push_directory("urn:good", cas.put_tree(Tree(CONTENT)))
    reload(server, instances=[index_only(folder, cas=cas)])
    with fails("NOT_FOUND"):
        client.fetch_directory("urn:bad")
    assert client.fetch_directory(["urn:bad", "urn:good"]).uri == "urn:good"


# What it costs the CAS


def forest(depth=4, fan=5, files=8):
    """1000 files in 156 directories: DEPTH levels of them, of which the lowest has the files."""

    def below(path):
        if len(path) == depth - 1:
            return {f"file{n}": f"{path}/{n}".encode() for n in range(files)}
        return {f"directory{n}": below((*path, n)) for n in range(fan)}

    return below(())


def test_the_number_of_calls(paired, cas):
    artifact = Artifact(cas, content=forest()).upload()
    assert len(artifact.names()) == 1000 + 156 + 2
    server = paired(cas, trust="1s")
    client = server.client()
    artifact.push(client)
    server.restart()
    client = server.client()
    # The depth, and no more than five beyond it.
    cas.take()
    client.fetch_blob("urn:a")
    first = cas.take_names()
    assert 2 <= len(first) <= 4 + 5
    # The directories are remembered from now on: one call for all.
    asked = []
    wait_until(
        lambda: client.fetch_blob("urn:a") and asked.extend(cas.take_names()) or asked,
        "it is trusted for ever",
    )
    assert asked == [FIND]
    artifact.push(client)
    client.push_blob("urn:b", artifact.blob, references_directories=[artifact.tree.root])
    assert cas.take_names() == [FIND, FIND]


def chain(depth):
    """1000 files in as many directories as there are levels."""
    content = {}
    for level in range(depth):
        content = {"below": content} if level else {}
        content |= {f"file{n}": b"%d of %d" % (n, level) for n in range(1000 // depth)}
    return content


# The content of each directory that is referenced, and the depth.
SHAPES = {
    "flat": ([chain(1)], 1),
    "long names": ([{f"{n:0255}": b"%d" % n for n in range(1000)}], 1),
    "deep": ([chain(10)], 10),
    "wide": ([{f"d{n}": {"file": b"%d" % n} for n in range(1000)}], 2),
    "several": ([forest(3, 10, 2) | {"own": b"%d" % n} for n in range(5)], 3),
}


@pytest.mark.parametrize("contents, depth", SHAPES.values(), ids=SHAPES.keys())
def test_the_number_of_calls_for_any_shape(server, client, cas, contents, depth):
    roots = [cas.put_tree(Tree(content)) for content in contents]
    logs = [b"log %d" % number for number in range(200)]
    blob = cas.put(*logs)
    references = {
        "references_blobs": [digest_of(log) for log in logs],
        "references_directories": roots,
    }
    client.push_blob("urn:a", blob, **references)
    assert 2 <= len(cas.take()) <= depth + 5
    server.restart()
    client = server.client()
    for expected in (range(2, depth + 6), [1]):
        client.fetch_blob("urn:a")
        assert len(cas.take()) in expected
    client.push_blob("urn:b", blob, **references)
    assert cas.take_names() == [FIND]


def test_what_is_remembered_costs_no_call(paired, cas, artifact):
    client = paired(cas, trust="10m").client()
    artifact.push(client)
    assert cas.take() != []
    client.fetch_blob("urn:a")
    client.fetch_blob("urn:a")
    assert cas.take() == []


def test_a_check_renews_the_life_of_everything(server, client, cas, artifact):
    artifact.push(client)
    server.restart()
    cas.take()
    client = server.client()
    for _ in range(2):
        client.fetch_blob("urn:a")
        asked = [name for call in cas.take(FIND) for name in call.blobs]
        assert sorted(asked) == sorted(artifact.names())
    artifact.push(client)
    assert {name for call in cas.take(FIND) for name in call.blobs} == artifact.names()


def test_twenty_thousand_files_are_asked_for_in_batches(server, client, cas):
    """In directories of 1.6 MiB together, which are read in batches too."""
    content = {
        f"d{n}": {f"f{m}": b"%d" % (n * 500 + m) for m in range(500)} for n in range(40)
    }
    artifact = Artifact(cas, content=content)
    cas.put(*artifact.blobs[:2], *artifact.tree.directories_as_bytes())
    with fails("FAILED_PRECONDITION", r"\(20000 in all\)") as info:
        artifact.push(client)
    assert len(missing_of(info.value)) == 16
    artifact.upload()
    artifact.push(client)
    server.restart()
    client = server.client()
    cas.take()
    client.fetch_blob("urn:a")
    calls = cas.take()
    asked = [name for call in calls if call.method == FIND for name in call.blobs]
    assert sorted(asked) == sorted(artifact.names())
    read = [name for call in calls if call.method == BATCH_READ for name in call.blobs]
    assert len(read) == len(set(read)) == 41
    assert len(calls) <= 2 + 5


def test_a_cas_that_takes_small_batches(external_cas, paired):
    """As it says in its Capabilities: what is larger is streamed."""
    cas = external_cas(batch=1000)
    content = {f"d{n}": {f"f{m}": b"%d" % (n * 3 + m) for m in range(3)} for n in range(20)}
    artifact = Artifact(cas, content=content).upload()
    server = paired(cas)
    wait_until(lambda: "event=cas-paired" in server.log(), server.log)
    artifact.push(server.client())
    calls = cas.take()
    streamed = {name for call in calls if call.method == READ for name in call.blobs}
    assert streamed == {name_of(artifact.tree.root)}
    read = [call.blobs for call in calls if call.method == BATCH_READ]
    assert sum(map(len, read)) == 20 and max(map(len, read)) > 1


def test_directories_that_are_larger_than_a_message(server, client, cas):
    """Of 4.4 MiB and of 1.1 MiB: they are streamed."""
    large = {f"{n:0250}": b"%d" % (n % 10) for n in range(14_000)}
    content = {"large": large, "small": {name: large[name] for name in list(large)[:3500]}}
    artifact = Artifact(cas, content=content).upload()
    lost = artifact.digest(b"7")
    assert artifact.digest(large).size_bytes > 4 << 20
    cas.remove(lost)
    with fails("FAILED_PRECONDITION", lost.hash):
        artifact.push(client)
    streamed = {name for call in cas.take(READ) for name in call.blobs}
    assert streamed == {name_of(artifact.digest(content[side])) for side in content}
    artifact.upload()
    artifact.push(client)
    server.restart()
    client = server.client()
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob
    server.restart()
    cas.remove(artifact.digest(large))
    with fails("NOT_FOUND", "whole"):
        server.client().fetch_blob("urn:a")


def test_a_hundred_thousand_references(server, client, cas):
    blobs = [b"%d" % number for number in range(100_000)]
    content = cas.put(*blobs)
    references = [digest_of(data) for data in blobs]
    client.push_blob("urn:a", content, references_blobs=references)
    cas.take()
    assert client.fetch_blob("urn:a").blob_digest == content
    asked = [name for call in cas.take() for name in call.blobs]
    assert sorted(asked) == sorted(map(name_of, references))
    cas.remove(references[77_777])
    with fails("NOT_FOUND", "whole"):
        client.fetch_blob("urn:a")
    with fails("FAILED_PRECONDITION", references[77_777].hash):
        client.push_blob("urn:a", content, references_blobs=references)


def test_three_hundred_assets_at_once(client, cas):
    digests = [cas.put(b"%d" % number) for number in range(300)]
    pushes = [client.begin_push_blob(f"urn:{n}", digest) for n, digest in enumerate(digests)]
    for push in pushes:
        push.result()
    cas.remove(*digests[::3])
    with cas.fault(delays(0.01)):
        fetches = [client.begin_fetch_blob(f"urn:{n}") for n in range(300)]
        for number, fetch in enumerate(fetches):
            if number % 3 == 0:
                with fails("NOT_FOUND"):
                    fetch.result()
            else:
                assert fetch.result().blob_digest == digests[number]


# Checks that are shared


def test_fetches_of_one_asset_share_one_check(paired, cas, artifact):
    server = paired(cas, trust="10m")
    artifact.push(server.client())
    server.restart()
    client = server.client()
    cas.take()
    with cas.fault(Hold(), FIND) as hold:
        fetches = [client.begin_fetch_blob("urn:a") for _ in range(50)]
        hold.wait_for(1)
        # Behind them on the same connection.
        client.health()
    for fetch in fetches:
        assert fetch.result().blob_digest == artifact.blob
    assert len(cas.take(FIND)) == 1


@pytest.mark.parametrize("trust", ["0s", "10m"])
@pytest.mark.parametrize("heal", ["upload", "upload and push"])
def test_who_comes_late_gets_no_old_news(paired, cas, artifact, trust, heal):
    """The blob comes back while a check hangs whose answer is that it is missing."""
    server = paired(cas, trust=trust)
    client = server.client()
    artifact.push(client)
    server.restart()
    client = server.client()
    lost = artifact.digest(b"a deep file")
    cas.remove(lost)
    with cas.fault(Hold(1), FIND) as hold:
        early = client.begin_fetch_blob("urn:a")
        hold.wait_for(1)
        cas.put(b"a deep file")
        if heal == "upload and push":
            artifact.push(client)
        late = [client.begin_fetch_blob("urn:a") for _ in range(10)]
        client.health()
    for fetch in late:
        assert fetch.result().blob_digest == artifact.blob
    # Who came early may have been told either.
    assert early.exception() is None or early.code() == grpc.StatusCode.NOT_FOUND


def test_a_push_is_not_answered_by_a_check_that_began_before(server, client, cas, artifact):
    """While one that says that all is there hangs, something goes."""
    artifact.push(client)
    with cas.fault(Hold(1), FIND) as hold:
        fetch = client.begin_fetch_blob("urn:a")
        hold.wait_for(1)
        cas.remove(artifact.log)
        with fails("FAILED_PRECONDITION", artifact.log.hash):
            artifact.push(client)
    assert fetch.result().blob_digest == artifact.blob


def test_a_check_that_hangs_holds_up_no_other(server, client, cas, artifact):
    artifact.push(client)
    other = cas.put(b"other")
    client.push_blob("urn:other", other)
    with cas.fault(Hold(1), FIND) as hold:
        fetch = client.begin_fetch_blob("urn:a")
        hold.wait_for(1)
        assert client.fetch_blob("urn:other").blob_digest == other
    assert fetch.result().blob_digest == artifact.blob


# Answers that are not true


def spoil(answer):
    """The last byte of each blob is another."""
    for one in answer.responses if isinstance(answer, reapi.BatchReadBlobsResponse) else answer:
        if one.data:
            one.data = one.data[:-1] + bytes([one.data[-1] ^ 1])


@pytest.mark.parametrize("method", [BATCH_READ, READ])
def test_a_directory_of_wrong_bytes_is_not_there(server, client, cas, method):
    names = [f"{n:0250}" for n in range(5000 if method == READ else 5)]
    artifact = Artifact(cas, content={name: b"x" for name in names}).upload()
    root = artifact.tree.root
    with cas.fault(alters(spoil), method):
        with fails("FAILED_PRECONDITION", root.hash) as info:
            artifact.push(client)
        assert missing_of(info.value) == [f"blobs/{name_of(root)}"]
        assert root.hash in server.log()
    artifact.push(client)
    server.restart()
    client = server.client()
    with cas.fault(alters(spoil), method):
        with fails("NOT_FOUND", "whole"):
            client.fetch_blob("urn:a")
    assert client.fetch_blob("urn:a").blob_digest == artifact.blob
    assert cas.take(method)


def test_writers_and_readers_while_blobs_come_and_go(paired, cas):
    """No answer but the two right ones, and at the end all is well."""
    client = paired(cas, trust="0s").client()
    artifacts = [Artifact(cas, b"%d" % n).upload() for n in range(4)]
    for number, artifact in enumerate(artifacts):
        artifact.push(client, f"urn:{number}")
    stop, failures, hits = threading.Event(), [], []

    def fetch(number):
        try:
            while not stop.is_set():
                hits.append(is_miss(client, f"urn:{number}"))
        except (grpc.RpcError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fetch, args=(number % 4,)) for number in range(8)]
    for thread in threads:
        thread.start()
    shared = artifacts[0].digest(b"a deep file")
    for _ in range(20):
        cas.remove(shared)
        wait_until(lambda: is_miss(client, "urn:0"), "it is no miss")
        cas.put(b"a deep file")
        artifacts[1].push(client, "urn:1")
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert {True, False} == set(hits)
    assert not any(is_miss(client, f"urn:{number}") for number in range(4))
