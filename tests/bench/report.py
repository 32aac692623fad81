# SPDX-License-Identifier: Apache-2.0
"""What is seen of a run: its progress, and the table of a part."""

import shutil
import statistics
import sys
import textwrap
import threading
import time

from bench.chart import is_marked
from bench.options import MIB

WIDTH = 118

# Seconds between lines of progress where they stay.
PLAIN_PAUSE = 5

COMPARED = ("empty", "assetd")  # what others are compared with
NOT_DURABLE = (
    "* does not yet have on the disk what it acknowledges: a power cut, or a crash of the machine,"
    " takes some of it."
)


class Progress:
    """
    Shows what a part is doing: on a terminal as one line that is written over, with the seconds
    since its beginning; elsewhere as lines, not each of them. Warnings stay in any case.
    """

    def __init__(self, name, stream=None):
        self.name = name
        self.stream = stream or sys.stderr
        self.warnings = []
        self.text = ""
        self.begun = time.monotonic()
        self.shown = None  # when a line was written that stays
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.ticking = None
        if self.stream.isatty():
            self.ticking = threading.Thread(target=self._tick, daemon=True)
            self.ticking.start()

    def __call__(self, text):
        now = time.monotonic()
        with self.lock:
            self.text = " ".join(text.split())
            if self.ticking:
                self._rewrite()
            elif self.shown is None or now - self.shown >= PLAIN_PAUSE:
                self.shown = now
                self._write(f"{self._line()}\n")

    def warn(self, text):
        """Of what the reader of the results has to know as well: the first line."""
        with self.lock:
            self.warnings.append(text.partition("\n")[0])
            self._write(f"{self._erase()}{self.name}: {text}\n")

    def end(self):
        self.over.set()
        if self.ticking:
            self.ticking.join()
            with self.lock:
                self._write(self._erase())

    def _tick(self):
        while not self.over.wait(1):
            with self.lock:
                self._rewrite()

    def _line(self):
        return f"{self.name}, {time.monotonic() - self.begun:3.0f} s: {self.text}"

    def _erase(self):
        return "\r\033[K" if self.ticking else ""

    def _rewrite(self):
        columns = shutil.get_terminal_size().columns
        self._write(self._erase() + self._line()[: columns - 1])

    def _write(self, text):
        self.stream.write(text)
        self.stream.flush()


def digits(value):
    """A figure with as many digits as mean something."""
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    return f"{value:.{places}f}"


def columns_of(lines, width):
    """Lines of cells as text; the first cell is a name of WIDTH, and the others are numbers."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    widths[0] = max(widths[0], width)
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        yield f"  {'  '.join(cells)}".rstrip()


def wrapped(text, indent=""):
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent="  ")


def title_lines(title, goal):
    if not goal:
        return [title]
    line = f"{title}  (goal: {goal})"
    return [line] if len(line) <= WIDTH else [title, *wrapped(f"(goal: {goal})", "  ")]


def sums(row):
    """What a row's contestant took with what stands in front of it, round by round."""
    front = row.get("front_cpu") or [0] * len(row["cpu"])
    return [*map(sum, zip(row["cpu"], front))]


def marked(row):
    return row["contestant"] + (" *" if is_marked(row) else "")


def measure_line(row, references, has_front, is_short):
    """One contestant's cells; REFERENCES: the costs that it is compared with."""
    own, front, size = row["cpu"], row.get("front_cpu"), row.get("bytes_per_call")
    cost = statistics.median(sums(row))
    cells = [min(own), statistics.median(own), max(own)]
    if has_front:
        cells += [statistics.median(front) if front else None, cost]
    cells += [cost / reference if reference else None for reference in references]
    cells.append(statistics.median(row["calls_per_second"]) * (size / MIB if size else 1))
    cells += [row["rss_anon"] / MIB, row["rss_file"] / MIB]
    line = [marked(row), *("" if cell is None else digits(cell) for cell in cells)]
    return [*line, str(len(own))] if is_short else line


