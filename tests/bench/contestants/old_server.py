# SPDX-License-Identifier: Apache-2.0
"""The server that assetd takes the place of: BuildStream's Python code over buildbox-casd."""

import subprocess
import sys

from bench.contestants.base import Contestant
from bench.options import GIB, PATIENCE
from lib.old_server import PROGRAM

# As long as the path that BuildStream makes, and the longest that a socket may have.
CASD_SOCKET = "buildstream12345678/cas/casserver-12345678.sock"
SOCKET_MAX = 107


class OldServer(Contestant):
    """Index and CAS. It has started a casd, whose CPU and memory are its own as well."""

    name = "old server"
    has_index = has_cas = takes_unix = True

    def command(self):
        return [sys.executable, "-c", PROGRAM, self.folder / "storage", self.address, 24 * GIB]

    def environment(self):
        # The socket of its casd is below TMPDIR, which is to be gone with all else, if that is not
        # too long for a socket.
        temporary = self.folder / "t"
        temporary.mkdir(exist_ok=True)
        is_short = len(str(temporary / CASD_SOCKET)) <= SOCKET_MAX
        more = {"TMPDIR": str(temporary)} if is_short else {}
        return super().environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | more

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
