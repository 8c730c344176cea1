"""Choosing examples to show."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def spread_rows(groups: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Return at most `count` rows, drawn at random from all groups in turn, so that small groups are there too.

    >>> len(spread_rows(["a"] * 9 + ["b"], 4, seed=0)), 9 in spread_rows(["a"] * 9 + ["b"], 4, seed=0)
    (4, True)
    """
    rows: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(len(groups)).tolist():
        rows.setdefault(groups[row], []).append(row)
    ordered = [rows[group] for group in dict.fromkeys(groups)]
    rounds = max(map(len, ordered), default=0)
    turns = (group[turn] for turn in range(rounds) for group in ordered if turn < len(group))
    return [row for row, _ in zip(turns, range(count), strict=False)]
