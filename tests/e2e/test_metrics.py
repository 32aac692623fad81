# SPDX-License-Identifier: Apache-2.0
"""The page of figures for a monitoring system."""

import contextlib
import socket

import pytest

from lib.client import fails
from lib.metrics import figures, get
from lib.ports import free_port
from lib.server import StartError


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def server(assetd, port):
    return assetd(metrics={"address": f"127.0.0.1:{port}"})


def test_calls_are_counted_by_method_and_status(server, port):
    client = server.client()
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:none")
    with fails("INVALID_ARGUMENT"):
        client.fetch_blob([])
    client.push_blob("urn:a", client.upload(b"content"))
    for _ in range(3):
        client.fetch_blob("urn:a")
    found = figures(port)
    fetch = 'method="/build.bazel.remote.asset.v1.Fetch/FetchBlob",status="%d"'
    assert found["assetd_calls_total", fetch % 0] == 3
    assert found["assetd_calls_total", fetch % 5] == 1
    assert found["assetd_calls_total", fetch % 3] == 1
    push = 'method="/build.bazel.remote.asset.v1.Push/PushBlob",status="0"'
    assert found["assetd_calls_total", push] == 1


def test_stores_are_counted_by_instance(assetd, port, folder):
    server = assetd(
        metrics={"address": f"127.0.0.1:{port}"},
        instances=[
            {"name": "", "storage": str(folder / "one"), "quota": "5MB"},
            {"name": "index/only", "storage": str(folder / "two"), "index-only": True},
        ],
    )
    client = server.client()
    for number in range(3):
        client.push_blob(f"urn:{number}", client.upload(b"%d" % number))
    found = figures(port)
    assert found["assetd_index_assets", 'instance=""'] == 3
    assert found["assetd_index_assets", 'instance="index/only"'] == 0
    assert found["assetd_cas_blobs", 'instance=""'] == 3
    assert found["assetd_index_quota_bytes", 'instance=""'] == 1 << 30
    assert found["assetd_cas_quota_bytes", 'instance=""'] == 5_000_000
    assert 0 < found["assetd_cas_bytes", 'instance=""'] < 5_000_000
    assert ("assetd_cas_blobs", 'instance="index/only"') not in found


def test_other_requests_are_answered_too(server, port):
    assert get(port, "/")[0] == 404
    assert get(port, "/metrics?x")[0] == 404
    for nonsense in (b"\r\n\r\n", b"\0" * 10000, b"POST /metrics HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            # It may answer, or end the connection at any moment.
            with contextlib.suppress(ConnectionError):
                connection.sendall(nonsense)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
    assert get(port)[0] == 200


def test_a_client_that_drips_does_not_hold_up_the_stop(server, port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /met")
        server.signal()
        assert server.wait() == 0
        # Its end came with the stop, and not by the client's patience: a reset, if what was sent had
        # not been read yet.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_a_port_in_use_is_refused(assetd, server, port):
    second = assetd(metrics={"address": f"127.0.0.1:{port}"}, start=False)
    second.expects_errors = True
    with pytest.raises(StartError) as refused:
        second.start()
    assert str(server.process.pid) in refused.value.log
    assert f"127.0.0.1:{port}" in refused.value.log
