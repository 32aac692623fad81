# SPDX-License-Identifier: Apache-2.0
"""Processes of the machine, as /proc shows them."""

import contextlib
import os
import pathlib
import pwd
import signal
import time


def of_session(leader):
    """The pids of the session that LEADER began, but for those that only wait to be reaped."""
    pids = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # After the name in parentheses: state, parent, group, session.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                pids.append(int(entry.name))
    return pids


def kill_session(leader):
    """Leaves nothing of it, nor of what its processes start while others are being killed."""
    while pids := of_session(leader):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def as_anyone():
    """The prefix of a program that the modes of files hold for, whoever runs the tests."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"]


def user():
    """Ours, by the name in messages."""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
