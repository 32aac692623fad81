# SPDX-License-Identifier: Apache-2.0
"""Rounds in which the contestants take turns, so that what else the machine does meets all."""

import contextlib
import json
import math
import subprocess

from bench import machine
from bench.options import BUILD, GIB, PATIENCE

# What a contestant may fail with.
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)

# Of a turn that is there to find out how fast a contestant is.
TRIAL_SHARE = 20

PUSH = "push-asset"


class Company:
    """
    The contestants of a part. One that fails, whatever it is that it was to do, is left out from
    then on, with a warning; the failure of ours is the part's. One that stands behind something
    else has the same name there.
    """

    def __init__(self, progress):
        self.progress = progress
        self.left_out = set()  # names

    def has(self, contestant):
        return contestant.name not in self.left_out

    def among(self, contestants):
        return [*filter(self.has, contestants)]

    def let(self, contestant, what, step, *arguments):
        """Has it take a step of WHAT, shown if it is left out; returns whether it did."""
        try:
            step(*arguments)
            return True
        except FAILURES as reason:
            if contestant.is_ours:
                raise
            self.left_out.add(contestant.name)
            why = str(reason).removeprefix(f"{contestant.name}: ")
            self.progress.warn(f"{what}: {contestant.name} is left out: {why}")
            contestant.kill()
            return False

    def each(self, contestants, what, step):
        for contestant in self.among(contestants):
            self.progress(f"{contestant.name}: {what}")
            self.let(contestant, what, step, contestant)

    def check_again(self, contestants, rows, check):
        """
        After the rounds, CHECK(contestant, its rows); returns ROWS without those of who is no
        longer right: its figures mean nothing.
        """
        wrong = set()
        for contestant in self.among(contestants):
            self.progress(f"{contestant.name}: is checked once more")
            own = [row for row in rows if row.contestant.name == contestant.name]
            if not self.let(contestant, "after the rounds", check, contestant, own):
                wrong.add(contestant.name)
        return [row for row in rows if row.contestant.name not in wrong]


