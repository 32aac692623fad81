# SPDX-License-Identifier: Apache-2.0
"""Folders as buildbox-casd lays them out, made by hand; and what is in one, to be compared."""

import hashlib
import os
import pathlib
import stat

from google.protobuf import any_pb2

from lib.api import asset
from lib.content import digest_of


def place_of(part, name):
    """Where the file of that SHA-256 is, below PART."""
    return pathlib.Path(part) / "objects" / name[:2] / name[2:]


def packed(message):
    wrapped = any_pb2.Any()
    wrapped.Pack(message)
    return wrapped.SerializeToString()


class CasdFolder:
    """The folder of a casd at PATH, which may be one that a casd has made."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        (self.path / "cas" / "objects").mkdir(parents=True, exist_ok=True)

    def put(self, part, name, data, used=None):
        """A file of that SHA-256, used last at that time (seconds since 1970)."""
        path = self.path / place_of(part, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if used is not None:
            os.utime(path, (used, used))
        return path

    def blob(self, data, used=None):
        self.put("cas", digest_of(data).hash, data, used)
        return digest_of(data)

    def asset(self, uri, digest, qualifiers=(), is_directory=False, used=None, **fields):
        """An asset, as a push leaves it; FIELDS of the response. Returns its path."""
        named = [asset.Qualifier(name=name, value=text) for name, text in dict(qualifiers).items()]
        ordered = sorted(named, key=lambda qualifier: qualifier.name.encode())
        if is_directory:
            answer = asset.FetchDirectoryResponse(root_directory_digest=digest)
            request = asset.FetchDirectoryRequest(uris=[uri], qualifiers=ordered)
        else:
            answer = asset.FetchBlobResponse(blob_digest=digest)
            request = asset.FetchBlobRequest(uris=[uri], qualifiers=ordered)
        answer.MergeFrom(type(answer)(uri=uri, qualifiers=named, **fields))
        name = hashlib.sha256(packed(request)).hexdigest()
        return self.put("assets", name, packed(answer), used)


def snapshot(folder, leave_out=()):
    """
    All that FOLDER holds, but what is in it under the names LEAVE_OUT: kinds, modes, owners,
    times of last change, and of files also content and time of last access.
    """
    found = {}
    folder = pathlib.Path(folder)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in leave_out:
            continue
        status = path.lstat()
        found[str(name)] = [stat.filemode(status.st_mode), status.st_uid, status.st_mtime_ns]
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
            with open(descriptor, "rb") as file:
                found[str(name)] += [status.st_atime_ns, hashlib.sha256(file.read()).hexdigest()]
    return found
