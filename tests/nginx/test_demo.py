# SPDX-License-Identifier: Apache-2.0
"""The demo that `make up` runs: its start, its stop, and what it says when it cannot start."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess

import grpc
import pytest
import yaml

from lib.ports import free_port
from lib.server import ASSETD, CHECKOUT, PATIENCE
from nginx.front import SHIPPED, wait_until

UP = CHECKOUT / "deploy" / "demo" / "up.sh"
HEALTH = "/grpc.health.v1.Health/Check"


class Demo:
    """up.sh with RUN, in a session of its own."""

    def __init__(self, run):
        self.run = run
        self.pull_port = free_port()
        self.push_port = free_port()
        self.home = run.parent / "home"
        self.home.mkdir(exist_ok=True)
        self.process = None

    def start(self):
        environment = {
            **os.environ,
            "RUN": str(self.run),
            "PULL_PORT": str(self.pull_port),
            "PUSH_PORT": str(self.push_port),
            "ASSETD": str(ASSETD),
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
        }
        with open(self.run.parent / "output", "wb") as output:
            self.process = subprocess.Popen(
                [UP],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=environment,
                start_new_session=True,
            )
        wait_until(
            lambda: self.process.poll() is not None or "Ctrl-C stops" in self.output(), self.output
        )
        return self

    def output(self):
        return (self.run.parent / "output").read_text()

    def starts(self):
        self.start()
        assert self.process.poll() is None, self.output()
        return self

    def fails(self):
        """Starts it in vain; returns what it says."""
        self.start()
        assert self.process.wait(PATIENCE) == 1, self.output()
        assert not self.left()
        return self.output()

    def left(self):
        """The processes of its session."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    pids.append(int(entry.name))
        return pids

    def servers(self):
        """The pids of nginx's master and of assetd."""
        nginx = int((self.run / "nginx" / "nginx.pid").read_text())
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        others = []
        # Just after the start there may be the last of the script's other commands.
        while len(others) != 1:
            others = [int(pid) for pid in children.read_text().split() if int(pid) != nginx]
            assert others, self.output()
        return nginx, others[0]

    def check_serving(self):
        root = (self.run / "tls" / "server.crt").read_bytes()
        pair = [(self.run / "tls" / f"client.{kind}").read_bytes() for kind in ("key", "crt")]
        for port, credentials in {
            self.pull_port: grpc.ssl_channel_credentials(root),
            self.push_port: grpc.ssl_channel_credentials(root, *pair),
        }.items():
            with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
                # SERVING is field 1, value 1.
                assert channel.unary_unary(HEALTH)(b"", timeout=PATIENCE) == b"\x08\x01"

    def kill(self):
        """Leaves no process behind, whatever went wrong."""
        if self.process is None:
            return
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.left(), self.output)


@pytest.fixture
def demo(folder, request):
    demo = Demo(folder / "run")
    yield demo
    demo.kill()


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm"),
    ],
)
def test_it_serves_until_it_is_stopped(demo, stop):
    demo.starts().check_serving()
    stop(demo.process.pid)
    assert demo.process.wait(PATIENCE) == 0, demo.output()
    assert not demo.left()
    assert not list(demo.home.iterdir()), "something was made outside RUN"


def test_stopping_lets_a_client_go_that_stays(demo):
    demo.starts()
    root = (demo.run / "tls" / "server.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(root)
    with grpc.secure_channel(f"localhost:{demo.pull_port}", credentials) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=PATIENCE)
        assert next(watch) == b"\x08\x01"
        os.kill(demo.process.pid, signal.SIGTERM)
        assert demo.process.wait(PATIENCE) == 0, demo.output()
    assert not demo.left()


