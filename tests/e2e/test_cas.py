# SPDX-License-Identifier: Apache-2.0
"""The content-addressable store: batches, trees and ByteStream."""

import threading

import grpc
import pytest

from lib.api import bytestream, reapi
from lib.client import CHUNK, fails, pieces
from lib.content import EMPTY, Tree, digest_of, name_of, noise
from lib.server import PATIENCE, files_below, wait_until
from lib.uploads import held_write

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(module_assetd):
    """A client of a server that the tests share which need content of their own only."""
    return module_assetd().client()


def other_size(digest, difference=1):
    return reapi.Digest(hash=digest.hash, size_bytes=digest.size_bytes + difference)


# FindMissingBlobs


def test_find_missing(shared):
    present = shared.upload(b"find missing")
    absent = [digest_of(b"absent"), digest_of(b"absent as well")]
    assert shared.find_missing([absent[0], present, EMPTY, absent[1]]) == absent
    assert shared.find_missing([]) == []


def test_find_missing_of_a_thousand(shared):
    blobs = [b"thousand %d" % number for number in range(1000)]
    shared.upload(*blobs[::2])
    digests = [digest_of(blob) for blob in blobs]
    assert shared.find_missing(digests) == digests[1::2]


def test_the_empty_blob_is_always_there(shared):
    assert shared.find_missing([EMPTY]) == []
    assert shared.read(EMPTY) == b""
    (answer,) = shared.batch_read([EMPTY])
    assert (answer.status.code, answer.data) == (0, b"")
    assert shared.write(b"") == 0
    shared.upload(b"")


def test_a_hash_with_another_size_is_another_blob(shared):
    digest = shared.upload(b"sized")
    for other in (other_size(digest, 1), other_size(digest, -1), other_size(EMPTY, 5)):
        assert shared.find_missing([other]) == [other]
        (answer,) = shared.batch_read([other])
        assert answer.status.code == NOT_FOUND
        with fails("NOT_FOUND"):
            shared.read(other)


BAD_DIGESTS = {
    "no hash": reapi.Digest(size_bytes=5),
    "zz": reapi.Digest(hash="zz", size_bytes=5),
    "negative size": reapi.Digest(hash=EMPTY.hash, size_bytes=-1),
    "upper case": reapi.Digest(hash=EMPTY.hash.upper(), size_bytes=0),
    "NUL": reapi.Digest(hash="\0" + EMPTY.hash[1:], size_bytes=0),
}


@pytest.mark.parametrize("digest", BAD_DIGESTS.values(), ids=BAD_DIGESTS.keys())
def test_bad_digests(shared, digest):
    good = digest_of(b"good")
    with fails("INVALID_ARGUMENT"):
        shared.find_missing([good, digest])
    with fails("INVALID_ARGUMENT"):
        shared.batch_read([good, digest])
    with fails("INVALID_ARGUMENT"):
        shared.get_tree(digest)
    with fails("INVALID_ARGUMENT"):
        shared.batch_update([(good, b"good"), (digest, b"12345")])
    assert not shared.has(good)


# BatchUpdateBlobs and BatchReadBlobs


def test_batch_update_stores_and_batch_read_returns(shared):
    blobs = [noise(size) for size in (1, 2, 1023, 65536, 65537, 1 * MIB)]
    shared.upload(*blobs)
    answers = shared.batch_read([digest_of(blob) for blob in blobs])
    assert [answer.data for answer in answers] == blobs
    assert all(answer.status.code == 0 for answer in answers)


def test_batch_update_fails_blob_by_blob(shared):
    good, better = b"a good one", b"a better one"
    wrong_hash = digest_of(b"something else")
    wrong_hash.size_bytes = len(good)
    wrong_size = other_size(digest_of(good))
    pairs = [
        (digest_of(good), good),
        (wrong_hash, good),
        (wrong_size, good),
        (EMPTY, b"not empty"),
        (digest_of(better), better),
    ]
    answers = shared.batch_update(pairs)
    assert [answer.digest for answer in answers] == [digest for digest, _ in pairs]
    bad = INVALID_ARGUMENT
    assert [answer.status.code for answer in answers] == [0, bad, bad, bad, 0]
    assert all(answer.status.message for answer in answers if answer.status.code)
    assert shared.find_missing([digest for digest, _ in pairs]) == [wrong_hash, wrong_size]


