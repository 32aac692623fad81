# SPDX-License-Identifier: Apache-2.0
"""How the benchmark's contestants take turns, and what they need."""

import subprocess
import types

import pytest

from bench import machine, rounds, stores
from bench.contestants import base
from bench.options import BUILD, Options
from bench.parts import scale
from bench.rounds import Company, Measure, Row, run_rounds, serving
from lib.server import wait_until

OPTIONS = types.SimpleNamespace(rounds=5, turn=1.0)
PEAK = types.SimpleNamespace(anonymous=1, mapped=2)


class Contestant:
    """SECONDS: of a call. One that FAILS refuses from that turn on."""

    is_durable = False

    def __init__(self, name, seconds=0.01, fails=None, is_ours=False):
        self.name, self.seconds, self.fails, self.is_ours = name, seconds, fails, is_ours
        self.did = []

    def start(self):
        if self.fails == "start":
            raise FileNotFoundError("there is no program")
        self.did.append("start")

    def stop(self):
        self.did.append("stop")

    def kill(self):
        self.did.append("kill")


class Progress:
    def __init__(self):
        self.warnings = []

    def __call__(self, text):
        pass

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def turns(monkeypatch):
    """The turns that were taken: names, calls, first calls."""
    taken = []

    def take(measure, contestant, calls, first):
        mine = [turn for turn in taken if turn[0] == contestant.name]
        if contestant.fails == len(mine):
            raise RuntimeError("status 12")
        taken.append((contestant.name, calls, first))
        seconds = calls * contestant.seconds
        # Two processes of its own, and one of what stands before it.
        cpu = [seconds / 4, seconds * 3 / 4, seconds / 2]
        return {"calls": calls, "seconds": seconds, "cpu": cpu}, PEAK, 2

    monkeypatch.setattr(rounds, "take_turn", take)
    return taken


def run(contestants, calls=100, **more):
    progress = Progress()
    measure = Measure("a", "A", "find", calls, **more)
    return run_rounds(measure, contestants, OPTIONS, Company(progress)), progress.warnings


def test_contestants_take_turns(turns):
    rows, warnings = run([Contestant("a"), Contestant("b")], trial=10, least=1)
    assert [name for name, _, _ in turns] == ["a", "b"] * 6
    assert [len(row.costs) for row in rows] == [5, 5] and not warnings
    assert rows[0].costs == pytest.approx([10_000] * 5)
    assert rows[0].front_costs == pytest.approx([5_000] * 5)
    assert rows[0].front_costs == pytest.approx([5000] * 5)


def test_no_call_is_made_twice(turns):
    run([Contestant("a")], trial=10, least=1)
    assert turns == [("a", 10, 0)] + [("a", 100, 10 + 100 * i) for i in range(5)]


def test_slow_ones_make_fewer_calls_but_not_too_few(turns):
    run([Contestant("a", 0.1), Contestant("b", 10)], trial=10, least=4)
    assert {calls for name, calls, _ in turns[2:] if name == "a"} == {10}
    assert {calls for name, calls, _ in turns[2:] if name == "b"} == {4}


def test_a_budget_ends_the_turns_of_slow_ones(turns):
    fast, slow = Contestant("a", 0.001), Contestant("b", 2)
    rows, _ = run([fast, slow], calls=1, trial=0, least=1, budget=3)
    assert [len(row.costs) for row in rows] == [5, 2]


def test_a_measure_may_have_fewer_rounds(turns):
    rows, _ = run([Contestant("a")], rounds=3)
    assert [len(row.costs) for row in rows] == [3]


@pytest.mark.parametrize("fails", [0, 2])
def test_who_refuses_is_left_out_with_a_warning(turns, fails):
    rows, warnings = run([Contestant("a"), Contestant("b", fails=fails)])
    assert [row.contestant.name for row in rows] == ["a"] and len(rows[0].costs) == 5
    (warning,) = warnings
    assert "b is left out" in warning and "status 12" in warning


def test_our_own_may_not_refuse(turns):
    with pytest.raises(RuntimeError, match="status 12"):
        run([Contestant("a", fails=0, is_ours=True)])


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), OSError("no"), subprocess.TimeoutExpired("load", 1)]
)
def test_who_is_left_out_stays_out(turns, error):
    company, both = Company(Progress()), [Contestant("a"), Contestant("b")]

    def prepare(contestant):
        if contestant.name == "b":
            raise error

    company.each(both, "content is put there", prepare)
    assert both[1].did == ["kill"] and not both[0].did
    rows = run_rounds(Measure("a", "A", "find", 100), both, OPTIONS, company)
    assert [row.contestant.name for row in rows] == ["a"]
    assert {name for name, _, _ in turns} == {"a"}
    (warning,) = company.progress.warnings
    assert warning.startswith("content is put there: b is left out: ")


