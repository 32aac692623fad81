# SPDX-License-Identifier: Apache-2.0
"""Broken files of TLS: kept out, at the start and later; and such as are only odd."""

import os
import re
import shutil

import pytest

from lib.certificates import make_pair
from lib.content import digest_of
from lib.processes import as_anyone, user
from lib.server import ASSETD, PATIENCE, StartError, run_assetd, run_tool, wait_until
from lib.tls import MEMBERS, PAIR, SHUT_OUT, Site, TlsFiles, outcome

DATA = b"content"
DIGEST = digest_of(DATA)


@pytest.fixture
def files(folder):
    files = TlsFiles(folder)
    files.client("member")
    return files


@pytest.fixture
def site(assetd, folder, files):
    site = Site(assetd, folder, files)
    site.server.start()
    return site


# Broken files


def broken_pem(files, name):
    """Cut in the middle of its first block."""
    text = files.path(name).read_text()
    files.replace(name, text[: text.index("-----END") // 2])


def another_key(files, _):
    key = files.server_pair()[1]
    files.replace("server.key", key)


def empty(files, name):
    files.replace(name, "")


def gone(files, name):
    files.path(name).unlink()


def unreadable(files, name):
    files.replace(name, files.path(name).read_text())
    files.path(name).chmod(0)


def a_folder(files, name):
    files.path(name).unlink()
    files.path(name).mkdir()


def a_fifo(files, name):
    files.path(name).unlink()
    os.mkfifo(files.path(name))


def a_loop(files, name):
    files.path(name).unlink()
    files.path(name).symlink_to(name)


def huge(files, name):
    text = files.path(name).read_text()
    files.replace(name, text + "# filled up\n" * (64 << 17))


def binary(files, name):
    files.path(name).write_bytes(files.path(name).read_bytes() + bytes(100))


def something_else(files, name):
    files.replace(name, "root:x:0:0:root:/root:/bin/bash\n")


def a_key(files, name):
    files.replace(name, files.server_pair()[1])


def a_certificate(files, name):
    files.replace(name, files.server_pair()[0])


def a_locked_key(files, name):
    lock = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", files.path(name)]
    files.replace(name, run_tool(*lock))


def a_broken_block(files, name):
    """Among good ones."""
    bad = files.certificate("member").replace("MII", "!!!")
    files.replace(name, files.path(name).read_text() + bad + files.path(name).read_text())


def a_cut_block(files, name):
    """As `cat >>` leaves it for a moment, or a full disk for ever."""
    files.append(name, files.certificate("member")[:-100])


FAULTS = [
    *(
        (name, fault)
        for name in (*PAIR, MEMBERS)
        for fault in (broken_pem, gone, unreadable, a_folder, a_fifo, a_loop, huge, binary)
    ),
    *((name, fault) for name in (*PAIR, MEMBERS) for fault in (something_else,)),
    ("server.crt", empty),
    ("server.crt", a_key),
    ("server.crt", a_broken_block),
    ("server.key", empty),
    ("server.key", another_key),
    ("server.key", a_certificate),
    ("server.key", a_locked_key),
    (MEMBERS, a_key),
    (MEMBERS, a_broken_block),
    (MEMBERS, a_cut_block),
]

each_fault = pytest.mark.parametrize(
    "name, fault", FAULTS, ids=[f"{name}-{fault.__name__}" for name, fault in FAULTS]
)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@each_fault
def test_broken_files_change_nothing(assetd, folder, files, name, fault):
    """One line says what to do; mended, they are taken."""
    site = Site(assetd, folder, files, as_anyone())
    site.server.start()
    open_one = site.connect()
    open_one.upload(DATA)
    before = site.seen()
    good = files.path(name).read_text()
    fault(files, name)
    for _ in range(3):
        assert site.seen() == before
        assert site.of_new() == "OK"
        assert site.of_new(None) == SHUT_OUT
        assert open_one.has(DIGEST)
    # What may be half of a change is told when it stays so.
    wait_until(lambda: site.of_new() != "OK" or site.kept(), "nothing is logged")
    assert site.of_new() == "OK"
    [line] = site.kept()
    assert "level=warning" in line and str(files.path(name)) in line and "stays in force" in line
    assert fault is not unreadable or f"; {user()} must be able to read it" in line
    remove(files.path(name))
    files.replace(name, good)
    files.replace_server()
    assert site.seen() == files.server_fingerprint() != before
    files.client("comer")
    assert [site.of_new(name) for name in ("comer", "member")] == ["OK", "OK"]
    assert open_one.has(DIGEST)
    assert len(site.kept()) == 1


@each_fault
def test_broken_files_at_the_start(assetd, folder, files, name, fault):
    site = Site(assetd, folder, files, as_anyone())
    site.server.expects_errors = True
    good = files.path(name).read_text()
    fault(files, name)
    config = site.server.folder / "assetd.yaml"
    checked = run_assetd("--config", config, "--check")
    said = checked.stdout + checked.stderr
    if os.getuid() == 0 or fault is not unreadable:
        readable = fault is unreadable
        assert checked.returncode == (0 if readable else 1), said
        assert readable or str(files.path(name)) in said
    with pytest.raises(StartError) as info:
        site.server.start(wait=False)
        site.server.process.wait(PATIENCE)
        site.server.wait_ready()
    assert info.value.status == 1
    found = [line for line in info.value.log.splitlines() if str(files.path(name)) in line]
    if "event=start-failed" in info.value.log:
        [line] = [line for line in found if "event=start-failed" in line]
        assert site.listener["address"] in line
    else:
        # What is no file at all is seen with the rest of the configuration.
        key = {"server.crt": "certificate", "server.key": "key", MEMBERS: "client-ca"}[name]
        assert any(f"listeners[1].tls.{key}: " in line for line in found)
    remove(files.path(name))
    files.replace(name, good)
    files.replace_server()
    assert run_assetd("--config", config, "--check").returncode == 0
    site.server.start()
    assert site.of_new() == "OK"


def test_what_this_user_may_not_read_is_not_checked(assetd, folder, files):
    """The service's user may."""
    site = Site(assetd, folder, files)
    unreadable(files, "server.key")
    config = site.server.folder / "assetd.yaml"
    command = [*as_anyone(), ASSETD, "--config", config, "--check"]
    assert run_tool(*command) is not None
    broken_pem(files, "server.crt")
    done = run_assetd("--config", config, "--check")
    assert done.returncode == 1


# What is odd, but no fault


def test_an_expired_certificate_is_shown_and_warned_of(site, files):
    files.replace_server(days=-1)
    assert site.seen() == files.server_fingerprint()
    assert "level=warning event=tls-certificate-expired" in site.server.log()
    assert site.of_new() == SHUT_OUT
    files.replace_server()
    assert site.of_new() == "OK"


@pytest.mark.parametrize("when", ["start", "later"])
@pytest.mark.parametrize("what", ["nothing", "comments", "placeholder"])
def test_where_nobody_is_authorized_nobody_gets_in(assetd, folder, files, when, what):
    site = Site(assetd, folder, files)
    if when == "later":
        site.server.start()
        open_one = site.connect()
        open_one.upload(DATA)
    if what == "placeholder":
        files.assetctl("revoke", "member")
    else:
        files.replace(MEMBERS, "# nobody yet\n" if what == "comments" else "")
    if when == "start":
        site.server.start()
        assert outcome(site.connect().capabilities) == SHUT_OUT
    else:
        # It may be half of a change.
        wait_until(lambda: site.of_new() != "OK", "it still gets in")
        assert outcome(open_one.has, DIGEST) == "UNAUTHENTICATED"
    assert site.of_new() == SHUT_OUT
    # The server's own certificate, say, is nobody's either.
    shutil.copy(files.path("server.crt"), files.own / "own.crt")
    shutil.copy(files.path("server.key"), files.own / "own.key")
    assert site.of_new("own") in (SHUT_OUT, "UNAUTHENTICATED")
    [line] = [line for line in site.server.log().splitlines() if "event=tls-no-clients" in line]
    assert "level=warning" in line and str(files.path(MEMBERS)) in line
    files.client("comer")
    assert site.of_new("comer") == "OK"


def with_crlf(text):
    return text.replace("\n", "\r\n")


def with_text_between(text):
    return f"Bag Attributes\n    friendlyName: ci\nsubject=CN = ci\n{text}\nthe end\n"


@pytest.mark.parametrize("change", [with_crlf, with_text_between, str.rstrip])
def test_other_ways_to_write_them(site, files, change):
    pair = files.new_pair()
    make_pair(files.own, "comer", "comer")
    own = f"# client: comer\n{files.certificate('comer')}"
    for name, text in {**pair, MEMBERS: files.path(MEMBERS).read_text() + own}.items():
        files.path(name).write_text(change(text))
    assert site.seen() == files.server_fingerprint()
    assert [site.of_new(name) for name in ("comer", "member")] == ["OK", "OK"]
    assert not site.kept()


def test_one_that_is_left_out_does_not_keep_out_the_others(site, files):
    """A key by mistake, and such as have a bad name; who they are, and why, is logged."""
    for name in ("comer", "ill"):
        make_pair(files.own, name, name)
    files.append(MEMBERS, (files.own / "member.key").read_text())
    files.append(MEMBERS, "# client: a b c\n" + files.certificate("ill"))
    line = files.path(MEMBERS).read_text().split("\n").index("-----BEGIN PRIVATE KEY-----") + 1
    files.append(MEMBERS, "# client: comer\n" + files.certificate("comer"))
    assert [site.of_new(name) for name in ("comer", "member")] == ["OK", "OK"]
    assert site.of_new("ill") == "UNAUTHENTICATED"
    log = site.server.log()
    assert "PRIVATE" not in log.replace("PRIVATE KEY-----", "") and not site.kept()
    assert re.search(
        rf"level=warning event=tls-clients-left-out .*count=2 first=.*{MEMBERS}:{line}: ", log
    )
    assert (files.own / "member.key").read_text().split("\n")[1] not in log


def test_two_of_one_name_are_that_client_both(site, files):
    """While one certificate follows another."""
    make_pair(files.own, "next", "next")
    files.append(MEMBERS, "# client: member\n" + files.certificate("next"))
    assert [site.of_new(name) for name in ("next", "member")] == ["OK", "OK"]
    files.assetctl("revoke", "member")
    wait_until(lambda: site.of_new("next") != "OK", "it still gets in")
    assert [site.of_new(name) for name in ("next", "member")] == [SHUT_OUT] * 2
