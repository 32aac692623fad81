# SPDX-License-Identifier: Apache-2.0
"""Clients of nginx: two families of gRPC, and HTTP/2 frame by frame for what those do not send."""

import asyncio
import contextlib
import socket
import ssl
from typing import NamedTuple

import grpc
import grpclib.client
import grpclib.config
import grpclib.const
import grpclib.encoding.base
import grpclib.exceptions
import h2.config
import h2.connection
import h2.events
import h2.exceptions

from lib.server import PATIENCE


class Target(NamedTuple):
    """A port, the host name that it is called by, and the TLS files of who calls."""

    port: int
    host: str
    root: object
    key: object = None
    certificate: object = None

    def context(self):
        context = ssl.create_default_context(cafile=self.root)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["h2"])
        return context

    def connect(self, context, session=None, source="127.0.0.1"):
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return context.wrap_socket(plain, server_hostname=self.host, session=session)
        except BaseException:
            plain.close()
            raise


# --- grpcio --------------------------------------------------------------------------------------


def channel(target):
    """A connection of its own."""
    files = (target.root, target.key, target.certificate)
    credentials = grpc.ssl_channel_credentials(*(file and file.read_bytes() for file in files))
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_metadata_size", 1 << 16),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.ssl_target_name_override", target.host),
        ("grpc.default_authority", f"{target.host}:{target.port}"),
    ]
    return grpc.secure_channel(f"127.0.0.1:{target.port}", credentials, options)


def call(channel, method, metadata=(), messages=(b"",)):
    """One call; returns its status and message."""
    try:
        list(channel.stream_stream(method)(iter(messages), metadata=metadata, timeout=PATIENCE))
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def grpcio_calls(target, methods, metadata=()):
    """The methods one after the other, over one connection; returns status and message of each."""
    with channel(target) as connection:
        return [call(connection, method, metadata) for method in methods]


# --- grpclib -------------------------------------------------------------------------------------


class Bytes(grpclib.encoding.base.CodecBase):
    """Messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


def grpclib_calls(target, methods, metadata=()):
    """The same; this one knows no status but from grpc-status, in HTTP 200 of its content type."""
    return asyncio.run(_grpclib_calls(target, methods, metadata))


async def _grpclib_calls(target, methods, metadata):
    connection = grpclib.client.Channel(
        "127.0.0.1",
        target.port,
        codec=Bytes(),
        ssl=target.context(),
        config=grpclib.config.Configuration(ssl_target_name_override=target.host),
    )
    # It has no setting for this.
    connection._authority = f"{target.host}:{target.port}"
    try:
        return [await _grpclib_call(connection, method, metadata) for method in methods]
    finally:
        connection.close()


async def _grpclib_call(connection, method, metadata):
    cardinality = grpclib.const.Cardinality.UNARY_UNARY
    request = connection.request(
        method, cardinality, bytes, bytes, timeout=PATIENCE, metadata=list(metadata)
    )
    try:
        async with request as stream:
            await stream.send_message(b"", end=True)
            await stream.recv_message()
    except grpclib.exceptions.GRPCError as error:
        return error.status.name, error.message
    return "OK", ""


FAMILIES = {"grpcio": grpcio_calls, "grpclib": grpclib_calls}


# --- HTTP/2, frame by frame ----------------------------------------------------------------------


class Http2:
    """
    A connection that sends what it is told, however odd. Use it as a block. RESUMED: another one,
    now closed, whose TLS session it takes up. SOURCE: its own address.
    """

    def __init__(self, target, resumed=None, source="127.0.0.1"):
        self.target = target
        self.source = source
        self.context = resumed.context if resumed else target.context()
        self.session = resumed.session if resumed else None
        self.socket = None
        self.state = None

    def __enter__(self):
        self._connect()
        return self

    def __exit__(self, *_):
        self.session = self.socket.session
        self.socket.close()

    def _connect(self):
        self.socket = self.target.connect(self.context, self.session, self.source)
        self.state = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.state.initiate_connection()
        self._flush()

    def _flush(self):
        self.socket.sendall(self.state.data_to_send())

    def call(self, path, headers=(), authority=None):
        """
        One call with an empty message; returns grpc-status, else HTTP's status, else how the stream
        or the connection ended.
        """
        stream = self.open(path, headers, authority)
        self.state.send_data(stream, bytes(5), end_stream=True)
        self._flush()
        return self._answer(stream)

    def open(self, path, headers=(), authority=None):
        """Begins a call, which stays without a message; returns its number."""
        if authority is None:
            authority = f"{self.target.host}:{self.target.port}"
        pseudo = {":method": "POST", ":scheme": "https", ":path": path, ":authority": authority}
        usual = [("te", "trailers"), ("content-type", "application/grpc")]
        stream = self.state.get_next_available_stream_id()
        self.state.send_headers(stream, [*pseudo.items(), *usual, *headers])
        self._flush()
        return stream

    def _answer(self, stream):
        answer = {}
        while True:
            received = self._receive()
            if received is None:
                self.socket.close()
                self._connect()
                return answer.get("grpc-status", "closed")
            for event in received:
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    answer.update(event.headers)
                elif isinstance(event, h2.events.StreamReset):
                    return "reset"
                elif isinstance(event, h2.events.StreamEnded):
                    return answer.get("grpc-status", answer[":status"])

    def _receive(self):
        """The next events; None at the connection's end."""
        try:
            received = self.socket.recv(65536)
        except ConnectionError:
            return None
        if not received:
            return None
        events = self.state.receive_data(received)
        if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
            return None
        with contextlib.suppress(ConnectionError):
            self._flush()
        return events


def http1_call(target, request_line, headers=()):
    """One call over HTTP/1.1; returns grpc-status, else HTTP's status."""
    context = target.context()
    context.set_alpn_protocols(["http/1.1"])
    lines = [
        f"{request_line} HTTP/1.1",
        f"Host: {target.host}",
        "Content-Type: application/grpc",
        "TE: trailers",
        "Content-Length: 5",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    with (
        socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=target.host) as tls,
    ):
        tls.sendall("\r\n".join([*lines, "", ""]).encode() + bytes(5))
        answer = b""
        while received := tls.recv(65536):
            answer += received
    head = answer.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:])
    return fields.get("grpc-status", head[0].split()[1])
