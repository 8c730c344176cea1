"""`prepare movielens`: MovieLens-100K in the layout of MicroLens_1M_MMCTR, split by time, without a look ahead."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import atomic_folder
from common.errors import ConfigError, DataError, UserError
from common.faults import FaultLog
from track2_mmctr.datasets.movielens_files import (
    GENRE_NAMES,
    ITEMS,
    POSTERS,
    RATINGS,
    Movie,
    Ratings,
    find_source,
    read_movies,
    read_overviews,
    read_people,
    read_posters,
    read_ratings,
)

LIKED = 4
"""A rating from here on is a like: label 1, and an entry of later histories."""
WIDTH = 100
"""Columns of `item_seq`."""
TAGS = 5
"""Columns of `item_tags`."""
MARKER = "prepared.json"


@dataclass(frozen=True)
class Shares:
    """Parts of all ratings, in time order: warm-up, train, valid, test. Train is what the others leave."""

    warm_up: float = 0.2
    valid: float = 0.1
    test: float = 0.1

    @property
    def train(self) -> float:
        """The part of the training rows."""
        return 1 - self.warm_up - self.valid - self.test


@dataclass(frozen=True)
class PreparedMovieLens:
    """What `prepare_movielens` wrote.

    Attributes
    ----------
    folder
        The data folder.
    counts
        Rows and items by name, for printing.
    notes
        What the user should know: gaps in the source, in sentences.
    faults
        Posters that did not decode.
    next_command
        What to type next.
    """

    folder: Path
    counts: dict[str, int]
    notes: list[str]
    faults: FaultLog
    next_command: str


@dataclass(frozen=True, eq=False)
class Features:
    """Histories of all events and popularity levels of all items; `levels[i]` is item i, row 0 zeros."""

    history: np.ndarray
    levels: np.ndarray


def prepare_movielens(
    source: Path, out: Path, *, shares: Shares | None = None, allow_faults: int = 0
) -> PreparedMovieLens:
    """Turn MovieLens-100K into the official layout under `out`, which is replaced when all of it is made.

    Events are sorted by (time, user, item). The first ones are a warm-up: they make no rows, only histories and
    popularity. The rest become train, valid and test rows in time order; one second never lies in two parts.

    - label = rating >= 4. A row's history is what its user rated >= 4 at a strictly earlier time, oldest first
      (ties by item id), the newest 100, padded with 0 on the left.
    - likes_level and views_level (1..10) are deciles of an item's ratings >= 4 and of all its ratings **in the
      warm-up only**, which lies before every row, so no label and no popularity comes from the future. Items
      without any there have level 1. `item_feature` and the split files have the same levels.
    - Item ids are MovieLens' own; 0 is padding. Tags are genres (1 = unknown, 2 = Action, ...). There is no
      `item_emb_d128`: `embed` makes it from titles, overviews and covers.
    - `item_seq` has each user's likes before the first valid row, so that what is fitted on it sees no future.
    - Test labels are in `answers.parquet` (ID, label), and `ID` counts from 0.

    Parameters
    ----------
    source
        A folder with `ml-100k/` and, for covers, `ml-100k-posters/`; or `ml-100k` itself.
    shares
        Of the events in each part; default 20 % warm-up, 60 % train, 10 % valid, 10 % test.
    allow_faults
        Posters that may fail to decode.

    Raises
    ------
    ConfigError
        The shares leave no training rows.
    DataError
        A file is missing or malformed; more posters than `allow_faults` are damaged; a part has no rows; `out`
        holds something that this function did not make.
    UserError
        The disk is full, or `out` cannot be written.
    """
    shares = shares or Shares()
    _check_shares(shares)
    _check_out(out)
    found = find_source(source)
    movies = read_movies(found.folder / ITEMS)
    ratings = read_ratings(found.folder / RATINGS, len(movies))
    bounds = split_bounds(ratings.time, shares)
    overviews = read_overviews(found.folder, len(movies))
    faults = FaultLog()
    posters = read_posters(found.posters, movies, faults)
    faults.check(allow_faults, "put whole files in their place, or allow that many with --allow-faults")
    directors, actors = read_people(found.folder, len(movies))
    texts = {
        "overview": [overviews.texts.get(item, "") for item in range(1, len(movies) + 1)],
        "genres": [", ".join(GENRE_NAMES[genre - 1] for genre in movie.genres) for movie in movies],
        "director": directors,
        "cast": actors,
    }
    features = make_features(ratings, bounds[0], len(movies))
    counts = {
        "ratings": len(ratings),
        "warm-up ratings": bounds[0],
        "train rows": bounds[1] - bounds[0],
        "valid rows": bounds[2] - bounds[1],
        "test rows": len(ratings) - bounds[2],
        "users": len(np.unique(ratings.user)),
        "items": len(movies),
        "overviews": sum(map(bool, texts["overview"])),
        "posters": len(posters),
    }
    with _writing(out) as folder:
        _write_splits(folder, ratings, features, bounds)
        _write_items(folder, movies, texts, features.levels)
        _write_histories(folder, ratings, bounds[1])
        _write_rest(folder, posters, faults, counts)
    return PreparedMovieLens(
        folder=out,
        counts=counts,
        notes=overviews.notes + _notes(counts, movies, found.posters, faults),
        faults=faults,
        next_command=f"python -m track2_mmctr embed --data {shlex.quote(str(out))}",
    )


def split_bounds(time: np.ndarray, shares: Shares) -> tuple[int, int, int]:
    """Return the first events of train, valid and test; `time` [E] is sorted.

    A bound that falls between events of one second moves behind the last of them.
    """
    cuts = []
    for share in (shares.warm_up, shares.warm_up + shares.train, 1 - shares.test):
        place = round(share * len(time))
        cuts.append(int(np.searchsorted(time, time[place - 1], side="right")) if place else 0)
    sizes = dict(zip(("train", "valid", "test"), np.diff([*cuts, len(time)]), strict=True))
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise DataError(
            f"no rows are left for {', '.join(empty)}",
            where=RATINGS,
            expected="ratings at enough different times",
            got=f"{len(time)} ratings at {len(np.unique(time))} times",
        )
    return cuts[0], cuts[1], cuts[2]


def make_features(ratings: Ratings, warm_up: int, items: int) -> Features:
    """Return each event's history [E, 100] and each item's levels [items + 1, 2] from the first `warm_up` events."""
    liked = ratings.rating >= LIKED
    early = ratings.item[:warm_up]
    views = np.bincount(early, minlength=items + 1)[1:]
    likes = np.bincount(early[liked[:warm_up]], minlength=items + 1)[1:]
    levels = np.zeros((items + 1, 2), dtype=np.int64)
    levels[1:] = np.stack([decile_levels(likes), decile_levels(views)], axis=1)
    history = np.zeros((len(ratings), WIDTH), dtype=np.int64)
    order = np.argsort(ratings.user, kind="stable")  # by user, and in time order within a user
    starts = np.flatnonzero(np.diff(ratings.user[order], prepend=-1))
    for events in np.split(order, starts[1:]):
        # Sorted by (time, user, item), so equal times are in order of the item id.
        past = events[liked[events]]
        before = np.searchsorted(ratings.time[past], ratings.time[events], side="left")
        for event, count in zip(events, before, strict=True):
            newest = ratings.item[past[max(0, count - WIDTH) : count]]
            history[event, WIDTH - len(newest) :] = newest
    return Features(history, levels)


def decile_levels(counts: np.ndarray) -> np.ndarray:
    """Return levels 1..10 of items by count: ten steps of the rank among counts above 0; equal counts, equal level.

    >>> decile_levels(np.array([0, 1, 2, 2, 9])).tolist()
    [1, 1, 3, 3, 8]
    """
    seen = np.sort(counts[counts > 0])
    if not len(seen):
        return np.ones(len(counts), dtype=np.int64)
    smaller = np.searchsorted(seen, counts, side="left")
    return 1 + np.minimum(10 * smaller // len(seen), 9).astype(np.int64)


def list_column(values: np.ndarray) -> pa.ListArray:
    """Return a rectangle [R, W] as a column of lists, the type of the official files."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))


