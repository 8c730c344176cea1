"""Lines to layout blocks by geometry: an honest stand-in where no layout model has seen the page.

The rules look at position, font height and words alone: lines that follow each other closely with one height
make a block; a short, taller block is a title; a block that starts with "Figure N" or "Table N" is that
caption; a block of mostly numbers is a table. Everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from track1_mdr.datasets.pdf import Box, Line

MAX_GAP = 0.9
"""Largest gap between lines of a block, in line heights."""
HEIGHT_RATIO = 1.35
"""Lines of one block differ less than this in height."""
TITLE_RATIO = 1.25
"""Height of a title's lines over the page's median."""
TITLE_WORDS = 20

_CAPTION = re.compile(r"(figure|fig\.|chart|exhibit|table)\s*[\dIVX]+", re.IGNORECASE)
_NUMBER = re.compile(r"[($€£+-]*\d[\d.,:/]*[%)]*$")


@dataclass(frozen=True)
class Block:
    """A block of a page: kind is text, title, figure or table."""

    kind: str
    text: str
    box: Box


def group_lines(lines: Sequence[Line]) -> list[Block]:
    """Group lines, which come in reading order, into blocks."""
    if not lines:
        return []
    usual = median(_height(line.box) for line in lines)
    groups: list[list[Line]] = []
    for line in lines:
        if groups and _continues(groups[-1], line):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [Block(_kind(group, usual), join_lines(group), _hull(line.box for line in group)) for group in groups]


def join_lines(lines: Iterable[Line]) -> str:
    """Join lines to text; a word that a line end cut becomes whole again."""
    return "\n".join(line.text for line in lines).replace("\ufffe\n", "").replace("\ufffe", "").strip()


def _height(box: Box) -> float:
    return max(box[3] - box[1], 1e-4)


def _continues(group: list[Line], line: Line) -> bool:
    last = group[-1].box
    if group[-1].text.endswith("\ufffe"):
        return True
    low, high = sorted((_height(last), _height(line.box)))
    overlap = min(last[2], line.box[2]) - max(last[0], line.box[0])
    beside = line.box[1] < last[3] and line.box[3] > last[1]  # the same row: cells of a table
    gap = line.box[1] - last[3]
    if high > HEIGHT_RATIO * low or _CAPTION.match(line.text):
        return False
    return beside or (overlap > 0 and -0.5 * high <= gap <= MAX_GAP * high)


def _kind(group: list[Line], usual: float) -> str:
    words = join_lines(group).split()
    caption = _CAPTION.match(group[0].text)
    if caption:
        return "table" if caption.group(1).lower() == "table" else "figure"
    if len(words) >= 6 and sum(_NUMBER.match(word) is not None for word in words) >= 0.5 * len(words):
        return "table"
    tall = median(_height(line.box) for line in group) >= TITLE_RATIO * usual
    return "title" if tall and len(group) <= 3 and len(words) <= TITLE_WORDS else "text"


def _hull(boxes: Iterable[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return (min(lefts), min(tops), max(rights), max(bottoms))
