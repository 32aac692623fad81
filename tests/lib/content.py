# SPDX-License-Identifier: Apache-2.0
"""Blobs, digests and directory trees to upload."""

import hashlib
import random

from lib.api import reapi

FUNCTIONS = {
    "sha256": reapi.DigestFunction.SHA256,
    "sha1": reapi.DigestFunction.SHA1,
    "sha384": reapi.DigestFunction.SHA384,
    "sha512": reapi.DigestFunction.SHA512,
}


def digest_of(data, function="sha256"):
    return reapi.Digest(hash=hashlib.new(function, data).hexdigest(), size_bytes=len(data))


EMPTY = digest_of(b"")


def name_of(digest):
    """The part of a resource name that says which blob: hash and size."""
    return f"{digest.hash}/{digest.size_bytes}"


def noise(size, seed=0):
    """The same SIZE bytes for the same SEED, which do not compress."""
    return random.Random(f"{size}/{seed}").randbytes(size)


class Tree:
    """
    A directory tree as messages: nested dictionaries, where bytes are a file, a string is a
    symlink's target and a dictionary is a directory.
    """

    def __init__(self, content, function="sha256"):
        self.function = function
        self.blobs = {}  # by hash: the files and the Directory messages, as bytes
        self.directories = {}  # by hash: the Directory messages
        self.root = self._add(content)

    def _store(self, data):
        digest = digest_of(data, self.function)
        self.blobs[digest.hash] = data
        return digest

    def _add(self, content):
        directory = reapi.Directory()
        for name, node in sorted(content.items()):
            if isinstance(node, bytes):
                directory.files.add(name=name, digest=self._store(node))
            elif isinstance(node, str):
                directory.symlinks.add(name=name, target=node)
            else:
                directory.directories.add(name=name, digest=self._add(node))
        digest = self._store(directory.SerializeToString(deterministic=True))
        self.directories[digest.hash] = directory
        return digest

    def directories_as_bytes(self):
        return [self.blobs[hash_] for hash_ in self.directories]

    def digest(self, content):
        """The digest of a part of the tree: of a file's bytes, or of a directory's dictionary."""
        if isinstance(content, bytes):
            return digest_of(content, self.function)
        return Tree(content, self.function).root
