# SPDX-License-Identifier: Apache-2.0
"""nginx with the shipped files, in front of stand-ins that record what reaches which socket."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

from lib import logs
from lib.folders import new_folder
from lib.ports import free_port
from lib.server import CHECKOUT, PATIENCE, wait_until
from nginx import clients
from nginx.credentials import Caller
from nginx.layouts import LAYOUTS, place_of
from nginx.standins import Backend, Validator

SHIPPED = CHECKOUT / "deploy" / "nginx"
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}

# The loopback address of IPv6.
HAS_IPV6 = any(
    line.startswith("0" * 31 + "1 ")
    for path in pathlib.Path("/proc/net").glob("if_inet6")
    for line in path.read_text().splitlines()
)

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


class Front:
    """
    A layout below FOLDER, on free ports, with CREDENTIALS and a stand-in for each socket that the
    site names. RUN: the folder of the sockets of servers that run already, without stand-ins; CAS
    is the address of an external CAS beside them.
    """

    log_title = "log of nginx"

    def __init__(self, folder, layout, credentials, run=None, cas=None):
        self.folder = pathlib.Path(folder)
        self.layout = LAYOUTS[layout]
        self.credentials = credentials
        self.callers = credentials.callers()
        self.run = run or self.folder
        self.cas = cas or f"unix:{self.run}/cas.sock"
        self.ports = {}
        self.process = None
        self.validator = None
        site = self._site()
        names = () if run else sorted(set(re.findall(rf"unix:{self.run}/([a-z0-9-]+)\.sock", site)))
        self.backends = {name: Backend(self.run / f"{name}.sock") for name in names}
        self._configure(site)

    # --- values for those of an operator ---------------------------------------------------------

    def _site(self):
        """The shipped site with other values."""
        site = (SHIPPED / "sites" / f"{self.layout.site}.conf").read_text()
        for shipped, ours in self.layout.settings.items():
            assert shipped in site, f"{self.layout.site}.conf has no {shipped}"
            site = site.replace(shipped, ours)
        for pattern, ours in (
            (r"\blisten (\d+) ", lambda m: f"listen 127.0.0.1:{self._port(m[1])} "),
            (r"\blisten \[::\]:(\d+) ", lambda m: f"listen [::1]:{self._port(m[1])} "),
            (r"server 127\.0\.0\.1:8980;", f"server {self.cas};"),
            (r"server 127\.0\.0\.1:8983;", lambda m: f"server 127.0.0.1:{self._validator()};"),
            (r"/run/assetd\b", str(self.run)),
            (r"/var/log/nginx\b", str(self.folder)),
            (r"\b(cache|cas|validator)\.example\.com", "localhost"),
            (r"/etc/ssl/certs/ca-certificates\.crt", str(self.credentials.tls / "server.crt")),
            (r"/etc/assetd/tls/tools\b", str(self.credentials.others)),
            (r"/etc/assetd/tls(/kernel)?\b", str(self.credentials.tls)),
        ):
            site = re.sub(pattern, ours, site)
        if not HAS_IPV6:
            site = re.sub(r"^ *listen \[::1\]:.*\n", "", site, flags=re.M)
        return site

    def _port(self, shipped):
        return self.ports.setdefault(int(shipped), free_port())

    def _validator(self):
        self.validator = Validator(free_port(), self.credentials.validate)
        return self.validator.port

    def _configure(self, site):
        (self.folder / "site.conf").write_text(site)
        (self.folder / "assetd").mkdir()
        for path in SHIPPED.glob("*.conf"):
            self._include(path)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(MAIN.format(user=user, other_port=free_port()))

    def _include(self, path):
        """A shipped file as it is, unless the layout has other values in it."""
        included, values = self.folder / "assetd" / path.name, self.layout.included.get(path.name)
        if values is None:
            included.symlink_to(path)
            return
        text = path.read_text()
        for shipped, ours in values.items():
            assert shipped in text, f"{path.name} has no {shipped}"
            text = text.replace(shipped, ours)
        included.write_text(text)

    # --- the process -----------------------------------------------------------------------------

    def command(self, *arguments):
        return ["nginx", "-p", self.folder, "-e", "error.log", "-c", "nginx.conf", *arguments]

    def start(self):
        for backend in self.backends.values():
            backend.start()
        if self.validator is not None:
            self.validator.start()
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
            self.process = None
        for backend in self.backends.values():
            backend.stop()
        if self.validator is not None:
            self.validator.stop()

    def reload(self):
        """Returns when the old workers take no new connections."""
        workers = self.log().count("gracefully shutting down") + 2
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count("gracefully shutting down") == workers, self.log)

    # --- calls -----------------------------------------------------------------------------------

    def caller(self, name):
        """Also a Caller that is none of the usual."""
        return name if isinstance(name, Caller) else self.callers[name]

    def target(self, place, caller="nobody"):
        place = place_of(place)
        files = (None, None)
        certificate = self.caller(caller).certificate
        if certificate is not None:
            own = self.credentials.own
            files = (own / f"{certificate}.key", own / f"{certificate}.crt")
        tls = self.credentials.others if place.host.startswith("tools") else self.credentials.tls
        root = tls / "server.crt"
        return clients.Target(self.ports[place.port], place.host, root, *files)

    def channel(self, place, caller="nobody"):
        return clients.channel(self.target(place, caller))

    def call(self, place, method, caller="nobody", metadata=(), messages=(b"",)):
        """One call by grpcio; returns its status and message."""
        metadata = [*self.caller(caller).metadata, *metadata]
        with self.channel(place, caller) as channel:
            return clients.call(channel, method, metadata, messages)

    def take(self):
        """What reached the stand-ins since the last time: (socket, call)."""
        alike = self.layout.alike
        return [
            (alike.get(name, name), call)
            for name, backend in self.backends.items()
            for call in backend.take()
        ]

    # --- logs ------------------------------------------------------------------------------------

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
        lines = (self.folder / "assetd.log").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def all_logs(self):
        return "".join(
            path.read_text() for path in self.folder.glob("*") if path.suffix in (".log", ".json")
        )


@contextlib.contextmanager
def running_front(session, layout, credentials, **options):
    """A front in a folder that is gone afterwards; its log is shown with failures of SESSION."""
    folder = new_folder()
    try:
        front = Front(folder, layout, credentials, **options)
        with logs.shown(session, front):
            try:
                yield front.start()
            finally:
                front.stop()
    finally:
        shutil.rmtree(folder)
