import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.errors import DataError
from common.faults import FaultLog
from tests.track1.pdf_files import image_pdf, text_pdf
from track1_mdr.config import DataConfig, OcrConfig
from track1_mdr.datasets.mmdocir import load_mmdocir
from track1_mdr.datasets.tables import TaskTables

NO_OCR = OcrConfig(enabled=False, workers=1)
COUNTS = {"beta": 12, "alpha": 3}
QUESTIONS = [("10", "beta", "What is b?"), ("11", "alpha", "What is a?"), ("12", "beta", "What is b?")]


def jpeg(document: str, page: int) -> bytes:
    """A grey image whose shade says which page it is."""
    file = BytesIO()
    Image.new("RGB", (16, 16), (len(document) * 10, page * 15, 0)).save(file, "PNG")
    return file.getvalue()


def question(question_id: str, doc: str, text: str, **other: Any) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "question": text,
        "doc_name": doc,
        "domain": "News",
        "num_of_pages": COUNTS[doc],
        "passage_id": [],
        **other,
    }


def pages() -> list[dict[str, Any]]:
    """Page rows in an order that is neither by document nor by page; pages of another document between."""
    rows = [
        {
            "doc_name": doc,
            "passage_id": str(page),
            "image_path": f"{doc}_{page}.jpg",
            "image_binary": jpeg(doc, page),
            "ocr_text": f"{doc} ocr {page}",
            "vlm_text": f"{doc} vlm {page}" if page % 2 == 0 else "",
        }
        for doc, count in (*COUNTS.items(), ("unused", 4))
        for page in range(count)
    ]
    return [rows[i] for i in np.random.default_rng(4).permutation(len(rows))]


def write_questions(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_pages(root: Path, rows: list[dict[str, Any]], name: str = "MMDocIR_doc_passages.parquet") -> None:
    pq.write_table(pa.Table.from_pylist(rows), root / name, row_group_size=5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mmdocir"
    root.mkdir()
    write_questions(root, [question(*row) for row in QUESTIONS])
    write_pages(root, pages())
    return root


def load(root: Path, **data: Any) -> TaskTables:
    return load_mmdocir(root, DataConfig(ocr=NO_OCR, **data), root.parent / "cache", FaultLog())


def test_the_official_table(root: Path) -> None:
    tables = load(root)
    assert tables.passages.table.select("doc_name", "passage_id").rows() == [
        *(("alpha", str(i)) for i in range(3)),
        *(("beta", str(i)) for i in range(12)),  # 10 behind 9, not behind 1
    ]
    assert tables.queries.table["question_id"].to_list() == ["10", "11", "12"]
    assert [rows.tolist() for rows in tables.candidates.rows] == [list(range(3, 15)), [0, 1, 2], list(range(3, 15))]
    assert tables.passages.layouts is None
    assert dict(tables.qrels) == {}
    assert any("no gold" in note for note in tables.notes)


def test_the_other_name_of_the_page_table(root: Path) -> None:
    before = load(root).passages.table
    (root / "MMDocIR_doc_passages.parquet").rename(root / "MMDocIR_pages.parquet")
    assert load(root).passages.table.equals(before)


@pytest.mark.parametrize(
    ("choice", "even", "odd"),
    [
        ("auto", "alpha vlm 0\nalpha ocr 0", "alpha ocr 1"),
        ("both", "alpha vlm 0\nalpha ocr 0", "alpha ocr 1"),
        ("ocr_text", "alpha ocr 0", "alpha ocr 1"),
        ("vlm_text", "alpha vlm 0", ""),
    ],
)
def test_text_choice(root: Path, choice: str, even: str, odd: str) -> None:
    assert load(root, text=choice).passages.texts[:2] == [even, odd]


def test_auto_takes_the_text_that_is_there(root: Path) -> None:
    write_pages(root, [{k: v for k, v in row.items() if k != "vlm_text"} for row in pages()])
    assert load(root).passages.texts[0] == "alpha ocr 0"
    with pytest.raises(DataError, match="'vlm_text' is missing"):
        load(root, text="vlm_text")


def test_images_belong_to_their_pages_in_any_order_of_asking(root: Path) -> None:
    images = load(root).passages.images
    names = [("alpha", i) for i in range(3)] + [("beta", i) for i in range(12)]
    for row in [*range(15), *range(14, -1, -1), *np.random.default_rng(1).permutation(15).tolist()]:
        doc, page = names[row]
        assert images.load(row).getpixel((3, 3)) == (len(doc) * 10, page * 15, 0)
    assert len({images.key(row) for row in range(15)}) == 15


def test_images_that_are_absent_or_damaged_are_named(root: Path) -> None:
    rows = pages()
    for row in rows:
        if row["image_path"] == "alpha_1.jpg":
            row["image_binary"] = b"<html>"
        if row["image_path"] == "alpha_2.jpg":
            row["image_binary"] = None
    write_pages(root, rows)
    images = load(root).passages.images
    with pytest.raises(DataError, match=r"alpha_1\.jpg"):
        images.load(1)
    assert images.key(2) is None
    with pytest.raises(DataError, match=r"alpha_2\.jpg"):
        images.load(2)


def change(rows: list[dict[str, Any]], doc: str, page: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if (row["doc_name"], row["passage_id"]) == (doc, str(page)) else row for row in rows]


def without(rows: list[dict[str, Any]], *pages: tuple[str, str]) -> list[dict[str, Any]]:
    return [row for row in rows if (row["doc_name"], row["passage_id"]) not in pages]


ALPHA = {"doc_name": "alpha", "image_path": "x", "image_binary": b"", "ocr_text": "", "vlm_text": ""}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: without(r, ("alpha", "2")), r"off by one[\s\S]*0 to 2[\s\S]*0 to 1[\s\S]*half-open"),
        (lambda r: [*r, {**ALPHA, "passage_id": "3"}], r"off by one[\s\S]*0 to 3"),
        (lambda r: [*without(r, ("alpha", "0")), {**ALPHA, "passage_id": "3"}], r"off by one[\s\S]*1 to 3"),
        (lambda r: without(r, ("beta", "5")), r"do not match[\s\S]*missing: \[5\]"),
        (lambda r: [*r, {**ALPHA, "passage_id": "9"}], r"do not match[\s\S]*too many: \[9\]"),
        (lambda r: [*r, {**ALPHA, "passage_id": "1"}], r"there twice[\s\S]*alpha, page 1"),
        (lambda r: change(r, "alpha", 1, passage_id="1.0"), r"not a page number[\s\S]*'1\.0'"),
        (lambda r: change(r, "alpha", 1, passage_id="-1"), "not a page number"),
        (lambda r: change(r, "alpha", 1, passage_id="01"), "not a page number"),
        (lambda r: change(r, "alpha", 1, passage_id="one"), "not a page number"),
        (lambda r: change(r, "alpha", 1, passage_id=None), "not a page number"),
        (lambda r: [row for row in r if row["doc_name"] != "alpha"], "'alpha' has no pages"),
        (
            lambda r: [{("document" if k == "doc_name" else k): v for k, v in row.items()} for row in r],
            "'doc_name' is mis",
        ),
        (
            lambda r: [{("passageid" if k == "passage_id" else k): v for k, v in row.items()} for row in r],
            "rename 'passageid' to 'passage_id'",
        ),
    ],
)
def test_bad_page_tables(root: Path, spoil: Callable[[list], list], message: str) -> None:
    write_pages(root, spoil(pages()))
    with pytest.raises(DataError, match=message) as info:
        load(root)
    assert "MMDocIR_doc_passages.parquet" in str(info.value)


