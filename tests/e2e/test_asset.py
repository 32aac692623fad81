# SPDX-License-Identifier: Apache-2.0
"""Remote Asset: Fetch and Push of blobs and directories."""

import base64
import hashlib
import shutil
import time

import grpc
import pytest

from lib.api import asset, reapi
from lib.client import duration, fails, missing_of, timestamp
from lib.content import EMPTY, FUNCTIONS, Tree, digest_of, name_of, noise
from lib.server import bytes_below, wait_until

HOUR = 3600
FETCH_BLOB = "/build.bazel.remote.asset.v1.Fetch/FetchBlob"
PUSH_BLOB = "/build.bazel.remote.asset.v1.Push/PushBlob"


@pytest.fixture(scope="module")
def shared(module_assetd):
    """A client of a server that the tests share which leave nothing behind in it."""
    return module_assetd().client()


@pytest.fixture(scope="module")
def blob(shared):
    """The digest of a blob that the shared server has."""
    return shared.upload(b"a blob that is there")


# What BuildStream's service check needs


@pytest.mark.parametrize("call", ["fetch_blob", "fetch_directory"])
def test_a_fetch_without_uris_is_an_invalid_argument(shared, call):
    with fails("INVALID_ARGUMENT", "(?i)uri"):
        getattr(shared, call)([])


@pytest.mark.parametrize("call", ["push_blob", "push_directory"])
def test_a_push_without_uris_is_an_invalid_argument(shared, call):
    with fails("INVALID_ARGUMENT", "(?i)uri"):
        getattr(shared, call)([], None)


@pytest.mark.parametrize("name", ["nobody/knows", "\u00fcnknown", "uploads", "x" * 1000])
def test_an_unknown_instance_comes_before_the_arguments(shared, name):
    """INVALID_ARGUMENT would be taken for a working server by the service check."""
    request = asset.FetchBlobRequest(instance_name=name).SerializeToString()
    with fails("NOT_FOUND", name[:90]):
        shared.raw(FETCH_BLOB, request)
    with fails("NOT_FOUND", name[:90]):
        shared.raw(PUSH_BLOB, request)


# What is pushed can be fetched


def test_a_pushed_blob_is_fetched(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest)
    answer = client.fetch_blob("urn:a")
    assert answer.status.code == 0
    assert answer.blob_digest == digest
    assert answer.uri == "urn:a"
    assert answer.digest_function in (0, reapi.DigestFunction.SHA256)


def test_a_pushed_directory_is_fetched(client):
    tree = Tree({"file": b"1", "sub": {"link": "../file", "other": b"2"}})
    client.upload_tree(tree)
    client.push_directory("urn:a", tree.root)
    answer = client.fetch_directory("urn:a")
    assert answer.status.code == 0
    assert answer.root_directory_digest == tree.root
    assert answer.uri == "urn:a"


def test_what_was_never_pushed_is_not_found(shared):
    with fails("NOT_FOUND"):
        shared.fetch_blob("urn:never")
    with fails("NOT_FOUND"):
        shared.fetch_directory(["urn:never", "urn:nor-this"])


def test_blobs_and_directories_are_kept_apart(client):
    tree = Tree({"file": b"1"})
    client.upload_tree(tree)
    client.push_directory("urn:directory", tree.root)
    client.push_blob("urn:blob", tree.root)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:directory")
    with fails("NOT_FOUND"):
        client.fetch_directory("urn:blob")
    other = client.upload(b"other")
    client.push_blob("urn:directory", other)
    assert client.fetch_directory("urn:directory").root_directory_digest == tree.root
    assert client.fetch_blob("urn:directory").blob_digest == other


def test_a_second_push_replaces_the_first(client):
    first, second = client.upload(b"first"), client.upload(b"second")
    client.push_blob("urn:a", first)
    client.push_blob("urn:a", second)
    assert client.fetch_blob("urn:a").blob_digest == second


