# SPDX-License-Identifier: Apache-2.0
"""What stands in for assetd, an external CAS and a validator, and records what reaches it."""

import concurrent.futures
import contextlib
import http.server
import pathlib
import socket
import ssl
import threading

import grpc
import h2.config
import h2.connection
import h2.events


class Call:
    """What the stand-in was asked."""

    def __init__(self, method, authority, metadata, received):
        self.method = method
        self.authority = authority
        self.metadata = metadata
        self.received = received

    def values(self, key):
        return [value for name, value in self.metadata if name == key]


class Backend(grpc.GenericRpcHandler):
    """
    Answers every method on a unix socket with one empty message, and keeps what was asked. TLS: the
    folder of a server.crt and server.key, if it is to speak that.
    """

    def __init__(self, path):
        self.path = path
        self.tls = None
        self.calls = []
        self.lock = threading.Lock()
        self.server = None

    def start(self):
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(16),
            handlers=[self],
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 1 << 16)],
        )
        if self.tls is None:
            assert self.server.add_insecure_port(f"unix:{self.path}")
        else:
            pair = [(self.tls / f"server.{kind}").read_bytes() for kind in ("key", "crt")]
            credentials = grpc.ssl_server_credentials([pair])
            assert self.server.add_secure_port(f"unix:{self.path}", credentials)
        self.server.start()
        return self

    def stop(self):
        if self.server is not None:
            self.server.stop(None).wait()
            self.server = None

    def service(self, details):
        def answer(requests, context):
            received = sum(len(request) for request in requests)
            # grpcio tells :authority nowhere else.
            authority = context._rpc_event.call_details.host.decode()
            with self.lock:
                self.calls.append(
                    Call(details.method, authority, details.invocation_metadata, received)
                )
            yield b""

        return grpc.stream_stream_rpc_method_handler(answer)

    def take(self):
        """The calls since the last time."""
        with self.lock:
            calls, self.calls = self.calls, []
        return calls


class DyingBackend:
    """
    Takes the place of a backend that is stopped: each connection is closed as soon as a call
    arrives, or, with HEADERS, after those and one message of the answer.
    """

    cue = h2.events.RequestReceived

    def __init__(self, path, headers=()):
        self.headers = headers
        self.calls = 0
        pathlib.Path(path).unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self._talk(connection)

    def _talk(self, connection):
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        connection.sendall(state.data_to_send())
        while received := connection.recv(65536):
            for event in state.receive_data(received):
                if isinstance(event, self.cue):
                    self.calls += 1
                    if not self._answer(connection, state, event.stream_id):
                        return
            connection.sendall(state.data_to_send())

    def _answer(self, connection, state, stream):
        """Whether the connection stays."""
        if self.headers:
            state.send_headers(stream, self.headers)
            state.send_data(stream, bytes(5))
            connection.sendall(state.data_to_send())
            # Else what was sent might be lost on its way.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        return False

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


class CountingBackend(DyingBackend):
    """
    Lives instead, and counts the connections; it serves one, until nginx closes it. It answers when
    the call was received: nginx does not keep a connection on which the answer came first.
    """

    cue = h2.events.StreamEnded

    def __init__(self, path):
        self.connections = 0
        super().__init__(path)

    def _talk(self, connection):
        self.connections += 1
        super()._talk(connection)

    def _answer(self, connection, state, stream):
        headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]
        state.send_headers(stream, headers, end_stream=True)
        return True


class Validator:
    """
    Decides about calls for auth_request: `answer` is (status, headers), or a function of the
    headers that it is asked with. It keeps those of every question. TLS as above.
    """

    def __init__(self, port, answer):
        self.port = port
        self.answer = answer
        self.asked = []
        self.tls = None
        self.server = None
        self.thread = None

    def start(self):
        validator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                validator.asked.append(list(self.headers.items()))
                answer = validator.answer
                status, headers = answer(self.headers) if callable(answer) else answer
                # nginx may have gone away meanwhile.
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        if self.tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.tls / "server.crt", self.tls / "server.key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    @contextlib.contextmanager
    def answering(self, answer):
        before, self.answer = self.answer, answer
        try:
            yield
        finally:
            self.answer = before
