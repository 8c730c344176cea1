"""Semantic IDs as features of `gbdt`: prefixes that the target shares with its history, and their click rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from track2_mmctr.rankers.segments import Segments

if TYPE_CHECKING:
    from track2_mmctr.rankers.gbdt_features import Counts, Folds

SMOOTHING = 10.0


def prefix_numbers(codes: np.ndarray) -> np.ndarray:
    """Return the number of each item's prefix (c_1 .. c_l) at each level l, int64 [N, L]; row 0, the padding, has 0."""
    found = np.zeros(codes.shape, np.int64)
    for level in range(codes.shape[1]):
        _, number = np.unique(codes[1:, : level + 1], axis=0, return_inverse=True)
        found[1:, level] = 1 + number.reshape(-1)
    return found


def code_columns(part: Segments, prefixes: np.ndarray, counts: Counts, folds: Folds | None) -> dict[str, np.ndarray]:
    """Return two columns a level: the share of the history with the target's prefix, and the prefix's click rate.

    Rates are counted over train; with `folds` the split is train, and each row's own fold is left out.
    """
    columns: dict[str, np.ndarray] = {}
    for level, number in enumerate(prefixes.T, start=1):
        own = number[part.target]
        same = number[part.history] == own[part.row_of]
        columns[f"sid{level}_share"] = part.mean(same.astype(np.float64))
        clicks, shows = _by_prefix(counts, number, own)
        if folds is not None:
            fold = folds.fold[part.first : part.first + len(part)]
            for k, left_out in enumerate(folds.counts):
                rows = fold == k
                own_clicks, own_shows = _by_prefix(left_out, number, own[rows])
                clicks[rows] -= own_clicks
                shows[rows] -= own_shows
        columns[f"sid{level}_rate"] = (clicks + SMOOTHING * counts.rate) / (shows + SMOOTHING)
    return columns


def _by_prefix(counts: Counts, number: np.ndarray, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return clicks and shows of all items of each of `prefixes`, float64 like them."""
    return np.bincount(number, counts.clicks)[prefixes], np.bincount(number, counts.shows)[prefixes]
