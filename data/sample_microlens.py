"""The Track 2 sample, in the layout of MicroLens_1M_MMCTR: invented items, users and clicks with known log-odds.

A user likes three pairs of topic and style, no topic or style twice. The history is drawn from these pairs, with
some noise. A target may have a liked topic and a liked style that the user does not like together: to see it, a
ranker needs history, title and cover at once. Popularity adds a little. The true log-odds stand in the column
`oracle` of train and valid, and of `answers.parquet`. A part of the items is new in valid and test.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.sample_microlens_items import EMBEDDING, STYLES, TAGS, TOPICS, Item, make_items

SEED = 20250416
WIDTH = 64
ROWS = {"train": 6000, "valid": 1500, "test": 1500}
ROWS_PER_USER = 10
LIKED = 3
"""Pairs of topic and style that a user likes."""
KINDS = ((True, True, True), (True, True, False), (True, False, False), (False, True, False), (False, False, False))
"""Kinds of targets: topic liked, style liked, liked together."""
KIND_SHARES = (0.4, 0.12, 0.19, 0.19, 0.1)
LONGEST = 32
EMPTY = 0.04
"""Share of users without history."""
NOISE = 0.1
"""Share of history items from any cell."""
NEW = 0.15
"""Share of items that train never shows."""
WEIGHT = 5.6
"""Log-odds between a liked and another pair."""
POPULARITY = 0.15
"""Log-odds of one likes level."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One split: users [R], histories (ids, oldest first), targets [R], liked cells [R, 3], log-odds, labels [R]."""

    user: np.ndarray
    history: list[np.ndarray]
    target: np.ndarray
    liked: np.ndarray
    log_odds: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, eq=False)
class World:
    """The sample before it becomes files: items by id from 1, levels [N + 1, 2] with row 0 zeros, and the splits."""

    items: list[Item]
    levels: np.ndarray
    new: np.ndarray
    splits: dict[str, Rows]


def make_world() -> World:
    """Draw everything; the same each time."""
    rng = np.random.default_rng(SEED)
    items = make_items(rng)
    count = len(items)
    rank = rng.permutation(count)
    levels = np.zeros((count + 1, 2), dtype=np.int64)
    for kind in (0, 1):
        noisy = rank + count / 15 * rng.normal(size=count)
        levels[1:, kind] = 1 + 10 * np.argsort(np.argsort(noisy, kind="stable"), kind="stable") // count
    new = rng.permutation(count)[: round(NEW * count)] + 1
    splits, first_user = {}, 1
    for name, rows in ROWS.items():
        usable = np.ones(count + 1, dtype=bool)
        usable[0] = False
        if name == "train":
            usable[new] = False
        splits[name] = _make_rows(rng, items, levels, usable, rows, first_user)
        first_user += rows // ROWS_PER_USER
    return World(items, levels, new, splits)


