# SPDX-License-Identifier: Apache-2.0
"""A document whose fenced blocks are commands and files, so that a test can do what it says."""

import re
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>[a-z]+ [a-z]+)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
HEADING = re.compile(r"^## (.+)$", re.M)


class Block(NamedTuple):
    """What stands behind the opening fence, such as `sh server`, and what is in it."""

    section: str
    kind: str
    text: str


def read(path):
    """The blocks that have a kind, of two words at least, in their order."""
    text = path.read_text(encoding="utf-8")
    headings = [(match.start(), match[1]) for match in HEADING.finditer(text)]
    found = []
    for match in FENCE.finditer(text):
        section = [name for start, name in headings if start < match.start()][-1]
        lines = match["text"].splitlines(keepends=True)
        inside = "".join(line.removeprefix(match["indent"]) for line in lines)
        found.append(Block(section, match["kind"], inside))
    return found


class Reader:
    """
    Somebody who goes through SECTIONS of a document. DO has, by a block's kind, what is done with
    its text; a kind that is not there is an error.
    """

    def __init__(self, blocks, sections, do):
        self.left = [block for block in blocks if block.section in sections]
        self.do = do

    def step(self):
        block = self.left.pop(0)
        self.do[block.kind](block.text)
        return block

    def go_past(self, words):
        """Up to the next block that has WORDS, and that one too; returns it."""
        while True:
            assert self.left, f"the document has no block with {words}"
            block = self.step()
            if words in block.text:
                return block
