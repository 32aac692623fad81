# SPDX-License-Identifier: Apache-2.0
"""Uploads that stop half way."""

import contextlib
import threading

from lib.client import CHUNK, pieces
from lib.content import digest_of
from lib.server import PATIENCE


@contextlib.contextmanager
def held_write(client, data, at, chunk=CHUNK, **options):
    """A Write of DATA, under way, that holds back its piece number AT until the block is left."""
    reached, go_on = threading.Event(), threading.Event()

    def requests():
        name = client.write_name(digest_of(data))
        for number, piece in enumerate(pieces(name, data, chunk)):
            if number == at:
                reached.set()
                go_on.wait(PATIENCE)
            yield piece

    call = client.write_stream(requests(), **options)
    try:
        assert reached.wait(PATIENCE)
        yield call
    finally:
        go_on.set()
