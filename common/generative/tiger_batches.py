"""Training batches of TIGER: histories and what follows them, of equal length where possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.hashing import digest

Mode = Literal["bidirectional", "causal"]


@dataclass(frozen=True)
class TigerBatch:
    """Histories, and in training what follows.

    Attributes
    ----------
    items
        Item rows int64 [B, T], oldest first, padded at the end by any valid row; T may be 0.
    mask
        bool [B, T], True = real.
    users
        User rows int64 [B], for models with user tokens; None: unknown.
    target
        The item row that follows each history, int64 [B].
    learn
        bool [B, T]: these items are the targets, each to be told from those before it (causal training).
    """

    items: Tensor
    mask: Tensor
    users: Tensor | None = None
    target: Tensor | None = None
    learn: Tensor | None = None

    @classmethod
    def of(cls, histories: list[np.ndarray], users: np.ndarray | None = None) -> TigerBatch:
        """Return the batch of histories, one integer array a query; an empty one is allowed."""
        width = max((len(one) for one in histories), default=0)
        items = np.zeros((len(histories), width), dtype=np.int64)
        mask = np.zeros((len(histories), width), dtype=bool)
        for row, one in enumerate(histories):
            items[row, : len(one)], mask[row, : len(one)] = one, True
        known = None if users is None else torch.as_tensor(users, dtype=torch.int64)
        return cls(torch.from_numpy(items), torch.from_numpy(mask), known)

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device | str) -> TigerBatch:
        """Return the batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def counts(self) -> dict[str, int]:
        """Return how many targets the loss is the mean of."""
        return {"loss": len(self) if self.learn is None else int(self.learn.sum())}


@dataclass(frozen=True)
class Windows:
    """Parts of the flat item array: window w is items[starts[w]:ends[w]] and its targets begin at `first[w]`."""

    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    users: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """Number of targets of each window."""
        return self.ends - self.first


def cut_windows(offsets: np.ndarray, most: int, learn_first: bool) -> Windows:
    """Cut users' sequences into windows of at most `most` + 1 items such that each item is a target once.

    The first window of a user learns all its items (with `learn_first` also the first, from an empty history);
    a later one learns half of its items and has the other half, at least, as the history of each.
    """
    starts, ends, first, users = [], [], [], []
    step = max(1, (most + 1) // 2)
    for user, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        at = begin if learn_first else begin + 1
        stop = min(end, begin + most + 1)
        while at < end:
            starts.append(max(begin, stop - most - 1))
            ends.append(stop)
            first.append(at)
            users.append(user)
            at, stop = stop, min(end, stop + step)
    return Windows(*(np.array(one, dtype=np.int64) for one in (starts, ends, first, users)))


def cut_examples(offsets: np.ndarray, most: int, learn_first: bool) -> Windows:
    """Return a window for every target: its history of at most `most` items, then itself."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places = np.arange(offsets[-1])
    begin = offsets[:-1][users]
    kept = places >= (begin if learn_first else begin + 1)
    places, begin, users = places[kept], begin[kept], users[kept]
    return Windows(np.maximum(begin, places - most), places + 1, places, users)


class TigerBatches:
    """The training examples of users' sequences, in batches of windows of like length.

    Windows are sorted by length (those of one length are shuffled each epoch), cut into batches of about
    `batch_size` targets, and the batches are shuffled: next to nothing is padding, and each epoch has as many
    batches.

    Parameters
    ----------
    items
        Item rows int32 [T] of all users, oldest first.
    offsets
        int64 [U + 1]; user u has items[offsets[u]:offsets[u + 1]].
    mode
        causal: a window teaches all its positions; bidirectional: one window an example.
    most
        Items of a history at most.
    seed
        Of the order.
    batch_size
        Targets of a batch, about.
    learn_first
        Learn the first item of a user too, from an empty history.

    Raises
    ------
    DataError
        Offsets that do not fit the items, or no target at all.
    """

    def __init__(
        self,
        items: np.ndarray,
        offsets: np.ndarray,
        *,
        mode: Mode,
        most: int,
        seed: int,
        batch_size: int = 256,
        learn_first: bool = False,
    ) -> None:
        if batch_size < 1 or most < 1:
            raise ConfigError("batches need at least one target and one item", got=(batch_size, most))
        _check(items, offsets)
        self.items, self.mode, self.seed = items.astype(np.int64), mode, seed
        cut = cut_windows if mode == "causal" else cut_examples
        self.windows = cut(offsets, most, learn_first)
        if not len(self.windows.users):
            raise DataError(
                "no training example: no user has two items", got=f"{len(offsets) - 1} users, {len(items)} items"
            )
        self.lengths = self.windows.ends - self.windows.starts
        data = (items.astype(np.int64).tobytes(), offsets.astype(np.int64).tobytes())
        self.digest = digest(*data, mode, most, seed, batch_size, learn_first)
        order = np.argsort(self.lengths, kind="stable")
        filled = np.cumsum(self.windows.targets[order])
        cuts = np.flatnonzero(np.diff((filled - 1) // batch_size)) + 1
        self._cuts = cuts.tolist()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._cuts) + 1

    @property
    def targets(self) -> int:
        """Targets of an epoch."""
        return int(self.windows.targets.sum())

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the window rows of each batch of an epoch."""
        rng = np.random.default_rng([self.seed, number])
        order = np.lexsort((rng.random(len(self.lengths)), self.lengths))
        parts = np.split(order, self._cuts)
        return [parts[i] for i in rng.permutation(len(parts))]

    def make(self, rows: np.ndarray) -> TigerBatch:
        """Return the batch of some windows."""
        windows, lengths = self.windows, self.lengths[rows]
        columns = np.arange(lengths.max())
        mask = columns[None, :] < lengths[:, None]
        places = np.where(mask, windows.starts[rows][:, None] + columns[None, :], 0)
        items = torch.from_numpy(self.items[places])
        users = torch.from_numpy(windows.users[rows])
        if self.mode == "causal":
            learn = mask & (places >= windows.first[rows][:, None])
            return TigerBatch(items, torch.from_numpy(mask), users, learn=torch.from_numpy(learn))
        target = torch.from_numpy(self.items[windows.first[rows]])
        history = torch.from_numpy(columns[None, :-1] < lengths[:, None] - 1)
        return TigerBatch(items[:, :-1], history, users, target=target)


def _check(items: np.ndarray, offsets: np.ndarray) -> None:
    good = items.ndim == 1 and offsets.ndim == 1 and len(offsets) and offsets[0] == 0 and offsets[-1] == len(items)
    if not good or (np.diff(offsets) < 0).any() or items.dtype.kind not in "iu":
        raise DataError(
            "sequences of another form",
            expected="integer items [T] and ascending offsets from 0 to T",
            got=f"{items.dtype} {list(items.shape)}, offsets {list(offsets.shape)}",
        )
