# SPDX-License-Identifier: Apache-2.0
"""How the benchmark's contestants take turns, and what they need."""

import types

import pytest

from bench import machine, rounds
from bench.rounds import Measure, run_rounds

OPTIONS = types.SimpleNamespace(rounds=5, turn=1.0)
PEAK = types.SimpleNamespace(anonymous=1, mapped=2)


class Contestant:
    """SECONDS: of a call. One that FAILS refuses from that turn on."""

    is_durable = False

    def __init__(self, name, seconds=0.01, fails=None, is_ours=False):
        self.name, self.seconds, self.fails, self.is_ours = name, seconds, fails, is_ours


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
        return {"calls": calls, "seconds": seconds, "cpu": [seconds, seconds / 2]}, PEAK, 1

    monkeypatch.setattr(rounds, "take_turn", take)
    return taken


def run(contestants, calls=100, **more):
    progress = Progress()
    return run_rounds(Measure("a", "A", "find", calls, **more), contestants, OPTIONS, progress), (
        progress.warnings
    )


def test_contestants_take_turns(turns):
    rows, warnings = run([Contestant("a"), Contestant("b")], trial=10, least=1)
    assert [name for name, _, _ in turns] == ["a", "b"] * 6
    assert [len(row.costs) for row in rows] == [5, 5] and not warnings
    assert rows[0].costs == pytest.approx([10_000] * 5)
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


def test_only_of_a_push_it_counts_whether_it_is_durable(turns):
    rows, _ = run([Contestant("a")])
    assert rows[0].as_json()["durable"] is None
    rows = run_rounds(Measure("a", "A", "push-asset", 100), [Contestant("a")], OPTIONS, Progress())
    assert rows[0].as_json()["durable"] is False


def test_a_disk_without_room_is_told_before_it_is_full(folder):
    machine.require_room(folder, 1)
    with pytest.raises(RuntimeError, match=f"{folder}: .* MiB are needed, .*FOLDER="):
        machine.require_room(folder, 1 << 60)