def test_a_push_of_several_uris_is_found_by_each(client):
    digest = client.upload(b"content")
    client.push_blob(["urn:strong", "urn:weak"], digest)
    assert client.fetch_blob("urn:strong").blob_digest == digest
    assert client.fetch_blob("urn:weak").blob_digest == digest


def test_uris_are_tried_in_the_order_given(client):
    first, second = client.upload(b"first"), client.upload(b"second")
    client.push_blob("urn:first", first)
    client.push_blob("urn:second", second)
    for uris, hit, digest in (
        (["urn:none", "urn:second", "urn:first"], "urn:second", second),
        (["urn:first", "urn:second"], "urn:first", first),
        (["urn:none", "urn:neither", "urn:first"], "urn:first", first),
    ):
        answer = client.fetch_blob(uris)
        assert (answer.uri, answer.blob_digest) == (hit, digest)


def test_uris_are_compared_to_the_byte(client):
    digest = client.upload(b"content")
    client.push_blob("https://example.com/a%20b?x=\u00e9", digest)
    for other in (
        "https://example.com/a%20b?x=e\u0301",
        "https://example.com/a b?x=\u00e9",
        "HTTPS://example.com/a%20b?x=\u00e9",
        "https://example.com/a%20b?x=\u00e9 ",
        "https://example.com/a%20b?x=",
    ):
        with fails("NOT_FOUND"):
            client.fetch_blob(other)
    assert client.fetch_blob("https://example.com/a%20b?x=\u00e9").blob_digest == digest


# Qualifiers


def test_qualifiers_in_any_order_are_the_same_asset(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest, [("b", "2"), ("a", "1"), ("c", "3")])
    for order in (
        [("a", "1"), ("b", "2"), ("c", "3")],
        [("c", "3"), ("b", "2"), ("a", "1")],
    ):
        assert client.fetch_blob("urn:a", order).blob_digest == digest


def test_qualifiers_are_part_of_the_key(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest, {"no.such.qualifier": "1"})
    for other in (
        {},
        {"no.such.qualifier": "2"},
        {"no.such.qualifier": ""},
        {"no.such.qualifie": "r1"},
        {"no.such.qualifier": "1", "another": "x"},
    ):
        with fails("NOT_FOUND"):
            client.fetch_blob("urn:a", other)
    assert client.fetch_blob("urn:a", {"no.such.qualifier": "1"}).blob_digest == digest


def test_uri_and_qualifiers_do_not_run_into_each_other(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest, {"b": "c"})
    for uri, qualifiers in (
        ("urn:ab", {"c": ""}),
        ("urn:abc", {}),
        ("urn:a", {"bc": ""}),
        ("urn:a", {"c": "b"}),
    ):
        with fails("NOT_FOUND"):
            client.fetch_blob(uri, qualifiers)


# Times


def is_miss(client, uri):
    try:
        client.fetch_blob(uri)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        return True
    return False


def test_expire_at_is_honoured(client):
    digest = client.upload(b"content")
    client.push_blob("urn:soon", digest, expire_at=timestamp(time.time() + 1.5))
    client.push_blob("urn:later", digest, expire_at=timestamp(time.time() + HOUR))
    wait_until(lambda: is_miss(client, "urn:soon"), "it never expired")
    assert client.fetch_blob("urn:later").blob_digest == digest


def test_a_later_push_alters_the_expiry(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest, expire_at=timestamp(time.time() + HOUR))
    client.push_blob("urn:a", digest, expire_at=timestamp(time.time() - HOUR))
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    client.push_blob("urn:a", digest)
    assert client.fetch_blob("urn:a").blob_digest == digest


def test_oldest_content_accepted_is_honoured(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest)
    now = time.time()
    for accepted in (0, now - HOUR):
        oldest = timestamp(accepted)
        assert client.fetch_blob("urn:a", oldest_content_accepted=oldest).blob_digest == digest
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a", oldest_content_accepted=timestamp(now + HOUR))