class Measure:
    """
    One thing that is measured: an operation of load(1), by IN_FLIGHT calls over CONNECTIONS, with
    KEYS as they are or, if callable, as made from the number of the first call of a turn.
    A turn has CALLS calls, fewer where a contestant would take much longer than a turn is to take,
    LEAST at least. The unit of its cost is microseconds of CPU for a call, or seconds for a GiB if
    SIZE, the bytes of a call, is given. TRIAL: calls that show how fast a contestant is; 0: none
    are made, and a turn has CALLS. Who has taken BUDGET seconds, or ROUNDS turns, takes no more.
    BEFORE is called before each turn, outside of what is measured.
    """

    def __init__(self, name, title, operation, calls, **more):
        self.name, self.title, self.operation, self.calls = name, title, operation, calls
        self.connections = more.pop("connections", 8)
        self.in_flight = more.pop("in_flight", 64)
        self.least = more.pop("least", 64)
        self.trial = more.pop("trial", max(calls // TRIAL_SHARE, self.least))
        self.rounds = more.pop("rounds", math.inf)
        self.budget = more.pop("budget", math.inf)
        self.before = more.pop("before", lambda: None)
        self.size = more.pop("size", None)
        self.keys = more.pop("keys", {})
        self.goal = more.pop("goal", None)  # text for the table
        assert not more, more

    @property
    def unit(self):
        return "s/GiB" if self.size else "us"

    def cost(self, seconds, calls):
        """Seconds of CPU in this measure's unit."""
        return seconds * GIB / (calls * self.size) if self.size else seconds * 1e6 / calls

    def keys_of(self, first):
        return self.keys(first) if callable(self.keys) else self.keys


class Row:
    """What the rounds of one measure have shown of one contestant."""

    def __init__(self, measure, contestant):
        self.measure, self.contestant = measure, contestant
        self.costs = []  # of the server's processes
        self.front_costs = []  # of what stands in front of it
        self.rates = []  # calls a second
        self.anonymous = self.mapped = 0  # bytes, the most that was seen
        self.last = range(0)  # the calls of the last turn, by their numbers

    def add(self, result, peak, own):
        """OWN: how many of the processes, the first ones, are the server's own."""
        calls, cpu = result["calls"], result["cpu"]
        self.costs.append(self.measure.cost(sum(cpu[:own]), calls))
        self.front_costs.append(self.measure.cost(sum(cpu[own:]), calls))
        self.rates.append(calls / result["seconds"])
        self.anonymous = max(self.anonymous, peak.anonymous)
        self.mapped = max(self.mapped, peak.mapped)

    def pushed_last(self, per_call=1):
        """
        Some of what the last turn has put there, by the numbers that load(1) gave them: of its
        first call, one in the middle and the last one.
        """
        if not self.last:
            return []
        first = self.measure.keys_of(self.last.start)["first"]
        count = len(self.last) * per_call
        return sorted({first, first + count // 2, first + count - 1})

    def as_json(self):
        row = {
            "measure": self.measure.name,
            "title": self.measure.title,
            "goal": self.measure.goal,
            "contestant": self.contestant.name,
            # Only of a push is it promised.
            "durable": self.contestant.is_durable if self.measure.operation == PUSH else None,
            "unit": self.measure.unit,
            "cpu": self.costs,
            "calls_per_second": self.rates,
            "rss_anon": self.anonymous,
            "rss_file": self.mapped,
        }
        if self.measure.size:
            row["bytes_per_call"] = self.measure.size
        if any(self.front_costs):
            row["front_cpu"] = self.front_costs
        return row


def run_tool(name, *arguments, timeout=PATIENCE):
    """Runs one of the benchmark's own programs; returns the JSON that it prints."""
    command = " ".join(map(str, (name, *arguments)))
    try:
        done = subprocess.run(
            [BUILD / "bench" / name, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as reason:
        raise RuntimeError(f"{command}: no end in {timeout} s") from reason
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise RuntimeError(f"{command}: {said}")
    return json.loads(done.stdout)


def run_load(contestant, operation, pids=(), **keys):
    """One run of load(1) at a contestant, with the CPU time of PIDS; returns what it found."""
    pairs = [f"{key.replace('_', '-')}={value}" for key, value in keys.items()]
    pairs += [f"{key}={value}" for key, value in contestant.tls.items()]
    pairs += [f"pid={pid}" for pid in pids]
    try:
        return run_tool("load", contestant.address, operation, *pairs)
    except RuntimeError as reason:
        raise contestant.failure(str(reason)) from reason


def take_turn(measure, contestant, calls, first):
    own = contestant.pids()
    front = contestant.front_pids() if hasattr(contestant, "front_pids") else []
    keys = {"connections": measure.connections, "in_flight": measure.in_flight}
    keys |= {"calls": calls, "check": contestant.check} | measure.keys_of(first)
    with machine.Peak(own) as peak:
        result = run_load(contestant, measure.operation, [*own, *front], **keys)
    return result, peak, len(own)


def share(measure, calls, seconds, options):
    """How many calls a turn is to have, by how long a trial took."""
    wanted = int(calls / max(seconds, 1e-6) * options.turn)
    return max(min(wanted, measure.calls), measure.least)


class Turns:
    """What one contestant has done of a measure."""

    def __init__(self, measure, contestant):
        self.measure, self.contestant = measure, contestant
        self.row = Row(measure, contestant)
        self.calls = measure.calls  # of a turn
        self.first = 0  # of the next turn
        self.seconds = 0

    def try_out(self, options):
        """Warms up."""
        trial = self.measure.trial
        if trial:
            result, _, _ = take_turn(self.measure, self.contestant, trial, 0)
            self.calls = share(self.measure, trial, result["seconds"], options)
            self.first = trial

    def take(self):
        self.measure.before()
        result, peak, own = take_turn(self.measure, self.contestant, self.calls, self.first)
        self.row.add(result, peak, own)
        self.row.last = range(self.first, self.first + self.calls)
        self.first += self.calls
        self.seconds += result["seconds"]

    @property
    def is_over(self):
        return self.seconds >= self.measure.budget


def run_rounds(measure, contestants, options, company):
    """
    Measures those of CONTESTANTS, which serve, that are still in the company, in turn; returns the
    rows of who did it all. They warm up before the first round.
    """
    taking = [Turns(measure, contestant) for contestant in company.among(contestants)]
    for turns in taking:
        company.progress(f"{measure.title}: {turns.contestant.name} warms up")
        company.let(turns.contestant, measure.title, turns.try_out, options)
    rounds = min(options.rounds, measure.rounds)
    for number in range(rounds):
        for turns in taking:
            if company.has(turns.contestant) and not turns.is_over:
                name = turns.contestant.name
                company.progress(f"{measure.title}: round {number + 1} of {rounds}, {name}")
                company.let(turns.contestant, measure.title, turns.take)
    return [turns.row for turns in taking if company.has(turns.contestant)]


@contextlib.contextmanager
def serving(contestants, company):
    """They serve within the block, and are stopped at its end, whatever happened."""
    try:
        company.each(contestants, "starts", lambda contestant: contestant.start())
        yield
        company.each(contestants, "stops", lambda contestant: contestant.stop())
    finally:
        for contestant in contestants:
            contestant.kill()