def test_a_page_table_that_is_no_parquet_file(root: Path) -> None:
    path = root / "MMDocIR_doc_passages.parquet"
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="not a readable parquet"):
            load(root)


def test_whole_number_columns_and_names_with_pdf_are_read_and_noted(root: Path) -> None:
    expected = load(root).passages.table
    rows = [{**row, "passage_id": int(row["passage_id"]), "doc_name": row["doc_name"] + ".pdf"} for row in pages()]
    write_pages(root, rows)
    tables = load(root)
    assert tables.passages.table.equals(expected)
    assert any("15 rows name their document with .pdf" in note for note in tables.notes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question("10", "alpha", "again"), r"line 4[\s\S]*10, also on line 1"),
        (question("13", "alpha", "x", num_of_pages="3"), r"num_of_pages has the wrong type"),
        (question("13", "alpha", "x", num_of_pages=True), r"num_of_pages has the wrong type"),
        (question("13", "alpha", "x", num_of_pages=0), r"num_of_pages is empty"),
        (question("13", "alpha", "x", num_of_pages=4), r"'alpha' has two page counts[\s\S]*as on line 2"),
        (question("13", "alpha", " "), r"question is empty"),
        (question(13, "alpha", "x"), r"question_id has the wrong type"),  # type: ignore[arg-type]
        ({k: v for k, v in question("13", "alpha", "x").items() if k != "domain"}, "'domain' is missing"),
        (
            {**{k: v for k, v in question("13", "alpha", "x").items() if k != "num_of_pages"}, "num_pages": 3},
            "'num_pages'",
        ),
        ([1, 2], "not a JSON object"),
    ],
)
def test_bad_questions(root: Path, row: Any, message: str) -> None:
    write_questions(root, [*(question(*row) for row in QUESTIONS), row])
    with pytest.raises(DataError, match=message) as info:
        load(root)
    assert "MMDocIR_gt_remove.jsonl, line 4" in str(info.value)


