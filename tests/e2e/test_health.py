# SPDX-License-Identifier: Apache-2.0
"""Health: what proxies and supervisors are told."""

import itertools

import grpc
import pytest

from lib.api import health, health_grpc
from lib.client import TIMEOUT, fails

SERVING = health.HealthCheckResponse.SERVING
NOT_SERVING = health.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health.HealthCheckResponse.SERVICE_UNKNOWN

FETCH = "build.bazel.remote.asset.v1.Fetch"


def watch(client, service=""):
    stub = health_grpc.HealthStub(client.channel)
    return stub.Watch(health.HealthCheckRequest(service=service), timeout=TIMEOUT)


@pytest.mark.parametrize("service", ["", FETCH, "google.bytestream.ByteStream"])
def test_check(server, service):
    assert server.client(server.pull).health(service) == SERVING


@pytest.mark.parametrize(
    "service", ["unknown", "build.bazel.remote.asset.v1", f"{FETCH}/FetchBlob"]
)
def test_check_of_unknown_service(client, service):
    with fails("NOT_FOUND", service):
        client.health(service)


def test_watch_tells_at_once(client):
    assert next(watch(client)).status == SERVING
    assert next(watch(client, FETCH)).status == SERVING
    assert next(watch(client, "unknown")).status == SERVICE_UNKNOWN


def test_watch_is_told_of_the_stop(server):
    """With watches open the server still stops by itself, and says so to each."""
    client = server.client()
    calls = [watch(client), watch(client, FETCH), watch(client, "unknown")]
    assert [next(call).status for call in calls] == [SERVING, SERVING, SERVICE_UNKNOWN]
    server.signal()
    assert [response.status for response in calls[0]] == [NOT_SERVING]
    assert [response.status for response in calls[1]] == [NOT_SERVING]
    assert [response.status for response in calls[2]] == []
    assert all(call.code() == grpc.StatusCode.OK for call in calls)
    assert server.wait() == 0


def test_cancelled_watches_end(server):
    """Idle ones, and ones that are cancelled before their first answer; the server can stop."""
    client = server.client()
    for _ in range(20):
        calls = [watch(client) for _ in range(10)]
        for call in itertools.islice(calls, 0, None, 2):
            next(call)
        for call in calls:
            call.cancel()
    assert client.health() == SERVING
    client.close()
    server.stop()
