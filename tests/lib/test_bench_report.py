# SPDX-License-Identifier: Apache-2.0
"""What the benchmark shows of its results: progress, tables, the chart."""

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from bench import chart, report
from bench.chart import draw, write_chart
from bench.options import CHECKOUT, MIB

SVG = "{http://www.w3.org/2000/svg}"


def row(contestant, cpu, measure="hit", durable=None, **more):
    """A row as parts return it; what is not given does not matter to the test."""
    return {
        "measure": measure,
        "title": f"title of {measure}",
        "goal": None,
        "contestant": contestant,
        "durable": durable,
        "unit": "us",
        "cpu": cpu,
        "calls_per_second": [1000.0] * len(cpu),
        "rss_anon": 10 * MIB,
        "rss_file": 20 * MIB,
    } | more


def fact(title, contestant, values, unit="s", goal=None):
    return {
        "title": title,
        "contestant": contestant,
        "values": values,
        "unit": unit,
        "goal": goal,
    }


def part(rows=(), facts=(), notes=(), name="index", begun=1_700_000_000):
    return {
        "part": name,
        "title": "FetchBlob",
        "begun": begun,
        "machine": {
            "model": "A processor",
            "cores": 2,
            "memory": 8 << 30,
            "kernel": "6.1.0",
            "load": 0.25,
        },
        "rounds": 3,
        "rows": [*rows],
        "facts": [*facts],
        "notes": [*notes],
        "seconds": 12.3,
        "load_after": 1.5,
    }


def line_of(table, name):
    """The cells behind a contestant's name."""
    (line,) = (line for line in table.splitlines() if line.strip().startswith(f"{name}  "))
    return line.strip().removeprefix(name).split()


# --- tables ---


def test_a_table_says_where_and_how():
    shown = report.table(part())
    for text in ("A processor", "2 cores", "8.00 GiB", "Linux 6.1.0", "3 rounds", "2023-11-14"):
        assert text in shown
    assert "load 0.25 before, 1.50 after" in shown


def test_a_contestant_has_its_cost_ratios_speed_and_memory():
    shown = report.table(
        part([row("empty", [10, 8, 9]), row("assetd", [18, 20, 27]), row("casd", [200, 180, 160])])
    )
    assert line_of(shown, "assetd") == "18.0 20.0 27.0 2.22 1.00 1000 10.0 20.0".split()
    assert line_of(shown, "casd") == "160 180 200 20.0 9.00 1000 10.0 20.0".split()


def test_without_the_empty_handler_there_is_no_ratio_to_it():
    shown = report.table(part([row("assetd", [2, 2, 2]), row("casd", [4, 4, 4])]))
    assert re.search(r"median +max +/ assetd", shown) and "/ empty" not in shown
    assert re.search(r"/ assetd: ratio", shown)
    assert line_of(shown, "casd")[3:4] == ["2.00"]


def test_who_is_alone_is_compared_with_nobody():
    shown = report.table(part([row("assetd", [2, 2, 2])]))
    assert "/ assetd" not in shown and "ratio" not in shown
    assert line_of(shown, "assetd") == "2.00 2.00 2.00 1000 10.0 20.0".split()


def test_with_nginx_the_sum_is_compared():
    rows = [
        row("assetd", [10, 10, 10], front_cpu=[30, 31, 29]),
        row("casd", [50, 50, 50], front_cpu=[30, 30, 30]),
    ]
    shown = report.table(part(rows))
    assert line_of(shown, "casd")[:5] == ["50.0", "50.0", "50.0", "30.0", "80.0"]
    assert line_of(shown, "casd")[5] == "2.00"


def test_streams_are_told_in_bytes():
    streams = {"unit": "s/GiB", "bytes_per_call": 64 * MIB, "calls_per_second": [2, 3, 4]}
    rows = [row(name, [0.5, 0.625, 0.7], **streams) for name in ("assetd", "casd")]
    shown = report.table(part(rows))
    assert "CPU s/GiB:" in shown
    assert line_of(shown, "assetd") == "0.50 0.62 0.70 1.00 192 10.0 20.0".split()


def test_who_took_fewer_turns_is_shown():
    rows = [row("assetd", [1, 1, 1]), row("casd", [2])]
    assert line_of(report.table(part(rows)), "casd")[-1] == "1"
    assert "rounds\n" not in report.table(part(rows[:1]))


