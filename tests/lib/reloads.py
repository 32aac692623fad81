# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, and what a server logs of it."""

import contextlib
import re
import signal
import threading

import grpc

from lib.server import PATIENCE, wait_until

# Clients of a load.
CLIENTS = 3


def hang_up(server, *, event="reloaded"):
    """SIGHUP, until EVENT is logged once more; what was logged meanwhile."""
    before = len(server.log())
    server.signal(signal.SIGHUP)
    wait_until(lambda: f"event={event}" in server.log()[before:], lambda: server.log()[before:])
    return server.log()[before:]


def reload(server, **config):
    server.configure(**config)
    log = hang_up(server)
    assert "reload-failed" not in log
    return log


def reload_fails(server, **config):
    server.expects_errors = True
    server.configure(**config)
    return hang_up(server, event="reload-failed")


def kept_keys(log):
    return re.findall(r'event=reload-needs-restart key="?([^" ]+)"?', log)


@contextlib.contextmanager
def load(server, turn, connect=None):
    """
    Meanwhile clients call TURN(client, number, count) again and again, with their own number and how
    many turns they have had, which is yielded for all. None may fail. CONNECT makes a client.
    """
    stop, failures, counts = threading.Event(), [], [0] * CLIENTS

    def run(number):
        client = connect() if connect else server.client()
        try:
            while not stop.is_set():
                turn(client, number, counts[number])
                counts[number] += 1
        except (grpc.RpcError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(counts))]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not failures, failures
    assert all(counts)
