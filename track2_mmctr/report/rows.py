"""Galleries of rows: the ones a run gets most wrong, and the ones that two runs rank furthest apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.logits import sigmoid
from common.pages.blocks import Block, Card, Choice, Gallery, Gap, Section, Strip, Tile
from track2_mmctr.compare import Comparison, ranks
from track2_mmctr.datasets.tables import Split
from track2_mmctr.groups import length_groups, popularity_groups
from track2_mmctr.report.items import Shelf, history_label, history_of
from track2_mmctr.report.scores import Scored

WRONG, APART = 30, 20
"""Rows shown: of each label and split (wrong), and of each side of a pair of runs (apart)."""
ROW_FILTERS = (Choice("label", "label"), Choice("history", "history"), Choice("popularity", "target"))


@dataclass(frozen=True, eq=False)
class Rows:
    """A split's rows to be shown: name of each row's group of history length and of popularity."""

    split: Split
    shelf: Shelf
    history: np.ndarray
    popularity: np.ndarray

    @classmethod
    def of(cls, split: Split, counts: np.ndarray | None, shelf: Shelf) -> Rows:
        """Name the groups of each row."""
        by_length = _names(len(split), length_groups(split), "history ")
        return cls(split, shelf, by_length, _names(len(split), popularity_groups(split, counts), "in train "))

    def strips(self, row: int, target: Tile) -> list[Strip]:
        """Return the target and the newest part of the history as covers and titles, side by side."""
        items, length = history_of(self.split, row)
        return [Strip(history_label(len(items), length), [target, *(self.shelf.tile(item) for item in items)])]

    def facets(self, row: int, clicked: bool) -> dict[str, list[str]]:
        """Return what the filters go by."""
        facets = {
            "label": ["clicked" if clicked else "not clicked"],
            "history": [str(self.history[row])],
            "split": [self.split.name],
        }
        return facets | ({"popularity": [str(self.popularity[row])]} if self.popularity[row] else {})

    def facts(self, row: int, clicked: bool) -> list[tuple[str, str]]:
        """Return the label, the row's place in its file, its user and the length of its history."""
        length = int(self.split.offsets[row + 1] - self.split.offsets[row])
        return [
            ("label", "clicked" if clicked else "not clicked"),
            ("row", f"{self.split.name} {row}"),
            ("user", str(int(self.split.users[row]))),
            ("item", str(int(self.split.target[row]))),
            ("history", f"{length} items" if length != 1 else "1 item"),
        ]


