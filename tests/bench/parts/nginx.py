# SPDX-License-Identifier: Apache-2.0
"""Servers behind nginx with TLS: the same files, which are those that are shipped, before each."""

import statistics

from bench import checks, contestants
from bench.contestants.front import Behind, Keys, ShippedAssetd
from bench.contestants.ours import Assetd, Empty, IndexOnly
from bench.options import MIB
from bench.parts.index import ASSETS, REFERENCES, put_assets
from bench.rounds import Company, Measure, run_load, run_rounds, serving

NAME = "nginx"
TITLE = "behind nginx with TLS"

BATCHES = {"connections": 8, "in_flight": 16}

# Large blobs that are there to be read, all at the same time.
STREAM = 64 * MIB
STREAMS = 4

HIT = Measure(
    *("nginx-hit", "FetchBlob, hit, 3 references", "fetch-asset", 10_000),
    keys={"assets": ASSETS},
    goal="assetd: 45 us, with nginx 2/3 of bb-remote-asset's and less than casd's",
)
PUSH = Measure(
    *("nginx-push-64", "PushBlob, 64 clients", "push-asset", 10_000),
    connections=64,
    keys=lambda first: {"first": ASSETS + first, "references": REFERENCES},
)
# What is read by anyone who pulls.
CONTENT = (
    Measure(
        *("nginx-find", "FindMissingBlobs of 100, all there", "find", 5000),
        **BATCHES,
        keys=lambda first: {"seed": 1 + first},
    ),
    Measure(*("nginx-read", "BatchReadBlobs of 100 x 1 KiB", "read", 2000), **BATCHES),
    Measure(
        *("nginx-read-64m", "Read of 64 MiB, 4 at a time", "fetch", STREAMS),
        connections=STREAMS,
        in_flight=STREAMS,
        least=STREAMS,
        size=STREAM,
        budget=8,
        keys={"size": STREAM, "first": 0},
    ),
)


def make(folder, options):
    """All that have an index, but for those that there is no use for behind nginx."""
    names = [one for one in contestants.INDEX if one not in (Empty, Assetd, IndexOnly)]
    made = contestants.make([ShippedAssetd, *names], folder / "servers", "unix", options)
    keys = Keys(folder / "keys")
    return [Behind(one, keys) for one in made]


def prepare(behind):
    """Puts all that is asked for, past nginx."""
    contestant = behind.contestant
    put_assets(contestant)
    if contestant.has_cas:
        keys = {"size": STREAM, "first": 0, "check": "status"}
        run_load(contestant, "store", calls=STREAMS, connections=2, in_flight=2, **keys)
    check(behind, ())


def check(behind, rows):
    """By both ports; what the last turn has pushed as well."""
    for port in (behind.pull, behind):
        checks.check_index(port)
        if behind.has_cas:
            checks.check_cas(port)
    for row in rows:
        if row.measure is PUSH:
            checks.check_index(behind.pull, row.pushed_last())


def medians_of(rows):
    """Of FetchBlob, what each server takes together with its nginx."""
    return {
        row.contestant.name: statistics.median(map(sum, zip(row.costs, row.front_costs)))
        for row in rows
        if row.measure is HIT
    }


def comparison(rows):
    """How assetd with nginx stands to each of the others with it."""
    medians = medians_of(rows)
    own = medians.pop(ShippedAssetd.name)
    shares = "".join(f", {own / other:.2f} of {name}'s" for name, other in medians.items())
    return f"FetchBlob: nginx and assetd together take {own:.0f} us{shares}."


def run(folder, options, progress):
    company = Company(progress)
    all_of_them = make(folder, options)
    with serving(all_of_them, company):
        company.each(all_of_them, "content is put there", prepare)
        pulling = [behind.pull for behind in all_of_them]
        with_content = [port for port in pulling if port.has_cas]
        rows = run_rounds(HIT, pulling, options, company)
        rows += run_rounds(PUSH, all_of_them, options, company)
        for measure in CONTENT:
            rows += run_rounds(measure, with_content, options, company)
        rows = company.check_again(all_of_them, rows, check)
    return {
        "rows": [row.as_json() for row in rows],
        "facts": [],
        "notes": [
            comparison(rows),
            "Each has an nginx of its own before it, with the shipped site of two ports: pushes"
            " come by the port for clients with a certificate, all else by the one for anyone."
            " FetchBlob: 64 calls in flight over 8 connections; batches: 16. nginx reaches servers"
            " by unix sockets, where they can serve at one.",
        ],
    }
