# SPDX-License-Identifier: Apache-2.0
"""A way to a server that can go bad: connections of which nothing arrives any more."""

import contextlib
import socket
import threading


class Forwarder:
    """Forwards connections to its ADDRESS, HOST:PORT, to that of TARGET."""

    def __init__(self, target, port):
        host, _, target_port = target.rpartition(":")
        self.target = (host, int(target_port))
        self.address = f"127.0.0.1:{port}"
        self.lost = set()
        self.sockets = []
        self.listening = socket.create_server(("127.0.0.1", port))
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                self.threads.append(threading.Thread(target=self._pump, args=(one, other)))
                self.threads[-1].start()

    def _pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if one not in self.lost:
                    other.sendall(data)
            if one not in self.lost:
                other.shutdown(socket.SHUT_WR)

    def lose_connections(self):
        """Those of now stay open, but nothing goes over them, not even an end."""
        self.lost.update(self.sockets)

    def stop(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.threads.pop(0).join()
        self.listening.close()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for one in self.sockets:
            one.close()
