#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Draws the results that are there as one picture: small panels of bars, each with its own scale.

    chart.py RESULTS FILE.svg       of the files RESULTS/*.json
"""

import json
import pathlib
import statistics
import sys
import textwrap
import time
from xml.sax.saxutils import escape

MIB = 1 << 20

# What the panels show: the part that measures it, its name there, a title and what else to know.
HEADLINES = (
    ("index", "hit", "FetchBlob, hit", "direct"),
    ("nginx", "nginx-hit", "FetchBlob, hit", "behind nginx with TLS"),
    ("push", "push-64", "PushBlob", "64 clients"),
    ("cas", "find", "FindMissingBlobs of 100", "direct"),
    ("cas", "update", "BatchUpdateBlobs of 100 × 1 KiB", "direct"),
    ("cas", "read", "BatchReadBlobs of 100 × 1 KiB", "direct"),
    ("streams", "read-64m", "Read of 64 MiB", "16 at a time"),
    ("streams", "write-64m", "Write of 64 MiB", "16 at a time"),
)
# Contestants that show something else than what a panel compares.
LEFT_OUT = ("assetd, slow disk",)

WIDTH, MARGIN, GAP, PADDING = 900, 20, 16, 16
PANEL = (WIDTH - 2 * MARGIN - GAP) // 2
HEAD, TITLE, ROW, BAR = 92, 56, 23, 13
NAMES, VALUES = 122, 104  # pixels for what stands before and behind the bars
NAME_MAX = 20  # letters that fit there
FOOTER_MAX = 140  # letters of a line below all panels

INK, FAINT, LINE, PAPER, CARD = "#1c2733", "#5d6b7a", "#d9e0e7", "#f4f6f8", "#ffffff"
OURS, OURS_TOO, OTHERS, LIMIT, FRONT = "#0a6ed1", "#5aa5ea", "#8d9db0", "#c9d1d9", "#e3a857"
FONT = "-apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"


class Bar:
    """One contestant in a panel."""

    def __init__(self, name, values, front=0.0, is_marked=False):
        self.name, self.front, self.is_marked = name, front, is_marked
        self.own = statistics.median(values)
        self.least, self.most = min(values) + front, max(values) + front

    @property
    def value(self):
        return self.own + self.front

    @property
    def color(self):
        if self.name == "empty":
            return LIMIT
        if self.name == "assetd":
            return OURS
        return OURS_TOO if self.name.startswith("assetd") else OTHERS


class Panel:
    def __init__(self, title, detail, unit, bars):
        self.title, self.detail, self.unit = title, detail, unit
        self.bars = sorted(bars, key=lambda bar: (bar.value, bar.name))

    @property
    def height(self):
        return TITLE + ROW * len(self.bars) + PADDING


def figure(value, unit):
    """A value as a reader wants it: few digits, and the unit that fits."""
    if unit == "us":
        value, unit = (value / 1000, "ms") if value >= 1000 else (value, "µs")
    places = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{places}f} {unit}"


def is_marked(row):
    """Whether what its contestant acknowledges is not durable; the core alone keeps nothing."""
    return row["durable"] is False and row["contestant"] != "empty"


def bar_of(row):
    front = statistics.median(row["front_cpu"]) if "front_cpu" in row else 0.0
    return Bar(row["contestant"], row["cpu"], front, is_marked(row))


def rows_of(part, measure):
    for row in part["rows"]:
        if row["measure"] == measure and row["contestant"] not in LEFT_OUT:
            yield row


def headline_panels(found):
    for part, measure, title, detail in HEADLINES:
        rows = [*rows_of(found[part], measure)] if part in found else []
        if rows:
            what = "CPU for a GiB" if rows[0]["unit"] == "s/GiB" else "CPU of a call"
            unit = "s" if rows[0]["unit"] == "s/GiB" else "us"
            yield Panel(title, f"{detail}: {what}", unit, [bar_of(row) for row in rows])


def bst_panels(found):
    """What pushes and pulls of a real BuildStream cost each server, one after the other."""
    rounds = {}
    for fact in found["bst"]["facts"] if "bst" in found else ():
        verb, _, what = fact["title"].partition(" of ")
        if "CPU" in fact["unit"] and verb in ("push", "pull"):
            rounds.setdefault(what, {}).setdefault(fact["contestant"], []).append(fact["values"])
    for what, contestants in rounds.items():
        bars = [Bar(name, [*map(sum, zip(*values))]) for name, values in contestants.items()]
        yield Panel("bst artifact push and pull", f"{what}: CPU in sum", "s", bars)


def memory_panels(found):
    peaks = {}
    for part in found.values():
        for row in part["rows"]:
            # What is told apart by how it is set up is one server here.
            name = row["contestant"].partition(",")[0]
            peaks[name] = max(peaks.get(name, 0), row["rss_anon"] / MIB)
    bars = [Bar(name, [peak]) for name, peak in peaks.items()]
    if bars:
        yield Panel("Memory", "private, the most under any load here", "MiB", bars)


def text(x, y, content, size=12, color=INK, weight=400, anchor="start"):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{color}"'
        f' text-anchor="{anchor}">{escape(content)}</text>'
    )


def box(x, y, width, height, color, more=""):
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' fill="{color}"{more}/>'
    )


def line(x, y, to_x, to_y, color, more=""):
    return f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{color}"{more}/>'


def draw_name(name, x, y, weight):
    """Before a bar whose middle is at Y, in two lines if it is long."""
    lines = textwrap.wrap(name, NAME_MAX, break_long_words=False)
    size = 12 if len(lines) == 1 else 10
    for number, part in enumerate(lines):
        lower = y + size / 3 + (number - (len(lines) - 1) / 2) * (size + 1)
        yield text(x, lower, part, size, INK, weight, "end")


def draw_bar(bar, x, y, scale, panel):
    """The line of a contestant whose upper edge is Y; X is where bars begin."""
    ours = next((other.value for other in panel.bars if other.name == "assetd"), 0)
    middle, upper = y + ROW / 2, y + (ROW - BAR) / 2
    weight = 600 if bar.name == "assetd" else 400
    yield from draw_name(bar.name + (" *" if bar.is_marked else ""), x - 8, middle, weight)
    yield box(x, upper, max(bar.own * scale, 1), BAR, bar.color, ' rx="2"')
    if bar.front:
        yield box(x + bar.own * scale, upper, bar.front * scale, BAR, FRONT, ' rx="2"')
    least, most = x + bar.least * scale, x + bar.most * scale
    if most - least >= 3:
        yield line(least, middle, most, middle, INK, ' opacity=".55"')
    behind = x + max(bar.most, bar.value) * scale + 7
    shown = figure(bar.value, panel.unit)
    yield text(behind, middle + 4, shown, 12, INK, weight)
    if ours and bar.name not in ("assetd", "empty"):
        times = bar.value / ours
        more = f"{times:.0f}×" if times >= 10 else f"{times:.1f}×"
        yield text(behind + 6.7 * len(shown) + 7, middle + 4, more, 11, FAINT)


def draw_panel(panel, x, y, width, height):
    yield box(x, y, width, height, CARD, f' stroke="{LINE}" rx="8"')
    yield text(x + PADDING, y + 25, panel.title, 14, INK, 600)
    yield text(x + PADDING, y + 42, panel.detail, 11, FAINT)
    if any(bar.front for bar in panel.bars):
        right = x + width - PADDING
        yield box(right - 112, y + 16, 10, 10, OURS, ' rx="2"')
        yield text(right - 98, y + 25, "server", 11, FAINT)
        yield box(right - 46, y + 16, 10, 10, FRONT, ' rx="2"')
        yield text(right - 32, y + 25, "nginx", 11, FAINT)
    left, top = x + PADDING + NAMES, y + TITLE
    room = width - 2 * PADDING - NAMES - VALUES
    scale = room / max(max(bar.most, bar.value) for bar in panel.bars)
    for number, bar in enumerate(panel.bars):
        yield from draw_bar(bar, left, top + number * ROW, scale, panel)
        if bar.name == "empty":
            end = left + bar.value * scale
            bottom = top + len(panel.bars) * ROW
            yield line(end, top, end, bottom, FAINT, ' stroke-dasharray="2 3" opacity=".7"')


def footer_lines(parts):
    """Of where and when; the parts may come from several runs."""
    newest = max(parts, key=lambda part: (part["begun"], part["part"]))
    machine = newest["machine"]
    days = sorted(time.strftime("%Y-%m-%d", time.gmtime(part["begun"])) for part in parts)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    rounds = sorted({part["rounds"] for part in parts})
    counts = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    counts += " round" if counts == "1" else " rounds"
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    yield from textwrap.wrap(
        f"{machine['model']}, {cores}, Linux {machine['kernel']}; {when};"
        f" median of {counts} in which all took turns, thin lines from least to most.",
        FOOTER_MAX,
    )
    yield (
        "empty, and the dotted line: the gRPC core alone, with handlers that do nothing;"
        " no server on it costs less. 2×: twice what assetd takes."
    )
    if any(is_marked(row) for part in parts for row in part["rows"]):
        yield "* does not yet have on the disk what it acknowledges: a power cut takes some of it."


def describe(panels):
    """The picture in words."""
    for panel in panels:
        bars = (f"{bar.name} {figure(bar.value, panel.unit)}" for bar in panel.bars)
        yield f"{panel.title}, {panel.detail}: {', '.join(bars)}."


def draw(parts):
    """The picture of PARTS, what each part has found by its name."""
    found = {part["part"]: part for part in parts}
    panels = [*headline_panels(found), *bst_panels(found), *memory_panels(found)]
    body, y = [], HEAD
    for pair in (panels[i : i + 2] for i in range(0, len(panels), 2)):
        height = max(panel.height for panel in pair)
        width = PANEL if len(pair) == 2 else WIDTH - 2 * MARGIN
        for column, panel in enumerate(pair):
            body += draw_panel(panel, MARGIN + column * (PANEL + GAP), y, width, height)
        y += height + GAP
    for content in footer_lines(parts):
        body.append(text(MARGIN, y + 14, content, 11, FAINT))
        y += 17
    height = y + MARGIN
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}"'
        f' viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="title desc"'
        f' font-family="{FONT}">',
        '<title id="title">What calls cost, by server</title>',
        f'<desc id="desc">{escape(" ".join(describe(panels)))}</desc>',
        box(0.5, 0.5, WIDTH - 1, height - 1, PAPER, f' stroke="{LINE}" rx="10"'),
        text(MARGIN, 42, "What calls cost, by server", 22, INK, 700),
        text(
            MARGIN, 66, "CPU and memory of servers under the same load: less is better.", 13, FAINT
        ),
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def read_results(folder):
    """What the files *.json in FOLDER have found; what cannot be drawn is passed over."""
    for path in sorted(folder.glob("*.json")):
        try:
            part = json.loads(path.read_text())
            draw([part])
            yield part
        except (LookupError, TypeError, ValueError, AttributeError) as reason:
            why = f"{type(reason).__name__}: {reason}"
            print(f"{path} is passed over: it has no results ({why})", file=sys.stderr)


def write_chart(results, path=None):
    """Draws what the files of RESULTS have found; returns where the picture is."""
    results = pathlib.Path(results)
    path = pathlib.Path(path or results / "chart.svg")
    parts = [*read_results(results)]
    if not parts:
        raise RuntimeError(f"{results}: there are no results (*.json) to draw; `make bench` first")
    path.write_text(draw(parts))
    return path


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: chart.py RESULTS FILE.svg")
    try:
        write_chart(*sys.argv[1:])
    except (OSError, RuntimeError) as reason:
        sys.exit(f"chart.py: {reason}")
