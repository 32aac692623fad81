# SPDX-License-Identifier: Apache-2.0
"""What is common to all servers that are measured: started, found ready, stopped."""

import os
import signal
import socket
import subprocess
import time

from bench import machine
from bench.options import PATIENCE, binary
from lib.ports import free_port


# Seconds that a process that fails has to end, and lines of its log that a message has.
ENDING = 0.5
LAST_LINES = 10


class Contestant:
    """
    A server below FOLDER, a new one of its own, that serves one instance of the empty name at
    ADDRESS: HOST:PORT, or unix:/PATH where SOCKET says "unix".
    """

    name = ""  # in tables, files of results and the chart
    has_index = False  # FetchBlob and PushBlob
    has_cas = False
    takes_unix = False  # whether it can serve at a unix socket
    is_ours = False  # whether its failure is the benchmark's
    is_durable = False  # whether what it acknowledged survives a power cut
    check = "enough"  # what load(1) holds answers of it against
    variables = ()  # of the environment, that name its programs
    tls = {}  # keys of load(1) for TLS, where it serves behind something that does it
    stop_signal = signal.SIGTERM

    def __init__(self, folder, socket_kind="tcp"):
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.log_path = folder / "log"
        if socket_kind == "unix" and self.takes_unix:
            self.address = f"unix:{folder}/server.sock"
        else:
            self.address = f"127.0.0.1:{free_port()}"
        self.process = None

    @classmethod
    def is_there(cls):
        """Whether it can be run here; what a variable has to name is left out without it."""
        return all(binary(variable) is not None for variable in cls.variables)

    @property
    def content(self):
        """The contestant that has what the index tells of; None: nobody has, and nobody asks."""
        return self if self.has_cas else None

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def start(self):
        """Starts it and waits until it serves."""
        self.launch()
        return self.wait_ready()

    def launch(self, stdin=subprocess.DEVNULL):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*map(str, self.command())],
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
            )

    def wait_ready(self):
        end = time.monotonic() + PATIENCE
        while not self.accepts():
            self.require(time.monotonic() < end, "does not serve")
            time.sleep(0.01)
        return self

    def accepts(self):
        self.require(self.process.poll() is None, "does not serve")
        is_unix = self.address.startswith("unix:")
        host, _, port = self.address.rpartition(":")
        with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET) as probe:
            try:
                probe.connect(port if is_unix else (host, int(port)))
            except OSError:
                return False
        return True

    def stop(self):
        self.process.send_signal(self.stop_signal)
        self.process.wait(PATIENCE)

    def kill(self):
        """Ends it in whatever state it is, with all that it has started."""
        if self.process is None or self.process.poll() is not None:
            return
        for pid in machine.processes_below(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def pids(self):
        """Of all its processes: what they take is what it takes."""
        return machine.processes_below(self.process.pid)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def require(self, condition, what):
        if not condition:
            raise self.failure(what)

    def failure(self, what):
        """The error of WHAT has failed, with what is known of the server: state and log."""
        return RuntimeError(
            f"{self.name}: {what}; it {state_of(self.process)}"
            f"\nThe end of its log:\n{last_lines(self.log())}"
        )


def state_of(process):
    """Whether a process runs, or how it ended, as words behind its name."""
    if process is None:
        return "was not started"
    try:
        # What has just broken connections is not always gone yet.
        status = process.wait(ENDING)
    except subprocess.TimeoutExpired:
        return "is running"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"has ended with status {status}"


def last_lines(text):
    return "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:]) or "  (empty)"