def _make_rows(
    rng: np.random.Generator, items: list[Item], levels: np.ndarray, usable: np.ndarray, rows: int, first_user: int
) -> Rows:
    cell = np.array([-1, *(item.cell for item in items)])
    columns: list[tuple[int, np.ndarray, int, np.ndarray]] = []
    for user in range(first_user, first_user + rows // ROWS_PER_USER):
        liked = rng.permutation(len(TOPICS))[:LIKED] * len(STYLES) + rng.permutation(len(STYLES))[:LIKED]
        history = _history(rng, cell, usable, liked)
        free = usable.copy()
        free[history] = False
        for _ in range(ROWS_PER_USER):
            kind = KINDS[int(np.searchsorted(np.cumsum(KIND_SHARES), rng.random(), side="right"))]
            target = int(rng.choice(np.flatnonzero(free & np.isin(cell, _cells(liked, kind)))))
            free[target] = False
            columns.append((user, history, target, liked))
    order = rng.permutation(len(columns))
    user, history, target, liked = zip(*(columns[place] for place in order), strict=True)
    targets, likes = np.array(target), np.array(liked)
    odds = WEIGHT * (likes == cell[targets][:, None]).any(1) - WEIGHT / 2 + POPULARITY * (levels[targets, 0] - 5.5)
    label = (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    return Rows(np.array(user), list(history), targets, likes, np.round(odds, 4), label)


def _history(rng: np.random.Generator, cell: np.ndarray, usable: np.ndarray, liked: np.ndarray) -> np.ndarray:
    """Draw 2 to 32 different items, for some users none; from three on, each liked pair is shown but for noise."""
    if rng.random() < EMPTY:
        return np.zeros(0, dtype=np.int64)
    length = min(int(1 + rng.geometric(1 / 10)), LONGEST)
    chosen: list[int] = []
    free = usable.copy()
    for place in range(length):
        wanted = liked[place % LIKED]
        among = free if rng.random() < NOISE else free & (cell == wanted)
        item = int(rng.choice(np.flatnonzero(among if among.any() else free)))
        free[item] = False
        chosen.append(item)
    return np.array(chosen, dtype=np.int64)[rng.permutation(length)]


def _cells(liked: np.ndarray, kind: tuple[bool, bool, bool]) -> np.ndarray:
    """Return the cells of a kind of target for a user who likes these three."""
    cells = np.arange(len(TOPICS) * len(STYLES))
    topic = np.isin(cells // len(STYLES), liked // len(STYLES))
    style = np.isin(cells % len(STYLES), liked % len(STYLES))
    together = np.isin(cells, liked)
    return cells[(topic == kind[0]) & (style == kind[1]) & (together == kind[2])]


def write_microlens(folder: Path) -> None:
    """Write the sample in the official layout, with covers and answers."""
    world = make_world()
    inner = folder / "MicroLens_1M_x1"
    inner.mkdir(parents=True)
    for name, rows in world.splits.items():
        _write_split(folder, name, rows, world.levels)
    count = len(world.items)
    tags = np.zeros((count + 1, TAGS), dtype=np.int64)
    embedding = np.zeros((count + 1, EMBEDDING))
    for number, item in enumerate(world.items, start=1):
        tags[number, : len(item.tags)] = item.tags
        embedding[number] = item.embedding
    ids = np.arange(count + 1)
    info = {"item_id": ids, "item_tags": _lists(tags), "item_emb_d128": _lists(embedding)}
    _write(inner / "item_info.parquet", info)
    feature = {
        "item_id": ids[1:],
        "item_title": pa.array([item.title for item in world.items]),
        "item_tags": _lists(tags[1:]),
        "likes_level": world.levels[1:, 0],
        "views_level": world.levels[1:, 1],
    }
    _write(folder / "item_feature.parquet", feature)
    histories = {
        int(user): history
        for rows in world.splits.values()
        for user, history in zip(rows.user, rows.history, strict=True)
        if len(history)
    }
    users = sorted(histories)
    sequences = pa.array([histories[user].tolist() for user in users], pa.list_(pa.int64()))
    _write(folder / "item_seq.parquet", {"user_id": np.array(users), "item_seq": sequences})
    (folder / "item_images").mkdir()
    for number, item in enumerate(world.items, start=1):
        buffer = io.BytesIO()
        item.cover.save(buffer, "JPEG", quality=80, optimize=True)
        (folder / "item_images" / f"{number}.jpg").write_bytes(buffer.getvalue())


def _write_split(folder: Path, name: str, rows: Rows, levels: np.ndarray) -> None:
    padded = np.zeros((len(rows.target), WIDTH), dtype=np.int64)
    for row, history in enumerate(rows.history):
        padded[row, WIDTH - len(history) :] = history
    columns = {
        "user_id": rows.user,
        "item_seq": _lists(padded),
        "item_id": rows.target,
        "likes_level": levels[rows.target, 0],
        "views_level": levels[rows.target, 1],
    }
    known = {"label": rows.label, "oracle": rows.log_odds}
    if name == "test":
        ids = np.arange(len(rows.target))
        columns = {"ID": ids, **columns}
        _write(folder / "answers.parquet", {"ID": ids, **known})
    else:
        columns |= known
    _write(folder / "MicroLens_1M_x1" / f"{name}.parquet", columns)


def _lists(values: np.ndarray) -> pa.ListArray:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def _write(path: Path, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=9)
