# SPDX-License-Identifier: Apache-2.0
"""Rounds in which the contestants take turns, so that what else the machine does meets all."""

import contextlib
import json
import math
import subprocess

from bench import machine
from bench.options import BUILD, GIB, PATIENCE

# Of a turn that is there to find out how fast a contestant is.
TRIAL_SHARE = 20

PUSH = "push-asset"


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

    def add(self, result, peak, own):
        """OWN: how many of the processes, the first ones, are the server's own."""
        calls, cpu = result["calls"], result["cpu"]
        self.costs.append(self.measure.cost(sum(cpu[:own]), calls))
        self.front_costs.append(self.measure.cost(sum(cpu[own:]), calls))
        self.rates.append(calls / result["seconds"])
        self.anonymous = max(self.anonymous, peak.anonymous)
        self.mapped = max(self.mapped, peak.mapped)

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
    done = subprocess.run(
        [BUILD / "bench" / name, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        command = " ".join(map(str, (name, *arguments)))
        raise RuntimeError(f"{command}: status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def run_load(contestant, operation, pids=(), **keys):
    """One run of load(1) at a contestant, with the CPU time of PIDS; returns what it found."""
    pairs = [f"{key.replace('_', '-')}={value}" for key, value in keys.items()]
    pairs += [f"{key}={value}" for key, value in contestant.tls.items()]
    pairs += [f"pid={pid}" for pid in pids]
    return run_tool("load", contestant.address, operation, *pairs)


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
        self.first += self.calls
        self.seconds += result["seconds"]

    @property
    def is_over(self):
        return self.seconds >= self.measure.budget


def run_rounds(measure, contestants, options, progress):
    """
    Measures all CONTESTANTS, which serve, in turn; returns their rows. Those of others that refuse
    are left out, with a warning. They warm up before the first round.
    """
    taking = [Turns(measure, contestant) for contestant in contestants]

    def let(turns, step, *arguments):
        try:
            step(*arguments)
        except (RuntimeError, subprocess.TimeoutExpired) as reason:
            if turns.contestant.is_ours:
                raise
            name = turns.contestant.name
            progress.warn(f"{measure.title}: {name} is left out: {reason}")
            taking.remove(turns)

    for turns in [*taking]:
        progress(f"{measure.title}: {turns.contestant.name} warms up")
        let(turns, turns.try_out, options)
    rounds = min(options.rounds, measure.rounds)
    for number in range(rounds):
        for turns in [*taking]:
            if not turns.is_over:
                name = turns.contestant.name
                progress(f"{measure.title}: round {number + 1} of {rounds}, {name}")
                let(turns, turns.take)
    return [turns.row for turns in taking]


@contextlib.contextmanager
def serving(contestants):
    """All of them serve within the block, and are stopped at its end, whatever happened."""
    try:
        for contestant in contestants:
            contestant.start()
        yield contestants
        for contestant in contestants:
            contestant.stop()
    finally:
        for contestant in contestants:
            contestant.kill()
