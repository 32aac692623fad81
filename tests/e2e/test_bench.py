# SPDX-License-Identifier: Apache-2.0
"""The benchmark works: what it finds, prints, draws and leaves, and what it says of mistakes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from lib.server import CHECKOUT, PATIENCE, wait_until

RUN = CHECKOUT / "tests" / "bench" / "run"
BUILD = CHECKOUT / os.environ.get("BUILD", "build")

# One short round of each part, with these servers.
PARTS = ("push", "cas")
NAMES = {"push": {"empty", "assetd", "casd"}, "cas": {"empty", "assetd"}}
MEASURES = {
    "push": {"push-1", "push-16", "push-64", "hit"},
    "cas": {"find", "update", "read", "read-random"},
}
SVG = "{http://www.w3.org/2000/svg}"

PROGRAMS = ("BAZEL_REMOTE", "BB_REMOTE_ASSET", "BB_STORAGE", "NATIVELINK")


def environment(folder, **variables):
    """For a run that works below FOLDER and keeps its results there, whoever calls the tests."""
    assert (BUILD / "bench" / "load").exists(), "`make bench-programs` first"
    inherited = {key: value for key, value in os.environ.items() if key not in PROGRAMS}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    ours = {"BUILD": BUILD, "FOLDER": work, "RESULTS": folder / "results", "QUICK": "1"}
    return inherited | {key: str(value) for key, value in (ours | variables).items()}


def bench(folder, *parts, **variables):
    return subprocess.run(
        [sys.executable, RUN, *parts],
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE * 4,
        check=False,
    )


@pytest.fixture(scope="module")
def printed(module_folder):
    """What the runs have printed: the tables and the progress of each part."""
    shown = {}
    for part in PARTS:
        done = bench(module_folder, part, CONTESTANTS=" ".join(NAMES[part]))
        assert done.returncode == 0, done.stderr
        shown[part] = (done.stdout, done.stderr)
    return shown


@pytest.fixture
def found(printed, module_folder):
    """The results, by part."""
    return {
        part: json.loads((module_folder / "results" / f"{part}.json").read_text()) for part in PARTS
    }


@pytest.mark.parametrize("part", PARTS)
def test_each_measure_has_figures_of_each_server(found, part):
    rows = {(row["measure"], row["contestant"]): row for row in found[part]["rows"]}
    assert {measure for measure, _ in rows} == MEASURES[part]
    for measure in MEASURES[part]:
        assert {name for of, name in rows if of == measure} >= NAMES[part]
    for row in rows.values():
        assert len(row["cpu"]) == len(row["calls_per_second"]) == found[part]["rounds"] == 1
        assert row["cpu"][0] > 0 and row["calls_per_second"][0] > 0
        assert row["rss_anon"] > 1 << 20 and row["rss_file"] > 1 << 20


@pytest.mark.parametrize("part", PARTS)
def test_the_results_tell_of_the_machine(found, part):
    machine = found[part]["machine"]
    assert machine["cores"] > 0 and machine["memory"] > 0 and machine["kernel"]


@pytest.mark.parametrize("part", PARTS)
def test_the_tables_name_all_servers(printed, found, part):
    table, _ = printed[part]
    for row in found[part]["rows"]:
        assert row["title"] in table
        assert re.search(rf"^  {re.escape(row['contestant'])}( \*)?  ", table, re.M)


def test_who_loses_pushes_is_marked(printed):
    assert re.search(r"^  casd \*  ", printed["push"][0], re.M)
    assert "*" not in printed["cas"][0]


@pytest.mark.parametrize("part", PARTS)
def test_progress_is_shown_apart_from_the_tables(printed, part):
    table, progress = printed[part]
    assert re.search(rf"^{part}, +\d+ s: ", progress, re.M)
    assert not re.search(rf"^{part}, ", table, re.M)


def test_a_chart_is_drawn_of_all_that_is_known(printed, module_folder):
    (path,) = re.findall(r"\S+\.svg", printed["cas"][0])
    assert pathlib.Path(path) == module_folder / "results" / "chart.svg"
    svg = xml.etree.ElementTree.parse(path).getroot()
    texts = {element.text for element in svg.iter(f"{SVG}text")}
    assert {"PushBlob", "FindMissingBlobs of 100", "Memory", "assetd", "casd", "casd *"} <= texts


def test_nothing_is_left_where_it_worked(printed, module_folder):
    assert not [*(module_folder / "work").iterdir()]


def processes_of(folder):
    """Those whose command names a path below FOLDER."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if f"{folder}/".encode() in command:
            yield int(path.parent.name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_ended_leaves_nothing(folder, number):
    with open(folder / "printed", "wb") as printed:
        running = subprocess.Popen(
            [sys.executable, RUN, "cas"],
            env=environment(folder, CONTESTANTS="casd"),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
        )
    try:
        wait_until(lambda: len([*processes_of(folder / "work")]) >= 2, "no servers run")
        # More of them do not keep it from cleaning up.
        for each in (number, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            running.send_signal(each)
        assert running.wait(PATIENCE) == 1
    finally:
        running.kill()
        running.wait()
    assert "Traceback" not in (folder / "printed").read_text()
    assert not [*processes_of(folder)] and not [*(folder / "work").iterdir()]


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("#!/no/interpreter\n", "starts: bazel-remote is left out: "),
        ("#!/bin/sh\necho no such flag; exit 3\n", "it has ended with status 3\n"),
    ],
)
def test_a_peer_that_cannot_start_does_not_cost_the_part(folder, program, what):
    path = folder / "bazel-remote"
    path.write_text(program)
    path.chmod(0o755)
    done = bench(folder, "cas", CONTESTANTS="bazel-remote", BAZEL_REMOTE=path)
    assert done.returncode == 0, done.stderr
    assert what in done.stderr and "Traceback" not in done.stderr
    found = json.loads((folder / "results" / "cas.json").read_text())
    assert {row["contestant"] for row in found["rows"]} == {"empty", "assetd"}
    assert found["quick"] is True and "bazel-remote is left out" in " ".join(found["notes"])


def test_without_a_part_of_that_name_the_parts_are_told(folder):
    done = bench(folder, "cass")
    assert done.returncode == 1
    assert "there is no part cass" in done.stderr and "cas, streams" in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CONTESTANTS": "casd nobody"}, "there is no nobody: empty, assetd, "),
        (
            {"CONTESTANTS": "bazel-remote"},
            "bazel-remote needs its program named, BAZEL_REMOTE=: see",
        ),
        (
            {"BAZEL_REMOTE": "/no/bazel-remote"},
            "BAZEL_REMOTE=/no/bazel-remote: there is no program",
        ),
        ({"ROUNDS": "many"}, "ROUNDS=many: a whole number above 0 is needed"),
        ({"FOLDER": "/no/folder"}, "FOLDER=/no/folder: there is no folder"),
        ({"FOLDER": "/proc"}, "FOLDER=/proc: "),
        ({"RESULTS": "/dev/null/results"}, "RESULTS=/dev/null/results: Not a directory"),
        ({"BUILD": "/no/build"}, "there is no /no/build/assetd: `make all bench-programs` first"),
    ],
)
def test_mistakes_are_told_before_anything_runs(folder, variables, message):
    done = bench(folder, "cas", **variables)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not (folder / "results").exists()
