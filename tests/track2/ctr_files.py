"""Tiny data in the official layout, with planted preferences: the label depends on history and target together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EMBEDDING = 128
FOLDER = "MicroLens_1M_x1"


@dataclass(frozen=True)
class Planted:
    """What was written: the oracle of the readers' tests. Sequences are padded on the left, as in the files."""

    folder: Path
    tags: np.ndarray
    likes: np.ndarray
    views: np.ndarray
    embedding: np.ndarray
    users: dict[str, np.ndarray]
    sequences: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    oracle: dict[str, np.ndarray]
    ids: np.ndarray

    def histories(self, split: str) -> list[list[int]]:
        """The rows' histories without padding, oldest first."""
        return [[int(item) for item in row if item] for row in self.sequences[split]]


def list_column(values: np.ndarray, kind: pa.DataType | None = None) -> pa.ListArray:
    """A 2-D array as a column of lists, as pandas writes it."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32()), flat)


def edit(path: Path, change: Callable[[pa.Table], pa.Table], **options: object) -> Path:
    """Rewrite a parquet file with a changed table."""
    pq.write_table(change(pq.read_table(path)), path, **options)
    return path


def put(table: pa.Table, column: str, values: pa.Array | list[object] | np.ndarray) -> pa.Table:
    """Return the table with one column replaced, or added at the end."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    if column in table.column_names:
        return table.set_column(table.column_names.index(column), column, array)
    return table.append_column(column, array)


def write_layout(
    folder: Path,
    *,
    items: int = 50,
    rows: int = 200,
    eval_rows: int = 60,
    width: int = 12,
    seed: int = 0,
    strength: float = 5.0,
    answers: bool = True,
    features: bool = True,
    test: bool = True,
    oracle: bool = False,
    empty: float = 0.1,
) -> Planted:
    """Write train, valid, test, item_info and the files beside them into `folder`.

    Items 1..`items` have a latent direction; an item's embedding is a noisy image of it. The log-odds of a click
    are `strength` times the cosine of the target's direction with the mean of the history's, plus a little for the
    likes level. A share `empty` of the users has no history. No target is in its own history, no user in two splits.
    IDs of the test set are not 0..n-1 and not in order.
    """
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(items + 1, 4))
    latent /= np.linalg.norm(latent, axis=1, keepdims=True)
    latent[0] = 0
    embedding = latent @ rng.normal(size=(4, EMBEDDING)) + 0.1 * rng.normal(size=(items + 1, EMBEDDING))
    tags = rng.integers(1, 30, (items + 1, 5)) * (np.arange(5) < rng.integers(0, 6, items + 1)[:, None])
    likes, views = rng.integers(1, 11, items + 1), rng.integers(1, 11, items + 1)
    for table in (embedding, tags, likes, views):
        table[0] = 0
    users, sequences, targets, labels, truth = {}, {}, {}, {}, {}
    for number, (name, count) in enumerate((("train", rows), ("valid", eval_rows), ("test", eval_rows))):
        people = max(1, count // 5)
        person = rng.integers(0, people, count)
        taste = latent[rng.integers(1, items + 1, people)]
        length = np.where(rng.random(people) < empty, 0, rng.integers(1, width + 1, people))
        # the items nearest to a random order of the user's taste, so that a history tells it
        nearest = np.argsort(-(taste @ latent[1:].T) + 0.4 * rng.normal(size=(people, items)), axis=1)[:, :width] + 1
        seq = np.zeros((people, width), np.int64)
        seq[:, width - nearest.shape[1] :] = nearest
        seq *= np.arange(width) >= width - length[:, None]
        target = rng.integers(1, items + 1, count)
        for _ in range(50):
            again = (seq[person] == target[:, None]).any(1)
            target[again] = rng.integers(1, items + 1, int(again.sum()))
        mean = latent[seq].sum(1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True) + 1e-9
        truth[name] = strength * (mean[person] * latent[target]).sum(1) + 0.1 * (likes[target] - 5.5) - 0.5
        labels[name] = (rng.random(count) < 1 / (1 + np.exp(-truth[name]))).astype(np.int64)
        users[name], sequences[name], targets[name] = person + 1000 * (number + 1), seq[person], target
    ids = rng.permutation(eval_rows * 3)[:eval_rows] + 7
    planted = Planted(folder, tags, likes, views, embedding, users, sequences, targets, labels, truth, ids)
    _write(planted, answers=answers, features=features, test=test, oracle=oracle)
    return planted


def _write(planted: Planted, *, answers: bool, features: bool, test: bool, oracle: bool) -> None:
    inner = planted.folder / FOLDER
    inner.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test") if test else ("train", "valid"):
        target = planted.targets[name]
        columns = {
            "user_id": planted.users[name],
            "item_seq": list_column(planted.sequences[name]),
            "item_id": target,
            "likes_level": planted.likes[target],
            "views_level": planted.views[target],
        }
        if name == "test":
            columns = {"ID": planted.ids, **columns}
        else:
            columns["label"] = planted.labels[name]
            if oracle:
                columns["oracle"] = planted.oracle[name]
        pq.write_table(pa.table(columns), inner / f"{name}.parquet")
    every = np.arange(len(planted.tags))
    info = {"item_id": every, "item_tags": list_column(planted.tags), "item_emb_d128": list_column(planted.embedding)}
    pq.write_table(pa.table(info), inner / "item_info.parquet")
    if features:
        table = {
            "item_id": every[1:],
            "item_title": [f"title of item {item}" for item in every[1:]],
            "item_tags": list_column(planted.tags[1:]),
            "likes_level": planted.likes[1:],
            "views_level": planted.views[1:],
        }
        pq.write_table(pa.table(table), planted.folder / "item_feature.parquet")
    if answers and test:
        order = np.random.default_rng(1).permutation(len(planted.ids))  # by ID, never by position
        table = {"ID": planted.ids[order], "label": planted.labels["test"][order]}
        if oracle:
            table["oracle"] = planted.oracle["test"][order]
        pq.write_table(pa.table(table), planted.folder / "answers.parquet")
