# SPDX-License-Identifier: Apache-2.0
"""The Debian package: what lintian says, what is in it, and its life on a machine."""

import fcntl
import os
import pathlib
import re
import shutil

import pytest

from lib.installed import check_paths, files_below, make, run_make
from lib.server import run_tool

# Seconds: all is compiled, by a machine that may be busy.
BUILD_PATIENCE = 600

# Beside what `make install` installs, with the folders of the package.
ADDED = {"/usr/share/doc/assetd/changelog.gz", "/usr/share/doc/assetd/copyright"}


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The package, built once for all processes that run tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "package"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = list(folder.glob("deb/assetd_*.deb"))
        if not built:
            done = run_make("deb", f"O={folder}", timeout=BUILD_PATIENCE)
            assert done.returncode == 0, done.stdout + done.stderr
            built = [pathlib.Path(done.stdout.splitlines()[-1])]
    return built[0]


@pytest.fixture
def content(package, folder):
    """What is in the package, below a folder."""
    run_tool("dpkg-deb", "-x", package, folder / "content")
    return folder / "content"


def field(package, name):
    return run_tool("dpkg-deb", "-f", package, name).strip()


def test_lintian_is_content(package, folder):
    """No error, no warning, and nothing that the compiler's hardening leaves open."""
    report = run_tool(
        *("lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning"),
        *("--display-info", package),
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert "hardening" not in report


def test_what_shipped_files_name_is_there(content):
    check_paths(content)


def test_it_has_what_make_install_installs(content, folder):
    make("install", f"DESTDIR={folder}/made", "prefix=/usr", "unitdir=/lib/systemd/system")
    packaged = {re.sub(r"(/man/.*)\.gz$", r"\1", name) for name in files_below(content)}
    assert packaged == files_below(folder / "made") | ADDED


def test_one_version(package, content):
    for program in ("assetd", "assetctl"):
        said = run_tool(content / "usr/sbin" / program, "--version")
        assert field(package, "Version") in said.split()


def test_a_changelog_of_another_version_is_refused(folder):
    done = run_make("deb", "VERSION=99.1", f"O={folder}")
    assert done.returncode != 0 and "99.1" in done.stderr and "changelog" in done.stderr


class Machine:
    """
    A folder that dpkg takes for a machine. The package's scripts run, with stand-ins for what would
    reach the services of the real one: `calls` are theirs.
    """

    STAND_INS = ("deb-systemd-invoke", "invoke-rc.d", "systemctl", "nginx")

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "machine"
        self.tools = folder / "tools"
        self.log = folder / "calls"
        for name in ("etc", "run", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (self.root / name).mkdir(parents=True)
        for name in ("status", "available"):
            (self.root / "var/lib/dpkg" / name).touch()
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (self.root / "etc/group").write_text("root:x:0:\nwww-data:x:33:\n")
        self.tools.mkdir()
        for name in self.STAND_INS:
            tool = self.tools / name
            tool.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n')
            tool.chmod(0o755)

    def dpkg(self, *arguments):
        """Returns what dpkg and the scripts said."""
        path = f"{self.tools}:{self.root}/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin"
        return run_tool(
            *("dpkg", f"--root={self.root}", "--force-not-root", "--force-script-chrootless"),
            *("--force-depends", "--force-confold", *arguments),
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
        )

    def calls(self):
        """The stand-ins' since the last time."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls

    def path(self, name):
        return self.root / name.lstrip("/")

    def enable_site(self):
        self.path("/etc/nginx/sites-enabled").mkdir()
        self.path("/etc/nginx/sites-enabled/assetd").symlink_to("../sites-available/assetd")

    def ours(self):
        """Files of ours that are left."""
        return {
            name
            for name in files_below(self.root)
            if "assetd" in name and not re.match("/var/lib/(dpkg|systemd)/", name)
        }


@pytest.fixture
def machine(folder, package):
    machine = Machine(folder)
    machine.dpkg("-i", package)
    return machine


@pytest.fixture
def newer(folder, package):
    """The package with a higher version and a new default."""
    content = folder / "newer"
    run_tool("dpkg-deb", "-R", package, content)
    control = content / "DEBIAN/control"
    control.write_text(re.sub("(?m)^Version: .*", "Version: 99.1", control.read_text()))
    with open(content / "etc/assetd/assetd.yaml", "a", encoding="utf-8") as file:
        file.write("# a new default\n")
    run_tool("dpkg-deb", "--root-owner-group", "-b", content, folder / "newer.deb")
    shutil.rmtree(content)
    return folder / "newer.deb"


def test_installed_it_is_ready(machine):
    """The user, the credentials that sites include, and the service enabled."""
    assert re.search("^assetd:", machine.path("/etc/passwd").read_text(), re.M)
    tls = machine.path("/etc/assetd/tls")
    assert {"authorized.crt", "clients.map", "tokens.map"} <= set(os.listdir(tls))
    assert tls.joinpath("tokens.map").stat().st_mode & 0o777 == 0o600
    wants = machine.path("/etc/systemd/system/multi-user.target.wants/assetd.service")
    assert os.readlink(wants) == "/lib/systemd/system/assetd.service"
    assert os.readlink(machine.path("/etc/nginx/assetd")) == "/usr/share/assetd/nginx"
    assert not machine.path("/etc/nginx/sites-enabled").exists()


def test_an_upgrade_keeps_what_was_changed(machine, newer):
    yaml = machine.path("/etc/assetd/assetd.yaml")
    yaml.write_text("# changed\n")
    authorized = machine.path("/etc/assetd/tls/authorized.crt").read_bytes()
    machine.dpkg("-i", newer)
    assert yaml.read_text() == "# changed\n"
    assert "# a new default\n" in yaml.with_name("assetd.yaml.dpkg-dist").read_text()
    assert machine.path("/etc/assetd/tls/authorized.crt").read_bytes() == authorized


def test_an_upgrade_tells_nginx_if_it_has_a_site(machine, newer, package):
    machine.calls()
    machine.dpkg("-i", newer)
    assert [call for call in machine.calls() if "nginx" in call] == []
    machine.enable_site()
    machine.dpkg("-i", "--force-downgrade", package)
    calls = [call for call in machine.calls() if "nginx" in call]
    assert calls == ["nginx -t -q", "invoke-rc.d --quiet nginx reload"]


def test_removed_it_leaves_no_site_that_nginx_would_fail_with(machine):
    machine.enable_site()
    (machine.path("/etc/nginx/sites-enabled") / "other").touch()
    machine.calls()
    said = machine.dpkg("-r", "assetd")
    assert "/etc/nginx/sites-enabled/assetd is removed" in said
    assert os.listdir(machine.path("/etc/nginx/sites-enabled")) == ["other"]
    assert "invoke-rc.d --quiet nginx reload" in machine.calls()


def test_purged_it_leaves_nothing_if_nobody_used_it(machine):
    machine.dpkg("-r", "assetd")
    assert machine.path("/etc/assetd/assetd.yaml").exists()
    said = machine.dpkg("-P", "assetd")
    assert "is kept" not in said
    assert machine.ours() == set()


def test_purged_it_leaves_what_people_made(machine):
    key = machine.path("/etc/assetd/tls/server.key")
    key.write_text("a private key\n")
    stored = machine.path("/var/lib/assetd/main/index/format")
    stored.parent.mkdir(parents=True)
    stored.touch()
    run_tool(
        machine.path("/usr/sbin/assetctl"),
        *("token", "add", "ci", "--role", "write", "--dir", machine.path("/etc/assetd/tls")),
    )
    said = machine.dpkg("-P", "assetd")
    assert "/etc/assetd/tls is kept" in said and "/var/lib/assetd is kept" in said
    assert machine.ours() == {
        "/etc/assetd/tls/authorized.crt",
        "/etc/assetd/tls/clients.map",
        "/etc/assetd/tls/server.key",
        "/etc/assetd/tls/tokens.map",
        "/var/lib/assetd/main/index/format",
    }
