# SPDX-License-Identifier: Apache-2.0
"""
Whether a contestant answers rightly, asked by a client of its own, before and after load(1) has
looked at numbers of bytes at most: for those that are not assetd.
"""

import contextlib
import hashlib
import pathlib
import textwrap

import grpc

from lib.api import reapi
from lib.client import Client
from lib.content import digest_of

# As in blobs.h and exchange.h: the series, the blobs of the base, and the size of blobs.
SERIES, NEW, STREAM = 1, 3, 4
BASE = 10_000
BLOB = 1024
TAIL = 16

MASK = (1 << 64) - 1
# Assets and blobs that are asked for.
NUMBERS = (0, 1, 123, 999)
NOT_FOUND = 5

WHAT_MAX = 400  # letters of what is wrong


def random_bytes(series, number, size):
    """As fill_random() in blobs.c makes them."""
    random = ((number * 16 + series) * 0x9E3779B97F4A7C15 + 1) & MASK
    words = []
    for _ in range(size // 8):
        random ^= random << 13 & MASK
        random ^= random >> 7
        random ^= random << 17 & MASK
        words.append(random.to_bytes(8, "little"))
    return b"".join(words)


def head_of(series, number):
    return number.to_bytes(8, "little") + series.to_bytes(8, "little")


def blob_of(series, number):
    """The blob of that number, as blobs_fill() makes it."""
    head = head_of(series, number)
    return head + random_bytes(series, number, BLOB - len(head))


def blob_of_base(number):
    return blob_of(SERIES, number)


def stream_of(number, size):
    """A large blob, as blobs_large_init() and blobs_large_tail() make it."""
    return random_bytes(STREAM, 0, size - TAIL) + head_of(STREAM, number)


def digest_of_base(number, base=BASE):
    """Of the content of the asset of that number: blobs of the base, again and again."""
    return digest_of(blob_of_base(number % base))


def uri_of(number):
    """Of an asset, as load(1) pushes it."""
    return f"urn:fdc:buildstream.build:2020:artifact:bench/element/{number:064x}"


def unknown_digest(number):
    """Of a blob that nobody has stored."""
    hashed = hashlib.sha256(f"nobody has stored {number}".encode())
    return reapi.Digest(hash=hashed.hexdigest(), size_bytes=BLOB)


def client_of(contestant):
    """A client that speaks with it as load(1) does: with TLS where the contestant has it."""
    if not contestant.tls:
        return Client(contestant.address)
    files = (contestant.tls.get(key) for key in ("tls", "key", "certificate"))
    pems = (pathlib.Path(file).read_bytes() if file else None for file in files)
    options = [("grpc.ssl_target_name_override", "localhost")]
    credentials = grpc.ssl_channel_credentials(*pems)
    return Client(contestant.address, credentials=credentials, options=options)


@contextlib.contextmanager
def asking(contestant):
    """A client of it; what it says is an error of the contestant's if the call fails."""
    try:
        with client_of(contestant) as client:
            yield client
    except grpc.RpcError as error:
        raise contestant.failure(f"{error.code().name}: {error.details()}") from error
    except AssertionError as error:  # of what the client holds answers against
        raise contestant.failure(f"answers wrongly: {error}") from error


def require(contestant, condition, what):
    if not condition:
        # A message has several lines.
        raise contestant.failure(f"answers wrongly: {textwrap.shorten(what, WHAT_MAX)}")


def check_index(contestant, numbers=NUMBERS, base=BASE):
    """It has the assets of those numbers, and none that was never pushed."""
    with asking(contestant) as client:
        for number in numbers:
            answer = client.fetch_blob(uri_of(number))
            what = f"asset {number}: {answer}"
            require(contestant, answer.status.code == 0, what)
            require(contestant, answer.blob_digest == digest_of_base(number, base), what)
        try:
            code = client.fetch_blob("urn:fdc:buildstream.build:2020:artifact:none").status.code
        except grpc.RpcError as error:
            code = error.code().value[0]
        require(contestant, code == NOT_FOUND, f"status {code} for what was never pushed")


def check_cas(contestant, numbers=NUMBERS, series=SERIES):
    """It has the blobs of the series of those numbers, byte by byte, and none that is unknown."""
    blobs = {number: blob_of(series, number) for number in numbers}
    digests = [digest_of(blob) for blob in blobs.values()]
    unknown = [unknown_digest(number) for number in numbers]
    with asking(contestant) as client:
        missing = client.find_missing([*digests, *unknown])
        named = {digest.hash for digest in missing}
        require(contestant, named == {d.hash for d in unknown}, f"missing: {missing}")
        answers = client.batch_read(digests)
        read = {answer.digest.hash: answer for answer in answers}
        for number, digest in zip(blobs, digests):
            answer = read.get(digest.hash)
            is_right = answer and answer.status.code == 0 and answer.data == blobs[number]
            require(contestant, is_right, f"BatchReadBlobs of blob {number}")
            require(contestant, client.read(digest) == blobs[number], f"Read of blob {number}")


def check_stream(contestant, number, size):
    """It sends the large blob of that number, byte by byte."""
    blob = stream_of(number, size)
    with asking(contestant) as client:
        is_right = client.read(digest_of(blob)) == blob
        require(contestant, is_right, f"Read of blob {number} of {size} bytes")
