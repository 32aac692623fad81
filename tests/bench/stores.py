# SPDX-License-Identifier: Apache-2.0
"""
Stores with very many assets and blobs: made by fill(1), kept from run to run, served by assetd.

A run works on copies of the smaller ones. Those of more than COPIED are served where they are: what
is fetched of them, and pushed once more, leaves them as they were; the few blobs that a start is
measured with are added for good, until the store has grown so much that it is made anew.
"""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import shutil
import subprocess
import tempfile

from bench import machine
from bench.contestants.ours import Assetd
from bench.options import BUILD, GIB, MIB

# To be raised when fill(1) makes other content: stores of before are made anew then.
VERSION = 1

SIZES = (10_000, 1_000_000, 10_000_000)
QUICK_SIZES = (10_000, 100_000)
COPIED = 1_000_000

BASE = 10_000
REFERENCES = 3
QUOTA = 24 * GIB

# Bytes on the disk, more than are taken: of an asset, of a blob of the base, of a small one.
ASSET_ROOM, BASE_ROOM, SMALL_ROOM = 800, 2048, 300
# Where there are few.
ROOM_LEAST = 64 * MIB
# How much a store may grow before it is made anew.
GROWTH = GIB


@contextlib.contextmanager
def keeping(options):
    """Within the block no other run uses what is kept from run to run."""
    options.kept.mkdir(parents=True, exist_ok=True)
    with open(options.kept / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another run is at work on {options.kept}") from None
        yield


def sizes(options):
    return QUICK_SIZES if options.quick else SIZES


class Store:
    """SIZE assets, as load(1) pushes them, and SIZE blobs, of which BASE are of the base."""

    def __init__(self, size, path, made):
        self.size, self.path, self.made = size, path, made

    @property
    def label(self):
        """As tables have it."""
        return f"{self.size:,}"

    @property
    def blobs(self):
        """Keys of load(1): which blobs are there."""
        return {"base": BASE, "small": self.size - BASE}


class Server(Assetd):
    """assetd with a store."""

    def __init__(self, folder, store):
        self.store = store
        super().__init__(folder, storage=store.path, quota=QUOTA)

    def limit(self, quota):
        return f"{super().limit(quota)}, index-quota: {index_quota(self.store.size)}B"


def index_quota(size):
    return max(GIB, size * ASSET_ROOM)


def room_of(size):
    blobs = BASE * BASE_ROOM + (size - BASE) * SMALL_ROOM
    return max(size * ASSET_ROOM + blobs, ROOM_LEAST)


def fill(path, size, progress):
    """Makes a store with fill(1); returns what that has found."""
    keys = {"quota": QUOTA, "index-quota": index_quota(size), "references": REFERENCES}
    keys |= {"base": min(size, BASE), "small": max(size - BASE, 0), "assets": size}
    command = [BUILD / "bench" / "fill", path, *(f"{key}={keys[key]}" for key in keys)]
    last = ""
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stderr:
                last = line.strip()
                progress(f"a store of {size:,} is made: {last}")
            answer = process.stdout.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"a store of {size:,} could not be made: {last}")
    return json.loads(answer)


def formats():
    """The formats of the stores that this build makes, without the ids of the stores."""
    with tempfile.TemporaryDirectory() as folder:
        fill(folder, 0, lambda _: None)
        return [format_of(folder, kind) for kind in ("index", "cas")]


def format_of(path, kind):
    with open(os.path.join(path, kind, "format"), encoding="ascii") as file:
        return " ".join(file.read().split()[:3])


def mark_of(folder):
    try:
        return json.loads((folder / "made.json").read_text())
    except (OSError, ValueError):
        return {}


def bytes_of(path):
    """Bytes on the disk."""
    return {kind: machine.blocks_below(path / kind) for kind in ("index", "cas")}


def is_good(folder, made_of):
    """Whether a store is there, whole, of what it is to be made of, and not grown too much."""
    mark = mark_of(folder)
    if mark.get("made_of") != made_of:
        return False
    return sum(bytes_of(folder / "storage").values()) <= sum(mark["bytes"].values()) + GROWTH


def make(folder, size, made_of, progress):
    new = folder.with_name(f"{folder.name}.new")
    for path in (folder, new):
        shutil.rmtree(path, ignore_errors=True)
    new.mkdir(parents=True)
    free, needed = shutil.disk_usage(new).free, room_of(size)
    if free < needed:
        raise RuntimeError(
            f"{folder.parent}: a store of {size:,} assets and blobs needs {needed // MIB} MiB,"
            f" {free // MIB} are free; QUICK=1 does with less"
        )
    try:
        found = fill(new / "storage", size, progress)
        found |= {"made_of": made_of, "bytes": bytes_of(new / "storage")}
        (new / "made.json").write_text(json.dumps(found, indent=1) + "\n")
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def open_store(size, folder, options, progress):
    """
    The store of that size, made if it is not there: a copy below FOLDER, or the kept one, by how
    large it is.
    """
    kept = options.kept / str(size)
    made_of = {"version": VERSION, "formats": formats(), "quota": QUOTA, "size": size}
    if not is_good(kept, made_of):
        make(kept, size, made_of, progress)
    path = kept / "storage"
    if size <= COPIED:
        progress(f"the store of {size:,} is copied")
        machine.require_room(folder, room_of(size))
        path = folder / f"storage-{size}"
        shutil.copytree(kept / "storage", path)
    return Store(size, path, mark_of(kept))


# --- in memory ---


def read_through(path):
    """
    Has the machine's memory hold a file as a server that looks things up at random leaves it there,
    page by page. Mapping it would not do: a virtual machine pays for a page when it is first looked
    at, not when the disk has filled it.
    """
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while file.read(MIB):
            pass


def hold(libc, path):
    """Maps a file and keeps it from leaving the memory; returns the address and the size."""
    read_through(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        address = libc.mmap(None, max(size, 1), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        return None, 0
    # Without the right to, what was read just now is in memory, and may leave it again.
    libc.mlock(address, size)
    return address, size


@contextlib.contextmanager
def in_memory(stores):
    """Within the block the index and the digest table of each store are in the page cache."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    for function in (libc.mlock, libc.munmap):
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    held = []
    try:
        for store in stores:
            for path in (*store.path.glob("index/*.mdb"), *store.path.glob("cas/table/*")):
                held.append(hold(libc, path))
        yield
    finally:
        for address, size in held:
            if size > 0:
                libc.munmap(address, size)
