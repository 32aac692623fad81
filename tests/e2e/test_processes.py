# SPDX-License-Identifier: Apache-2.0
"""Several processes on one storage directory: one writes, the others read beside it."""

import concurrent.futures
import itertools
import re
import shutil
import signal
import threading

import grpc
import pytest

from lib.client import fails
from lib.content import Tree, digest_of, noise
from lib.server import PATIENCE, StartError, bytes_below, run_assetd, wait_until
from lib.shared_storage import SharedStorage, reading
from lib.uploads import held_write

MIB = 1 << 20
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


@pytest.fixture
def site(assetd, folder):
    return SharedStorage(assetd, folder)


@pytest.fixture
def small(assetd, folder):
    """Many segments, and little room."""
    return SharedStorage(assetd, folder, quota="8MiB")


def content_of(number):
    """A tree, and an artifact: of a size that takes segments of its own now and then."""
    tree = Tree({"sub": {"file": b"file %d" % number}, "same": b"in all of them"})
    return tree, noise(50_000 if number % 10 == 0 else 500, f"artifact {number}")


def push(client, number):
    tree, artifact = content_of(number)
    client.upload_tree(tree)
    client.upload(artifact)
    client.push_blob(f"urn:{number}", digest_of(artifact), references_directories=[tree.root])


def check_whole(client, numbers):
    for number in numbers:
        tree, artifact = content_of(number)
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest_of(artifact)
        blobs = [artifact, *tree.blobs.values()]
        answers = client.batch_read([digest_of(blob) for blob in blobs])
        assert [answer.data for answer in answers] == blobs


# What is pushed is there for all


@pytest.mark.parametrize("first", ["writer", "readers", "between"])
def test_processes_start_in_any_order(site, first):
    """On a directory that none of them has made yet, too."""
    starts = {"writer": "wrr", "readers": "rrw", "between": "rwr"}[first]
    servers = [site.writer() if kind == "w" else site.reader() for kind in starts]
    writer = servers[starts.index("w")]
    readers = [server for server in servers if server is not writer]
    for reader in readers:
        with fails("NOT_FOUND"):
            reading(reader).fetch_blob("urn:0")
    push(writer.client(), 0)
    for reader in readers:
        check_whole(reading(reader), [0])
    # And stop in any.
    servers.pop(0).stop()
    if writer in servers:
        push(writer.client(), 1)
    for reader in readers:
        if reader in servers:
            check_whole(reading(reader), [0, 1] if writer in servers else [0])


def test_a_reader_alone_serves_what_is_there(site):
    writer = site.writer()
    push(writer.client(), 0)
    for end in (writer.stop, writer.kill):
        end()
        reader = site.reader()
        check_whole(reading(reader), [0])
        with fails("NOT_FOUND"):
            reading(reader).fetch_blob("urn:1")
        writer.start()
        check_whole(reading(reader), [0])


def test_readers_find_at_once_what_was_acknowledged(small):
    """While segments come and go, and the table grows."""
    writer = small.writer()
    readers = [small.reader(), small.reader()]
    clients = [reading(reader) for reader in readers]
    numbers = itertools.count()

    def push_and_fetch():
        client = writer.client()
        for _ in range(100):
            number = next(numbers)
            push(client, number)
            for each in clients:
                check_whole(each, [number])

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(push_and_fetch) for _ in range(3)]:
            done.result(PATIENCE)
    batch = [noise(100, f"batch {number}") for number in range(2000)]
    writer.client().upload(*batch)
    for each in clients:
        assert each.find_missing(map(digest_of, batch)) == []
    # Where it was replaced as well.
    writer.client().push_blob("urn:0", digest_of(batch[0]))
    for each in clients:
        assert each.fetch_blob("urn:0").blob_digest == digest_of(batch[0])


def test_a_reader_streams_while_its_blob_is_evicted(small):
    """It ends with the whole blob, or with NOT_FOUND."""
    writer, reader = small.writer(), small.reader()
    client = writer.client()
    data = noise(5 * MIB, "streamed")
    client.write(data)
    stream = reading(reader).read_stream(client.read_name(digest_of(data)))
    received = [next(stream).data]
    for number in range(120):
        client.upload(noise(100_000, number))
    try:
        received.extend(answer.data for answer in stream)
        assert b"".join(received) == data
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert data.startswith(b"".join(received))
    with fails("NOT_FOUND"):
        reading(reader).read(digest_of(data))


# Use


USES = {
    "fetch": lambda client, uri, digest: client.fetch_blob(uri),
    "read": lambda client, uri, digest: client.read(digest),
    "batch": lambda client, uri, digest: client.batch_read([digest]),
    "find": lambda client, uri, digest: client.find_missing([digest]),
}


