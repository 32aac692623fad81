# SPDX-License-Identifier: Apache-2.0
"""What was installed below a folder: by `make install`, or out of the package."""

import fnmatch
import gzip
import os
import pathlib
import re
import subprocess

from lib.server import ASSETD, CHECKOUT, PATIENCE

BUILD = pathlib.Path(ASSETD).resolve().parent

# A path below one of the folders that anything is installed to; not a part of a longer path, of a
# URL or of a shell's expansion.
NAMED = re.compile(r"(?<![\w.$}/~])/(?:bin|etc|lib|opt|run|sbin|usr|var)(?:/[\w.@*+-]+)+")

# What shipped files name and nobody installs, by who makes it.
MADE_LATER = {
    "/bin/sh": "Debian",
    "/etc/ssl/certs/*": "Debian, by ca-certificates",
    "/usr/lib/systemd/*": "systemd",
    "/usr/local": "Debian",
    "/usr/local/bin": "Debian",
    "/usr/local/bin/bst-artifact-server": "pip, with the former server",
    "/usr/local/bin/bst-artifact-server.old": "the operator, who keeps that",
    "/usr/share/common-licenses/*": "Debian",
    "/etc/nginx": "nginx",
    "/etc/nginx/nginx.conf": "nginx",
    "/var/log/nginx/*": "nginx",
    "/etc/nginx/sites-enabled/*": "the operator, who switches a site on",
    "/etc/tmpfiles.d": "systemd",
    "/etc/tmpfiles.d/*": "the operator",
    "/etc/fstab": "Debian",
    "/etc/systemd/system": "systemd",
    "/etc/systemd/system/*": "the operator, by `systemctl edit`",
    "/etc/assetd/NAME.yaml": "the operator",
    "/etc/assetd/%i.yaml": "the operator",
    "/etc/assetd/kernel.yaml": "the operator, in an example",
    "/etc/assetd/tls/*": "assetctl",
    "/etc/assetd/direct": "the operator, for TLS without nginx",
    "/etc/assetd/direct/*": "assetctl",
    "/etc/assetd/cas": "the operator, for an external CAS",
    "/etc/assetd/cas/*": "the operator, for an external CAS",
    "/etc/buildbarn/*": "the operator, for Buildbarn",
    "/run/buildbarn/*": "Buildbarn",
    "/usr/local/bin/bb_storage": "the operator, for Buildbarn",
    "/var/lib/buildbarn": "systemd, as StateDirectory",
    "/var/lib/buildbarn/*": "Buildbarn",
    "/run/assetd": "systemd-tmpfiles",
    "/run/assetd/*": "assetd",
    "/var/lib/assetd": "systemd, as StateDirectory",
    "/var/lib/assetd/*": "assetd",
    "/var/tmp": "Debian",
}


def environment():
    """That of a shell: the make that runs the tests hands nothing on."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VARIANT", "O")
    }


def run_make(*arguments, timeout=PATIENCE):
    return subprocess.run(
        ["make", *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def make(target, *arguments):
    """`make install` and the like, of the programs under test as they are; returns what it says."""
    done = run_make(
        *(target, f"O={BUILD}", "-o", BUILD / "assetd", "-o", BUILD / "assetctl"), *arguments
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(root):
    """The names of all files and links, as the installed system has them."""
    return {
        f"/{path.relative_to(root)}"
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def real(root, path):
    """Where PATH leads below ROOT, whose links are of the installed system."""
    here = root
    for part in path.strip("/").split("/"):
        here = here / part
        if here.is_symlink():
            target = os.readlink(here)
            here = root / target.lstrip("/") if target.startswith("/") else here.parent / target
    return here


def text_of(path):
    """None if it is not text."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return None if b"\0" in content else content.decode()


def named_paths(root):
    """Pairs of an installed text file and an absolute path that it names."""
    named = set()
    for name in files_below(root):
        text = None if real(root, name).is_dir() else text_of(real(root, name))
        for match in NAMED.finditer(text or ""):
            named.add((name, match[0].rstrip(".")))
    return named


def is_there(root, path):
    """As a shell finds it: the last part may have a star."""
    above, _, name = path.rpartition("/")
    return any(real(root, above).glob(name)) if "*" in name else real(root, path).exists()


def check_paths(root, later=tuple(MADE_LATER)):
    """All that is named must be there, or be made later."""
    named = named_paths(root)
    assert named, f"no file below {root} names a path"
    missing = [
        f"{name} names {path}"
        for name, path in sorted(named)
        if not is_there(root, path)
        and not any(fnmatch.fnmatchcase(path, pattern) for pattern in later)
    ]
    assert not missing, "\n".join(missing)
