"""Training batches of ROMA: items whose words are masked, and users' windows with the items that are in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.generative.tiger_batches import Windows, cut_windows
from common.hashing import digest
from common.representation.inputs import Behaviour
from common.representation.roma.config import RomaConfig
from common.representation.roma.item_inputs import ItemInputs


@dataclass(frozen=True)
class WindowBatch:
    """B windows of histories over the K different items that they hold.

    Attributes
    ----------
    rows
        Rows of these items in the table of all, int64 [K].
    inputs
        What the bottom blocks read of them; None where their states are known already.
    domains
        The domain of each, int64 [K].
    items
        Places in `rows` of the items that are read, int64 [B, S], oldest first, padded at the end.
    mask
        bool [B, S], True = real.
    targets
        Places in `rows` of the item after each, int64 [B, S]; equal to `items` where there is no target.
    learn
        bool [B, S]: the positions whose target is learnt.
    """

    rows: Tensor
    inputs: ItemInputs | None
    domains: Tensor
    items: Tensor
    mask: Tensor
    targets: Tensor
    learn: Tensor

    def to(self, device: torch.device | str) -> WindowBatch:
        """Return the batch on a device."""
        moved = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in moved.items() if value is not None})


@dataclass(frozen=True)
class RomaBatch:
    """What one step learns from; a task that is off has None."""

    items: ItemInputs | None
    windows: WindowBatch | None

    def to(self, device: torch.device | str) -> RomaBatch:
        """Return the batch on a device."""
        return RomaBatch(
            None if self.items is None else self.items.to(device),
            None if self.windows is None else self.windows.to(device),
        )


def make_windows(
    histories: Sequence[np.ndarray],
    firsts: Sequence[int],
    inputs: ItemInputs | None,
    domains: np.ndarray,
    *,
    targets: bool,
) -> WindowBatch:
    """Return the batch of histories (item rows, oldest first).

    Parameters
    ----------
    firsts
        The first place of each history that is a target.
    inputs
        Of all items; None where the states of items are known.
    targets
        Whether a history's last item is a target only (training) or is read too (serving).
    """
    rows, places = np.unique(np.concatenate(histories), return_inverse=True)
    parts = np.split(places.reshape(-1), np.cumsum([len(one) for one in histories])[:-1])
    width = max(len(one) for one in parts) - int(targets)
    items = np.zeros((len(parts), width), np.int64)
    mask, learn = np.zeros(items.shape, bool), np.zeros(items.shape, bool)
    follow = items.copy()
    for row, (one, first) in enumerate(zip(parts, firsts, strict=True)):
        count = len(one) - int(targets)
        items[row, :count], mask[row, :count] = one[:count], True
        if targets:
            follow[row, :count] = one[1:]
            learn[row, max(0, first - 1) : count] = True
    arrays = (torch.from_numpy(one) for one in (items, mask, follow, learn))
    own = None if inputs is None else inputs.take(torch.from_numpy(rows))
    return WindowBatch(torch.from_numpy(rows), own, torch.from_numpy(domains[rows]), *arrays)


class RomaBatches:
    """Batches of one stage: `item_batch` items to mask, `batch_size` windows to predict in, or both.

    An epoch is one pass over the larger of the two; the other begins again where it ends. A window has at most
    `history` + 1 items, and every item of a user but the first is a target once an epoch.

    Parameters
    ----------
    inputs, domains
        Of all N items; domains int64 [N].
    behaviour
        Histories; None: no windows.
    masked
        Whether items are there to be masked.
    known
        Whether the states of items are known, so that batches need not carry what the bottom blocks read.
    version
        Digest of the items.

    Raises
    ------
    DataError
        No user has two items.
    """

    def __init__(
        self,
        inputs: ItemInputs,
        domains: np.ndarray,
        behaviour: Behaviour | None,
        config: RomaConfig,
        *,
        masked: bool,
        known: bool = False,
        seed: int,
        version: str,
    ) -> None:
        self.inputs, self.domains, self.known, self.seed = inputs, domains, known, seed
        self.behaviour, self.windows = behaviour, None
        self.maskable = np.flatnonzero(inputs.maskable.any(1).numpy()) if masked else np.zeros(0, np.int64)
        self.sizes = (config.item_batch, config.batch_size)
        if behaviour is not None:
            self.windows = cut_windows(behaviour.offsets, config.history, learn_first=False)
            if not len(self.windows.users):
                raise DataError(
                    "no user has two items: there is no next item to learn",
                    expected="histories of two items and more",
                    got=f"{len(behaviour)} users, {len(behaviour.items)} items in all",
                )
        if masked and not len(self.maskable):
            raise DataError("no item has a text: there is no word to mask", todo="set vmlm: false")
        self.digest = digest(version, "" if behaviour is None else behaviour.digest(), masked, config.history, seed)

    def __len__(self) -> int:
        return max(-(-count // size) for count, size in zip(self._counts(), self.sizes, strict=True))

    def _counts(self) -> tuple[int, int]:
        return len(self.maskable), 0 if self.windows is None else len(self.windows.users)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch: item r is r, window w is N + w."""
        rng, first, parts = np.random.default_rng([self.seed, number]), 0, []
        for rows, size in zip((self.maskable, np.arange(self._counts()[1])), self.sizes, strict=True):
            order = rng.permutation(rows) + first
            if len(rows):
                enough = -(-len(rows) // size) == len(self)
                order = order if enough else np.resize(order, len(self) * size)
            parts.append([order[at * size : (at + 1) * size] for at in range(len(self))])
            first = len(self.inputs)
        return [np.concatenate(pair) for pair in zip(*parts, strict=True)]

    def make(self, rows: np.ndarray) -> RomaBatch:
        """Return the batch of some rows of `epoch`."""
        items, windows = rows[rows < len(self.inputs)], rows[rows >= len(self.inputs)] - len(self.inputs)
        return RomaBatch(
            self.inputs.take(torch.from_numpy(items)) if len(items) else None,
            self._window_batch(windows) if len(windows) else None,
        )

    def _window_batch(self, rows: np.ndarray) -> WindowBatch:
        assert self.windows is not None and self.behaviour is not None  # noqa: S101 - rows of windows exist
        cut: Windows = self.windows
        histories = [self.behaviour.items[cut.starts[w] : cut.ends[w]] for w in rows]
        inputs = None if self.known else self.inputs
        return make_windows(histories, (cut.first - cut.starts)[rows].tolist(), inputs, self.domains, targets=True)
