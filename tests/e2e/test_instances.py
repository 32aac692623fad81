# SPDX-License-Identifier: Apache-2.0
"""Instances have nothing to do with each other, whatever they hold."""

import pytest

from lib.client import fails
from lib.content import Tree, digest_of, noise

NAMES = ("", "team", "team/kernel")


@pytest.fixture
def clients(assetd, folder):
    """A client of each of three instances, each with 4 MiB of quota."""
    server = assetd(
        instances=[
            {"name": name, "storage": str(folder / f"storage{number}"), "quota": "4MiB"}
            for number, name in enumerate(NAMES)
        ]
    )
    return [server.client(instance=name) for name in NAMES]


def test_none_sees_what_another_has(clients):
    a, b, c = clients
    digest = a.upload(b"of one")
    a.push_blob("urn:a", digest)
    for other in (b, c):
        assert other.find_missing([digest]) == [digest]
        with fails("NOT_FOUND"):
            other.read(digest)
        with fails("NOT_FOUND"):
            other.fetch_blob("urn:a")
        with fails("FAILED_PRECONDITION"):
            other.push_blob("urn:a", digest)


def test_the_same_uri_stands_for_different_content(clients):
    for number, client in enumerate(clients):
        tree = Tree({"number": b"%d" % number})
        client.upload_tree(tree)
        client.push_blob("urn:a", client.upload(b"%d" % number))
        client.push_directory("urn:a", tree.root)
    for number, client in enumerate(clients):
        assert client.fetch_blob("urn:a").blob_digest == digest_of(b"%d" % number)
        root = Tree({"number": b"%d" % number}).root
        assert client.fetch_directory("urn:a").root_directory_digest == root


def test_none_evicts_what_another_has(clients):
    shared = noise(100_000, "in both")
    for client in clients[:2]:
        client.push_blob("urn:a", client.upload(shared))
    for number in range(80):
        clients[0].upload(noise(100_000, number))
    with fails("NOT_FOUND"):
        clients[0].fetch_blob("urn:a")
    assert clients[0].find_missing([digest_of(shared)])
    assert clients[1].fetch_blob("urn:a").blob_digest == digest_of(shared)
    assert clients[1].read(digest_of(shared)) == shared


def test_none_renews_what_another_has(clients):
    """The same blob and the same URI are used all the time, but in the other instance."""
    shared = noise(100_000, "in both")
    digest = digest_of(shared)
    for client in clients[:2]:
        client.push_blob("urn:a", client.upload(shared))
    for number in range(80):
        clients[0].upload(noise(100_000, number))
        assert clients[1].fetch_blob("urn:a").blob_digest == digest
        assert clients[1].find_missing([digest]) == []
        clients[1].upload(shared)
    with fails("NOT_FOUND"):
        clients[0].read(digest)


def test_an_instances_name_is_compared_whole(clients):
    digest = clients[1].upload(b"of team")
    for name in ("team/", "/team", "TEAM", "team/kernel/x", "tea", "team "):
        clients[1].instance = name
        with fails("NOT_FOUND"):
            clients[1].find_missing([digest])
