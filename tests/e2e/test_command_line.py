# SPDX-License-Identifier: Apache-2.0
"""The command line as YAML, and at machines without IPv6."""

import re
import subprocess
import sys

import pytest
import yaml

from lib import no_ipv6
from lib.client import fails
from lib.ports import free_port
from lib.server import ASSETD, PATIENCE, StartError, run_assetd

# Names of folders that a careless file would say something else with.
FOLDERS = ("repo", "a: b #c", "'\"\\", "x -", "ünï 😀", "~", "%s{}[],&*!|>@`")


def printed(folder, *arguments):
    done = run_assetd(*arguments, "--print-config", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --print-config


@pytest.mark.parametrize("name", FOLDERS)
def test_a_command_line_as_a_file(assetd, folder, name):
    """What is printed serves the same storage at the same port, wherever it is started."""
    port = free_port()
    arguments = ["--port", port, "--bind", "127.0.0.1", "--enable-push", "--quota", 5_000_000, name]
    text = printed(folder, *arguments)
    config = yaml.safe_load(text)  # by another reader
    assert config == {
        "listeners": [{"address": f"127.0.0.1:{port}", "access": "write"}],
        "instances": [{"name": "", "storage": f"{folder}/{name}", "quota": "5MB"}],
        "log": {"level": "warning"},
    }
    path = folder / "printed.yaml"
    path.write_text(text)
    assert run_assetd("--config", path, "--check").returncode == 0

    storage = folder / name
    first = assetd([*arguments[:-1], storage], f"127.0.0.1:{port}")
    digest = first.client().upload(b"x")
    first.client().push_blob("urn:a", digest)
    first.stop()
    second = assetd(["--config", path], f"127.0.0.1:{port}")
    assert second.client().fetch_blob("urn:a").blob_digest == digest
    with fails("RESOURCE_EXHAUSTED"):
        second.client().write(b"x" * 6_000_000)


def test_tls_of_a_command_line_as_a_file(folder):
    for name in ("server.key", "server.crt", "authorized.crt"):
        (folder / name).touch()
    text = printed(
        folder,
        *("--port", 11002, "--server-key", "server.key", "--server-cert", "./server.crt"),
        *("--client-certs", folder / "authorized.crt", "--enable-push", "--index-only", "."),
    )
    assert yaml.safe_load(text) == {
        "listeners": [
            {
                "address": "[::]:11002",
                "access": "write",
                "tls": {
                    "certificate": f"{folder}/server.crt",
                    "key": f"{folder}/server.key",
                    "client-ca": f"{folder}/authorized.crt",
                    "client": "require",
                },
            }
        ],
        "instances": [{"name": "", "storage": str(folder), "index-only": True}],
        "log": {"level": "warning"},
    }
    # It says what it is for, and how it is used.
    assert re.match(r"# .*`assetd --config FILE`", text)


def test_a_file_as_a_file(folder):
    text = printed(folder, "--port", 11001, "repo")
    path = folder / "assetd.yaml"
    path.write_text(text)
    assert printed(folder, "--config", path) == text


def test_nothing_is_printed_of_a_faulty_file(folder):
    path = folder / "assetd.yaml"
    path.write_text("listeners: []\n")
    done = run_assetd("--config", path, "--print-config")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{path}:1:12: listeners: is empty" in done.stderr


def test_a_disk_that_is_full_is_told(folder):
    """Half a file is not taken for a whole one."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [ASSETD, "--port", "11001", "--print-config", "repo"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "print the configuration: No space left on device" in done.stderr


# Paths


def test_what_is_wrong_is_told_by_its_whole_path(folder):
    """Whoever reads the journal of a unit does not know where it was started."""
    pair = ("--server-key", "server.key", "--server-cert", "./server.crt")
    done = run_assetd("--port", free_port(), *pair, "repo", cwd=folder)
    assert done.returncode == 1
    assert re.search(rf" {folder}/server\.(key|crt): No such file", done.stderr)
    (folder / "file").touch()
    done = run_assetd("--port", free_port(), "file", cwd=folder)
    assert done.returncode == 1
    assert f" {folder}/file" in done.stderr


# Without IPv6

WITHOUT_IPV6 = (sys.executable, no_ipv6.__file__)


def test_all_addresses_are_those_there_are(assetd, folder):
    port = free_port()
    metrics = free_port()
    server = assetd(
        prefix=WITHOUT_IPV6,
        listeners=[{"address": f"[::]:{port}", "access": "write"}],
        metrics={"address": f"[::]:{metrics}"},
        start=False,
    )
    server.address = f"127.0.0.1:{port}"
    server.start()
    server.client().upload(b"x")

    second = assetd(["--port", port, folder / "other"], start=False, prefix=WITHOUT_IPV6)
    second.expects_errors = True
    with pytest.raises(StartError) as info:
        second.start(wait=False)
        second.process.wait(PATIENCE)
        second.wait_ready()
    assert re.search(rf":{port}: process {server.process.pid} \(assetd\)", info.value.log)


def test_the_old_command_line_without_ipv6(assetd, folder):
    port = free_port()
    server = assetd(
        ["--port", port, "--enable-push", folder / "repo"],
        f"127.0.0.1:{port}",
        prefix=WITHOUT_IPV6,
    )
    server.client().upload(b"x")