def test_a_uri_that_is_too_old_leaves_the_turn_to_the_next(client):
    """Two URIs, the first of which was pushed before the oldest that is accepted."""
    first, second = client.upload(b"first"), client.upload(b"second")
    client.push_blob("urn:first", first)
    time.sleep(0.05)
    between = time.time()
    time.sleep(0.05)
    client.push_blob("urn:second", second)
    answer = client.fetch_blob(
        ["urn:first", "urn:second"], oldest_content_accepted=timestamp(between)
    )
    assert (answer.uri, answer.blob_digest) == ("urn:second", second)


def test_a_timeout_is_of_no_consequence_without_an_origin(client):
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest)
    for seconds in (0, 1, 10**9):
        assert client.fetch_blob("urn:a", timeout=duration(seconds)).blob_digest == digest


def test_expire_after_of_not_being_fetched(assetd, folder):
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "expire-after": "2s"}]
    )
    client = server.client()
    digest = client.upload(b"content")
    client.push_blob("urn:a", digest)
    time.sleep(4)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")


# References


def test_a_push_with_its_references(client):
    """As BuildStream pushes an artifact: an Artifact message, blobs and directories."""
    tree = Tree({"usr": {"bin": {"tool": b"binary"}}, "log": b"text"})
    client.upload_tree(tree)
    artifact, log = client.upload(b"artifact"), client.upload(b"log")
    client.push_blob(
        ["urn:strong", "urn:weak"],
        artifact,
        references_blobs=[log, artifact],
        references_directories=[tree.root],
    )
    assert client.fetch_blob("urn:weak").blob_digest == artifact


def test_missing_references_are_named(client):
    present = client.upload(b"present")
    absent = [digest_of(b"absent 1"), digest_of(b"absent 2")]
    tree = digest_of(b"absent directory")
    with fails("FAILED_PRECONDITION") as info:
        client.push_blob(
            "urn:a",
            present,
            references_blobs=[absent[0], present, absent[1]],
            references_directories=[tree],
        )
    expected = {f"blobs/{name_of(digest)}" for digest in (*absent, tree)}
    assert set(missing_of(info.value)) == expected
    assert name_of(absent[0]) in info.value.details() or absent[0].hash in info.value.details()
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")


def test_a_push_of_missing_content_is_refused(client):
    absent = digest_of(b"absent")
    with fails("FAILED_PRECONDITION", absent.hash) as info:
        client.push_blob("urn:a", absent)
    assert missing_of(info.value) == [f"blobs/{name_of(absent)}"]
    with fails("FAILED_PRECONDITION", absent.hash) as info:
        client.push_directory("urn:a", absent)
    assert missing_of(info.value) == [f"blobs/{name_of(absent)}"]


def test_the_first_sixteen_missing_are_named_and_all_counted(client):
    present = client.upload(b"present")
    absent = [digest_of(b"absent %d" % number) for number in range(37)]
    with fails("FAILED_PRECONDITION", r"\b(37|21)\b") as info:
        client.push_blob("urn:a", present, references_blobs=absent)
    subjects = missing_of(info.value)
    assert subjects == [f"blobs/{name_of(digest)}" for digest in absent[:16]]


