"""Batches without padding: rows sorted by history length, histories end to end, items looked up once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from track2_mmctr.datasets.tables import Split


class Block(NamedTuple):
    """Neighbouring rows of a batch with histories of one length: tokens `[first_token, first_token + rows * length)`.

    Those tokens reshape to a dense `[rows, length, ...]` without padding. `length` may be 0.
    """

    first_row: int
    rows: int
    first_token: int
    length: int


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: B rows, T history tokens, U different items. Rows are in ascending order of history length.

    Attributes
    ----------
    items
        int64 [U]: ids of all items in the batch, ascending, each once. Item features are computed for these.
    history
        int64 [T]: places in `items` of the rows' histories, end to end, oldest first.
    offsets
        int64 [B + 1]: row b has tokens `offsets[b]:offsets[b + 1]`.
    target
        int64 [B]: places in `items`.
    levels
        int64 [B, 2]: likes_level and views_level of the target.
    users, rows
        int64 [B]: user ids; rows in the split.
    past
        int64 [B]: lengths of the rows' histories in the split, of which the newest `max_len` items are read.
    label
        float32 [B], or None.
    blocks
        Runs of rows of equal length, which cover the batch.
    candidates
        float32 [B, 3], or None: see `Split`.
    """

    items: Tensor
    history: Tensor
    offsets: Tensor
    target: Tensor
    levels: Tensor
    users: Tensor
    rows: Tensor
    past: Tensor
    label: Tensor | None
    blocks: tuple[Block, ...]
    candidates: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def lengths(self) -> Tensor:
        """History lengths, int64 [B]."""
        return self.offsets.diff()

    @cached_property
    def row_of(self) -> Tensor:
        """The row of each history token, int64 [T]."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    @cached_property
    def by_item(self) -> tuple[Tensor, Tensor]:
        """Tokens sorted by item, int64 [T], and where each item's tokens start in that order, int64 [U]."""
        order = torch.argsort(self.history, stable=True)
        counts = torch.bincount(self.history, minlength=len(self.items))
        return order, counts.cumsum(0) - counts

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """Item ids int64 [B, L], padded on the left with 0, and the mask, bool [B, L]: **True = real item**.

        For models that want rectangles; L is the longest history of the batch, at least 1.
        """
        width = max(1, int(self.lengths.max())) if len(self) else 1
        mask = torch.arange(width, device=self.items.device) >= width - self.lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.int64, device=self.items.device)
        ids[mask] = self.items[self.history]  # row-major, as the tokens are
        return ids, mask

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device."""
        if self.items.device == torch.device(device):
            return self
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v.to(device, non_blocking=True) for k, v in moved.items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def make_batch(split: Split, rows: np.ndarray, max_len: int) -> Batch:
    """Gather `rows` of a split into one batch, keeping the newest `max_len` items of each history."""
    starts, ends = np.asarray(split.offsets[rows]), np.asarray(split.offsets[rows + 1])
    past = ends - starts
    lengths = np.minimum(past, max_len)
    order = np.argsort(lengths, kind="stable")
    rows, ends, past, lengths = rows[order], ends[order], past[order], lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(ends - lengths - offsets[:-1], lengths)
    target = np.asarray(split.target[rows])
    items, inverse = unique_items(np.concatenate([np.asarray(split.history[places]), target]))
    label = None if split.label is None else torch.from_numpy(np.asarray(split.label[rows], dtype=np.float32))
    generated = None if split.candidates is None else torch.from_numpy(np.asarray(split.candidates[rows]))
    return Batch(
        items=torch.from_numpy(items),
        history=torch.from_numpy(inverse[: offsets[-1]]),
        offsets=torch.from_numpy(offsets),
        target=torch.from_numpy(inverse[offsets[-1] :]),
        levels=torch.from_numpy(np.asarray(split.levels[rows], dtype=np.int64)),
        users=torch.from_numpy(np.asarray(split.users[rows], dtype=np.int64)),
        rows=torch.from_numpy(rows.astype(np.int64)),
        past=torch.from_numpy(past.astype(np.int64)),
        label=label,
        blocks=_blocks(lengths, offsets),
        candidates=generated,
    )


def unique_items(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different ids, ascending int64 [U], and the place of each id among them, int64 [n].

    The same as `numpy.unique` with `return_inverse`, by marks over the vocabulary in place of a sort: 20 times
    faster for a batch of 8,192 rows of a catalogue of 91,718 items.

    >>> unique_items(np.array([7, 2, 7]))
    (array([2, 7]), array([1, 0, 1]))
    """
    marks = np.zeros(int(ids.max(initial=0)) + 1, dtype=bool)
    marks[ids] = True
    items = np.flatnonzero(marks)
    place = np.empty(len(marks), np.int64)
    place[items] = np.arange(len(items))
    return items, place[ids]


def _blocks(lengths: np.ndarray, offsets: np.ndarray) -> tuple[Block, ...]:
    if not len(lengths):
        return ()
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(lengths)) + 1])
    counts = np.diff(np.append(firsts, len(lengths)))
    return tuple(
        Block(int(row), int(count), int(offsets[row]), int(lengths[row]))
        for row, count in zip(firsts, counts, strict=True)
    )


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the shuffled rows of an epoch: the same for the same seed and epoch, whatever came before."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def batches(
    split: Split,
    batch_size: int,
    max_len: int,
    *,
    order: np.ndarray | None = None,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of a split, in `order` (default: that of the file), from batch `first` on.

    With `world` processes each global batch of `batch_size` rows is dealt out: process `rank` takes every
    `world`-th row of it, so that all processes together see what one process would.
    """
    order = np.arange(len(split)) if order is None else order
    for start in range(first * batch_size, len(order), batch_size):
        rows = order[start : start + batch_size][rank::world]
        yield make_batch(split, rows, max_len)
