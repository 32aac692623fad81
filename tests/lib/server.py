# SPDX-License-Identifier: Apache-2.0
"""assetd as a process: started, found ready, stopped, and its log looked at."""

import os
import pathlib
import pty
import re
import signal
import subprocess
import time

import grpc
import yaml

from lib.client import Client

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
ASSETD = os.environ.get("ASSETD", str(CHECKOUT / "build" / "assetd"))
ASSETCTL = str(pathlib.Path(ASSETD).with_name("assetctl"))

# Seconds after which what does not come is a failure; nothing is expected to come near it.
PATIENCE = 60

SANITIZER_MARKS = ("Sanitizer", "runtime error:")
ERROR_LINE = re.compile(r"(<3>|ts=\S+ )level=error ")


class StartError(Exception):
    """assetd ended instead of serving: its exit status and its log."""

    def __init__(self, status, log):
        super().__init__(f"assetd ended with status {status}:\n{log}")
        self.status = status
        self.log = log


def _run(*command, timeout=PATIENCE, **options):
    return subprocess.run(
        [*map(str, command)],
        stdin=options.pop("stdin", subprocess.DEVNULL),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def run_assetd(*arguments, **options):
    """Runs assetd to its end, for arguments with which it does not serve."""
    return _run(ASSETD, *arguments, **options)


def run_assetctl(*arguments, **options):
    done = _run(ASSETCTL, *arguments, **options)
    assert not any(mark in done.stderr for mark in SANITIZER_MARKS), done.stderr
    return done


def shown_by_assetctl(*arguments):
    """Runs it to its end, which must be a good one, on a terminal; returns what that shows."""
    terminal, other_end = pty.openpty()
    try:
        subprocess.run(
            [ASSETCTL, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=other_end,
            timeout=PATIENCE,
            check=True,
        )
        return os.read(terminal, 65536)
    finally:
        os.close(terminal)
        os.close(other_end)


def run_tool(*command, **options):
    """Runs another program to its end, which must be a good one; returns what it printed."""
    done = subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
        **options,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


class Server:
    """
    One assetd below FOLDER, by default with one instance of the empty name and two unix sockets,
    `pull` (read) and `push` (write). CONFIG replaces or adds keys of the YAML; with ARGUMENTS the
    server is started by them instead, and ADDRESS says where it is found. PREFIX is a command that
    becomes the server.
    """

    def __init__(self, folder, arguments=None, address=None, prefix=(), **config):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.log_path = self.folder / "log"
        self.arguments = arguments
        self.prefix = prefix
        self.pull = f"unix:{self.folder}/pull.sock"
        self.push = f"unix:{self.folder}/push.sock"
        self.storage = self.folder / "storage"
        self.credentials = None  # of a client that is let in, where there is TLS
        self.process = None
        self.clients = []
        self.expects_errors = False
        if arguments is None:
            self.config = {
                "listeners": [
                    {"address": self.pull, "access": "read"},
                    {"address": self.push, "access": "write"},
                ],
                "instances": [{"name": "", "storage": str(self.storage)}],
            }
            self.configure(**config)
            address = self.config["listeners"][0]["address"]
        self.address = address

    def configure(self, **config):
        """Changes keys of the configuration; `socket_mode` stands for `socket-mode`."""
        self.config.update({key.replace("_", "-"): value for key, value in config.items()})
        path = self.folder / "assetd.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        self.arguments = ["--config", str(path)]

    def command(self):
        return [*self.prefix, ASSETD, *map(str, self.arguments)]

    def start(self, wait=True):
        assert self.process is None, "it runs already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            status = self.process.poll()
            if status is not None:
                self.process = None
                raise StartError(status, self.log())
            try:
                with Client(self.address, credentials=self.credentials) as client:
                    client.health(timeout=2)
                return
            except grpc.RpcError as error:
                if error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ):
                    raise
                assert time.monotonic() < end, f"not ready: {error}"
                time.sleep(0.01)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        """Waits for its end; returns the exit status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise
        self.process = None
        return status

    def stop(self):
        """SIGTERM, which must end it with status 0."""
        self.close_clients()
        self.signal()
        status = self.wait()
        assert status == 0, f"exit status {status} after SIGTERM"

    def kill(self):
        """As a crash or the kernel would end it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self):
        self.stop()
        return self.start()

    def client(self, address=None, instance="", **options):
        """A client of the write socket or of ADDRESS, closed at the test's end."""
        if address is None:
            address = self.push if f"unix:{self.folder}" in self.address else self.address
        client = Client(address, instance, **options)
        self.clients.append(client)
        return client

    def close_clients(self):
        while self.clients:
            self.clients.pop().close()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def check_log(self):
        """No error line unless the test expects some, and never a sanitizer's report."""
        for line in self.log().splitlines():
            assert not any(mark in line for mark in SANITIZER_MARKS), line
            assert self.expects_errors or not ERROR_LINE.match(line), line

    def finish(self):
        """Ends it in whatever state the test left it; fails for what must never be."""
        self.close_clients()
        try:
            if self.process is not None:
                self.stop()
            self.check_log()
        finally:
            if self.process is not None:
                self.kill()


def wait_until(condition, what, patience=PATIENCE):
    """For what is bound to come, but not at once. WHAT to say else: a text, or what gives one."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.02)


def files_below(folder):
    """The paths of all regular files below FOLDER, relative to it."""
    folder = pathlib.Path(folder)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def bytes_below(folder):
    """Bytes that the files below FOLDER take on the disk."""
    total = 0
    for path in pathlib.Path(folder).rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
