# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests: the whole site, and users of BuildStream."""

import shutil

import pytest

from lib.bst import Bst
from lib.folders import new_folder
from lib.project import make_project
from lib.site import Proxy, Site


@pytest.fixture(scope="session")
def site(request):
    """assetd behind nginx, from `make up`; shared, so tests keep to content of their own."""
    folder = new_folder()
    site = Site(folder)
    sources = request.session.log_sources = getattr(request.session, "log_sources", [])
    sources.append(site)
    try:
        yield site.start()
        site.finish()
    finally:
        site.abandon()
        shutil.rmtree(folder)


@pytest.fixture
def proxied(assetd, folder, site, request):
    """Starts a server of some instances, and an nginx like the site's before it."""
    proxies = []

    def start(*instances):
        # nginx's workers are not of our user if we are root.
        shared = {"socket-mode": "0666", "identity": "x-client-identity"}
        server = assetd(
            listeners=[
                {"address": f"unix:{folder}/s0/pull.sock", "access": "read", **shared},
                {"address": f"unix:{folder}/s0/push.sock", "access": "write", **shared},
            ],
            instances=list(instances),
        )
        proxies.append(Proxy(folder, site, server))
        request.session.log_sources = [*request.session.log_sources, *proxies]
        return proxies[0].start()

    yield start
    for proxy in proxies:
        proxy.stop()
    request.session.log_sources = [s for s in request.session.log_sources if s not in proxies]


@pytest.fixture
def project(folder, request):
    """The project, under a name that no other test has."""
    return make_project(folder / "project", request.node.name.replace("_", "-"))


@pytest.fixture
def bst(folder, project, request):
    """Makes users of BuildStream with that project: bst(caches, source_caches)."""
    users = []

    def make(*caches, source_caches=None, of=project):
        user = Bst(folder / f"user{len(users)}", of, caches, source_caches)
        users.append(user)
        request.session.log_sources = [*getattr(request.session, "log_sources", []), user]
        return user

    yield make
    for user in users:
        user.end_daemons()
    request.session.log_sources = [s for s in request.session.log_sources if s not in users]
