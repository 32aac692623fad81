# SPDX-License-Identifier: Apache-2.0
"""NativeLink, where NATIVELINK= names the program."""

import json

from bench.contestants.base import Contestant
from bench.options import GIB, binary


class NativeLink(Contestant):
    """
    Index and CAS, in one store of files, as its own example for BuildStream has them. It cannot
    serve at a unix socket, and knows of no PushDirectory and FetchDirectory. A miss is an OK whose
    message has the status.
    """

    name = "NativeLink"
    has_index = has_cas = True
    variables = ("NATIVELINK",)

    def configuration(self):
        store = {
            "content_path": f"{self.folder}/content",
            "temp_path": f"{self.folder}/temporary",
            "eviction_policy": {"max_bytes": 24 * GIB},
        }
        services = {
            "cas": [{"instance_name": "", "cas_store": "ALL"}],
            "bytestream": {"cas_stores": {"": "ALL"}},
            "fetch": [{"instance_name": "", "fetch_store": "ALL"}],
            "push": [{"instance_name": "", "push_store": "ALL"}],
            "capabilities": [{"instance_name": ""}],
        }
        listener = {"http": {"socket_address": self.address}}
        return {
            "stores": [{"name": "ALL", "filesystem": store}],
            "servers": [{"name": "all", "listener": listener, "services": services}],
            "global": {"max_open_files": 24576},
        }

    def command(self):
        path = self.folder / "nativelink.json5"
        path.write_text(json.dumps(self.configuration()))
        return [binary("NATIVELINK"), path]

    def environment(self):
        return super().environment() | {"RUST_LOG": "warn"}
