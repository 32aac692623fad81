# SPDX-License-Identifier: Apache-2.0
"""Who calls: credentials made by assetctl, good ones and such as come near them in one way."""

import base64
import contextlib
import re
import shutil
from typing import NamedTuple

from lib.certificates import make_pair
from lib.folders import new_folder
from lib.server import run_assetctl

# The host names of all sites.
HOSTS = ["localhost", "127.0.0.1", "kernel.example.com"]
OTHER_HOST = "tools.example.com"


class Caller(NamedTuple):
    """CERTIFICATE: a pair of the folder, by name. AUTHORIZATION: the headers of that name."""

    certificate: str = None
    authorization: tuple = ()

    @property
    def metadata(self):
        return [("authorization", value) for value in self.authorization]


class Credentials:
    """
    Below FOLDER: `tls`, which nginx reads, /etc/assetd/tls as installed; `others`, the same of
    another host, where nobody is registered; `own`, the clients' own files.
    """

    def __init__(self, folder):
        self.tls = folder / "tls"
        self.others = folder / "others"
        self.own = folder / "own"
        self.tokens = {}

    def assetctl(self, kind, verb, *arguments, tls=None):
        done = run_assetctl(kind, verb, *arguments, "--dir", tls or self.tls)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_token(self, name, role):
        """Returns the token."""
        shown = self.assetctl("token", "add", name, "--role", role)
        [token] = re.findall(r"\b[0-9a-f]{64}\b", shown)
        return token

    def make(self):
        """The clients of CALLERS; returns self."""
        for folder in (self.tls, self.others, self.own):
            folder.mkdir()
        self.assetctl("cert", "server", *HOSTS)
        self.assetctl("cert", "server", OTHER_HOST, tls=self.others)
        for name, role in (("writer", "write"), ("reader", "read"), ("revoked", "write")):
            self.assetctl("cert", "client", name, "--role", role, "--out", self.own)
        self.assetctl("cert", "revoke", "revoked")
        # As the usual openssl command makes them: it can sign others.
        ca = make_pair(self.own, "ca", "writer", is_ca=True)
        self.assetctl("cert", "add", "ca", ca)
        self._append("# client: late\n", make_pair(self.own, "expired", "late", days=-1))
        self.assetctl("cert", "update")
        # Trusted by TLS, but not in the map; at the other host a client of the first one is that.
        self._append("", make_pair(self.own, "unmapped", "unmapped"))
        self._append("", self.own / "writer.crt", self.others)
        make_pair(self.own, "unknown", "unknown")
        make_pair(self.own, "namesake", "writer", is_ca=True)
        make_pair(self.own, "signed", "writer", issuer="ca")
        self.tokens = {
            name: self.add_token(name, role)
            for name, role in (("t-read", "read"), ("t-write", "write"), ("t-gone", "write"))
        }
        self.assetctl("token", "revoke", "t-gone")
        return self

    def _append(self, comment, certificate, tls=None):
        """As the old server's document says: cat client.crt >> authorized.crt."""
        with open((tls or self.tls) / "authorized.crt", "a") as file:
            file.write(comment + certificate.read_text())

    def callers(self):
        return callers(*(self.tokens[name] for name in ("t-read", "t-write", "t-gone")))

    def validate(self, headers):
        """What the stand-in for a validator answers: it knows the tokens."""
        value, kind = headers.get("Authorization"), headers.get("X-Method-Class")
        for name, right in (("t-read", ["read"]), ("t-write", ["read", "write"])):
            token = self.tokens[name]
            if value in (f"Bearer {token}", basic(name, token)):
                return (200, {"X-Client-Identity": name}) if kind in right else (403, {})
        return 401, {}

    def secrets(self):
        """What must not be seen in any log."""
        found = []
        for name, token in self.tokens.items():
            found += [token, basic(name, token).removeprefix("Basic ")]
        return found


@contextlib.contextmanager
def made_credentials():
    """Those of a folder that is gone afterwards."""
    folder = new_folder()
    try:
        yield Credentials(folder).make()
    finally:
        shutil.rmtree(folder)


def callers(read, write, gone):
    """Everybody who calls, by name; the arguments are tokens."""
    never = "0" * 64
    return {
        "nobody": Caller(),
        # Certificates.
        "writer": Caller("writer"),
        "reader": Caller("reader"),
        "ca": Caller("ca"),
        "signed": Caller("signed"),
        "unknown": Caller("unknown"),
        "namesake": Caller("namesake"),
        "revoked": Caller("revoked"),
        "expired": Caller("expired"),
        "unmapped": Caller("unmapped"),
        # Tokens.
        "read-token": Caller(None, (f"Bearer {read}",)),
        "write-token": Caller(None, (f"Bearer {write}",)),
        "never-token": Caller(None, (f"Bearer {never}",)),
        "revoked-token": Caller(None, (f"Bearer {gone}",)),
        "capitals-token": Caller(None, (f"bearer {write.upper()}",)),
        "cut-token": Caller(None, (f"Bearer {write[:-1]}",)),
        "longer-token": Caller(None, (f"Bearer {write}0",)),
        "bare-token": Caller(None, (write,)),
        "empty-token": Caller(None, ("Bearer ",)),
        "listed-tokens": Caller(None, (f"Bearer {write}, Bearer {write}",)),
        "digest": Caller(None, ('Digest username="t-write"',)),
        # Basic.
        "read-basic": Caller(None, (basic("t-read", read),)),
        "write-basic": Caller(None, (basic("t-write", write),)),
        "wrong-basic": Caller(None, (basic("t-write", never),)),
        "mixed-basic": Caller(None, (basic("t-read", write),)),
        "revoked-basic": Caller(None, (basic("t-gone", gone),)),
        # Both.
        "writer+read-token": Caller("writer", (f"Bearer {read}",)),
        "reader+write-token": Caller("reader", (f"Bearer {write}",)),
        "writer+never-token": Caller("writer", (f"Bearer {never}",)),
        "signed+write-token": Caller("signed", (f"Bearer {write}",)),
        "unknown+write-token": Caller("unknown", (f"Bearer {write}",)),
    }


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


CALLERS = list(callers("", "", ""))
