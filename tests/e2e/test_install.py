# SPDX-License-Identifier: Apache-2.0
"""`make install` and `make uninstall`: what is where, and what an operator changed."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from lib import installed
from lib.installed import check_paths, files_below, make, named_paths, run_make
from lib.server import CHECKOUT, PATIENCE, run_tool

SITES = sorted(path.name for path in (CHECKOUT / "deploy" / "nginx" / "sites").iterdir())
YAML = "etc/assetd/assetd.yaml"
SITE = "etc/nginx/sites-available/assetd"

# Both configuration files, and what each was when it was installed.
CONFIGURATION = {
    YAML: "usr/local/share/doc/assetd/config/minimal.yaml",
    SITE: "usr/local/share/assetd/nginx/sites/two-ports.conf",
}

# Where the package has them, and the same elsewhere.
ELSEWHERE = {
    "/usr/bin/bst-artifact-server": "/opt/x/bin/bst-artifact-server",
    "/usr/sbin/asset": "/opt/x/sbin/asset",
    "/usr/share/assetd": "/opt/x/share/assetd",
    "/usr/share/doc/assetd": "/opt/x/share/doc/assetd",
    "/etc/assetd": "/opt/x/etc/assetd",
    "/etc/nginx": "/opt/nginx",
    "/var/lib/assetd": "/opt/x/var/lib/assetd",
    "/run/assetd": "/opt/x/run/assetd",
}
FOLDERS = (
    "prefix=/opt/x",
    "sysconfdir=/opt/x/etc",
    "localstatedir=/opt/x/var",
    "runstatedir=/opt/x/run",
    "nginxconfdir=/opt/nginx",
)


def content(root):
    """All files with their text, and links with where they lead."""
    return {
        name: os.readlink(path) if (path := root / name[1:]).is_symlink() else path.read_bytes()
        for name in files_below(root)
    }


def test_what_shipped_files_name_is_there(folder):
    make("install", f"DESTDIR={folder}")
    check_paths(folder)
    assert files_below(folder) >= {
        "/etc/assetd/assetd.yaml",
        "/etc/nginx/assetd",
        "/etc/nginx/sites-available/assetd",
        "/usr/local/bin/bst-artifact-server",
        "/usr/local/lib/systemd/system/assetd.service",
        "/usr/local/lib/systemd/system/assetd@.service",
        "/usr/local/lib/sysusers.d/assetd.conf",
        "/usr/local/lib/tmpfiles.d/assetd.conf",
        "/usr/local/sbin/assetctl",
        "/usr/local/sbin/assetd",
        "/usr/local/share/doc/assetd/config/full.yaml",
        "/usr/local/share/doc/assetd/deploy/README.md",
        "/usr/local/share/doc/assetd/deploy/bst-artifact-server.md",
        "/usr/local/share/doc/assetd/deploy/buildbarn/bb_storage.service",
        "/usr/local/share/doc/assetd/deploy/buildbarn/storage.jsonnet",
        "/usr/local/share/man/man5/assetd.yaml.5",
        "/usr/local/share/man/man8/assetctl.8",
        "/usr/local/share/man/man8/assetd.8",
        "/usr/local/share/man/man8/bst-artifact-server.8",
    }
    assert (folder / "etc/assetd/tls").is_dir()


def test_units_under_the_old_name_are_examples(folder):
    """A site has its own of these names: nothing that systemd reads comes between."""
    make("install", f"DESTDIR={folder}")
    found = {name for name in files_below(folder) if "/bst-artifact-serve" in name}
    examples = {name for name in found if name.endswith(".service")}
    assert examples == {
        "/usr/local/share/doc/assetd/deploy/systemd/bst-artifact-serve-receive.service",
        "/usr/local/share/doc/assetd/deploy/systemd/bst-artifact-serve.service",
    }
    for name in examples:
        assert "ExecStart=/usr/local/bin/bst-artifact-server " in (folder / name[1:]).read_text()


def test_other_folders_are_followed_by_all_that_names_them(folder):
    make("install", f"DESTDIR={folder}", *FOLDERS)
    later = list(installed.MADE_LATER)
    for packaged, other in ELSEWHERE.items():
        later += [path.replace(packaged, other) for path in later if path.startswith(packaged)]
        assert [pair for pair in named_paths(folder) if pair[1].startswith(packaged)] == []
    check_paths(folder, later)
    unit = (folder / "opt/x/etc/systemd/system/assetd.service").read_text()
    assert "ExecStart=/opt/x/sbin/assetd --config /opt/x/etc/assetd/assetd.yaml\n" in unit
    assert "ReadWritePaths=/opt/x/var/lib/assetd\n" in unit
    assert "StateDirectory" not in unit
    link = folder / "opt/x/bin/bst-artifact-server"
    assert os.readlink(link) == "/opt/x/sbin/assetd"


def test_without_systemd_there_is_nothing_of_it(folder):
    make("install", f"DESTDIR={folder}", "unitdir=")
    assert (folder / "usr/local/sbin/assetd").exists()
    found = files_below(folder)
    assert [name for name in found if "/lib/" in name or "/systemd/" in name] == []


def test_a_second_install_changes_nothing(folder):
    make("install", f"DESTDIR={folder}")
    before = content(folder)
    assert make("install", f"DESTDIR={folder}") == ""
    assert content(folder) == before


@pytest.mark.parametrize("name", CONFIGURATION)
def test_changed_configuration_is_kept(folder, name):
    """Beside it comes the new default, if there is one."""
    make("install", f"DESTDIR={folder}")
    default = (folder / name).read_bytes()
    (folder / name).write_text("# changed\n")
    assert make("install", f"DESTDIR={folder}") == ""
    assert not (folder / f"{name}.new").exists()

    (folder / CONFIGURATION[name]).write_text("# an older default\n")
    said = make("install", f"DESTDIR={folder}")
    assert f"/{name} is kept" in said and f"/{name}.new" in said and said.count("\n") == 1
    assert (folder / name).read_text() == "# changed\n"
    assert (folder / f"{name}.new").read_bytes() == default


@pytest.mark.parametrize("name", CONFIGURATION)
def test_a_default_that_nobody_changed_follows_the_new_one(folder, name):
    make("install", f"DESTDIR={folder}")
    default = (folder / name).read_bytes()
    for copy in (name, CONFIGURATION[name]):
        (folder / copy).write_text("# an older default\n")
    assert make("install", f"DESTDIR={folder}") == ""
    assert (folder / name).read_bytes() == default


def test_what_is_not_our_link_is_kept(folder):
    (folder / "etc/nginx/assetd").mkdir(parents=True)
    (folder / "etc/nginx/assetd/site.conf").write_text("# an operator's\n")
    assert "/etc/nginx/assetd is kept" in make("install", f"DESTDIR={folder}")
    make("uninstall", f"DESTDIR={folder}")
    assert files_below(folder) == {"/etc/nginx/assetd/site.conf"}


def test_the_former_server_is_kept(folder):
    """As pip installs it; what takes its place is put there once it is gone."""
    program = folder / "usr/local/bin/bst-artifact-server"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/python3\n")
    said = make("install", f"DESTDIR={folder}")
    assert "/usr/local/bin/bst-artifact-server is kept" in said and "move it away" in said
    make("uninstall", f"DESTDIR={folder}")
    assert files_below(folder) == {"/usr/local/bin/bst-artifact-server"}
    program.unlink()
    assert make("install", f"DESTDIR={folder}") == ""
    assert os.readlink(program) == "/usr/local/sbin/assetd"


def test_uninstall_leaves_nothing_that_nobody_changed(folder):
    make("install", f"DESTDIR={folder}")
    assert make("uninstall", f"DESTDIR={folder}") == ""
    assert files_below(folder) == set()
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if "assetd" in path.name}
    assert left == set()


def test_uninstall_leaves_what_people_made(folder):
    make("install", f"DESTDIR={folder}")
    made = {
        f"/{YAML}",
        f"/{SITE}",
        "/etc/assetd/kernel.yaml",
        "/etc/assetd/tls/server.key",
        "/var/lib/assetd/main/index/format",
    }
    for name in made:
        (folder / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / name[1:]).write_text("# made by somebody\n")
    said = make("uninstall", f"DESTDIR={folder}")
    assert f"/{YAML} is kept" in said and f"/{SITE} is kept" in said
    assert files_below(folder) == made


def test_uninstall_leaves_no_site_that_nginx_would_fail_with(folder):
    make("install", f"DESTDIR={folder}")
    enabled = folder / "etc/nginx/sites-enabled"
    enabled.mkdir()
    (enabled / "assetd").symlink_to("../sites-available/assetd")
    (enabled / "other").write_text("# include assetd/http.conf;\n")
    (enabled / "copied").write_text("    include assetd/http.conf;\n")
    said = make("uninstall", f"DESTDIR={folder}")
    assert "/etc/nginx/sites-enabled/assetd is removed" in said
    assert "/etc/nginx/sites-enabled/copied includes what is removed" in said
    assert sorted(path.name for path in enabled.iterdir()) == ["copied", "other"]


def test_a_build_for_tests_is_not_installed(folder):
    done = run_make("install", "VARIANT=asan", f"DESTDIR={folder}")
    assert done.returncode != 0 and "VARIANT=asan" in done.stderr
    assert files_below(folder) == set()


@pytest.mark.parametrize("path", ["relative", "/a|b", "/a&b", "/a b"])
def test_paths_that_cannot_be_followed_are_refused(folder, path):
    done = run_make(
        *("install", f"O={installed.BUILD}", f"DESTDIR={folder}", f"sysconfdir={path}"),
        *("-o", installed.BUILD / "assetd", "-o", installed.BUILD / "assetctl"),
    )
    assert done.returncode != 0 and f"sysconfdir={path}" in done.stderr
    assert files_below(folder) == set()


NGINX_CONF = """
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log off;
    include sites-enabled/*;
}}
"""


@pytest.fixture(scope="module")
def installed_root(module_folder):
    """
    Installed to where it is used from, with servers' certificates (those of one site are in folders
    of their own) and no client.
    """
    root = module_folder / "root"
    make(
        "install",
        *(f"prefix={root}/usr", f"sysconfdir={root}/etc", f"localstatedir={root}/var"),
        *(f"runstatedir={root}/run", f"nginxconfdir={root}/etc/nginx"),
    )
    assetctl = root / "usr/sbin/assetctl"
    sites = root / "usr/share/assetd/nginx/sites"
    texts = [(sites / name).read_text() for name in SITES]
    for credentials in set(re.findall(r" (/\S+)/server\.crt;", "".join(texts))):
        for command in (["update"], ["server", "cache.example.com"]):
            subprocess.run(
                [assetctl, "cert", *command, "--dir", credentials],
                check=True,
                capture_output=True,
                timeout=PATIENCE,
            )
    (root / "etc/nginx/nginx.conf").write_text(NGINX_CONF.format(folder=root))
    (root / "etc/nginx/sites-enabled").mkdir()
    (root / "log").mkdir()
    return root


def test_the_old_name_is_the_server(installed_root):
    program = installed_root / "usr/bin/bst-artifact-server"
    assert run_tool(program, "--version").startswith("assetd ")
    assert "bst-artifact-server --port" in run_tool(program, "--help")


def test_the_page_of_the_old_name_has_each_option_with_its_default(installed_root):
    """But for those of a file, which are in assetd(8)."""
    page = installed_root / "usr/share/man/man8/bst-artifact-server.8"
    listed = dict(re.findall(r"(?s)\n\.It (Fl .*?)\n(.*?)(?=\n\.It |\n\.El)", page.read_text()))
    said = run_tool(installed_root / "usr/bin/bst-artifact-server", "--help")
    options = re.findall(r"^ +(?:-(\w), )?--([\w-]+).*?(?:\(default: (\w+)\))?$", said, re.M)
    assert len(options) > 10
    for letter, name, default in options:
        if name not in ("config", "check"):
            (label,) = (label for label in listed if f"-{name}" in label.split())
            assert not letter or label.startswith(f"Fl {letter} , ")
            assert not default or default in listed[label], (label, default)


def test_the_build_has_the_old_name():
    link = installed.BUILD / "bst-artifact-server"
    assert link.resolve() == (installed.BUILD / "assetd").resolve()
    assert run_tool(link, "--version").startswith("assetd ")


@pytest.mark.parametrize("site", SITES)
def test_nginx_takes_each_site_as_installed(installed_root, folder, site):
    nginx = folder / "nginx"
    shutil.copytree(installed_root / "etc/nginx", nginx, symlinks=True)
    text = (installed_root / "usr/share/assetd/nginx/sites" / site).read_text()
    text = text.replace("/var/log/nginx/", f"{folder}/")
    if not pathlib.Path("/proc/net/if_inet6").exists():
        text = "".join(line for line in text.splitlines(True) if "listen [" not in line)
    (nginx / "sites-enabled" / "assetd").write_text(text)
    said = run_tool(
        *("nginx", "-t", "-p", nginx, "-e", "stderr", "-c", nginx / "nginx.conf"),
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
    )
    assert "[warn]" not in said.replace("could not build optimal", "[warn]")
