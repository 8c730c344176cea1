"""Facts of rows that several checks need, each computed once with whole arrays: no loop over rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from common.metrics.ctr import auc
from track2_mmctr.datasets.leaks import chunks, earlier_history, own_history
from track2_mmctr.datasets.tables import Split, SplitName
from track2_mmctr.explore.read import Ctr

AFFINITY = "cosine of history and target"
"""A column of `Rows.alone`."""
COMPARED = 50_000
"""Rows of a file whose embeddings are compared."""
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_STEP = 0x9E3779B97F4A7C15


def mixed(values: np.ndarray) -> np.ndarray:
    """Return uint64 values in which every bit depends on every bit of `values` (splitmix64's finaliser)."""
    x = values.astype(np.uint64) + np.uint64(_STEP)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
    return x ^ (x >> np.uint64(31))


def _tokens(split: Split, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of rows first..last in a chunk's tokens, and a digest of each (item, place in its row)."""
    offsets = split.offsets[first : last + 1]
    lengths = np.diff(offsets)
    place = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], lengths)
    items = split.history[offsets[0] : offsets[-1]].astype(np.uint64)
    return offsets - offsets[0], mixed(items * np.uint64(_STEP) + place.astype(np.uint64))


def history_digests(split: Split) -> np.ndarray:
    """Return a 64-bit digest of each row's user and history, uint64 [R]: equal rows have equal ones."""
    out = mixed(split.users)
    for first, last in chunks(split):
        bounds, tokens = _tokens(split, first, last)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(tokens, dtype=np.uint64)])
        out[first:last] += sums[bounds[1:]] - sums[bounds[:-1]]  # modulo 2^64, as it should
    return out


def begins_in(split: Split, sequences: Split) -> np.ndarray:
    """Return whether a row's history is the beginning of (or all of) a sequence of the same user, bool [R]."""
    found = split.lengths == 0
    wanted = history_digests(split)
    waiting = np.flatnonzero(~found)
    start = mixed(sequences.users)
    for first, last in chunks(sequences):
        bounds, tokens = _tokens(sequences, first, last)
        lengths = np.diff(bounds)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(tokens, dtype=np.uint64)])
        prefixes = sums[1:] - np.repeat(sums[bounds[:-1]], lengths) + np.repeat(start[first:last], lengths)
        hit = pl.Series(wanted[waiting]).is_in(pl.Series(prefixes).implode()).to_numpy()
        found[waiting[hit]] = True
        waiting = waiting[~hit]
    return found


def pair_seen(split: Split, sequences: Split) -> np.ndarray:
    """Return whether the row's target stands in any sequence of the row's user, bool [R]."""
    return _mask(earlier_history(split, sequences), len(split))


def click_rate(split: Split) -> float:
    """Return the share of label 1; NaN without labels."""
    return float("nan") if split.label is None else float(np.asarray(split.label).mean(dtype=np.float64))


def auc_alone(split: Split, values: np.ndarray, rows: np.ndarray | None = None) -> float | None:
    """Return the AUC of a column (of some rows) taken as the score; None without labels, or where they are alike."""
    if split.label is None:
        return None
    label = np.asarray(split.label) if rows is None else split.label[rows]
    return auc(label, values.astype(np.float64)) if label.any() and not label.all() else None