@contextmanager
def _writing(out: Path) -> Iterator[Path]:
    try:
        with atomic_folder(out) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            "the data folder cannot be written; what was there is as it was",
            where=out,
            got=error,
            todo="free some disk space, or choose another --out",
        ) from error


def _write_rest(folder: Path, posters: dict[int, bytes], faults: FaultLog, counts: dict[str, int]) -> None:
    (folder / "item_images").mkdir()
    for item, data in posters.items():
        (folder / "item_images" / f"{item}.jpg").write_bytes(data)
    if len(faults):
        faults.save(folder / "faults.jsonl")
    (folder / MARKER).write_text(json.dumps({"from": "MovieLens-100K", **counts}, indent=1) + "\n", "utf-8")


def _write_splits(folder: Path, ratings: Ratings, features: Features, bounds: tuple[int, int, int]) -> None:
    (folder / "MicroLens_1M_x1").mkdir()
    label = (ratings.rating >= LIKED).astype(np.int64)
    ends = (*bounds[1:], len(ratings))
    for name, start, end in zip(("train", "valid", "test"), bounds, ends, strict=True):
        rows = slice(start, end)
        columns = {
            "user_id": ratings.user[rows],
            "item_seq": list_column(features.history[rows]),
            "item_id": ratings.item[rows],
            "likes_level": features.levels[ratings.item[rows], 0],
            "views_level": features.levels[ratings.item[rows], 1],
        }
        if name == "test":
            columns = {"ID": np.arange(end - start, dtype=np.int64), **columns}
            pq.write_table(pa.table({"ID": columns["ID"], "label": label[rows]}), folder / "answers.parquet")
        else:
            columns["label"] = label[rows]
        pq.write_table(pa.table(columns), folder / "MicroLens_1M_x1" / f"{name}.parquet")


