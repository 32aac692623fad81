# SPDX-License-Identifier: Apache-2.0
"""The ports that tests get."""

import subprocess
import sys

from lib.ports import free_port
from lib.server import CHECKOUT

MANY = 200  # of 16000: given at random only, two of them would be the same nearly always


def test_a_port_is_given_once():
    ports = [free_port() for _ in range(MANY)]
    assert len(set(ports)) == MANY


def test_a_port_is_given_to_one_of_two_processes():
    program = f"from lib.ports import free_port; print([free_port() for _ in range({MANY})])"
    ports = {free_port() for _ in range(MANY)}
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT / "tests",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    theirs = {int(port) for port in other.stdout.strip("[]\n").split(",")}
    assert len(theirs) == MANY
    assert not ports & theirs
