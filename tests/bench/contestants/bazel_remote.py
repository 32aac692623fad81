# SPDX-License-Identifier: Apache-2.0
"""bazel-remote, where BAZEL_REMOTE= names the program."""

from bench.contestants.base import Contestant
from bench.options import binary

GIBIBYTES = 24


class BazelRemote(Contestant):
    """
    A CAS. It has no Push, and its FetchBlob knows no URI that was pushed: it answers with the blob
    that checksum.sri names, or downloads. So it is no index to compare with.
    """

    name = "bazel-remote"
    has_cas = takes_unix = True
    is_durable = True  # each blob is synced
    variables = ("BAZEL_REMOTE",)

    def command(self):
        address = self.address.replace("unix:", "unix://")
        return [
            binary("BAZEL_REMOTE"),
            *("--dir", self.folder / "storage", "--max_size", GIBIBYTES),
            *("--grpc_address", address, "--http_address", f"unix://{self.folder}/http.sock"),
            *("--storage_mode", "uncompressed", "--access_log_level", "none"),
        ]
