"""Users' item sequences in one flat array, the leave-one-out split, and questions to a recommender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import DataError
from common.hashing import digest

LEAST = 3
"""Items a user needs to be evaluated: one to test, one to validate, one of history. Shorter ones only train."""


@dataclass(frozen=True)
class Sequences:
    """Item sequences of users, oldest first, and what is known of the items.

    Attributes
    ----------
    items
        int32 [T], item rows of all users one after the other.
    offsets
        int64 [U + 1]; user row u has items[offsets[u]:offsets[u + 1]].
    users
        [U] ids as in the file (int64 or str).
    item_ids
        [N] ids as in the file (int64 or str), sorted: row order is id order, so ties by row are ties by id.
    texts
        [N] one text an item, or None.
    embeddings
        float32 [N, D], or None.
    published
        int32 [N, L] semantic-ID codes that came with the data, or None.
    notes
        What was left out or folded in reading, for people.
    """

    items: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    item_ids: np.ndarray
    texts: list[str] | None = None
    embeddings: np.ndarray | None = None
    published: np.ndarray | None = None
    name: str = "data"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.users) + 1 or self.offsets[-1] != len(self.items):
            raise ValueError(f"{len(self.users)} users, offsets {self.offsets.shape}, {len(self.items)} items")
        if len(self.items) and not 0 <= int(self.items.min()) <= int(self.items.max()) < len(self.item_ids):
            raise ValueError(f"an item row is outside 0..{len(self.item_ids) - 1}")

    @property
    def lengths(self) -> np.ndarray:
        """Items of each user, int64 [U]."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """SHA-256 over sequences and ids: what a trained model is tied to."""
        parts = [np.ascontiguousarray(a).tobytes() for a in (self.items, self.offsets)]
        return digest(*parts, "\n".join(map(str, self.item_ids)), "\n".join(map(str, self.users)))

    def rows_of(self, ids: list[object], what: str, where: object = None) -> np.ndarray:
        """Return the item rows int64 [n] of item ids, compared as text; raise `DataError` on unknown ones."""
        return _rows(self.item_ids, ids, what, where)

    def user_rows(self, ids: list[object], where: object = None) -> np.ndarray:
        """Return the user rows int64 [n] of user ids, compared as text; raise `DataError` on unknown ones."""
        return _rows(self.users, ids, "users", where)


@dataclass(frozen=True)
class Histories:
    """What a recommender is asked with: parts of the flat array, without copies.

    Query q has the history items[starts[q]:ends[q]], oldest first, of user row users[q].
    """

    items: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: np.ndarray | slice) -> Histories:
        """Return the queries of `rows`."""
        return Histories(self.items, self.starts[rows], self.ends[rows], self.users[rows])

    def __getitem__(self, query: int) -> np.ndarray:
        return self.items[self.starts[query] : self.ends[query]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[query] for query in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Items of each history, int64 [Q]."""
        return self.ends - self.starts

    def batches(self, size: int, most: int) -> Iterator[np.ndarray]:
        """Yield the rows of `size` queries at a time, of like length (their last `most` items): little is padding.

        >>> h = Histories(np.arange(9), np.array([0, 4, 5]), np.array([4, 5, 9]), np.zeros(3, np.int64))
        >>> [rows.tolist() for rows in h.batches(2, most=4)]
        [[1, 0], [2]]
        """
        order = np.argsort(np.minimum(self.lengths, most), kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def padded(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (items int64 [Q, W], mask bool [Q, W], True = real): the last `width` items, padded at the end by 0.

        W is the longest of them, at least 1.

        >>> h = Histories(np.arange(5), np.array([0, 3]), np.array([3, 5]), np.zeros(2, np.int64))
        >>> h.padded(2)[0].tolist()
        [[1, 2], [3, 4]]
        """
        lengths = np.minimum(self.lengths, width)
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        mask = columns[None, :] < lengths[:, None]
        places = np.where(mask, (self.ends - lengths)[:, None] + columns[None, :], 0)
        if not len(self.items):
            return places, mask
        return np.where(mask, self.items[places].astype(np.int64), 0), mask


@dataclass(frozen=True)
class Examples:
    """Histories and the item row that follows each: `targets` int32 [Q]."""

    histories: Histories
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray | slice) -> Examples:
        """Return the examples of `rows`."""
        return Examples(self.histories.take(rows), self.targets[rows])


@dataclass(frozen=True)
class Split:
    """Leave-one-out: see `leave_one_out`."""

    train: Sequences
    examples: Examples
    valid: Examples
    test: Examples
    notes: tuple[str, ...] = ()


def leave_one_out(sequences: Sequences) -> Split:
    """Split by the usual protocol (Kang & McAuley 2018, section 4.1).

    Of each user with `LEAST` items or more the last item is the test target, the one before it the valid target,
    and the rest is training; the test history holds the valid item. Users with fewer items only train.

    Returns
    -------
    Split
        `train`: the training part as sequences (same users); `examples`: each of its positions from the second on
        with what came before; `valid`, `test`: one example a user.

    Raises
    ------
    DataError
        No user has enough items.
    """
    lengths, starts, ends = sequences.lengths, sequences.offsets[:-1], sequences.offsets[1:]
    rows = np.flatnonzero(lengths >= LEAST)
    if not len(rows):
        raise DataError(
            "no user can be evaluated",
            where=sequences.name,
            expected=f"users with {LEAST} items or more",
            got=f"{len(lengths)} users, the longest with {int(lengths.max(initial=0))} items",
        )
    kept = np.where(lengths >= LEAST, lengths - 2, lengths)
    short = len(lengths) - len(rows)
    notes = (f"{short:,} users with fewer than {LEAST} items only train",) if short else ()
    train = _prefixes(sequences, kept)

    def held_out(back: int) -> Examples:
        last = ends[rows] - back
        histories = Histories(sequences.items, starts[rows], last, rows)
        return Examples(histories, sequences.items[last])

    return Split(train, next_items(train), held_out(2), held_out(1), notes)


def next_items(sequences: Sequences) -> Examples:
    """Return an example for each position of each sequence but the first: the items before it, and the item."""
    users = np.repeat(np.arange(len(sequences.users)), sequences.lengths)
    places = np.arange(len(sequences.items))
    starts = sequences.offsets[:-1][users]
    later = places > starts
    histories = Histories(sequences.items, starts[later], places[later], users[later])
    return Examples(histories, sequences.items[later])


def whole(sequences: Sequences, users: np.ndarray | None = None) -> Histories:
    """Return each user's whole sequence (or those of user rows `users`) as a history: what comes next is unknown."""
    rows = np.arange(len(sequences.users)) if users is None else users
    return Histories(sequences.items, sequences.offsets[rows], sequences.offsets[rows + 1], rows)


def from_lists(lists: list[np.ndarray], items: int, **known: object) -> Sequences:
    """Return sequences of users 0..U-1 over items 0..`items`-1 from one integer array a user."""
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    flat = np.concatenate(lists).astype(np.int32) if lists else np.empty(0, np.int32)
    return replace(Sequences(flat, offsets, np.arange(len(lists)), np.arange(items)), **known)  # pyright: ignore[reportArgumentType]


def _prefixes(sequences: Sequences, kept: np.ndarray) -> Sequences:
    """Return the first kept[u] items of each user."""
    place = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    items = sequences.items[place < np.repeat(kept, sequences.lengths)]
    return replace(sequences, items=items, offsets=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64))


def _rows(known: np.ndarray, ids: list[object], what: str, where: object) -> np.ndarray:
    index = {str(one): row for row, one in enumerate(known.tolist())}
    unknown = [str(one) for one in ids if str(one) not in index]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(ids)} {what} are not in the data",
            where=where,
            expected=f"ids like {', '.join(map(str, known[:3].tolist()))}",
            got=", ".join(unknown[:5]),
        )
    return np.array([index[str(one)] for one in ids], dtype=np.int64)
