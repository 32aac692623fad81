# SPDX-License-Identifier: Apache-2.0
"""
Who may call what, by each layout: for every caller and class of method what the client is told, and
where the call arrives.

SOCKET:IDENTITY in a table is OK, and arrives there alone, with that identity; SOCKET: arrives with
none; a status is what the client gets for a call that arrives nowhere. Who the callers are is in
credentials.py; `others` are all that have no row.
"""

import pytest

from nginx.clients import FAMILIES
from nginx.credentials import CALLERS
from nginx.layouts import PLACES
from nginx.methods import BATCH_UPDATE, FETCH, FIND, PUSH, REFLECTION

ONE_PORT = """
    nobody                  | pull:           | UNAUTHENTICATED   | UNIMPLEMENTED
    writer                  | push:writer     | push:writer       | UNIMPLEMENTED
    ca                      | push:ca         | push:ca           | UNIMPLEMENTED
    reader                  | pull:reader     | PERMISSION_DENIED | UNIMPLEMENTED
    read-token read-basic   | pull:t-read     | PERMISSION_DENIED | UNIMPLEMENTED
    write-token write-basic | push:t-write    | push:t-write      | UNIMPLEMENTED
    capitals-token          | push:t-write    | push:t-write      | UNIMPLEMENTED
    writer+read-token       | push:writer     | push:writer       | UNIMPLEMENTED
    reader+write-token      | pull:reader     | PERMISSION_DENIED | UNIMPLEMENTED
    others                  | UNAUTHENTICATED | UNAUTHENTICATED   | UNAUTHENTICATED
"""

# No credential is looked at.
PULL = """
    others                  | pull:           | PERMISSION_DENIED | UNIMPLEMENTED
"""

# Certificates alone are.
PUSH_PORT = """
    writer                  | push:writer     | push:writer       | UNIMPLEMENTED
    writer+read-token       | push:writer     | push:writer       | UNIMPLEMENTED
    writer+never-token      | push:writer     | push:writer       | UNIMPLEMENTED
    ca                      | push:ca         | push:ca           | UNIMPLEMENTED
    reader                  | pull:reader     | PERMISSION_DENIED | UNIMPLEMENTED
    reader+write-token      | pull:reader     | PERMISSION_DENIED | UNIMPLEMENTED
    others                  | UNAUTHENTICATED | UNAUTHENTICATED   | UNAUTHENTICATED
"""


def at_cas(table):
    """The same for what has one socket for all."""
    return table.replace("pull:", "cas:").replace("push:", "cas:")


TABLES = {
    "pull": PULL,
    "push": PUSH_PORT,
    "one-port": ONE_PORT,
    "registered": ONE_PORT.replace(
        "nobody                  | pull:           | UNAUTHENTICATED   | UNIMPLEMENTED",
        "nobody                  | UNAUTHENTICATED | UNAUTHENTICATED   | UNAUTHENTICATED",
    ),
    # No certificate is looked at; the stand-in knows tokens as they are. Reads are let in as reads.
    "validator": """
    read-token read-basic   | pull:t-read     | PERMISSION_DENIED | UNIMPLEMENTED
    write-token write-basic | pull:t-write    | push:t-write      | UNIMPLEMENTED
    reader+write-token      | pull:t-write    | push:t-write      | UNIMPLEMENTED
    signed+write-token      | pull:t-write    | push:t-write      | UNIMPLEMENTED
    unknown+write-token     | pull:t-write    | push:t-write      | UNIMPLEMENTED
    writer+read-token       | pull:t-read     | PERMISSION_DENIED | UNIMPLEMENTED
    others                  | UNAUTHENTICATED | UNAUTHENTICATED   | UNIMPLEMENTED
    """,
    "index": ONE_PORT,
    "content": at_cas(ONE_PORT),
    "index-pull": PULL,
    "index-push": PUSH_PORT,
    "content-pull": at_cas(PULL),
    "content-push": at_cas(PUSH_PORT),
    "kernel": ONE_PORT.replace("pull:", "kernel-pull:").replace("push:", "kernel-push:"),
    # All credentials are those of another host.
    "tools": """
    nobody                  | tools-pull:     | UNAUTHENTICATED   | UNIMPLEMENTED
    others                  | UNAUTHENTICATED | UNAUTHENTICATED   | UNAUTHENTICATED
    """,
    "several": ONE_PORT,
}


def rows(table):
    """The cells of each caller."""
    found = {}
    for line in table.strip().splitlines():
        callers, *row = (cell.strip() for cell in line.split("|"))
        found.update(dict.fromkeys(callers.split(), row))
    others = found.pop("others")
    assert set(found) < set(CALLERS), f"unknown callers in {set(found)}"
    return {caller: found.get(caller, others) for caller in CALLERS}


CELLS = [
    pytest.param(place, caller, row, id=f"{place}-{caller}")
    for place in PLACES
    for caller, row in rows(TABLES[place]).items()
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place, caller, row", CELLS)
def test_row(fronts, place, caller, row, family):
    front = fronts(place)
    target, metadata = front.target(place, caller), front.caller(caller).metadata
    found = []
    for method in PLACES[place].methods:
        [(code, _)] = FAMILIES[family](target, [method], metadata)
        arrived = [
            f"{socket}:{','.join(call.values('x-client-identity'))}"
            for socket, call in front.take()
        ]
        found.append(" ".join(arrived if code == "OK" else [code, *arrived]))
    assert found == row


# What a refused user reads says what to do.
MESSAGES = [
    ("pull", "nobody", PUSH, "push to the push port, with a client certificate"),
    ("push", "nobody", FETCH, "client-cert"),
    ("push", "reader", PUSH, "may read, but not write"),
    ("one-port", "nobody", PUSH, "none was sent"),
    ("one-port", "reader", PUSH, "may read, but not write"),
    ("one-port", "expired", FETCH, "has expired"),
    ("one-port", "unknown", FETCH, "assetctl"),
    ("one-port", "signed", FETCH, "assetctl"),
    ("one-port", "never-token", FETCH, "assetctl"),
    ("one-port", "writer", REFLECTION, "unknown method"),
    ("registered", "nobody", FETCH, "none was sent"),
    ("validator", "nobody", FETCH, "validator"),
    ("validator", "read-token", PUSH, "validator"),
    ("content-pull", "nobody", BATCH_UPDATE, "push to the push port, with a client certificate"),
    ("content-push", "nobody", FIND, "client-cert"),
    ("content-push", "reader", BATCH_UPDATE, "may read, but not write"),
    ("kernel", "never-token", FETCH, "assetctl"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place, caller, method, message", MESSAGES)
def test_message(fronts, place, caller, method, message, family):
    front = fronts(place)
    metadata = front.caller(caller).metadata
    [(code, found)] = FAMILIES[family](front.target(place, caller), [method], metadata)
    assert code != "OK"
    assert message in found