def test_who_acknowledges_what_is_not_durable_is_marked():
    rows = [
        row("empty", [1] * 3, durable=False),
        row("assetd", [2] * 3, durable=True),
        row("casd", [3] * 3, durable=False),
    ]
    shown = report.table(part(rows))
    assert "casd *" in shown and "\n* " in shown
    assert "empty *" not in shown and "assetd *" not in shown
    assert "*" not in report.table(part([row("casd", [3] * 3)]))


def test_goals_facts_and_notes_are_shown():
    facts = [
        fact("first answer", "assetd", [0.5, 0.25, 0.3], goal="< 1 s"),
        fact("bytes of a blob", "assetd", [128], unit="bytes"),
    ]
    rows = [row("assetd", [1] * 3, goal="1.15 x empty")]
    shown = report.table(part(rows, facts, ["A note of the part."]))
    assert "title of hit  (goal: 1.15 x empty)" in shown
    assert "first answer  (goal: < 1 s)" in shown
    assert re.search(r"s: +min +median +max\n +assetd +0.25 +0.30 +0.50\n", shown)
    assert re.search(r"bytes of a blob\n +assetd +128 +bytes\n", shown)
    assert "A note of the part." in shown


def test_a_table_fits_a_terminal():
    named = {"durable": False, "front_cpu": [10_000.0] * 2, "goal": "a goal " * 30}
    rows = [row("bb-remote-asset + bb-storage", [123_456.0] * 2, **named)]
    rows += [row(name, [11_111.0] * 3, **named) for name in ("empty", "assetd")]
    shown = report.table(part(rows, notes=["a long note " * 40]))
    assert max(map(len, shown.splitlines())) <= 120


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_progress_is_one_line():
    stream = Terminal()
    progress = report.Progress("cas", stream)
    progress("round 1")
    progress("round 2")
    progress.end()
    assert "\n" not in stream.getvalue()
    lines = stream.getvalue().split("\r\033[K")
    assert lines[0] == "" and lines[-1] == ""
    assert lines[1].endswith(" s: round 1") and lines[-2].endswith(" s: round 2")


def test_elsewhere_progress_is_some_of_the_lines(monkeypatch):
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    progress = report.Progress("cas", stream)
    for number in range(12):
        progress(f"round {number}")
        now[0] += 1
    progress.end()
    assert stream.getvalue().splitlines() == [
        f"cas, {number:3} s: round {number}" for number in (0, 5, 10)
    ]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_warnings_stay(stream):
    stream = stream()
    progress = report.Progress("cas", stream)
    progress("round 1")
    progress.warn("casd is left out")
    progress.end()
    assert "cas: casd is left out\n" in stream.getvalue()
    assert progress.warnings == ["casd is left out"]
    progress.warn("casd has ended\n  the end of its log")
    assert stream.getvalue().endswith("cas: casd has ended\n  the end of its log\n")
    assert progress.warnings[1:] == ["casd has ended"]


# --- the chart ---


def drawn(*parts):
    return xml.etree.ElementTree.fromstring(draw(parts))


def texts(svg):
    return [element.text for element in svg.iter(f"{SVG}text")]


def widths(svg, color):
    return [float(box.get("width")) for box in svg.iter(f"{SVG}rect") if box.get("fill") == color]


def test_each_headline_has_a_panel():
    parts = {}
    for name, measure, _, _ in chart.HEADLINES:
        parts.setdefault(name, part(name=name))["rows"].append(row("assetd", [1] * 3, measure))
    shown = texts(drawn(*parts.values()))
    for _, _, title, _ in chart.HEADLINES:
        assert title in shown
    assert "Memory" in shown


def test_bars_are_as_long_as_their_costs():
    svg = drawn(part([row("casd", [400, 390, 410]), row("assetd", [50, 49, 51])]))
    ours = widths(svg, chart.OURS)
    others = widths(svg, chart.OTHERS)
    assert others[0] == pytest.approx(8 * ours[0], abs=1)
    shown = texts(svg)
    assert {"50.0 µs", "400 µs", "8.0×"} <= set(shown)


