"""Histories of users, as representation methods read them: of training to learn from, and what describes a user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.representation.inputs import Behaviour
from track2_mmctr.datasets.tables import Split
from track2_mmctr.embeddings.contrastive import user_histories


def training_behaviour(train: Split) -> Behaviour:
    """Return the longest training history of each user; item row r is item r + 1."""
    found = user_histories(train)
    return Behaviour(np.unique(train.users).astype(np.int64), found.items.astype(np.int64) - 1, found.offsets)


def describing_behaviour(splits: Sequence[Split], least: int) -> tuple[Behaviour, np.ndarray]:
    """Return one history a user, and its length int64 [U]: rows with a shorter one come before it was known.

    It is the shortest of a user's histories with at least `least` items, or without one the longest; of equal ones
    the first. A row's history holds what its user liked before it, so that a row whose history is as long may read
    what was made of this one, and learns nothing of its own label. Users without any history are left out.

    Parameters
    ----------
    splits
        In the order of time.
    """
    users = np.concatenate([np.zeros(0, np.int64), *(np.asarray(split.users, np.int64) for split in splits)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(split.lengths for split in splits)])
    part = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    row = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(split)) for split in splits)])
    enough = lengths >= least
    order = np.lexsort((np.arange(len(users)), np.where(enough, lengths, -lengths), ~enough, users))
    first = order[np.r_[True, np.diff(users[order]) != 0]] if len(order) else order
    first = first[lengths[first] > 0]
    histories = []
    for at in first.tolist():
        split = splits[int(part[at])]
        begin, end = split.offsets[row[at] : row[at] + 2]
        histories.append(np.asarray(split.history[begin:end], np.int64) - 1)
    kept = lengths[first].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    return Behaviour(users[first], np.concatenate([np.zeros(0, np.int64), *histories]), offsets), kept


def on_items(behaviour: Behaviour, kept: np.ndarray, count: int) -> Behaviour:
    """Return histories on the items `kept` (rows of `count`), whose rows then count from 0; the others are left out."""
    place = np.full(count, -1, np.int64)
    place[kept] = np.arange(len(kept))
    rows = place[behaviour.items]
    owner = np.repeat(np.arange(len(behaviour)), behaviour.lengths)[rows >= 0]
    lengths = np.bincount(owner, minlength=len(behaviour))
    return Behaviour(behaviour.users, rows[rows >= 0], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def with_history(behaviour: Behaviour) -> np.ndarray:
    """Return the rows of the users whose history is not empty."""
    return np.flatnonzero(behaviour.lengths > 0)