def test_it_prints_the_configuration_for_buildstream(demo):
    demo.starts()
    texts = re.findall(r"^artifacts:\n(?:.+\n)+", demo.output(), re.MULTILINE)
    push, pull = map(yaml.safe_load, texts)
    tls = demo.run / "tls"
    server = {"server-cert": str(tls / "server.crt")}
    client = {"client-cert": str(tls / "client.crt"), "client-key": str(tls / "client.key")}
    pusher = {
        "url": f"https://localhost:{demo.push_port}",
        "push": True,
        "auth": {**server, **client},
    }
    puller = {"url": f"https://localhost:{demo.pull_port}", "auth": server}
    assert push == {kind: {"servers": [pusher]} for kind in ("artifacts", "source-caches")}
    assert pull == {kind: {"servers": [puller]} for kind in ("artifacts", "source-caches")}
    assert str(demo.run / "logs" / "assetd.log") in demo.output()


def test_keys_are_kept(demo):
    demo.starts()
    files = {path: path.read_bytes() for path in (demo.run / "tls").iterdir()}
    os.kill(demo.process.pid, signal.SIGTERM)
    assert demo.process.wait(PATIENCE) == 0
    demo.starts().check_serving()
    assert {path: path.read_bytes() for path in (demo.run / "tls").iterdir()} == files


def test_a_folder_that_is_in_use_is_refused(demo):
    demo.starts()
    second = Demo(demo.run)
    second.run.parent.joinpath("output").rename(demo.run.parent / "first")
    assert f"assetd runs on {demo.run} already" in second.fails()
    demo.check_serving()


@pytest.mark.parametrize("name", ["PULL_PORT", "PUSH_PORT"])
def test_a_port_that_is_in_use_is_named(demo, name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(demo, name.lower())))
        taken.listen()
        said = demo.fails()
    assert f"port {getattr(demo, name.lower())} is in use" in said
    assert f"make up {name}=" in said


@pytest.mark.parametrize("which, name", [(0, "nginx"), (1, "assetd")])
def test_when_one_ends_by_itself_the_other_is_stopped(demo, which, name):
    demo.starts()
    os.kill(demo.servers()[which], signal.SIGKILL)
    assert demo.process.wait(PATIENCE) == 1
    assert f"{name} ended by itself" in demo.output()
    assert f"The last lines of {name}'s log" in demo.output()
    wait_until(lambda: not demo.left(), demo.output)


def test_a_long_path_below_a_closed_folder(folder):
    """As below /root, which the user that root's servers run as may not enter."""
    closed = folder / "closed"
    run = closed / ("long" * 30) / "with a blank, and: more #"
    run.parent.mkdir(parents=True)
    closed.chmod(0o700)
    demo = Demo(run)
    try:
        demo.starts().check_serving()
        os.kill(demo.process.pid, signal.SIGTERM)
        assert demo.process.wait(PATIENCE) == 0
    finally:
        demo.kill()


def test_a_folder_of_something_else_is_left_alone(demo):
    demo.run.mkdir()
    (demo.run / "thesis.txt").write_text("mine")
    assert "thesis.txt" in demo.fails()
    assert [path.name for path in demo.run.iterdir()] == ["thesis.txt"]


def test_half_a_key_pair_is_refused(demo):
    (demo.run / "tls").mkdir(parents=True)
    (demo.run / "tls" / "client.crt").write_text("")
    assert "client.key" in demo.fails()


def directives(path):
    """The directives of a file of nginx, with the blocks they are in but without their values."""
    text = re.sub(r"#.*", "", path.read_text())
    found, blocks, words = [], [], []
    for token in re.findall(r'"[^"]*"|[{};]|[^\s{};"]+', text):
        if token == "{":
            blocks.append(" ".join(words))
        elif token == "}":
            blocks.pop()
        elif token == ";":
            value = words[1:] if words[0] == "include" and words[1].startswith("assetd/") else []
            found.append((tuple(blocks), words[0], *value))
        else:
            words.append(token)
            continue
        words = []
    return sorted(set(found))


def test_its_site_is_the_shipped_one_with_other_values(demo):
    demo.starts()
    assert directives(demo.run / "nginx" / "site.conf") == directives(SHIPPED / "site.conf")
    copied = {path.name: path.read_text() for path in (demo.run / "nginx" / "assetd").iterdir()}
    assert copied == {path.name: path.read_text() for path in SHIPPED.glob("*.conf")}
