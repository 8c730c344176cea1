"""`prepare movielens` on damaged or missing files: named by file and line, and nothing is written or lost."""

import errno
import json

import polars as pl
import pytest

from common.errors import DataError, UserError
from tests.track2.tiny_movielens import ITEMS, prepare, random_log, write_source
from track2_mmctr.datasets import movielens
from track2_mmctr.datasets.movielens import prepare_movielens


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


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    root, out = write_source(tmp_path / "whole", random_log()), tmp_path / "out"
    prepare_movielens(root, out)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write = movielens.pq.write_table

    def full(table, path, **options):
        if path.name == "item_feature.parquet":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(table, path, **options)

    monkeypatch.setattr(movielens.pq, "write_table", full)
    with pytest.raises(UserError, match="No space left"):
        prepare_movielens(root, out)
    assert before == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]  # nothing half made beside it
