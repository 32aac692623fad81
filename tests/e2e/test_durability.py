# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged stays, whatever happens; what was not finished leaves no trace."""

import concurrent.futures
import itertools
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import grpc
import pytest

from lib.client import Client, fails
from lib.content import Tree, digest_of, noise
from lib.server import PATIENCE
from lib.uploads import held_write

MIB = 1 << 20


def push_until_it_breaks(client, numbers, acknowledged):
    """Pushes assets with a tree each; notes those that were answered."""
    try:
        for number in numbers:
            tree = Tree({"sub": {"file": b"file %d" % number}, "same": b"in all of them"})
            client.upload_tree(tree)
            artifact = client.upload(b"artifact %d" % number)
            client.push_blob(
                [f"urn:strong:{number}", f"urn:weak:{number}"],
                artifact,
                references_directories=[tree.root],
            )
            acknowledged.append(number)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error


def check_assets(client, numbers):
    for number in numbers:
        artifact = digest_of(b"artifact %d" % number)
        assert client.fetch_blob(f"urn:weak:{number}").blob_digest == artifact
        assert client.read(artifact) == b"artifact %d" % number
        assert client.read(digest_of(b"file %d" % number)) == b"file %d" % number


def test_every_acknowledged_push_survives_kill_9(server):
    """Twenty rounds, in each of which it is killed in the middle of pushes of four clients."""
    counter = itertools.count()
    everything = []
    for round_ in range(20):
        acknowledged = []
        clients = [server.client() for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pushes = [
                pool.submit(push_until_it_breaks, client, counter, acknowledged)
                for client in clients
            ]
            while len(acknowledged) < 3 + round_:
                assert not all(push.done() for push in pushes), server.log()
                time.sleep(0.001)
            server.kill()
            for push in pushes:
                push.result(PATIENCE)
        server.close_clients()
        server.start()
        check_assets(server.client(), acknowledged)
        everything.extend(acknowledged)
    check_assets(server.client(), everything)


def test_a_restart_keeps_everything(server):
    client = server.client()
    data = noise(3 * MIB, "kept")
    client.write(data)
    tree = Tree({"a": {"b": noise(100_000, "also kept")}})
    client.upload_tree(tree)
    client.push_directory("urn:a", tree.root, {"q": "v"})
    client.push_blob("urn:a", digest_of(data), references_directories=[tree.root])
    for end in (server.stop, server.kill, server.stop):
        end()
        server.start()
        client = server.client()
        assert client.fetch_directory("urn:a", {"q": "v"}).root_directory_digest == tree.root
        assert client.fetch_blob("urn:a").blob_digest == digest_of(data)
        assert client.read(digest_of(data)) == data
        everything = [digest_of(blob) for blob in tree.blobs.values()]
        assert client.find_missing(everything) == []


def big_blob(seed):
    """256 MiB, quickly made."""
    return noise(MIB, seed) * 256


def test_sigterm_during_a_large_upload_and_download(assetd):
    """Neither ends by itself; after the grace both are cut off."""
    server = assetd(shutdown_grace="1s")
    client = server.client()
    there, coming = big_blob("there"), big_blob("coming")
    client.write(there, chunk=2 * MIB)

    download = client.read_stream(client.read_name(digest_of(there)), timeout=None)
    first = next(download).data
    assert first == there[: len(first)]

    with held_write(client, coming, at=64, chunk=2 * MIB, timeout=None) as upload:
        server.signal()
        assert server.wait() == 0
    for call in (upload.result, lambda: list(download)):
        with pytest.raises(grpc.RpcError) as info:
            call()
        assert info.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    server.close_clients()
    server.start()
    client = server.client()
    assert client.find_missing([digest_of(coming), digest_of(there)]) == [digest_of(coming)]
    with fails("NOT_FOUND"):
        client.read(digest_of(coming))
    with fails("FAILED_PRECONDITION"):
        client.push_blob("urn:a", digest_of(coming))
    assert client.read(digest_of(there)) == there
    assert client.write(coming, chunk=2 * MIB) == len(coming)


def test_sigterm_lets_calls_in_flight_end(assetd):
    """Within the grace an upload is taken to its end, and answered."""
    server = assetd(shutdown_grace="60s")
    client = server.client()
    data = noise(8 * MIB, "in flight")
    with held_write(client, data, at=4, chunk=MIB) as upload:
        server.signal()
        # New calls are refused before the old ones have ended.
        while True:
            try:
                with Client(server.push) as late:
                    late.health()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                break
    assert upload.result(PATIENCE).committed_size == len(data)
    assert server.wait() == 0
    server.close_clients()
    server.start()
    assert server.client().read(digest_of(data)) == data


def test_calls_that_come_while_it_stops_are_unavailable(assetd):
    """And answered at once, by old connections and new ones: a client tries again elsewhere."""
    server = assetd(shutdown_grace="60s")
    client = server.client()
    data = noise(MIB, "in flight")

    def hammer(_):
        with Client(server.push) as other:
            while True:
                try:
                    other.fetch_blob("urn:none")
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        return error.code()

    with held_write(client, data, at=1, chunk=MIB // 2) as upload:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            codes = [pool.submit(hammer, number) for number in range(6)]
            time.sleep(0.1)
            server.signal()
            assert {code.result(PATIENCE) for code in codes} == {grpc.StatusCode.UNAVAILABLE}
    assert upload.result(PATIENCE).committed_size == len(data)
    assert server.wait() == 0


@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_reads_in_a_row_end_with_unavailable(readers, assetd):
    """Whatever a client is at when the stop comes, between two calls too: it can try again."""
    server = assetd()
    data = noise(50_000, readers)
    server.client().upload(data)
    name = server.client().read_name(digest_of(data))

    def read_in_a_row(reading):
        with Client(server.pull) as reader:
            while True:
                try:
                    reader.read_named(name)
                except grpc.RpcError as error:
                    return error.code()
                reading.set()

    under_way = [threading.Event() for _ in range(readers)]
    with concurrent.futures.ThreadPoolExecutor(readers) as pool:
        codes = [pool.submit(read_in_a_row, reading) for reading in under_way]
        assert all(reading.wait(PATIENCE) for reading in under_way)
        server.signal()
        assert {code.result(PATIENCE) for code in codes} == {grpc.StatusCode.UNAVAILABLE}
    assert server.wait() == 0


def test_sigint_ends_it_as_well(server):
    server.client().upload(b"x")
    server.close_clients()
    server.signal(signal.SIGINT)
    assert server.wait() == 0


@pytest.fixture
def other_disk():
    """A new folder on another file system."""
    with tempfile.TemporaryDirectory(prefix="assetd-test-", dir="/dev/shm") as other:
        yield pathlib.Path(other)


def test_a_copy_of_the_storage_takes_its_place(other_disk, assetd):
    """As an operator moves to another disk: stopped, copied with its times and modes, started."""
    server = assetd()
    client = server.client()
    tree = Tree({"a": {"b": noise(100_000, "moved")}})
    client.upload_tree(tree)
    data = noise(3 * MIB, "moved as well")
    client.write(data)
    client.push_blob("urn:a", digest_of(data), references_directories=[tree.root])
    server.stop()
    moved = other_disk / "storage"
    assert other_disk.stat().st_dev != server.storage.stat().st_dev
    subprocess.run(["cp", "-a", server.storage, moved], check=True)
    shutil.rmtree(server.storage)

    server.configure(instances=[{"name": "", "storage": str(moved)}])
    client = server.start().client()
    assert client.fetch_blob("urn:a").blob_digest == digest_of(data)
    assert client.read(digest_of(data)) == data
    assert client.find_missing([digest_of(blob) for blob in tree.blobs.values()]) == []
