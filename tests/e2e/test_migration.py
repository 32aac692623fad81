# SPDX-License-Identifier: Apache-2.0
"""`assetctl export` and `assetctl import`: the index of one server becomes that of another."""

import datetime
import json
import os
import re
import subprocess
import threading

import pytest

from lib.client import fails, timestamp
from lib.content import Tree, digest_of, name_of, noise
from lib.server import ASSETCTL, run_assetctl

HOUR = 3600
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: no storage of another user")


def call(command, server, *arguments, status=0, **options):
    config = server.folder / "assetd.yaml"
    done = run_assetctl(command, "--config", config, *arguments, **options)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def export(server, instance="", **options):
    """The lines, as objects."""
    done = call("export", server, instance, **options)
    return [json.loads(line) for line in done.stdout.splitlines()]


def import_lines(server, lines, *arguments, instance="", **options):
    """LINES are objects, or texts. The outcome: what was counted, and what was told."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    text = "".join(text + "\n" for text in texts)
    done = call("import", server, *arguments, instance, stdin=None, input=text, **options)
    counts = re.fullmatch(
        rf'"{instance}": (\d+) imported, (\d+) there already, (\d+) expired, '
        r"(\d+) not whole, (\d+) bad\n",
        done.stdout,
    )
    assert counts, done.stdout + done.stderr
    names = "imported", "older", "expired", "incomplete", "bad"
    return dict(zip(names, map(int, counts.groups()))), done.stderr


def imports(server, lines, *arguments, **counts):
    """All that is not in COUNTS is 0, and nothing is told. The exit status is 0."""
    found, told = import_lines(server, lines, *arguments)
    assert {name: count for name, count in found.items() if count} == counts, told
    return told


def at(seconds):
    """So many seconds from now, as in a line."""
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def line_of(uri, data=b"content", **members):
    return {
        "kind": "blob",
        "uri": uri,
        "digest_function": "sha256",
        "digest": name_of(digest_of(data)),
        **members,
    }


@pytest.fixture
def index(assetd, folder):
    """A server of an index alone, in a storage of its own, which is not running."""
    count = 0

    def make(**instance):
        nonlocal count
        storage = folder / f"index{count}"
        storage.mkdir(mode=0o750)
        count += 1
        return assetd(
            instances=[{"name": "", "storage": str(storage), "index-only": True, **instance}],
            start=False,
        )

    return make


# From one to the other


def push_many(client):
    """Assets of all kinds; returns a function that checks that a client finds them."""
    tree = Tree({"file": b"in a tree", "empty": {}})
    client.upload_tree(tree)
    data = noise(5000)
    client.upload(data, b"other")
    qualifiers = {"vcs.branch": "mäin", "\u2603": ""}
    later = timestamp(4102444800.5)
    client.push_blob("urn:blob", digest_of(data), references_directories=[tree.root])
    client.push_blob(["urn:same", "urn:too"], digest_of(data), references_blobs=[digest_of(b"other")])
    client.push_blob("urn:qualified", digest_of(data), qualifiers, expire_at=later)
    client.push_directory("urn:blob", tree.root)
    client.push_blob('urn:"\n\u009b', digest_of(b""))

    def check(other):
        for uri in "urn:blob", "urn:same", "urn:too":
            assert other.fetch_blob(uri).blob_digest == digest_of(data)
        found = other.fetch_blob("urn:qualified", qualifiers)
        assert found.expires_at == later
        with fails("NOT_FOUND"):
            other.fetch_blob("urn:qualified")
        assert other.fetch_directory("urn:blob").root_directory_digest == tree.root
        assert other.fetch_blob('urn:"\n\u009b').blob_digest == digest_of(b"")

    return check


def test_an_index_becomes_that_of_another_server(server, index):
    check = push_many(server.client())
    lines = export(server)  # beside the server
    assert len(lines) == 6
    other = index()
    imports(other, lines, imported=6)
    assert export(other) == lines
    check(other.start().client())
    assert export(other) == lines
    # And back, into one that has lost it.
    third = index()
    imports(third, export(other), imported=6)
    check(third.start().client())


def test_what_a_line_says(server):
    client = server.client()
    client.upload(b"content", b"first", b"second")
    client.push_blob(
        "urn:a",
        digest_of(b"content"),
        {"b": "2", "a": "1"},
        references_blobs=[digest_of(b"first"), digest_of(b"second")],
        expire_at=timestamp(4102444800),
    )
    (line,) = export(server)
    now = at(0)
    for name in "pushed_at", "fetched_at":
        assert at(-60) < line.pop(name)[:20] + "000Z" <= now
    assert line == line_of(
        "urn:a",
        qualifiers={"a": "1", "b": "2"},
        references_blobs=[name_of(digest_of(data)) for data in (b"first", b"second")],
        expires_at="2100-01-01T00:00:00.000Z",
    )
    assert list(line)[:2] == ["kind", "uri"]


def test_other_digest_functions(assetd, index):
    functions = {"digest-functions": ["sha256", "sha512"]}
    server = index(**functions)
    client = server.start().client()
    client.push_blob("urn:long", digest_of(b"content", "sha512"))
    (line,) = export(server)
    assert line["digest_function"] == "sha512"
    other = index(**functions)
    imports(other, [line], imported=1)
    assert other.start().client().fetch_blob("urn:long", digest_function=6).uri == "urn:long"
    told = import_lines(index(), [line], status=1)[1]
    assert "line 1: sha512 is not among the digest-functions" in told


def test_the_largest_asset(index):
    """100,000 references, in an index and in a line."""
    digests = [digest_of(b"%d" % number) for number in range(100)] * 1000
    server = index()
    server.start().client().push_blob("urn:large", digests[0], references_blobs=digests)
    lines = export(server)
    assert len(lines[0]["references_blobs"]) == 100000
    other = index()
    imports(other, lines, imported=1)
    assert export(other) == lines


def test_those_used_longest_ago_come_first(index):
    """So they are the first to go where they are imported, too."""
    server = index()
    client = server.start().client()
    for number in (3, 1, 2):
        client.push_blob(f"urn:{number}", digest_of(b"content"))
    lines = export(server)
    assert [line["uri"] for line in lines] == ["urn:3", "urn:1", "urn:2"]
    other = index()
    imports(other, lines, imported=3)
    assert export(other) == lines


def test_an_index_quota_that_is_too_small(index):
    lines = [line_of(f"urn:{number:05}" + "x" * 1000) for number in range(3000)]
    small = index(**{"index-quota": "1MiB"})
    counts, told = import_lines(small, lines)
    assert counts["imported"] == 3000
    evicted = int(re.search(r"(\d+) assets, those used longest ago, had to go: the index-", told)[1])
    left = [line["uri"] for line in export(small)]
    assert left == [line["uri"] for line in lines[evicted:]]


def test_an_export_beside_a_server_that_takes_pushes(index):
    server = index()
    client = server.start().client()
    for number in range(200):
        client.push_blob(f"urn:before:{number}", digest_of(b"content"))
    over = threading.Event()

    def push():
        number = 0
        while not over.is_set():
            client.push_blob(f"urn:before:{number % 200}", digest_of(b"content"))
            client.push_blob(f"urn:meanwhile:{number}", digest_of(b"content"))
            number += 1

    thread = threading.Thread(target=push)
    thread.start()
    try:
        for _ in range(5):
            uris = {line["uri"] for line in export(server)}
            assert uris >= {f"urn:before:{number}" for number in range(200)}
    finally:
        over.set()
        thread.join()


# What is imported


def test_what_was_pushed_later_stays(index):
    server = index()
    first = line_of("urn:a", b"first", pushed_at=at(-3 * HOUR))
    second = line_of("urn:a", b"second", pushed_at=at(-2 * HOUR))
    imports(server, [first], imported=1)
    imports(server, [second, first], imported=1, older=1)
    imports(server, [second], older=1)
    client = server.start().client()
    assert client.fetch_blob("urn:a").blob_digest == digest_of(b"second")
    client.push_blob("urn:a", digest_of(b"newest"))
    server.stop()
    imports(server, [first, second], older=2)
    client = server.start().client()
    assert client.fetch_blob("urn:a").blob_digest == digest_of(b"newest")
    server.stop()
    # What has no time is pushed now.
    imports(server, [line_of("urn:a", b"by hand")], imported=1)
    assert server.start().client().fetch_blob("urn:a").blob_digest == digest_of(b"by hand")


def test_times_that_are_missing_or_yet_to_come_are_now(index):
    server = index()
    imports(
        server,
        [
            line_of("urn:none"),
            line_of("urn:future", pushed_at=at(HOUR), fetched_at=at(2 * HOUR)),
            line_of("urn:unlike", pushed_at=at(-HOUR), fetched_at=at(-2 * HOUR)),
        ],
        imported=3,
    )
    now = at(5)
    for line in export(server):
        hour = HOUR if line["uri"] == "urn:unlike" else 0
        assert at(-hour - 60) < line["pushed_at"] <= now
        assert line["fetched_at"] == line["pushed_at"]


def test_what_has_expired_is_left_out(index):
    server = index(**{"expire-after": "2h"})
    long_ago = at(-3 * HOUR)
    lines = [
        line_of("urn:expired", expires_at=at(-60)),
        line_of("urn:long-ago", expires_at="1960-01-01T00:00:00Z"),
        line_of("urn:unused", pushed_at=long_ago, fetched_at=long_ago),
        line_of("urn:used", pushed_at=long_ago, fetched_at=at(-HOUR)),
        line_of("urn:expires", expires_at=at(HOUR)),
    ]
    imports(server, lines, imported=2, expired=3)
    assert [line["uri"] for line in export(server)] == ["urn:used", "urn:expires"]


def test_bad_lines_are_told_and_the_others_imported(index):
    server = index()
    good = line_of("urn:good")
    wrong = digest_of(b"wrong")
    lines = [
        "{",
        "",
        " \t",
        good,
        {**good, "kind": "tree"},
        {**good, "refrences_blobs": []},
        {**good, "uri": "x" * 8193},
        {**good, "digest": "\x1b[31m\n"},
        {**good, "qualifiers": {"checksum.sri": "sha256"}},
        {
            **good,
            "uri": "urn:checked",
            "digest": name_of(wrong),
            "qualifiers": {"checksum.sri": "sha256-7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="},
        },
        {
            **good,
            "uri": "urn:checked",
            "qualifiers": {"checksum.sri": "sha256-7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="},
        },
        line_of("urn:last"),
    ]
    counts, told = import_lines(server, lines, status=1)
    assert (counts["imported"], counts["bad"]) == (3, 7)
    reasons = [
        (1, "no JSON"),
        (5, '"kind" is neither'),
        (6, 'did you mean "references_blobs"'),
        (7, '"uri" has 8193 bytes'),
        (8, "HASH/SIZE"),
        (9, "checksum.sri"),
        (10, "checksum.sri is not the checksum"),
    ]
    found = [line for line in told.splitlines() if line.startswith("assetctl: line")]
    assert len(found) == len(reasons), told
    for line, (number, reason) in zip(found, reasons):
        assert line.startswith(f"assetctl: line {number}: ") and reason in line
    assert "\x1b" not in told
    assert [line["uri"] for line in export(server)] == ["urn:good", "urn:checked", "urn:last"]


def test_a_line_without_end_and_a_line_that_is_too_long(index):
    server = index()
    text = json.dumps(line_of("urn:a")) + "\n" + "x" * (33 << 20) + "\n" + json.dumps(line_of("urn:b"))
    done = call("import", server, "", status=1, stdin=None, input=text)
    assert '"": 2 imported' in done.stdout
    assert re.search("^assetctl: line 2: the line is longer than 33554432 bytes", done.stderr, re.M)


def test_an_asset_larger_than_an_index_takes_is_bad(index):
    server = index(**{"index-quota": "1MiB"})
    large = line_of("urn:large", references_blobs=[name_of(digest_of(b"x"))] * 10000)
    counts, told = import_lines(server, [large, line_of("urn:a")], status=1)
    assert (counts["imported"], counts["bad"]) == (1, 1)
    assert re.search("line 1: .* a quarter of its quota", told)


def test_no_import_beside_a_server_that_writes(server):
    server.client()
    done = call("import", server, "", status=1, stdin=None, input=json.dumps(line_of("urn:a")))
    assert done.stdout == ""
    assert f"process {server.process.pid}: stop that process first" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert export(server) == []


def test_instances_are_apart(assetd, folder):
    server = assetd(
        instances=[
            {"name": name, "storage": str(folder / f"of{i}"), "index-only": True}
            for i, name in enumerate(["", "team/kernel"])
        ]
    )
    server.client().push_blob("urn:a", digest_of(b"content"))
    server.client(instance="team/kernel").push_blob("urn:b", digest_of(b"content"))
    assert [line["uri"] for line in export(server)] == ["urn:a"]
    lines = export(server, "team/kernel")
    assert [line["uri"] for line in lines] == ["urn:b"]
    server.stop()
    imports(server, lines, imported=1)
    server.start()
    assert server.client().fetch_blob("urn:b").uri == "urn:b"
    with fails("NOT_FOUND"):
        server.client(instance="team/kernel").fetch_blob("urn:a")


def test_progress_and_counts(index):
    """Of a file it is known how large it is."""
    server = index()
    path = server.folder / "lines"
    path.write_text("".join(json.dumps(line_of(f"urn:{i}")) + "\n" for i in range(5000)))
    with open(path, encoding="ascii") as lines:
        done = call("import", server, "", stdin=lines)
    assert re.search(r"^import: 50 % of \d\.\d MiB, \d+ MiB/s$", done.stderr, re.M)
    assert done.stdout.startswith('"": 5000 imported, ')
    assert call("export", server, "").stderr == "assetctl: 5000 assets exported\n"


# Checked against a CAS


def trees(count):
    return [Tree({"a": {"file": b"of tree %d" % number}}) for number in range(count)]


def lines_of_trees(client, count):
    """Lines of COUNT trees, of which the first four are not whole in the CAS of CLIENT."""
    lines = []
    for number, tree in enumerate(trees(count)):
        blobs = dict(tree.blobs)
        directory = tree.digest({"file": b"of tree %d" % number})
        if number == 0:
            del blobs[digest_of(b"of tree 0").hash]
        elif number == 1:
            del blobs[directory.hash]
        elif number == 2:
            del blobs[tree.root.hash]
        client.upload(*blobs.values())
        kind = {"kind": "directory"} if number % 2 else {}
        members = {"references_directories": [name_of(tree.root)]}
        if number == 3:
            members = {"references_blobs": [name_of(digest_of(b"elsewhere"))]}
        content = name_of(tree.root) if kind else name_of(digest_of(b""))
        lines.append({**line_of(f"urn:{number}", **members), **kind, "digest": content})
    no_tree = digest_of(b"\xff no tree")
    client.upload(b"\xff no tree")
    lines.append(line_of("urn:no-tree", b"", references_directories=[name_of(no_tree)]))
    return lines


def check_trees(server, lines):
    counts, told = import_lines(server, lines, "--check")
    assert (counts["imported"], counts["incomplete"]) == (len(lines) - 5, 5), told
    found = dict(re.findall(r"^assetctl: line (\d+) is not whole: (.*)$", told, re.M))
    assert sorted(map(int, found)) == [1, 2, 3, 4, len(lines)]
    assert found["1"] == f"1 missing, such as {name_of(digest_of(b'of tree 0'))}"
    assert name_of(digest_of(b"\xff no tree")) in found[str(len(lines))]
    uris = {line["uri"] for line in export(server)}
    assert uris == {line["uri"] for line in lines[4:-1]}
    # Another time, what was taken is passed over.
    again, _ = import_lines(server, lines, "--check")
    assert (again["imported"], again["older"], again["incomplete"]) == (0, len(lines) - 5, 5)


def pushed(lines):
    return [{**line, "pushed_at": at(-HOUR)} for line in lines]


def test_only_what_is_whole_is_imported(server):
    lines = pushed(lines_of_trees(server.client(), 50))
    server.stop()
    check_trees(server, lines)
    client = server.start().client()
    assert client.fetch_blob("urn:8").blob_digest == digest_of(b"")
    assert client.fetch_directory("urn:9").root_directory_digest == trees(10)[9].root


def test_many_that_are_not_whole_are_counted(server):
    server.stop()
    counts, told = import_lines(server, [line_of(f"urn:{i}") for i in range(100)], "--check")
    assert counts["incomplete"] == 100
    assert len(re.findall("is not whole", told)) == 16
    assert "more that are not whole are counted only" in told


def test_after_a_power_cut_the_check_waits(server):
    lines = pushed(lines_of_trees(server.client(), 20))
    server.kill()
    with open(server.storage / "cas" / "shared", "r+b") as shared:
        shared.seek(32)
        shared.write(b"00000000-0000-0000-0000-000000000000")
    check_trees(server, lines)


def paired(assetd, cas, folder, **options):
    """An index of another storage, whose CAS is that server's."""
    (folder / "paired").mkdir()
    return assetd(
        instances=[
            {
                "name": "",
                "storage": str(folder / "paired"),
                "index-only": True,
                "cas": {"address": cas.push, **options},
            }
        ],
        start=False,
    )


