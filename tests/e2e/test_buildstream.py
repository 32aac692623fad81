# SPDX-License-Identifier: Apache-2.0
"""The main job: a real BuildStream builds, pushes, loses its cache and pulls, through nginx."""

import re
import shutil

import pytest

from lib.bst import BstError, elements_with, listing
from lib.ports import free_port
from lib.project import ELEMENTS, make_project


def test_build_push_wipe_pull_checkout(site, bst, folder):
    """What comes back from the server is what was built: bytes, modes and symlinks."""
    user = bst(site.cache(push=True))
    output = user.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    built = user.checkout(folder / "built")
    assert sum(kind[0] == "file" for kind in built.values()) > 40
    assert built["many/to-nowhere"] == ("symlink", "../no/such/place")
    assert built["many/tool"][1] == 0o755 and built["many/nothing"][2] == b""

    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built


def test_anyone_pulls_from_the_pull_port(site, bst, folder):
    """A second user without a certificate, and without the sources, pulls what CI has pushed."""
    ci = bst(site.cache(push=True))
    ci.run("build", "all.bst")
    built = ci.checkout(folder / "built")
    (ci.project / "archive.tar").unlink()

    user = bst(site.cache(push=False))
    output = user.run("build", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert "Build Queue: processed 0" in output
    assert user.checkout(folder / "pulled") == built


def test_a_push_of_what_is_there_is_skipped(site, bst):
    user = bst(site.cache(push=True))
    user.run("build", "all.bst")
    output = user.run("artifact", "push", "--deps", "all", "all.bst")
    assert re.search(r"Push Queue: +processed 0, skipped 5, failed 0", output)
    assert elements_with(output, "already has artifact") == ELEMENTS


def test_sources_come_from_the_cache_when_their_origin_is_gone(site, bst, folder):
    ci = bst(site.cache(push=True))
    ci.run("source", "fetch", "--deps", "all", "all.bst")
    ci.run("source", "push", "--deps", "all", "all.bst")
    ci.run("source", "checkout", "--directory", folder / "before", "fetched.bst")
    (ci.project / "archive.tar").unlink()

    user = bst(site.cache(push=False))
    output = user.run("source", "fetch", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled source") == ELEMENTS
    user.run("source", "checkout", "--directory", folder / "after", "fetched.bst")
    assert listing(folder / "after") == listing(folder / "before")


def test_a_single_source_comes_from_the_cache(site, bst, folder):
    """For an element that was never pushed, one of whose sources was, with another element."""
    ci = bst(site.cache(push=True))
    ci.run("source", "fetch", "fetched.bst")
    ci.run("source", "push", "fetched.bst")
    (ci.project / "archive.tar").unlink()

    user = bst(site.cache(push=False))
    output = user.run("source", "fetch", "shared.bst")
    assert elements_with(output, "Pulled source") == {"shared"}
    user.run("source", "checkout", "--directory", folder / "after", "shared.bst")
    files = listing(folder / "after")
    assert files["shared/deep/er/text"][2].startswith(b"from the archive of")
    assert files["shared/tool"][0] == "file"


def test_caches_declared_by_the_project(site, bst, folder):
    """project.conf names both ports; the user's configuration has nothing of caches."""
    pull, push = site.cache(push=False), site.cache(push=True)
    project = make_project(
        folder / "declared",
        "declared",
        extra={"artifacts": [pull, push], "source-caches": [pull, push]},
    )
    ci = bst(of=project)
    output = ci.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    built = ci.checkout(folder / "built")
    ci.wipe()
    output = ci.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert ci.checkout(folder / "pulled") == built


def test_index_and_storage_apart(proxied, bst, folder):
    """`type: index` and `type: storage`, on two instances of one server."""
    proxy = proxied(
        {"name": "team/index", "storage": str(folder / "index"), "index-only": True},
        {"name": "team/storage", "storage": str(folder / "storage")},
    )

    def caches(push):
        return [
            proxy.cache(push, type="index", **{"instance-name": "team/index"}),
            proxy.cache(push, type="storage", **{"instance-name": "team/storage"}),
        ]

    ci = bst(*caches(push=True))
    output = ci.run("build", "all.bst")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    built = ci.checkout(folder / "built")
    (ci.project / "archive.tar").unlink()
    user = bst(*caches(push=False))
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built
    output = user.run("source", "fetch", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled source") == ELEMENTS
    assert not (folder / "index" / "cas").exists()


def test_an_instance_with_slashes(proxied, bst, folder):
    proxy = proxied({"name": "team/kernel", "storage": str(folder / "kernel")})
    user = bst(proxy.cache(push=True, **{"instance-name": "team/kernel"}))
    user.run("build", "all.bst")
    built = user.checkout(folder / "built")
    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
    assert user.checkout(folder / "pulled") == built


def test_push_on_the_pull_port_is_refused_with_what_to_do(site, bst):
    """BuildStream drops the remote with a warning that shows our message, and builds anyway."""
    user = bst(site.cache(push=True, port=site.pull_port))
    output = user.run("build", "all.bst")
    assert "Failed to initialize remote" in output
    assert re.search(r"(?i)push|write|read", output.split("Failed to initialize remote", 1)[1])
    assert "Build Queue: processed 5" in output
    assert not elements_with(output, "Pushed artifact")


def test_an_unknown_instance_drops_the_remote(site, bst):
    user = bst(site.cache(push=True, **{"instance-name": "no/such"}))
    output = user.run("build", "all.bst")
    assert "no/such" in output.split("Failed to initialize remote", 1)[1]
    assert "Build Queue: processed 5" in output


def test_a_push_without_a_certificate_is_refused(site, bst):
    """On the push port, with the server's certificate known but none of our own."""
    cache = site.cache(push=True)
    cache["auth"] = {"server-cert": cache["auth"]["server-cert"]}
    user = bst(cache)
    output = user.run("build", "all.bst")
    assert "Failed to initialize remote" in output
    with pytest.raises(BstError):
        user.run("artifact", "push", "all.bst")


def test_an_incomplete_artifact_is_built_and_pushed_again(assetd, bst, folder):
    """The CAS is lost while the index stays: no pull fails on it, and the next push heals it."""
    port = free_port()
    server = assetd(listeners=[{"address": f"127.0.0.1:{port}", "access": "write"}])
    user = bst({"url": f"http://127.0.0.1:{port}", "push": True})
    user.run("build", "all.bst")
    built = user.checkout(folder / "built")
    server.stop()
    shutil.rmtree(server.storage / "cas")
    server.start()
    user.wipe()
    output = user.run("build", "all.bst")
    assert not elements_with(output, "Pulled artifact")
    assert elements_with(output, "Pushed artifact") == ELEMENTS
    assert user.checkout(folder / "built-again").keys() == built.keys()
    user.wipe()
    output = user.run("artifact", "pull", "--deps", "all", "all.bst")
    assert elements_with(output, "Pulled artifact") == ELEMENTS
