# SPDX-License-Identifier: Apache-2.0
"""nginx and gixy have nothing to say about any layout."""

import json
import pathlib
import subprocess
import sys

import pytest

from lib.server import PATIENCE
from nginx.front import ENVIRONMENT, SHIPPED, Front
from nginx.layouts import LAYOUTS


def gixy(path):
    """Its findings."""
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("gixy"), "--format", "json", path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    findings = json.loads(done.stdout)
    assert not done.stderr, done.stderr
    assert done.returncode == bool(findings)
    return findings


def test_every_site_is_in_a_layout():
    sites = {path.stem for path in (SHIPPED / "sites").iterdir()}
    assert sites == {layout.site for layout in LAYOUTS.values()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nginx_takes_it(folder, credentials, layout):
    front = Front(folder, layout, credentials)
    done = subprocess.run(
        front.command("-t", "-q"),
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr, front.log()) == (0, "", "", "")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gixy_takes_it(folder, credentials, layout):
    Front(folder, layout, credentials)
    assert gixy(folder / "nginx.conf") == []


def test_gixy_looks_into_what_is_included(folder, credentials):
    """Else its silence says nothing."""
    Front(folder, "one-port", credentials)
    errors = folder / "assetd" / "errors.conf"
    text = errors.read_text()
    errors.unlink()
    errors.write_text(text + 'location @bad {\n    add_header grpc-message "$uri";\n}\n')
    assert [found["plugin"] for found in gixy(folder / "nginx.conf")] == ["http_splitting"]
