"""The question names a page, slide, figure or table: the named pages get a score, all others none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from track1_mdr.config import ReferenceConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored
from track1_mdr.routes.base import Environment

_ANSWER_FORMAT = re.compile(r"\[[^\]]*\]")  # "answer as a list like ['Page 2', 'Page 4']" names no page
_ORDINALS = {
    word: number
    for number, words in enumerate(
        (
            ("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"),
            ("sixth", "6th"), ("seventh", "7th"), ("eighth", "8th"), ("ninth", "9th"), ("tenth", "10th"),
        ),
        start=1,
    )
    for word in words
}  # fmt: skip
_NUMBER_LIST = r"(\d{1,3}(?:\s*(?:,(?!\d{3}\b)|-|–|to|and|&)\s*\d{1,3})*)(?![,.]?\d)"  # not the 3 of 3,000
_PAGE = re.compile(rf"\b(?:pages?|slides?|pp?\.)\s*(?:number|no\.?|#)?\s*{_NUMBER_LIST}\b", re.IGNORECASE)
_ORDINAL_PAGE = re.compile(
    rf"\b({'|'.join(_ORDINALS)}|\d{{1,3}}(?:st|nd|rd|th)|last|final|cover)\s+(?:page|slide)\b", re.IGNORECASE
)
_LABEL = r"(?:\d{1,3}(?:\.\d{1,2}){0,2}[a-z]?|[A-Z](?:\.\d{1,2})?)"
_CAPTION = re.compile(
    r"\b(figure|fig|table|tab|chart|exhibit|appendix|algorithm|section|chapter)s?\.?\s*"
    rf"({_LABEL}(?:\s*(?:,|and|&)\s*\d{{1,3}})*)(?![\w.]*\d)\b(?!\s*%)",
    re.IGNORECASE,
)
_KINDS = {"fig": "figure", "tab": "table"}
MENTIONED = 0.4
"""Score of a page whose text only mentions the named figure; the page that holds its caption gets 1."""


def named_pages(question: str, pages: int) -> list[int]:
    """Return the page indices (from 0) that the question names among `pages` pages.

    Questions count pages from 1. "pages 3-5" names three, "the last slide" the last one.

    >>> named_pages("What is on slide 4?", 10), named_pages("Compare pages 2 and 5 to the cover page", 10)
    ([3], [0, 1, 4])
    """
    question = _ANSWER_FORMAT.sub(" ", question)
    numbers: set[int] = set()
    for match in _PAGE.finditer(question):
        numbers |= set(_expand(match.group(1)))
    for match in _ORDINAL_PAGE.finditer(question):
        word = match.group(1).lower()
        digits = re.match(r"\d+", word)
        named = int(digits.group()) if digits else _ORDINALS.get(word, 1)
        numbers.add(pages if word in ("last", "final") else named)
    return sorted(number - 1 for number in numbers if 1 <= number <= pages)


def _expand(text: str) -> Iterable[int]:
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    is_range = re.search(r"\d\s*(?:-|–|to)\s*\d", text) is not None
    if is_range and len(numbers) == 2 and 0 < numbers[1] - numbers[0] <= 20:
        return range(numbers[0], numbers[1] + 1)
    return numbers


def named_captions(question: str) -> list[tuple[str, str]]:
    """Return the (kind, number) pairs of the figures, tables, sections... that the question names.

    >>> named_captions("In Figs. 3b and 4, and Table 2, ...")
    [('figure', '3'), ('figure', '4'), ('table', '2')]
    """
    found: dict[tuple[str, str], None] = {}
    for match in _CAPTION.finditer(_ANSWER_FORMAT.sub(" ", question)):
        kind = match.group(1).lower()
        for number in re.findall(_LABEL, match.group(2)):
            if not number[0].islower():  # letters name a table only as capitals: not the "a" of "table a person"
                found[_KINDS.get(kind, kind), number.rstrip("abcdefghijklmnopqrstuvwxyz")] = None
    return list(found)


def caption_patterns(kind: str, number: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return (caption at the start of a line, any mention) patterns for one figure, table or section."""
    names = {"figure": r"fig(?:ure|\.)?", "table": r"tab(?:le|\.)?"}.get(kind, re.escape(kind))
    tail = rf"{re.escape(number)}(?![\d.]*\d)(?!\w)"
    start = rf"^\s*(?:{names})\s*{tail}"
    if kind in ("section", "chapter", "appendix"):
        start = rf"^\s*(?:(?:{names})\s*)?{tail}[\s.:]"
    return re.compile(start, re.IGNORECASE | re.MULTILINE), re.compile(rf"\b(?:{names})\s*{tail}", re.IGNORECASE)


class ReferenceRoute:
    """Scores named pages (`kind: page`) or the pages of named captions (`kind: caption`) only."""

    def __init__(self, config: ReferenceConfig, environment: Environment) -> None:
        self._config = config
        self._texts: list[str] = []

    def fit(self, passages: Passages) -> None:
        """Keep the passages' text, in which captions are looked up."""
        self._texts = passages.texts

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return scores in (0, 1] for named pages; queries that are not bound to a document name none."""
        results: list[Scored] = []
        bound = queries.table["doc_name"].to_list()
        for question, document, rows in zip(queries.texts, bound, candidates.rows, strict=True):
            if not document or not question:
                results.append(Scored.empty())
            elif self._config.kind == "page":
                pages = named_pages(question, len(rows))
                results.append(Scored(rows[np.asarray(pages, dtype=np.int64)], np.ones(len(pages), np.float32)))
            else:
                results.append(self._captions(question, rows))
        return results

    def _captions(self, question: str, rows: np.ndarray) -> Scored:
        best: dict[int, float] = {}
        for kind, number in named_captions(question):
            for row, score in self._find(kind, number, rows):
                best[row] = max(best.get(row, 0.0), score)
        return Scored(np.asarray(list(best), dtype=np.int64), np.asarray(list(best.values()), dtype=np.float32))

    def _find(self, kind: str, number: str, rows: Sequence[int] | np.ndarray) -> list[tuple[int, float]]:
        caption, mention = caption_patterns(kind, number)
        found: list[tuple[int, float]] = []
        for row in rows:
            text = self._texts[int(row)]
            if caption.search(text):
                found.append((int(row), 1.0))
            elif mention.search(text):
                found.append((int(row), MENTIONED))
        return found