def test_batch_update_takes_what_is_there_again(shared):
    digest = shared.upload(b"again")
    (answer,) = shared.batch_update([(digest, b"again")])
    assert answer.status.code == 0
    # What it would be, were it not: still checked.
    (answer,) = shared.batch_update([(digest, b"other")])
    assert answer.status.code == INVALID_ARGUMENT
    assert shared.read(digest) == b"again"


def test_the_same_blob_twice_in_a_batch(shared):
    digest = digest_of(b"twice")
    answers = shared.batch_update([(digest, b"twice"), (digest, b"twice")])
    assert [answer.status.code for answer in answers] == [0, 0]


def test_batch_read_answers_every_digest(shared):
    """One that is left out crashes BuildStream."""
    present = shared.upload(b"present")
    absent = digest_of(b"never uploaded")
    asked = [absent, present, EMPTY, present, other_size(present)]
    answers = shared.batch_read(asked)
    assert [answer.digest for answer in answers] == asked
    assert [answer.status.code for answer in answers] == [NOT_FOUND, 0, 0, 0, NOT_FOUND]
    assert [answer.data for answer in answers] == [b"", b"present", b"", b"present", b""]
    assert list(shared.batch_read([])) == []


def test_batches_up_to_the_limit_of_the_capabilities(shared):
    limit = shared.capabilities().cache_capabilities.max_batch_total_size_bytes
    assert 3 * MIB < limit <= 4 * MIB
    half = noise(limit // 2)
    rest = noise(limit - len(half), "rest")
    shared.upload(half, rest)
    both = [digest_of(half), digest_of(rest)]
    assert [answer.data for answer in shared.batch_read(both)] == [half, rest]
    one = digest_of(b"1")
    with fails("INVALID_ARGUMENT", "(?i)bytes"):
        shared.batch_update([(both[0], half), (both[1], rest), (one, b"1")])
    with fails("INVALID_ARGUMENT", "(?i)bytes"):
        shared.batch_read([*both, one])


def test_a_batch_read_of_too_many_digests(client):
    """Without any content their answers would be large."""
    digests = [digest_of(b"%d" % number) for number in range(1000)]
    assert len(client.batch_read(digests)) == 1000
    with fails("INVALID_ARGUMENT", "fewer at once"):
        client.batch_read(digests * 100)


def test_sizes_that_overflow_a_sum(shared):
    huge = reapi.Digest(hash=digest_of(b"huge").hash, size_bytes=2**63 - 1)
    assert shared.find_missing([huge]) == [huge]
    with fails("INVALID_ARGUMENT"):
        shared.batch_read([huge, huge, huge])
    with fails("NOT_FOUND"):
        shared.read(huge)


def test_a_thousand_small_blobs_in_a_batch(shared):
    blobs = [b"small %d" % number for number in range(1000)]
    shared.upload(*blobs)
    answers = shared.batch_read([digest_of(blob) for blob in blobs])
    assert [answer.data for answer in answers] == blobs


def test_a_batch_with_a_compressor_is_refused(shared):
    request = reapi.BatchUpdateBlobsRequest()
    request.requests.add(
        digest=digest_of(b"data"), data=b"data", compressor=reapi.Compressor.ZSTD
    )
    path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs"
    answer = shared.raw(path, request.SerializeToString())
    (response,) = reapi.BatchUpdateBlobsResponse.FromString(answer).responses
    assert response.status.code == INVALID_ARGUMENT
    assert "compress" in response.status.message


# GetTree


def sorted_messages(directories):
    return sorted(directory.SerializeToString(deterministic=True) for directory in directories)


def big_tree():
    """Many directories, some of them in several places."""
    same = {"same": b"the same everywhere", "link": "same"}
    return Tree(
        {
            f"d{number}": {"number": b"%d" % number, "same": same, "deep": {"deeper": same}}
            for number in range(40)
        }
    )


def test_get_tree_names_each_distinct_directory_once(shared):
    tree = big_tree()
    shared.upload_tree(tree)
    pages = shared.get_tree(tree.root)
    directories = [directory for page in pages for directory in page.directories]
    assert sorted_messages(directories) == sorted_messages(tree.directories.values())
    # Whoever reads only the first has the root.
    assert directories[0] == tree.directories[tree.root.hash]
    assert pages[-1].next_page_token == ""


@pytest.mark.parametrize("page_size", [1, 2, 7, 1000])
def test_get_tree_in_pages(shared, page_size):
    tree = big_tree()
    shared.upload_tree(tree)
    directories, token, rounds = [], "", 0
    while True:
        pages = shared.get_tree(tree.root, page_size=page_size, page_token=token)
        for page in pages:
            assert len(page.directories) <= page_size
        # A client that lost its connection after the first page goes on from there.
        directories.extend(pages[0].directories)
        token = pages[0].next_page_token
        rounds += 1
        assert rounds <= len(tree.directories)
        if not token:
            break
    assert sorted_messages(directories) == sorted_messages(tree.directories.values())


def test_get_tree_without_its_root_is_not_found(shared):
    with fails("NOT_FOUND"):
        shared.get_tree(digest_of(b"no such root"))


def test_get_tree_leaves_out_what_is_missing(shared):
    """REAPI: the portion that is present is returned."""
    content = {"gone": {"below": {"x": b"leaves out"}}, "stays": {"y": b"y, left in"}}
    tree = Tree(content)
    gone = tree.digest(content["gone"])
    shared.upload(*(data for hash_, data in tree.blobs.items() if hash_ != gone.hash))
    directories = [d for page in shared.get_tree(tree.root) for d in page.directories]
    expected = [tree.directories[tree.root.hash], Tree(content["stays"]).directories]
    expected = [expected[0], *expected[1].values()]
    assert sorted_messages(directories) == sorted_messages(expected)


def test_get_tree_of_the_empty_directory(shared):
    directories = [d for page in shared.get_tree(EMPTY) for d in page.directories]
    assert directories == [reapi.Directory()]


def test_get_tree_of_what_is_no_directory(shared):
    garbage = shared.upload(b"\xff\xff\xff\xffno directory, for a tree")
    with pytest.raises(grpc.RpcError) as info:
        shared.get_tree(garbage)
    assert info.value.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
    )


