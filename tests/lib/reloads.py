# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, and what a server logs of it."""

import re
import signal

from lib.server import wait_until


def hang_up(server, *, event="reloaded"):
    """SIGHUP, until EVENT is logged once more; what was logged meanwhile."""
    before = len(server.log())
    server.signal(signal.SIGHUP)
    wait_until(lambda: f"event={event}" in server.log()[before:], lambda: server.log()[before:])
    return server.log()[before:]


def reload(server, **config):
    server.configure(**config)
    log = hang_up(server)
    assert "reload-failed" not in log
    return log


def reload_fails(server, **config):
    server.expects_errors = True
    server.configure(**config)
    return hang_up(server, event="reload-failed")


def kept_keys(log):
    return re.findall(r'event=reload-needs-restart key="?([^" ]+)"?', log)
