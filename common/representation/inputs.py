"""What representation methods read: items with their texts and frozen encoder outputs, and users' histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from common.errors import DataError
from common.hashing import digest


@dataclass(frozen=True, eq=False)
class Tokens:
    """Frozen outputs of one encoder for N items: T tokens each (1 for a pooled vector).

    Attributes
    ----------
    values
        float32 [N, T, D].
    mask
        bool [N, T], True = a real token; an item whose row is all False lacks the modality.
    encoder
        Name and revision of the encoder. A saved adapter is refused on the outputs of another one.
    """

    values: np.ndarray
    mask: np.ndarray
    encoder: str

    @classmethod
    def pooled(cls, vectors: np.ndarray, present: np.ndarray | None = None, encoder: str = "") -> Self:
        """Return one token an item from vectors [N, D]; `present` bool [N], None = all."""
        have = np.ones(len(vectors), bool) if present is None else present
        return cls(np.ascontiguousarray(vectors[:, None], np.float32), have[:, None].copy(), encoder)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """D, the width of a token."""
        return self.values.shape[2]

    @property
    def present(self) -> np.ndarray:
        """Which items have the modality, bool [N]."""
        return np.asarray(self.mask.any(1))

    def mean(self) -> np.ndarray:
        """Return the mean of each item's real tokens, float32 [N, D]; zeros where there is none."""
        count = np.maximum(self.mask.sum(1, keepdims=True), 1)
        real = np.where(self.mask[:, :, None], self.values, 0)  # a product would let NaN through: 0 * NaN is NaN
        return (real.sum(1) / count).astype(np.float32)

    def take(self, rows: np.ndarray) -> Self:
        """Return the tokens of some items, in their order."""
        return replace(self, values=self.values[rows], mask=self.mask[rows])

    def check(self, name: str, ids: np.ndarray) -> None:
        """Raise `DataError` where the shapes do not fit `ids` [N], or a real token holds NaN or infinity."""
        count = len(ids)
        if self.values.ndim != 3 or self.values.shape[:2] != self.mask.shape or len(self) != count:
            raise DataError(
                "tokens have another shape",
                where=name,
                expected=f"values [{count}, T, D] and mask [{count}, T]",
                got=f"{list(self.values.shape)} and {list(self.mask.shape)}",
            )
        finite = np.isfinite(self.values).all(2) | ~self.mask
        if not finite.all():
            row = int((~finite.all(1)).argmax())
            raise DataError(
                "a token is not finite",
                where=f"{name}, item {ids[row]}",
                expected="finite numbers",
                got=f"NaN or infinity; {int((~finite.all(1)).sum())} such items",
                todo="encode these items again, or mark them as missing",
            )


@dataclass(frozen=True, eq=False)
class Items:
    """N items; row r of everything is item `ids[r]`.

    Attributes
    ----------
    ids
        int64 [N], all different.
    texts
        [N], "" where there is none: what is read, generated or masked.
    modalities
        Encoder outputs by name ("image", "text", ...).
    domains
        int64 [N] from 0; None: all in one domain.
    domain_names
        Names of the domains.
    """

    ids: np.ndarray
    texts: Sequence[str]
    modalities: dict[str, Tokens] = field(default_factory=dict)
    domains: np.ndarray | None = None
    domain_names: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        if len(np.unique(self.ids)) != len(self.ids) or len(self.texts) != len(self.ids):
            raise DataError(
                "items need different ids and a text each (it may be empty)",
                expected=f"{len(self.ids)} different ids and texts",
                got=f"{len(np.unique(self.ids))} different ids, {len(self.texts)} texts",
            )
        for name, tokens in self.modalities.items():
            tokens.check(name, self.ids)
        if self.domains is not None:
            known = len(self.domains) == len(self.ids) and (
                not len(self.ids) or 0 <= self.domains.min() <= self.domains.max() < len(self.domain_names)
            )
            if not known:
                raise DataError(
                    "domains have another form", expected=f"int [{len(self.ids)}], 0..{len(self.domain_names) - 1}"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def domain_of(self) -> np.ndarray:
        """The domain of each item, int64 [N]."""
        return np.zeros(len(self), np.int64) if self.domains is None else self.domains.astype(np.int64)

    def modality(self, name: str, why: str) -> Tokens:
        """Return the tokens of a modality; raise `DataError` that says `why` they are needed if there are none."""
        if name not in self.modalities:
            raise DataError(
                f"the items have no {name}", where=why, expected=name, got=", ".join(self.modalities) or "no modality"
            )
        return self.modalities[name]

    def take(self, rows: np.ndarray) -> Self:
        """Return some items, in the order of `rows`."""
        return replace(
            self,
            ids=self.ids[rows],
            texts=[self.texts[row] for row in rows],
            modalities={name: tokens.take(rows) for name, tokens in self.modalities.items()},
            domains=None if self.domains is None else self.domains[rows],
        )

    def digest(self) -> str:
        """Return SHA-256 over everything: a training is tied to it."""
        parts = [self.ids.astype(np.int64).tobytes(), "\0".join(self.texts), self.domain_of.tobytes()]
        for name, tokens in sorted(self.modalities.items()):
            parts += [name, tokens.encoder, tokens.values.tobytes(), tokens.mask.tobytes()]
        return digest(*parts, *self.domain_names)


@dataclass(frozen=True, eq=False)
class Behaviour:
    """U users' histories: user u has item rows `items[offsets[u]:offsets[u + 1]]`, oldest first; it may be empty.

    Attributes
    ----------
    users
        int64 [U], all different.
    items
        int64 [T], rows of `Items`.
    offsets
        int64 [U + 1].
    """

    users: np.ndarray
    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> np.ndarray:
        """Length of each history, int64 [U]."""
        return np.diff(self.offsets)

    def history(self, row: int) -> np.ndarray:
        """Return the item rows of one user, int64 [its length]."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: np.ndarray) -> Self:
        """Return the histories of some users, in the order of `rows`."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[rows], lengths) + np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return replace(self, users=self.users[rows], items=self.items[places], offsets=offsets)

    def check(self, items: int) -> None:
        """Raise `DataError` where users repeat, offsets do not fit, or an item row is not below `items`."""
        fits = self.offsets.ndim == 1 and len(self.offsets) == len(self.users) + 1 and self.offsets[0] == 0
        if not fits or self.offsets[-1] != len(self.items) or (np.diff(self.offsets) < 0).any():
            raise DataError(
                "histories have another form",
                expected=f"{len(self.users) + 1} ascending offsets from 0 to {len(self.items)}",
                got=f"{len(self.offsets)} offsets",
            )
        if len(np.unique(self.users)) != len(self.users):
            raise DataError("a user has two histories", expected="one history a user")
        if len(self.items) and not 0 <= self.items.min() <= self.items.max() < items:
            unknown = self.items[(self.items < 0) | (self.items >= items)]
            raise DataError("a history holds an unknown item row", expected=f"0..{items - 1}", got=int(unknown[0]))

    def digest(self) -> str:
        """Return SHA-256 over everything."""
        return digest(*(a.astype(np.int64).tobytes() for a in (self.users, self.items, self.offsets)))
