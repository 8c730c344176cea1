"""The engineered features of `gbdt`, without Python per row.

Counts come from train, and a row of train must not see itself: its own user's rows and histories are left out of
every count (five folds of users, each row counted over the other four). Users of valid and test are not in train,
so that full counts are to them what the other folds' counts are to a row of train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from common.errors import ConfigError
from track2_mmctr.config import FeatureConfig
from track2_mmctr.datasets.candidates import NAMES
from track2_mmctr.datasets.tables import ItemTable, Split
from track2_mmctr.rankers.gbdt_codes import code_columns, prefix_numbers
from track2_mmctr.rankers.segments import Segments, segments, unit_rows

FOLDS = 5
RECENCY = 0.8
"""Weight of a history item is RECENCY ** (items since)."""
SMOOTHING = 10.0
Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Counts:
    """What some rows of train say of N items.

    Attributes
    ----------
    clicks, shows
        float64 [N]: clicks on the item, and rows that have it as target.
    seen
        float64 [N]: users with the item in their history.
    pairs, pair_counts
        int64 [P] ascending `a * N + b` with a < b, and how often a user's history has both near to each other.
    rate
        The mean click rate, the prior of every item.
    """

    clicks: np.ndarray
    shows: np.ndarray
    seen: np.ndarray
    pairs: np.ndarray
    pair_counts: np.ndarray
    rate: float

    @classmethod
    def of(cls, split: Split, rows: np.ndarray, size: int, window: int) -> Self:
        """Count over `rows` (ascending) of a split; `window` bounds how far apart two items of a pair may be."""
        label = np.zeros(0) if split.label is None else np.asarray(split.label[rows], dtype=np.float64)
        target = np.asarray(split.target[rows])
        history, owner = longest_histories(split, rows)
        once = np.unique(owner * size + history)
        pairs, pair_counts = near_pairs(history, owner, size, window)
        return cls(
            clicks=np.bincount(target, weights=label, minlength=size),
            shows=np.bincount(target, minlength=size).astype(np.float64),
            seen=np.bincount(once % size, minlength=size).astype(np.float64),
            pairs=pairs,
            pair_counts=pair_counts,
            rate=float(label.mean()) if len(label) else 0.0,
        )

    def together(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return how often items a and b stand near to each other, int64 like them."""
        if not len(self.pairs):
            return np.zeros(len(a), dtype=np.int64)
        keys = np.minimum(a, b) * len(self.shows) + np.maximum(a, b)
        places = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.where(self.pairs[places] == keys, self.pair_counts[places], 0)


@dataclass(frozen=True, eq=False)
class Folds:
    """The part of train that each of its rows must not see: `fold` int64 [R], and the counts of each fold."""

    fold: np.ndarray
    counts: list[Counts]

    @classmethod
    def of(cls, split: Split, size: int, window: int, seed: int) -> Self:
        """Deal the users of a split into folds at random, and count each fold."""
        users, inverse = np.unique(np.asarray(split.users), return_inverse=True)
        dealt = np.random.default_rng(seed).permutation(len(users)) % FOLDS
        fold = dealt[inverse]
        return cls(fold, [Counts.of(split, np.flatnonzero(fold == k), size, window) for k in range(FOLDS)])