def test_an_external_cas_is_asked(assetd, server, folder):
    lines = pushed(lines_of_trees(server.client(), 50))
    check_trees(paired(assetd, server, folder, trust="0s"), lines)


def test_an_import_goes_on_when_the_cas_is_back(assetd, server, folder):
    lines = pushed(lines_of_trees(server.client(), 50))
    other = paired(assetd, server, folder, timeout="1s")
    server.stop()
    counts, told = import_lines(other, lines, "--check", status=1)
    assert counts["imported"] == 0
    assert re.search(r"^assetctl: it ended with line \d+: .*unix:", told, re.M), told
    assert "import the same lines again" in told
    server.start()
    check_trees(other, lines)


def test_there_has_to_be_a_cas_to_check_against(index):
    server = index()
    done = call("import", server, "--check", "", status=1)
    assert 'instance "" has no CAS to check against' in done.stderr
    assert done.stdout == ""


# What cannot be read or written


def test_a_full_disk_and_a_closed_pipe_are_errors(index):
    server = index()
    imports(server, [line_of(f"urn:{i}" + "x" * 1000) for i in range(3000)], imported=3000)
    command = [ASSETCTL, "export", "--config", str(server.folder / "assetd.yaml"), ""]
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and "No space left on device" in done.stderr
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 1 and "Broken pipe" in told


