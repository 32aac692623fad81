# SPDX-License-Identifier: Apache-2.0
"""`assetctl check`: what it finds wrong in real storage, and what it drops."""

import hashlib
import os
import re
import shutil
import struct
import subprocess
import threading

import pytest

from lib.client import fails
from lib.content import Tree, digest_of, name_of, noise
from lib.server import (
    ASSETCTL,
    PATIENCE,
    files_below,
    run_assetctl,
    run_assetd,
    shown_by_assetctl,
    wait_until,
)

MIB = 1 << 20

# Of a record: bytes in front of the hash in its header, which follows all others.
RECORD_HASH = 24
# Of cas/shared.
SHARED_BOOT_ID, SHARED_CLEAN = 32, 72


def check(storage, *arguments, status=0, **options):
    """What it prints on stdout, line by line; the last one is the outcome."""
    done = run_assetctl("check", storage, *arguments, **options)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def check_clean(storage):
    lines = check(storage)
    assert lines[-1].endswith(": clean"), lines
    assert not [line for line in lines if faults([line])], lines


def faults(lines):
    return [line for line in lines if re.match("(blob|segment|asset) ", line)]


def check_repair(storage, *reasons):
    """All that is found has one of REASONS, in their order, and is gone after a repair."""
    for options, status in ((), 1), (["--repair"], 0):
        lines = faults(check(storage, *options, status=status))
        assert len(lines) == len(reasons), lines
        for line, reason in zip(lines, reasons):
            assert re.search(reason, line), line
            assert ("dropped" in line or "marked" in line) == bool(options), line
    check_clean(storage)


def flip(path, offset, bit=0x10):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def find_record(storage, data):
    """The segment's file and the offset of the record of a blob."""
    header_end = hashlib.sha256(data).digest() + data[:64]
    for path in (storage / "cas" / "log").iterdir():
        at = path.read_bytes().find(header_end)
        if at >= 0:
            return path, at - RECORD_HASH
    raise AssertionError("no segment holds the blob")


def find_slot(storage, data):
    """The file of the digest table and the offset of the slot of a blob."""
    start = hashlib.sha256(data).digest()[:16]
    for path in (storage / "cas" / "table").iterdir():
        at = path.read_bytes().find(start)
        if at >= 0:
            assert at % 32 == 0
            return path, at
    raise AssertionError("the table has no such blob")


def flip_everywhere(path, found, offset):
    """A bit behind each place where FOUND is: the database may hold a page more than once."""
    content = path.read_bytes()
    places = [match.start() for match in re.finditer(re.escape(found), content)]
    assert places, "the index does not hold it"
    for place in places:
        flip(path, place + offset)


def row_of(uri):
    """The head of a leaf of the database, and the key, under which the row of a blob's URI is."""
    name = struct.pack("<BBBI", 1, 0, 1, len(uri)) + uri.encode() + struct.pack("<I", 0)
    return struct.pack("<HHHH", 40, 0, 0, 32) + hashlib.sha256(name).digest()


class Content:
    """What the tests put into a server: the blobs, and an asset urn:N for each."""

    def __init__(self, server):
        self.server = server
        self.blobs = [noise(5000, number) for number in range(40)]
        self.large = noise(3 * MIB, "large")
        self.tree = Tree({"file": b"in a tree"})
        client = server.client()
        client.upload_tree(self.tree)
        client.upload(*self.blobs)
        client.write(self.large)
        for number, data in enumerate([*self.blobs, self.large]):
            client.push_blob(
                f"urn:{number}", digest_of(data), references_directories=[self.tree.root]
            )

    @property
    def all(self):
        return [*self.blobs, self.large]

    def check_served(self, *gone):
        """All but GONE is there, and nothing is served that is wrong."""
        client = self.server.client()
        for number, data in enumerate(self.all):
            if data in gone:
                assert not client.has(digest_of(data))
                with fails("NOT_FOUND"):
                    client.fetch_blob(f"urn:{number}")
            else:
                assert client.read(digest_of(data)) == data
                assert client.fetch_blob(f"urn:{number}").blob_digest == digest_of(data)


@pytest.fixture
def content(server):
    return Content(server)


@pytest.fixture
def stopped(content):
    """The same with the server stopped."""
    content.server.stop()
    return content


@pytest.fixture
def storage(content):
    return content.server.storage


