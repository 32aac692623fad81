# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of nginx's files."""

import contextlib
import shutil

import pytest

from lib import logs
from lib.folders import new_folder
from nginx.front import Front, make_credentials


@contextlib.contextmanager
def running_front(session):
    folder = new_folder()
    front = Front(folder)
    try:
        with logs.shown(session, front):
            make_credentials(front.tls)
            front.configure()
            yield front.start()
    finally:
        front.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_front(request):
    with running_front(request.session) as front:
        yield front


@pytest.fixture
def own_front(request):
    """nginx for one test that changes it."""
    with running_front(request.session) as front:
        yield front


@pytest.fixture
def front(shared_front):
    """nginx with both stand-ins, which have seen nothing yet."""
    shared_front.read.take()
    shared_front.write.take()
    return shared_front
