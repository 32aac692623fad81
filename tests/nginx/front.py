# SPDX-License-Identifier: Apache-2.0
"""nginx with the shipped files, in front of stand-ins that record what reaches which socket."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import threading

import grpc

from lib.ports import free_port
from lib.server import CHECKOUT, PATIENCE, wait_until
from nginx.certificates import make_pair

SHIPPED = CHECKOUT / "deploy" / "nginx"
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}

# The main file as Debian ships it, as far as it could get in the way: its http context has settings
# for web sites, and another site beside ours.
MAIN = """
daemon off;
{user}
worker_processes 2;
pid nginx.pid;
error_log error.log notice;
events {{
    worker_connections 768;
}}
http {{
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log access.log;
    gzip on;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{other_port};
        return 404 "another site";
    }}
    include site.conf;
}}
"""


def authorize(*arguments):
    """Runs the operator's script."""
    return subprocess.run(
        [SHIPPED / "authorize", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def make_credentials(tls):
    """
    The demo's pairs, and clients that are registered (alice, as the usual openssl command makes
    them, able to sign), or not: each of those comes near it in one way.
    """
    subprocess.run(
        [CHECKOUT / "deploy" / "demo" / "keys.sh", tls], check=True, stdout=subprocess.DEVNULL
    )
    authorized = tls / "authorized.crt"
    authorize(authorized, "alice", make_pair(tls, "alice", "client", is_ca=True)).check_returncode()
    with open(authorized, "ab") as file:
        file.write(b"# client: late\n" + make_pair(tls, "expired", "late", days=-1).read_bytes())
    authorize(authorized).check_returncode()
    make_pair(tls, "unknown", "unknown")
    make_pair(tls, "namesake", "client", is_ca=True)
    make_pair(tls, "signed", "ci", issuer="alice")
    # Trusted by TLS, but not in the map.
    with open(authorized, "ab") as file:
        file.write(make_pair(tls, "unmapped", "unmapped").read_bytes())


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
    """Answers every method on a unix socket with one empty message, and keeps what was asked."""

    def __init__(self, path):
        self.path = path
        self.calls = []
        self.lock = threading.Lock()
        self.server = None

    def start(self):
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(16),
            handlers=[self],
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 1 << 16)],
        )
        assert self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()

    def stop(self):
        self.server.stop(None).wait()

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


class Front:
    """The site of deploy/nginx/site.conf below FOLDER, on free ports."""

    log_title = "log of nginx"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.tls = self.folder / "tls"
        self.pull_port = free_port()
        self.push_port = free_port()
        self.read = Backend(self.folder / "pull.sock")
        self.write = Backend(self.folder / "push.sock")
        self.process = None

    def configure(self):
        """The shipped site with other values, and the shipped files beside it as they are."""
        site = (SHIPPED / "site.conf").read_text()
        for shipped, ours in {
            "listen [::]:11001 ssl http2;": "",
            "listen [::]:11002 ssl http2;": "",
            "listen 11001 ": f"listen 127.0.0.1:{self.pull_port} ",
            "listen 11002 ": f"listen 127.0.0.1:{self.push_port} ",
            "cache.example.com": "localhost",
            "/etc/assetd/tls": str(self.tls),
            "/run/assetd": str(self.folder),
            "/var/log/nginx": str(self.folder),
        }.items():
            assert shipped in site, f"site.conf has no {shipped}"
            site = site.replace(shipped, ours)
        (self.folder / "site.conf").write_text(site)
        (self.folder / "assetd").symlink_to(SHIPPED)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(MAIN.format(user=user, other_port=free_port()))

    def command(self, *arguments):
        return ["nginx", "-p", self.folder, "-e", "error.log", "-c", "nginx.conf", *arguments]

    def start(self):
        self.read.start()
        self.write.start()
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, cwd=self.folder, env=ENVIRONMENT
        )
        pid = self.folder / "nginx.pid"
        wait_until(lambda: pid.exists() or self.process.poll() is not None, self.log)
        assert self.process.poll() is None, f"nginx ended:\n{self.log()}"
        return self

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        for backend in (self.read, self.write):
            if backend.server is not None:
                backend.stop()

    def reload(self):
        """Returns when the old workers take no new connections."""
        workers = self.log().count("gracefully shutting down") + 2
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("gracefully shutting down") == workers, self.log)

    def log(self):
        path = self.folder / "error.log"
        return path.read_text() if path.exists() else ""

    def access(self, request_id):
        """The access log's line of one call; it is written when the call is over for nginx."""
        found = []

        def is_logged():
            found.extend(line for line in self.access_log() if line["id"] == request_id)
            return found

        wait_until(is_logged, self.log)
        return found[0]

    def access_log(self):
        lines = (self.folder / "assetd.json").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def port(self, name):
        return {"pull": self.pull_port, "push": self.push_port}[name]

    def channel(self, port, client=None):
        """A connection of its own; CLIENT: a pair of tls/, by name."""
        pair = (None, None)
        if client is not None:
            pair = [(self.tls / f"{client}.{kind}").read_bytes() for kind in ("key", "crt")]
        credentials = grpc.ssl_channel_credentials((self.tls / "server.crt").read_bytes(), *pair)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_metadata_size", 1 << 16),
            ("grpc.enable_retries", 0),
        ]
        return grpc.secure_channel(f"localhost:{self.port(port)}", credentials, options)

    def call(self, port, method, client=None, metadata=(), messages=(b"",)):
        """One call; returns its status and message."""
        with self.channel(port, client) as channel:
            return call(channel, method, metadata, messages)


def call(channel, method, metadata=(), messages=(b"",)):
    try:
        list(channel.stream_stream(method)(iter(messages), metadata=metadata, timeout=PATIENCE))
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""