def test_bad_question_files(root: Path) -> None:
    path = root / "MMDocIR_gt_remove.jsonl"
    for text, message in (("", "no questions"), ("{not json}\n", "line 1"), ("\n", "no questions")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load(root)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load(root)


def test_gold_csv(root: Path) -> None:
    (root / "gold.csv").write_text('question_id,passage_id\n11,"[""2"", ""0""]"\n10,"[""11""]"\n')
    tables = load(root)
    assert dict(tables.qrels) == {"11": ("2", "0"), "10": ("11",)}
    assert [None if rows is None else rows.tolist() for rows in tables.gold_rows()] == [[14], [2, 0], None]


@pytest.mark.parametrize("line", ['99,"[""1""]"', '11,"[""3""]"', "11,\"['1']\"", "11,[1]", '11,"[""1"""', "11"])
def test_bad_gold(root: Path, line: str) -> None:
    (root / "gold.csv").write_text(f"question_id,passage_id\n{line}\n")
    with pytest.raises(DataError, match=r"gold\.csv"):
        load(root)


def annotations(root: Path, pages_of_a: list[int]) -> None:
    lines = [
        {
            "doc_name": "alpha.pdf",
            "domain": "News",
            "questions": [{"Q": "What is a?", "page_id": pages_of_a, "type": "['Chart']"}],
        },
        {
            "doc_name": "beta.pdf",
            "domain": "News",
            "questions": [
                {"Q": "Another?", "page_id": [0], "type": "['Table']"},
                {"Q": "What is b?", "page_id": [5], "type": "['Table', 'Chart']"},
                {"Q": "What is b?", "page_id": [7, 8], "type": "['Pure-text (Plain-text)']"},
            ],
        },
    ]
    (root / "MMDocIR_annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_annotations_stand_in_for_gold_and_repeated_questions_keep_their_order(root: Path) -> None:
    annotations(root, [1])
    assert dict(load(root).qrels) == {"10": ("5",), "11": ("1",), "12": ("7", "8")}
    (root / "gold.csv").write_text('question_id,passage_id\n11,"[""2""]"\n')
    assert dict(load(root).qrels) == {"11": ("2",)}


def test_annotated_pages_out_of_range(root: Path) -> None:
    annotations(root, [3])
    with pytest.raises(DataError, match=r"out of range[\s\S]*0 to 2"):
        load(root)


LAYOUT = {
    "doc_name": "alpha",
    "type": "text",
    "layout_id": 0,
    "page_id": 1,
    "text": "hello",
    "ocr_text": "",
    "vlm_text": None,
    "bbox": [61.2, 79.2, 306.0, 792.0],
    "page_size": [612.0, 792.0],
}


def test_layouts(root: Path) -> None:
    rows = [
        {**LAYOUT, "doc_name": "beta", "page_id": 11, "type": "figure", "text": "", "ocr_text": "o", "vlm_text": "v"},
        LAYOUT,
        {**LAYOUT, "doc_name": "unused"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "MMDocIR_layouts.parquet")
    layouts = load(root).passages.layouts
    assert layouts is not None
    assert layouts.rows() == [
        (1, "text", "hello", pytest.approx([0.1, 0.1, 0.5, 1.0])),
        (14, "figure", "v\no", pytest.approx([0.1, 0.1, 0.5, 1.0])),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"page_id": 3}, "page is out of range"),
        ({"page_id": -1}, "page is out of range"),
        ({"type": "chart"}, "unknown layout type"),
        ({"bbox": [1.0, 2.0]}, "box is damaged"),
        ({"bbox": [1.0, 2.0, float("nan"), 4.0]}, "box is damaged"),
        ({"page_size": [0.0, 0.0]}, "box is damaged"),
    ],
)
def test_bad_layouts(root: Path, values: dict[str, Any], message: str) -> None:
    pq.write_table(pa.Table.from_pylist([LAYOUT, {**LAYOUT, **values}]), root / "MMDocIR_layouts.parquet")
    with pytest.raises(DataError, match=message) as info:
        load(root)
    assert "row 1" in str(info.value)


@pytest.fixture
def pdf_root(root: Path) -> Path:
    (root / "MMDocIR_doc_passages.parquet").unlink()
    (root / "pdfs").mkdir()
    for name, count in (*COUNTS.items(), ("unused", 2)):
        text_pdf(root / "pdfs" / f"{name}.pdf", [f"{name} words of page {page}" for page in range(count)])
    return root


