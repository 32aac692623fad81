# SPDX-License-Identifier: Apache-2.0
"""The BuildStream project of the tests, generated so that every test's artifacts are its own."""

import hashlib
import json
import pathlib
import shutil
import tarfile

import yaml

from lib.content import noise

TEMPLATE = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "project"
# That of all.bst, and all that it depends on.
ELEMENTS = {"base", "many", "made", "fetched", "all"}
BUSYBOX = "/usr/bin/busybox"
COMMANDS = ("sh", "cat", "mkdir", "chmod", "ln", "wc", "find", "sort", "cp")


def make_project(folder, name, extra=None):
    """
    Makes the project at FOLDER. NAME is part of the artifacts' URIs, and of what is built: no two
    tests share content. EXTRA goes into project.conf.
    """
    folder = pathlib.Path(folder)
    shutil.copytree(TEMPLATE, folder)
    conf = yaml.safe_load((folder / "project.conf").read_text())
    conf["name"] = name
    conf["aliases"] = {"here": f"file://{folder}/"}
    conf.update(extra or {})
    # JSON is YAML without anchors, which BuildStream refuses.
    (folder / "project.conf").write_text(json.dumps(conf, indent=2))
    make_base(folder / "files" / "base")
    make_many(folder / "files" / "many", name)
    reference = hashlib.sha256(make_archive(folder, name).read_bytes()).hexdigest()
    for element in (folder / "elements").iterdir():
        element.write_text(element.read_text().replace("0" * 64, reference))
    return folder


def make_base(base):
    """The sandbox's root: a static shell, and nothing else."""
    (base / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, base / "bin" / "busybox")
    for command in COMMANDS:
        (base / "bin" / command).symlink_to("busybox")


def make_many(many, name):
    """More than 40 files in nested directories, with symlinks, a program and an empty file."""
    for number in range(45):
        place = many / f"level{number % 3}" / f"part{number % 5}" / "leaf"
        place.mkdir(parents=True, exist_ok=True)
        # From below one batch to beyond the size at which blobs are streamed.
        size = 6_000_000 if number == 7 else number * number * 11
        (place / f"file{number}.bin").write_bytes(noise(size, f"{name}/{number}"))
    (many / "nothing").write_bytes(b"")
    (many / "tool").write_text(f"#!/bin/sh\necho {name}\n")
    (many / "tool").chmod(0o755)
    (many / "to-file").symlink_to("level0/part0/leaf/file0.bin")
    (many / "to-directory").symlink_to("level1")
    (many / "to-nowhere").symlink_to("../no/such/place")


def make_archive(folder, name):
    """A tar archive that an element has as its source, by a file: URL with its reference."""
    inside = folder / "archive"
    (inside / "deep" / "er").mkdir(parents=True)
    (inside / "deep" / "er" / "text").write_text(f"from the archive of {name}\n")
    (inside / "run").write_text("#!/bin/sh\n")
    (inside / "run").chmod(0o755)
    path = folder / "archive.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(inside, arcname="archive")
    shutil.rmtree(inside)
    return path
