# SPDX-License-Identifier: Apache-2.0
"""assetd itself behind the shipped files, as clients see it."""

import grpc

from lib.client import Client


class Served:
    """assetd with nginx before it."""

    def __init__(self, front):
        self.front = front
        self.clients = []

    def client(self, place, caller="nobody", metadata=()):
        target = self.front.target(place, caller)
        files = (target.root, target.key, target.certificate)
        credentials = grpc.ssl_channel_credentials(*(file and file.read_bytes() for file in files))
        metadata = [*self.front.caller(caller).metadata, *metadata]
        client = Client(f"127.0.0.1:{target.port}", "", credentials, metadata)
        self.clients.append(client)
        return client

    def close(self):
        for client in self.clients:
            client.close()


def listeners(folder):
    return [
        {"address": f"unix:{folder}/pull.sock", "access": "read", "identity": "x-client-identity"},
        {"address": f"unix:{folder}/push.sock", "access": "write", "identity": "x-client-identity"},
    ]
