# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of nginx's files."""

import contextlib

import pytest

from nginx.credentials import made_credentials
from nginx.front import running_front
from nginx.layouts import place_of
from nginx.served import Served, listeners


@pytest.fixture(scope="session")
def credentials():
    """Those of all fronts that are shared; not to be changed."""
    with made_credentials() as credentials:
        yield credentials


@pytest.fixture(scope="session")
def shared_fronts(request, credentials):
    """nginx with each layout, started when it is first asked for."""
    fronts = {}
    with contextlib.ExitStack() as stack:

        def get(layout):
            if layout not in fronts:
                running = running_front(request.session, layout, credentials)
                fronts[layout] = stack.enter_context(running)
            return fronts[layout]

        yield get


@pytest.fixture
def fronts(shared_fronts):
    """The same; the stand-ins have seen nothing yet."""

    def get(place):
        front = shared_fronts(place_of(place).layout)
        front.take()
        return front

    return get


@pytest.fixture
def own_front(request):
    """Starts nginx with a layout for one test that changes it, with credentials of its own."""
    with contextlib.ExitStack() as stack:

        def start(place, **options):
            credentials = stack.enter_context(made_credentials())
            layout = place_of(place).layout
            return stack.enter_context(
                running_front(request.session, layout, credentials, **options)
            )

        yield start


@pytest.fixture
def served(assetd, own_front):
    """Starts assetd, and nginx with a layout before it."""
    started = []

    def start(place, **instance):
        server = assetd(start=False)
        instances = [{"name": "", "storage": str(server.storage), **instance}]
        server.configure(listeners=listeners(server.folder), instances=instances)
        server.start()
        started.append(Served(own_front(place, run=server.folder)))
        return started[-1]

    yield start
    for each in started:
        each.close()
