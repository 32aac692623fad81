# SPDX-License-Identifier: Apache-2.0
"""BuildGrid's CAS, from PyPI."""

from bench.contestants.base import Contestant
from lib import peers

# It refuses what it has no thread for: more of them than there ever are calls in flight.
THREADS = 128


class BuildGrid(Contestant):
    """A CAS on the disk; it has no Remote Asset service."""

    name = "BuildGrid"
    has_cas = takes_unix = True

    def command(self):
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        text = peers.BuildGrid.CONFIGURATION.format(address=self.address, storage=storage)
        self.require("thread-pool-size: 64" in text, "has another configuration than is known here")
        text = text.replace("thread-pool-size: 64", f"thread-pool-size: {THREADS}")
        path = self.folder / "buildgrid.yaml"
        path.write_text(text)
        return [peers.BGD, "server", "start", path]
