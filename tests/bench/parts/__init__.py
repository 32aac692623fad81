# SPDX-License-Identifier: Apache-2.0
"""
The parts of the benchmark, by their names. Each has NAME, TITLE and run(folder, options, progress),
which returns what it found: "rows" (see rounds.Row.as_json), "facts" (see report.table), "notes"
(lines for below the table). KEEPS: whether it uses what is kept from run to run.
"""

from bench.parts import bst, cas, index, nginx, push, scale, starts, streams

PARTS = {part.NAME: part for part in (index, push, nginx, cas, streams, scale, starts, bst)}
