# SPDX-License-Identifier: Apache-2.0
"""The demo that `make up` runs: its start, its stop, and what it says when it cannot start."""

import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest
import yaml

from lib import processes
from lib.api import health, health_grpc
from lib.certificates import fingerprint, make_pair
from lib.server import ASSETD, CHECKOUT, PATIENCE, wait_until
from lib.site import Keys
from nginx.front import SHIPPED

UP = CHECKOUT / "deploy" / "demo" / "up.sh"
SERVING = health.HealthCheckResponse.SERVING

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: the servers run as ourselves")


class Demo(Keys):
    """up.sh with RUN, in a session of its own."""

    def __init__(self, run):
        super().__init__(run / "tls")
        self.run = run
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

    def stops(self):
        os.kill(self.process.pid, signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.output()

    def left(self):
        """The processes of its session."""
        return processes.of_session(self.process.pid)

    def servers(self):
        """The pids of nginx's master and of assetd."""
        nginx = int((self.run / "nginx" / "nginx.pid").read_text())
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def others():
            return [int(pid) for pid in children.read_text().split() if int(pid) != nginx]

        # Just after the start there may be the last of the script's other commands.
        wait_until(lambda: len(others()) == 1, self.output)
        return (nginx, *others())

    def check_serving(self):
        self.check_health(self.pull_port)
        self.check_health(self.push_port, "client")

    def check_health(self, port, key=None):
        with self.client(port, key=key) as client:
            assert client.health(timeout=PATIENCE) == SERVING

    def kill(self):
        """Leaves no process behind, whatever went wrong."""
        if self.process is not None:
            processes.kill_session(self.process.pid)
            self.process.wait()


@pytest.fixture
def demo(folder):
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
    with demo.client(demo.pull_port) as client:
        watch = health_grpc.HealthStub(client.channel).Watch(
            health.HealthCheckRequest(), timeout=PATIENCE
        )
        assert next(watch).status == SERVING
        demo.stops()
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
    demo.stops()
    demo.starts().check_serving()
    assert {path: path.read_bytes() for path in (demo.run / "tls").iterdir()} == files


def test_a_folder_of_an_earlier_version_goes_on_working(demo):
    """Its clients.map had names without a role, and there was no tokens.map."""
    demo.starts().stops()
    tls = demo.run / "tls"
    (tls / "clients.map").write_text(f'{fingerprint(tls / "client.crt")} "demo";\n')
    (tls / "tokens.map").unlink()
    demo.starts().check_serving()


def test_the_demos_client_is_registered_anew_without_the_list(demo):
    demo.starts().stops()
    (demo.run / "tls" / "authorized.crt").unlink()
    demo.starts().check_serving()
    assert '"write:demo";' in (demo.run / "tls" / "clients.map").read_text()


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


@pytest.fixture
def closed(folder):
    """As /root is: the user that root's servers run as may not enter it."""
    closed = folder / "closed"
    closed.mkdir(0o700)
    return closed


@pytest.fixture
def remote_demo(closed):
    """One with a path that is long, odd, and below the closed folder."""
    run = closed / ("long" * 30) / "with a blank, and: more #"
    run.parent.mkdir()
    demo = Demo(run)
    yield demo
    demo.kill()


def test_a_long_path_below_a_closed_folder(remote_demo):
    remote_demo.starts().check_serving()
    remote_demo.stops()
    remote_demo.starts().check_serving()
    remote_demo.stops()


def test_another_client_is_registered_by_what_it_prints(remote_demo, closed):
    remote_demo.starts()
    certificate = make_pair(closed, "ci", "ci")
    certificate.chmod(0o600)
    certificate.with_suffix(".key").chmod(0o600)
    title = "Another client that may push:"
    register, reload = re.search(f"{title}\n(.*)\n(.*)\n", remote_demo.output()).groups()
    register = register.replace("NAME CERTIFICATE", f"ci {certificate}")
    subprocess.run(["sh", "-c", register], cwd=closed, check=True)
    subprocess.run(["sh", "-c", reload], cwd=closed, check=True)

    # The two workers of before take no new connections from then on.
    log = remote_demo.run / "logs" / "error.log"
    wait_until(lambda: log.read_text().count("gracefully shutting down") == 2, remote_demo.output)
    remote_demo.check_health(remote_demo.push_port, (certificate.with_suffix(".key"), certificate))
    check_owners(remote_demo.run)


def check_owners(run):
    """All of it is of the user that the servers run as."""
    owner = run.stat().st_uid
    assert owner != 0
    assert {path.lstat().st_uid for path in run.rglob("*")} == {owner}


def test_a_folder_of_something_else_is_left_alone(demo):
    demo.run.mkdir()
    (demo.run / "thesis.txt").write_text("mine")
    assert "thesis.txt" in demo.fails()
    assert [path.name for path in demo.run.iterdir()] == ["thesis.txt"]


def test_half_a_key_pair_is_refused(demo):
    demo.starts().stops()
    (demo.run / "tls" / "client.key").unlink()
    assert "client.key" in demo.fails()


@as_root
def test_root_hands_over_no_content(demo):
    """What it did not make may be prepared: here, a second name of a file that is root's."""
    private = demo.home / "private"
    private.write_text("root's")
    (demo.run / "storage").mkdir(parents=True)
    (demo.run / "storage" / "index").hardlink_to(private)
    assert f"{demo.run} belongs to root" in demo.fails()
    assert {path.stat().st_uid for path in (private, demo.run)} == {0}


def test_no_client_is_registered_through_a_link(demo):
    demo.starts().stops()
    private = demo.home / "private"
    private.write_text("not for the servers")
    private.chmod(0o600)
    (demo.run / "tls" / "authorized.crt").unlink()
    (demo.run / "tls" / "authorized.crt").symlink_to(private)
    assert "authorized.crt is a link" in demo.fails()
    assert private.read_text() == "not for the servers"


@pytest.mark.parametrize("missing", [["server.key"], ["server.key", "server.crt"]])
def test_no_key_is_made_through_a_link(demo, missing):
    demo.starts().stops()
    for name in missing:
        (demo.run / "tls" / name).unlink()
    (demo.run / "tls" / "server.key").symlink_to(demo.home / "target")
    demo.fails()
    assert not list(demo.home.iterdir())


def state(folder):
    """All that there is in a folder, and of whom."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[path] = (status.st_uid, status.st_gid, status.st_mode, status.st_mtime_ns, content)
    return found


@as_root
@pytest.mark.parametrize(
    "name", ["assetd.yaml", "nginx", "storage", "logs", "logs/assetd.log", "tls", "tls/clients.map"]
)
def test_root_follows_no_link_that_the_servers_left(demo, name):
    """It starts or it does not; what the link leads to stays as it was."""
    demo.starts().stops()
    entry = demo.run / name
    private = demo.home / "private"
    entry.rename(private)
    for path in (private, *private.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o600)
    entry.symlink_to(private)
    before = state(private)
    demo.start()
    assert state(private) == before


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
    shipped = directives(SHIPPED / "sites" / "two-ports.conf")
    assert directives(demo.run / "nginx" / "site.conf") == shipped
    copied = {path.name: path.read_text() for path in (demo.run / "nginx" / "assetd").iterdir()}
    assert copied == {path.name: path.read_text() for path in SHIPPED.iterdir() if path.is_file()}