def _write_items(folder: Path, movies: list[Movie], texts: dict[str, list[str]], levels: np.ndarray) -> None:
    ids = np.arange(len(movies) + 1, dtype=np.int64)
    tags = np.zeros((len(ids), TAGS), dtype=np.int64)
    for item, movie in enumerate(movies, start=1):
        kept = movie.genres[:TAGS]
        tags[item, : len(kept)] = kept
    info = {"item_id": ids, "item_tags": list_column(tags)}
    pq.write_table(pa.table(info), folder / "MicroLens_1M_x1" / "item_info.parquet")
    feature = {
        "item_id": ids[1:],
        "item_title": pa.array([movie.title for movie in movies], pa.string()),
        "item_tags": list_column(tags[1:]),
        "likes_level": levels[1:, 0],
        "views_level": levels[1:, 1],
        **{f"item_{name}": pa.array(values, pa.string()) for name, values in texts.items()},
    }
    pq.write_table(pa.table(feature), folder / "item_feature.parquet")


def _write_histories(folder: Path, ratings: Ratings, end: int) -> None:
    users = np.unique(ratings.user[:end])
    liked = np.flatnonzero(ratings.rating[:end] >= LIKED)
    order = liked[np.argsort(ratings.user[liked], kind="stable")]
    counts = np.bincount(np.searchsorted(users, ratings.user[order]), minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    histories = pa.ListArray.from_arrays(offsets, pa.array(ratings.item[order]))
    pq.write_table(pa.table({"user_id": users, "item_seq": histories}), folder / "item_seq.parquet")


def _check_shares(shares: Shares) -> None:
    given = (shares.warm_up, shares.valid, shares.test)
    if not (0 <= shares.warm_up < 1 and 0 < shares.valid < 1 and 0 < shares.test < 1 and shares.train > 0):
        raise ConfigError(
            "the shares leave no training rows",
            where="warm_up, valid, test",
            expected="warm_up >= 0, valid > 0, test > 0, and their sum below 1",
            got=", ".join(map(str, given)),
        )


def _check_out(out: Path) -> None:
    """Refuse to replace a folder that is not empty and was not made here."""
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            "the output folder holds something else, which would be lost",
            where=out,
            expected=f"a new or empty folder, or one that was prepared before (with {MARKER})",
            todo="choose another --out, for example data/movielens",
        )


def _notes(counts: dict[str, int], movies: list[Movie], posters: Path | None, faults: FaultLog) -> list[str]:
    notes = []
    if missing := counts["items"] - counts["overviews"]:
        notes.append(f"{missing} of {counts['items']} items have no overview: their text is the title")
    if posters is None:
        notes.append(f"no folder {POSTERS} beside ml-100k: no item has a cover")
    elif missing := counts["items"] - counts["posters"]:
        notes.append(f"{missing} of {counts['items']} items have no poster")
    if len(faults):
        notes.append(f"{len(faults)} posters do not decode (faults.jsonl):\n{faults.summary()}")
    if cut := sum(len(movie.genres) > TAGS for movie in movies):
        notes.append(f"{cut} items have more than {TAGS} genres; the first {TAGS} are kept")
    notes.append("no item_emb_d128 yet: `embed` makes it")
    return notes