@pytest.mark.parametrize("token", ["x", "-1", "999999999", "\u00fc", "a" * 5000])
def test_get_tree_with_a_bad_page_token(shared, token):
    tree = big_tree()
    shared.upload_tree(tree)
    with fails("INVALID_ARGUMENT", "(?i)token"):
        shared.get_tree(tree.root, page_token=token)


def test_get_tree_with_a_negative_page_size(shared):
    tree = big_tree()
    shared.upload_tree(tree)
    with fails("INVALID_ARGUMENT", "(?i)page_size"):
        shared.get_tree(tree.root, page_size=-1)


# ByteStream.Read


@pytest.fixture(scope="module")
def large(shared):
    """The bytes of a blob of several messages, which is there."""
    data = noise(5 * MIB + 12345)
    shared.write(data)
    return data


def test_read(shared, large):
    assert shared.read(digest_of(large)) == large


def test_messages_fit_into_what_clients_take(shared, large):
    """4 MiB is what a gRPC client takes unless it is told otherwise."""
    for answer in shared.read_stream(shared.read_name(digest_of(large))):
        assert 0 < len(answer.data) <= 4 * MIB - 1024


@pytest.mark.parametrize(
    "offset, limit",
    [
        (0, 1),
        (0, 65536),
        (1, 0),
        (65535, 2),
        (MIB, MIB),
        (MIB - 1, 3 * MIB + 2),
        (5 * MIB, 12345),
        (5 * MIB, 12346),
        (5 * MIB + 12344, 0),
        (5 * MIB + 12345, 0),
        (5 * MIB + 12345, 10),
        (0, 2**62),
        (17, 2**63 - 1),
    ],
)
def test_read_with_offset_and_limit(shared, large, offset, limit):
    expected = large[offset:] if limit == 0 else large[offset : offset + limit]
    assert shared.read(digest_of(large), offset, limit) == expected


def test_read_out_of_range(shared, large):
    digest = digest_of(large)
    for offset in (len(large) + 1, 2**63 - 1, -1, -(2**63)):
        with fails("OUT_OF_RANGE"):
            shared.read(digest, offset)
    with fails("INVALID_ARGUMENT"):
        shared.read(digest, 0, -1)
    with fails("OUT_OF_RANGE"):
        shared.read(EMPTY, 1)


def test_read_of_what_is_not_there(shared):
    with fails("NOT_FOUND"):
        shared.read(digest_of(b"not there"))


HASH = digest_of(b"12345").hash

