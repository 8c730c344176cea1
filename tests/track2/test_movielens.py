"""MovieLens in the official layout, against the log by brute force; and nothing from the future."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import ConfigError
from tests.track2.tiny_movielens import (
    ITEMS,
    Event,
    all_rows,
    check_rows,
    expected_history,
    jpeg,
    prepare,
    random_log,
    write_source,
)
from track2_mmctr.datasets.movielens import Shares, decile_levels, prepare_movielens


def test_rows_histories_and_levels_against_the_log(tmp_path):
    log = random_log()
    result, out = prepare(tmp_path, log)
    warm_up = check_rows(log, out)
    times = sorted(event[3] for event in log)
    sizes = [result.counts[name] for name in ("warm-up ratings", "train rows", "valid rows", "test rows")]
    assert sum(sizes) == len(log) and sizes[0] == warm_up
    for bound, share in zip(np.cumsum(sizes)[:3], (0.2, 0.8, 0.9), strict=True):
        assert times[bound - 1] < times[bound]  # no second lies in two parts
        aimed = round(share * len(log))
        assert aimed <= bound and times[aimed - 1] == times[bound - 1]  # moved only to the end of that second
    labels = [row["label"] for row in all_rows(out)]
    assert 0 < sum(labels) < len(labels)
    histories = [any(row["item_seq"]) for row in all_rows(out)]
    assert any(histories) and not all(histories)


def features_of(row: dict) -> tuple:
    return row["user_id"], tuple(row["item_seq"]), row["item_id"], row["likes_level"], row["views_level"]


@pytest.mark.parametrize("moment", [1020, 1035, 1050])
@pytest.mark.parametrize("change", ["ratings", "items", "ratings and items"])
def test_no_feature_changes_when_the_future_does(tmp_path, moment, change):
    """Everything from `moment` on is altered: rows before it keep all features and labels."""
    log = random_log()
    rng = np.random.default_rng(moment)
    future = [i for i, event in enumerate(log) if event[3] >= moment]
    altered = list(log)
    taken = {event[:2] for event in log if event[3] < moment}
    for i in future:
        user, item, rating, time = log[i]
        if "items" in change:
            free = [other for other in range(1, ITEMS + 1) if (user, other) not in taken]
            item = int(rng.choice(free))
            taken.add((user, item))
        altered[i] = (user, item, 6 - rating if "ratings" in change else rating, time)
    _, first = prepare(tmp_path, log, "a")
    _, second = prepare(tmp_path, altered, "b")
    rows, again = all_rows(first), all_rows(second)
    times = sorted(event[3] for event in log)[-len(rows) :]
    before = sum(time < moment for time in times)
    assert 0 < before < len(rows) == len(again)
    assert [(features_of(row), row["label"]) for row in rows[:before]] == [
        (features_of(row), row["label"]) for row in again[:before]
    ]
    assert [features_of(row) for row in rows[before:]] != [features_of(row) for row in again[before:]]
    items = [pl.read_parquet(folder / "item_feature.parquet") for folder in (first, second)]
    assert items[0].equals(items[1])  # popularity is the warm-up's, which lies before `moment`


def test_the_same_check_notices_a_changed_past(tmp_path):
    """The placebo of the test above: altered warm-up ratings do change histories and levels."""
    log = random_log()
    altered = [(u, i, 6 - r if t < 1005 else r, t) for u, i, r, t in log]
    _, first = prepare(tmp_path, log, "a")
    _, second = prepare(tmp_path, altered, "b")
    assert [features_of(row) for row in all_rows(first)] != [features_of(row) for row in all_rows(second)]
    items = [pl.read_parquet(folder / "item_feature.parquet") for folder in (first, second)]
    assert not items[0].equals(items[1])


def test_likes_for_other_stages_end_before_the_first_valid_row(tmp_path):
    log = random_log()
    result, out = prepare(tmp_path, log)
    known = result.counts["warm-up ratings"] + result.counts["train rows"]
    end = sorted(event[3] for event in log)[known]
    table = pl.read_parquet(out / "item_seq.parquet")
    assert table["user_id"].to_list() == sorted({u for u, _, _, t in log if t < end})
    for user, items in table.iter_rows():
        assert items == expected_history(log, user, end)


def test_histories_keep_the_newest_hundred(tmp_path):
    """One user likes 150 films one after another; films 1..30 only, so the item file is made longer."""
    root = write_source(tmp_path / "long", [(1, 1, 5, 1)])
    flags = "1" + "|0" * 18
    lines = [f"{item}|Film {item}|||x|{flags}" for item in range(1, 151)]
    (root / "ml-100k/u.item").write_text("\n".join(lines))
    (root / "ml-100k/u.data").write_text("".join(f"1\t{151 - k}\t5\t{k}\n" for k in range(1, 151)))
    prepare_movielens(root, tmp_path / "out")
    last = all_rows(tmp_path / "out")[-1]
    assert last["item_id"] == 1 and last["item_seq"] == list(range(101, 1, -1))


def test_items_have_titles_texts_genres_and_covers(tmp_path):
    result, out = prepare(tmp_path, random_log())
    feature = pl.read_parquet(out / "item_feature.parquet")
    assert feature["item_title"][6] == "Café 7 (1995)"
    assert feature["item_overview"].to_list()[:4] == ["", "Described 2", "About 3, long", "About 4, long"]
    info = pl.read_parquet(out / "MicroLens_1M_x1/item_info.parquet")
    assert info.columns == ["item_id", "item_tags"] and info["item_id"].to_list() == list(range(ITEMS + 1))
    assert info["item_tags"].to_list()[:4] == [[0] * 5, [2, 0, 0, 0, 0], [3, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
    assert info["item_tags"][1:].to_list() == feature["item_tags"].to_list()
    images = sorted(int(path.stem) for path in (out / "item_images").iterdir())
    assert images == list(range(2, ITEMS + 1))
    assert (out / "item_images/9.jpg").read_bytes() == jpeg(9)
    said = "\n".join(result.notes)
    assert "1 of 30 items have no overview" in said and "1 of 30 items have no poster" in said
    assert (result.counts["overviews"], result.counts["posters"], result.counts["items"]) == (29, 29, 30)
    assert result.next_command == f"python -m track2_mmctr embed --data {out}"


def test_columns_and_types_are_the_official_ones(tmp_path):
    _, out = prepare(tmp_path, random_log())
    split = {"user_id": pl.Int64, "item_seq": pl.List(pl.Int64), "item_id": pl.Int64}
    split |= {"likes_level": pl.Int64, "views_level": pl.Int64}
    schemas = {
        "MicroLens_1M_x1/train.parquet": split | {"label": pl.Int64},
        "MicroLens_1M_x1/valid.parquet": split | {"label": pl.Int64},
        "MicroLens_1M_x1/test.parquet": {"ID": pl.Int64} | split,
        "answers.parquet": {"ID": pl.Int64, "label": pl.Int64},
        "item_seq.parquet": {"user_id": pl.Int64, "item_seq": pl.List(pl.Int64)},
    }
    for name, schema in schemas.items():
        assert dict(pl.read_parquet_schema(out / name)) == schema, name


def test_the_order_of_the_file_changes_no_byte(tmp_path):
    log = random_log()
    _, first = prepare(tmp_path, log, "a")
    _, second = prepare(tmp_path, log[::-1], "b")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_shares_are_arguments(tmp_path):
    log = [(1 + k % 7, 1 + k // 7, 1 + k % 5, k) for k in range(200)]  # every event at its own time
    result, out = prepare(tmp_path, log, shares=Shares(warm_up=0, valid=0.25, test=0.05))
    sizes = [result.counts[name] for name in ("warm-up ratings", "train rows", "valid rows", "test rows")]
    assert sizes == [0, 140, 50, 10]
    assert set(pl.read_parquet(out / "item_feature.parquet")["views_level"]) == {1}  # no warm-up, no popularity
    with pytest.raises(ConfigError, match="no training rows"):
        prepare(tmp_path, log, "b", shares=Shares(warm_up=0.5, valid=0.3, test=0.2))


def test_levels_are_deciles_of_ranks():
    assert decile_levels(np.arange(1, 101)).tolist() == [1 + k // 10 for k in range(100)]
    assert decile_levels(np.array([7, 0, 7, 0])).tolist() == [1, 1, 1, 1]
    assert decile_levels(np.zeros(3, dtype=np.int64)).tolist() == [1, 1, 1]


@pytest.mark.real
def test_the_real_movielens(tmp_path, root):
    """100,000 ratings: a sample of rows against brute force, and the counts of the published set."""
    places = [Path(place) for place in (os.environ.get("MIRC_DATA"), root.parent / "shared" / "data") if place]
    source = next((place for place in places if (place / "ml-100k/u.data").is_file()), None)
    if source is None:
        pytest.skip("no MovieLens-100K: set MIRC_DATA to a folder with ml-100k/ in it")
    result = prepare_movielens(source, tmp_path / "out")
    counts = result.counts
    assert (counts["ratings"], counts["users"], counts["items"]) == (100_000, 943, 1682)
    lines = (source / "ml-100k/u.data").read_text().splitlines()
    log: list[Event] = [tuple(map(int, line.split("\t"))) for line in lines]  # pyright: ignore[reportAssignmentType]
    events = sorted((t, u, i, r) for u, i, r, t in log)[counts["warm-up ratings"] :]
    rows = all_rows(tmp_path / "out")
    for k in np.random.default_rng(1).choice(len(rows), 150, replace=False):
        time, user, item, rating = events[k]
        history = expected_history(log, user, time)
        assert rows[k]["item_seq"] == [0] * (100 - len(history)) + history
        assert (rows[k]["user_id"], rows[k]["item_id"], rows[k]["label"]) == (user, item, int(rating >= 4))
    if (source / "ml-100k-posters").is_dir():
        assert counts["posters"] == 1663
