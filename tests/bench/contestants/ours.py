# SPDX-License-Identifier: Apache-2.0
"""assetd in its forms, and the limit of what it is made of: the gRPC core with an empty handler."""

from bench.contestants.base import Contestant
from bench.options import BUILD, GIB


class Empty(Contestant):
    """The gRPC core alone: what no server on it can save."""

    name = "empty"
    has_index = has_cas = takes_unix = is_ours = True
    check = "size"

    def command(self):
        return [BUILD / "bench" / "empty", self.address]


class Assetd(Contestant):
    """assetd with one instance, index and CAS. STORAGE: a directory that is there, or a new one."""

    name = "assetd"
    has_index = has_cas = takes_unix = is_durable = is_ours = True
    check = "bytes"

    def __init__(self, folder, socket_kind="tcp", storage=None, quota=24 * GIB):
        super().__init__(folder, socket_kind)
        self.storage = storage or folder / "storage"
        self.config = folder / "assetd.yaml"
        self.config.write_text(
            f'listeners: [{{address: "{self.address}", access: write}}]\n'
            f'instances: [{{name: "", storage: "{self.storage}", {self.limit(quota)}}}]\n'
        )

    def limit(self, quota):
        """Further keys of the instance: what may be stored."""
        return f"quota: {quota}B"

    def command(self):
        return [BUILD / "assetd", "--config", self.config]

    def stop(self):
        super().stop()
        self.require(self.process.returncode == 0, "did not end well")
        self.require("level=error" not in self.log(), "logged an error")


class IndexOnly(Assetd):
    """assetd whose one instance is an index only, and answers as it was told."""

    name = "assetd, index only"
    has_cas = False

    def limit(self, quota):
        return "index-only: true"
