"""Training pairs of UniEmbedding: two items of a user, in one domain or in two, drawn anew each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.hashing import digest
from common.representation.inputs import Behaviour
from common.representation.uniembedding.pooling import Pooled

ANCHOR, INTRA, INTER, USER = range(4)
"""Columns of a batch's rows; the rest is the user's drawn history."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs over the U different items that they and the histories name.

    Attributes
    ----------
    vectors, present, domains
        Of the U items, as in `Pooled`.
    anchor, intra, inter
        int64 [B] places among the U items: an item, another of its user in its domain, and another of its user in
        another domain; any place where there is none.
    has_intra, has_inter
        bool [B].
    context
        int64 [B, H], items drawn from the user's history; `context_mask` bool, False at the pair itself.
    count_intra, count_inter
        bool [B, B]: row r may be compared with the partner of row c: its own, or one of the same domain that r's
        user never had.
    """

    vectors: dict[str, Tensor]
    present: Tensor
    domains: Tensor
    anchor: Tensor
    intra: Tensor
    inter: Tensor
    has_intra: Tensor
    has_inter: Tensor
    context: Tensor
    context_mask: Tensor
    count_intra: Tensor
    count_inter: Tensor

    def to(self, device: torch.device | str) -> PairBatch:
        """Return the batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, vectors={name: value.to(device) for name, value in self.vectors.items()}, **moved)


