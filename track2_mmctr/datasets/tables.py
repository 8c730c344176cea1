"""The typed tables of Track 2. Histories are packed: real items only, end to end, oldest first; no padding is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from track2_mmctr.datasets.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from track2_mmctr.datasets.knowledge import Knowledge, UserCodes

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
LEVELS = 11
"""Values of likes_level and views_level: 1..10, and 0 for padding or unknown."""


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Every item by its id: row i is item i, and row 0 is the padding item, all zeros.

    Attributes
    ----------
    tags
        int32 [N, T]: tag ids, 0 = none.
    likes, views
        int32 [N]: popularity levels, 0 = unknown.
    embedding
        float32 [N, D], or None where the configuration asks for none.
    titles
        [N] strings ("" where there is none), or None without `item_feature.parquet`.
    tag_vocabulary
        Number of tag ids, 0 included.
    digest
        SHA-256 of what the table was read from: a model is tied to it.
    semantic_ids
        The codes that `features.semantic_ids` asks for, or None.
    knowledge
        Knowledge vectors of items and users that `features.knowledge` asks for, or None.
    user_codes
        The users' codes that `features.user_semantic_ids` asks for, or None.
    """

    tags: np.ndarray
    likes: np.ndarray
    views: np.ndarray
    embedding: np.ndarray | None
    titles: list[str] | None
    tag_vocabulary: int
    digest: str
    semantic_ids: SemanticIds | None = None
    knowledge: Knowledge | None = None
    user_codes: UserCodes | None = None

    def __len__(self) -> int:
        return len(self.tags)

    def with_embedding(self, embedding: np.ndarray | None) -> Self:
        """Return the table with another embedding."""
        return replace(self, embedding=embedding)


@dataclass(frozen=True, eq=False)
class Split:
    """One of train, valid and test; R rows with T history items in all. Arrays may be memory-mapped.

    Attributes
    ----------
    users
        int64 [R].
    history
        int32 [T]: the rows' histories end to end, oldest first, without padding.
    offsets
        int64 [R + 1]: row r has `history[offsets[r]:offsets[r + 1]]`.
    target
        int32 [R]: the item whose click is predicted.
    levels
        int32 [R, 2]: likes_level and views_level of the target, as the split file has them.
    label
        float32 [R] of 0 and 1; None for a test set without answers.
    ids
        int64 [R]: column `ID` of a test file; None otherwise.
    oracle
        float64 [R]: the true log-odds of planted data; None otherwise.
    digest
        SHA-256 of what the split was read from.
    candidates
        float32 [R, 3]: what a generator thinks of the rows, as `features.candidates` asks for; None otherwise.
    """

    name: SplitName
    users: np.ndarray
    history: np.ndarray
    offsets: np.ndarray
    target: np.ndarray
    levels: np.ndarray
    label: np.ndarray | None
    ids: np.ndarray | None
    digest: str
    oracle: np.ndarray | None = None
    candidates: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def lengths(self) -> np.ndarray:
        """History lengths, int64 [R]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False)
class CtrData:
    """What a run reads: the splits that are present, the items, and remarks for the user.

    `folder` is the one that holds `MicroLens_1M_x1/`. The test split's `label` is that of `answers.parquet`
    where this file is present (planted data, MovieLens); the real test set has none.
    """

    folder: Path
    splits: dict[SplitName, Split]
    items: ItemTable
    notes: list[str] = field(default_factory=list)

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]
