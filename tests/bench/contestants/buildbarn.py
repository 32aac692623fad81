# SPDX-License-Identifier: Apache-2.0
"""
Buildbarn's servers, where BB_STORAGE= and BB_REMOTE_ASSET= name the programs: the CAS, and the
index with what it stores itself or, if both are there, over the CAS and its action cache.
"""

from bench.contestants.base import Contestant
from bench.options import CHECKOUT, GIB, MIB, binary

# A ring of blocks on the disk, synced every five minutes: as the projects' own documents have it,
# with room for a million entries.
RING = """{{
  'local': {{
    keyLocationMapOnBlockDevice: {{ file: {{ path: '{storage}/table', sizeBytes: {table} }} }},
    keyLocationMapMaximumGetAttempts: 16,
    keyLocationMapMaximumPutAttempts: 64,
    oldBlocks: 8,
    currentBlocks: 24,
    newBlocks: 1,
    blocksOnBlockDevice: {{
      source: {{ file: {{ path: '{storage}/blocks', sizeBytes: {blocks} }} }},
      spareBlocks: 3,
    }},
    persistent: {{ stateDirectoryPath: '{storage}', minimumEpochInterval: '300s' }},
  }},
}}"""

# The action cache of bb_storage: what it answers with is in the CAS.
ACTION_CACHE = """
  actionCache: {{
    getAuthorizer: {{ allow: {{}} }},
    putAuthorizer: {{ allow: {{}} }},
    backend: {{ completenessChecking: {{
      backend: {ring},
      maximumTotalTreeSizeBytes: {trees},
    }} }},
  }},
"""
NO_ACTION_CACHE = (
    "  // No actionCache: BuildStream needs none, and its methods are UNIMPLEMENTED.\n"
)

REMOTE_ASSET = """{{
  grpcServers: [{{ {listen}, authenticationPolicy: {{ allow: {{}} }} }}],
  maximumMessageSizeBytes: {message},
  allowUpdatesForInstances: [''],
  fetchAuthorizer: {{ allow: {{}} }},
  pushAuthorizer: {{ allow: {{}} }},
  fetcher: {{ 'error': {{ code: 5, message: 'nobody has pushed it' }} }},
  contentAddressableStorage: {content},
  assetCache: {assets},
}}
"""
NO_CAS = "{ 'error': { code: 12, message: 'there is no CAS' } }"
ELSEWHERE = "{{ grpc: {{ client: {{ address: '{address}' }} }} }}"


def listen(address):
    """The key of a gRPC server's configuration that says where it serves."""
    if address.startswith("unix:"):
        return f"listenPaths: ['{address.removeprefix('unix:')}']"
    return f"listenAddresses: ['{address}']"


def ring(storage):
    """What is stored below STORAGE, a folder that is made."""
    storage.mkdir(exist_ok=True)
    return RING.format(storage=storage, table=256 * MIB, blocks=4 * GIB)


class BbStorage(Contestant):
    """A CAS, with the configuration that is shipped: what is new is synced every ten seconds."""

    name = "bb-storage"
    has_cas = takes_unix = True
    action_cache = None
    variables = ("BB_STORAGE",)

    def command(self):
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        text = (CHECKOUT / "deploy" / "buildbarn" / "storage.jsonnet").read_text()
        changes = [
            ("listenAddresses: ['127.0.0.1:8980']", listen(self.address)),
            ("'/var/lib/buildbarn", f"'{storage}"),
        ]
        if self.action_cache is not None:
            changes.append((NO_ACTION_CACHE, self.action_cache))
        for shipped, ours in changes:
            self.require(shipped in text, f"is shipped with a configuration without {shipped}")
            text = text.replace(shipped, ours)
        path = self.folder / "storage.jsonnet"
        path.write_text(text)
        return [binary("BB_STORAGE"), path]


class BbRemoteAsset(Contestant):
    """An index that stores what it is told, and answers with it without looking for content."""

    name = "bb-remote-asset"
    has_index = takes_unix = True
    variables = ("BB_REMOTE_ASSET",)

    def stores(self):
        """Where content and assets are, as the configuration has it."""
        return NO_CAS, f"{{ blobAccess: {ring(self.folder / 'storage')} }}"

    def command(self):
        content, assets = self.stores()
        text = REMOTE_ASSET.format(
            listen=listen(self.address), message=16 * MIB, content=content, assets=assets
        )
        path = self.folder / "remote_asset.jsonnet"
        path.write_text(text)
        return [binary("BB_REMOTE_ASSET"), path]


class CheckedBbRemoteAsset(BbRemoteAsset):
    """
    An index whose entries are in the action cache of a bb_storage, which answers with what is in
    its CAS alone. Both count.
    """

    name = "bb-remote-asset + bb-storage"
    variables = BbRemoteAsset.variables + BbStorage.variables

    def __init__(self, folder, socket_kind="tcp"):
        super().__init__(folder, socket_kind)
        self.storage = BbStorage(folder / "storage", socket_kind)
        self.storage.action_cache = ACTION_CACHE.format(
            ring=ring(folder / "actions"), trees=64 * MIB
        )

    @property
    def content(self):
        return self.storage

    def stores(self):
        there = ELSEWHERE.format(address=self.storage.address)
        return there, f"{{ actionCache: {there} }}"

    def start(self):
        self.storage.start()
        return super().start()

    def stop(self):
        super().stop()
        self.storage.stop()

    def kill(self):
        super().kill()
        self.storage.kill()

    def pids(self):
        return super().pids() + self.storage.pids()