@pytest.mark.parametrize("by", USES)
def test_what_a_reader_used_the_writer_spares(small, by):
    """Three times the quota goes by: what was used in one way stays, what was not goes."""
    writer, reader = small.writer(), small.reader()
    client = writer.client()
    sizes = (1000, 20_000, 200_000)
    used = {f"urn:used:{size}": noise(size, "used") for size in sizes}
    unused = {f"urn:unused:{size}": noise(size, "unused") for size in sizes}
    # A small one would live on with others of its segment that are used.
    for assets in (used, unused):
        for uri, data in assets.items():
            client.write(data)
            client.push_blob(uri, digest_of(data))
        for number in range(20):
            client.upload(noise(10_000, f"behind {list(assets)} {number}"))
    for number in range(3 * 80):
        client.upload(noise(100_000, number))
        if number % 10 == 0:
            for uri, data in used.items():
                USES[by](reading(reader), uri, digest_of(data))
    assert bytes_below(small.storage / "cas") <= 8 * MIB
    for each in (client, reading(reader)):
        for uri, data in used.items():
            assert each.read(digest_of(data)) == data
            assert each.fetch_blob(uri).blob_digest == digest_of(data)
        for uri, data in unused.items():
            assert not each.has(digest_of(data))
            with fails("NOT_FOUND"):
                each.fetch_blob(uri)


# A second process that would write


def check_writes_are_refused(server, holder):
    """By its pid whoever asks can tell which process is meant."""
    client = server.client()
    data = b"never stored"
    digest = digest_of(data)
    text = rf"process {holder.process.pid}\b"
    with fails("UNAVAILABLE", text):
        client.push_blob("urn:refused", digest_of(b"in all of them"))
    with fails("UNAVAILABLE", text):
        client.push_directory("urn:refused", content_of(0)[0].root)
    with fails("UNAVAILABLE", text):
        client.write(data)
    (answer,) = client.batch_update([(digest, data)])
    assert answer.status.code == UNAVAILABLE
    assert re.search(text, answer.status.message), answer.status.message
    assert not client.has(digest)


def can_push(client, number):
    try:
        push(client, number)
        return True
    except (grpc.RpcError, AssertionError) as error:
        # Of a batch each blob has a status of its own.
        text = error.details() if isinstance(error, grpc.RpcError) else str(error)
        assert "only" in text and "read" in text, text
        return False


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_second_writer_waits_and_takes_over(site, end):
    first = site.writer()
    for number in range(20):
        push(first.client(), number)
    second, reader = site.writer(), site.reader()
    assert f"event=cas-waiting path={site.storage}/cas holder={first.process.pid}" in second.log()
    check_whole(second.client(), range(20))
    check_writes_are_refused(second, holder=first)
    push(first.client(), 20)
    check_whole(second.client(), [20])

    getattr(first, end)()
    check_whole(second.client(), range(21))
    wait_until(lambda: can_push(second.client(), 21), second.log)
    check_whole(second.client(), range(22))
    check_whole(reading(reader), range(22))

    # The first one is now the one that waits.
    first.close_clients()
    first.start()
    check_writes_are_refused(first, holder=second)
    check_whole(first.client(), range(22))
    push(second.client(), 22)
    check_whole(first.client(), [22])
    getattr(second, end)()
    wait_until(lambda: can_push(first.client(), 23), first.log)
    for client in (first.client(), reading(reader)):
        check_whole(client, range(24))


def test_nothing_is_lost_where_one_takes_over_under_load(site):
    """Clients push to whoever takes it, while one writer after the other is killed."""
    servers = [site.writer(), site.writer(), site.writer()]
    numbers, acknowledged = itertools.count(), []
    over = threading.Event()

    def push_on():
        options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 50)]
        clients = [server.client(options=options) for server in servers]
        number = next(numbers)
        for client in itertools.cycle(clients):
            if over.wait(0.002):
                return
            try:
                tree, artifact = content_of(number)
                blobs = [artifact, *tree.blobs.values()]
                answers = client.batch_update([(digest_of(blob), blob) for blob in blobs])
                codes = {answer.status.code for answer in answers}
                assert codes <= {0, UNAVAILABLE}, codes
                if codes != {0}:
                    continue
                client.push_blob(
                    f"urn:{number}", digest_of(artifact), references_directories=[tree.root]
                )
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                continue
            acknowledged.append(number)
            number = next(numbers)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        pushes = [pool.submit(push_on) for _ in range(3)]
        try:
            for server in (*servers, *servers):
                before = len(acknowledged)
                wait_until(
                    lambda: len(acknowledged) > before + 10 or any(p.done() for p in pushes),
                    lambda: "nobody takes a push",
                )
                server.kill()
                server.start()
        finally:
            over.set()
            for done in pushes:
                done.result(PATIENCE)
    for server in servers:
        check_whole(server.client(), acknowledged)


