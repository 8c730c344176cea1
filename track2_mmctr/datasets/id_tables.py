"""Feature tables of items and users, as representation methods write them: read, checked, looked up by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from common.errors import ConfigError, DataError
from common.representation.table import FeatureTable, read_features

if TYPE_CHECKING:
    from track2_mmctr.datasets.tables import Split, SplitName

MAKE = "make the table again from this data: python -m track2_mmctr embed --help"
AFTER = "after"
"""A users' table may have this column: how long a row's history must be for the user's features to be known then."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Ids that need features, and those of them that training sees, ascending int64."""

    ids: np.ndarray
    trained: np.ndarray

    @classmethod
    def users(cls, splits: Mapping[SplitName, Split]) -> Self:
        """Return the users of splits."""
        none = np.zeros(0, np.int64)
        parts = {name: np.unique(np.asarray(split.users)) for name, split in splits.items()}
        return cls(np.unique(np.concatenate([none, *parts.values()])), parts.get("train", none))

    @classmethod
    def items(cls, count: int, splits: Mapping[SplitName, Split]) -> Self:
        """Return the items 1..count - 1; only targets are trained on."""
        train = np.unique(np.asarray(splits["train"].target)) if "train" in splits else np.zeros(0, np.int64)
        return cls(np.arange(1, count), train.astype(np.int64))


@dataclass(frozen=True, eq=False)
class IdTable:
    """Features of M items or users.

    Attributes
    ----------
    ids
        int64 [M], ascending, all different.
    values
        float32 [M, D] vectors or int32 [M, L] codes.
    after
        int64 [M]: rows with a shorter history come before what the features were made of, and may not read them.
    about
        What made the table, for messages and digests.
    """

    ids: np.ndarray
    values: np.ndarray
    after: np.ndarray
    about: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def shuffled(self, seed: int) -> Self:
        """Return the same features dealt to other ids at random: the placebo of a benchmark."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, values=self.values[order], about=f"{self.about} shuffled {seed}")

    def parts(self) -> list[str | bytes]:
        """Return all that a ranker reads of it, for a digest."""
        arrays = (self.ids, self.values, self.after)
        return [self.about, *(part for array in arrays for part in (str(array.shape), array.tobytes()))]


def open_table(path: str, setting: str, id_name: str, column: str) -> FeatureTable:
    """Read a feature table that a setting names.

    Raises
    ------
    ConfigError
        No such file.
    DataError
        Damaged, a value that is not finite, of the other id, or without the column.
    """
    if not Path(path).is_file():
        raise ConfigError(
            "no such table of features",
            where=setting,
            expected="none, or a parquet file",
            got=path,
            todo="write one: python -m track2_mmctr embed --help",
        )
    table = read_features(Path(path))
    if table.id_name != id_name or column not in table.columns:
        raise DataError(
            "the table has other columns than this feature needs",
            where=f"{path} ({setting})",
            expected=f"{id_name} and {column}",
            got=", ".join([table.id_name, *table.columns]),
            todo=f"python -m track2_mmctr embed writes tables with {column}; items and users have one each",
        )
    return table


def id_table(table: FeatureTable, column: str, kind: type[np.generic], about: str) -> IdTable:
    """Return one column of a table by ascending id; id 0, the padding item, is left out."""
    rows = np.argsort(table.ids, kind="stable")
    rows = rows[table.ids[rows] != 0] if table.id_name == "item_id" else rows
    after = np.zeros(len(rows), np.int64)
    if AFTER in table.columns:
        after = table.columns[AFTER][rows, 0].astype(np.int64)
    return IdTable(table.ids[rows].astype(np.int64), table.columns[column][rows].astype(kind), after, about)


def check_known(table: IdTable, items: int, path: str, setting: str) -> None:
    """Refuse items that the item table does not have."""
    from track2_mmctr.datasets.items import shown_ids

    unknown = table.ids[(table.ids < 1) | (table.ids >= items)]
    if len(unknown):
        raise DataError(
            f"{len(unknown)} items of the table are not in the item table",
            where=f"{path} ({setting})",
            expected=f"item ids 1..{items - 1}",
            got=shown_ids(unknown),
            todo=MAKE,
        )


def check_missing(what: str, table: IdTable, wanted: Wanted, allow: int, path: str, setting: str) -> str | None:
    """Refuse more than `allow` ids without a row; return a remark where some lack one."""
    from track2_mmctr.datasets.items import shown_ids

    missing = np.setdiff1d(wanted.ids, table.ids)
    if len(missing) > allow:
        raise DataError(
            f"{len(missing)} {what} have no row of features",
            where=f"{path} ({setting})",
            expected="a row for each" if not allow else f"at most {allow} without one",
            got=f"none for {shown_ids(missing)}",
            todo=f"{MAKE}; or let them share one learnt vector: --set {setting}.allow_missing={len(missing)}",
        )
    if not len(missing):
        return None
    learnt = table.after.any() or len(np.setdiff1d(wanted.trained, table.ids))
    how = "is learnt" if learnt else "stays as it begins, for train has none of them"
    return f"{len(missing)} {what} have no row in {Path(path).name}: they share one vector, which {how}"


def encoders_of(table: FeatureTable) -> dict[str, Any]:
    """Return the encoder of each modality that the table was made from."""
    found = table.about.get("encoders")
    return found if isinstance(found, dict) else {}
