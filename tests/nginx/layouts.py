# SPDX-License-Identifier: Apache-2.0
"""The layouts that nginx is run with, and the places in them that clients connect to."""

from typing import NamedTuple

from nginx import methods


class Layout(NamedTuple):
    """
    SITE of deploy/nginx/sites with SETTINGS in place of what is shipped, and INCLUDED files with
    other values. Sockets that are ALIKE, so that it is not said which of them gets a call, by the
    name that the tests have for them.
    """

    site: str
    settings: dict = {}
    included: dict = {}
    alike: dict = {}


class Place(NamedTuple):
    """
    A port, as shipped, and the host name that it is called by. A READER may read there, a WRITER
    write as well. METHODS: one of each class, read, write and unknown.
    """

    layout: str
    port: int = 11001
    host: str = "localhost"
    reader: str = "nobody"
    writer: str = "writer"
    methods: tuple = (methods.FETCH, methods.PUSH, methods.REFLECTION)


REGISTERED = {"set $assetd_readers anyone;": "set $assetd_readers registered;"}
LIMITED = {"    # include assetd/rates.conf;": "    include assetd/rates.conf;", "1000r/s": "1r/s"}
FEW = {"rates.conf": {"assetd_in_flight 1000;": "assetd_in_flight 8;"}}
CAS_BY_TLS = {"ok grpc://": "ok grpcs://", "    # grpc_ssl_": "    grpc_ssl_"}
VALIDATOR_BY_TLS = {
    "set $assetd_validator http://": "set $assetd_validator https://",
    "    #   proxy_ssl_": "    proxy_ssl_",
}
NAMES = ("one", "two", "three")

LAYOUTS = {
    "two-ports": Layout("two-ports"),
    "one-port": Layout("one-port"),
    "registered": Layout("one-port", REGISTERED),
    "validator": Layout("validator"),
    "validator-tls": Layout("validator", VALIDATOR_BY_TLS),
    "pairing": Layout("pairing"),
    "pairing-tls": Layout("pairing", CAS_BY_TLS),
    "pairing-two-ports": Layout("pairing-two-ports"),
    "pairing-two-ports-tls": Layout("pairing-two-ports", CAS_BY_TLS),
    "server-names": Layout("server-names"),
    "limited": Layout("one-port", LIMITED),
    "few-calls": Layout("one-port", LIMITED, FEW),
    "several": Layout(
        "several", alike={f"{name}-{port}": port for name in NAMES for port in ("pull", "push")}
    ),
}

CONTENT = (methods.FIND, methods.BATCH_UPDATE, methods.EXECUTE)
PLACES = {
    "pull": Place("two-ports", 11001, writer=None),
    "push": Place("two-ports", 11002, reader="reader"),
    "one-port": Place("one-port"),
    "registered": Place("registered", reader="read-token", writer="write-token"),
    "validator": Place("validator", reader="read-token", writer="write-token"),
    "index": Place("pairing"),
    "content": Place("pairing", methods=CONTENT),
    "index-pull": Place("pairing-two-ports", 11001, writer=None),
    "index-push": Place("pairing-two-ports", 11002, reader="reader"),
    "content-pull": Place("pairing-two-ports", 11001, writer=None, methods=CONTENT),
    "content-push": Place("pairing-two-ports", 11002, reader="reader", methods=CONTENT),
    "kernel": Place("server-names", host="kernel.example.com"),
    # With credentials of its own, which no caller has.
    "tools": Place("server-names", host="tools.example.com", writer=None),
    "several": Place("several"),
}
# Where not everything is tried that is tried in the others.
OTHER_PLACES = {
    **{name: Place(name) for name in ("limited", "few-calls", "validator-tls", "pairing-tls")},
    "pull-tls": Place("pairing-two-ports-tls", 11001),
    "push-tls": Place("pairing-two-ports-tls", 11002),
}



def place_of(name):
    return PLACES.get(name) or OTHER_PLACES[name]
