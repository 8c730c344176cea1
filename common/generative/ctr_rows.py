"""Rows of a click log in the layout of Track 2, as questions to a generator: the row's own history, and its item.

A row's history is its column `item_seq` and nothing else: what the user did at this row or later is in no question.
Rows of one user with the same history are one question about several items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.generative.sequences import Histories, Sequences

INNER = "MicroLens_1M_x1"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class CtrRows:
    """Rows of the split files, one after the other.

    Attributes
    ----------
    split
        int8 [R], place in `SPLITS`.
    row
        int64 [R], place in the split's file.
    users, items
        int64 [R], ids as in the file: who is asked about, and which item.
    history
        int64 [T] item ids without padding, oldest first, of all rows end to end.
    offsets
        int64 [R + 1].
    """

    split: np.ndarray
    row: np.ndarray
    users: np.ndarray
    items: np.ndarray
    history: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Questions:
    """The different (user, history) pairs of rows.

    Attributes
    ----------
    histories
        Q of them, in item rows of the data; `users` are user rows, -1 where the data does not know the user.
    of
        int64 [R]: the question of each row.
    """

    histories: Histories
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.histories)


def read_rows(data: Path) -> CtrRows:
    """Read the rows of all splits below a Track 2 data root (or its microlens/).

    Raises
    ------
    DataError
        No split there, or a column that is missing or of another type.
    """
    folder = next((one / INNER for one in (data, data / "microlens") if (one / INNER).is_dir()), None)
    paths = [] if folder is None else [folder / f"{name}.parquet" for name in SPLITS]
    found = [(number, path) for number, path in enumerate(paths) if path.is_file()]
    if not found:
        raise DataError(
            "no rows of a click log here",
            where=data,
            expected=f"{INNER}/train.parquet, valid.parquet, test.parquet (user_id, item_id, item_seq)",
            todo="give a Track 2 data root, or leave --rows out",
        )
    parts = [_read(path) for _, path in found]
    counts = [len(users) for users, *_ in parts]
    lengths = np.concatenate([lengths for *_, lengths in parts])
    return CtrRows(
        split=np.repeat([number for number, _ in found], counts).astype(np.int8),
        row=np.concatenate([np.arange(count) for count in counts]),
        users=np.concatenate([users for users, *_ in parts]),
        items=np.concatenate([items for _, items, *_ in parts]),
        history=np.concatenate([history for *_, history, _ in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def questions(rows: CtrRows, data: Sequences) -> tuple[Questions, np.ndarray]:
    """Return the questions of rows, and the item row int64 [R] that each row asks about.

    Raises
    ------
    DataError
        An item that the data does not have.
    """
    if data.item_ids.dtype.kind not in "iu" or data.users.dtype.kind not in "iu":
        raise DataError("ids of the data are no numbers", where=data.name, expected="a Track 2 data root")
    items = _item_rows(rows.items, data)
    history = _item_rows(rows.history, data).astype(np.int32)
    users = np.searchsorted(data.users, rows.users)
    users = np.where(data.users[np.minimum(users, len(data.users) - 1)] == rows.users, users, -1)
    known: dict[tuple[int, bytes], int] = {}
    of, starts, ends, owners = np.empty(len(rows), np.int64), [], [], []
    bounds = zip(rows.users.tolist(), rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)
    for number, (user, start, end) in enumerate(bounds):
        key = (user, history[start:end].tobytes())
        if key not in known:
            known[key] = len(known)
            starts.append(start)
            ends.append(end)
            owners.append(users[number])
        of[number] = known[key]
    spans = (np.array(one, dtype=np.int64) for one in (starts, ends, owners))
    return Questions(Histories(history, *spans), of), items


def already_told(asked: Histories, trained: Sequences) -> np.ndarray:
    """Return bool [Q]: a model trained on the sequences `trained` may know what followed the history.

    It may not where the user has no sequence there, or where all of it lies in the history: the history holds the
    sequence as one run of items, or begins inside it and holds the rest (the older part was cut off). Anything else
    counts as told, so that a doubt takes a row away and never lets a label in.
    """
    told = np.zeros(len(asked), bool)
    for query, user in enumerate(asked.users.tolist()):
        if user >= 0:
            sequence = trained.items[trained.offsets[user] : trained.offsets[user + 1]]
            told[query] = not _inside(sequence, asked[query])
    return told


def _inside(sequence: np.ndarray, history: np.ndarray) -> bool:
    """Whether `history` holds `sequence`, or begins inside it and holds its rest, of 5 items at least."""
    n, m = len(sequence), len(history)
    if not n:
        return True
    for start in np.flatnonzero(history[: max(0, m - n + 1)] == sequence[0]).tolist():
        if np.array_equal(history[start : start + n], sequence):
            return True
    return any(np.array_equal(sequence[cut:], history[: n - cut]) for cut in range(max(1, n - m), n - 4))


def _item_rows(ids: np.ndarray, data: Sequences) -> np.ndarray:
    rows = np.minimum(np.searchsorted(data.item_ids, ids), len(data.item_ids) - 1)
    unknown = ids[data.item_ids[rows] != ids]
    if len(unknown):
        raise DataError(
            f"{len(np.unique(unknown)):,} items of the rows are not in the data that the model was trained on",
            where=data.name,
            got=", ".join(map(str, np.unique(unknown)[:5].tolist())),
            todo="give --data the root that the rows come from, with item_feature.parquet or item_info.parquet",
        )
    return rows.astype(np.int64)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return users [R], items [R], history values without padding, and lengths [R]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["user_id", "item_id", "item_seq"]
    try:
        table = pq.read_table(path, columns=names)
        users, items = (_integers(table[name]) for name in names[:2])
        lists = table["item_seq"].combine_chunks()
        values = _integers(lists.flatten())
        lengths = np.asarray(lists.value_lengths().fill_null(0), dtype=np.int64)
    except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
        raise DataError("not readable as rows", where=path, expected=", ".join(names), got=str(error)) from None
    real = values > 0
    owner = np.repeat(np.arange(len(users)), lengths)[real]
    return users, items, values[real], np.bincount(owner, minlength=len(users)).astype(np.int64)


def _integers(column: Any) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        raise pa.ArrowInvalid(f"a column of {column.type} with {column.null_count} nulls, expected integers")
    return np.asarray(column).astype(np.int64)


def padded(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return lists of different lengths as int64 [Q, K], padded at the end with -1."""
    made = np.full((len(values), max(map(len, values), default=0)), -1, np.int64)
    for row, one in enumerate(values):
        made[row, : len(one)] = one
    return made