BAD_READ_NAMES = {
    "empty": "",
    "blobs alone": "blobs",
    "no size": f"blobs/{HASH}",
    "empty size": f"blobs/{HASH}/",
    "no hash": "blobs//5",
    "another word": f"blub/{HASH}/5",
    "leading slash": f"/blobs/{HASH}/5",
    "short hash": f"blobs/{HASH[:-1]}/5",
    "upper case": f"blobs/{HASH.upper()}/5",
    "no hexadecimal": f"blobs/{'g' * 64}/5",
    "size with a sign": f"blobs/{HASH}/+5",
    "negative size": f"blobs/{HASH}/-5",
    "hexadecimal size": f"blobs/{HASH}/0x5",
    "size with a blank": f"blobs/{HASH}/ 5",
    "size that overflows": f"blobs/{HASH}/9223372036854775808",
    "size of many digits": f"blobs/{HASH}/{'9' * 100}",
    "something behind it": f"blobs/{HASH}/5/6",
    "NUL": f"blobs/{HASH}/5\0",
    "megabytes": "x" * MIB,
    "function not served": f"blobs/blake3/{HASH}/5",
}


@pytest.mark.parametrize("name", BAD_READ_NAMES.values(), ids=BAD_READ_NAMES.keys())
def test_read_with_a_bad_name(shared, name):
    with fails("INVALID_ARGUMENT"):
        shared.read_named(name)


def test_compressed_blobs_are_refused_clearly(shared, large):
    name = name_of(digest_of(large))
    with fails("INVALID_ARGUMENT", "(?i)compress"):
        shared.read_named(f"compressed-blobs/zstd/{name}")
    with fails("INVALID_ARGUMENT", "(?i)compress"):
        shared.write(b"x", name=f"uploads/uuid/compressed-blobs/zstd/{name}")


def test_the_instance_in_a_name_must_be_known(shared, large):
    with fails("NOT_FOUND", "no/such"):
        shared.read_named(f"no/such/blobs/{name_of(digest_of(large))}")
    with fails("NOT_FOUND", "no/such"):
        shared.write(b"x", name=f"no/such/uploads/uuid/blobs/{name_of(digest_of(b'x'))}")
    # Before the rest of the name is looked at.
    with fails("NOT_FOUND", "no/such"):
        shared.read_named("no/such/blobs/zz/-1")


def test_names_with_an_instance_with_slashes(assetd, folder):
    name = "a/team's own/kernel"
    server = assetd(instances=[{"name": name, "storage": str(folder / "storage")}])
    client = server.client(instance=name)
    data = noise(300_000)
    digest = digest_of(data)
    assert client.write(data) == len(data)
    assert client.read(digest) == data
    assert client.query_write_status(client.write_name(digest)).complete
    with fails("NOT_FOUND"):
        server.client().read(digest)


# ByteStream.Write


@pytest.mark.parametrize("chunk", [1000, 65536, CHUNK, 2 * MIB])
def test_write_in_pieces(shared, chunk):
    data = noise(chunk * 3 + 17, f"pieces of {chunk}")
    assert shared.write(data, chunk=chunk) == len(data)
    assert shared.read(digest_of(data)) == data


def test_the_name_may_come_in_the_first_message_only(shared):
    data = noise(1000, "name in the first only")
    name = shared.write_name(digest_of(data))
    requests = [
        bytestream.WriteRequest(resource_name=name, data=data[:500]),
        bytestream.WriteRequest(write_offset=500, data=data[500:]),
        bytestream.WriteRequest(write_offset=1000, finish_write=True),
    ]
    assert shared.write_requests(requests).committed_size == 1000
    assert shared.read(digest_of(data)) == data


@pytest.mark.parametrize("suffix", ["/file.txt", "/a/b/c", "/", "/blobs/x/1"])
def test_metadata_behind_the_name(shared, suffix):
    data = noise(100, f"metadata {suffix}")
    digest = digest_of(data)
    assert shared.write(data, name=shared.write_name(digest, suffix=suffix)) == 100
    assert shared.read(digest) == data


def test_a_digest_function_in_a_name(shared):
    data = noise(100, "function in the name")
    digest = digest_of(data)
    assert shared.write(data, name=shared.write_name(digest, infix="sha256/")) == 100
    assert shared.read_named(shared.read_name(digest, infix="sha256/")) == data


