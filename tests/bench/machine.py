# SPDX-License-Identifier: Apache-2.0
"""The machine, and what processes take of it, as /proc tells."""

import contextlib
import mmap
import os
import pathlib
import platform
import shutil
import signal
import threading
import time

from bench.options import KIB, MIB

SAMPLING = 0.02

MADV_POPULATE_WRITE = 23  # mmap has no name for it


def describe():
    """What a reader has to know of the machine to weigh the figures."""
    model = platform.machine()
    memory = 0
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory = meminfo("MemTotal")
    return {
        "model": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
    }


def meminfo(name):
    """Bytes."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    return 0


def processes_below(pid):
    """PID and all that it has started, directly or not, and that still runs."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_of(pids):
    """Seconds of CPU that all of them have taken, with those of their children that have ended."""
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            # What clock_getcpuclockid(3) makes of a process id. /proc tells in ticks alone.
            seconds += time.clock_gettime(~pid << 3 | 2)
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def end_children():
    """
    Kills all that this process has started, directly or not, and that still runs: whom a signal
    interrupted while it started a server does not know of that one.
    """
    for pid in processes_below(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def memory_of(pids):
    """
    Bytes of private memory (RssAnon), and of mapped files that are in memory (RssFile), of all of
    them.
    """
    anonymous = mapped = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    anonymous += int(line.split()[1]) * KIB
                elif line.startswith(("RssFile:", "RssShmem:")):
                    mapped += int(line.split()[1]) * KIB
    return anonymous, mapped


class Peak(threading.Thread):
    """The most memory that processes had while this ran, by looking often."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids = pids
        self.anonymous = self.mapped = 0
        self.over = threading.Event()

    def run(self):
        while True:
            anonymous, mapped = memory_of(self.pids)
            self.anonymous = max(self.anonymous, anonymous)
            self.mapped = max(self.mapped, mapped)
            if self.over.wait(SAMPLING):
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def blocks_below(folder):
    """Bytes that the files below FOLDER take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in pathlib.Path(folder).rglob("*"))


def require_room(folder, size):
    """Fails unless SIZE bytes more can be written below FOLDER."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise RuntimeError(
            f"{folder}: {size // MIB} MiB are needed, {free // MIB} are free;"
            " FOLDER= names another folder to work in"
        )


def forget_pages(folder):
    """Lets the machine forget what it has read of the files, as a reboot does."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def touch_memory(size):
    """
    Has the machine use SIZE bytes of memory for a moment. A virtual machine gets its memory when it
    is first used, page by page, which costs several times what a write to a file does, and is
    charged to whoever writes. In huge pages, as the page cache takes its memory in pieces of up to
    that size; smaller ones would serve those alone who write in small pieces.
    """
    free = 0
    with contextlib.suppress(OSError, ValueError):
        free = meminfo("MemAvailable")
        free = min(free, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    if free // 2 > 0:
        with contextlib.suppress(OSError), private_memory(min(size, free // 2)) as memory:
            with contextlib.suppress(OSError):  # the kernel has none
                memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(MADV_POPULATE_WRITE)


def private_memory(size):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