def references_of(rows):
    """The costs, in one measure, that others are compared with, by whose they are."""
    names = [row["contestant"] for row in rows]
    if len(rows) == 1:
        return {}
    return {
        name: statistics.median(sums(rows[names.index(name)]))
        for name in COMPARED
        if name in names
    }


def legend(rows):
    """What the columns of ROWS mean."""
    found = [references_of(group) for group in measures_of(rows)]
    ratios = [f"/ {name}" for name in COMPARED if any(name in references for references in found)]
    text = "CPU: user and system time of the server's processes."
    if ratios:
        text += f" {', '.join(ratios)}: ratio of the medians"
        has_front = any("front_cpu" in row for row in rows)
        text += ", of the sums with nginx." if has_front else "."
    return (
        f"{text} anon, file: the most MiB of private memory, and of mapped files, that was seen."
    )


def measure_lines(rows, rounds, width):
    """The rows of one measure, a line for each contestant."""
    has_front = any("front_cpu" in row for row in rows)
    is_short = any(len(row["cpu"]) != rounds for row in rows)
    references = references_of(rows)
    heading = [f"CPU {rows[0]['unit']}:", "min", "median", "max"]
    heading += ["nginx", "sum"] if has_front else []
    heading += [f"/ {name}" for name in references]
    heading += ["MiB/s" if "bytes_per_call" in rows[0] else "calls/s", "anon", "file"]
    heading += ["rounds"] if is_short else []
    lines = [measure_line(row, references.values(), has_front, is_short) for row in rows]
    return columns_of([heading, *lines], width)


def fact_lines(facts, width):
    """The facts of one title and unit."""
    unit = facts[0]["unit"]
    if all(len(fact["values"]) == 1 for fact in facts):
        lines = [[fact["contestant"], digits(fact["values"][0]), unit] for fact in facts]
        return columns_of(lines, width)
    lines = [[f"{unit}:", "min", "median", "max"]]
    for fact in facts:
        values = fact["values"]
        figures = [min(values), statistics.median(values), max(values)]
        lines.append([fact["contestant"], *map(digits, figures)])
    return columns_of(lines, width)


def groups(entries, keys):
    """The entries that have the same under all KEYS, in the order of their first ones."""
    found = {}
    for entry in entries:
        found.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return found.values()


def measures_of(rows):
    return groups(rows, ("measure", "title"))


def heading_lines(found):
    machine = found["machine"]
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found["begun"]))
    cores = f"{machine['cores']} core{'' if machine['cores'] == 1 else 's'}"
    rounds = f"{found['rounds']} round{'' if found['rounds'] == 1 else 's'}"
    yield f"{found['part']}: {found['title']}"
    yield (
        f"{machine['model']}, {cores}, {digits(machine['memory'] / (1 << 30))} GiB,"
        f" Linux {machine['kernel']}"
    )
    yield (
        f"{begun}, {rounds}, {found['seconds']:.0f} s;"
        f" load {machine['load']:.2f} before, {found['load_after']:.2f} after"
    )


def table(found):
    """All that a part has found, as text."""
    rounds, lines = found["rounds"], [*heading_lines(found)]
    names = [*map(marked, found["rows"]), *(fact["contestant"] for fact in found["facts"])]
    width = max(map(len, names), default=0)
    for rows in measures_of(found["rows"]):
        goal = next((row["goal"] for row in rows if row["goal"]), None)
        lines += ["", *title_lines(rows[0]["title"], goal), *measure_lines(rows, rounds, width)]
    for facts in groups(found["facts"], ("title", "unit")):
        goal = next((fact["goal"] for fact in facts if fact["goal"]), None)
        lines += ["", *title_lines(facts[0]["title"], goal), *fact_lines(facts, width)]
    lines.append("")
    if found["rows"]:
        lines += wrapped(legend(found["rows"]))
    if any(map(is_marked, found["rows"])):
        lines += wrapped(NOT_DURABLE)
    for note in found["notes"]:
        lines += wrapped(note)
    return "\n".join([*lines, ""])