BAD_WRITE_NAMES = {
    "empty": "",
    "no upload": f"blobs/{HASH}/5",
    "no uuid": f"uploads/blobs/{HASH}/5",
    "empty uuid": f"uploads//blobs/{HASH}/5",
    "no blobs": f"uploads/uuid/{HASH}/5",
    "no size": f"uploads/uuid/blobs/{HASH}",
    "bad hash": "uploads/uuid/blobs/zz/5",
    "bad size": f"uploads/uuid/blobs/{HASH}/x",
    "negative size": f"uploads/uuid/blobs/{HASH}/-5",
    "NUL": f"uploads/uuid\0/blobs/{HASH}/5",
    "function not served": f"uploads/uuid/blobs/sha512/{HASH}/5",
}


@pytest.mark.parametrize("name", BAD_WRITE_NAMES.values(), ids=BAD_WRITE_NAMES.keys())
def test_write_with_a_bad_name(shared, name):
    with fails("INVALID_ARGUMENT"):
        shared.write_requests(
            [bytestream.WriteRequest(resource_name=name, data=b"12345", finish_write=True)]
        )
    with fails("INVALID_ARGUMENT"):
        shared.query_write_status(name)
    assert not shared.has(digest_of(b"12345"))


def write_request(**fields):
    return bytestream.WriteRequest(**fields)


def bad_writes(name, other):
    """Sequences of messages that must fail; the blob is the ten bytes 0123456789."""
    first = write_request(resource_name=name, data=b"01234")
    return {
        "no message": [],
        "no name": [write_request(data=b"0123456789", finish_write=True)],
        "too few bytes": [first, write_request(write_offset=5, finish_write=True)],
        "too many bytes": [
            first,
            write_request(write_offset=5, data=b"567890", finish_write=True),
        ],
        "too many bytes at once": [
            write_request(resource_name=name, data=b"0123456789" * 100_000, finish_write=True)
        ],
        "wrong bytes": [first, write_request(write_offset=5, data=b"56788", finish_write=True)],
        "no end": [first, write_request(write_offset=5, data=b"56789")],
        "only begun": [first],
        "offset at the start": [
            write_request(resource_name=name, write_offset=5, data=b"56789", finish_write=True)
        ],
        "gap": [first, write_request(write_offset=6, data=b"6789", finish_write=True)],
        "overlap": [first, write_request(write_offset=4, data=b"456789", finish_write=True)],
        "back to 0": [first, write_request(data=b"0123456789", finish_write=True)],
        "negative offset": [
            write_request(resource_name=name, write_offset=-1, data=b"0123456789")
        ],
        "least offset": [first, write_request(write_offset=-(2**63), data=b"5")],
        "another name": [
            first,
            write_request(
                resource_name=other, write_offset=5, data=b"56789", finish_write=True
            ),
        ],
    }


@pytest.mark.parametrize("case", bad_writes("", "").keys())
def test_bad_writes(shared, case):
    digest = digest_of(b"0123456789")
    name, other = shared.write_name(digest), shared.write_name(digest)
    with fails("INVALID_ARGUMENT"):
        shared.write_requests(bad_writes(name, other)[case])
    assert not shared.has(digest)
    assert not shared.query_write_status(name).complete


def test_a_message_behind_the_last(shared):
    """Whether the blob was stored by then is open; the call is not a success."""
    data = noise(10, "behind the last")
    name = shared.write_name(digest_of(data))
    with fails("INVALID_ARGUMENT"):
        shared.write_requests(
            [
                write_request(resource_name=name, data=data, finish_write=True),
                write_request(write_offset=10, data=b"more"),
            ]
        )


def test_a_failed_write_may_be_repeated(shared):
    data = noise(700_000, "repeated")
    name = shared.write_name(digest_of(data))
    with fails("INVALID_ARGUMENT"):
        shared.write_requests(list(pieces(name, data))[:-1])
    assert shared.write(data, name=name) == len(data)
    assert shared.read(digest_of(data)) == data


def test_a_write_of_what_is_there_is_answered_early(shared):
    """With the full size, before the data was sent."""
    data = noise(3 * MIB, "answered early")
    shared.write(data)
    name = shared.write_name(digest_of(data))
    answered = threading.Event()

    def requests():
        yield next(pieces(name, data))
        answered.wait(PATIENCE)

    call = shared.write_stream(requests(), timeout=PATIENCE)
    try:
        assert call.result(PATIENCE / 2).committed_size == len(data)
    finally:
        answered.set()


