"""Tiny tables in memory: random rows with empty histories, and a planted rule that only history can tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from track2_mmctr.datasets.tables import CtrData, ItemTable, Split, SplitName


def make_items(rng: np.random.Generator, embedding: np.ndarray, tag_vocabulary: int = 7) -> ItemTable:
    count = len(embedding)
    tags = rng.integers(0, tag_vocabulary, (count, 5)).astype(np.int32)
    levels = rng.integers(1, 11, (2, count)).astype(np.int32)
    vectors = embedding.astype(np.float32)
    tags[0], levels[:, 0], vectors[0] = 0, 0, 0
    return ItemTable(tags, levels[0], levels[1], vectors, None, tag_vocabulary, "items")


def make_split(
    rng: np.random.Generator, name: SplitName, histories: list[np.ndarray], target: np.ndarray, label: np.ndarray
) -> Split:
    lengths = [len(history) for history in histories]
    return Split(
        name,
        users=np.arange(len(target)) + {"train": 0, "valid": 10**6, "test": 2 * 10**6}[name],
        history=np.concatenate([np.zeros(0), *histories]).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=target.astype(np.int32),
        levels=rng.integers(1, 11, (len(target), 2)).astype(np.int32),
        label=label.astype(np.float32),
        ids=None,
        digest=name,
    )


def random_rows(seed: int = 0, items: int = 40, rows: int = 30, longest: int = 9) -> tuple[ItemTable, Split]:
    """Rows without a rule; the first has no history, the second the longest."""
    rng = np.random.default_rng(seed)
    table = make_items(rng, rng.normal(size=(items, 8)))
    lengths = rng.integers(0, longest + 1, rows)
    lengths[:2] = (0, longest)
    histories = [rng.integers(1, items, length) for length in lengths]
    label = np.arange(rows) % 2
    return table, make_split(rng, "train", histories, rng.integers(1, items, rows), label)


def planted(seed: int = 0, train: int = 1500, valid: int = 500, items: int = 60, users: int = 0) -> CtrData:
    """Two tastes, told by the sign of the embedding; a click = the target has the taste of most of the history."""
    rng = np.random.default_rng(seed)
    taste = np.where(np.arange(items) % 2 == 0, 1.0, -1.0)
    direction = rng.normal(size=8)
    table = make_items(rng, taste[:, None] * direction + 0.3 * rng.normal(size=(items, 8)))
    splits: dict[SplitName, Split] = {}
    sizes: tuple[tuple[SplitName, int], ...] = (("train", train), ("valid", valid))
    for name, rows in sizes:
        side = rng.integers(0, 2, rows)
        lengths = rng.integers(1, 7, rows)
        histories = [2 * rng.integers(1, items // 2, n) + s for n, s in zip(lengths, side, strict=True)]
        target = rng.integers(2, items, rows)
        label = (target % 2 == side) ^ (rng.random(rows) < 0.03)
        splits[name] = make_split(rng, name, histories, target, label)
    if users:
        splits["train"] = replace(splits["train"], users=np.arange(train) % users)
    return CtrData(Path("planted"), splits, table)


def shuffled_histories(data: CtrData, seed: int = 1) -> CtrData:
    """The placebo: every row gets another row's history."""
    rng = np.random.default_rng(seed)
    return replace(data, splits={name: _shuffled(split, rng) for name, split in data.splits.items()})


def _shuffled(split: Split, rng: np.random.Generator) -> Split:
    order = rng.permutation(len(split))
    parts = [split.history[split.offsets[row] : split.offsets[row + 1]] for row in order]
    offsets = np.concatenate([[0], np.cumsum(split.lengths[order])])
    return replace(split, history=np.concatenate(parts), offsets=offsets)


def rank_auc(label: np.ndarray | None, score: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties half."""
    assert label is not None
    positive, negative = score[label > 0], score[label == 0]
    return float(((positive[:, None] > negative).mean() + (positive[:, None] >= negative).mean()) / 2)
