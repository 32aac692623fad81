# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests: the whole site, and users of BuildStream."""

import contextlib
import itertools
import re
import shutil

import pytest

from lib import logs
from lib.bst import Bst
from lib.external_cas import ExternalCas, index_only
from lib.folders import new_folder
from lib.project import make_project
from lib.site import Proxy, Site


@contextlib.contextmanager
def site_below(folder, session):
    site = Site(folder)
    with logs.shown(session, site):
        try:
            yield site.start()
            site.finish()
        finally:
            site.abandon()


@pytest.fixture(scope="session")
def site(request):
    """assetd behind nginx, from `make up`; shared, so tests keep to content of their own."""
    folder = new_folder()
    try:
        with site_below(folder, request.session) as site:
            yield site
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def own_site(folder, request):
    """The same for a test that stops it."""
    with site_below(folder, request.session) as site:
        yield site


@pytest.fixture
def proxied(assetd, folder, site, request):
    """Starts a server of some instances, and an nginx like the site's before it."""
    with contextlib.ExitStack() as stack:

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
            proxy = stack.enter_context(
                logs.shown(request.session, Proxy(folder, site, server))
            )
            stack.callback(proxy.stop)
            return proxy.start()

        yield start


@pytest.fixture
def project(folder, request):
    """The project, under a name that no other test has."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return make_project(folder / "project", name)


@pytest.fixture
def bst(folder, project, request):
    """Makes users of BuildStream with that project: bst(*caches, source_caches=...)."""
    with contextlib.ExitStack() as stack:
        users = []

        def make(*caches, source_caches=None, of=project):
            user = Bst(folder / f"user{len(users)}", of, caches, source_caches)
            users.append(stack.enter_context(logs.shown(request.session, user)))
            stack.callback(user.end_daemons)
            return user

        yield make


@pytest.fixture
def external_cas(folder):
    """Starts CAS of the tests' own, on unix sockets unless an address is given."""
    with contextlib.ExitStack() as stack:
        count = itertools.count()

        def start(address=None, **options):
            address = address or f"unix:{folder}/cas{next(count)}.sock"
            cas = ExternalCas(address, **options).start()
            stack.callback(cas.finish)
            return cas

        yield start


@pytest.fixture
def cas(external_cas):
    return external_cas()


@pytest.fixture
def paired(external_cas, assetd, folder):
    """
    Starts a server with one instance that is paired with a CAS: paired(cas, connections=4). CONFIG
    has other keys of the configuration. Unless told else it trusts nothing.
    """

    def start(cas, config=(), **keys):
        return assetd(instances=[index_only(folder, cas=cas, **keys)], **dict(config))

    return start
