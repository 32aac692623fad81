# SPDX-License-Identifier: Apache-2.0
"""The log of a store's CAS as files: where a blob is in it, and bits that flip there."""

import hashlib

from lib.server import wait_until

# Of a record: bytes in front of the hash in its header, and all of a header of SHA-256.
RECORD_HASH = 24
RECORD_HEADER = RECORD_HASH + 32


def find_record(storage, data):
    """The segment's file and the offset of the record of a blob, the last one written."""
    header_end = hashlib.sha256(data).digest() + data[:64]
    for path in sorted((storage / "cas" / "log").iterdir(), reverse=True):
        at = path.read_bytes().rfind(header_end)
        if at >= 0:
            return path, at - RECORD_HASH
    raise AssertionError("no segment holds the blob")


def flip(path, offset, bit=0x10):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def damage(storage, data, at=0):
    """Flips a bit of the byte AT of a blob; returns the segment's file."""
    path, record = find_record(storage, data)
    flip(path, record + RECORD_HEADER + at)
    return path


def wait_evacuated(path):
    wait_until(lambda: not path.exists(), f"segment {path.name} was not evacuated")
