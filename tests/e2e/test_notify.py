# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told: readiness, reload, stop, and that the server is alive."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import time

import pytest

from lib.client import fails, pieces
from lib.content import digest_of, noise
from lib.ports import free_port
from lib.server import PATIENCE, wait_until
from lib.uploads import held_write

# Of <sys/ptrace.h>; a thread that is seized and interrupted stands still, the others go on.
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17

# Microseconds of WatchdogSec, for a server that is watched.
WATCHDOG = 400_000


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, folder):
        self.path = folder / "notify.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.path.chmod(0o666)
        self.socket.settimeout(PATIENCE)

    def environment(self, **more):
        settings = {"NOTIFY_SOCKET": self.path, **more}
        return ("env", *(f"{key}={value}" for key, value in settings.items()))

    def receive(self):
        """The next message, as a dictionary."""
        lines = self.socket.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def receive_until(self, key):
        """The next message that has KEY; all before it are of the watchdog."""
        while key not in (message := self.receive()):
            assert message == {"WATCHDOG": "1"}
        return message

    def drain(self):
        """All that came by now."""
        messages = []
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.receive())
        self.socket.settimeout(PATIENCE)
        return messages


@pytest.fixture
def manager(folder):
    manager = Manager(folder)
    yield manager
    manager.socket.close()


def threads_of(server, name):
    """The threads that are called NAME."""
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task")
    return [int(t.name) for t in tasks.iterdir() if (t / "comm").read_text().strip() == name]


@contextlib.contextmanager
def stopped(*threads):
    """Meanwhile these threads of a child do nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long

    def ptrace(request, thread):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")

    for thread in threads:
        ptrace(PTRACE_SEIZE, thread)
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, 0x40000000)  # __WALL: a thread that is no child process
    try:
        yield
    finally:
        for thread in threads:
            ptrace(PTRACE_DETACH, thread)


# Without a watchdog


def test_ready_reload_and_stop(assetd, manager):
    server = assetd(prefix=manager.environment())
    ready = manager.receive()
    assert ready == {"READY": "1", "STATUS": "1 instance at 2 addresses"}

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    server.signal(signal.SIGHUP)
    reloading = manager.receive()
    assert reloading["RELOADING"] == "1"
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(reloading["MONOTONIC_USEC"]) <= after
    assert manager.receive() == ready

    new = {"name": "new", "storage": str(server.folder / "new")}
    server.configure(instances=[*server.config["instances"], new])
    server.signal(signal.SIGHUP)
    assert "RELOADING" in manager.receive()
    assert manager.receive() == {"READY": "1", "STATUS": "2 instances at 2 addresses"}

    server.expects_errors = True
    server.configure(surprise=1)
    server.signal(signal.SIGHUP)
    assert "RELOADING" in manager.receive()
    failed = manager.receive()
    assert failed["READY"] == "1"
    assert failed["STATUS"].startswith("2 instances at 2 addresses; the last reload failed")

    server.signal()
    assert manager.receive()["STOPPING"] == "1"
    assert server.wait() == 0
    assert manager.drain() == []


def test_ready_is_said_when_every_address_is_served(assetd, manager):
    server = assetd(start=False, prefix=manager.environment())
    server.start(wait=False)
    assert manager.receive()["READY"] == "1"
    for address in (server.pull, server.push):
        assert server.client(address).health() == 1


def test_a_start_that_fails_is_not_ready(assetd, manager):
    first = assetd()
    second = assetd(start=False, prefix=manager.environment(), listeners=first.config["listeners"])
    second.expects_errors = True
    second.start(wait=False)
    assert second.wait() == 1
    assert manager.drain() == []


def test_the_old_command_line_answers_a_reload(assetd, manager, folder):
    path = folder / "cache"
    port = free_port()
    server = assetd(
        ["--port", port, "--bind", "127.0.0.1", folder / "cache"],
        f"127.0.0.1:{port}",
        prefix=manager.environment(),
    )
    assert manager.receive()["READY"] == "1"
    server.signal(signal.SIGHUP)
    assert manager.receive()["RELOADING"] == "1"
    assert manager.receive()["READY"] == "1"


def test_nothing_is_said_without_a_manager(server):
    server.signal(signal.SIGHUP)
    wait_until(lambda: "event=reloaded" in server.log(), server.log)
    assert threads_of(server, "watchdog") == []


# The watchdog


@pytest.fixture
def watched(assetd, manager):
    server = assetd(prefix=manager.environment(WATCHDOG_USEC=WATCHDOG), threads={"pollers": 2})
    assert manager.receive_until("READY")
    # On a busy machine a poller may come late, which the log has as an error.
    server.expects_errors = True
    return server


def test_it_is_alive_while_idle_and_while_it_serves(watched, manager):
    for _ in range(3):
        assert manager.receive() == {"WATCHDOG": "1"}
    client = watched.client()
    while not manager.drain():
        client.upload(noise(1000))


def test_it_is_silent_while_one_of_its_pollers_is_stuck(watched, manager):
    one, _ = threads_of(watched, "poller")
    with stopped(one):
        before = len(watched.log())
        wait_until(lambda: "event=pollers-stuck" in watched.log()[before:], watched.log)
        manager.drain()
        manager.socket.settimeout(5 * WATCHDOG / 1e6)
        with pytest.raises(TimeoutError):
            manager.receive()
    manager.socket.settimeout(PATIENCE)
    assert manager.receive() == {"WATCHDOG": "1"}
    wait_until(lambda: "event=pollers-back" in watched.log()[before:], watched.log)


def test_a_disk_that_hangs_is_no_reason(watched, manager):
    """All workers stand still, and calls wait for them."""
    client = watched.client()
    data = noise(300_000, "slow")
    workers = threads_of(watched, "worker")
    assert len(workers) == 8
    with stopped(*workers):
        call = client.write_stream(pieces(client.write_name(digest_of(data)), data))
        manager.drain()
        for _ in range(5):
            assert manager.receive() == {"WATCHDOG": "1"}
        assert not call.done()
    assert call.result(PATIENCE).committed_size == len(data)


def test_nor_is_a_reload_that_takes_long(watched, manager):
    """The main thread, which opens new storage, stands still."""
    with stopped(watched.process.pid):
        manager.drain()
        for _ in range(5):
            assert manager.receive() == {"WATCHDOG": "1"}


def test_nor_is_a_long_end(watched, manager):
    """Until the calls in flight have ended, or the grace is over."""
    watched.configure(shutdown_grace="30s")
    watched.signal(signal.SIGHUP)
    manager.receive_until("RELOADING")
    manager.receive_until("READY")
    client = watched.client()
    data = noise(1 << 20, "held")
    with held_write(client, data, 1) as call:
        watched.signal()
        manager.receive_until("STOPPING")
        for _ in range(5):
            assert manager.receive() == {"WATCHDOG": "1"}
        with fails("UNAVAILABLE"):
            client.has(digest_of(data))
    assert call.result(PATIENCE).committed_size == len(data)
    client.close()
    assert watched.wait() == 0


def test_of_another_process_it_is_not_meant(assetd, manager):
    """WATCHDOG_PID names who is watched."""
    server = assetd(prefix=manager.environment(WATCHDOG_USEC=WATCHDOG, WATCHDOG_PID=1))
    assert manager.receive()["READY"] == "1"
    assert threads_of(server, "watchdog") == []
