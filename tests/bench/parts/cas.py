# SPDX-License-Identifier: Apache-2.0
"""Calls of the CAS, directly: a hundred digests or small blobs at once."""

from bench import checks, contestants, machine
from bench.options import GIB, MIB
from bench.rounds import Company, Measure, run_load, run_rounds, serving

NAME = "cas"
TITLE = "FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs, directly"

BATCH = 100  # blobs of a call, of 1 KiB each

# Of one contestant, at most: what it stores takes several times its size where each blob is a file.
ROOM = 2500 * MIB
TOUCHED = 2 * GIB

LOAD = {"connections": 8, "in_flight": 16}
MEASURES = (
    Measure(
        *("find", "FindMissingBlobs of 100, all there", "find", 5000),
        **LOAD,
        keys=lambda first: {"seed": 1 + first},
        goal="assetd: 100 us",
    ),
    Measure(
        *("update", "BatchUpdateBlobs of 100 x 1 KiB, new", "update", 1000),
        **LOAD,
        least=32,
        keys=lambda first: {"first": first * BATCH},
        goal="assetd: 500 us",
    ),
    Measure(
        *("read", "BatchReadBlobs of 100 x 1 KiB, as they were stored", "read", 2000),
        **LOAD,
        goal="assetd: 450 us",
    ),
    Measure(
        *("read-random", "BatchReadBlobs of 100 x 1 KiB, at random", "read-random", 2000),
        **LOAD,
        keys=lambda first: {"seed": 1 + first},
    ),
)


def prepare(contestant):
    run_load(contestant, "fill", connections=4, in_flight=4, check="status")
    checks.check_cas(contestant)


def check(contestant, rows):
    """All that was there, and what the last turn has stored."""
    checks.check_cas(contestant)
    for row in rows:
        if row.measure.operation == "update":
            checks.check_cas(contestant, row.pushed_last(BATCH), checks.NEW)


def run(folder, options, progress):
    company = Company(progress)
    all_of_them = contestants.make(contestants.CAS, folder, "tcp", options)
    knowing = [one for one in all_of_them if one.name != "empty"]
    machine.require_room(folder, len(knowing) * ROOM)
    if not options.quick:
        progress("memory is used for the first time")
        machine.touch_memory(TOUCHED)
    rows = []
    with serving(all_of_them, company):
        company.each(knowing, "content is put there", prepare)
        for measure in MEASURES:
            rows += run_rounds(measure, all_of_them, options, company)
        rows = company.check_again(knowing, rows, check)
    return {
        "rows": [row.as_json() for row in rows],
        "facts": [],
        "notes": [
            "16 calls in flight over 8 connections; 10,000 blobs are there from the beginning. A"
            " blob need not be on the disk when it is acknowledged: a push sees to what it names."
        ],
    }
