"""MovieLens in the official layout, against the log by brute force; and nothing from the future."""

import io
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from common.errors import ConfigError, DataError
from track2_mmctr.datasets.movielens import PreparedMovieLens, Shares, decile_levels, prepare_movielens

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


@pytest.mark.parametrize(
    ("line", "expected", "got"),
    [
        ("1\t2\t5", "four whole numbers", "1\\t2\\t5"),
        ("1 2 5 100", "four whole numbers", "1 2 5 100"),
        ("1\t2\t4.5\t100", "four whole numbers", "4.5"),
        ("1\t2\t6\t100", "a rating of 1..5", "6"),
        ("1\t2\t0\t100", "a rating of 1..5", "0"),
        ("1\t31\t5\t100", "1..30", "31"),
        ("1\t0\t5\t100", "1..30", "0"),
        ("0\t2\t5\t100", "user id", "0"),
        ("1\t9\t2\t999", "one rating of a movie by a user", "line 1"),
    ],
)
def test_a_bad_rating_is_named_by_its_line(tmp_path, line, expected, got):
    root = write_source(tmp_path / "bad", [(1, 9, 3, 50), (2, 3, 4, 60)])
    path = root / "ml-100k/u.data"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError) as caught:
        prepare_movielens(root, tmp_path / "out")
    error = caught.value
    assert str(error.where) == f"{path}, line 3"
    assert expected in str(error.expected) and got in str(error.got)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("3|Short|x", "24 fields"),
        ("5|Gap|||x" + "|0" * 19, "movie id 3"),
        ("3|Flag|||x" + "|2" * 19, "genre flags"),
    ],
)
def test_a_bad_movie_is_named_by_its_line(tmp_path, line, expected):
    root = write_source(tmp_path / "bad", random_log())
    path = root / "ml-100k/u.item"
    lines = path.read_text(encoding="latin-1").split("\n")
    lines[2] = line
    path.write_text("\n".join(lines), encoding="latin-1")
    with pytest.raises(DataError) as caught:
        prepare_movielens(root, tmp_path / "out")
    assert str(caught.value.where) == f"{path}, line 3" and expected in str(caught.value.expected)


@pytest.mark.parametrize("name", ["u.data", "u.item"])
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, name):
    root = write_source(tmp_path / "bad", random_log())
    (root / "ml-100k" / name).unlink()
    with pytest.raises(DataError, match=name) as caught:
        prepare_movielens(root, tmp_path / "out")
    assert "grouplens.org" in str(caught.value.todo)


def test_texts_and_posters_may_be_absent_and_this_is_said(tmp_path):
    root = write_source(tmp_path / "bare", random_log(), posters=False, texts=False)
    result = prepare_movielens(root / "ml-100k", tmp_path / "out")
    assert (result.counts["overviews"], result.counts["posters"]) == (0, 0)
    said = "\n".join(result.notes)
    assert "items_with_overview.csv" in said and "movielens100k_details.csv" in said and "ml-100k-posters" in said
    assert not list((tmp_path / "out/item_images").iterdir())


def test_posters_are_found_from_the_inner_folder(tmp_path):
    root = write_source(tmp_path / "whole", random_log())
    assert prepare_movielens(root / "ml-100k", tmp_path / "out").counts["posters"] == ITEMS - 1


def test_a_damaged_poster_stops_unless_it_is_allowed(tmp_path):
    root = write_source(tmp_path / "bad", random_log())
    poster = root / "ml-100k-posters/7.jpg"
    poster.write_bytes(poster.read_bytes()[:200])
    (root / "ml-100k-posters/8.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"7\.jpg"):
        prepare_movielens(root, tmp_path / "out", allow_faults=1)
    assert not (tmp_path / "out").exists()
    result = prepare_movielens(root, tmp_path / "out", allow_faults=2)
    assert [fault.item for fault in result.faults.faults] == ["7.jpg", "8.jpg"]
    assert any("8.jpg" in note for note in result.notes)
    saved = (tmp_path / "out/faults.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in saved] == ["7.jpg", "8.jpg"]
    assert not (tmp_path / "out/item_images/7.jpg").exists() and (tmp_path / "out/item_images/9.jpg").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("movie_id,title\n1,x\n", "overview"),
        ("movie_id,overview\none,x\n", "movie id"),
        ("movie_id,overview\n1,\xff", "UTF-8"),
    ],
)
def test_a_bad_overview_file_is_named(tmp_path, text, expected):
    root = write_source(tmp_path / "bad", random_log())
    path = root / "ml-100k/items_with_overview.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        prepare_movielens(root, tmp_path / "out")
    assert str(path) in str(caught.value.where) and expected in str(caught.value.expected)


def test_repeated_and_unknown_overviews_are_said(tmp_path):
    root = write_source(tmp_path / "bad", random_log())
    path = root / "ml-100k/items_with_overview.csv"
    path.write_text(path.read_text() + "3,Another\n99,Nobody\n4,About 4 long\n")
    result = prepare_movielens(root, tmp_path / "out")
    said = "\n".join(result.notes)
    assert "2 rows repeat a movie with another text" in said and "1 rows name a movie" in said
    assert pl.read_parquet(tmp_path / "out/item_feature.parquet")["item_overview"][2] == "About 3, long"


def test_too_few_times_for_three_parts(tmp_path):
    with pytest.raises(DataError, match="no rows are left for valid, test"):
        prepare(tmp_path, [(u, i, 4, 100 + (u > 2)) for u in range(1, 9) for i in range(1, 5)])


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    root = write_source(tmp_path / "whole", random_log())
    out = tmp_path / "out"
    out.mkdir()
    prepare_movielens(root, out)  # an empty folder may be filled, and a prepared one made again
    prepare_movielens(root, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="would be lost"):
        prepare_movielens(root, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


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
