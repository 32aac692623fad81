# SPDX-License-Identifier: Apache-2.0
"""`make up`: what it prints can be used as it stands, and it stops cleanly."""

import re
import signal
import socket

import pytest

from lib.client import fails
from lib.content import digest_of


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_all_of_it(own_site, number):
    """The ports are free afterwards, and what was pushed is there the next time."""
    with own_site.client(own_site.push_port, key="client") as client:
        client.push_blob("urn:a", client.upload(b"kept"))
    own_site.stop(number)
    for port in (own_site.pull_port, own_site.push_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    own_site.start()
    with own_site.client(own_site.pull_port) as client:
        assert client.fetch_blob("urn:a").blob_digest == digest_of(b"kept")
    own_site.stop()


def test_the_key_pairs(site):
    """The demo's key pairs are in the place that stays put, the keys for nobody else to read."""
    for name in ("server.key", "server.crt", "client.key", "client.crt", "authorized.crt"):
        assert site.tls(name).is_file()
    for name in ("server.key", "client.key"):
        assert site.tls(name).stat().st_mode & 0o077 == 0


def printed_configurations(site):
    """The YAML documents in what `make up` printed, as text: who pushes, who only pulls."""
    printed = site.output.read_text()
    blocks = re.findall(r"^artifacts:\n(?:(?: .*|source-caches:)\n)+", printed, re.M)
    assert len(blocks) == 2
    return blocks


def test_the_printed_configuration_works_as_it_stands(site, bst):
    pushing, pulling = printed_configurations(site)
    ci, user = bst(), bst()
    for someone, text in ((ci, pushing), (user, pulling)):
        # In BuildStream's file it stands beside what else is configured.
        someone.configuration.write_text(f"cachedir: {someone.cache}\n{text}")
    output = ci.run("build", "all.bst")
    assert re.search(r"^ *Push Queue: +processed 5", output, re.M)
    (ci.project / "archive.tar").unlink()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert re.search(r"Pull Queue: +processed 5", output)


def test_the_printed_urls_answer(site):
    urls = re.findall(r"^ *https://localhost:(\d+) ", site.output.read_text(), re.M)
    assert [int(port) for port in urls] == [site.pull_port, site.push_port]
    with site.client(site.push_port) as client, fails("UNAUTHENTICATED"):
        client.health()
