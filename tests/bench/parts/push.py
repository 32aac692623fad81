# SPDX-License-Identifier: Apache-2.0
"""PushBlob: what a push costs that is durable before it is answered, by few clients and by many."""

import statistics

from bench import checks, contestants
from bench.contestants.ours import Assetd
from bench.options import BUILD
from bench.parts.index import ASSETS, HIT, REFERENCES, put_assets
from bench.rounds import PUSH, Company, Measure, run_rounds, serving

NAME = "push"
TITLE = "PushBlob, directly"

CLIENTS = (1, 16, 64)

# Microseconds that an fsync takes longer on the slow disk.
SLOWER = 2000


class OnSlowDisk(Assetd):
    """assetd on a disk whose fsync takes SLOWER microseconds more than this machine's."""

    name = "assetd, slow disk"

    def environment(self):
        preloaded = {"LD_PRELOAD": str(BUILD / "bench" / "slow_sync.so")}
        return super().environment() | preloaded | {"SLOW_SYNC_US": str(SLOWER)}


def measure_of(clients):
    return Measure(
        f"push-{clients}",
        f"PushBlob, {clients} client{'s' if clients > 1 else ''}",
        "push-asset",
        {1: 2000, 16: 10_000, 64: 20_000}[clients],
        connections=clients,
        in_flight=clients,
        keys=lambda first: {"first": ASSETS + clients * 10_000_000 + first}
        | {"references": REFERENCES},
        goal="assetd: 4 x the CPU of a hit" if clients == 64 else None,
    )


def prepare(contestant):
    if contestant.name == "empty":
        return
    put_assets(contestant)
    checks.check_index(contestant)


def check(contestant, rows):
    """What was there from the beginning, and what the last turns have pushed."""
    checks.check_index(contestant)
    for row in rows:
        if row.measure.operation == PUSH:
            checks.check_index(contestant, row.pushed_last())


def median_rate(rows, name, measure):
    for row in rows:
        if row.contestant.name == name and row.measure.name == measure:
            return statistics.median(row.rates)
    raise RuntimeError(f"{name} made no {measure}")


def group_commit(rows):
    """How many times one client's rate, who waits for a commit with each push, many have."""
    one = median_rate(rows, OnSlowDisk.name, "push-1")
    many = median_rate(rows, OnSlowDisk.name, "push-64")
    return {
        "title": f"rate of 64 clients by that of one, fsync {SLOWER / 1000:g} ms slower",
        "contestant": OnSlowDisk.name,
        "values": [many / one],
        "unit": "x",
        "goal": ">= 8",
    }


def run(folder, options, progress):
    company = Company(progress)
    all_of_them = contestants.make(contestants.INDEX, folder, "tcp", options)
    all_of_them = [one for one in all_of_them if one.has_cas or not one.is_durable]
    all_of_them.append(OnSlowDisk(folder / "slow"))
    rows = []
    with serving(all_of_them, company):
        company.each(all_of_them, "content is put there", prepare)
        for clients in CLIENTS:
            rows += run_rounds(measure_of(clients), all_of_them, options, company)
        fast = [one for one in all_of_them if one.name != OnSlowDisk.name]
        rows += run_rounds(HIT, fast, options, company)
        knowing = [one for one in all_of_them if one.name != "empty"]
        rows = company.check_again(knowing, rows, check)
    return {
        "rows": [row.as_json() for row in rows],
        "facts": [group_commit(rows)],
        "notes": [
            "Each client has a connection of its own and waits for each answer. assetd answers when"
            " content and entry are on the disk; who shares an fsync with others waits for one all"
            " the same."
        ],
    }
