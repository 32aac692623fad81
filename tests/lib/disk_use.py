# SPDX-License-Identifier: Apache-2.0
"""
What a folder takes on the disk while it changes.

What is added up file by file is more than there ever was if bytes move meanwhile. So each look goes
over all files twice: what was there both times was there in between, all at once.
"""

import contextlib
import os
import pathlib
import subprocess
import sys


def blocks_below(folder):
    """The blocks of FOLDER and of each thing in it, by path, in bytes."""
    blocks = {}
    folders = [os.fspath(folder)]
    with contextlib.suppress(FileNotFoundError):
        blocks[folders[0]] = os.lstat(folders[0]).st_blocks * 512
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    blocks[entry.path] = os.lstat(entry.path).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return blocks


def look(folder):
    """Bytes that FOLDER takes at least at this moment; all of them if nothing changes."""
    first = blocks_below(folder)
    second = blocks_below(folder)
    return sum(min(size, second[path]) for path, size in first.items() if path in second)


def disk_use(folder):
    """The same as `du` tells it, for folders that do not change at the moment."""
    command = ["du", "--summarize", "--block-size=1", os.fspath(folder)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout.split()[0])


class Watch:
    """A process that looks all the time, until the block is left."""

    def __init__(self, folder):
        self.folder = folder
        self.looks = self.most = 0

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_):
        output, _ = self.process.communicate()
        self.looks, self.most = map(int, output.split())

    def assert_within(self, quota):
        assert self.looks > 0
        assert self.most <= quota, f"{self.most} bytes of {quota}, in {self.looks} looks"


def main(folder):
    looks = most = 0
    os.set_blocking(sys.stdin.fileno(), False)
    # There is something to read as soon as the other end is closed.
    while sys.stdin.buffer.raw.read(1) is None:
        if folder.exists():
            most = max(most, look(folder))
            looks += 1
    print(looks, most)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
