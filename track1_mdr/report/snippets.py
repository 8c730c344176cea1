"""The piece of a page that a question's words stand in, with these words marked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from functools import cache

from common.pages.blocks import Segments
from track1_mdr.routes.bm25_tokens import tokenize, word_places

WIDTH = 150
"""Characters of a piece."""
_SPACE = re.compile(r"\s+")


@cache
def _empty_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(stem for word in STOPWORDS_EN_PLUS for stem in tokenize(word))


def cut(question: str, text: str, width: int = WIDTH) -> Segments:
    """Return the `width` characters that hold most different words of the question, these marked.

    Words match as `bm25` matches them, lower case and stemmed, and more of them are stop words: "which" and
    "from" explain no answer. Without a match it is the passage's beginning.
    """
    wanted = frozenset(tokenize(question)) - _empty_words()
    hits = [place for place in word_places(text) if place[2] in wanted]
    start, end = _window(hits, width) if hits else (0, 0)
    left = max(0, min(start - (width - (end - start)) // 2, len(text) - width))
    return _pieces(text, *_whole_words(text, left, left + width, start, end), hits)


def _window(hits: list[tuple[int, int, str]], width: int) -> tuple[int, int]:
    """Return start and end of the first run of hits within `width` that has most different words, then most hits."""
    inside: Counter[str] = Counter()
    best, place, first = (0, 0), (hits[0][0], hits[0][1]), 0
    for _, end, stem in hits:
        inside[stem] += 1
        while end - hits[first][0] > width and hits[first][1] < end:
            inside[hits[first][2]] -= 1
            first += 1
        value = (sum(count > 0 for count in inside.values()), inside.total())
        if value > best:
            best, place = value, (hits[first][0], end)
    return place


def _whole_words(text: str, left: int, right: int, start: int, end: int) -> tuple[int, int]:
    """Return left and right moved inwards so that no word is cut through; start to end stays inside."""
    while 0 < left < start and not text[left - 1].isspace():
        left += 1
    last = right
    while max(end, left + 1) < last < len(text) and not text[last].isspace():
        last -= 1
    # A run without a space, as a long address or a script that has none, is cut where it is.
    return left, last if last > max(end, left + 1) or last == end else right


def _pieces(text: str, left: int, right: int, hits: Collection[tuple[int, int, str]]) -> Segments:
    """Return text[left:right] in pieces, the hits marked; white space is one space each."""
    inside = [(a, b) for a, b, _ in hits if left <= a and b <= right]
    pieces: list[tuple[str, bool]] = [("… ", False)] if left > 0 else []
    at = left
    for start, end in inside:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    pieces.append((text[at:right], False))
    if right < len(text):
        pieces.append((" …", False))
    return [(words, marked) for piece, marked in pieces if (words := _SPACE.sub(" ", piece))]
