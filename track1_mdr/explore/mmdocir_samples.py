"""A seeded sample of MMDocIR's questions, each with its gold pages."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter

from common.errors import DataError
from common.explore.sample import spread_rows
from common.pages.blocks import Card, Choice, Gallery, Segments, Strip, Tile
from common.pages.images import Images, thumbnail
from track1_mdr.explore.mmdocir_read import Mmdocir

PAGE_SIZE = (220, 300)
GOLD_PAGES = 4
OTHER_PAGES = 2
WORDS = 45
"""Words of a page that are shown."""
LEAD = 6
_WORD = re.compile(r"\w+")


def question_gallery(data: Mmdocir, images: Images, samples: int, seed: int) -> tuple[Gallery, list[str]]:
    """Return a gallery of at most `samples` questions, spread over the domains, and the pages that cannot be drawn."""
    at = {(name, page): row for row, (name, page) in enumerate(data.pages.select("doc_name", "page").iter_rows())}
    counts = dict(data.pages.group_by("doc_name").len().iter_rows())
    drawn = _Drawn(data, images)
    rows = sorted(spread_rows(data.questions["domain"].to_list(), samples, seed))
    asked = [(question, _wanted(data, question, at)) for question in data.questions[rows].iter_rows(named=True)]
    for row in sorted({row for _, (_, found) in asked for _, row in found}):  # in the order of the file: read once
        drawn.draw(row)
    cards: list[Card] = []
    for question, (label, found) in asked:
        marked = {word.lower() for word in re.findall(r"\w{4,}", question["question"])}
        tiles = [drawn.tile(page, row, marked, gold=label.startswith("gold")) for page, row in found]
        gold = data.gold.get(question["question_id"])
        evidence = data.evidence.get(question["question_id"], ())
        words = len(question["question"].split())
        pages = counts.get(question["doc_name"], 0)
        cards.append(
            Card(
                question["question"],
                [("id", question["question_id"]), ("document", question["doc_name"]), ("domain", question["domain"]),
                 ("pages", f"{pages:,}"), *([("evidence", ", ".join(evidence))] if evidence else [])],
                [Strip(label, tiles)] if tiles else [],
                {"domain": [question["domain"]], "gold": ["none" if gold is None else str(len(gold))],
                 "evidence": list(evidence)},
                {"pages": pages, "words": words},
            )
        )  # fmt: skip
    filters = [Choice("domain", "Domain"), Choice("gold", "Gold pages")]
    if data.evidence:
        filters.append(Choice("evidence", "Evidence"))
    sorts = [Choice("pages", "Longest document", descending=True), Choice("words", "Longest question", descending=True)]
    return Gallery(cards, "questions", filters, sorts), drawn.broken


def _wanted(
    data: Mmdocir, question: dict[str, str], at: dict[tuple[str, int], int]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the strip's label and the (page, row) pairs to show: the gold, else the document's first pages."""
    document, gold = question["doc_name"], data.gold.get(question["question_id"])
    label = "gold pages" if gold else "first pages (no gold)"
    numbers = [int(page) for page in gold[:GOLD_PAGES]] if gold else list(range(OTHER_PAGES))
    if gold and len(gold) > GOLD_PAGES:
        label = f"gold pages, {GOLD_PAGES} of {len(gold)}"
    return label, [(page, at[document, page]) for page in numbers if (document, page) in at]


class _Drawn:
    """Thumbnails of pages, made once; `broken` are those that cannot be read."""

    def __init__(self, data: Mmdocir, images: Images) -> None:
        self.data, self.images = data, images
        self.broken: list[str] = []

    def key(self, row: int) -> str:
        document, page = self.data.pages.row(row)[:2]
        return f"page:{document}:{page}"

    def draw(self, row: int) -> None:
        """Add the page's thumbnail to the page's images, if it has an image."""
        if not self.data.has_images or (self.data.compared and self.data.pages["image"][row] is None):
            return
        try:
            self.images.add(self.key(row), thumbnail(self.data.images.load(row), *PAGE_SIZE))
        except DataError as error:
            self.broken.append(f"{self.key(row)}: {error.what}")

    def tile(self, page: int, row: int, words: set[str], *, gold: bool) -> Tile:
        image = self.key(row) if self.key(row) in self.images else None
        text: Segments = marked_words(self.data.pages["text"][row], words)
        count = int(self.data.pages["words"][row])
        return Tile(f"page {page}", image, "gold" if gold else "", "gold" if gold else "", [f"{count:,} words"], text)


def marked_words(text: str, words: set[str], limit: int = WORDS) -> list[tuple[str, bool]]:
    """Return at most `limit` words of a text, in pieces: (piece, whether it is marked).

    They begin shortly before the place after which most different ones of `words` stand.
    """
    tokens = text.split()
    hits = [(at, found) for at, token in enumerate(tokens) if (found := words & set(_WORD.findall(token.lower())))]
    start = 0
    if hits:
        many = [len(set().union(*(found for at, found in hits if 0 <= at - first < limit - LEAD))) for first, _ in hits]
        start = max(0, min(hits[many.index(max(many))][0] - LEAD, len(tokens) - limit))
    marked = {at for at, _ in hits}
    pieces: list[tuple[str, bool]] = [("… ", False)] if start else []
    end = min(start + limit, len(tokens))
    for at in range(start, end):
        pieces.append((tokens[at], at in marked))
        pieces.append((" " if at + 1 < end else "" if end == len(tokens) else " …", at in marked and at + 1 in marked))
    joined = groupby((piece for piece in pieces if piece[0]), key=itemgetter(1))
    return [("".join(text for text, _ in group), mark) for mark, group in joined]
