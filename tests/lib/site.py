# SPDX-License-Identifier: Apache-2.0
"""assetd behind nginx as `make up` starts them, with its demo key pairs; or nginx alone."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import grpc

from lib import processes
from lib.client import Client
from lib.ports import free_port
from lib.server import CHECKOUT, ERROR_LINE, PATIENCE, SANITIZER_MARKS, wait_until

# The first start may have to build.
START_PATIENCE = 300


class Keys:
    """Clients of an nginx that has the key pairs of a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.pull_port = free_port()
        self.push_port = free_port()

    def tls(self, name):
        return self.folder / name

    def credentials(self, key=None):
        """Of a client that trusts the server. KEY: a pair's name, or its paths (key, crt)."""
        root = self.tls("server.crt").read_bytes()
        if key is None:
            return grpc.ssl_channel_credentials(root)
        if isinstance(key, str):
            key = (self.tls(f"{key}.key"), self.tls(f"{key}.crt"))
        return grpc.ssl_channel_credentials(root, key[0].read_bytes(), key[1].read_bytes())

    def client(self, port, instance="", key=None):
        return Client(f"localhost:{port}", instance, self.credentials(key))

    def cache(self, push, port=None, **fields):
        """One server of BuildStream's configuration: the push port with a key, or the pull port."""
        port = port or (self.push_port if push else self.pull_port)
        auth = {"server-cert": str(self.tls("server.crt"))}
        if port == self.push_port:
            auth["client-key"] = str(self.tls("client.key"))
            auth["client-cert"] = str(self.tls("client.crt"))
        return {"url": f"https://localhost:{port}", "push": push, "auth": auth, **fields}

    def wait_ready(self, process, patience):
        """Until both ports answer; PROCESS must not end meanwhile."""
        end = time.monotonic() + patience
        while True:
            assert process.poll() is None, f"it ended with status {process.returncode}"
            assert time.monotonic() < end, "it is not ready"
            try:
                for port in (self.pull_port, self.push_port):
                    with self.client(port, key="client") as client:
                        client.health(timeout=2)
                return
            except (OSError, grpc.RpcError):
                time.sleep(0.05)


class Site(Keys):
    """`make up` on free ports, below FOLDER/run."""

    def __init__(self, folder):
        self.run = pathlib.Path(folder) / "run"
        super().__init__(self.run / "tls")
        self.output = pathlib.Path(folder) / "output"
        self.process = None
        self.log_title = "log of make up"

    def start(self):
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [
                    "make",
                    "--no-print-directory",
                    "up",
                    f"RUN={self.run}",
                    f"PULL_PORT={self.pull_port}",
                    f"PUSH_PORT={self.push_port}",
                ],
                cwd=CHECKOUT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        # Not asked before: while the keys are being made there may be half of one, and grpcio aborts.
        wait_until(
            lambda: self.process.poll() is not None or "Ctrl-C" in self.output.read_text(),
            "it does not say that it serves",
            START_PATIENCE,
        )
        self.wait_ready(self.process, PATIENCE)
        return self

    @staticmethod
    def environment():
        """Ours, without the job server of a `make test` above us."""
        above = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        return {name: value for name, value in os.environ.items() if name not in above}

    def stop(self, number=signal.SIGTERM):
        """
        Ends it as a user would, by a signal to make or, as a terminal does for SIGINT, to all of
        it; nothing of it may be left.
        """
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
            raise
        left = processes.of_session(self.process.pid)
        if left:
            self._kill()
        assert not left, f"left behind by make up: {left}"

    def finish(self):
        if self.process.poll() is None:
            self.stop()
        for line in self.log().splitlines():
            assert not any(mark in line for mark in SANITIZER_MARKS), line
            assert not ERROR_LINE.match(line), line

    def abandon(self):
        """Leaves no process behind, whatever went wrong."""
        if self.process is not None:
            self._kill()

    def _kill(self):
        processes.kill_session(self.process.pid)
        self.process.wait()

    def log(self):
        """What it printed, and every log below RUN."""
        paths = [self.output, *sorted(self.run.rglob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')}"
            for path in paths
            if path.exists()
        )


class Proxy(Keys):
    """The nginx of a site once more, in front of the sockets of another SERVER."""

    def __init__(self, folder, site, server):
        super().__init__(site.folder)
        self.folder_of_nginx = pathlib.Path(folder) / "nginx"
        self.error_log = pathlib.Path(folder) / "logs" / "error.log"
        self.log_title = "log of nginx"
        self.process = None
        shutil.copytree(
            site.run / "nginx", self.folder_of_nginx, ignore=shutil.ignore_patterns("tmp", "*.pid")
        )
        (self.folder_of_nginx / "tmp").mkdir()
        self.error_log.parent.mkdir()
        path = self.folder_of_nginx / "site.conf"
        text = path.read_text()
        for old, new in (
            ("unix:../sock/", f"unix:{server.folder}/"),
            ("../tls/", f"{site.folder}/"),
            (f":{site.pull_port} ", f":{self.pull_port} "),
            (f":{site.push_port} ", f":{self.push_port} "),
        ):
            assert old in text, old
            text = text.replace(old, new)
        path.write_text(text)

    def start(self):
        self.process = subprocess.Popen(
            ["nginx", "-p", ".", "-e", "../logs/error.log", "-c", "nginx.conf"],
            cwd=self.folder_of_nginx,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_ready(self.process, PATIENCE)
        return self

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def log(self):
        return self.error_log.read_text(errors="replace") if self.error_log.exists() else ""
