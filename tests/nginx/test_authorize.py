# SPDX-License-Identifier: Apache-2.0
"""The script that registers clients."""

import subprocess

import pytest
from nginx.certificates import fingerprint, make_pair
from nginx.front import ENVIRONMENT, Front, authorize


@pytest.fixture
def authorized(folder):
    return folder / "authorized.crt"


def names(authorized):
    """The map as nginx will read it."""
    lines = (authorized.parent / "clients.map").read_text().splitlines()
    pairs = [line.rstrip(";").split(" ") for line in lines if not line.startswith("#")]
    return {key: name.strip('"') for key, name in pairs}


def test_clients_are_added_and_taken_away(folder, authorized):
    one, two = (make_pair(folder, name, "client") for name in ("one", "two"))
    assert authorize(authorized, "ci-kernel", one).returncode == 0
    assert authorize(authorized, "alice@example.com", two).returncode == 0
    assert names(authorized) == {
        fingerprint(one): "ci-kernel",
        fingerprint(two): "alice@example.com",
    }
    authorized.write_text(authorized.read_text().replace(one.read_text(), ""))
    assert authorize(authorized).returncode == 0
    assert names(authorized) == {fingerprint(two): "alice@example.com"}


def test_a_name_may_have_several_certificates(folder, authorized):
    pairs = [make_pair(folder, name, "client") for name in ("old", "new")]
    for path in pairs:
        assert authorize(authorized, "ci", path).returncode == 0
    assert names(authorized) == {fingerprint(path): "ci" for path in pairs}


def test_certificates_that_were_only_appended_get_a_name_of_their_own(folder, authorized):
    paths = [make_pair(folder, name, "root") for name in ("one", "two")]
    text = "".join(path.read_text() for path in paths)
    authorized.write_bytes(text.replace("\n", "\r\n").encode())
    assert authorize(authorized).returncode == 0
    assert names(authorized) == {
        fingerprint(path): "cert-" + fingerprint(path)[:16] for path in paths
    }


@pytest.mark.parametrize("name", ["", "a b", 'a";', "$ssl", "é", "x" * 65, "../x", "a\nb"])
def test_other_names_are_refused(folder, authorized, name):
    result = authorize(authorized, name, make_pair(folder, "one", "client"))
    assert result.returncode == 1
    assert "NAME" in result.stderr
    assert not (folder / "clients.map").exists()


def test_bad_names_in_the_file_are_left_out(folder, authorized):
    path = make_pair(folder, "one", "client")
    authorized.write_text('# client: x"; default "root\n' + path.read_text())
    result = authorize(authorized)
    assert "left out" in result.stderr
    assert names(authorized) == {}


def test_what_is_no_single_valid_certificate_is_refused(folder, authorized):
    one = make_pair(folder, "one", "client", is_ca=True)
    refused = {
        folder / "one.key": "does not hold one certificate",
        make_pair(folder, "chain", "x", issuer="one"): "does not hold one certificate",
        make_pair(folder, "expired", "x", days=-1): "expired",
        folder / "missing": "cannot read",
    }
    for path, reason in refused.items():
        result = authorize(authorized, "ci", path)
        assert result.returncode == 1
        assert reason in result.stderr
    assert authorize(authorized, "ci", one).returncode == 0
    result = authorize(authorized, "ci", one)
    assert result.returncode == 1
    assert "already" in result.stderr
    assert names(authorized) == {fingerprint(one): "ci"}


def test_a_certificate_that_can_sign_is_noted(folder, authorized):
    plain = authorize(authorized, "a", make_pair(folder, "plain", "client"))
    assert "can sign" not in plain.stdout
    signing = authorize(authorized, "b", make_pair(folder, "signing", "client", is_ca=True))
    assert "can sign" in signing.stdout


def test_nginx_takes_a_list_of_nobody(folder):
    front = Front(folder)
    front.tls.mkdir()
    make_pair(front.tls, "server", "localhost")
    assert authorize(front.tls / "authorized.crt").returncode == 0
    assert names(front.tls / "authorized.crt") == {}
    front.configure()
    subprocess.run(front.command("-t"), cwd=folder, env=ENVIRONMENT, check=True)


def test_the_site_does_not_start_without_the_map(folder):
    front = Front(folder)
    front.tls.mkdir()
    make_pair(front.tls, "server", "localhost")
    assert authorize(front.tls / "authorized.crt").returncode == 0
    front.configure()
    (front.tls / "clients.map").unlink()
    result = subprocess.run(
        front.command("-t"),
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "clients.map" in result.stderr