@pytest.mark.parametrize("hole", ["file", "deep file", "directory", "deep directory"])
def test_directories_are_checked_through_the_whole_tree(client, hole):
    content = {
        "file": b"a file",
        "a": {"b": {"c": {"deep": b"a deep file"}}, "same": {"x": b"x"}},
        "same": {"x": b"x"},
    }
    tree = Tree(content)
    lost = {
        "file": tree.digest(b"a file"),
        "deep file": tree.digest(b"a deep file"),
        "directory": tree.digest(content["a"]),
        "deep directory": tree.digest(content["a"]["b"]["c"]),
    }[hole]
    client.upload(*(data for hash_, data in tree.blobs.items() if hash_ != lost.hash))
    with fails("FAILED_PRECONDITION", lost.hash) as info:
        client.push_directory("urn:a", tree.root)
    assert missing_of(info.value) == [f"blobs/{name_of(lost)}"]
    artifact = client.upload(b"artifact")
    with fails("FAILED_PRECONDITION", lost.hash):
        client.push_blob("urn:a", artifact, references_directories=[tree.root])
    client.upload(tree.blobs[lost.hash])
    client.push_directory("urn:a", tree.root)
    client.push_blob("urn:a", artifact, references_directories=[tree.root])
    assert client.fetch_directory("urn:a").root_directory_digest == tree.root


def test_the_same_missing_blob_is_named_once(client):
    """Many directories that hold the same file: one digest is missing, not many."""
    tree = Tree({f"d{number}": {"n": b"%d" % number, "same": b"same"} for number in range(10)})
    same = tree.digest(b"same")
    client.upload(*(data for hash_, data in tree.blobs.items() if hash_ != same.hash))
    with fails("FAILED_PRECONDITION") as info:
        client.push_directory("urn:a", tree.root)
    assert missing_of(info.value) == [f"blobs/{name_of(same)}"]


def test_missing_content_that_is_a_reference_too_is_named_once(client):
    absent = digest_of(b"nowhere")
    with fails("FAILED_PRECONDITION", "1 in all") as info:
        client.push_blob("urn:a", absent, references_blobs=[absent])
    assert missing_of(info.value) == [f"blobs/{name_of(absent)}"]


def test_what_a_directory_and_the_references_lack_is_counted_once(client):
    """More of it than is named, below content that is among the references as well."""
    tree = Tree({"f%d" % number: b"absent %d" % number for number in range(37)})
    client.upload(tree.blobs[tree.root.hash])
    with fails("FAILED_PRECONDITION", r"\(37 in all\)") as info:
        client.push_directory("urn:a", tree.root, references_directories=[tree.root])
    assert len(missing_of(info.value)) == 16


def test_what_is_no_directory_is_refused_as_one(client):
    garbage = client.upload(b"\xff\xff\xff\xffno directory")
    with fails("INVALID_ARGUMENT", garbage.hash):
        client.push_directory("urn:a", garbage)


def test_the_empty_blob_needs_no_upload(client):
    client.push_blob("urn:a", EMPTY, references_blobs=[EMPTY])
    assert client.fetch_blob("urn:a").blob_digest == EMPTY
    client.push_directory("urn:a", EMPTY)
    assert client.fetch_directory("urn:a").root_directory_digest == EMPTY
    tree = Tree({"empty": b"", "nothing": {}})
    client.upload(tree.blobs[tree.root.hash])
    client.push_directory("urn:b", tree.root)
    assert client.fetch_directory("urn:b").root_directory_digest == tree.root


def test_empty_digests_among_the_references_are_tolerated(client):
    """Clients older than BuildStream 2.7 send them."""
    digest = client.upload(b"content")
    nothing = reapi.Digest()
    client.push_blob(
        "urn:a",
        digest,
        references_blobs=[nothing, digest],
        references_directories=[nothing],
    )
    assert client.fetch_blob("urn:a").blob_digest == digest


def test_a_digest_of_another_size_is_another_digest(client):
    digest = client.upload(b"content")
    for size in (digest.size_bytes - 1, digest.size_bytes + 1, 0):
        other = reapi.Digest(hash=digest.hash, size_bytes=size)
        with fails("FAILED_PRECONDITION"):
            client.push_blob("urn:a", other)


# Content that goes


def lose_cas(server):
    """With the server stopped, cas/ may be removed, and means an empty CAS."""
    server.stop()
    shutil.rmtree(server.storage / "cas")
    server.start()
    return server.client()


