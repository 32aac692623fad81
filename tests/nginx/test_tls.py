# SPDX-License-Identifier: Apache-2.0
"""What nginx takes in the handshake."""

import socket
import ssl

import pytest

from lib.server import PATIENCE
from nginx.layouts import PLACES


def handshake(target, host=None, version=None):
    context = target.context()
    if version is not None:
        context.minimum_version = context.maximum_version = version
        # Else this side would refuse the old ones itself.
        context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=host or target.host) as tls,
    ):
        return tls.version(), tls.selected_alpn_protocol()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("place", PLACES)
def test_new_versions_of_tls_alone_are_taken(fronts, place):
    target = fronts(place).target(place)
    assert handshake(target, version=ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "h2")
    assert handshake(target, version=ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", "h2")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            handshake(target, version=version)


def test_other_names_are_refused_where_there_are_several(fronts):
    target = fronts("kernel").target("kernel")
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        handshake(target, "other.example.com")
