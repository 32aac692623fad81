# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports, apart from those that the kernel and the other test workers hand out."""

import random
import socket

# Below the usual range of ephemeral ports, from which connections take theirs.
FIRST = 12000
COUNT = 16000

# A port may be handed out long before somebody listens at it. The claim is a name that one process
# at a time can have, and that the kernel takes back from one that ended.
claims = {}


def free_port():
    while True:
        port = FIRST + random.randrange(COUNT)
        if port not in claims and is_free(port) and claim(port):
            return port


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def claim(port):
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0assetd-test-port-{port}")
    except OSError:
        name.close()
        return False
    claims[port] = name
    return True