# What is not wrong


def test_a_sound_store_is_clean(content, storage):
    check_clean(storage)  # beside the server
    content.server.stop()
    check_clean(storage)
    content.server.start()
    content.server.client().upload(b"after the restart")
    content.server.kill()
    check_clean(storage)
    lines = check(storage, "--repair")
    assert f"{storage}/cas: " in lines[0]
    assert re.search(r" 44 sound records .* 44 blobs in the table$", lines[0]), lines
    assert lines[1:] == [
        f"{storage}/index: 41 assets, 0 of them incomplete",
        f"{storage}: clean",
    ]
    content.server.start()
    content.check_served()


def test_evicted_content_is_not_wrong(stopped, storage):
    shutil.rmtree(storage / "cas")
    assert check(storage) == [
        f"{storage}/index: 41 assets; whether their content is there was not looked up",
        f"{storage}: clean",
    ]
    stopped.server.start()
    stopped.server.client().upload(*stopped.blobs[:10], *stopped.tree.blobs.values())
    lines = check(storage)
    assert f"{storage}/index: 41 assets, 31 of them incomplete" in lines


def test_a_check_is_no_use_of_anything(stopped, storage):
    def everything():
        files = [*files_below(storage / "cas")]
        content = {name: (storage / "cas" / name).read_bytes() for name in files}
        for name in "data.mdb", "shared", "format":
            content[f"index/{name}"] = (storage / "index" / name).read_bytes()
        return content

    before = everything()
    check_clean(storage)
    check(storage, "--repair")
    assert everything() == before


def test_nothing_wrong_is_found_while_segments_come_and_go(assetd):
    """Uploads of several times the quota, beside which one check follows the other."""
    storage = {}
    server = assetd()
    server.stop()
    storage = server.storage
    server.configure(
        instances=[{"name": "", "storage": str(storage), "quota": "22MB"}]
    )
    server.start()
    client = server.client()
    over = threading.Event()

    def upload():
        for number in range(60):
            client.upload(*(noise(4000 + 700 * i, f"{number}/{i}") for i in range(100)))
            client.write(noise(MIB, number))
        over.set()

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        checks = 0
        while not over.is_set() or checks < 2:
            check_clean(storage)
            checks += 1
    finally:
        thread.join(PATIENCE)
    assert over.is_set(), "the uploads failed"


def test_what_a_power_cut_left_is_checked_when_it_is_known(content, storage):
    content.server.kill()
    with open(storage / "cas" / "shared", "r+b") as shared:
        shared.seek(SHARED_BOOT_ID)
        shared.write(b"00000000-0000-0000-0000-000000000000")
    path, at = find_record(storage, content.blobs[3])
    lines = check(storage)
    assert re.search(r" 43 sound records .* 43 blobs in the table$", lines[0]), lines
    check_clean(storage)
    # By now its contents are a table at the segment's end.
    flip(path, at + 2000)
    check_repair(storage, "the payload has a wrong checksum")
    content.server.start()
    content.check_served(content.blobs[3])


# Damage of the CAS


def damage_payload(storage, content):
    path, at = find_record(storage, content.blobs[7])
    flip(path, at + RECORD_HASH + 32 + 4321)
    return content.blobs[7]


def damage_large(storage, content):
    path, at = find_record(storage, content.large)
    flip(path, at + RECORD_HASH + 32 + 2 * MIB + 99)
    return content.large


def damage_sum(storage, content):
    path, at = find_record(storage, content.blobs[7])
    flip(path, at + RECORD_HASH + 32 + 5000)
    return content.blobs[7]


def damage_magic(storage, content):
    flip(*find_record(storage, content.blobs[7]))
    return content.blobs[7]


def damage_header(storage, content):
    path, at = find_record(storage, content.blobs[7])
    flip(path, at + RECORD_HASH + 31)
    return content.blobs[7]


