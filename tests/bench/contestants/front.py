# SPDX-License-Identifier: Apache-2.0
"""Any contestant behind nginx with TLS: the files that are shipped, with another upstream."""

import os
import re
import subprocess
import time

from bench import machine
from bench.contestants.base import last_lines, state_of
from bench.contestants.ours import Assetd
from bench.options import BUILD, CHECKOUT, PATIENCE
from lib.ports import free_port

SHIPPED = CHECKOUT / "deploy" / "nginx"
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

# The main file as `make up` writes it, with as many workers as Debian's has, and connections as the
# document asks for. The folder stays whoever's runs this, so root's workers stay root's.
MAIN = """daemon off;
{user}
worker_processes auto;
worker_rlimit_nofile 65536;
pid nginx.pid;
error_log error.log notice;
events {{
    worker_connections 8192;
}}
http {{
    client_body_temp_path temporary/body;
    proxy_temp_path temporary/proxy;
    fastcgi_temp_path temporary/fastcgi;
    uwsgi_temp_path temporary/uwsgi;
    scgi_temp_path temporary/scgi;
    include site.conf;
}}
"""


class ShippedAssetd(Assetd):
    """assetd with the two sockets that nginx is told of: one to read, one to write."""

    def __init__(self, folder, socket_kind="unix"):
        super().__init__(folder, socket_kind)
        self.read_address = f"unix:{folder}/pull.sock"
        self.address = f"unix:{folder}/push.sock"
        lines = self.config.read_text().splitlines()[1:]
        self.config.write_text("\n".join([*self.listeners(), *lines, ""]))

    def listeners(self):
        yield "listeners:"
        for address, access in ((self.read_address, "read"), (self.address, "write")):
            yield f'- {{address: "{address}", access: {access}, identity: x-client-identity}}'


class Keys:
    """The key pairs of a run, below FOLDER: the server's, and that of one client who may write."""

    def __init__(self, folder):
        self.server = folder / "server"
        self.client = folder / "client"
        for made in (self.server, self.client):
            made.mkdir(parents=True)
        self.assetctl("server", "localhost", "127.0.0.1")
        self.assetctl("client", "bench", "--role", "write", "--out", self.client)

    def assetctl(self, *arguments):
        command = [BUILD / "assetctl", "cert", *arguments, "--dir", self.server]
        done = subprocess.run(
            [*map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"assetctl cert {arguments[0]}: {done.stdout}")

    def for_pull(self):
        return {"tls": self.server / "server.crt"}

    def for_push(self):
        pair = {"certificate": self.client / "bench.crt", "key": self.client / "bench.key"}
        return self.for_pull() | pair


class Behind:
    """
    CONTESTANT behind an nginx of its own. It is measured as the contestant is, at the port for
    clients who may write; PULL is the same at the port for anyone. What is not here is the
    contestant's.
    """

    def __init__(self, contestant, keys):
        self.contestant = contestant
        self.keys = keys
        self.folder = contestant.folder / "nginx"
        self.nginx = None
        self.pull_port, self.push_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.push_port}"
        self.tls = keys.for_push()
        self.pull = Pull(self)
        self._configure()

    def __getattr__(self, name):
        return getattr(self.contestant, name)

    # --- nginx's files ---

    def _configure(self):
        (self.folder / "temporary").mkdir(parents=True)
        # Included by this name, as installed.
        (self.folder / "assetd").symlink_to(SHIPPED)
        (self.folder / "site.conf").write_text(self._site())
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(MAIN.format(user=user))

    def _site(self):
        """The shipped site of two ports with other values."""
        site = (SHIPPED / "sites" / "two-ports.conf").read_text()
        read = getattr(self.contestant, "read_address", self.contestant.address)
        for shipped, ours in (
            (r"^ *listen \[::\]:.*\n", ""),
            (r"\blisten 11001 ", f"listen 127.0.0.1:{self.pull_port} "),
            (r"\blisten 11002 ", f"listen 127.0.0.1:{self.push_port} "),
            (r"\bunix:/run/assetd/pull\.sock;", f"{read};"),
            (r"\bunix:/run/assetd/push\.sock;", f"{self.contestant.address};"),
            (r"/var/log/nginx/", f"{self.folder}/"),
            (r"\bcache\.example\.com\b", "localhost"),
            (r"/etc/assetd/tls/", f"{self.keys.server}/"),
        ):
            site, count = re.subn(shipped, ours, site, flags=re.M)
            if count == 0:
                raise RuntimeError(f"the shipped two-ports.conf has nothing like {shipped}")
        return site

    # --- processes ---

    def start(self):
        if self.contestant.process is None:
            self.contestant.start()
        error_log = self.folder / "error.log"
        self.nginx = subprocess.Popen(
            ["nginx", "-p", self.folder, "-e", error_log, "-c", "nginx.conf"],
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=ENVIRONMENT,
        )
        end = time.monotonic() + PATIENCE
        while not (self.folder / "nginx.pid").exists() or len(self.front_pids()) < 2:
            self.require(self.nginx.poll() is None, "the nginx before it does not serve")
            self.require(time.monotonic() < end, "the nginx before it does not serve")
            time.sleep(0.01)
        return self

    def stop(self):
        self.nginx.terminate()
        self.nginx.wait(PATIENCE)
        self.contestant.stop()

    def kill(self):
        if self.nginx is not None and self.nginx.poll() is None:
            # A master that is killed would leave its workers.
            self.nginx.terminate()
            self.nginx.wait(PATIENCE)
        self.contestant.kill()

    def pids(self):
        return self.contestant.pids()

    def front_pids(self):
        """Of nginx: its master and its workers."""
        return machine.processes_below(self.nginx.pid)

    def log(self):
        path = self.folder / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def require(self, condition, what):
        if not condition:
            raise self.failure(what)

    def failure(self, what):
        return RuntimeError(
            f"{self.contestant.failure(what)}\nThe nginx before it {state_of(self.nginx)}."
            f"\nThe end of its log:\n{last_lines(self.log())}"
        )


class Pull:
    """BEHIND as anyone who pulls finds it: by the other port, without a certificate."""

    def __init__(self, behind):
        self.behind = behind
        self.address = f"127.0.0.1:{behind.pull_port}"
        self.tls = behind.keys.for_pull()

    def __getattr__(self, name):
        return getattr(self.behind, name)
