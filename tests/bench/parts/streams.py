# SPDX-License-Identifier: Apache-2.0
"""Large blobs, directly: what Read and Write cost for a GiB."""

import functools
import os
import shutil

from bench import checks, contestants, machine
from bench.options import GIB, MIB
from bench.rounds import Company, Measure, run_rounds, serving
from lib.content import digest_of, noise

NAME = "streams"
TITLE = "Read and Write, directly"

MEMORY_GOAL = "assetd: < 64"

# Memory that is used before a turn, more than it needs: of a turn of Write for what it writes, and
# at least so much; of one of Read for what is on its way.
WRITE_TOUCHED, READ_TOUCHED = GIB, 512 * MIB

# Seconds that one contestant takes of a measure, and a turn more. Who is slow takes fewer turns.
BUDGET = 2
ROUNDS = 3

SEVERAL = {"connections": 8, "in_flight": 16}
ALONE = {"connections": 1, "in_flight": 1}


def settle(memory):
    """The disk has what others wrote, and the machine has the bytes of MEMORY that come next."""
    os.sync()
    machine.touch_memory(memory)


def several(in_flight):
    return "one at a time" if in_flight == 1 else f"{in_flight} at a time"


def measure_of(verb, size, calls, blobs=None, **more):
    """Write of new blobs, or Read of the first BLOBS of those, again and again."""
    power, unit = (size // GIB, "g") if size >= GIB else (size // MIB, "m")

    def written(first):
        return {"size": size, "first": first}

    touched = max(2 * calls * size, WRITE_TOUCHED) if verb == "Write" else READ_TOUCHED
    more = {"rounds": ROUNDS, "before": functools.partial(settle, touched)} | more
    return Measure(
        f"{verb.lower()}-{power}{unit}",
        f"{verb} of {power} {unit.upper()}iB, {several(more['in_flight'])}",
        {"Write": "store", "Read": "fetch"}[verb],
        calls,
        size=size,
        budget=BUDGET,
        keys=written if verb == "Write" else written(0) | {"blobs": blobs or calls},
        **more,
    )


# By the storage that they share, which is gone before the next is filled. What is read was written
# in the first turn before it, at the latest.
GROUPS = (
    (
        measure_of("Write", MIB, 256, trial=128, **SEVERAL),
        measure_of("Read", MIB, 256, blobs=128, **SEVERAL),
    ),
    (
        measure_of(
            *("Write", 64 * MIB, 16), least=16, trial=2, goal="assetd: 2.7 s", **SEVERAL
        ),
        measure_of("Read", 64 * MIB, 16, least=16, trial=2, goal="assetd: 0.72 s", **SEVERAL),
    ),
    (
        measure_of("Write", GIB, 1, least=1, trial=0, rounds=2, **ALONE),
        measure_of("Read", GIB, 1, least=1, trial=0, rounds=2, **ALONE),
    ),
)


def bytes_written(measures, options):
    """At most, by one contestant."""
    turns = (min(options.rounds, measure.rounds) for measure in measures)
    return sum(
        (measure.trial + count * max(measure.calls, measure.least)) * measure.size
        for measure, count in zip(measures, turns)
        if measure.operation == "store"
    )


def check_stream(contestant):
    """What it was sent is what it sends."""
    blob = noise(MIB)
    with checks.asking(contestant) as client:
        client.write(blob)
        checks.require(contestant, client.read(digest_of(blob)) == blob, "Read of a blob of 1 MiB")


def check(contestant, rows):
    """What is written now, and of the smaller blobs what the last turn has written."""
    check_stream(contestant)
    for row in rows:
        if row.measure.operation == "store" and row.measure.size == MIB:
            for number in row.pushed_last():
                checks.check_stream(contestant, number, MIB)


def measure_group(measures, folder, options, company):
    """Measures with contestants that are new, and leaves nothing of them."""
    folder.mkdir()
    try:
        all_of_them = company.among(contestants.make(contestants.CAS, folder, "tcp", options))
        knowing = [one for one in all_of_them if one.name != "empty"]
        rows = []
        with serving(all_of_them, company):
            company.each(knowing, "a stream is checked", check_stream)
            for measure in measures:
                rows += run_rounds(measure, all_of_them, options, company)
            return company.check_again(knowing, rows, check)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory_facts(rows):
    peaks = {}
    for row in rows:
        name = row.contestant.name
        peaks[name] = max(peaks.get(name, 0), row.anonymous)
    for name, peak in peaks.items():
        goal = MEMORY_GOAL if name == "assetd" else None
        fact = {"title": "Private memory, the most", "contestant": name, "unit": "MiB RssAnon"}
        yield fact | {"values": [peak / MIB], "goal": goal}


def run(folder, options, progress):
    knowing = len(contestants.wanted(contestants.CAS, options)) - 1  # empty stores nothing
    most = max(bytes_written(measures, options) for measures in GROUPS)
    machine.require_room(folder, knowing * most + GIB)
    company, rows = Company(progress), []
    for number, measures in enumerate(GROUPS):
        rows += measure_group(measures, folder / f"g{number}", options, company)
    return {
        "rows": [row.as_json() for row in rows],
        "facts": [*memory_facts(rows)],
        "notes": [
            "16 at a time go over 8 connections. Messages of Write have 1 MiB. Who is slow takes"
            " fewer turns. Before each turn the disk has all that was written before, and memory"
            " has been used."
        ],
    }
