# SPDX-License-Identifier: Apache-2.0
"""What clients can make the server hold in memory."""

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from lib.server import PATIENCE

MIB = 1 << 20
FETCH = "/build.bazel.remote.asset.v1.Fetch/FetchBlob"
STREAMS = 80
UNFINISHED = 15 * MIB  # of a message that is said to have 16 MiB


class Flood:
    """Calls on one connection, each with a message that never ends."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.state.initiate_connection()
        self.left = {}

    def open(self):
        stream = self.state.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", FETCH), (":authority", "x")]
        usual = [("te", "trailers"), ("content-type", "application/grpc")]
        self.state.send_headers(stream, pseudo + usual)
        self.state.send_data(stream, b"\0" + struct.pack(">I", 16 * MIB))
        self.left[stream] = UNFINISHED

    def send(self):
        """What the windows allow."""
        for stream in list(self.left):
            size = min(self.left[stream], self.state.local_flow_control_window(stream), 16384)
            if size > 0:
                self.state.send_data(stream, bytes(size))
                self.left[stream] -= size
        self.socket.settimeout(PATIENCE)
        self.socket.sendall(self.state.data_to_send())

    def receive(self):
        """False when the server has ended the connection."""
        self.socket.settimeout(0.01)
        try:
            received = self.socket.recv(MIB)
        except TimeoutError:
            return True
        for event in self.state.receive_data(received):
            if isinstance(event, h2.events.StreamReset):
                self.left.pop(event.stream_id, None)
            elif isinstance(event, h2.events.ConnectionTerminated):
                return False
        return received != b""

    def run(self):
        """Until all is sent, or the server has had enough."""
        try:
            for _ in range(STREAMS):
                self.open()
            while any(self.left.values()) and self.receive():
                self.send()
        except (OSError, h2.exceptions.ProtocolError):
            pass  # it went while we were sending

    def close(self):
        self.socket.close()


def most_memory(pid):
    """The most bytes that the process has had in memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def test_messages_that_never_end_fill_no_memory(server):
    """The core has a message whole before it looks at its size: its quota is what bounds them."""
    flood = Flood(server.pull.removeprefix("unix:"))
    flood.run()
    held = most_memory(server.process.pid)
    flood.close()
    assert held < 800 * MIB, f"{held / MIB:.0f} MiB"
    assert held > 100 * MIB, "nothing was sent"
    server.client(server.pull).health()
    server.client().upload(b"afterwards")
