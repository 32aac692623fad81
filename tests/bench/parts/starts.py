# SPDX-License-Identifier: Apache-2.0
"""How soon assetd answers, by how it ended and by how much it holds."""

import json
import pathlib
import struct
import subprocess
import time

from bench import machine, stores
from bench.options import BUILD, PATIENCE
from bench.rounds import run_load

NAME = "starts"
KEEPS = True
TITLE = "assetd from its start to its first answers"

ENDS = ("a clean stop", "a clean stop and a reboot", "a kill", "a power cut")
GOAL = "< 1000"
ROUNDS = 3

# Calls before each end: they leave segments open, and uses of assets that are not written yet.
FETCHES, UPDATES, PUSHES = 2000, 20, 100

# Of cas/shared: where the id of the boot stands, behind it the flag of a clean end.
BOOT_ID = slice(32, 72)
CLEAN = slice(72, 76)


def use(server, first):
    keys = {"connections": 8, "in_flight": 64, "check": server.check, **server.store.blobs}
    keys |= {"assets": server.store.size, "seed": first}
    run_load(server, "fetch-asset", calls=FETCHES, **keys)
    run_load(server, "find", calls=FETCHES // 10, **keys)
    run_load(server, "push-asset", calls=PUSHES, references=stores.REFERENCES, **keys)
    run_load(server, "update", calls=UPDATES, first=first, **keys)


def other_boot(storage, is_clean):
    """Makes the store one that was left in another boot."""
    with open(storage / "cas" / "shared", "r+b") as shared:
        header = bytearray(shared.read(4096))
        (clean,) = struct.unpack("<I", header[CLEAN])
        here = pathlib.Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        if header[BOOT_ID][: len(here)] != here or clean != is_clean:
            raise RuntimeError("cas/shared is not as this program knows it")
        header[BOOT_ID] = b"00000000-0000-0000-0000-000000000000".ljust(40, b"\0")
        shared.seek(0)
        shared.write(header)


def end(server, how):
    is_clean = how.startswith("a clean")
    if is_clean:
        server.stop()
    else:
        server.kill()
    if how in ("a clean stop and a reboot", "a power cut"):
        other_boot(server.storage, is_clean)
        machine.forget_pages(server.storage)


def begin_asking(server, operation, seed):
    """A client that tries until it is answered, ready before the server is."""
    keys = {"assets": server.store.size, "seed": seed, **server.store.blobs}
    command = [BUILD / "bench" / "load", server.address, operation]
    command += [f"{key}={value}" for key, value in keys.items()]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)


def answer_of(client, server):
    text, _ = client.communicate(timeout=PATIENCE)
    server.require(client.returncode == 0, "did not answer")
    return json.loads(text)


def wait_logged(server, event, count, begun):
    """Milliseconds until the log has the event once more than COUNT times."""
    while server.log().count(f"event={event} ") <= count:
        server.require(time.monotonic() < begun + PATIENCE, f"logged no {event}")
        time.sleep(0.002)
    return (time.monotonic() - begun) * 1000


def start(server, how, seed):
    """Starts the server; milliseconds until it does what, by its name."""
    count = server.log().count("event=cas-rebuild-begin ")
    clients = [begin_asking(server, name, seed) for name in ("first-answer", "first-asset")]
    try:
        time.sleep(0.2)
        begun = time.monotonic()
        server.launch()
        find, fetch = [answer_of(client, server) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.wait()
    took = {
        "the first answer to FindMissingBlobs": (find["right"] - begun) * 1000,
        "the first hit of FetchBlob": (fetch["right"] - begun) * 1000,
    }
    if how == "a power cut":
        took["all blobs are known"] = wait_logged(server, "cas-rebuilt", count, begun)
    else:
        is_rebuilt = server.log().count("event=cas-rebuild-begin ") > count
        server.require(not is_rebuilt, f"made its tables anew after {how}")
    return took


def measure(server, rounds, progress):
    """All starts of one store; milliseconds, by the end before it and what was waited for."""
    store, found = server.store, {}
    first = time.time_ns() // 1000
    try:
        server.start()
        for number in range(rounds):
            for how in ENDS:
                progress(f"{store.label}: after {how}, round {number + 1} of {rounds}")
                use(server, first)
                first += UPDATES * 100
                end(server, how)
                for what, took in start(server, how, first).items():
                    found.setdefault((how, what), []).append(took)
        server.stop()
    finally:
        server.kill()
    return found


def run(folder, options, progress):
    facts = []
    for size in stores.sizes(options):
        store = stores.open_store(size, folder, options, progress)
        server = stores.Server(folder / f"c{size}", store)
        found = measure(server, min(options.rounds, ROUNDS), progress)
        for (how, what), values in found.items():
            fact = {"title": f"After {how}: {what}", "contestant": f"assetd, {store.label}"}
            goal = None if what == "all blobs are known" else GOAL
            facts.append(fact | {"values": values, "unit": "ms", "goal": goal})
    return {
        "rows": [],
        "facts": facts,
        "notes": [
            "From the start of the process, with two clients that try to connect every millisecond;"
            " digests and assets at random. A reboot is another id of the boot, with nothing of the"
            " store in the page cache, as far as that lies with this machine; a power cut is a kill"
            " and a reboot. Before each end assets were fetched and pushed, and blobs stored."
        ],
    }