@pytest.mark.parametrize(
    "damage, reason",
    [
        (damage_payload, "the payload has a wrong checksum"),
        (damage_large, "the payload has a wrong checksum"),
        (damage_sum, "the payload has a wrong checksum"),
        (damage_magic, "no header of a record"),
        (damage_header, "the record's header has a wrong checksum"),
    ],
)
@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_a_damaged_record_is_found_and_dropped(content, storage, damage, reason, is_running):
    if not is_running:
        content.server.stop()
    broken = damage(storage, content)
    digest = digest_of(broken)
    path, at = find_record(storage, broken) if damage is not damage_header else (None, None)
    named = rf"{digest.hash[:32]}(\.\.\.|{digest.hash[32:]})/{digest.size_bytes}"
    place = "" if path is None else f" in segment {path.name} at {at}"
    reasons = [f"^blob {named}{place}.*: {reason}"]
    if is_running and "header" in reason:
        # An open segment has no table of contents yet.
        reasons.insert(0, "^segment [0-9a-f]{16}: its records cannot be followed to its end")
    check_repair(storage, *reasons)
    lines = check(storage)
    assert f"{storage}/index: 41 assets, 1 of them incomplete" in lines
    if not is_running:
        content.server.start()
    content.check_served(broken)
    content.server.client().upload(content.blobs[7])
    content.server.client().write(content.large)
    content.check_served()
    content.server.restart()
    content.check_served()
    check_clean(storage)


def test_a_hash_is_verified_and_not_only_checksums(stopped, storage):
    """A payload that was changed together with its checksum."""
    data = stopped.blobs[7]
    path, at = find_record(storage, data)
    changed = bytes([data[0] ^ 1]) + data[1:]
    with open(path, "r+b") as file:
        file.seek(at + RECORD_HASH + 32)
        file.write(changed + struct.pack("<I", crc32c(hashlib.sha256(data).digest() + changed)))
    actual = hashlib.sha256(changed).hexdigest()
    check_repair(storage, f"blob {name_of(digest_of(data))} .*the payload has the hash {actual}")


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_many_damaged_records_are_all_found(stopped, storage):
    for data in stopped.blobs[::2]:
        path, at = find_record(storage, data)
        flip(path, at + 1000)
    lines = faults(check(storage, status=1))
    found = {re.match("blob ([0-9a-f]*)/", line)[1] for line in lines}
    assert found == {digest_of(data).hash for data in stopped.blobs[::2]}
    lines = check(storage, "--repair")
    assert lines[-1] == f"{storage}: 20 wrong, 20 of them dropped"
    check_clean(storage)
    stopped.server.start()
    stopped.check_served(*stopped.blobs[::2])


@pytest.mark.parametrize(
    "offset, bit, reason",
    [
        (5, 0x10, "the record there is of blob {name}"),  # of the hash
        (18, 0x01, "."),  # of the size: what is there is shorter
        (24, 0x04, "no header of a record"),  # of the place: 16 bytes on
    ],
    ids=["hash", "size", "place"],
)
def test_a_damaged_slot_is_found_and_dropped(stopped, storage, offset, bit, reason):
    data = stopped.blobs[9]
    path, at = find_slot(storage, data)
    flip(path, at + offset, bit)
    check_repair(storage, "^blob .*" + reason.format(name=name_of(digest_of(data))))
    stopped.server.start()
    stopped.check_served(data)


def test_an_entry_that_no_look_up_finds_is_dropped(stopped, storage):
    """A whole slot, moved to another shard."""
    data = stopped.blobs[9]
    path, at = find_slot(storage, data)
    slot = path.read_bytes()[at : at + 32]
    other = next(p for p in path.parent.iterdir() if p != path)
    for file, where, content in (path, at, bytes(32)), (other, 0, slot):
        with open(file, "r+b") as opened:
            opened.seek(where)
            opened.write(content)
    check_repair(storage, f"blob {name_of(digest_of(data))} .*is never found")


def test_a_truncated_segment(stopped, storage):
    path, at = find_record(storage, stopped.blobs[20])
    os.truncate(path, at + 100)
    lines = faults(check(storage, status=1))
    assert re.match(f"segment {path.name}: its file ends at {at + 100}, ", lines[0]), lines
    # What was stored behind it are twenty blobs, the tree aside, and the large one.
    assert len(lines) == 1 + 21, lines
    for line in lines[1:]:
        assert re.search(f"^blob .* in segment {path.name} at .* ends", line), line
    lines = check(storage, "--repair")
    assert lines[-1].endswith(": 22 wrong, 22 of them dropped")
    check_clean(storage)
    stopped.server.start()
    stopped.check_served(*stopped.blobs[20:], stopped.large)


