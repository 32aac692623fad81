# SPDX-License-Identifier: Apache-2.0
"""Projects of BuildStream to push and pull, built once and kept with what their build left."""

import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess

from bench.options import MIB
from lib.bst import BST, Bst
from lib.content import noise

# A part of the kept folder's name, to be raised when what is made here changes.
FORMAT = 1

FILES = 3
ALL = "all.bst"


class User(Bst):
    """Whose bst logs when it begins and ends a job, in microseconds, and keeps no sources."""

    def configure(self, caches=(), source_caches=None):
        super().configure(caches, source_caches)
        configuration = json.loads(self.configuration.read_text())
        configuration["logging"] = {"message-format": "[%{wallclock-us}][%{element}] %{message}"}
        configuration["sourcedir"] = str(self.folder / "sources")
        write(self.configuration, configuration)


class Project:
    """
    A project with ELEMENTS small elements, or one with one file of SIZE bytes. FOLDER, while it is
    in use, is a copy of what is kept: project/, and cache/, in which all is built.
    """

    def __init__(self, name, title, elements=0, size=0):
        self.name, self.title = name, title
        self.elements, self.size = elements, size
        self.folder = None

    @property
    def count(self):
        """How many artifacts it has, that of the element over all others among them."""
        return (self.elements or 1) + 1

    @property
    def room(self):
        """Bytes of memory that a machine uses at most to have its content go over once."""
        return 4 * self.size + 256 * MIB

    @property
    def path(self):
        return self.folder / "project"

    @property
    def cache(self):
        return self.folder / "cache"

    def take(self, folder, kept):
        """Has it at FOLDER, from what is below KEPT; what is not there yet is built first."""
        version = subprocess.check_output([BST, "--version"], text=True).strip()
        place = kept / f"bst-{self.name}-{self.elements}-{self.size}-{version}-{FORMAT}"
        if not place.is_dir():
            self.folder = folder.with_name(f"{folder.name}-made")
            self.make()
            partial = kept / f"{place.name}.{os.getpid()}"
            kept.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(self.folder, partial, symlinks=True)
                partial.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(self.folder)
        self.folder = folder
        shutil.copytree(place, folder, symlinks=True)

    def make(self):
        (self.path / "elements").mkdir(parents=True)
        write(
            self.path / "project.conf",
            {"name": f"bench-{self.name}", "min-version": "2.0", "element-path": "elements"}
            | {"aliases": {"here": f"file://{self.path}/"}},
        )
        if self.size:
            names, expected = [self.make_large()], {}
            expected["large/file"] = sha256_of(self.path / "file")
        else:
            names = [self.make_small(i) for i in range(self.elements)]
            expected = contents(self.path / "files")
        write(self.path / "elements" / ALL, {"kind": "stack", "depends": names})
        write(self.folder / "expected.json", expected)
        user = User(self.folder / "user", self.path)
        user.run("build", ALL)
        user.cache.rename(self.cache)
        shutil.rmtree(user.folder)
        (self.path / "file").unlink(missing_ok=True)

    def make_small(self, number):
        """An element of a few files that no other has."""
        name = f"part-{number}"
        files = self.path / "files" / name
        files.mkdir(parents=True)
        for i in range(FILES):
            size = 200 + (number * 7919 + i * 104729) % 8000
            (files / f"file-{i}").write_bytes(noise(size, f"{number}/{i}"))
        source = {"kind": "local", "path": f"files/{name}"}
        element = {"kind": "import", "sources": [source], "config": {"target": f"/{name}"}}
        write(self.path / "elements" / f"{name}.bst", element)
        return f"{name}.bst"

    def make_large(self):
        """An element of one file, which is fetched: so bst need not read it but to build."""
        random_bytes = random.Random(self.size).randbytes
        with open(self.path / "file", "wb") as file:
            for _ in range(self.size // MIB):
                file.write(random_bytes(MIB))
        source = {"kind": "remote", "url": "here:file", "ref": sha256_of(self.path / "file")}
        element = {"kind": "import", "sources": [source], "config": {"target": "/large"}}
        write(self.path / "elements" / "large.bst", element)
        return "large.bst"

    def require_whole(self, checkout):
        """That a checkout has all of the project's files, with the bytes they were made of."""
        expected = json.loads((self.folder / "expected.json").read_text())
        if contents(checkout) != expected:
            raise RuntimeError(f"{self.title}: the checkout differs from what was built")


def seconds_of_jobs(printed, kind):
    """From the beginning of the first job of that KIND to the end of the last."""
    times = re.findall(rf"^\[(\d+):(\d+):(\d+\.\d+)\]\[ *{kind}:", printed, re.M)
    if not times:
        raise RuntimeError(f"bst began no job to {kind}:\n{printed[-4000:]}")
    first, last = (
        int(hour) * 3600 + int(minute) * 60 + float(second)
        for hour, minute, second in (times[0], times[-1])
    )
    return (last - first) % 86400  # Midnight may have been on the way.


def write(path, tree):
    # JSON is YAML without anchors, which BuildStream refuses.
    path.write_text(json.dumps(tree, indent=1))


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(folder):
    """The files below FOLDER, by their paths from there, with their digests."""
    folder = pathlib.Path(folder)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}
