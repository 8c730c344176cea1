"""Training batches of EASE: tokens with descriptions and teacher vectors; clicks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.hashing import digest
from common.representation.ease.qformer import Views
from common.representation.inputs import Behaviour, Items


@dataclass(frozen=True)
class EaseBatch:
    """B items.

    Attributes
    ----------
    views
        Tokens and mask of each modality.
    ids, told
        Token ids int64 [B, L] of the descriptions and mask bool [B, L]; None without a language model.
    target
        Unit vectors of the teacher float32 [B, D]; None without one.
    """

    views: Views
    ids: Tensor | None
    told: Tensor | None
    target: Tensor | None

    def to(self, device: torch.device | str) -> EaseBatch:
        """Return the batch on a device."""
        views = {name: (tokens.to(device), mask.to(device)) for name, (tokens, mask) in self.views.items()}
        rest = [None if value is None else value.to(device) for value in (self.ids, self.told, self.target)]
        return EaseBatch(views, *rest)


def views_of(items: Items, names: Sequence[str], rows: np.ndarray) -> Views:
    """Return the tokens and masks of some items; what is masked is 0."""
    views = {}
    for name in names:
        tokens = items.modalities[name]
        mask = torch.from_numpy(tokens.mask[rows])
        values = torch.from_numpy(np.asarray(tokens.values[rows], np.float32))
        views[name] = (torch.where(mask.unsqueeze(2), values, 0), mask)
    return views


class EaseBatches:
    """Items in batches of a random order; no batch has fewer than two items.

    Parameters
    ----------
    described
        Token ids and mask of the descriptions, both [N, L].
    target
        Unit vectors of the teacher, float32 [N, D].
    """

    def __init__(
        self,
        items: Items,
        names: Sequence[str],
        *,
        described: tuple[np.ndarray, np.ndarray] | None,
        target: np.ndarray | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self.items, self.names, self.described, self.target = items, list(names), described, target
        self.parts, self.seed = max(1, len(items) // batch_size), seed
        extra = [] if described is None else [part.tobytes() for part in described]
        extra += [] if target is None else [target.tobytes()]
        self.digest = digest(items.digest(), *names, *extra, batch_size, seed)

    def __len__(self) -> int:
        return self.parts

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the item rows of each batch of an epoch."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.items))
        return np.array_split(order, self.parts)

    def make(self, rows: np.ndarray) -> EaseBatch:
        """Return the batch of some items."""
        ids, told = None, None
        if self.described is not None:
            mask = self.described[1][rows]
            width = int(mask.any(0).sum())  # texts begin at column 0: columns beyond the longest are padding
            ids, told = torch.from_numpy(self.described[0][rows, :width]), torch.from_numpy(mask[:, :width])
        target = None if self.target is None else torch.from_numpy(self.target[rows])
        return EaseBatch(views_of(self.items, self.names, rows), ids, told, target)


@dataclass(frozen=True, eq=False)
class ClickRows:
    """R rows of a click log: user rows and item rows int64 [R] from 0, labels float32 [R]."""

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray

    @classmethod
    def of_histories(cls, behaviour: Behaviour, items: int, negatives: int, seed: int) -> ClickRows:
        """Return each item of a history as a click, and `negatives` items drawn evenly as none.

        An item that the user has in the history is no negative; it is left out where it was drawn.

        Raises
        ------
        DataError
            No history holds an item.
        """
        if not len(behaviour.items):
            raise DataError("no user has a history", where="behaviour", todo="give histories, or set adapter: none")
        users = np.repeat(np.arange(len(behaviour)), behaviour.lengths)
        clicked = np.unique(users * items + behaviour.items)
        rng = np.random.default_rng([seed, 71])
        drawn_users = np.repeat(users, negatives)
        drawn = rng.integers(0, items, len(drawn_users))
        fresh = ~np.isin(drawn_users * items + drawn, clicked)
        labels = np.concatenate([np.ones(len(users)), np.zeros(int(fresh.sum()))]).astype(np.float32)
        return cls(np.concatenate([users, drawn_users[fresh]]), np.concatenate([behaviour.items, drawn[fresh]]), labels)

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> ClickRows:
        """Return some rows."""
        return ClickRows(self.users[rows], self.items[rows], self.labels[rows])

    def check(self, items: int) -> None:
        """Raise `DataError` where an item row is unknown, a label is neither 0 nor 1, or only one label occurs."""
        known = not len(self) or (self.users.min() >= 0 and 0 <= self.items.min() <= self.items.max() < items)
        if not known or not np.isin(self.labels, (0, 1)).all() or len(np.unique(self.labels)) < 2:
            raise DataError(
                "clicks have another form",
                expected=f"user rows from 0, item rows 0..{items - 1}, labels of both 0 and 1",
                got=f"{len(self)} rows, labels {np.unique(self.labels)[:3].tolist()}",
            )


@dataclass(frozen=True)
class ClickBatch:
    """B rows of clicks."""

    users: Tensor
    items: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> ClickBatch:
        """Return the batch on a device."""
        return ClickBatch(self.users.to(device), self.items.to(device), self.labels.to(device))


class ClickBatches:
    """Rows of clicks in batches of a random order; `features` [N, D] are part of the digest only."""

    def __init__(self, clicks: ClickRows, features: Tensor, batch_size: int, seed: int) -> None:
        self.clicks, self.seed = clicks, seed
        self.parts = max(1, len(clicks) // batch_size)
        data = (clicks.users, clicks.items, clicks.labels, features.cpu().numpy())
        self.digest = digest(*(part.tobytes() for part in data), batch_size, seed)

    def __len__(self) -> int:
        return self.parts

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch of an epoch."""
        order = np.random.default_rng([self.seed, number, 1]).permutation(len(self.clicks))
        return np.array_split(order, self.parts)

    def make(self, rows: np.ndarray) -> ClickBatch:
        """Return the batch of some rows."""
        part = self.clicks.take(rows)
        users, items = (torch.from_numpy(np.asarray(one, np.int64)) for one in (part.users, part.items))
        return ClickBatch(users, items, torch.from_numpy(np.asarray(part.labels, np.float32)))