def test_pdfs(pdf_root: Path) -> None:
    tables = load(pdf_root, image_pixels=300)
    names = [("alpha", i) for i in range(3)] + [("beta", i) for i in range(12)]
    assert tables.passages.texts == [f"{name} words of page {page}" for name, page in names]
    assert tables.passages.table["passage_id"].to_list() == [str(page) for _, page in names]
    assert any("1 of 3 PDFs belong to no question" in note for note in tables.notes)
    layouts = tables.passages.layouts
    assert layouts is not None
    assert layouts["passage"].to_list() == list(range(15))
    assert layouts["text"].to_list() == tables.passages.texts
    images = tables.passages.images
    assert max(images.load(4).size) == 300
    assert len({images.key(row) for row in range(15)}) == 15
    other = load(pdf_root, image_pixels=301).passages.images
    assert not {images.key(row) for row in range(15)} & {other.key(row) for row in range(15)}
    assert [load(pdf_root, image_pixels=300).passages.images.key(row) for row in range(15)] == [
        images.key(row) for row in range(15)
    ]


def test_prepared_pages_are_rendered_from_the_right_page(pdf_root: Path) -> None:
    shades = [Image.new("RGB", (8, 8), (0, 20 * i, 0)) for i in range(12)]
    image_pdf(pdf_root / "pdfs" / "beta.pdf", shades, box=(0, 0, 612, 792))
    images = load(pdf_root, image_pixels=200).passages.images
    assert [images.load(3 + i).getpixel((50, 50)) for i in range(12)] == [(0, 20 * i, 0) for i in range(12)]


@pytest.mark.parametrize("pages", [2, 4])
def test_a_pdf_with_another_page_count(pdf_root: Path, pages: int) -> None:
    text_pdf(pdf_root / "pdfs" / "alpha.pdf", ["x"] * pages)
    with pytest.raises(DataError, match=r"'alpha' are off by one[\s\S]*both ends"):
        load(pdf_root)


@pytest.mark.parametrize("make", [lambda p: p.write_bytes(b""), lambda p: text_pdf(p, ["x"], lock="pw"), Path.unlink])
def test_a_pdf_that_cannot_be_opened_keeps_its_pages_as_empty_rows(pdf_root: Path, make: Callable[[Path], Any]) -> None:
    make(pdf_root / "pdfs" / "alpha.pdf")
    faults = FaultLog()
    tables = load_mmdocir(pdf_root, DataConfig(ocr=NO_OCR), pdf_root.parent / "cache", faults)
    assert tables.passages.texts[:3] == ["", "", ""]
    assert tables.passages.texts[3] == "beta words of page 0"
    assert [len(rows) for rows in tables.candidates.rows] == [12, 3, 12]
    assert [fault.item for fault in faults.faults] == ["alpha"]
    assert tables.passages.images.key(0) is None
    with pytest.raises(DataError):
        tables.passages.images.load(0)


def test_page_source(pdf_root: Path) -> None:
    write_pages(pdf_root, pages())
    assert load(pdf_root).passages.texts[0] == "alpha vlm 0\nalpha ocr 0"
    assert load(pdf_root, page_source="table").passages.texts[0] == "alpha vlm 0\nalpha ocr 0"
    assert load(pdf_root, page_source="pdfs").passages.texts[0] == "alpha words of page 0"
    (pdf_root / "MMDocIR_doc_passages.parquet").unlink()
    with pytest.raises(DataError, match=r"no pages[\s\S]*MMDocIR_pages\.parquet"):
        load(pdf_root, page_source="table")


@pytest.mark.real
def test_real_data(real_data: Path, tmp_path: Path) -> None:
    """All questions and gold; pages of three documents from the PDFs, the others' text is not needed here."""
    source = real_data / "mmdocir"
    root = tmp_path / "mmdocir"
    (root / "pdfs").mkdir(parents=True)
    wanted = {"2312.09390v1", "PH_2016.06.08_Economy-Final", "afe620b9beac86c1027b96d31d396407"}
    for name in wanted:
        (root / "pdfs" / f"{name}.pdf").symlink_to(source / "pdfs" / f"{name}.pdf")
    lines = (source / "MMDocIR_gt_remove.jsonl").read_text().splitlines(keepends=True)
    chosen = [line for line in lines if json.loads(line)["doc_name"] in wanted]
    (root / "MMDocIR_gt_remove.jsonl").write_text("".join(chosen))
    ids = {json.loads(line)["question_id"] for line in chosen}
    gold = pl.read_csv(source / "gold.csv", schema_overrides={"question_id": pl.String})
    gold.filter(pl.col("question_id").is_in(list(ids))).write_csv(root / "gold.csv")
    by_file = load(root)
    assert set(by_file.qrels) == ids
    assert all(rows is not None for rows in by_file.gold_rows())
    (root / "gold.csv").unlink()
    (root / "MMDocIR_annotations.jsonl").symlink_to(source / "MMDocIR_annotations.jsonl")
    assert {k: set(v) for k, v in load(root).qrels.items()} == {k: set(v) for k, v in by_file.qrels.items()}
