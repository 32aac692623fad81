# SPDX-License-Identifier: Apache-2.0
"""`assetctl cert` and `assetctl token`: what they make, keep, refuse and say."""

import base64
import datetime
import fcntl
import hashlib
import ipaddress
import os
import pwd
import re
import resource
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from lib.certificates import fingerprint, make_pair
from lib.server import ASSETCTL, PATIENCE, run_assetctl

LISTS = {"authorized.crt", "clients.map", "tokens.map"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: no folder of another user")


class Credentials:
    """A folder of credentials, and the commands for it."""

    def __init__(self, path):
        self.path = path
        self.authorized = path / "authorized.crt"
        self.clients = path / "clients.map"
        self.tokens = path / "tokens.map"

    def run(self, *arguments, status=0, **options):
        done = run_assetctl(*arguments[:2], "--dir", self.path, *arguments[2:], **options)
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def cert(self, *arguments, **options):
        return self.run("cert", *arguments, **options)

    def token(self, *arguments, **options):
        return self.run("token", *arguments, **options)

    def names(self):
        """clients.map, as nginx will read it."""
        return values(self.clients)

    def files(self):
        return {path.name for path in self.path.iterdir()}


def values(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    form = r'("[^"]+"|[0-9a-f]{40}) "([^"$]+)";'
    found = dict(re.fullmatch(form, line).groups() for line in lines)
    assert len(found) == len(lines)
    return {key.strip('"'): value for key, value in found.items()}


def mode(path):
    return path.stat().st_mode & 0o7777


def certificate_of(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def tls(folder):
    return Credentials(folder / "etc" / "tls")


@pytest.fixture
def pair(folder):
    """Makes a client's pair by other means; returns the path of its certificate."""
    return lambda name, *arguments, **options: make_pair(folder, name, *arguments, **options)


# --- the server's pair ---


def test_a_pair_for_the_server(tls):
    done = tls.cert("server", "cache.example.com", "*.example.com", "127.0.0.1", "::1")
    assert "reload" in done.stdout
    assert tls.files() == LISTS | {"server.crt", "server.key"}
    assert mode(tls.path) == mode(tls.path.parent) == 0o755
    assert mode(tls.path / "server.key") == mode(tls.tokens) == 0o600
    assert mode(tls.path / "server.crt") == mode(tls.authorized) == mode(tls.clients) == 0o644
    certificate = certificate_of(tls.path / "server.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cache.example.com", "*.example.com"]
    addresses = [ipaddress.ip_address(text) for text in ("127.0.0.1", "::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    assert certificate.subject.rfc4514_string() == "CN=cache.example.com"
    check_certificate(certificate, ExtendedKeyUsageOID.SERVER_AUTH, 3650)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        tls.path / "server.crt", tls.path / "server.key"
    )


def check_certificate(certificate, use, days):
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    uses = extensions.get_extension_for_class(x509.KeyUsage).value
    assert uses.digital_signature and not uses.key_cert_sign
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == datetime.timedelta(days=days, hours=1)
    assert certificate.signature_hash_algorithm.name == "sha256"
    assert certificate.serial_number.bit_length() > 64
    assert certificate.public_key().curve.name == "secp256r1"


def test_the_servers_pair_is_replaced_only_when_asked(tls):
    tls.cert("server", "localhost")
    first = [(tls.path / name).read_bytes() for name in ("server.crt", "server.key")]
    assert "--replace" in tls.cert("server", "localhost", status=1).stderr
    assert [(tls.path / name).read_bytes() for name in ("server.crt", "server.key")] == first
    tls.cert("server", "localhost", "--replace", "--days", "30")
    check_certificate(certificate_of(tls.path / "server.crt"), ExtendedKeyUsageOID.SERVER_AUTH, 30)
    second = [(tls.path / name).read_bytes() for name in ("server.crt", "server.key")]
    assert not set(first) & set(second)
    (tls.path / "server.crt").unlink()
    assert "without" in tls.cert("server", "localhost", status=1).stderr
    tls.cert("server", "localhost", "--replace")


def test_a_pair_that_does_not_belong_together_is_noticed(tls):
    tls.cert("server", "localhost")
    key = (tls.path / "server.key").read_bytes()
    assert "not the key" not in tls.cert("list").stderr
    tls.cert("server", "localhost", "--replace")
    (tls.path / "server.key").write_bytes(key)
    said = tls.cert("list", status=1).stderr
    assert "not the key" in said and "copy the pair that belongs together" in said


def test_a_pair_of_a_certificate_authority_is_kept(folder, tls, pair):
    pair("ca", "ca", is_ca=True)
    tls.cert("server", "localhost")
    assert ".old" not in tls.cert("server", "localhost", "--replace").stdout
    assert tls.files() == LISTS | {"server.crt", "server.key"}
    signed = pair("signed", "localhost", issuer="ca").read_bytes()
    key = (folder / "signed.key").read_bytes()
    (tls.path / "server.crt").write_bytes(signed)
    (tls.path / "server.key").write_bytes(key)
    said = tls.cert("server", "localhost", "--replace").stdout
    assert "server.crt.old" in said and "server.key.old" in said
    assert (tls.path / "server.crt.old").read_bytes() == signed
    assert (tls.path / "server.key.old").read_bytes() == key
    assert mode(tls.path / "server.key.old") == 0o600
    assert (tls.path / "server.crt").read_bytes() != signed


@pytest.mark.parametrize(
    "host, reason",
    [
        ("", "empty"),
        ("https://cache", "letters"),
        ("cache:11001", "port"),
        ("[::1]", "brackets"),
        ("a..b", "empty"),
        ("-a.example.com", "dash"),
        ("a b", "letters"),
        ("cache.example.com.", "empty"),
        ("*", "letters"),
        ("*.com", "top-level"),
        ("a.*.com", "letters"),
        ("256.1.1.1", "neither"),
        ("é.example.com", "letters"),
        ("a,DNS:b", "port"),
        ("x" * 64 + ".com", "63"),
        ("x." * 130 + "com", "253"),
    ],
)
def test_hosts_that_no_client_can_ask_for_are_refused(tls, host, reason):
    assert reason in tls.cert("server", "--", "localhost", host, status=2).stderr
    assert not tls.path.exists()


def test_a_long_host_name_is_taken(tls):
    host = ".".join(["label" * 10] * 4) + ".example.com"
    tls.cert("server", host)
    names = certificate_of(tls.path / "server.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == [host]


def test_the_machines_openssl_cnf_is_not_asked(folder, tls):
    (folder / "openssl.cnf").write_text("openssl_conf = broken\n[broken]\nproviders = none\n")
    environment = {**os.environ, "OPENSSL_CONF": str(folder / "openssl.cnf")}
    tls.cert("server", "localhost", env=environment)
    tls.cert("client", "ci", "--out", folder, env=environment)
    tls.token("add", "ci", "--role", "read", env=environment)


# --- clients ---


def test_a_pair_for_a_client(folder, tls):
    tls.cert("client", "ci", "--out", folder)
    assert mode(folder / "ci.key") == 0o600
    assert mode(folder / "ci.crt") == 0o644
    certificate = certificate_of(folder / "ci.crt")
    assert certificate.subject.rfc4514_string() == "CN=ci"
    check_certificate(certificate, ExtendedKeyUsageOID.CLIENT_AUTH, 3650)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(folder / "ci.crt", folder / "ci.key")
    assert tls.names() == {fingerprint(folder / "ci.crt"): "write:ci"}
    assert tls.files() == LISTS
    (folder / "reader").mkdir()
    tls.cert("client", "ci", "--out", folder / "reader", "--role=read", "--days=7")
    assert tls.names()[fingerprint(folder / "reader" / "ci.crt")] == "read:ci"


@pytest.mark.parametrize("name", ["ci.crt", "ci.key"])
def test_a_clients_pair_overwrites_nothing(folder, tls, name):
    (folder / name).symlink_to(folder / "target")
    assert f"{name} exists already" in tls.cert("client", "ci", "--out", folder, status=1).stderr
    assert {path.name for path in folder.iterdir()} == {name}


def test_a_clients_pair_that_cannot_be_registered_is_not_left_behind(folder, tls):
    tls.path.parent.write_text("no folder")
    out = folder / "out"
    out.mkdir()
    tls.cert("client", "ci", "--out", out, status=1)
    assert not list(out.iterdir())


@pytest.mark.parametrize("name", [".tokens.map.new", ".clients.map.new", ".authorized.crt.new"])
def test_a_client_is_registered_with_its_pair_or_not_at_all(folder, tls, name):
    (tls.path / name).mkdir(parents=True)
    (folder / "out").mkdir()
    tls.cert("client", "ci", "--out", folder / "out", status=1)
    assert not list((folder / "out").iterdir())
    assert not tls.authorized.exists()


def test_a_pair_that_was_registered_is_kept(folder, tls):
    tls.clients.mkdir(parents=True)
    said = tls.cert("client", "ci", "--out", folder, status=1).stderr
    assert "cert update" in said and "ci.key" in said
    certificate = (folder / "ci.crt").read_text()
    assert certificate in tls.authorized.read_text()
    tls.clients.rmdir()
    tls.cert("update")
    assert tls.names() == {fingerprint(folder / "ci.crt"): "write:ci"}


def test_the_folder_for_a_clients_pair_is_made(folder, tls):
    done = tls.cert("client", "ci", "--out", f"{folder}/new//")
    assert f"{folder}/new/ci.crt" in done.stdout
    assert mode(folder / "new") == 0o700
    assert {path.name for path in (folder / "new").iterdir()} == {"ci.crt", "ci.key"}
    said = tls.cert("client", "ci", "--out", f"{folder}/new/", status=1).stderr
    assert f"{folder}/new/ci.crt exists" in said
    said = tls.cert("client", "ci", "--out", folder / "far" / "away", status=1).stderr
    assert "mkdir -p" in said
    assert not (folder / "far").exists()


def test_a_name_that_is_too_long_is_no_other_folder(folder, tls):
    (folder / ("x" * 255)).mkdir()
    said = Credentials(folder / ("x" * 256)).cert("update", status=1).stderr
    assert "too long" in said
    assert not list((folder / ("x" * 255)).iterdir())


@pytest.mark.parametrize("name", [".", "..", ".ci", "-ci"])
def test_names_that_make_no_file_are_refused(folder, tls, name):
    said = tls.cert("client", "--out", folder, "--", name, status=2).stderr
    assert "must not begin with" in said
    assert not list(folder.iterdir())


def test_clients_are_added_and_taken_away(tls, pair):
    one, two = pair("one", "client"), pair("two", "client2")
    tls.cert("add", "ci-kernel", one)
    tls.cert("add", "alice@example.com", two, "--role", "read")
    assert tls.names() == {
        fingerprint(one): "write:ci-kernel",
        fingerprint(two): "read:alice@example.com",
    }
    tls.authorized.write_text(tls.authorized.read_text().replace(one.read_text(), ""))
    tls.cert("update")
    assert tls.names() == {fingerprint(two): "read:alice@example.com"}


def test_a_name_may_have_several_certificates(tls, pair):
    paths = [pair(name, name) for name in ("old", "new")]
    for path in paths:
        assert "same subject" not in tls.cert("add", "ci", path).stderr
    assert tls.names() == {fingerprint(path): "write:ci" for path in paths}


def test_certificates_that_nginx_cannot_tell_apart_are_noted(folder, tls, pair):
    """Without identifiers of the keys, which `openssl req` adds by Debian's openssl.cnf alone."""
    (folder / "cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    for name in ("old", "new"):
        command = "openssl req -config cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        command += f" -nodes -subj /CN=client -days 9 -keyout {name}.key -out {name}.crt"
        subprocess.run(command.split(), cwd=folder, check=True, stderr=subprocess.DEVNULL)
    assert "same subject" not in tls.cert("add", "old", folder / "old.crt").stderr
    assert "same subject" in tls.cert("add", "new", folder / "new.crt").stderr
    for path in (pair("one", "client"), pair("two", "client")):
        assert "same subject" not in tls.cert("add", "ci", path).stderr
    for name in ("one", "two"):
        (folder / name).mkdir()
        assert not tls.cert("client", "ci", "--out", folder / name).stderr


def test_certificates_that_were_only_appended_get_a_name_of_their_own(tls, pair):
    tls.cert("update")
    paths = [pair(name, name) for name in ("one", "two")]
    with open(tls.authorized, "ab") as file:
        for path in paths:
            file.write(path.read_bytes().replace(b"\n", b"\r\n"))
    assert "older" in tls.cert("list", status=1).stderr
    tls.cert("update")
    assert "older" not in tls.cert("list").stderr
    own = {fingerprint(path): "write:cert-" + fingerprint(path)[:16] for path in paths}
    assert tls.names() == own


def registered_lines(done):
    return [line for line in done.stdout.splitlines() if "is registered by" in line]


def test_certificates_that_are_new_in_the_map_are_named(folder, tls, pair):
    """A file that was appended may name itself, and what is appended behind it."""
    alice, eve, bob = (pair(name, name) for name in ("alice", "eve", "bob"))
    tls.cert("add", "alice", alice)
    with open(tls.authorized, "a", encoding="utf-8") as file:
        file.write("# client: alice read\n" + eve.read_text() + "# client: alice\n")
        file.write(bob.read_text())
    assert registered_lines(tls.cert("update")) == [
        f"alice, who may read, is registered by the certificate {fingerprint(eve)}",
        f"alice, who may read and write, is registered by the certificate {fingerprint(bob)}",
    ]
    assert registered_lines(tls.cert("update")) == []
    # The same certificate under another name, or with another role, is as new.
    text = tls.authorized.read_text()
    tls.authorized.write_text(text.replace("alice read", "alice write"))
    assert registered_lines(tls.cert("update")) == [
        f"alice, who may read and write, is registered by the certificate {fingerprint(eve)}",
    ]
    tls.clients.unlink()
    assert len(registered_lines(tls.cert("update"))) == 3


@pytest.mark.parametrize("command", ["add", "client", "revoke", "server"])
def test_whatever_writes_the_map_names_what_is_new_in_it(folder, tls, pair, command):
    one, two, three = (pair(name, name) for name in ("one", "two", "three"))
    tls.cert("add", "first", one)
    with open(tls.authorized, "a", encoding="utf-8") as file:
        file.write("# client: second\n" + two.read_text())
    words = {
        "add": ["third", three],
        "client": ["third", "--out", folder],
        "revoke": ["first"],
        "server": ["localhost"],
    }[command]
    names = [line.split(",")[0] for line in registered_lines(tls.cert(command, *words))]
    assert names == ["second", "third"][: 1 + (words[0] == "third")]


def test_who_revokes_is_told_what_keeps_out_whom(tls, pair):
    tls.cert("add", "one", pair("one", "client"))
    tls.token("add", "one", "--role=read")
    for group in (tls.cert, tls.token):
        said = group("revoke", "one").stdout
        assert "systemctl reload nginx" in said and "systemctl restart nginx" in said


def test_names_in_the_file_may_have_a_role(tls, pair):
    paths = [pair(name, name) for name in ("one", "two", "three")]
    tls.cert("update")
    with open(tls.authorized, "a", encoding="utf-8") as file:
        for line, path in zip(("one read", "two write\r", "three admin"), paths):
            file.write(f"# client: {line}\n{path.read_text()}")
    assert "left out" in tls.cert("update").stderr
    assert tls.names() == {fingerprint(paths[0]): "read:one", fingerprint(paths[1]): "write:two"}


@pytest.mark.parametrize("name", ["", "a b", 'a";', "$ssl", "é", "x" * 65, "../x", "a\nb"])
@pytest.mark.parametrize("command", ["cert add", "cert client", "token add"])
def test_other_names_are_refused(tls, pair, name, command):
    words = {"cert add": [pair("one", "client")], "token add": ["--role=read"]}.get(command, [])
    assert "NAME" in tls.run(*command.split(), name, *words, status=2).stderr
    assert not tls.path.exists()


def test_bad_names_in_the_file_are_left_out(tls, pair):
    tls.cert("update")
    tls.authorized.write_text('# client: x"; default "root\n' + pair("one", "client").read_text())
    assert "authorized.crt:2: this is left out" in tls.cert("update").stderr
    assert tls.names() == {}


def test_damaged_certificates_are_left_out(folder, tls, pair):
    one, two = (pair(name, name) for name in ("one", "two"))
    lines = one.read_text().splitlines(keepends=True)
    damaged = ["".join(lines[:2] + lines[3:]), "".join(lines[:-1])]
    tls.cert("server", "localhost")
    for text in damaged:
        tls.authorized.write_text(f"# client: one\n{text}# client: two\n{two.read_text()}")
        for command in ("update", "list"):
            said = tls.cert(command, status=1).stderr
            assert "authorized.crt:2: this certificate cannot be read; nginx will neither" in said
        assert tls.names() == {fingerprint(two): "write:two"}
        check_nginx(folder, tls, status=1)


def test_what_nginx_passes_over_is_only_left_out(folder, tls, pair):
    one = pair("one", "one")
    tls.cert("server", "localhost")
    text = (folder / "one.key").read_text() + one.read_text().rstrip("\n") + " \n"
    tls.authorized.write_text(tls.authorized.read_text() + text)
    assert "authorized.crt:" in tls.cert("update").stderr
    check_nginx(folder, tls)


def test_a_second_copy_is_left_out(tls, pair):
    path = pair("one", "client")
    tls.cert("add", "reader", path, "--role=read")
    with open(tls.authorized, "a", encoding="utf-8") as file:
        file.write("# client: writer\n" + path.read_text())
    assert "as reader" in tls.cert("update").stderr
    assert tls.names() == {fingerprint(path): "read:reader"}
    tls.cert("revoke", "reader")
    assert tls.names() == {}, "the copy came into force"


def test_what_is_no_single_valid_certificate_is_refused(folder, tls, pair):
    one = pair("one", "client", is_ca=True)
    with_key = folder / "with_key"
    with_key.write_text((folder / "one.key").read_text() + one.read_text())
    (folder / "empty").write_text("")
    refused = {
        folder / "one.key": "private key",
        with_key: "private key",
        folder / "empty": "does not hold one certificate",
        pair("chain", "x", issuer="one"): "does not hold one certificate",
        pair("expired", "x", days=-1): "expired",
        folder / "missing": "cannot read",
    }
    for path, reason in refused.items():
        assert reason in tls.cert("add", "ci", path, status=1).stderr
    assert not tls.path.exists()
    tls.cert("add", "ci", one)
    assert "already" in tls.cert("add", "other", one, status=1).stderr
    assert tls.names() == {fingerprint(one): "write:ci"}


def test_a_certificate_that_can_sign_is_noted(tls, pair):
    assert "can sign" not in tls.cert("add", "a", pair("plain", "plain")).stderr
    assert "can sign" in tls.cert("add", "b", pair("signing", "signing", is_ca=True)).stderr
    lines = tls.cert("list").stdout.splitlines()
    assert [line.split()[0] for line in lines if "CA:TRUE" in line] == ["b"]


def test_a_certificate_may_come_from_stdin(tls, pair):
    path = pair("one", "client")
    with open(path, "rb") as stdin:
        tls.cert("add", "ci", "-", stdin=stdin)
    assert tls.names() == {fingerprint(path): "write:ci"}


def test_a_certificate_is_revoked_by_name_or_fingerprint(tls, pair):
    paths = [pair(name, name) for name in ("one", "two", "three", "four")]
    for path, name in zip(paths, ("ci", "ci", "alice", "bob")):
        tls.cert("add", name, path)
    comment = "# somebody's own words\n"
    tls.authorized.write_text(comment + tls.authorized.read_text())
    done = tls.cert("revoke", "ci")
    assert "2 certificates" in done.stdout and "reload" in done.stdout
    sha1 = fingerprint(paths[2])
    tls.cert("revoke", ":".join(re.findall("..", sha1.upper())))
    assert tls.names() == {fingerprint(paths[3]): "write:bob"}
    der = certificate_of(paths[3]).public_bytes(serialization.Encoding.DER)
    tls.cert("revoke", hashlib.sha256(der).hexdigest())
    assert tls.names() == {}
    assert tls.authorized.read_text().startswith(comment)
    assert tls.authorized.read_text().count("BEGIN CERTIFICATE") == 1, "the placeholder alone"
    assert "cert list" in tls.cert("revoke", "ci", status=1).stderr


def test_nobody_is_revoked_by_an_empty_word(tls, pair):
    tls.cert("update")
    tls.authorized.write_text("# client: a b\n" + pair("one", "one").read_text())
    before = tls.authorized.read_text()
    assert "not empty" in tls.cert("revoke", "", status=2).stderr
    assert "not empty" in tls.token("revoke", "", status=2).stderr
    assert tls.authorized.read_text() == before


def test_the_list_shows_all_and_what_to_look_at(folder, tls, pair):
    tls.cert("server", "localhost", "127.0.0.1")
    tls.cert("client", "ci", "--out", folder, "--role=read")
    tls.cert("add", "late", pair("late", "late", days=9))
    with open(tls.authorized, "a", encoding="utf-8") as file:
        file.write("# client: gone\n" + pair("gone", "gone", days=-3).read_text())
    tls.cert("update")
    lines = [line.split() for line in tls.cert("list").stdout.splitlines()[1:]]
    assert [line[:2] for line in lines] == [
        ["localhost,127.0.0.1", "server"],
        ["ci", "read"],
        ["late", "write"],
        ["gone", "write"],
    ]
    certificate = certificate_of(folder / "ci.crt")
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert lines[1][2:] == [
        certificate.not_valid_after_utc.strftime("%Y-%m-%d"),
        hashlib.sha256(der).hexdigest(),
        hashlib.sha1(der).hexdigest(),
    ]
    assert re.fullmatch("expires in [89] days", " ".join(lines[2][5:]))
    assert lines[3][5:] == ["expired"]
    tls.clients.unlink()
    said = tls.cert("list", status=1).stderr
    assert "clients.map is missing" in said and "older" not in said


def test_columns_and_days_of_the_list(tls, pair):
    tls.cert("server", "a")
    tls.cert("add", "ci", pair("ci", "ci", days=2))
    head, *lines = tls.cert("list").stdout.splitlines()
    assert {head.index("ROLE")} == {line.index(line.split()[1]) for line in lines}
    assert re.search("expires in (1 day|2 days)$", lines[1])


def test_the_list_of_nobody(tls):
    tls.cert("update")
    assert "no client" in tls.cert("list").stderr
    assert "no token" in tls.token("list").stderr


# --- tokens ---


def test_tokens_are_shown_once(tls):
    done = tls.token("add", "ci", "--role", "write")
    assert re.fullmatch("[0-9a-f]{64}\n", done.stdout)
    token = done.stdout.strip()
    assert token not in done.stderr
    assert "access-token" in done.stderr and "--remote_header" in done.stderr
    assert mode(tls.tokens) == 0o600
    assert tls.files() == LISTS
    basic = base64.b64encode(f"ci:{token}".encode()).decode()
    assert values(tls.tokens) == {f"Bearer {token}": "write:ci", f"Basic {basic}": "write:ci"}
    listed = tls.token("list").stdout
    assert token not in listed
    assert listed.splitlines()[1].split()[:2] == ["ci", "write"]


def test_the_role_of_a_token_is_not_guessed(tls):
    assert "--role" in tls.token("add", "ci", status=2).stderr
    assert "admin" in tls.token("add", "ci", "--role", "admin", status=2).stderr
    assert not tls.path.exists()


def test_tokens_rotate(tls):
    old = tls.token("add", "ci", "--role", "write").stdout.strip()
    other = tls.token("add", "alice", "--role", "read").stdout.strip()
    done = tls.token("add", "ci", "--role", "write")
    new = done.stdout.strip()
    hashes = [line.split()[3] for line in tls.token("list").stdout.splitlines()[1:]]
    tokens = (old, other, new)
    assert hashes == [hashlib.sha256(token.encode()).hexdigest()[:12] for token in tokens]
    assert f"token revoke {hashes[0]}" in done.stderr
    tls.token("revoke", hashes[0])
    assert {key for key in values(tls.tokens) if key.startswith("Bearer")} == {
        f"Bearer {other}",
        f"Bearer {new}",
    }
    tls.token("revoke", "ci")
    assert set(values(tls.tokens).values()) == {"read:alice"}
    assert "token list" in tls.token("revoke", "ci", status=1).stderr


@pytest.mark.parametrize(
    "line, change",
    [
        (2, lambda line: line.replace("ci", "c i")),
        (2, lambda line: line.replace("write", "admin")),
        (3, lambda line: line.replace("Bearer ", "Bearer x")),
        (3, lambda line: line.replace("write:ci", "write:other")),
        (4, lambda line: line.replace("Basic ", "Basic A")),
        (4, lambda line: line.replace(";", "")),
        (4, lambda line: ""),
        (5, lambda line: line + 'default "write:ci";\n'),
        (5, lambda line: line + '"Bearer short" "write:ci";\n'),
    ],
)
def test_tokens_that_were_edited_are_an_error_and_stay(tls, line, change):
    tls.token("add", "ci", "--role", "write")
    lines = tls.tokens.read_text().splitlines(keepends=True) + [""]
    lines[line - 1] = change(lines[line - 1])
    text = "".join(lines) + "# the end\n"
    tls.tokens.write_text(text)
    for command in (["add", "other", "--role=read"], ["revoke", "ci"], ["list"]):
        done = tls.token(*command, status=1)
        assert f"tokens.map:{line}:" in done.stderr
        assert not done.stdout
    assert tls.tokens.read_text() == text


def test_comments_and_empty_lines_among_tokens_stay(tls):
    tls.token("add", "ci", "--role", "write")
    tls.tokens.write_text("# mine\n\n" + tls.tokens.read_text().rstrip("\n"))
    tls.token("add", "other", "--role", "read")
    tls.token("revoke", "ci")
    assert tls.tokens.read_text().startswith("# mine\n\n")
    assert set(registered(tls.tokens)) == {"read:other"}


def registered(path):
    return re.findall('"([a-z]+:[a-z]+)";', path.read_text())


def test_a_token_that_nobody_saw_is_named(tls):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [ASSETCTL, "token", "add", "ci", "--role=read", f"--dir={tls.path}"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    listed = tls.token("list").stdout.splitlines()[1].split()
    assert f"token revoke {listed[3]}" in done.stderr


def test_a_token_whose_reader_is_gone_is_named(tls):
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as gone:
        done = subprocess.run(
            [ASSETCTL, "token", "add", "ci", "--role=read", f"--dir={tls.path}"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "token revoke" in done.stderr


@pytest.mark.parametrize("name", ["authorized.crt", "clients.map"])
def test_a_token_that_could_not_be_shown_is_not_registered(folder, tls, name):
    tls.path.mkdir(parents=True)
    (tls.path / name).symlink_to(folder / "target")
    done = tls.token("add", "ci", "--role=read", status=1)
    assert "is a link" in done.stderr and not done.stdout
    assert not tls.tokens.exists()


# --- files ---


def test_each_that_writes_makes_what_nginx_needs(folder, pair):
    commands = [
        ["cert", "server", "localhost"],
        ["cert", "client", "made", "--out", folder],
        ["cert", "add", "ci", pair("one", "client")],
        ["cert", "update"],
        ["token", "add", "ci", "--role=read"],
    ]
    for at, command in enumerate(commands):
        made = Credentials(folder / str(at))
        made.run(*command)
        assert made.files() >= LISTS, command
        assert "BEGIN CERTIFICATE" in made.authorized.read_text()


def test_nothing_else_is_left_beside(tls):
    before = None
    for _ in range(2):
        tls.cert("update")
        assert tls.files() == LISTS
        texts = {name: (tls.path / name).read_bytes() for name in LISTS}
        assert before in (None, texts)
        before = texts


def check_nginx(folder, tls, status=0):
    """nginx reads all that was made, with the sizes of tables that deploy/nginx sets."""
    (folder / "nginx.conf").write_text(
        f"""
pid nginx.pid;
error_log stderr;
events {{
}}
http {{
    map_hash_bucket_size 256;
    map $ssl_client_fingerprint $by_certificate {{ include {tls.clients}; }}
    map $http_authorization $by_token {{ include {tls.tokens}; }}
    access_log off;
    server {{
        listen unix:{folder}/sock ssl http2;
        ssl_certificate {tls.path}/server.crt;
        ssl_certificate_key {tls.path}/server.key;
        ssl_client_certificate {tls.authorized};
        ssl_verify_client optional;
        return 200 $by_certificate$by_token;
    }}
}}
"""
    )
    done = subprocess.run(
        ["nginx", "-t", "-p", folder, "-e", "stderr", "-c", "nginx.conf"],
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "[warn]" not in done.stderr.replace('the "user" directive', "")


def test_nginx_takes_what_is_made(folder, tls):
    tls.cert("server", "localhost")
    check_nginx(folder, tls)
    for name in ("ci", "x" * 64, "alice@example.com"):
        tls.cert("client", name, "--out", folder)
        for role in ("read", "write"):
            tls.token("add", name, "--role", role)
    check_nginx(folder, tls)
    for name in ("ci", "x" * 64, "alice@example.com"):
        tls.cert("revoke", name)
        tls.token("revoke", name)
    check_nginx(folder, tls)


def test_the_umask_changes_no_mode(tls):
    tls.cert("server", "localhost", preexec_fn=lambda: os.umask(0o077))
    assert mode(tls.path) == mode(tls.path.parent) == 0o755
    assert mode(tls.clients) == 0o644
    tls.cert("server", "localhost", "--replace", preexec_fn=lambda: os.umask(0))
    assert mode(tls.path / "server.key") == 0o600


@pytest.mark.parametrize("name", ["authorized.crt", "clients.map"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_refused(folder, tls, pair, name, exists):
    target = folder / "target"
    if exists:
        target.write_text("something else")
    tls.path.mkdir(parents=True)
    (tls.path / name).symlink_to(target)
    assert f"{name} is a link" in tls.cert("add", "ci", pair("one", "client"), status=1).stderr
    assert target.read_text() == "something else" if exists else not target.exists()
    assert (tls.path / name).is_symlink()


@pytest.mark.parametrize("name", ["server.key", "server.crt"])
def test_a_link_in_the_place_of_the_servers_pair_is_refused(folder, tls, name):
    tls.path.mkdir(parents=True)
    (tls.path / name).symlink_to(folder / "target")
    tls.cert("server", "localhost", status=1)
    assert "is a link" in tls.cert("server", "localhost", "--replace", status=1).stderr
    assert tls.files() == {name}
    assert not (folder / "target").exists()


@pytest.mark.parametrize("name", ["authorized.crt", "tokens.map"])
def test_what_is_no_file_is_refused(tls, name):
    tls.path.mkdir(parents=True)
    os.mkfifo(tls.path / name)
    command = ["cert", "update"] if name == "authorized.crt" else ["token", "list"]
    assert "is not a file" in tls.run(*command, status=1).stderr


def test_commands_at_the_same_time_lose_nothing(tls):
    names = [f"ci-{number}" for number in range(24)]
    running = [
        subprocess.Popen(
            [ASSETCTL, "token", "add", name, "--role=read", f"--dir={tls.path}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [process.wait(PATIENCE) for process in running] == [0] * len(names)
    assert {value.split(":")[1] for value in values(tls.tokens).values()} == set(names)


def test_who_reads_waits_for_nobody(tls):
    tls.cert("update")
    lock = os.open(tls.path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tls.cert("list")
        tls.token("list")
    finally:
        os.close(lock)


def test_a_file_that_cannot_be_written_leaves_the_former(folder, tls):
    """A limit of the size of files stands in for a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    tls.cert("server", "localhost")
    tls.cert("client", "ci", "--out", folder)
    tls.token("add", "ci", "--role=read")
    before = {path.name: path.read_bytes() for path in tls.path.iterdir()}
    for command in (
        ["cert", "server", "localhost", "--replace"],
        ["cert", "revoke", "ci"],
        ["cert", "update"],
        ["token", "add", "ci", "--role=read"],
        ["token", "revoke", "ci"],
    ):
        assert "too large" in tls.run(*command, status=1, preexec_fn=limit).stderr
        assert {path.name: path.read_bytes() for path in tls.path.iterdir()} == before


# --- other users' folders ---


@pytest.fixture
def theirs(folder):
    """A folder of another user, where root cannot know what it finds."""
    theirs = folder / "theirs"
    theirs.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    return theirs


@as_root
def test_root_works_as_the_owner_of_the_folder(folder, theirs, pair):
    """Also where the owner could neither get to the folder nor read the certificate."""
    path = pair("one", "client")
    path.chmod(0o600)
    folder.chmod(0o700)
    credentials = Credentials(theirs / "deep" / "tls")
    assert "works as nobody" in credentials.cert("add", "ci", path).stderr
    credentials.token("add", "ci", "--role=read")
    credentials.cert("client", "own", "--out", folder)
    names = {"write:ci", "write:own"}
    assert set(credentials.names().values()) == names
    made = [theirs / "deep", credentials.path, *credentials.path.iterdir()]
    assert {path.name for path in made} == {"deep", "tls", *LISTS}
    assert {path.stat().st_uid for path in made} == {theirs.stat().st_uid}
    assert {path.stat().st_gid for path in made} == {theirs.stat().st_gid}
    assert (folder / "own.key").stat().st_uid == 0
    assert "already" in credentials.cert("add", "ci", path, status=1).stderr
    credentials.cert("update")
    assert set(credentials.names().values()) == names


@as_root
def test_a_clients_pair_is_of_the_owner_of_its_folder(theirs, tls):
    tls.cert("client", "ci", "--out", theirs)
    assert {path.stat().st_uid for path in theirs.iterdir()} == {theirs.stat().st_uid}
    assert tls.authorized.stat().st_uid == 0


@as_root
def test_root_is_not_led_astray(folder, theirs, pair):
    """By a link of another user to a folder of root, or a folder that another user could swap."""
    mine = folder / "mine"
    mine.mkdir()
    (mine / "authorized.crt").write_text("")
    (theirs / "tls").symlink_to(mine)
    os.chown(theirs / "tls", theirs.stat().st_uid, -1, follow_symlinks=False)
    (theirs / "moved").mkdir()
    path = pair("one", "client")
    for way in (theirs / "tls", theirs / "tls" / ".." / "mine", theirs / "moved"):
        said = Credentials(way).cert("add", "ci", path, status=1).stderr
        assert "another user" in said
        said = Credentials(mine).cert("client", "x", "--out", way, status=1).stderr
        assert "another user" in said
    assert (mine / "authorized.crt").read_text() == ""
    assert [path.name for path in mine.iterdir()] == ["authorized.crt"]
    assert not list((theirs / "moved").iterdir())


@as_root
def test_root_is_not_led_from_one_user_to_another(folder, theirs, pair):
    victim, user = folder / "victim", theirs.stat().st_uid - 1
    victim.mkdir()
    os.chown(victim, user, user)
    (theirs / "tls").symlink_to(victim)
    os.chown(theirs / "tls", theirs.stat().st_uid, -1, follow_symlinks=False)
    (theirs / "moved").mkdir()
    os.chown(theirs / "moved", user, user)
    for way in (theirs / "tls", theirs / "tls" / "new", theirs / "moved"):
        said = Credentials(way).cert("add", "ci", pair("one", "one"), status=1).stderr
        assert "another user" in said
        said = Credentials(folder / "mine").cert("client", "x", "--out", way, status=1).stderr
        assert "another user" in said
    assert not list(victim.iterdir()) and not list((theirs / "moved").iterdir())
    Credentials(victim).cert("update")


@as_root
def test_a_folder_that_anybody_may_write_to_is_not_roots_alone(folder):
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "tls").mkdir()
    assert "another user" in Credentials(folder / "open" / "tls").cert("update", status=1).stderr
    (folder / "open").chmod(0o1777)
    Credentials(folder / "open" / "tls").cert("update")


@as_root
def test_a_folder_that_a_group_may_write_to_is_not_roots_alone(folder):
    (folder / "open").mkdir()
    (folder / "open").chmod(0o775)
    Credentials(folder / "open" / "of-group-root").cert("update")
    os.chown(folder / "open", 0, pwd.getpwnam("nobody").pw_gid)
    for path in (folder / "open" / "of-group-root", folder / "open" / "new", folder / "open"):
        assert "another user" in Credentials(path).cert("update", status=1).stderr
    assert [path.name for path in (folder / "open").iterdir()] == ["of-group-root"]


@as_root
def test_root_may_use_a_link_of_its_own_on_the_way(folder):
    (folder / "mine").mkdir()
    (folder / "link").symlink_to("mine")
    Credentials(folder / "link").cert("update")
    assert Credentials(folder / "mine").names() == {}


@as_root
def test_files_stay_with_their_owner(tls):
    tls.cert("update")
    nobody = pwd.getpwnam("nobody")
    os.chown(tls.tokens, nobody.pw_uid, nobody.pw_gid)
    tls.token("add", "ci", "--role=read")
    status = tls.tokens.stat()
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)


@as_root
def test_who_may_not_write_is_told_so(folder, tls):
    tls.cert("server", "localhost")
    nobody = pwd.getpwnam("nobody")
    done = tls.token("add", "ci", "--role=read", status=1, user=nobody.pw_uid, group=nobody.pw_gid)
    assert "run it as root" in done.stderr
    # The names are no secret, the tokens are.
    tls.cert("list", user=nobody.pw_uid, group=nobody.pw_gid)
    tls.token("list", status=1, user=nobody.pw_uid, group=nobody.pw_gid)


# --- the command line ---


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["cert"], "usage: assetctl cert COMMAND"),
        (["cert", "lst"], "did you mean list? See assetctl cert --help"),
        (["cert", "server"], "host names"),
        (["cert", "server", "localhost", "--days", "0"], "--days is a number"),
        (["cert", "server", "localhost", "--days", "12x"], "--days is a number"),
        (["cert", "server", "localhost", "--day", "1"], "did you mean --days?"),
        (["cert", "server", "localhost", "--replace=yes"], "takes no value"),
        (["cert", "server", "localhost", "--dir"], "needs a value"),
        (["cert", "client"], "one NAME"),
        (["cert", "client", "a", "b"], "one NAME"),
        (["cert", "client", "a", "--role", "admin"], "read or write"),
        (["cert", "add", "ci"], "needs a NAME and a FILE"),
        (["cert", "revoke"], "NAME or FINGERPRINT"),
        (["cert", "list", "x"], "what is x?"),
        (["cert", "update", "x"], "what is x?"),
        (["token"], "usage: assetctl token COMMAND"),
        (["token", "add", "--role", "read"], "one NAME"),
        (["token", "revoke"], "NAME or HASH"),
        (["token", "list", "x"], "what is x?"),
    ],
)
def test_wrong_usage(arguments, reason):
    done = subprocess.run([ASSETCTL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("group", ["cert", "token"])
def test_help(group):
    for arguments in ([group, "--help"], [group, "list", "--help"]):
        done = subprocess.run([ASSETCTL, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: assetctl {group} COMMAND")
        assert not done.stderr


def test_a_folder_that_is_missing_is_not_made_to_be_read(tls):
    for group in ("cert", "token"):
        assert str(tls.path) in tls.run(group, "list", status=1).stderr
    assert not tls.path.parent.exists()
