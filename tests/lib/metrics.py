# SPDX-License-Identifier: Apache-2.0
"""The page of figures."""

import http.client
import re

LINE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\d+)')


def get(port, path="/metrics"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def figures(port):
    """What the page says, as {(name, labels): value}; every line must be of the format."""
    status, page = get(port)
    assert status == 200
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, labels, value = LINE.fullmatch(line).groups()
            found[name, labels] = int(value)
    return found