def longest_histories(split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the longest history of each user of `rows`, end to end, and the user's number for each token.

    A user has several rows with one history, or with one that grows: each item is counted once a user.
    """
    users, inverse = np.unique(np.asarray(split.users[rows]), return_inverse=True)
    lengths = np.asarray(split.lengths)[rows]
    order = np.lexsort((rows, lengths, inverse))
    last = np.append(inverse[order][1:] != inverse[order][:-1], True) if len(order) else np.zeros(0, dtype=bool)
    chosen = order[last]
    length = lengths[chosen]
    ends = np.asarray(split.offsets, dtype=np.int64)[rows[chosen] + 1]
    offsets = np.concatenate([[0], np.cumsum(length)])
    places = np.arange(offsets[-1]) + np.repeat(ends - offsets[1:], length)
    return np.asarray(split.history[places], dtype=np.int64), np.repeat(np.arange(len(users)), length)


def near_pairs(history: np.ndarray, owner: np.ndarray, size: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of different items at most `window` places apart in one history, and their counts."""
    keys = [np.zeros(0, dtype=np.int64)]
    for step in range(1, min(window, len(history) - 1) + 1):
        a, b = history[:-step], history[step:]
        kept = (owner[:-step] == owner[step:]) & (a != b)
        keys.append((np.minimum(a, b) * size + np.maximum(a, b))[kept])
    return np.unique(np.concatenate(keys), return_counts=True)


def make_features(
    split: Split, items: ItemTable, counts: Counts, config: FeatureConfig, *, max_len: int, folds: Folds | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the features float32 [R, F] and their names; NaN = unknown (an empty history).

    Parts that `config` switches off give no columns: `embedding` the cosines, `tags` the overlap, `ids` all counts,
    `item_levels` and `target_levels` the levels, `semantic_ids` the code prefixes (of `sid`, only `levels` has a
    bearing here: the rest says how neural rankers read codes), `candidates` what a generator thinks of the row. With
    `folds` the split is train, and each row's fold is left out.
    """
    vectors = None
    if config.embedding != "none":
        if items.embedding is None:
            raise ConfigError("the item table has no embedding", where="features.embedding", got=config.embedding)
        vectors = centred(items.embedding)
    if config.semantic_ids != "none" and items.semantic_ids is None:
        raise ConfigError("the item table has no semantic IDs", where="features.semantic_ids")
    ids = items.semantic_ids if config.semantic_ids != "none" else None
    prefixes = None if ids is None else prefix_numbers(ids.codes)
    names: list[str] = []
    parts: list[np.ndarray] = []
    for part in segments(split, max_len):
        columns: Columns = {"history_length": part.lengths}
        if vectors is not None:
            columns |= cosine_columns(part, vectors)
        if config.target_levels:
            columns |= dict(zip(("target_likes", "target_views"), _levels(split, part).T, strict=True))
        if config.item_levels:
            columns |= level_columns(part, items)
        if config.tags:
            columns |= tag_columns(part, items.tags)
        if config.ids:
            columns |= count_columns(part, counts, folds)
        if prefixes is not None:
            columns |= code_columns(part, prefixes, counts, folds)
        if config.candidates != "none":
            columns |= generated_columns(part, split)
        names = list(columns)
        parts.append(np.column_stack([column.astype(np.float32) for column in columns.values()]))
    if not parts:
        return np.zeros((0, 0), dtype=np.float32), names
    return np.concatenate(parts), names


def _levels(split: Split, part: Segments) -> np.ndarray:
    return np.asarray(split.levels[part.first : part.first + len(part)])


def generated_columns(part: Segments, split: Split) -> Columns:
    """Return a generator's score of the target after the history, and 1 / rank; NaN where it knows nothing."""
    if split.candidates is None:
        raise ConfigError("the rows have no generated candidates", where="features.candidates")
    values = np.asarray(split.candidates[part.first : part.first + len(part)], dtype=np.float64)
    known = values[:, 0] > 0
    return {name: np.where(known, values[:, column], np.nan) for column, name in enumerate(NAMES) if column}


def centred(embedding: np.ndarray) -> np.ndarray:
    """Return embeddings less their mean over items, float32; an item without one (zeros) keeps zeros."""
    vectors = np.array(embedding, dtype=np.float32)
    known = vectors.any(axis=1)
    if known.any():
        vectors[known] -= vectors[known].mean(axis=0, dtype=np.float64).astype(np.float32)
    return vectors


def cosine_columns(part: Segments, vectors: np.ndarray) -> Columns:
    """Similarities of the target with the history: cosines, and the dot product with the mean."""
    target = vectors[part.target]
    unit = unit_rows(target)
    tokens = vectors[part.history]
    total = part.sum(tokens)
    tokens = unit_rows(tokens)
    each = np.einsum("td,td->t", tokens, unit[part.row_of])
    recency = (RECENCY**part.age).astype(np.float32)
    filled = part.lengths > 0
    mean = part.mean(each)
    spread = np.sqrt(np.maximum(part.mean(each * each) - mean * mean, 0))
    dot = np.einsum("rd,rd->r", total, target) / np.maximum(part.lengths, 1)
    recent = unit_rows(part.sum(tokens * recency[:, None]))
    return {
        "cos_mean": mean,
        "cos_of_mean": np.where(filled, np.einsum("rd,rd->r", unit_rows(total), unit), np.nan),
        "cos_of_recent": np.where(filled, np.einsum("rd,rd->r", recent, unit), np.nan),
        "dot_of_mean": np.where(filled, dot, np.nan),
        "cos_max": part.max(each),
        "cos_last": part.last(each),
        "cos_top3": part.top(each, 3),
        "cos_std": np.where(filled, spread, np.nan),
        "target_norm": np.linalg.norm(target, axis=1),
    }


def level_columns(part: Segments, items: ItemTable) -> Columns:
    """Levels of the target in the item table, of the history on average, and the difference of the two."""
    columns: Columns = {}
    for name, levels in (("likes", items.likes), ("views", items.views)):
        target, mean = levels[part.target].astype(np.float64), part.mean(levels[part.history].astype(np.float64))
        columns |= {f"item_{name}": target, f"history_{name}": mean, f"more_{name}": target - mean}
    return columns


def tag_columns(part: Segments, tags: np.ndarray) -> Columns:
    """Tags that the target shares with history items: share of items with one, most in one item, mean number."""
    own = tags[part.target]
    theirs, mine = tags[part.history], own[part.row_of]
    shared = np.zeros(len(theirs))
    for column in range(tags.shape[1]):  # a loop over the five places of a tag, not over rows
        tag = mine[:, column : column + 1]
        shared += ((theirs == tag) & (tag > 0)).any(axis=1)
    return {
        "target_tags": (own > 0).sum(axis=1),
        "tags_share": part.mean((shared > 0).astype(np.float64)),
        "tags_max": part.max(shared),
        "tags_mean": part.mean(shared),
    }


def count_columns(part: Segments, counts: Counts, folds: Folds | None) -> Columns:
    """How often train has the target, and others' histories have it near the history's items."""
    target, other = part.target, part.target[part.row_of]
    clicks, shows, seen = counts.clicks[target], counts.shows[target], counts.seen[target]
    seen_token = counts.seen[part.history]
    together = counts.together(other, part.history).astype(np.float64)
    scale = 1.0
    if folds is not None:
        fold = folds.fold[part.first : part.first + len(part)]
        for k, left_out in enumerate(folds.counts):
            rows, tokens = fold == k, (fold == k)[part.row_of]
            clicks[rows] -= left_out.clicks[target[rows]]
            shows[rows] -= left_out.shows[target[rows]]
            seen[rows] -= left_out.seen[target[rows]]
            seen_token[tokens] -= left_out.seen[part.history[tokens]]
            together[tokens] -= left_out.together(other[tokens], part.history[tokens])
        scale = FOLDS / (FOLDS - 1)  # counts over four of five folds, on the scale of full counts
    norm = np.sqrt((seen_token + 1) * (seen[part.row_of] + 1))
    return {
        "target_rate": (clicks + SMOOTHING * counts.rate) / (shows + SMOOTHING),
        "target_shows": np.log1p(scale * shows),
        "target_seen": np.log1p(scale * seen),
        "together": np.log1p(scale * part.sum(together)),
        "together_norm": part.mean(together / norm),
        "together_share": part.mean((together > 0).astype(np.float64)),
    }
