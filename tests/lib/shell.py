# SPDX-License-Identifier: Apache-2.0
"""The commands of a document, run as they stand in it, but for some words."""

import os
import pathlib
import shlex
import subprocess

from lib.server import ASSETCTL, ASSETD, PATIENCE, SANITIZER_MARKS, Server


class Shell:
    """
    Runs commands in FOLDER. WORDS: what stands in them, and what is to stand there instead. The
    programs under test are found on PATH under their installed names.
    """

    def __init__(self, folder, words):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.words = words
        self.bin = self.folder / ".bin"
        self.bin.mkdir()
        for name in ("assetd", "bst-artifact-server"):
            (self.bin / name).symlink_to(pathlib.Path(ASSETD).resolve())
        (self.bin / "assetctl").symlink_to(pathlib.Path(ASSETCTL).resolve())
        self.environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def spell(self, text):
        """TEXT with the words of this place."""
        for old, new in self.words.items():
            text = text.replace(old, str(new))
        return text

    def run(self, commands, status=0):
        """Runs lines of shell to their end; returns what they printed."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self.spell(commands)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, f"{commands}: {done.returncode}\n{done.stdout}"
        assert not any(mark in done.stdout for mark in SANITIZER_MARKS), done.stdout
        return done.stdout

    def daemon(self, command, address, credentials=None):
        return Daemon(self, command, address, credentials)


class Daemon(Server):
    """
    A server that a line of shell starts, found at ADDRESS. CREDENTIALS: of a client that it lets
    in, where there is TLS.
    """

    def __init__(self, shell, line, address, credentials=None):
        super().__init__(shell.folder, arguments=(), address=address)
        self.shell = shell
        self.line = line
        self.credentials = credentials
        self.log_path = shell.folder / f"{address.replace('/', '_')}.log"
        self.log_title = f"log of {line}"

    def command(self):
        # What the shell becomes is the server: it gets the signals.
        path = shlex.quote(self.shell.environment["PATH"])
        return ["bash", "-c", f"export PATH={path}; exec {self.shell.spell(self.line)}"]
