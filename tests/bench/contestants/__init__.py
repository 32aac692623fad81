# SPDX-License-Identifier: Apache-2.0
"""Who is measured: the servers by what they can do, in the order of tables."""

import sys

from bench.contestants.bazel_remote import BazelRemote
from bench.contestants.buildbarn import BbRemoteAsset, BbStorage, CheckedBbRemoteAsset
from bench.contestants.buildgrid import BuildGrid
from bench.contestants.casd import Casd
from bench.contestants.nativelink import NativeLink
from bench.contestants.old_server import OldServer
from bench.contestants.ours import Assetd, Empty, IndexOnly
from bench.options import spelled

# FetchBlob and PushBlob of any URI.
INDEX = (
    *(Empty, Assetd, IndexOnly, Casd, OldServer),
    *(BbRemoteAsset, CheckedBbRemoteAsset, NativeLink),
)
# Content: batches and ByteStream.
CAS = (Empty, Assetd, Casd, OldServer, BuildGrid, BbStorage, BazelRemote, NativeLink)


def wanted(classes, options):
    """Those of CLASSES that are there, and are to take part."""
    return [one for one in classes if options.takes(one.name) and one.is_there()]


def make(classes, folder, socket_kind, options):
    """
    Those of CLASSES that are wanted, each in a folder of its own below FOLDER; at unix sockets if
    SOCKET_KIND is "unix" and they can.
    """
    numbered = enumerate(wanted(classes, options))
    return [one(folder / f"c{number}", socket_kind) for number, one in numbered]


def require_known(options):
    """Ends the program, with a message, if a variable names a contestant or a program wrongly."""
    known = {spelled(one.name): one for one in (*INDEX, *CAS)}
    there = [name for name, one in known.items() if one.is_there()]
    for name in options.only:
        if name not in known:
            sys.exit(f"CONTESTANTS: there is no {name}: {', '.join(known)}")
        if name not in there:
            named = " ".join(f"{variable}=" for variable in known[name].variables)
            sys.exit(
                f"CONTESTANTS: {name} needs its program named, {named}: see tests/bench/README.md"
            )
