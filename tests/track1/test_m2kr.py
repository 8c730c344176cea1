"""The M2KR reader: formats, names, images, gold, and the block restriction."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.hashing import file_digest
from track1_mdr.config import DataConfig
from track1_mdr.datasets.image_folder import FolderImages, ImageFolder, content_keys
from track1_mdr.datasets.m2kr import load_m2kr, restrict_by_block
from track1_mdr.datasets.tables import PASSAGE_SCHEMA, QUERY_SCHEMA

QUERIES = {
    "question_id": ["0", "1", "2"],
    "question": ["", "Who built it?", None],
    "instruction": ["Find the page", "Answer", "Describe"],
    "img_path": ["a.jpg", "B.jpg", ""],
    "pos_item_ids": [[], ["Q2"], ["A1", "A1"]],
}
PASSAGES = {
    "passage_id": ["A1", "Q2", "B3"],
    "passage_content": ["one", None, "three"],
    "page_screenshot": ["Page_v1.2.png", "st._ives", None],
}


def picture(path: Path, colour: str = "red", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), colour).save(path, **options)


def write(root: Path, queries: dict[str, Any] | None = None, passages: dict[str, Any] | None = None) -> Path:
    for folder, data in (("challenge_data", queries or QUERIES), ("challenge_passage", passages or PASSAGES)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        pl.DataFrame(data).write_parquet(root / folder / "train-00000-of-00001.parquet")
    picture(root / "query_images" / "a.jpg")
    picture(root / "query_images" / "deep" / "er" / "b.JPEG", "blue")
    picture(root / "Challenge" / "Page_v1.2.png", "green")
    picture(root / "Challenge" / "part2" / "St._Ives.PNG", "white")
    return root


def load(root: Path, faults: FaultLog | None = None, **data: Any):
    return load_m2kr(root, DataConfig(**data), faults if faults is not None else FaultLog())


def changed(source: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {k: v for k, v in {**source, **columns}.items() if v is not ...}


def test_tables_have_the_stated_form(tmp_path: Path) -> None:
    faults = FaultLog()
    tables = load(write(tmp_path), faults)
    assert dict(tables.queries.table.schema) == QUERY_SCHEMA and dict(tables.passages.table.schema) == PASSAGE_SCHEMA
    assert tables.queries.texts == ["", "Who built it?", ""] and tables.passages.texts == ["one", "", "three"]
    assert tables.queries.table["domain"].to_list() == ["image", "image and text", ""]
    assert [f.item for f in faults.faults] == ["2"]  # neither question nor image
    assert tables.qrels == {"1": ("Q2",), "2": ("A1",)}
    assert tables.gold_rows()[0] is None and tables.gold_rows()[1].tolist() == [1]
    assert all(rows is tables.candidates.rows[0] for rows in tables.candidates.rows)
    assert any("1 passages have no text" in note for note in tables.notes)


def test_images_are_found_in_any_case_suffix_and_depth(tmp_path: Path) -> None:
    tables = load(write(tmp_path))
    assert tables.queries.images.load(1).getpixel((9, 9))[2] > 200
    assert tables.passages.images.load(0).getpixel((9, 9)) == (0, 128, 0)
    assert tables.passages.images.load(1).getpixel((9, 9)) == (255, 255, 255)
    assert tables.passages.table["image_name"].to_list() == ["Page_v1.2.png", "st._ives", None]
    assert tables.queries.images.key(0) == file_digest(tmp_path / "query_images" / "a.jpg")
    assert tables.queries.images.key(2) is None
    with pytest.raises(DataError, match="no image"):
        tables.queries.images.load(2)


@pytest.mark.parametrize(
    ("queries", "passages", "message"),
    [
        (changed(QUERIES, img_path=..., image_path=["a", "b", "c"]), None, r"img_path \(nearest: image_path\)"),
        (None, changed(PASSAGES, passage_content=..., content=["", "", ""]), r"passage_content \(nearest: content\)"),
        (changed(QUERIES, question_id=["0", "1", "1"]), None, "more than once"),
        (None, changed(PASSAGES, passage_id=["A1", "A1", "B3"]), "more than once"),
        (changed(QUERIES, question_id=["0", None, "2"]), None, "no question_id"),
        (None, changed(PASSAGES, passage_id=["A1", " ", "B3"]), "no passage_id"),
        (changed(QUERIES, question_id=[0, 1, 2]), None, "wrong type"),
        (changed(QUERIES, pos_item_ids=["Q2", "", ""]), None, "pos_item_ids has the wrong type"),
        (changed(QUERIES, pos_item_ids=[["Q9"], [], []]), None, "gold passage is not in"),
        (changed(QUERIES, img_path=["../a.jpg", "B.jpg", ""]), None, "not a plain name"),
        (changed(QUERIES, img_path=["/etc/passwd", "B.jpg", ""]), None, "not a plain name"),
        (changed(QUERIES, img_path=["C:\\a.jpg", "B.jpg", ""]), None, "not a plain name"),
        (changed(QUERIES, img_path=["a\0.jpg", "B.jpg", ""]), None, "not a plain name"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, queries: Any, passages: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, queries, passages))
    assert caught.value.where is not None and str(tmp_path) in str(caught.value.where)


def test_missing_and_damaged_parquet_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parquet file"):
        load(tmp_path)
    write(tmp_path)
    file = tmp_path / "challenge_passage" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable parquet"):
        load(tmp_path)
    pl.DataFrame(PASSAGES).clear().cast({"page_screenshot": pl.String}).write_parquet(file)
    with pytest.raises(DataError, match="no rows"):
        load(tmp_path)


def test_parts_are_read_in_order_and_a_table_without_gold_is_fine(tmp_path: Path) -> None:
    write(tmp_path, changed(QUERIES, pos_item_ids=...))
    more = {"passage_id": ["Z"], "passage_content": ["z"], "page_screenshot": [None]}
    pl.DataFrame(more).write_parquet(tmp_path / "challenge_passage" / "train-00001.parquet")
    tables = load(tmp_path)
    assert tables.passages.table["passage_id"].to_list() == ["A1", "Q2", "B3", "Z"] and tables.qrels == {}


def test_gold_file_comes_first_and_is_checked(tmp_path: Path) -> None:
    write(tmp_path)
    gold = tmp_path / "gold.csv"
    gold.write_text('question_id,passage_id\n0,"[""B3"", ""A1""]"\n')
    assert load(tmp_path).qrels == {"0": ("B3", "A1")}
    for text, message in (
        ('0,"[""B9""]"', "not in challenge_passage"),
        ('77,"[""B3""]"', "unknown question_id"),
        ("0,\"['B3']\"", "fault"),
        ('0,"[""B3""]"\n0,"[""A1""]"', "fault"),
    ):
        gold.write_text(f"question_id,passage_id\n{text}\n")
        with pytest.raises(DataError, match=message):
            load(tmp_path)


def test_unusable_images_are_recorded_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    names = ["good.jpg", "gone.jpg", "cut.jpg", "text.jpg", "empty.jpg", "bomb.png"]
    count = len(names)
    queries = {
        "question_id": [str(i) for i in range(count)],
        "question": [""] * count,
        "instruction": [""] * count,
        "img_path": names,
    }
    write(tmp_path, queries)
    folder = tmp_path / "query_images"
    for name in ("good.jpg", "cut.jpg"):
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    (folder / "text.jpg").write_text("<html>404 not found</html>")
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    faults = FaultLog()
    images = load(tmp_path, faults).queries.images
    assert [(f.item, f.error) for f in faults.faults] == [("gone.jpg", "the image is missing")]
    assert images.load(0).size == (90, 90) and images.key(1) is None
    for row in (2, 3, 4, 5):
        with pytest.raises(DataError, match=names[row]):
            images.load(row)


def test_an_absent_image_folder_is_a_note_not_fifty_thousand_faults(tmp_path: Path) -> None:
    write(tmp_path)
    for file in sorted((tmp_path / "Challenge").rglob("*.*")):
        file.unlink()
    (tmp_path / "Challenge" / "part2").rmdir()
    (tmp_path / "Challenge").rmdir()
    faults = FaultLog()
    tables = load(tmp_path, faults)
    assert any("no folder Challenge/" in note for note in tables.notes)
    assert [f.stage for f in faults.faults] == ["m2kr query"] and tables.passages.images.key(0) is None


def test_ambiguous_names_are_errors_unless_the_table_is_precise(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "one/y.jpg", "two/y.jpg"):
        picture(tmp_path / name)
    index = ImageFolder(tmp_path)
    assert len(index) == 4
    assert index.find("x.png") == tmp_path / "x.png" and index.find("two/y.png") == tmp_path / "two" / "y.jpg"
    assert index.find(f"{tmp_path.name}/x.jpg") == tmp_path / "x.jpg"
    for name in ("X.jpeg", "y.jpg", "three/y.jpg"):
        with pytest.raises(DataError, match="ambiguous"):
            index.find(name)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "secret.png")
    picture(tmp_path / "in" / "real.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "in" / "alias.png").symlink_to(tmp_path / "in" / "real.png")
    index = ImageFolder(tmp_path / "in")
    assert index.find("alias") == tmp_path / "in" / "alias.png"
    with pytest.raises(DataError, match="link to a file outside"):
        index.find("link.png")
    with pytest.raises(DataError, match="missing"):
        index.find("secret.png")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root reads every file")
def test_a_file_without_permission_is_a_fault(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    faults = FaultLog()
    assert content_keys(FolderImages(("a",), (tmp_path / "a.png",)), ["a"], faults, "images") == [None]
    assert len(faults) == 1


def test_a_file_that_vanishes_is_a_fault(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    images = FolderImages(("a.png", "b.png", None), (tmp_path / "a.png", tmp_path / "b.png", None))
    faults = FaultLog()
    keys = content_keys(images, list(images.names), faults, "screenshot", threads=3)
    assert keys == [file_digest(tmp_path / "a.png"), None, None]
    assert [(f.stage, f.item) for f in faults.faults] == [("screenshot", "b.png")]


def test_block_prefix_follows_ids_not_rows(tmp_path: Path) -> None:
    ids = [str(i) for i in range(6415)]
    passages = ["B9", "A1", "Q1", "Q7", "X0"]
    candidates = restrict_by_block(ids[::-1], passages, tmp_path)
    by_id = dict(zip(ids[::-1], candidates.rows, strict=True))
    expected = {"0": [1], "1399": [1], "1400": [2, 3], "4414": [2, 3], "4415": [0], "6414": [0]}
    assert {key: by_id[key].tolist() for key in expected} == expected
    assert len(candidates.groups()) == 3


def test_block_prefix_is_refused_on_other_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="official question set"):
        load(write(tmp_path), m2kr_restrict="block_prefix")
    ids = [str(i) for i in range(6415)]
    with pytest.raises(ConfigError, match="official question set"):
        restrict_by_block([*ids[:-1], "9000"], ["A", "B", "Q"], tmp_path)
    with pytest.raises(ConfigError, match="starts with Q"):
        restrict_by_block(ids, ["A", "B"], tmp_path)


def test_the_official_size_is_read_with_one_shared_pool(tmp_path: Path) -> None:
    queries = changed(
        {key: value * 0 for key, value in QUERIES.items() if key != "pos_item_ids"},
        question_id=[str(i) for i in range(6415)],
        question=[""] * 6415,
        instruction=["x"] * 6415,
        img_path=["a.jpg"] * 6415,
    )
    passages = {
        "passage_id": [f"{'AQB'[i % 3]}{i}" for i in range(50_000)],
        "passage_content": ["words " * 30] * 50_000,
        "page_screenshot": ["st._ives"] * 50_000,
    }
    tables = load(write(tmp_path, queries, passages), m2kr_restrict="block_prefix")
    assert len(tables.candidates.groups()) == 3 and len(tables.passages) == 50_000
    assert any("m2kr_restrict" in note for note in tables.notes)
