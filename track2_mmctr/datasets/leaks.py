"""Leaks: a target that the history already shows. A model that looks for it there learns nothing of taste."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.atomic import write_text
from common.errors import DataError
from common.hashing import digest
from track2_mmctr.datasets.tables import Split

VERSION = 1
CHUNK = 4_000_000
"""History items that are looked at in one go."""
Handling = Literal["error", "warn", "ignore"]


@dataclass(frozen=True)
class Leak:
    """Rows of one file whose target a history shows.

    `positives` is the share of label 1 among them, `overall` that of all rows; None without labels.
    """

    file: str
    where: str
    rows: int
    total: int
    first: int
    positives: float | None
    overall: float | None

    def describe(self) -> str:
        """Return the leak as one line."""
        share = ""
        if self.positives is not None and self.overall is not None:
            share = f"; {self.positives:.1%} of them are positive, {self.overall:.1%} of all rows"
        return (
            f"{self.file}: in {self.rows:,} of {self.total:,} rows the target is already in {self.where} "
            f"(first: row {self.first}, counted from 0{share})"
        )


def check_leaks(splits: Sequence[Split], handling: Handling, cache: Path) -> list[str]:
    """Look for leaks in the splits, given in order of time, and return what to say of them.

    Raises
    ------
    DataError
        There are some, and `handling` is `error`.
    """
    if handling == "ignore":
        return []
    lines = [leak.describe() for leak in _found(splits, cache)]
    if lines and handling == "error":
        raise DataError(
            "targets are already in the user's history:\n" + "\n".join(f"  {line}" for line in lines),
            where="data.leaks: error",
            expected="targets that come after the history",
            todo="drop these rows, or set data.leaks=warn",
        )
    return lines


def _found(splits: Sequence[Split], cache: Path) -> list[Leak]:
    """Return all leaks; kept in the cache by the splits' contents."""
    parts = [part for split in splits for part in (split.name, split.digest)]
    path = cache / "track2" / f"leaks-{digest(VERSION, *parts)[:32]}.json"
    try:
        return [Leak(**leak) for leak in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        pass
    leaks: list[Leak] = []
    for place, split in enumerate(splits):
        leaks += _leak(split, own_history(split), "the row's own history")
        for earlier in splits[:place]:
            found = earlier_history(split, earlier)
            leaks += _leak(split, found, f"the same user's history in {earlier.name}.parquet")
    write_text(path, json.dumps([asdict(leak) for leak in leaks], indent=1))
    return leaks


def _leak(split: Split, rows: np.ndarray, where: str) -> list[Leak]:
    if not len(rows):
        return []
    label = split.label
    positives = None if label is None else float(label[rows].mean(dtype=np.float64))
    overall = None if label is None else float(label.mean(dtype=np.float64))
    return [Leak(f"{split.name}.parquet", where, len(rows), len(split), int(rows[0]), positives, overall)]


def chunks(split: Split) -> Iterator[tuple[int, int]]:
    """Yield (first, last) row ranges with about `CHUNK` history items each."""
    first = 0
    while first < len(split):
        last = int(np.searchsorted(split.offsets, split.offsets[first] + CHUNK, side="right")) - 1
        last = min(max(last, first + 1), len(split))
        yield first, last
        first = last


def own_history(split: Split) -> np.ndarray:
    """Return the rows whose target is in their own history, ascending int64."""
    found: list[np.ndarray] = []
    for first, last in chunks(split):
        offsets = split.offsets[first : last + 1]
        target = np.repeat(split.target[first:last], np.diff(offsets))
        places = np.flatnonzero(split.history[offsets[0] : offsets[-1]] == target) + offsets[0]
        found.append(np.unique(np.searchsorted(offsets, places, side="right") - 1) + first)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def earlier_history(split: Split, earlier: Split) -> np.ndarray:
    """Return the rows whose target is in some history of the same user in `earlier`, ascending int64."""
    users, user = np.unique(split.users, return_inverse=True)
    items = int(max(split.target.max(initial=0), earlier.history.max(initial=0))) + 1
    wanted = user.astype(np.int64) * items + split.target
    asked = np.unique(wanted)
    hit = np.zeros(len(asked), bool)
    for first, last in chunks(earlier):
        place = np.minimum(np.searchsorted(users, earlier.users[first:last]), len(users) - 1)
        known = users[place] == earlier.users[first:last]
        offsets = earlier.offsets[first : last + 1]
        lengths = np.diff(offsets)
        tokens = earlier.history[offsets[0] : offsets[-1]][np.repeat(known, lengths)]
        keys = np.repeat(place[known].astype(np.int64) * items, lengths[known]) + tokens
        at = np.minimum(np.searchsorted(asked, keys), len(asked) - 1)
        hit[at[asked[at] == keys]] = True
    return np.flatnonzero(hit[np.searchsorted(asked, wanted)])
