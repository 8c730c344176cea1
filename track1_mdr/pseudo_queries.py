"""Pseudo-queries of passages: what stands on a page, cut into texts of a question's length.

A generative retriever learns its catalogue from (query, passage) pairs. Where no questions with answers exist,
the page's own sentences, titles, captions and key phrases stand in for them (query augmentation: CART, ACL 2025;
DSI-QG, Zhuang et al. 2022). Nothing but the passages is read, so that no question of the task can get in.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from track1_mdr.cart_config import PseudoQueryConfig, QueryKind
from track1_mdr.datasets.tables import Passages

KINDS: tuple[QueryKind, ...] = ("title", "caption", "phrase", "sentence")
"""In the order in which a page's places are given away."""
TITLE_WORDS = 12
PHRASE_WORDS = 4
LONG_LINE = 45
"""Characters of a line that runs on into the next one."""
READABLE = 0.6
"""Share of a text's tokens that must look like words or numbers: below it, it is noise of the OCR or a formula."""

_CAPTION = re.compile(
    r"(?i:figure|fig\.?|table|tab\.|chart|exhibit|algorithm|box)\s*"
    r"(?:\d[\d.-]*[a-z]?|[A-Z](?:[.-]\d+)?|[IVX]+)(?:[.:|–—-]|\s+[A-Z(\d]|\s*$)"
)
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|e\.g|i\.e|etc|vs|cf|al|No|Figs?|Eq|Tab|Dr|Mrs?|Ms|St|Inc|Ltd|Co|U\.S))\.$")
_LETTERS = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]+(?:[-'’.,][^\W_]+)*")
_NUMBER = re.compile(r"[($€£+-]*\d[\d.,:/-]*[%)]*$")
_BREAKS = re.compile(r"[.,;:!?()\[\]{}|/\"“”•–—\n]+")


@dataclass(frozen=True)
class PseudoQueries:
    """Training queries: `texts[i]`, of `kinds[i]`, is answered by passage row `rows[i]` (int64 [Q])."""

    texts: list[str] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    kinds: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def joined(self, other: PseudoQueries) -> PseudoQueries:
        """Return these, then the other ones."""
        return PseudoQueries(
            [*self.texts, *other.texts], np.concatenate([self.rows, other.rows]), [*self.kinds, *other.kinds]
        )


def pseudo_queries(passages: Passages, config: PseudoQueryConfig) -> PseudoQueries:
    """Return at most `config.per_page` cleaned, distinct pseudo-queries a passage, passage by passage.

    A text that stands on more than `config.shared` passages (a running header) tells none of them from the others
    and is left out. Titles, captions and phrases take at most half of a page's places; sentences take the rest,
    spread evenly over the page. Same passages and configuration, same result.
    """
    titles = _layout_titles(passages) if "title" in config.kinds else None
    page_texts, wanted = passages.texts, set(config.kinds)
    frequency = _document_frequency(page_texts) if "phrase" in wanted else None
    pages: list[dict[QueryKind, list[str]]] = []
    for row, text in enumerate(page_texts):
        found = split_page(text, config, has_layout=titles is not None)
        if titles is not None:
            found["title"] = _clean_all(titles.get(row, ()), least=1, most=config.max_words)
        if frequency is not None:
            found["phrase"] = key_phrases(text, frequency, len(passages), config.phrases)
        pages.append({kind: found[kind] if kind in wanted else [] for kind in KINDS})
    spread = Counter(key for page in pages for key in {match_key(t) for texts in page.values() for t in texts})
    texts, rows, kinds = [], [], []
    for row, page in enumerate(pages):
        chosen = _choose(page, spread, config) or _last_resort(page_texts[row], config)
        for kind, text in chosen:
            texts.append(text)
            rows.append(row)
            kinds.append(kind)
    return PseudoQueries(texts, np.asarray(rows, dtype=np.int64), kinds)


def split_page(text: str, config: PseudoQueryConfig, *, has_layout: bool = False) -> dict[QueryKind, list[str]]:
    """Return a page's cleaned sentences, captions and, where no layout names them, titles, in reading order."""
    found: dict[QueryKind, list[str]] = {kind: [] for kind in KINDS}
    for unit in join_lines(text):
        if _CAPTION.match(unit):
            found["caption"] += _clean_all(windows(unit, config.max_words)[:1], least=2, most=config.max_words)
        elif not has_layout and _is_title(unit):
            found["title"] += _clean_all([unit], least=1, most=TITLE_WORDS)
        else:
            pieces = [piece for sentence in sentences(unit) for piece in windows(sentence, config.max_words)]
            found["sentence"] += _clean_all(pieces, least=config.min_words, most=config.max_words)
    return found


def join_lines(text: str) -> list[str]:
    r"""Return the running texts of a page: lines that go on are joined, words cut by a line end made whole.

    >>> join_lines("Results\nThe revenue of the bank grew in all of its four seg-\nments last year.\nOutlook")
    ['Results', 'The revenue of the bank grew in all of its four segments last year.', 'Outlook']
    """
    units: list[str] = []
    last = ""
    for raw in text.replace("\ufffe\n", "").replace("\u00ad\n", "").splitlines():
        line = clean(raw)
        cut = last.endswith("-") and len(last) > 1 and last[-2].isalpha() and line[:1].islower()
        ended = not last or last[-1] in ".!?:" or _CAPTION.match(line) is not None
        if line and last and cut:
            units[-1] = units[-1][:-1] + line
        elif line and not ended and (line[0].islower() or len(last) >= LONG_LINE):
            units[-1] += " " + line
        elif line:
            units.append(line)
        last = line
    return units


def sentences(unit: str) -> list[str]:
    """Return the sentences of a running text; a full stop after an abbreviation or an initial ends none.

    >>> sentences("See Fig. 3 of J. Smith et al. It rose by 3.5 points! Why?")
    ['See Fig. 3 of J. Smith et al. It rose by 3.5 points!', 'Why?']
    """
    found: list[str] = []
    for part in _END.split(unit):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += " " + part
        else:
            found.append(part)
    return found


def windows(text: str, most: int) -> list[str]:
    """Return the text in as few runs of at most `most` words as there can be, of about equal length."""
    words = text.split()
    count = max(1, math.ceil(len(words) / most))
    return [" ".join(part) for part in np.array_split(np.asarray(words, dtype=object), count)] if words else []


def clean(text: str) -> str:
    """Return the text in NFKC, without control characters, dot leaders and repeated blanks."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return " ".join(re.sub(r"(?:[.·_…-]\s?){4,}", " ", text).split())


def readable(text: str) -> bool:
    """Tell words from noise: most tokens are words of two letters or more, or numbers; one has three letters.

    >>> readable("Revenue grew by 3.5%"), readable("T j ~ 1l| _ .x ;"), readable("12 14 18")
    (True, False, False)
    """
    tokens = text.split()
    words = [len(_LETTERS.findall(token)) for token in tokens]
    good = sum(
        (count >= 2 and 2 * count >= len(token)) or _NUMBER.match(token) is not None or token in ("a", "A", "I", "&")
        for token, count in zip(tokens, words, strict=True)
    )
    letters = sum(words)
    return bool(tokens) and good >= READABLE * len(tokens) and max(words) >= 3 and 2 * letters >= len(text) / 2


def match_key(text: str) -> str:
    """Return what two texts that say the same share: their letters and digits, lower-case."""
    return " ".join(_WORD.findall(text.casefold()))


def key_phrases(text: str, frequency: Counter[str], passages: int, count: int) -> list[str]:
    """Return up to `count` runs of content words, the rarest among the passages first (RAKE, Rose et al. 2010, by idf).

    A run is cut at stop words, punctuation and line ends; one that is part of a better one is left out.
    """
    stop = stop_words()
    best: dict[str, tuple[float, str]] = {}
    for part in _BREAKS.split(text):
        run: list[str] = []
        for word in [*_WORD.findall(clean(part)), ""]:
            if word and word.lower() not in stop and len(run) < PHRASE_WORDS:
                run.append(word)
                continue
            phrase = " ".join(run)
            if len(run) >= 2 and readable(phrase):
                weight = sum(math.log((1 + passages) / (1 + frequency[w.lower()])) for w in run)
                best.setdefault(phrase.casefold(), (-weight, phrase))
            run = [word] if word and word.lower() not in stop else []
    chosen: list[str] = []
    for _, phrase in sorted(best.values()):
        if not any(f" {phrase.casefold()} " in f" {other.casefold()} " for other in chosen):
            chosen.append(phrase)
        if len(chosen) == count:
            break
    return chosen


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """Return English stop words."""
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(STOPWORDS_EN_PLUS)


def _document_frequency(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in {w.lower() for w in _WORD.findall(text)})


def _layout_titles(passages: Passages) -> dict[int, list[str]] | None:
    """Return the title blocks by passage row, or None where no layout is known."""
    if passages.layouts is None:
        return None
    titles: dict[int, list[str]] = {}
    for row, kind, text in passages.layouts.select("passage", "kind", "text").iter_rows():
        if kind == "title" and not _CAPTION.match(clean(text)):
            titles.setdefault(row, []).append(text)
    return titles


def _is_title(unit: str) -> bool:
    words = unit.split()
    return len(words) <= TITLE_WORDS and unit[-1] not in ".!?:;,-" and (unit[0].isupper() or unit[0].isdigit())


def _clean_all(texts: Iterable[str], *, least: int, most: int) -> list[str]:
    cleaned = (" ".join(clean(text).split()[:most]) for text in texts)
    return [text for text in cleaned if len(text.split()) >= least and readable(text)]


def _last_resort(text: str, config: PseudoQueryConfig) -> list[tuple[QueryKind, str]]:
    """Return the first words of a page of which nothing else was fit to be a query, if it has any."""
    words = [word for word in _WORD.findall(clean(text)) if _LETTERS.search(word)][: config.max_words]
    return [("sentence", " ".join(words))] if words and "sentence" in config.kinds else []


def _choose(
    page: dict[QueryKind, list[str]], spread: Counter[str], config: PseudoQueryConfig
) -> list[tuple[QueryKind, str]]:
    """Return the texts that take the page's places."""
    seen: set[str] = set()
    distinct: dict[QueryKind, list[str]] = {}
    for kind in KINDS:
        distinct[kind] = []
        for text in page[kind]:
            key = match_key(text)
            if key not in seen and spread[key] <= config.shared:
                seen.add(key)
                distinct[kind].append(text)
    short: list[tuple[QueryKind, str]] = [(kind, text) for kind in KINDS[:-1] for text in distinct[kind]]
    room = max(config.per_page // 2, config.per_page - len(distinct["sentence"]))
    short = short[:room]
    left = config.per_page - len(short)
    body = distinct["sentence"]
    if len(body) > left:
        body = [body[int(place)] for place in np.linspace(0, len(body) - 1, left).round()] if left > 1 else body[:left]
    for text in body:
        short.append(("sentence", text))
    return short
