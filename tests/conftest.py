# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests: folders and servers."""

import contextlib
import shutil
import signal
import subprocess

import pytest

from lib import logs
from lib.folders import new_folder
from lib.server import Server

# Started in the background by a shell, we and so all that the tests start would ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.sections.extend(logs.sections(item.session))
    return report



@pytest.fixture
def folder():
    """An empty folder that is gone after the test."""
    folder = new_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def module_folder():
    folder = new_folder()
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def servers_below(folder, session):
    """
    A function that starts servers, of the configurations that Server takes. Afterwards they are
    stopped and their logs are checked.
    """
    servers = []
    failures = []
    with contextlib.ExitStack() as stack:

        def make(*args, start=True, **config):
            server = Server(folder / f"s{len(servers)}", *args, **config)
            server.log_title = f"log of assetd {len(servers)}"
            servers.append(stack.enter_context(logs.shown(session, server)))
            return server.start() if start else server

        yield make
        for server in servers:
            try:
                server.finish()
            except (AssertionError, subprocess.TimeoutExpired) as failure:
                failures.append(f"{server.log_title}: {failure}")
        assert not failures, "\n".join(failures)


@pytest.fixture
def assetd(folder, request):
    """Starts servers for one test."""
    with servers_below(folder, request.session) as make:
        yield make


@pytest.fixture(scope="module")
def module_assetd(module_folder, request):
    """Starts servers that all tests of a module share."""
    with servers_below(module_folder, request.session) as make:
        yield make


@pytest.fixture
def server(assetd):
    """One server of the default configuration."""
    return assetd()


@pytest.fixture
def client(server):
    """A client of that server's write socket."""
    return server.client()