def test_nginx_is_stacked_on_the_server():
    rows = [row("assetd", [20] * 3, "nginx-hit", front_cpu=[60] * 3)]
    svg = drawn(part(rows, name="nginx"))
    # The first ones are what says which color is whose.
    front, server = widths(svg, chart.FRONT)[1], widths(svg, chart.OURS)[1]
    assert "80.0 µs" in texts(svg)
    assert front == pytest.approx(3 * server, abs=1)


def test_bst_is_one_panel_for_each_project():
    facts = [
        fact(f"{verb} of small", name, [cost, cost, cost], unit="s CPU of the server")
        for name, cost in (("assetd", 0.5), ("old server", 2))
        for verb in ("push", "pull")
    ]
    facts.append(fact("push of small", "assetd", [77.0], unit="s wall"))
    shown = texts(drawn(part(facts=facts, name="bst")))
    assert {"small: CPU in sum", "1.00 s", "4.00 s", "4.0×"} <= set(shown)
    assert not any(text.startswith("77") for text in shown)


def test_memory_is_the_most_of_all_parts():
    svg = drawn(
        part([row("assetd", [1] * 3, rss_anon=10 * MIB)]),
        part([row("assetd, index only", [1] * 3, rss_anon=40 * MIB)], name="cas"),
        part([row("casd", [1] * 3, rss_anon=60 * MIB)], name="streams"),
    )
    assert {"40.0 MiB", "60.0 MiB"} <= set(texts(svg))


def test_who_is_not_durable_is_marked_in_the_chart():
    rows = [row("casd", [3] * 3, "push-64", durable=False), row("assetd", [1] * 3, "push-64")]
    shown = texts(drawn(part(rows, name="push")))
    assert "casd *" in shown and "assetd" in shown
    assert any(text.startswith("* ") for text in shown)


def test_names_and_machines_may_hold_anything():
    strange = part([row("<a & b>", [1] * 3)])
    strange["machine"]["model"] = 'A "processor" <&>'
    svg = drawn(strange)
    assert "<a & b>" in texts(svg)
    assert any('A "processor" <&>' in text for text in texts(svg))


def test_the_same_results_make_the_same_chart():
    parts = [part([row("casd", [3] * 3), row("assetd", [1] * 3)]), part(name="cas")]
    assert draw(parts) == draw(json.loads(json.dumps(parts)))
    assert "2023-11-14" in draw(parts)


def test_a_chart_is_for_who_cannot_see_it_as_well():
    svg = drawn(part([row("assetd", [1] * 3)]))
    assert svg.get("role") == "img"
    assert svg.find(f"{SVG}title").text
    assert "assetd 1.00 µs" in svg.find(f"{SVG}desc").text


def run_chart(*arguments):
    return subprocess.run(
        [sys.executable, CHECKOUT / "tests" / "bench" / "chart.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_chart_is_drawn_from_the_files_that_are_there(folder):
    (folder / "index.json").write_text(json.dumps(part([row("assetd", [1] * 3)])))
    assert write_chart(folder) == folder / "chart.svg"
    done = run_chart(folder, folder / "other.svg")
    assert (done.returncode, done.stdout) == (0, "")
    assert (folder / "other.svg").read_text() == (folder / "chart.svg").read_text()


def test_other_files_are_passed_over(folder):
    (folder / "index.json").write_text(json.dumps(part([row("assetd", [1] * 3)])))
    for name, content in (("a", "{"), ("b", "[1]"), ("c", '{"part": "c"}')):
        (folder / f"{name}.json").write_text(content)
    done = run_chart(folder, folder / "chart.svg")
    assert done.returncode == 0 and done.stdout.count("is passed over") == 3
    assert "assetd" in (folder / "chart.svg").read_text()


def test_the_lines_below_the_panels_fit():
    long = part([row("casd", [3] * 3, durable=False)]) | {"rounds": 1}
    long["machine"]["model"] = "A processor with a name that has no end " * 5
    assert max(map(len, chart.footer_lines([long]))) <= chart.FOOTER_MAX
    assert "median of 1 round in" in " ".join(chart.footer_lines([long]))


def test_what_cannot_be_drawn_is_told(folder):
    done = run_chart(folder, folder / "chart.svg")
    assert done.returncode == 1 and "there are no results" in done.stdout
    assert run_chart(folder).returncode == 1
    (folder / "index.json").write_text("{")
    done = run_chart(folder, folder / "chart.svg")
    assert done.returncode == 1 and "index.json" in done.stdout and "Traceback" not in done.stdout
