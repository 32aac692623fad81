# SPDX-License-Identifier: Apache-2.0
"""Several processes on one storage directory: one that writes, and others that read beside it."""


class SharedStorage:
    """The storage directory of several servers; those that read let nobody write."""

    def __init__(self, assetd, folder, **instance):
        self.storage = folder / "storage"
        self.assetd = assetd
        self.instances = [{"name": "", "storage": str(self.storage), **instance}]

    def writer(self, **options):
        return self.assetd(instances=self.instances, **options)

    def reader(self, **options):
        server = self.assetd(instances=self.instances, start=False)
        server.configure(listeners=[{"address": server.pull, "access": "read"}], **options)
        return server.start()


def reading(server, **options):
    """A client that cannot write."""
    return server.client(server.pull, **options)