def _names(rows: int, groups: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    names = np.full(rows, "", dtype=object)
    for name, mine in groups.items():
        names[mine] = what + name
    return names


def wrong_section(scored: Scored, counts: np.ndarray | None, shelf: Shelf, each: int = WRONG) -> Section:
    """Return the clicks that the run held least likely, and the other rows that it held most likely, `each` a split."""
    key, title = "wrong", "Most wrong"
    cards: list[Card] = []
    for name in scored.reports:
        rows = Rows.of(scored.data.splits[name], counts, shelf)
        label, logits = scored.label(name), scored.logits[name]
        place = ranks(logits)
        for row in most_wrong(label, logits, each):
            cards.append(_wrong_card(rows, int(row), bool(label[row]), float(logits[row]), float(place[row])))
    if not cards:
        return Section(key, title, [Gap("No split with known labels and predictions: no rows to show.", "see Scores")])
    cards.sort(key=lambda card: -card.numbers["loss"])
    sorts = (
        Choice("loss", "loss", descending=True),
        Choice("probability", "predicted, lowest first"),
        Choice("length", "length of history", descending=True),
    )
    filters = (*ROW_FILTERS, *([Choice("split", "split")] if len(scored.reports) > 1 else []))
    how = (
        f"Of each split, the {each} clicked rows that the run held least likely and the {each} rows without a click "
        "that it held most likely. Rank: share of the split's rows that the run ranks below, 1 = likeliest click."
    )
    return Section(key, title, [Gallery(cards, "rows", filters, sorts)], how)


def most_wrong(label: np.ndarray, logits: np.ndarray, each: int) -> np.ndarray:
    """Return the `each` positives with the lowest logits, then the `each` negatives with the highest: int64 rows.

    Equal logits in the order of the rows.
    """
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    low = positive[np.argsort(logits[positive], kind="stable")[:each]]
    high = negative[np.argsort(-logits[negative], kind="stable")[:each]]
    return np.concatenate([low, high])


def _wrong_card(rows: Rows, row: int, clicked: bool, logit: float, place: float) -> Card:
    probability = float(sigmoid(logit))
    item = int(rows.split.target[row])
    told = f"predicted {100 * probability:.1f} %"
    target = rows.shelf.tile(item, badge="clicked" if clicked else "not clicked", tone="bad", lines=[told])
    facts = [("predicted", f"{100 * probability:.2f} %"), ("rank", f"{place:.3f}"), *rows.facts(row, clicked)]
    loss = float(np.logaddexp(0.0, -logit if clicked else logit))
    length = float(rows.split.offsets[row + 1] - rows.split.offsets[row])
    numbers = {"loss": loss, "probability": probability, "length": length}
    return Card(rows.shelf.title(item), facts, rows.strips(row, target), rows.facets(row, clicked), numbers)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs on one split: their comparison, the letters that they have on the page, and their ranks [R]."""

    comparison: Comparison
    letters: tuple[str, str]
    first: np.ndarray
    second: np.ndarray

    def right(self, label: np.ndarray) -> np.ndarray:
        """Return int [R]: 1 where the first ranks the row nearer to its label, -1 where the second does, 0 neither."""
        return np.sign(self.first - self.second).astype(int) * np.where(np.asarray(label) == 1, 1, -1)


def furthest(pair: Pair, label: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows ranked furthest apart, `each` at most: those the first has right, and those the second has."""
    apart, right = np.abs(pair.first - pair.second), pair.right(label)
    sides: list[np.ndarray] = []
    for side in (1, -1):
        mine = np.flatnonzero(right == side)
        sides.append(mine[np.argsort(-apart[mine], kind="stable")[:each]])
    return sides[0], sides[1]


def apart_section(pairs: Sequence[Pair], rows: Rows, label: np.ndarray, each: int = APART) -> Section:
    """Return the rows that pairs of runs rank furthest apart, wins and losses of the first run."""
    key, title = "disagreements", "Where they disagree most"
    cards: list[Card] = []
    for pair in pairs:
        for side, found in enumerate(furthest(pair, label, each)):
            cards += [_apart_card(pair, rows, int(row), bool(label[row]), side) for row in found]
    if not cards:
        return Section(key, title, [Gap("The runs rank all rows alike: nothing to show.")])
    cards.sort(key=lambda card: -card.numbers["apart"])
    sorts = (
        Choice("apart", "distance of the ranks", descending=True),
        Choice("length", "length of history", descending=True),
    )
    several = [Choice("pair", "pair")] if len(pairs) > 1 else []
    filters = (Choice("right", "who is right"), *several, *ROW_FILTERS)
    how = (
        "Rank: share of the split's rows that a run ranks below, 1 = likeliest click. A run is right where it ranks a "
        f"clicked row higher, or another row lower, than the other run does. {each} rows of each side at most."
    )
    blocks: list[Block] = [Gallery(cards, "rows", filters, sorts)]
    return Section(key, title, blocks, how)


def _apart_card(pair: Pair, rows: Rows, row: int, clicked: bool, side: int) -> Card:
    a, b = pair.letters
    item = int(rows.split.target[row])
    first, second = float(pair.first[row]), float(pair.second[row])
    badge = "clicked" if clicked else "not clicked"
    target = rows.shelf.tile(item, badge=badge, tone="good" if side == 0 else "bad")
    facts = [("right", pair.letters[side]), (f"rank of {a}", f"{first:.3f}"), (f"rank of {b}", f"{second:.3f}")]
    facets = rows.facets(row, clicked) | {"right": [f"{pair.letters[side]} is right"], "pair": [f"{a} and {b}"]}
    length = float(rows.split.offsets[row + 1] - rows.split.offsets[row])
    numbers = {"apart": abs(first - second), "length": length}
    strips = rows.strips(row, target)
    return Card(rows.shelf.title(item), [*facts, *rows.facts(row, clicked)], strips, facets, numbers)
