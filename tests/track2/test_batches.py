"""Batches against a row-by-row oracle in plain Python."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.track2.ctr_files import write_layout
from track2_mmctr.batches import Batch, batches, epoch_order, make_batch, unique_items
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.tables import Split


def random_split(seed: int, rows: int = 37, longest: int = 9, items: int = 40, label: bool = True) -> Split:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, rows) * (rng.random(rows) > 0.2)  # some rows have no history
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Split(
        name="train",
        users=rng.integers(1, 10**12, rows),
        history=rng.integers(1, items, offsets[-1]).astype(np.int32),
        offsets=offsets,
        target=rng.integers(1, items, rows).astype(np.int32),
        levels=rng.integers(0, 11, (rows, 2)).astype(np.int32),
        label=rng.integers(0, 2, rows).astype(np.float32) if label else None,
        ids=None,
        digest=str(seed),
    )


def row_of_split(split: Split, row: int, max_len: int) -> tuple[object, ...]:
    """What a batch must say of a row: the oracle."""
    history = split.history[split.offsets[row] : split.offsets[row + 1]].tolist()
    label = None if split.label is None else float(split.label[row])
    target, user = int(split.target[row]), int(split.users[row])
    return row, history[-max_len:], target, split.levels[row].tolist(), user, label


def rows_of_batch(batch: Batch) -> list[tuple[object, ...]]:
    """What a batch says of its rows, read through `items`."""
    items, out = batch.items.tolist(), []
    for place in range(len(batch)):
        first, last = batch.offsets[place : place + 2].tolist()
        history = [items[token] for token in batch.history[first:last].tolist()]
        label = None if batch.label is None else float(batch.label[place])
        target, user = items[int(batch.target[place])], int(batch.users[place])
        out.append((int(batch.rows[place]), history, target, batch.levels[place].tolist(), user, label))
    return out


def check_structure(batch: Batch) -> None:
    """What rankers build on, whatever the data."""
    lengths = batch.lengths.tolist()
    assert lengths == sorted(lengths)
    used = set(batch.history.tolist()) | set(batch.target.tolist())
    assert used == set(range(len(batch.items))), "each item is used, and each use is in the table"
    assert batch.items.tolist() == sorted(set(batch.items.tolist()))
    covered = 0
    tokens = 0
    for block in batch.blocks:
        assert (block.first_row, block.first_token) == (covered, tokens)
        assert block.rows > 0
        assert lengths[covered : covered + block.rows] == [block.length] * block.rows
        covered, tokens = covered + block.rows, tokens + block.rows * block.length
    assert (covered, tokens) == (len(batch), len(batch.history))
    seen = [block.length for block in batch.blocks]
    assert len(set(seen)) == len(seen), "one block for each length"
    for tensor in (batch.items, batch.history, batch.offsets, batch.target, batch.levels, batch.users, batch.rows):
        assert tensor.dtype == torch.int64
    assert batch.label is None or batch.label.dtype == torch.float32
    assert batch.row_of.tolist() == [row for row, length in enumerate(lengths) for _ in range(length)]
    order, starts = batch.by_item
    assert batch.history[order].tolist() == sorted(batch.history.tolist())
    assert starts.tolist() == np.searchsorted(np.sort(batch.history.numpy()), np.arange(len(batch.items))).tolist()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_len", [1, 3, 100])
def test_a_batch_says_what_the_rows_say(seed: int, max_len: int) -> None:
    split = random_split(seed, label=seed % 2 == 0)
    rows = np.random.default_rng(seed).permutation(len(split))[:20]
    batch = make_batch(split, rows, max_len)
    check_structure(batch)
    assert sorted(rows_of_batch(batch)) == sorted(row_of_split(split, int(row), max_len) for row in rows)


def test_truncation_keeps_the_newest() -> None:
    one = random_split(0, rows=1)
    split = Split("train", one.users, np.arange(1, 8, dtype=np.int32), np.array([0, 7]), one.target, one.levels,
                  one.label, None, "x")  # fmt: skip
    assert rows_of_batch(make_batch(split, np.array([0]), 3))[0][1] == [5, 6, 7]


@pytest.mark.parametrize("seed", range(4))
def test_the_padded_view_is_left_padded_and_true_is_real(seed: int) -> None:
    batch = make_batch(random_split(seed), np.arange(30), 5)
    ids, mask = batch.padded
    assert ids.shape == mask.shape == (30, max(1, int(batch.lengths.max())))
    assert mask.dtype == torch.bool
    for place, row in enumerate(rows_of_batch(batch)):
        history = row[1]
        assert isinstance(history, list)
        padding = ids.shape[1] - len(history)
        assert ids[place].tolist() == [0] * padding + history
        assert mask[place].tolist() == [False] * padding + [True] * len(history)


def test_rows_without_history_only() -> None:
    split = random_split(3, longest=0)
    batch = make_batch(split, np.arange(len(split)), 4)
    check_structure(batch)
    assert [(block.rows, block.length) for block in batch.blocks] == [(len(split), 0)]
    ids, mask = batch.padded
    assert ids.shape == (len(split), 1) and not ids.any() and not mask.any()


def test_no_rows_are_an_empty_batch() -> None:
    batch = make_batch(random_split(1), np.arange(0), 4)
    check_structure(batch)
    assert len(batch) == 0 and batch.blocks == () and len(batch.items) == 0
    assert batch.padded[0].shape == (0, 1)


def test_one_row_many_times_is_allowed() -> None:
    split = random_split(2)
    assert len(make_batch(split, np.zeros(5, np.int64), 4)) == 5


@pytest.mark.parametrize("size", [0, 1, 5, 1000])
def test_unique_items_equal_numpy_s(size: int) -> None:
    ids = np.random.default_rng(size).integers(0, 300, size).astype(np.int32)
    items, place = unique_items(ids)
    wanted, inverse = np.unique(ids, return_inverse=True)
    np.testing.assert_array_equal(items, wanted)
    np.testing.assert_array_equal(place, inverse)
    assert items.dtype == place.dtype == np.int64


# --- many batches ---


@pytest.mark.parametrize(("size", "first"), [(1, 0), (7, 0), (7, 3), (37, 0), (50, 0)])
def test_batches_cover_the_split_in_order(size: int, first: int) -> None:
    split = random_split(5)
    order = epoch_order(len(split), 1, 2)
    got = list(batches(split, size, 100, order=order, first=first))
    wanted = [order[start : start + size] for start in range(first * size, len(split), size)]
    assert [sorted(batch.rows.tolist()) for batch in got] == [sorted(rows.tolist()) for rows in wanted]


def test_without_an_order_it_is_the_file_s() -> None:
    split = random_split(6)
    seen = [sorted(batch.rows.tolist()) for batch in batches(split, 10, 5)]
    assert [row for rows in seen for row in rows] == list(range(len(split)))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_together_see_what_one_sees(world: int) -> None:
    split = random_split(7)  # 37 rows: the last batch of 9 has one row, fewer than there are processes
    order = epoch_order(len(split), 0, 0)
    alone = list(batches(split, 9, 100, order=order))
    dealt = [list(batches(split, 9, 100, order=order, rank=rank, world=world)) for rank in range(world)]
    assert {len(of_rank) for of_rank in dealt} == {len(alone)}
    for place, batch in enumerate(alone):
        shares = [rows_of_batch(of_rank[place]) for of_rank in dealt]
        assert sorted(row for share in shares for row in share) == sorted(rows_of_batch(batch))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): epoch_order(200, seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9
    np.random.default_rng(99).random(1000)
    np.random.seed(4)
    for (seed, epoch), order in reversed(orders.items()):
        assert epoch_order(200, seed, epoch).tolist() == order
        assert sorted(order) == list(range(200))


def test_the_same_rows_give_the_same_bytes() -> None:
    split = random_split(8)
    one, two = (list(batches(split, 8, 4, order=epoch_order(len(split), 3, 1))) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        for name in ("items", "history", "offsets", "target", "levels", "users", "rows", "label"):
            assert getattr(a, name).numpy().tobytes() == getattr(b, name).numpy().tobytes()
        assert a.blocks == b.blocks


def test_batches_of_memory_mapped_splits_are_own_copies(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    split = load_data(planted.folder, DataConfig(), FeatureConfig(embedding="none"), tmp_path / "cache").train
    batch = next(batches(split, 50, 5))
    check_structure(batch)
    assert sorted(rows_of_batch(batch)) == [row_of_split(split, row, 5) for row in range(50)]
    assert batch.label is not None
    for tensor in (batch.label, batch.users, batch.levels, batch.items):
        tensor.zero_()  # must not reach the cache (a read-only mapping would crash)
    assert rows_of_batch(next(batches(split, 50, 5))) != rows_of_batch(batch)


def test_moving_a_batch_keeps_it_whole() -> None:
    batch = make_batch(random_split(9), np.arange(20), 6)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert moved.blocks == batch.blocks
    for name in ("items", "history", "offsets", "target", "levels", "users", "rows", "label"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape


def test_a_test_set_has_no_label() -> None:
    assert make_batch(random_split(1, label=False), np.arange(5), 3).label is None
