# SPDX-License-Identifier: Apache-2.0
"""What a user of BuildStream waits for, and what that costs the server: a real bst at work."""

import contextlib
import os
import re
import shutil
import time

from bench import machine
from bench.contestants.old_server import OldServer
from bench.contestants.ours import Assetd
from bench.options import MIB
from bench.projects import ALL, Project, User, seconds_of_jobs
from bench.rounds import Company
from lib.bst import BstError

NAME = "bst"
KEEPS = True
TITLE = "A real bst pushes and pulls"

ROUNDS = 5  # at most

# Seconds for the rounds of one project: none begins that would probably end later.
SPAN = 75

# Seconds in which a server has to do nothing to be taken as done, and those it is given for that.
SETTLED, SETTLING = 0.1, 3

WALL, JOBS, CPU = "s wall", "s wall, bst's start not in it", "s CPU of the server"
GOALS = {
    WALL: "no slower than the old server",
    JOBS: None,
    CPU: "less than half of the old server's",
}


def projects(options):
    count, size = (5, 4 * MIB) if options.quick else (200, 256 * MIB)
    return (
        Project("small", f"{count} small elements", elements=count),
        Project("large", f"a file of {size // MIB} MiB", size=size),
    )


class Facts:
    """Figures by what was done, what of it was measured, and with whom."""

    def __init__(self):
        self.values = {}

    def add(self, title, contestant, figures):
        for unit, value in figures.items():
            self.values.setdefault((title, unit, contestant.name), []).append(round(value, 4))

    def drop(self, title, contestant):
        """Of a project, what was measured with a contestant that is left out."""
        for key in [*self.values]:
            if key[0].endswith(f" of {title}") and key[2] == contestant.name:
                del self.values[key]

    def as_json(self):
        return [
            {"title": title, "contestant": name, "values": values, "unit": unit}
            | {"goal": GOALS[unit] if name == Assetd.name else None}
            for (title, unit, name), values in self.values.items()
        ]


def settled_time(contestant):
    """Seconds of CPU that a server's processes have taken when it has nothing left to do."""
    end = time.monotonic() + SETTLING
    taken = machine.cpu_of(contestant.pids())
    while time.monotonic() < end:
        time.sleep(SETTLED)
        before, taken = taken, machine.cpu_of(contestant.pids())
        if taken - before < SETTLED / 100:
            break
    return taken


def transfer(user, project, verb, contestant):
    """Has bst push or pull all of the project; returns what was measured."""
    # Neither what others wrote is to be waited for, nor memory to be used for the first time.
    os.sync()
    machine.touch_memory(project.room)
    cpu = settled_time(contestant)
    begun = time.monotonic()
    printed = user.run("artifact", verb, "--deps", "all", ALL)
    wall = time.monotonic() - begun
    cpu = settled_time(contestant) - cpu
    done = re.search(rf"{verb} Queue: *processed (\d+), *skipped 0, *failed 0", printed, re.I)
    if not done or int(done[1]) != project.count:
        count = project.count
        raise RuntimeError(f"bst did not {verb} all {count} artifacts:\n{printed[-4000:]}")
    return {WALL: wall, JOBS: seconds_of_jobs(printed, verb), CPU: cpu}


def take_turn(project, pusher, contestant, facts, is_first):
    """A push to a server that is new, and a pull by a user who has nothing yet."""
    with served(contestant):
        try:
            use(project, pusher, contestant, facts, is_first)
        except BstError as reason:
            raise contestant.failure(str(reason)) from reason


def use(project, pusher, contestant, facts, is_first):
    servers = [{"url": f"http://{contestant.address}", "push": True}]
    pusher.configure(servers)
    figures = transfer(pusher, project, "push", contestant)
    facts.add(f"push of {project.title}", contestant, figures)
    puller = User(contestant.folder / "puller", project.path, servers)
    figures = transfer(puller, project, "pull", contestant)
    facts.add(f"pull of {project.title}", contestant, figures)
    if is_first:
        checkout = puller.folder / "checkout"
        puller.run("artifact", "checkout", "--directory", checkout, ALL)
        project.require_whole(checkout)


@contextlib.contextmanager
def served(contestant):
    """It serves within the block, and nothing of it stays."""
    try:
        contestant.start()
        yield
        contestant.stop()
    finally:
        contestant.kill()
        shutil.rmtree(contestant.folder)


def measure(project, kinds, folder, options, company, facts):
    """Returns a line on how long bst takes for itself, and how many rounds there were."""
    company.progress(f"{project.title}: built, unless that is kept")
    project.take(folder / project.name, options.kept)
    pusher = User(folder / f"{project.name}-pusher", project.path)
    project.cache.rename(pusher.cache)
    begun = time.monotonic()
    pusher.run("show", ALL)
    alone = time.monotonic() - begun
    rounds = min(options.rounds, ROUNDS)
    begun = time.monotonic()
    for number in range(rounds):
        company.progress(f"{project.title}: round {number + 1} of {rounds}")
        # Who is second in one round is first in the next.
        for kind in company.among(kinds[:: -1 if number % 2 else 1]):
            contestant = kind(folder / "server")
            turn = (project, pusher, contestant, facts, number == 0)
            if not company.let(contestant, project.title, take_turn, *turn):
                facts.drop(project.title, contestant)
        if (time.monotonic() - begun) * (number + 2) / (number + 1) > SPAN:
            break
    return (
        f"{project.title}, rounds: {number + 1}. The first one's checkout was compared."
        f" bst show took {alone:.1f} s without a server."
    )


def run(folder, options, progress):
    company, facts = Company(progress), Facts()
    kinds = [kind for kind in (Assetd, OldServer) if options.takes(kind.name)]
    notes = [
        "Over TCP, without TLS; each push goes to a new server, each pull to a user with nothing."
        " bst's own start is the same with any server; the third figure is from the beginning of"
        " its first job to the end of its last. What assetd has taken is on the disk by then."
    ]
    try:
        for project in projects(options):
            notes.append(measure(project, kinds, folder, options, company, facts))
    except BstError as reason:
        raise RuntimeError(str(reason)) from reason
    return {"rows": [], "facts": facts.as_json(), "notes": notes}
