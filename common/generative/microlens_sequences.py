"""Sequences of a Track 2 data root: item_seq.parquet, whose rows are several a user, or train.parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.generative.sequences import Sequences


def find_microlens(folder: Path) -> Path | None:
    """Return `folder` or its microlens/ if it has item_seq.parquet or MicroLens_1M_x1/train.parquet, else None."""
    for root in (folder, folder / "microlens"):
        if (root / "item_seq.parquet").is_file() or (root / "MicroLens_1M_x1" / "train.parquet").is_file():
            return root
    return None


def load_microlens(root: Path) -> Sequences:
    """Read the sequences, titles and vectors of a Track 2 data root.

    A user has several rows of `item_seq` (histories at different times, 0 = padding, on either side). The longest
    is kept; a row that is its beginning, its end or it is folded into it, and what is neither is counted in the
    notes. Without item_seq.parquet the rows come from train.parquet, with the target behind the history where the
    label is 1.

    Raises
    ------
    DataError
        A column is missing or of another type, an item is in no item file, or nobody has an item.
    """
    from common.generative.sequence_files import arranged, item_tables

    path = root / "item_seq.parquet"
    users, values, offsets = _read_rows(path if path.is_file() else root / "MicroLens_1M_x1" / "train.parquet")
    users, values, offsets, notes = longest_rows(users, values, offsets)
    if not len(values):
        raise DataError("no interactions", where=root, expected="at least one user with items")
    files = [
        one for one in (root / "item_feature.parquet", root / "MicroLens_1M_x1" / "item_info.parquet") if one.is_file()
    ]
    item_ids = np.unique(values)
    texts = embeddings = None
    if files:
        known, tables, more = item_tables(files)
        notes += more
        if not all(one.isdigit() for one in known):
            raise DataError("an item id is not a number", where=root, expected="item_id from 1, 0 = padding")
        listed = np.array([int(one) for one in known if int(one) > 0], dtype=np.int64)
        unknown = np.setdiff1d(item_ids, listed)
        if len(unknown):
            raise DataError(
                f"{len(unknown):,} items of the sequences are in no item file",
                where=", ".join(one.name for one in files),
                got=", ".join(map(str, unknown[:5])),
            )
        item_ids = np.unique(listed)
        texts, embeddings = (arranged(tables.get(what), item_ids) for what in ("text", "embedding"))
    rows = np.searchsorted(item_ids, values).astype(np.int32)
    return Sequences(rows, offsets, users, item_ids, texts, embeddings, name="microlens", notes=tuple(notes))


def longest_rows(
    users: np.ndarray, values: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return (users [U] sorted, values, offsets [U + 1], notes): of each user the longest row, the first of equals.

    Parameters
    ----------
    users
        int64 [R], several rows a user.
    values, offsets
        int64 [T] without padding and int64 [R + 1].
    """
    lengths = np.diff(offsets)
    order = np.lexsort((np.arange(len(users)), -lengths, users))
    first = np.concatenate([[True], users[order][1:] != users[order][:-1]]) if len(users) else np.zeros(0, bool)
    best = order[first]
    longest = np.empty(len(users), np.int64)
    longest[order] = best[np.cumsum(first) - 1]
    other = np.flatnonzero(longest != np.arange(len(users)))
    counts = lengths[other]
    starts, place = np.repeat(offsets[other], counts), _ramp(counts)
    own = values[starts + place]
    head = values[np.repeat(offsets[longest[other]], counts) + place]
    tail = values[np.repeat(offsets[longest[other] + 1] - counts, counts) + place]
    row = np.repeat(np.arange(len(other)), counts)
    differs = np.minimum(*(np.bincount(row[own != part], minlength=len(other)) for part in (head, tail))) > 0
    notes: list[str] = []
    if len(other):
        notes.append(f"{len(users):,} rows of {len(best):,} users: the longest of each is kept")
    if differs.any():
        notes.append(f"{int(differs.sum()):,} left-out rows are neither the beginning nor the end of the longest")
    kept = lengths[best]
    flat = values[np.repeat(offsets[best], kept) + _ramp(kept)]
    return users[best], flat, np.concatenate([[0], np.cumsum(kept)]).astype(np.int64), notes


def _ramp(counts: np.ndarray) -> np.ndarray:
    """Return 0..counts[0]-1, 0..counts[1]-1, ... in one array."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (users [R], values without padding, offsets [R + 1])."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    targets = path.name == "train.parquet"
    names = ["user_id", "item_seq", *(["item_id", "label"] if targets else [])]
    try:
        table = pq.read_table(path, columns=names)
        users = _integers(table["user_id"])
        lists = table["item_seq"].combine_chunks()
        flat = _integers(lists.flatten())
        offsets = np.concatenate([[0], np.cumsum(np.asarray(lists.value_lengths().fill_null(0)))]).astype(np.int64)
    except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
        raise DataError("not readable as sequences", where=path, expected=", ".join(names), got=str(error)) from None
    row = np.repeat(np.arange(len(users)), np.diff(offsets))
    if targets:
        liked = np.flatnonzero(_integers(table["label"]) == 1)
        row = np.concatenate([row, liked])
        flat = np.concatenate([flat, _integers(table["item_id"])[liked]])
        order = np.argsort(row, kind="stable")  # the target comes after its history
        row, flat = row[order], flat[order]
    if len(flat) and flat.min() < 0:
        raise DataError("a negative item id", where=path, expected="0 = padding, items from 1", got=int(flat.min()))
    real = flat > 0
    lengths = np.bincount(row[real], minlength=len(users))
    return users, flat[real], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _integers(column: Any) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        raise pa.ArrowInvalid(f"a column of {column.type} with {column.null_count} nulls, expected integers")
    return np.asarray(column).astype(np.int64)
