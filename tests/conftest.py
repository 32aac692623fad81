# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests: folders, servers, and the logs of those that a failed test used."""

import shutil
import subprocess

import pytest

from lib.folders import new_folder
from lib.server import Server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test's report ends with the logs of what it ran."""
    report = yield
    if report.failed:
        for source in getattr(item.session, "log_sources", []):
            report.sections.append((source.log_title, source.log()[-20000:]))
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


class Servers:
    """The servers of one test or module, by number."""

    def __init__(self, folder, session):
        self.folder = folder
        self.session = session
        self.all = []

    def __call__(self, *args, start=True, **config):
        """A server of the configuration that Server takes, started."""
        server = Server(self.folder / f"s{len(self.all)}", *args, **config)
        self.watch(server, f"log of assetd {len(self.all)}")
        self.all.append(server)
        return server.start() if start else server

    def watch(self, source, title):
        source.log_title = title
        self.session.log_sources = [*getattr(self.session, "log_sources", []), source]

    def finish(self):
        failures = []
        for server in self.all:
            try:
                server.finish()
            except (AssertionError, subprocess.TimeoutExpired) as failure:
                failures.append(f"{server.log_title}: {failure}")
        sources = getattr(self.session, "log_sources", [])
        self.session.log_sources = [s for s in sources if s not in self.all]
        assert not failures, "\n".join(failures)


@pytest.fixture
def assetd(folder, request):
    """Starts servers for one test; they are stopped, and their logs checked, after it."""
    servers = Servers(folder, request.session)
    yield servers
    servers.finish()


@pytest.fixture(scope="module")
def module_assetd(module_folder, request):
    """The same for servers that all tests of a module share."""
    servers = Servers(module_folder, request.session)
    yield servers
    servers.finish()


@pytest.fixture
def server(assetd):
    """One server of the default configuration."""
    return assetd()


@pytest.fixture
def client(server):
    """A client of that server's write socket."""
    return server.client()
