# SPDX-License-Identifier: Apache-2.0
"""The real bst, with everything that it writes below one folder."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

BST = pathlib.Path(sys.executable).parent / "bst"


class BstError(Exception):
    """bst ended with another status than 0."""


class Bst:
    """
    A user of BuildStream: home, cache and configuration below FOLDER. CACHES are the servers of
    the configuration, for artifacts and sources alike, as dictionaries in BuildStream's own form.
    """

    def __init__(self, folder, project, caches=(), source_caches=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.project = project
        self.cache = self.folder / "cache"
        self.configuration = self.folder / "buildstream.conf"
        self.log_title = "bst"
        self.output = ""
        self.configure(caches, source_caches)

    def configure(self, caches=(), source_caches=None):
        configuration = {
            "cachedir": str(self.cache),
            "logdir": str(self.folder / "logs"),
            "scheduler": {"network-retries": 0, "on-error": "terminate"},
        }
        if caches:
            configuration["artifacts"] = {"servers": list(caches)}
        if source_caches is None:
            source_caches = caches
        if source_caches:
            configuration["source-caches"] = {"servers": list(source_caches)}
        # JSON is YAML without anchors, which BuildStream refuses.
        self.configuration.write_text(json.dumps(configuration, indent=2))

    def run(self, *arguments, check=True):
        """Runs bst; returns what it printed."""
        environment = {
            "PATH": f"{BST.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LC_ALL": "C.UTF-8",
        }
        for name in ("CACHE", "CONFIG", "DATA", "STATE", "RUNTIME"):
            suffix = "DIR" if name == "RUNTIME" else "HOME"
            environment[f"XDG_{name}_{suffix}"] = str(self.folder / name.lower())
        command = [
            str(BST),
            *("--config", str(self.configuration)),
            *("--directory", str(self.project)),
            *("--no-interactive", "--no-colors"),
            *map(str, arguments),
        ]
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=180,
                check=False,
            )
        finally:
            self.end_daemons()
        self.output += f"$ bst {' '.join(map(str, arguments))}\n{done.stdout}\n"
        if check and done.returncode != 0:
            raise BstError(f"bst {arguments[0]} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def checkout(self, folder, element="all.bst"):
        """What the artifact holds, as listing() has it."""
        self.run("artifact", "checkout", "--directory", folder, element)
        return listing(folder)

    def wipe(self):
        """Loses the local cache."""
        shutil.rmtree(self.cache)

    def log(self):
        return self.output

    def end_daemons(self):
        """Kills, by their process ids, what a bst that was cut short left behind."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            left = list(self._daemons())
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)

    def _daemons(self):
        """Processes other than this one that name our folder on their command line."""
        mine = os.fsencode(self.folder) + b"/"
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mine in command and b"buildbox" in command:
                yield int(entry.name)


def elements_with(output, what):
    """The elements of which a log line of bst says WHAT."""
    return {
        match[1]
        for match in re.finditer(r"^\[.{8}\]\[.{8}\]\[ *[\w-]+:(\w+)\.bst *\] (.*)$", output, re.M)
        if re.search(what, match[2])
    }


def listing(folder):
    """
    What a checkout holds, as far as BuildStream keeps it: for each path its kind and its bytes,
    its symlink's target, and whether it can be executed.
    """
    entries = {}
    folder = pathlib.Path(folder)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            entries[name] = ("symlink", os.readlink(path))
        elif path.is_dir():
            entries[name] = ("directory", path.stat().st_mode & 0o777)
        else:
            entries[name] = ("file", path.stat().st_mode & 0o777, path.read_bytes())
    return entries
