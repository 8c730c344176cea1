"""A small invented MovieLens, and what its rows should be by brute force."""

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from track2_mmctr.datasets.movielens import PreparedMovieLens, prepare_movielens

Event = tuple[int, int, int, int]
ITEMS = 30


def random_log(seed: int = 3, users: int = 12, events: int = 240) -> list[Event]:
    """Ratings (user, item, rating, time) with many ties in time, each pair once."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * ITEMS)[:events]
    times = rng.integers(1000, 1060, events)
    ratings = rng.integers(1, 6, events)
    return [
        (int(p) // ITEMS + 1, int(p) % ITEMS + 1, int(r), int(t)) for p, r, t in zip(pairs, ratings, times, strict=True)
    ]


def jpeg(item: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 12), (item % 256, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_source(root: Path, log: list[Event], *, posters: bool = True, texts: bool = True) -> Path:
    """An invented MovieLens: item 1 has no poster, items 1 and 2 no overview, item 2 a description, 3 six genres."""
    folder = root / "ml-100k"
    folder.mkdir(parents=True)
    lines = []
    for item in range(1, ITEMS + 1):
        flags = [int(g == item % 19 or (item == 3 and g < 5)) for g in range(19)]
        lines.append(f"{item}|Caf\xe9 {item} (1995)|01-Jan-1995||http://none|" + "|".join(map(str, flags)))
    (folder / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    (folder / "u.data").write_text("".join("\t".join(map(str, event)) + "\n" for event in log))
    if texts:
        rows = "".join(f'{i},"About {i},\nlong"\n' for i in range(3, ITEMS + 1))
        (folder / "items_with_overview.csv").write_text("movie_id,overview\n1,\n" + rows)
        (folder / "movielens100k_details.csv").write_text("movie_id,description\n2,Described 2\n3,Described 3\n")
    if posters:
        (root / "ml-100k-posters").mkdir()
        for item in range(2, ITEMS + 1):
            (root / "ml-100k-posters" / f"{item}.jpg").write_bytes(jpeg(item))
    return root


def prepare(tmp_path: Path, log: list[Event], name: str = "a", **options) -> tuple[PreparedMovieLens, Path]:
    out = tmp_path / f"{name}-out"
    return prepare_movielens(write_source(tmp_path / name, log), out, **options), out


def read_splits(out: Path) -> dict[str, pl.DataFrame]:
    answers = pl.read_parquet(out / "answers.parquet")
    splits = {name: pl.read_parquet(out / f"MicroLens_1M_x1/{name}.parquet") for name in ("train", "valid", "test")}
    assert splits["test"]["ID"].to_list() == list(range(splits["test"].height)) == answers["ID"].to_list()
    splits["test"] = splits["test"].with_columns(answers["label"])
    return splits


def all_rows(out: Path) -> list[dict]:
    return [row for split in read_splits(out).values() for row in split.iter_rows(named=True)]


def expected_history(log: list[Event], user: int, time: int) -> list[int]:
    liked = sorted((t, item) for u, item, rating, t in log if u == user and rating >= 4 and t < time)
    return [item for _, item in liked][-100:]


def check_rows(log: list[Event], out: Path) -> int:
    """Compare every row with the log, by brute force; return the number of events before the first row."""
    events = sorted((t, u, i, r) for u, i, r, t in log)
    rows = all_rows(out)
    warm_up = events[: len(events) - len(rows)]
    later = events[len(warm_up) :]
    feature = pl.read_parquet(out / "item_feature.parquet")
    assert feature["item_id"].to_list() == list(range(1, feature.height + 1))
    levels = {row["item_id"]: (row["likes_level"], row["views_level"]) for row in feature.iter_rows(named=True)}
    for row, (time, user, item, rating) in zip(rows, later, strict=True):
        assert (row["user_id"], row["item_id"], row["label"]) == (user, item, int(rating >= 4))
        assert len(row["item_seq"]) == 100
        assert (row["likes_level"], row["views_level"]) == levels[item]
        history = expected_history(log, user, time)
        assert row["item_seq"] == [0] * (100 - len(history)) + history
    counts = {item: [0, 0] for item in levels}
    for _, _, item, rating in warm_up:
        counts[item][0] += rating >= 4
        counts[item][1] += 1
    for kind in (0, 1):
        seen = [pair[kind] for pair in counts.values() if pair[kind]]
        for item, pair in counts.items():
            rank = sum(other < pair[kind] for other in seen)
            assert levels[item][kind] == (1 + 10 * rank // len(seen) if pair[kind] else 1)
    return len(warm_up)