def test_a_fetch_of_content_that_is_gone_is_not_found_until_a_push_heals(server):
    client = server.client()
    tree = Tree({"a": {"b": b"file"}})
    client.upload_tree(tree)
    artifact = client.upload(b"artifact")

    def push():
        client.push_blob("urn:a", artifact, references_directories=[tree.root])
        client.push_directory("urn:a", tree.root)

    push()
    client = lose_cas(server)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    with fails("NOT_FOUND"):
        client.fetch_directory("urn:a")
    # The artifact alone is not enough, and neither is all but one file.
    client.upload(b"artifact", *tree.directories_as_bytes())
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    with fails("FAILED_PRECONDITION", tree.digest(b"file").hash):
        push()
    client.upload(b"file")
    push()
    assert client.fetch_blob("urn:a").blob_digest == artifact
    assert client.fetch_directory("urn:a").root_directory_digest == tree.root


def test_content_that_comes_back_is_found_without_a_push(server):
    """What was found not to be whole is not remembered as that for ever."""
    client = server.client()
    tree = Tree({"a": {"b": b"file"}})
    client.upload_tree(tree)
    client.push_directory("urn:a", tree.root)
    client = lose_cas(server)
    with fails("NOT_FOUND"):
        client.fetch_directory("urn:a")
    client.upload_tree(tree)
    assert client.fetch_directory("urn:a").root_directory_digest == tree.root


def test_eviction_behind_a_pushed_artifact(assetd, folder):
    """The quota takes one file of a tree that was found whole before: the answer changes."""
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "quota": "4MiB"}]
    )
    client = server.client()
    lost = noise(100_000)
    tree = Tree({"a": {"b": lost}})
    client.upload_tree(tree)
    artifact = client.upload(b"artifact")
    references = {"references_directories": [tree.root]}
    client.push_blob("urn:a", artifact, **references)
    assert client.fetch_blob("urn:a").blob_digest == artifact
    for number in range(60):
        # All but the one file stays in use.
        client.find_missing([artifact, tree.root, tree.digest({"b": lost})])
        client.upload(noise(100_000, number + 1))
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:a")
    with fails("FAILED_PRECONDITION", tree.digest(lost).hash):
        client.push_blob("urn:a", artifact, **references)
    client.upload(lost)
    client.push_blob("urn:a", artifact, **references)
    assert client.fetch_blob("urn:a").blob_digest == artifact


def test_a_fetch_renews_the_life_of_all_that_it_names(assetd, folder):
    """A tree that is fetched again and again outlives many quotas of other blobs."""
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "quota": "4MiB"}]
    )
    client = server.client()
    tree = Tree({"a": {"b": noise(100_000)}, "c": noise(50_000, 1)})
    client.upload_tree(tree)
    artifact, log = client.upload(b"artifact"), client.upload(b"log")
    client.push_blob(
        "urn:a", artifact, references_blobs=[log], references_directories=[tree.root]
    )
    for number in range(120):
        assert client.fetch_blob("urn:a").blob_digest == artifact
        client.upload(noise(100_000, number + 2))
    everything = [artifact, log, *(digest_of(data) for data in tree.blobs.values())]
    assert client.find_missing(everything) == []


def test_an_index_only_instance_checks_nothing(assetd, folder):
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "index-only": True}]
    )
    client = server.client()
    absent = digest_of(b"absent")
    client.push_blob("urn:a", absent, references_blobs=[absent], references_directories=[absent])
    client.push_directory("urn:a", absent)
    assert client.fetch_blob("urn:a").blob_digest == absent
    assert client.fetch_directory("urn:a").root_directory_digest == absent
    with fails("INVALID_ARGUMENT"):
        client.push_blob("urn:a", reapi.Digest(hash="zz", size_bytes=-5))
    server.restart()
    assert server.client().fetch_blob("urn:a").blob_digest == absent


# Bounds


def pairs(count):
    return [(f"name{number:03}", "value") for number in range(count)]


