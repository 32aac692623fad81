# SPDX-License-Identifier: Apache-2.0
"""Temporary folders."""

import pathlib
import tempfile


def new_folder():
    """Short, for unix sockets in it; open to others, for servers that give up root."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="assetd-"))
    folder.chmod(0o755)
    return folder