def test_damaged_assets_are_counted(index):
    server = index()
    imports(server, [line_of("urn:17"), line_of("urn:18")], imported=2)
    path = server.folder.parent / "index0" / "index" / "data.mdb"
    content = path.read_bytes()
    assert b"urn:17" in content
    path.write_bytes(content.replace(b"urn:17", b"urn:27"))
    done = call("export", server, "", status=1)
    assert [json.loads(line)["uri"] for line in done.stdout.splitlines()] == ["urn:18"]
    assert "assetctl: 1 assets are damaged, and are not among them: see assetctl check" in done.stderr


def test_a_storage_that_was_never_served_has_nothing_to_export(index):
    server = index()
    storage = server.folder.parent / "index0"
    done = call("export", server, "", status=1)
    assert "holds no index: no server has served it yet" in done.stderr
    assert list(storage.iterdir()) == []
    storage.rmdir()
    done = call("export", server, "", status=1)
    assert "No such file or directory" in done.stderr


# Rights


@as_root
def test_root_works_as_who_owns_the_storage(index, folder):
    server = index()
    storage = folder / "index0"
    folder.chmod(0o755)
    os.chown(storage, NOBODY, NOBODY)
    imports(server, [line_of("urn:a")], imported=1)
    assert len(export(server)) == 1
    assert {path.stat().st_uid for path in [storage, *storage.rglob("*")]} == {NOBODY}