def _mask(rows: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _cosines(split: Split, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of mean history and target of rows with a history, float64 [len(rows)]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    out = np.zeros(len(rows))
    for start in range(0, len(rows), 2000):  # the vectors of all histories at once would take gigabytes
        part = rows[start : start + 2000]
        lengths = split.lengths[part]
        ends = np.cumsum(lengths)
        tokens = np.repeat(split.offsets[part] - ends + lengths, lengths) + np.arange(ends[-1])
        sums = np.add.reduceat(unit[split.history[tokens]].astype(np.float64), ends - lengths, axis=0)
        norms = np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
        out[start : start + len(part)] = (sums * unit[split.target[part]]).sum(1) / norms
    return out


@dataclass
class Rows:
    """What is known of the rows of all splits; `counts` are by item, int64 [items]."""

    data: Ctr

    @cached_property
    def own(self) -> dict[SplitName, np.ndarray]:
        """Whether the target is in the row's own history."""
        return {name: _mask(own_history(split), len(split)) for name, split in self.data.splits.items()}

    @cached_property
    def earlier(self) -> dict[SplitName, np.ndarray]:
        """Whether the target is in a history of the same user in an earlier file; train has none."""
        splits = list(self.data.splits.values())
        found: dict[SplitName, np.ndarray] = {}
        for place, split in enumerate(splits[1:], 1):
            found[split.name] = np.zeros(len(split), bool)
            for earlier in splits[:place]:
                found[split.name][earlier_history(split, earlier)] = True
        return found

    @cached_property
    def listed(self) -> dict[SplitName, np.ndarray]:
        """Whether the target of valid and test is in a sequence of the same user in item_seq."""
        sequences = self.data.sequences
        later = [split for name, split in self.data.splits.items() if name != "train"]
        return {} if sequences is None else {split.name: pair_seen(split, sequences) for split in later}

    @cached_property
    def digests(self) -> dict[SplitName, np.ndarray]:
        """Digests of user, history and target."""
        return {name: mixed(history_digests(split) ^ mixed(split.target)) for name, split in self.data.splits.items()}

    def compared(self, split: Split) -> np.ndarray:
        """Return up to `COMPARED` rows with a history, ascending: those of which `affinity` tells."""
        rows = np.flatnonzero(split.lengths > 0)
        chosen = np.random.default_rng(0).permutation(len(rows))[:COMPARED]
        return rows[np.sort(chosen)]

    @cached_property
    def affinity(self) -> dict[SplitName, np.ndarray]:
        """Cosine of the mean embedding of the history with the target's, of the rows `compared`; {} without vectors."""
        vectors = None if self.data.info is None else self.data.info.embedding
        if vectors is None:
            return {}
        return {name: _cosines(split, self.compared(split), vectors) for name, split in self.data.splits.items()}

    @cached_property
    def clicks(self) -> np.ndarray:
        """Clicks of each item as a target of train."""
        train = self.data.splits.get("train")
        if train is None or train.label is None:
            return np.zeros(self.data.items, np.int64)
        return np.bincount(train.target[np.asarray(train.label) > 0], minlength=self.data.items)

    @cached_property
    def shown(self) -> np.ndarray:
        """Rows of train that have the item as their target."""
        train = self.data.splits.get("train")
        return np.bincount([] if train is None else train.target, minlength=self.data.items).astype(np.int64)

    @cached_property
    def in_histories(self) -> np.ndarray:
        """How often each item stands in a history of train."""
        train = self.data.splits.get("train")
        return np.bincount([] if train is None else train.history, minlength=self.data.items).astype(np.int64)

    @cached_property
    def labelled(self) -> dict[SplitName, Split]:
        """The splits whose labels are known."""
        return {name: split for name, split in self.data.splits.items() if split.label is not None}

    @cached_property
    def alone(self) -> dict[str, dict[SplitName, float | None]]:
        """What one column alone orders: column -> split -> AUC of its values as scores.

        Clicks of the target are those of train, so that train itself has none.
        """
        splits = self.labelled
        later: dict[SplitName, Split] = {name: split for name, split in splits.items() if name != "train"}
        found: dict[str, dict[SplitName, float | None]] = {
            "likes_level": {name: auc_alone(split, split.levels[:, 0]) for name, split in splits.items()},
            "views_level": {name: auc_alone(split, split.levels[:, 1]) for name, split in splits.items()},
            "history length": {name: auc_alone(split, split.lengths) for name, split in splits.items()},
            "target in own history": {name: auc_alone(split, self.own[name]) for name, split in splits.items()},
        }
        if self.affinity:
            found[AFFINITY] = {n: auc_alone(s, self.affinity[n], self.compared(s)) for n, s in splits.items()}
        if "train" in splits:
            found["clicks of the target in train"] = {n: auc_alone(s, self.clicks[s.target]) for n, s in later.items()}
            found["target in earlier files"] = {n: auc_alone(s, self.earlier[n]) for n, s in later.items()}
        if self.data.sequences is not None:
            found["target in item_seq"] = {n: auc_alone(s, self.listed[n]) for n, s in later.items()}
        return found