class PairBatches:
    """Every item of every history is an anchor once an epoch; its partners and its user's context are drawn.

    An item that a history repeats counts once, at its last place. The intra-domain partner is drawn from the same
    domain's items of the user at most `window` places away among these; the inter-domain partner from all the user's
    items of other domains.

    Parameters
    ----------
    items
        Of all items.
    behaviour
        Histories over them.
    intra, inter
        Whether such pairs are wanted.
    window, history, batch_size, seed
        Reach of an intra-domain pair, items drawn as context, anchors of a batch (at least, where there are enough),
        seed of all drawing.

    Raises
    ------
    DataError
        No pair of a kind that is wanted.
    """

    def __init__(
        self,
        items: Pooled,
        behaviour: Behaviour,
        *,
        intra: bool = True,
        inter: bool = True,
        window: int = 10,
        history: int = 16,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.items, self.window, self.seed, self.history = items, window, seed, history
        self.user, self.item = _sorted_once(behaviour, items.domains)
        self._starts, self._ends = _runs(self.user)
        own = self.user * (int(items.domains.max(initial=0)) + 1) + items.domains[self.item]
        self._domain_starts, self._domain_ends = _runs(own)
        self.can_intra = intra & (self._domain_ends - self._domain_starts > 1)
        self.can_inter = inter & (self._ends - self._starts > self._domain_ends - self._domain_starts)
        if intra and not self.can_intra.any():
            raise DataError(
                "no user has two items of one domain: histories are too short for any intra-domain pair",
                expected="histories of two different items of a domain",
                got=f"{len(behaviour)} users, {len(behaviour.items)} items in their histories",
                todo="give longer histories, or set intra_weight=0",
            )
        if inter and not self.can_inter.any():
            raise DataError(
                "no user has items of two domains: there is no inter-domain pair",
                expected="users with items of two domains",
                got=f"{len(behaviour)} users, {len(np.unique(items.domains))} domains",
                todo="give histories that cross domains, or set inter_weight=0",
            )
        self.anchors = np.flatnonzero(self.can_intra | self.can_inter)
        self._parts = max(1, len(self.anchors) // batch_size)
        self.digest = digest(items.digest, behaviour.digest(), intra, inter, window, history, batch_size, seed)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._parts

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Return the rows of each batch, int64 [B, 4 + history]; they are drawn when they are asked for."""
        return _Epoch(self, number)

    def draw(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of anchors at `places` [B]: item, intra, inter, user, context; -1 where there is none."""
        start, end = self._domain_starts[places], self._domain_ends[places]
        low, high = np.maximum(start, places - self.window), np.minimum(end, places + self.window + 1)
        near = low + _below(rng, high - low - 1)
        near = near + (near >= places)  # not the anchor itself
        far = self._starts[places] + _below(rng, self._ends[places] - self._starts[places] - (end - start))
        far = far + np.where(far >= start, end - start, 0)  # past the anchor's own domain
        size = (self._ends - self._starts)[places]
        drawn = self._starts[places][:, None] + rng.integers(0, size[:, None], (len(places), self.history))
        context = self.item[drawn]
        anchor = self.item[places]
        intra = np.where(self.can_intra[places], self.item[np.minimum(near, len(self.item) - 1)], -1)
        inter = np.where(self.can_inter[places], self.item[np.minimum(far, len(self.item) - 1)], -1)
        context[(context == anchor[:, None]) | (context == intra[:, None])] = -1
        return np.column_stack([anchor, intra, inter, self.user[places], context])

    def make(self, rows: np.ndarray) -> PairBatch:
        """Return the batch of rows that `epoch` gave."""
        named = np.delete(rows, USER, axis=1)
        unique, places = np.unique(np.where(named < 0, rows[0, ANCHOR], named), return_inverse=True)
        places = torch.from_numpy(places.reshape(named.shape).astype(np.int64))
        vectors, present, domains = self.items.take(unique)
        return PairBatch(
            vectors=vectors,
            present=present,
            domains=domains,
            anchor=places[:, 0],
            intra=places[:, 1],
            inter=places[:, 2],
            has_intra=torch.from_numpy(rows[:, INTRA] >= 0),
            has_inter=torch.from_numpy(rows[:, INTER] >= 0),
            context=places[:, 3:],
            context_mask=torch.from_numpy(rows[:, USER + 1 :] >= 0),
            count_intra=torch.from_numpy(self.counted(rows[:, USER], rows[:, INTRA])),
            count_inter=torch.from_numpy(self.counted(rows[:, USER], rows[:, INTER])),
        )

    def counted(self, users: np.ndarray, partners: np.ndarray) -> np.ndarray:
        """Return bool [B, B]: the partner of row c is row r's own, or a negative of it.

        A negative is of the domain of row r's partner, and row r's user never had it: no pair of items that one
        user had is ever pushed apart, whichever user's row it comes from.
        """
        domain = np.where(partners >= 0, self.items.domains[partners], -1)
        negative = (domain[:, None] == domain[None, :]) & ~self._had(users, partners)
        return (negative | np.eye(len(users), dtype=bool)) & (partners[:, None] >= 0) & (partners[None, :] >= 0)

    def _had(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return bool [B, C]: whether user row users[r] ever had item row items[c]; any value where that is -1."""
        column = np.full(len(self.items.domains), -1, np.int64)
        unique, place = np.unique(np.maximum(items, 0), return_inverse=True)
        column[unique] = np.arange(len(unique))
        starts = np.searchsorted(self.user, users)
        lengths = np.searchsorted(self.user, users, side="right") - starts
        rows = np.repeat(np.arange(len(users)), lengths)
        flat = np.arange(len(rows)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        columns = column[self.item[flat]]
        table = np.zeros((len(users), len(unique)), bool)
        table[rows[columns >= 0], columns[columns >= 0]] = True
        return table[:, place]


class _Epoch(Sequence[np.ndarray]):
    """The batches of one epoch."""

    def __init__(self, batches: PairBatches, number: int) -> None:
        rng = np.random.default_rng([batches.seed, number])
        self.batches, self.number = batches, number
        self.parts = np.array_split(rng.permutation(batches.anchors), len(batches))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        rng = np.random.default_rng([self.batches.seed, self.number, index])
        return self.batches.draw(self.parts[index], rng)


def _sorted_once(behaviour: Behaviour, domains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return user rows and item rows int64 [T]: by user, domain and time, an item at its last place only."""
    user = np.repeat(np.arange(len(behaviour)), behaviour.lengths)
    item = behaviour.items.astype(np.int64)
    keys = user * len(domains) + item
    _, last = np.unique(keys[::-1], return_index=True)
    kept = np.sort(len(keys) - 1 - last)
    user, item = user[kept], item[kept]
    order = np.lexsort((domains[item], user))
    return user[order], item[order]


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the end, int64 [T], of each place's run of equal keys."""
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    lengths = np.diff(first, append=len(keys))
    return np.repeat(first, lengths), np.repeat(first + lengths, lengths)


def _below(rng: np.random.Generator, most: np.ndarray) -> np.ndarray:
    """Return random int64 [B], each in 0..most - 1; 0 where `most` is 0."""
    return rng.integers(0, np.maximum(most, 1))
