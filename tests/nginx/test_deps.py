# SPDX-License-Identifier: Apache-2.0
"""What `make deps` says; package tools are stood in for, so that nothing is installed."""

import os
import subprocess

import pytest

from lib.server import CHECKOUT, PATIENCE

DEPS = CHECKOUT / "deploy" / "demo" / "deps.sh"


@pytest.fixture
def tools(folder):
    """A folder of commands that come before the system's."""

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    add.folder = folder
    add("apt-get", f"echo apt-get >>{folder}/called; exit 1")
    add("install", f"echo install >>{folder}/called; exit 1")
    add("sudo", "exit 1")
    add("id", "echo 1000")
    add("nginx", "echo --with-http_v2_module --with-http_ssl_module")
    return add


def run(tools, *arguments):
    return subprocess.run(
        [DEPS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "PATH": f"{tools.folder}:{os.environ['PATH']}"},
    )


def installed(tools, but=()):
    """dpkg-query as if all were installed but those packages."""
    tools(
        "dpkg-query",
        f"""shift 3
for package in "$@"; do
    case " {' '.join(but)} " in
    *" $package "*) echo "dpkg-query: no packages found matching $package" >&2 ;;
    *) echo "installed $package" ;;
    esac
done""",
    )


def test_nothing_missing_is_silent(tools):
    installed(tools)
    result = run(tools, "test", "check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tools.folder / "called").exists()


def test_without_root_the_command_is_printed(tools):
    installed(tools, but=["liblmdb-dev", "bubblewrap"])
    tools("nginx", "exit 127")
    result = run(tools, "test")
    assert result.returncode == 1
    command = "apt-get install --no-install-recommends liblmdb-dev bubblewrap nginx-light\n"
    assert command in result.stderr
    assert not (tools.folder / "called").exists()


def test_only_what_is_asked_for_is_needed(tools):
    installed(tools, but=["bubblewrap", "clang-14", "debhelper"])
    assert run(tools).returncode == 0
    assert "bubblewrap" in run(tools, "test").stderr
    assert "clang-14" in run(tools, "check").stderr
    assert "debhelper" in run(tools, "deb").stderr


def test_an_nginx_without_http2_will_not_do(tools):
    installed(tools)
    tools("nginx", "echo --with-http_ssl_module >&2")
    assert "nginx-light" in run(tools).stderr