def test_who_cannot_start_costs_nobody_else_anything():
    ours, peer = Contestant("a", is_ours=True), Contestant("b", fails="start")
    company = Company(Progress())
    with serving([ours, peer], company):
        assert company.among([ours, peer]) == [ours]
    assert ours.did == ["start", "stop", "kill"] and "stop" not in peer.did
    with pytest.raises(FileNotFoundError):
        with serving([Contestant("c", fails="start", is_ours=True)], company):
            pass


def test_who_is_wrong_after_the_rounds_has_no_figures():
    measure, good, bad = Measure("a", "A", "find", 1), Contestant("a"), Contestant("b")
    rows, company = [Row(measure, good), Row(measure, bad)], Company(Progress())

    def check(contestant, own):
        assert [row.contestant for row in own] == [contestant]
        if contestant is bad:
            raise RuntimeError("answers wrongly")

    assert company.check_again([good, bad], rows, check) == rows[:1]
    assert company.progress.warnings == ["after the rounds: b is left out: answers wrongly"]


def test_what_the_last_turn_has_put_there_is_known(turns):
    trial = {"trial": 10, "least": 1}
    (row,), _ = run([Contestant("a")], keys=lambda first: {"first": 1000 + first}, **trial)
    assert turns[-1] == ("a", 100, 410)
    assert row.pushed_last() == [1410, 1460, 1509]
    (row,), _ = run([Contestant("b")], keys=lambda first: {"first": 100 * first}, **trial)
    assert row.pushed_last(100) == [41_000, 46_000, 50_999]
    assert Row(Measure("a", "A", "find", 1), Contestant("c")).pushed_last() == []


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("kill -SEGV $$", "was ended by SIGSEGV"),
        ("exit 3", "has ended with status 3"),
        ("exec sleep 60", "is running"),
    ],
)
def test_a_failure_says_how_the_server_is_and_what_it_logged(folder, end, state):
    class Server(base.Contestant):
        name = "server"

        def command(self):
            return ["sh", "-c", f"echo one; echo two; {end}"]

    server = Server(folder / "server")
    server.launch()
    try:
        wait_until(lambda: "two" in server.log(), "nothing is logged")
        failure = str(server.failure("find: connection refused"))
    finally:
        server.kill()
    assert failure.startswith(f"server: find: connection refused; it {state}\n")
    assert failure.endswith("  one\n  two")


def test_the_kept_stores_are_for_one_run_at_a_time(folder):
    options = types.SimpleNamespace(kept=folder / "kept")
    with stores.keeping(options):
        with pytest.raises(RuntimeError, match=f"another run is at work on {folder}/kept"):
            with stores.keeping(options):
                pass
    with stores.keeping(options):
        pass


@pytest.mark.parametrize("size", stores.SIZES)
def test_pushes_to_a_store_are_of_what_is_there(size):
    store = stores.Store(size, None, None)
    (push,) = [one for one in scale.measures(store) if one.operation == rounds.PUSH]
    for first in (0, push.trial, push.calls * 7 + push.trial):
        assert push.keys_of(first)["first"] + push.calls <= size


@pytest.mark.parametrize(
    ("value", "is_quick"),
    [("1", True), ("yes", True), ("", False), ("0", False), ("no", False), ("False", False)],
)
def test_quick_results_are_kept_apart(monkeypatch, value, is_quick):
    monkeypatch.setenv("QUICK", value)
    monkeypatch.delenv("RESULTS", raising=False)
    options = Options()
    assert options.quick == is_quick
    assert options.results == BUILD / "bench" / "results" / ("quick" if is_quick else "")


def test_only_of_a_push_it_counts_whether_it_is_durable(turns):
    rows, _ = run([Contestant("a")])
    assert rows[0].as_json()["durable"] is None
    company = Company(Progress())
    rows = run_rounds(Measure("a", "A", "push-asset", 100), [Contestant("a")], OPTIONS, company)
    assert rows[0].as_json()["durable"] is False


def test_a_disk_without_room_is_told_before_it_is_full(folder):
    machine.require_room(folder, 1)
    with pytest.raises(RuntimeError, match=f"{folder}: .* MiB are needed, .*FOLDER="):
        machine.require_room(folder, 1 << 60)
