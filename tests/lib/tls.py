# SPDX-License-Identifier: Apache-2.0
"""Listeners that do TLS themselves: their files, their clients, and what those see."""

import contextlib
import os
import pathlib
import socket
import ssl

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from lib.certificates import make_pair
from lib.client import Client
from lib.ports import free_port
from lib.server import PATIENCE, run_assetctl

HOSTS = ("localhost", "127.0.0.1")

PAIR = ("server.crt", "server.key")
MEMBERS = "authorized.crt"

# What a call comes to where there is no connection for it.
SHUT_OUT = "UNAVAILABLE"


class TlsFiles:
    """
    `tls` below FOLDER is what listeners read: server.crt, server.key and authorized.crt. `own` has
    the pairs of clients, and of the authority that signs the server's, which clients trust.
    """

    def __init__(self, folder):
        self.folder = folder / "tls"
        self.own = folder / "own"
        self.folder.mkdir()
        self.own.mkdir()
        make_pair(self.own, "root", "root", is_ca=True)
        self.replace_server()
        self.path(MEMBERS).touch()

    def path(self, name):
        return self.folder / name

    # The server's pair

    def server_pair(self, **options):
        """A new one: (certificate with its chain, key), texts."""
        options = {"issuer": "root", "hosts": HOSTS, **options}
        make_pair(self.own, "server", "localhost", **options)
        return tuple((self.own / f"server.{kind}").read_text() for kind in ("crt", "key"))

    def new_pair(self, **options):
        """The same, by the names of its files."""
        return dict(zip(PAIR, self.server_pair(**options)))

    def replace_server(self, **options):
        for name, text in self.new_pair(**options).items():
            self.replace(name, text)

    def server_fingerprint(self):
        return fingerprint_of(self.path("server.crt").read_bytes())

    # Clients

    def assetctl(self, verb, *arguments):
        done = run_assetctl("cert", verb, *arguments, "--dir", self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def client(self, name, role="write"):
        """Makes a pair and registers it."""
        self.assetctl("add", name, make_pair(self.own, name, name), "--role", role)

    def certificate(self, name):
        """That of a client, without others behind it."""
        return first_block((self.own / f"{name}.crt").read_text()) + "\n"

    def fingerprint(self, name):
        return fingerprint_of(self.certificate(name).encode())

    # Ways to write

    def replace(self, name, text):
        """As careful programs do: another file of that name."""
        new = self.path(f"{name}.new")
        new.write_text(text)
        os.replace(new, self.path(name))

    def append(self, name, text):
        """`cat >>`."""
        with open(self.path(name), "a", encoding="ascii") as file:
            file.write(text)

    # Listeners and who connects to them

    def listener(self, access="write", client=None, **keys):
        """CLIENT: require, request, or None: nobody is asked for a certificate."""
        tls = {
            "certificate": str(self.path("server.crt")),
            "key": str(self.path("server.key")),
        }
        if client is not None:
            tls.update({"client-ca": str(self.path(MEMBERS)), "client": client})
        address = f"127.0.0.1:{free_port()}"
        return {"address": address, "access": access, "tls": tls, **keys}

    def credentials(self, name=None):
        """Of a client by its pair, or of one without."""
        root = (self.own / "root.crt").read_bytes()
        if name is None:
            return grpc.ssl_channel_credentials(root)
        key, certificate = ((self.own / f"{name}.{kind}").read_bytes() for kind in ("key", "crt"))
        return grpc.ssl_channel_credentials(root, key, certificate)

    def connect(self, server, listener, name=None, **options):
        """A gRPC client, closed at the test's end, that is shut out at once or not at all."""
        client = self.dial(listener, name, **options)
        server.clients.append(client)
        return client

    def dial(self, listener, name=None, instance="", **options):
        """The same for a `with`."""
        no_retries = [("grpc.enable_retries", 0)]
        return Client(
            listener["address"], instance, self.credentials(name), options=no_retries, **options
        )

    def seen(self, listener, name):
        """The fingerprint of the certificate that a new connection of that client is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self.own / f"{name}.crt", self.own / f"{name}.key")
        context.set_alpn_protocols(["h2"])
        with (
            open_socket(listener) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return hashes_of(connection.getpeercert(binary_form=True))


class Site:
    """
    A server with a plain listener and one that asks for the certificates of FILES, among which is
    `member`. It is not started.
    """

    def __init__(self, assetd, folder, files, prefix=()):
        self.files = files
        self.listener = files.listener(client="require")
        plain = {"address": f"unix:{folder}/plain.sock", "access": "write"}
        self.server = assetd(start=False, listeners=[plain, self.listener], prefix=prefix)

    def connect(self, name="member"):
        return self.files.connect(self.server, self.listener, name)

    def seen(self):
        return self.files.seen(self.listener, "member")

    def of_new(self, name="member"):
        """What a call comes to on a new connection."""
        with self.files.dial(self.listener, name) as client:
            return outcome(client.find_missing, [])

    def kept(self):
        """The lines that tell of files that were not taken."""
        return [line for line in self.server.log().splitlines() if "event=tls-files-kept" in line]


def fingerprint_of(pem):
    return hashes_of(ssl.PEM_cert_to_DER_cert(first_block(pem.decode())))


def first_block(text):
    end = "-----END CERTIFICATE-----"
    return text[text.index("-----BEGIN") : text.index(end)] + end


def hashes_of(der):
    return x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()


def outcome(call, *arguments):
    """OK, or the status that CALL fails with."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def is_closed(connection):
    """Waits until the other side says something or goes; whether it went without a word."""
    connection.settimeout(PATIENCE)
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def open_socket(listener):
    host, _, port = listener["address"].rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def accepted(server, listener):
    """How many connections the server has at that address."""
    process = pathlib.Path(f"/proc/{server.process.pid}")
    inodes = set()
    for entry in os.scandir(process / "fd"):
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(entry.path).removeprefix("socket:[").removesuffix("]"))
    local = f":{int(listener['address'].rpartition(':')[2]):04X}"
    count = 0
    # Those that listen for IPv6 as well have all theirs in the second one.
    for name in ("tcp", "tcp6"):
        for line in (process / "net" / name).read_text().splitlines()[1:]:
            # Number, own address, the peer's, state; further on the inode.
            fields = line.split()
            is_peer = not fields[2].endswith(":0000")
            count += fields[1].endswith(local) and is_peer and fields[9] in inodes
    return count