def test_overlapping_writes_of_one_name(shared):
    """BuildStream's casd uses one UUID for all that it does."""
    data = noise(2 * MIB, "overlapping")
    name = shared.write_name(digest_of(data))
    half_way = threading.Barrier(4, timeout=PATIENCE)

    def requests():
        parts = list(pieces(name, data))
        yield from parts[:4]
        half_way.wait()
        yield from parts[4:]

    calls = [shared.write_stream(requests()) for _ in range(4)]
    assert [call.result(PATIENCE).committed_size for call in calls] == [len(data)] * 4
    assert shared.read(digest_of(data)) == data


def test_writes_of_different_blobs_under_one_uuid(shared):
    blobs = [noise(MIB, f"one uuid {number}") for number in range(4)]
    calls = [
        shared.write_stream(pieces(shared.write_name(digest_of(blob), key="the-same"), blob))
        for blob in blobs
    ]
    for call, blob in zip(calls, blobs):
        assert call.result(PATIENCE).committed_size == MIB
        assert shared.read(digest_of(blob)) == blob


def test_query_write_status(shared):
    data = noise(1000, "status")
    name = shared.write_name(digest_of(data))
    status = shared.query_write_status(name)
    assert (status.committed_size, status.complete) == (0, False)
    shared.write(data, name=name)
    status = shared.query_write_status(name)
    assert (status.committed_size, status.complete) == (1000, True)


def test_nobody_sees_what_is_being_written(server):
    client = server.client()
    data = noise(MIB, "being written")
    digest = digest_of(data)
    with held_write(client, data, at=MIB // CHUNK // 2):
        assert client.find_missing([digest]) == [digest]
        with fails("NOT_FOUND"):
            client.read(digest)
        with fails("FAILED_PRECONDITION"):
            client.push_blob("urn:a", digest)
        assert not client.query_write_status(client.write_name(digest)).complete


@pytest.mark.parametrize("how", ["disconnects", "cancels"])
def test_a_client_that_goes_in_the_middle_of_a_write_leaves_nothing(server, how):
    observer = server.client()
    observer.upload(b"something is there")
    data = noise(4 * MIB, f"a client that {how}")
    cas = server.storage / "cas"
    before = files_below(cas)

    client = server.client()
    name = client.write_name(digest_of(data))
    with held_write(client, data, at=4 * MIB // CHUNK // 2) as call:
        if how == "disconnects":
            client.close()
        else:
            call.cancel()
    wait_until(lambda: files_below(cas) == before, "the upload's file is still there")
    assert not observer.has(digest_of(data))
    status = observer.query_write_status(name)
    assert (status.committed_size, status.complete) == (0, False)
    assert observer.write(data) == len(data)
    assert observer.read(digest_of(data)) == data


def test_a_client_that_goes_in_the_middle_of_a_read(server):
    client = server.client()
    data = noise(8 * MIB, "read and gone")
    client.write(data)
    for _ in range(10):
        reader = server.client()
        stream = reader.read_stream(reader.read_name(digest_of(data)))
        next(stream)
        reader.close()
    assert client.read(digest_of(data)) == data


# An instance without a CAS


def test_an_index_only_instance_has_no_cas(assetd, folder):
    server = assetd(
        instances=[{"name": "", "storage": str(folder / "storage"), "index-only": True}]
    )
    client = server.client()
    digest = digest_of(b"x")
    for call in (
        lambda: client.find_missing([digest]),
        lambda: client.batch_update([(digest, b"x")]),
        lambda: client.batch_read([digest]),
        lambda: client.get_tree(digest),
        lambda: client.read(digest),
        lambda: client.write(b"x"),
        lambda: client.query_write_status(client.write_name(digest)),
    ):
        with fails("UNIMPLEMENTED"):
            call()
    capabilities = client.capabilities()
    cache = capabilities.cache_capabilities
    assert list(cache.digest_functions) == [reapi.DigestFunction.SHA256]
    assert cache.max_batch_total_size_bytes == 0
    assert not cache.action_cache_update_capabilities.update_enabled
    assert not capabilities.execution_capabilities.exec_enabled
    assert capabilities.low_api_version.major == 2
    assert not (folder / "storage" / "cas").exists()


def test_capabilities(shared):
    capabilities = shared.capabilities()
    cache = capabilities.cache_capabilities
    assert list(cache.digest_functions) == [reapi.DigestFunction.SHA256]
    assert not cache.supported_compressors
    assert not cache.action_cache_update_capabilities.update_enabled
    assert not capabilities.execution_capabilities.exec_enabled
    assert capabilities.low_api_version.major == capabilities.high_api_version.major == 2