def test_a_segment_whose_file_is_missing(stopped, storage):
    (path,) = (storage / "cas" / "log").iterdir()
    path.unlink()
    lines = faults(check(storage, status=1))
    assert lines[0] == f"segment {path.name}: its file is missing"
    assert len(lines) == 1 + 43 and all("is missing" in line for line in lines), lines
    assert check(storage, "--repair")[-1].endswith(": 44 wrong, 44 of them dropped")
    check_clean(storage)
    stopped.server.expects_errors = True  # it says that the segment is missing
    stopped.server.start()
    stopped.check_served(*stopped.all)
    stopped.server.client().upload_tree(stopped.tree)
    stopped.server.client().upload(*stopped.blobs)
    stopped.server.client().write(stopped.large)
    stopped.check_served()


@pytest.mark.parametrize("offset, reason", [(0, "no header"), (30, "has a wrong checksum")])
def test_a_damaged_header_of_a_segment(stopped, storage, offset, reason):
    (path,) = (storage / "cas" / "log").iterdir()
    flip(path, offset)
    check_repair(storage, f"^segment {path.name}: .*{reason}")
    stopped.server.start()
    stopped.check_served()
    wait_until(lambda: not path.exists(), "it was not evacuated")
    stopped.check_served()


def test_a_damaged_table_of_contents(stopped, storage):
    (path,) = (storage / "cas" / "log").iterdir()
    flip(path, path.stat().st_size - 64 - 10)
    check_repair(storage, f"^segment {path.name}: the contents have a wrong checksum")
    stopped.server.start()
    stopped.check_served()


# Damage of the index


def test_a_damaged_asset_is_found_and_dropped(content, storage):
    flip_everywhere(storage / "index" / "data.mdb", b"urn:17", 4)
    name = r"\(name unknown, its SHA-256 is [0-9a-f]{64}\)"
    wanted = rf"^asset {name}: a record of \d+ bytes is damaged"
    (line,) = faults(check(storage, status=1))
    assert re.search(wanted + "$", line)
    # With the server running it stays.
    lines = check(storage, "--repair", status=1)
    pid = content.server.process.pid
    assert re.search(f"{wanted}; stays, .*stop that .*process {pid}$", faults(lines)[0]), lines
    assert lines[-1] == f"{storage}: 1 wrong, 0 of them dropped"
    content.server.expects_errors = True  # if it comes upon it
    content.server.stop()
    check_repair(storage, wanted)
    content.server.start()
    client = content.server.client()
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:17")
    client.push_blob("urn:17", digest_of(content.blobs[17]))
    content.check_served()
    check_clean(storage)


@pytest.mark.parametrize(
    "offset, reason",
    [(8 + 32 + 20, "its row has a wrong checksum"), (8 + 31, "under the hash of another name")],
    ids=["row", "key"],
)
def test_a_damaged_row_is_found_and_dropped(stopped, storage, offset, reason):
    flip_everywhere(storage / "index" / "data.mdb", row_of("urn:17"), offset)
    name = "urn:17" if "name" in reason else r"\(name unknown, .*\)"
    check_repair(storage, f"^asset {name}: .*{reason}")
    assert check(storage)[1].startswith(f"{storage}/index: 40 assets")
    stopped.server.start()
    client = stopped.server.client()
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:17")
    client.push_blob("urn:17", digest_of(stopped.blobs[17]))
    stopped.check_served()


def test_many_damaged_assets_are_all_found(server):
    client = server.client()
    digest = client.upload(b"content")
    for number in range(0, 300, 10):
        client.push_blob([f"urn:{i:04}" for i in range(number, number + 10)], digest)
    server.stop()
    for number in range(0, 300, 3):
        flip_everywhere(server.storage / "index" / "data.mdb", b"urn:%04d" % number, 5)
    lines = check(server.storage, status=1)
    assert len(faults(lines)) == 100
    assert f"{server.storage}/index: 300 assets, 0 of them incomplete" in lines
    lines = check(server.storage, "--repair")
    assert f"{server.storage}/index: 200 assets, 0 of them incomplete" in lines
    assert lines[-1] == f"{server.storage}: 100 wrong, 100 of them dropped"
    check_clean(server.storage)
    client = server.start().client()
    for number in range(300):
        if number % 3 == 0:
            with fails("NOT_FOUND"):
                client.fetch_blob(f"urn:{number:04}")
        else:
            assert client.fetch_blob(f"urn:{number:04}").blob_digest == digest


