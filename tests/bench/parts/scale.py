# SPDX-License-Identifier: Apache-2.0
"""What calls cost, and what is taken of memory and disk, with few assets and blobs or many."""

import time

from bench import checks, machine, stores
from bench.options import MIB
from bench.rounds import Company, Measure, Turns, run_load, serving

NAME = "scale"
KEEPS = True
TITLE = "assetd by the number of assets, and as many blobs"

REST_GOAL = "< 20"
PEAK_GOAL = "< 64"
RATIO_GOAL = "10,000,000: <= 1.5"
DISK_GOAL = "blobs: 130"

HOT = 1000  # assets that are fetched again and again
# Calls that have the server map what it reads of the files.
WARM_CALLS, WARM_TIMES = 60_000, 4
REST_SECONDS = 6
COLD_CALLS = 2000


def measures(store):
    """Each at random, but for the pushes: those are of assets that are there, as they are."""
    everything = {"assets": store.size, **store.blobs}
    few = {"assets": HOT, **store.blobs}
    name, half, label = store.size, store.size // 2, f"of {store.label}"
    return [
        Measure(
            *(f"hit-{name}", f"FetchBlob, hit, any {label}", "fetch-asset", 40_000),
            keys=lambda first: everything | {"seed": 1 + first},
        ),
        Measure(
            *(f"hot-{name}", f"FetchBlob, hit, one of {HOT} {label}", "fetch-asset", 40_000),
            keys=lambda first: few | {"seed": 1 + first},
        ),
        Measure(
            *(f"push-{name}", f"PushBlob, of what is there, {label}", "push-asset"),
            calls=min(10_000, half),  # none is of an asset that is not there
            keys=lambda first: store.blobs
            | {"first": first % half, "references": stores.REFERENCES},
        ),
        Measure(
            *(f"find-{name}", f"FindMissingBlobs of 100, any {label}", "find", 5000),
            keys=lambda first: store.blobs | {"seed": 1 + first},
        ),
        Measure(
            *(f"read-{name}", f"BatchReadBlobs of 100 x 1 KiB, {label}", "read-random", 5000),
            keys=lambda first: store.blobs | {"seed": 1 + first},
        ),
    ]


def fact(title, store, values, unit, goal=None):
    contestant = f"assetd, {store.label}"
    return {
        "title": title,
        "contestant": contestant,
        "values": values,
        "unit": unit,
        "goal": goal,
    }


def at_rest(servers, progress):
    """What each takes when it has just begun to serve, and while nobody asks for anything."""
    for server in servers:
        run_load(server, "first-asset", assets=server.store.size, **server.store.blobs)
    progress("nobody asks for anything")
    memory = [machine.memory_of(server.pids()) for server in servers]
    before = [machine.cpu_of(server.pids()) for server in servers]
    time.sleep(REST_SECONDS)
    for server, (anonymous, mapped), cpu in zip(servers, memory, before):
        store = server.store
        minute = (machine.cpu_of(server.pids()) - cpu) * 60 / REST_SECONDS * 1000
        both = [(anonymous + mapped) / MIB]
        yield fact("Memory after the first answer, anon and file", store, both, "MiB", REST_GOAL)
        yield fact("Memory after the first answer, anon", store, [anonymous / MIB], "MiB")
        yield fact("CPU of a minute in which nobody asks", store, [minute], "ms")


def on_disk(store):
    size, made = store.size, store.made
    blobs = made["bytes"]["cas"] - made["records"]
    yield fact("Bytes on disk of an asset", store, [made["bytes"]["index"] / size], "bytes")
    yield fact(
        *("Bytes on disk of a blob, beside its record", store, [blobs / size], "bytes", DISK_GOAL)
    )


def warm(server, progress):
    store = server.store
    progress(f"{store.label}: warms up")
    checks.check_index(server, numbers=(0, 1, store.size - 1))
    for turn in range(WARM_TIMES):
        calls = min(WARM_CALLS, store.size)
        keys = {"assets": store.size, "seed": (1 << 40) + turn, **store.blobs}
        run_load(server, "fetch-asset", calls=calls, connections=8, in_flight=64, **keys)
        run_load(server, "find", calls=calls // 100, connections=8, in_flight=64, **keys)


def take_rounds(servers, options, progress):
    """The stores take turns; returns the rows, measure by measure, with their stores."""
    taken = []
    for several in zip(*(measures(server.store) for server in servers)):
        taking = [Turns(measure, server) for measure, server in zip(several, servers)]
        for turns in taking:
            progress(f"{turns.measure.title}: warms up")
            turns.try_out(options)
        for number in range(options.rounds):
            for turns in taking:
                progress(f"{turns.measure.title}: round {number + 1} of {options.rounds}")
                turns.take()
        taken += [(turns.row, turns.contestant.store) for turns in taking]
    return taken


def compare_hits(taken):
    """Round by round, with the smallest store."""
    for kind, what in (("hit", "any"), ("hot", f"one of {HOT}")):
        hits = [(row.costs, store) for row, store in taken if row.measure.name.startswith(kind)]
        least, smallest = hits[0]
        for costs, store in hits[1:]:
            ratios = [cost / other for cost, other in zip(costs, least)]
            title = f"FetchBlob, hit, {what}: CPU, to that with {smallest.label}"
            yield fact(title, store, ratios, "times", RATIO_GOAL)


def peaks(taken, all_stores):
    for store in all_stores:
        rows = [row for row, of in taken if of is store]
        most = max(row.anonymous for row in rows)
        yield fact("Memory under all of this, anon", store, [most / MIB], "MiB", PEAK_GOAL)
    for store in all_stores:
        most = max(row.mapped for row, of in taken if of is store)
        yield fact("Memory under all of this, file", store, [most / MIB], "MiB")


def cold(server, progress):
    """What hits cost when the machine has nothing of the store in memory."""
    store = server.store
    server.stop()
    progress(f"{store.label}: the machine forgets what it has read")
    machine.forget_pages(store.path)
    server.start()
    keys = {"assets": store.size, "seed": time.time_ns() % (1 << 62), **store.blobs}
    keys |= {"connections": 8, "in_flight": 64, "check": server.check}
    result = run_load(server, "fetch-asset", server.pids(), calls=COLD_CALLS, **keys)
    calls = result["calls"]
    title = "FetchBlob, any, with nothing in the page cache"
    yield fact(f"{title}: CPU", store, [sum(result["cpu"]) * 1e6 / calls], "us")
    yield fact(title, store, [calls / result["seconds"]], "calls/s")


def run(folder, options, progress):
    all_stores = [
        stores.open_store(size, folder, options, progress) for size in stores.sizes(options)
    ]
    servers = [stores.Server(folder / f"c{store.size}", store) for store in all_stores]
    with serving(servers, Company(progress)):
        facts = [*at_rest(servers, progress)]
        with stores.in_memory(all_stores):
            for server in servers:
                warm(server, progress)
            taken = take_rounds(servers, options, progress)
        facts += compare_hits(taken)
        facts += peaks(taken, all_stores)
        for store in all_stores:
            facts += on_disk(store)
        facts += cold(servers[-1], progress)
    return {
        "rows": [row.as_json() for row, _ in taken],
        "facts": facts,
        "notes": [
            "64 calls in flight over 8 connections. Index and digest tables are in the page cache,"
            " but where it says otherwise, and mapped by a server that has been asked before."
            f" Assets have {stores.REFERENCES} references, to"
            f" {stores.BASE:,} blobs of 1 KiB; all other blobs have 16 bytes."
        ],
    }
