# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests: the whole site, and users of BuildStream."""

import shutil

import pytest

from lib.bst import Bst
from lib.folders import new_folder
from lib.project import make_project
from lib.site import Site


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