@as_root
def test_root_makes_storage_only_for_another(index, assetd, folder):
    server = index()
    (folder / "index0").rmdir()
    done = call("import", server, "", status=1)
    assert "would be root's: make it for the user" in done.stderr
    assert not (folder / "index0").exists()
    theirs = folder / "theirs"
    theirs.mkdir()
    folder.chmod(0o755)
    os.chown(theirs, NOBODY, NOBODY)
    storage = theirs / "main"
    other = assetd(
        instances=[{"name": "", "storage": str(storage), "index-only": True}], start=False
    )
    imports(other, [line_of("urn:a")], imported=1)
    assert {path.stat().st_uid for path in [storage, *storage.rglob("*")]} == {NOBODY}


# The commands


@pytest.mark.parametrize("command", ["export", "import"])
def test_command_lines(index, command):
    server = index()
    config = server.folder / "assetd.yaml"
    for arguments, status, reason in [
        ([], 2, f"{command} needs the name of an instance"),
        (["a", "b"], 2, f"{command} takes one instance: what is b\\?"),
        (["--confg", config, ""], 2, "has no option --confg; did you mean --config"),
        (["--config"], 2, "--config needs a value"),
        (["--config", "/missing.yaml", ""], 1, "/missing.yaml.*No such file.*by --config FILE"),
        (["--config", config, "kernel"], 1, f'{config} has no instance "kernel"; there is ""'),
    ]:
        done = run_assetctl(command, *arguments)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert re.search(reason, done.stderr), done.stderr
    help_text = run_assetctl(command, "--help")
    assert help_text.returncode == 0
    assert help_text.stdout.startswith(f"usage: assetctl {command} [--config FILE]")
    assert "/assetd/assetd.yaml" in help_text.stdout


def test_faults_of_the_configuration_are_printed(index):
    server = index()
    config = server.folder / "assetd.yaml"
    config.write_text(config.read_text() + "colour: blue\n")
    done = call("export", server, "", status=1)
    assert re.search(r"assetd.yaml:\d+:1: colour: ", done.stderr)
    assert done.stderr.endswith("has 1 fault\n")
    assert done.stdout == ""