def test_an_index_that_cannot_be_read_is_said_to_be(stopped, storage):
    os.truncate(storage / "index" / "data.mdb", 8192)
    done = run_assetctl("check", storage)
    assert done.returncode == 1
    assert "stop the server, move the directory away" in done.stderr
    assert f"{storage}/index" in done.stderr


def test_names_of_assets_do_nothing_to_a_terminal(server):
    uri = "urn:\x1b[31m\nblob \u009b"
    client = server.client()
    client.push_blob(uri, client.upload(b"content"))
    server.stop()
    name = struct.pack("<BBBI", 1, 0, 1, len(uri.encode())) + uri.encode() + bytes(4)
    key = struct.pack("<HHHH", 40, 0, 0, 32) + hashlib.sha256(name).digest()
    flip_everywhere(server.storage / "index" / "data.mdb", key, 8 + 31)
    (line,) = faults(check(server.storage, status=1))
    assert line.startswith(r"asset urn:\x1b[31m\x0ablob \xc2\x9b: it stands under")


# Which stores there are


def test_what_holds_no_store_is_refused_and_left_alone(folder):
    foreign = folder / "foreign" / "cas"
    foreign.mkdir(parents=True)
    (foreign / "objects").write_text("of another program")
    before = sorted(folder.rglob("*"))
    for options in [], ["--repair"]:
        for path, reason in [
            (folder / "missing", "No such file or directory"),
            (folder, "holds nothing of assetd"),
            (folder / "foreign", "holds nothing of assetd"),
            (foreign / "objects", "Not a directory"),
        ]:
            done = run_assetctl("check", path, *options)
            assert (done.returncode, done.stdout) == (1, "")
            assert re.search(f"^assetctl: .*{reason}", done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before


def test_an_index_alone_and_a_cas_alone(assetd, folder):
    storage = folder / "only"
    server = assetd(instances=[{"name": "", "storage": str(storage), "index-only": True}])
    client = server.client()
    client.push_blob("urn:elsewhere", digest_of(b"elsewhere"))
    assert check(storage) == [
        f"{storage}/index: 1 assets; whether their content is there was not looked up",
        f"{storage}: clean",
    ]
    assert not (storage / "cas").exists()
    other = assetd()
    other.client().upload(b"content")
    other.stop()
    shutil.rmtree(other.storage / "index")
    lines = check(other.storage)
    assert len(lines) == 2 and " 1 blobs in the table" in lines[0], lines
    assert not (other.storage / "index").exists()


def test_a_store_beside_a_foreign_one(assetd):
    server = assetd(start=False)
    (server.storage / "cas" / "objects").mkdir(parents=True)
    server.start()
    data = noise(5000)
    server.client().upload(data)
    server.stop()
    assert check(server.storage)[0].startswith(f"{server.storage}/assetd/cas: 1 segments")
    (path,) = (server.storage / "assetd" / "cas" / "log").iterdir()
    flip(path, 2000)
    check_repair(server.storage, name_of(digest_of(data)))


@pytest.mark.parametrize("store", ["cas", "index"])
def test_a_newer_format_is_refused(stopped, storage, store):
    path = storage / store / "format"
    kind = path.read_text().split()
    path.write_text(" ".join([*kind[:2], "99", kind[3]]) + "\n")
    done = run_assetctl("check", storage)
    assert done.returncode == 1
    assert "has format version 99" in done.stderr
    # The other one is checked all the same.
    assert f"{storage}/{'index' if store == 'cas' else 'cas'}: " in done.stdout


NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: no storage of another user")


def give_away(*paths):
    for path in paths:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@as_root
def test_root_leaves_no_files_of_its_own(stopped, storage):
    """What a check makes on the way, such as a lock, is the server's."""
    (storage / "index" / "data.mdb-lock").unlink()
    give_away(storage, *storage.rglob("*"))
    check_clean(storage)
    assert {path.stat().st_uid for path in storage.rglob("*")} == {NOBODY}


def roots_folder(folder):
    """What looks like a store of root's, and a file of root's."""
    mine = folder / "mine"
    mine.mkdir()
    (mine / "format").write_text("1\n")
    (mine / "secret").write_text("of root")
    (mine / "secret").chmod(0o600)
    return mine


def link_away(link, target):
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    give_away(link)


@as_root
@pytest.mark.parametrize("gone", ["cas", "index"])
@pytest.mark.parametrize("options", [[], ["--repair"]], ids=["look", "repair"])
def test_root_is_not_led_out_of_the_storage(folder, stopped, storage, gone, options):
    """The storage's owner puts links in it: to a store of root's, and to a file of root's."""
    mine = roots_folder(folder)
    give_away(storage, *storage.rglob("*"))
    link_away(storage / gone, mine)
    other = {"cas": "index/data.mdb-lock", "index": "cas/shared"}[gone]
    link_away(storage / other, mine / "secret")
    run_assetctl("check", storage, *options)
    assert (mine / "secret").read_text() == "of root"
    assert {path.name for path in mine.iterdir()} == {"format", "secret"}
    assert {path.stat().st_uid for path in mine.iterdir()} == {0}


@as_root
def test_root_goes_on_as_who_owns_a_part_of_its_storage(folder, stopped, storage):
    mine = roots_folder(folder)
    give_away(*(storage / "index").rglob("*"), storage / "index")
    link_away(storage / "index" / "data.mdb-lock", mine / "secret")
    done = run_assetctl("check", storage)
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert (mine / "secret").read_text() == "of root"


@as_root
def test_root_checks_no_storage_that_another_user_could_swap(folder, stopped, storage):
    theirs = folder / "theirs"
    theirs.mkdir()
    give_away(theirs)
    link_away(theirs / "link", storage)
    storage.rename(theirs / "main")
    (folder / "group").mkdir()
    (folder / "group" / "main").symlink_to(theirs / "main")
    shutil.copytree(theirs / "main", folder / "group" / "copy")
    os.chown(folder / "group", 0, NOBODY)
    (folder / "group").chmod(0o775)
    os.symlink(theirs / "main", storage)
    for path in theirs / "main", theirs / "link", storage, folder / "group" / "copy":
        done = run_assetctl("check", path)
        assert (done.returncode, done.stdout) == (1, ""), path
        assert "another user" in done.stderr
    give_away(theirs / "main", *(theirs / "main").rglob("*"))
    check_clean(theirs / "main")
    check_clean(storage)


@as_root
def test_root_follows_links_of_its_own(folder, stopped, storage):
    (folder / "link").symlink_to(storage)
    shutil.move(storage / "cas", folder / "elsewhere")
    (storage / "cas").symlink_to(folder / "elsewhere")
    assert check(folder / "link")[-1] == f"{folder}/link: clean"
    assert check(folder.name + "/link", cwd=folder.parent)[-1] == f"{folder.name}/link: clean"


# The command


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ([], "usage: assetctl COMMAND"),
        (["chekc"], "no command chekc; did you mean check\\? See assetctl --help$"),
        (["check"], "needs a storage directory"),
        (["check", ""], "needs a storage directory"),
        (["check", "/a", "/b"], "one storage directory: what is /b"),
        (["check", "--repar", "/a"], "no option --repar; did you mean --repair"),
        (["check", "--repair=yes", "/a"], "takes no value"),
    ],
)
def test_wrong_usage(arguments, reason):
    done = run_assetctl(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(reason, done.stderr), done.stderr


def test_help_and_version():
    done = run_assetctl("--help")
    assert done.returncode == 0 and "check STORAGE [--repair]" in done.stdout
    done = run_assetctl("check", "--help")
    assert done.returncode == 0 and "Exit status" in done.stdout
    done = run_assetctl("--version")
    version = run_assetd("--version").stdout.split()[1]
    assert (done.returncode, done.stdout) == (0, f"assetctl {version}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"]])
def test_help_that_nobody_can_read_is_an_error(arguments):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [ASSETCTL, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and "stdout" in done.stderr


def test_progress_goes_to_stderr(stopped, storage):
    done = run_assetctl("check", storage)
    assert re.findall(r"^cas: \d+ % of [0-9.]+ MiB, ", done.stderr, re.MULTILINE)
    assert "\r" not in done.stderr
    shown = shown_by_assetctl("check", storage)
    assert b"\rindex" in shown.replace(b"\x1b[K", b"") and b"\n" not in shown