def test_a_writer_that_stops_ends_uploads_and_its_successor_takes_them(site):
    first = site.writer(shutdown_grace="1s")
    second = site.writer()
    data = noise(8 * MIB, "half way")
    with held_write(first.client(), data, at=16, timeout=PATIENCE) as upload:
        first.signal()
        assert first.wait() == 0
    with pytest.raises(grpc.RpcError) as info:
        upload.result(PATIENCE)
    assert info.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    client = second.client()
    wait_until(lambda: can_push(client, 0), second.log)
    assert not client.has(digest_of(data))
    assert client.write(data) == len(data)
    assert client.read(digest_of(data)) == data


# Readers that end


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "stop"])
def test_a_reader_that_ended_keeps_nothing(small, end):
    """Not what it was about to answer with either: the writer fills the store without it."""
    writer, reader = small.writer(), small.reader()
    client = writer.client()
    for number in range(40):
        push(client, number)
    over = threading.Event()

    def fetch():
        with reader_client as each:
            while not over.is_set():
                try:
                    each.fetch_blob("urn:7")
                    each.batch_read([digest_of(content_of(10)[1])])
                except grpc.RpcError as error:
                    assert error.code() in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.CANCELLED,
                    ), error
                    return

    reader_client = reader.client(reader.pull)
    reader.clients.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        fetches = pool.submit(fetch)
        for number in range(20):
            client.upload(noise(50_000, f"meanwhile {number}"))
        reader.signal(end)
        reader.wait()
        over.set()
        fetches.result(PATIENCE)
    for number in range(200):
        client.upload(noise(100_000, number))
    assert bytes_below(small.storage / "cas") <= 8 * MIB
    reader.start()
    push(client, 100)
    check_whole(reading(reader), [100])
    assert reading(reader).read(digest_of(noise(100_000, 199))) == noise(100_000, 199)


def test_many_readers_come_and_go(site):
    writer = site.writer()
    for number in range(5):
        push(writer.client(), number)
        readers = [site.reader() for _ in range(3)]
        for reader in readers:
            check_whole(reading(reader), range(number + 1))
        readers[0].kill()
        readers[1].stop()
    writer.restart()
    for server in (writer, readers[2]):
        check_whole(reading(server), range(5))


# Which directories are stores


def make_version_1(storage):
    (storage / "cas" / "blobs" / "sha256").mkdir(parents=True)
    blob = storage / "cas" / "blobs" / "sha256" / digest_of(b"old").hash
    blob.write_bytes(b"old")
    (storage / "cas" / "format").write_text(f"assetd cas 1 {'0123456789abcdef' * 2}\n")
    return blob


@pytest.mark.parametrize("access", ["write", "read"])
def test_a_store_of_the_first_version_is_refused(assetd, access):
    """With a word on what to do; nothing in it is touched."""
    server = assetd(start=False)
    server.configure(listeners=[{"address": server.pull, "access": access}])
    blob = make_version_1(server.storage)
    with pytest.raises(StartError) as info:
        server.start()
    assert info.value.status == 1
    cas = server.storage / "cas"
    wanted = f"{cas} has format version 1, which this program cannot use any more: remove the"
    assert wanted in info.value.log
    assert blob.read_bytes() == b"old"
    assert sorted(path.name for path in cas.iterdir()) == ["blobs", "format"]
    # Which helps.
    shutil.rmtree(cas)
    server.start()
    assert not reading(server).has(digest_of(b"old"))
    server.expects_errors = True


def test_removed_while_stopped_it_is_an_empty_cas(site):
    """The index tells of what is gone as of what is not there; a push heals it."""
    writer, reader = site.writer(), site.reader()
    push(writer.client(), 0)
    for end in (writer.stop, writer.kill):
        end()
        reader.stop()
        shutil.rmtree(site.storage / "cas")
        reader.start()
        with fails("NOT_FOUND"):
            reading(reader).fetch_blob("urn:0")
        writer.start()
        for each in (writer.client(), reading(reader)):
            with fails("NOT_FOUND"):
                each.fetch_blob("urn:0")
            assert not each.has(digest_of(content_of(0)[1]))
        push(writer.client(), 0)
        for each in (writer.client(), reading(reader)):
            check_whole(each, [0])


def test_a_check_of_the_configuration_does_not_touch_the_store(site):
    """Neither does it wait for the process that writes."""
    writer = site.writer()
    done = run_assetd("--config", writer.folder / "assetd.yaml", "--check")
    assert done.returncode == 0, done.stderr
    push(writer.client(), 0)
