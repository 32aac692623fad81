# SPDX-License-Identifier: Apache-2.0
"""The script that registers clients."""

import os
import pwd
import subprocess

import pytest
from nginx.certificates import fingerprint, make_pair
from nginx.front import ENVIRONMENT, SHIPPED, Front, authorize


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: no folder of another user")


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


def test_a_certificate_may_come_from_stdin(folder, authorized):
    path = make_pair(folder, "one", "client")
    command = [SHIPPED / "authorize", authorized, "ci", "-"]
    subprocess.run(command, input=path.read_bytes(), check=True)
    assert names(authorized) == {fingerprint(path): "ci"}


def test_nothing_else_is_left_beside(folder, authorized):
    for _ in range(2):
        assert authorize(authorized).returncode == 0
    assert {path.name for path in folder.iterdir()} == {"authorized.crt", "clients.map"}


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_refused(folder, authorized, exists):
    target = folder / "target"
    if exists:
        target.write_text("something else")
    authorized.symlink_to(target)
    result = authorize(authorized, "ci", make_pair(folder, "one", "client"))
    assert result.returncode == 1
    assert "is a link" in result.stderr
    assert target.read_text() == "something else" if exists else not target.exists()
    assert not (folder / "clients.map").exists()


@pytest.fixture
def theirs(folder):
    """A folder of another user, where root cannot know what it finds."""
    theirs = folder / "theirs"
    theirs.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    return theirs


@as_root
def test_root_works_as_the_owner_of_the_folder(folder, theirs):
    """Also where the owner could neither get to the folder nor read the certificate."""
    path = make_pair(folder, "one", "client")
    path.chmod(0o600)
    folder.chmod(0o700)
    authorized = theirs / "authorized.crt"
    result = authorize(authorized, "ci", path)
    assert result.returncode == 0, result.stderr
    assert "works as nobody" in result.stdout
    assert names(authorized) == {fingerprint(path): "ci"}
    written = {path.name: path.stat() for path in theirs.iterdir()}
    assert set(written) == {"authorized.crt", "clients.map"}
    assert {status.st_uid for status in written.values()} == {theirs.stat().st_uid}
    result = authorize(authorized, "ci", path)
    assert result.returncode == 1
    assert "already" in result.stderr
    assert authorize(authorized).returncode == 0
    assert names(authorized) == {fingerprint(path): "ci"}


@as_root
def test_root_is_not_led_astray(folder, theirs):
    """By a link of another user to a folder of root, or a folder that another user could swap."""
    mine = folder / "mine"
    mine.mkdir()
    (mine / "authorized.crt").write_text("")
    (theirs / "tls").symlink_to(mine)
    (theirs / "moved").mkdir()
    path = make_pair(folder, "one", "client")
    for way in (theirs / "tls", theirs / "tls" / ".." / "mine", theirs / "moved"):
        result = authorize(way / "authorized.crt", "ci", path)
        assert result.returncode == 1
        assert "another user" in result.stderr
    assert (mine / "authorized.crt").read_text() == ""
    assert [path.name for path in mine.iterdir()] == ["authorized.crt"]
    assert not list((theirs / "moved").iterdir())


@as_root
def test_root_may_use_a_link_of_its_own_on_the_way(folder):
    (folder / "mine").mkdir()
    (folder / "link").symlink_to("mine")
    assert authorize(folder / "link" / "authorized.crt").returncode == 0
    assert names(folder / "mine" / "authorized.crt") == {}


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
