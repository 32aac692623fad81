# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports, apart from those that the kernel and the other test workers hand out."""

import os
import random
import socket

# Below the usual range of ephemeral ports, from which connections take theirs.
FIRST = 12000
PER_WORKER = 2000

given = set()  # a port may be handed out long before somebody listens at it


def free_port():
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    while True:
        port = FIRST + worker * PER_WORKER + random.randrange(PER_WORKER)
        if port in given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