def test_the_largest_that_is_allowed(client):
    digest = client.upload(b"content")
    longest = "urn:" + "\u00e9" * ((8192 - 4) // 2)
    assert len(longest.encode()) == 8192
    uris = [longest, *(f"urn:{number}" for number in range(63))]
    client.push_blob(uris, digest)
    assert client.fetch_blob(longest).uri == longest
    assert client.fetch_blob([*(f"urn:none{n}" for n in range(63)), "urn:62"]).uri == "urn:62"
    client.push_blob("u", digest, pairs(64))
    assert client.fetch_blob("u", pairs(64)).blob_digest == digest
    long_ones = [("n" * 256, "v" * 4096), ("m", "")]
    client.push_blob("u", digest, long_ones)
    assert client.fetch_blob("u", long_ones).blob_digest == digest


BAD_ASSETS = {
    "empty uri": ([""], []),
    "empty uri behind another": (["urn:a", ""], []),
    "uri too long": (["u" * 8193], []),
    "uri too long in bytes": (["\u00e9" * 4097], []),
    "uri of megabytes": (["u" * 3_000_000], []),
    "too many uris": ([f"urn:{number}" for number in range(65)], []),
    "NUL in a uri": (["urn:a\0evil"], []),
    "NUL at the end of a uri": (["urn:a\0"], []),
    "too many qualifiers": (["urn:a"], pairs(65)),
    "qualifier without a name": (["urn:a"], [("", "value")]),
    "qualifier name too long": (["urn:a"], [("n" * 257, "value")]),
    "qualifier value too long": (["urn:a"], [("name", "v" * 4097)]),
    "NUL in a qualifier's name": (["urn:a"], [("na\0me", "value")]),
    "NUL in a qualifier's value": (["urn:a"], [("name", "va\0lue")]),
    "the same qualifier twice": (["urn:a"], [("name", "1"), ("other", "1"), ("name", "2")]),
    "the same qualifier and value twice": (["urn:a"], [("name", "1"), ("name", "1")]),
}


@pytest.mark.parametrize("uris, qualifiers", BAD_ASSETS.values(), ids=BAD_ASSETS.keys())
def test_bad_uris_and_qualifiers(shared, blob, uris, qualifiers):
    with fails("INVALID_ARGUMENT"):
        shared.fetch_blob(uris, qualifiers)
    with fails("INVALID_ARGUMENT"):
        shared.fetch_directory(uris, qualifiers)
    with fails("INVALID_ARGUMENT"):
        shared.push_blob(uris, blob, qualifiers)
    with fails("INVALID_ARGUMENT"):
        shared.push_directory(uris, EMPTY, qualifiers)
    # Nor was the part before a NUL taken for the whole.
    with fails("NOT_FOUND"):
        shared.fetch_blob("urn:a")


@pytest.mark.parametrize(
    "bad",
    [b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"],
    ids=["no utf-8", "overlong", "surrogate", "beyond", "cut"],
)
def test_bad_utf8(shared, blob, bad):
    """No client library sends it, so the messages are made by hand."""
    mark = "#" * len(bad)
    for field in (
        {"uris": [f"urn:{mark}"]},
        {"instance_name": mark},
        {"uris": ["urn:a"], "qualifiers": [asset.Qualifier(name=f"n{mark}", value="v")]},
        {"uris": ["urn:a"], "qualifiers": [asset.Qualifier(name="n", value=f"v{mark}")]},
    ):
        fetch = asset.FetchBlobRequest(**field).SerializeToString()
        push = asset.PushBlobRequest(blob_digest=blob, **field).SerializeToString()
        with fails("INVALID_ARGUMENT"):
            shared.raw(FETCH_BLOB, fetch.replace(mark.encode(), bad))
        with fails("INVALID_ARGUMENT"):
            shared.raw(PUSH_BLOB, push.replace(mark.encode(), bad))


GOOD_HASH = digest_of(b"absent").hash

BAD_DIGESTS = {
    "none": None,
    "empty": reapi.Digest(),
    "no hash": reapi.Digest(size_bytes=5),
    "zz": reapi.Digest(hash="zz", size_bytes=-5),
    "negative size": reapi.Digest(hash=GOOD_HASH, size_bytes=-1),
    "least size": reapi.Digest(hash=GOOD_HASH, size_bytes=-(2**63)),
    "too short": reapi.Digest(hash=GOOD_HASH[:-1], size_bytes=5),
    "too long": reapi.Digest(hash=GOOD_HASH + "0", size_bytes=5),
    "upper case": reapi.Digest(hash=GOOD_HASH.upper(), size_bytes=5),
    "no hexadecimal": reapi.Digest(hash="g" + GOOD_HASH[1:], size_bytes=5),
    "NUL": reapi.Digest(hash="\0" + GOOD_HASH[1:], size_bytes=5),
    "NUL behind it": reapi.Digest(hash=GOOD_HASH + "\0", size_bytes=5),
    "blanks": reapi.Digest(hash=" " + GOOD_HASH[1:], size_bytes=5),
}


@pytest.mark.parametrize("digest", BAD_DIGESTS.values(), ids=BAD_DIGESTS.keys())
def test_bad_digests(shared, blob, digest):
    for function in (reapi.DigestFunction.UNKNOWN, reapi.DigestFunction.SHA256):
        with fails("INVALID_ARGUMENT"):
            shared.push_blob("urn:bad", digest, digest_function=function)
        with fails("INVALID_ARGUMENT"):
            shared.push_directory("urn:bad", digest, digest_function=function)
        if digest is not None and digest != reapi.Digest():
            with fails("INVALID_ARGUMENT"):
                shared.push_blob(
                    "urn:bad", blob, references_blobs=[digest], digest_function=function
                )
            with fails("INVALID_ARGUMENT"):
                shared.push_blob("urn:bad", blob, references_directories=[blob, digest])
        with fails("NOT_FOUND"):
            shared.fetch_blob("urn:bad")


def test_a_hundred_thousand_references(shared, blob):
    """They fit into a message, and one more is refused."""
    shared.push_blob("urn:many", blob, references_blobs=[blob] * 100_000)
    assert shared.fetch_blob("urn:many").blob_digest == blob
    with fails("INVALID_ARGUMENT"):
        shared.push_blob("urn:too-many", blob, references_blobs=[blob] * 100_001)
    with fails("INVALID_ARGUMENT"):
        shared.push_blob(
            "urn:too-many",
            blob,
            references_blobs=[blob] * 50_001,
            references_directories=[EMPTY] * 50_000,
        )


@pytest.mark.parametrize(
    "seconds, nanos",
    [(0, -1), (0, 1_000_000_000), (2**62, 0), (-(2**62), 0)],
    ids=["negative nanos", "too many nanos", "far future", "far past"],
)
def test_times_out_of_range(shared, blob, seconds, nanos):
    """Timestamp allows the years 1 to 9999, and nanoseconds below a second."""
    bad = timestamp(0)
    bad.seconds, bad.nanos = seconds, nanos
    with fails("INVALID_ARGUMENT"):
        shared.push_blob("urn:bad-time", blob, expire_at=bad)
    with fails("INVALID_ARGUMENT"):
        shared.fetch_blob("urn:bad-time", oldest_content_accepted=bad)


# checksum.sri


def sri(data, function="sha256"):
    return f"{function}-{base64.b64encode(hashlib.new(function, data).digest()).decode()}"


def test_checksum_sri_is_checked(client):
    digest = client.upload(b"content")
    good = {"checksum.sri": sri(b"content")}
    client.push_blob("urn:a", digest, good)
    assert client.fetch_blob("urn:a", good).blob_digest == digest
    for bad in (sri(b"other"), "sha256-AAAA", "sha256-!!!"):
        with fails("INVALID_ARGUMENT", "checksum.sri"):
            client.push_blob("urn:b", digest, {"checksum.sri": bad})


def test_checksum_sri_may_hold_several(client):
    digest = client.upload(b"content")
    both = {"checksum.sri": f"{sri(b'content')} {sri(b'content', 'sha512')}"}
    client.push_blob("urn:a", digest, both)
    assert client.fetch_blob("urn:a", both).blob_digest == digest


# Digest functions


def test_digest_functions_that_are_configured(assetd, folder):
    server = assetd(
        instances=[
            {
                "name": "",
                "storage": str(folder / "storage"),
                "digest-functions": list(FUNCTIONS),
            }
        ]
    )
    client = server.client()
    assert set(client.capabilities().cache_capabilities.digest_functions) == set(
        FUNCTIONS.values()
    )
    for name, function in FUNCTIONS.items():
        tree = Tree({"sub": {"file": name.encode()}, "empty": b""}, name)
        client.upload_tree(tree)
        data = f"content {name}".encode()
        digest = client.upload(data, function=name)
        chosen = {"digest_function": function}
        uri = f"urn:{name}"
        client.push_blob(uri, digest, references_directories=[tree.root], **chosen)
        client.push_directory(uri, tree.root, **chosen)
        answer = client.fetch_blob(uri, **chosen)
        assert (answer.blob_digest, answer.digest_function) == (digest, function)
        answer = client.fetch_directory(uri, **chosen)
        assert (answer.root_directory_digest, answer.digest_function) == (tree.root, function)
        # Where a push names none, the length of the hash tells.
        client.push_blob(f"{uri}:inferred", digest)
        assert client.fetch_blob(f"{uri}:inferred", **chosen).blob_digest == digest
        for other in set(FUNCTIONS.values()) - {function}:
            with fails("NOT_FOUND"):
                client.fetch_blob(uri, digest_function=other)


@pytest.mark.parametrize("name", ["SHA1", "SHA384", "SHA512", "MD5", "BLAKE3", "VSO"])
def test_digest_functions_that_are_not_served(shared, blob, name):
    function = reapi.DigestFunction.Value.Value(name)
    with fails("INVALID_ARGUMENT", f"(?i){name}|digest function"):
        shared.fetch_blob("urn:a", digest_function=function)
    with fails("INVALID_ARGUMENT"):
        shared.push_blob("urn:a", blob, digest_function=function)
    if name.lower() in FUNCTIONS:
        with fails("INVALID_ARGUMENT"):
            shared.push_blob("urn:a", digest_of(b"content", name.lower()))


def test_a_digest_function_of_no_known_number(shared, blob):
    request = asset.FetchBlobRequest(uris=["urn:a"])
    # Field 6 as a varint of 12345, which the client library would not let through as an enum.
    with fails("INVALID_ARGUMENT"):
        shared.raw(FETCH_BLOB, request.SerializeToString() + b"\x30\xb9\x60")


# The index's own quota


def test_index_quota_takes_the_oldest(assetd, folder):
    """The index's own quota, while the CAS has room for all that the assets name."""
    server = assetd(
        instances=[
            {"name": "", "storage": str(folder / "storage"), "index-quota": "1MiB"},
        ]
    )
    client = server.client()
    digest = client.upload(b"content")
    uris = [f"urn:{number}:{'f' * 7000}" for number in range(400)]
    for uri in uris:
        client.push_blob(uri, digest)
    there = [number for number, uri in enumerate(uris) if not is_miss(client, uri)]
    # The last ones, without a gap, and nothing went before it had to.
    assert there == list(range(there[0], 400))
    assert len(there) * 7000 > (1 << 20) // 3
    assert bytes_below(folder / "storage" / "index") < 2 << 20
    assert client.has(digest)
