# SPDX-License-Identifier: Apache-2.0
"""What the environment says of a run, and where things are."""

import os
import pathlib
import re
import sys
import tempfile

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / os.environ.get("BUILD", "build")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Seconds after which what does not come is a failure; nothing is expected to come near it.
PATIENCE = 300


def number(name, default):
    text = os.environ.get(name, "")
    try:
        value = int(text or default)
    except ValueError:
        value = 0
    if value <= 0:
        sys.exit(f"{name}={text}: a whole number above 0 is needed")
    return value


def binary(name):
    """The program that a variable of the environment names; None without it."""
    text = os.environ.get(name, "")
    if text and not os.access(text, os.X_OK):
        sys.exit(f"{name}={text}: there is no program")
    return pathlib.Path(text).resolve() if text else None


def require_writable(name, folder):
    """FOLDER, which a variable may name, is made if it is not there."""
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as reason:
        sys.exit(f"{name}={folder}: {reason.strerror}")


def require_built():
    for path in (BUILD / "assetd", BUILD / "bench" / "load"):
        if not path.exists():
            sys.exit(f"there is no {path}: `make all bench-programs` first")


def spelled(name):
    """A contestant's name as CONTESTANTS has it: a dash is what stands between words."""
    return "-".join(re.split(r"[ ,+]+", name)).lower()


class Options:
    def __init__(self):
        self.quick = os.environ.get("QUICK", "").lower() not in ("", "0", "no", "false")
        self.rounds = number("ROUNDS", 1 if self.quick else 5)
        # Seconds that one contestant's share of a round is to take.
        self.turn = 0.1 if self.quick else 0.6
        self.folder = os.environ.get("FOLDER") or None
        if self.folder and not os.path.isdir(self.folder):
            sys.exit(f"FOLDER={self.folder}: there is no folder")
        # What is kept from run to run, and what runs have found: quick ones apart from others.
        self.kept = BUILD / "bench" / "kept"
        results = BUILD / "bench" / "results" / ("quick" if self.quick else "")
        self.results = pathlib.Path(os.environ.get("RESULTS") or results)
        self.only = os.environ.get("CONTESTANTS", "").lower().split()

    def require_writable(self):
        """Ends the program, with a message, if it cannot work or keep its results."""
        require_writable("FOLDER", self.folder or tempfile.gettempdir())
        require_writable("RESULTS", self.results)

    def takes(self, name):
        """Whether the contestant of that name is in; the ratios are to assetd and empty."""
        return not self.only or spelled(name) in self.only or name in ("assetd", "empty")
