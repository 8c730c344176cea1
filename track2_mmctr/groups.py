"""Groups of rows that figures are told for: by history length, and by the target's count in train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from track2_mmctr.datasets.tables import CtrData, Split

LENGTHS = (0, 5, 10, 20)
"""Upper ends of the groups of history length; the last group is open."""
COLD = "0 (cold)"
_QUARTILES = (0.25, 0.5, 0.75)


def train_counts(data: CtrData) -> np.ndarray:
    """Return for each item the number of training rows that have it as target: int64 [N]."""
    return np.bincount(data.train.target, minlength=len(data.items))


def length_groups(split: Split) -> dict[str, np.ndarray]:
    """Return the groups of history length, bool [R] each: 0, 1-5, 6-10, 11-20, 21+."""
    return _ranges(np.asarray(split.lengths), LENGTHS)


def popularity_groups(split: Split, counts: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the groups of the target's count in train, bool [R] each: cold, then about equal quarters of the rest."""
    return {} if counts is None else count_groups(np.asarray(counts)[np.asarray(split.target)])


def count_groups(mine: np.ndarray) -> dict[str, np.ndarray]:
    """Return the groups of counts in train, int [R], as bool [R] each: 0 (cold), then about equal quarters."""
    known = mine[mine > 0]
    ends = np.unique(np.quantile(known, _QUARTILES, method="inverted_cdf").astype(np.int64)) if len(known) else []
    groups = _ranges(mine, (0, *(int(end) for end in ends if end < known.max())))
    return {COLD if name == "0" else name: rows for name, rows in groups.items()}


def _ranges(values: np.ndarray, ends: Sequence[int]) -> dict[str, np.ndarray]:
    """Cut whole numbers from 0 at the given upper ends; the last group is open. Returns name -> bool [R]."""
    groups: dict[str, np.ndarray] = {}
    for low, high in zip((0, *(end + 1 for end in ends)), (*ends, None), strict=True):
        name = f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
        groups[name] = (values >= low) if high is None else (values >= low) & (values <= high)
    return groups
