import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from common.engine.local import WorkerPool
from common.errors import DataError
from common.faults import FaultLog
from common.images import open_image
from tests.track1.hostile_tasks import extract_or_die, no_state
from tests.track1.pdf_files import blank_pdf, broken_page_pdf, drawn_text, image_pdf, text_pdf
from track1_mdr.config import OcrConfig
from track1_mdr.datasets import extract
from track1_mdr.datasets.documents import needs_ocr, piece_key, prepare_documents
from track1_mdr.datasets.extract import extract_documents
from track1_mdr.datasets.pdf import PageContent
from track1_mdr.datasets.prepare import LAYOUTS_FILE, PAGES_FILE, prepare_pdfs

ROOT = Path(__file__).resolve().parents[2]
NO_OCR = OcrConfig(enabled=False, workers=1)
OCR = OcrConfig(workers=1)
LONG = "This page has a text layer of its own with more than ten words in it."


def make_folder(folder: Path) -> Path:
    """Four documents: text, image-only, text with a figure, and one with a page that cannot be read."""
    folder.mkdir(parents=True)
    text_pdf(folder / "b text.pdf", [f"{LONG} Number {i}." for i in range(3)])
    image_pdf(folder / "a_scan.pdf", [drawn_text("Wombat census 1987")])
    image_pdf(folder / "c_figure.pdf", [drawn_text("Kangaroo exports")], text=LONG)
    broken_page_pdf(folder / "d_broken.pdf")
    return folder


def tables(folder: Path) -> tuple[bytes, bytes]:
    return (folder / PAGES_FILE).read_bytes(), (folder / LAYOUTS_FILE).read_bytes()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, FaultLog]:
    """(PDF folder, folder of the tables from one undisturbed run, faults); the cache is in `cache`."""
    root = tmp_path_factory.mktemp("prepare")
    faults = FaultLog()
    prepare_pdfs(make_folder(root / "pdfs"), root / "out", OCR, root / "cache", faults, domains={"a_scan": "News"})
    return root / "pdfs", root / "out", faults


def test_the_page_table_has_the_official_columns_and_every_page(prepared: tuple[Path, Path, FaultLog]) -> None:
    table = pl.read_parquet(prepared[1] / PAGES_FILE)
    assert table.schema == {
        "doc_name": pl.String,
        "domain": pl.String,
        "passage_id": pl.String,
        "image_path": pl.String,
        "image_binary": pl.Binary,
        "ocr_text": pl.String,
        "vlm_text": pl.String,
    }
    assert table.select("doc_name", "passage_id").rows() == [
        ("a_scan", "0"),
        *(("b text", str(i)) for i in range(3)),
        ("c_figure", "0"),
        *(("d_broken", str(i)) for i in range(3)),
    ]
    assert table["image_path"][1] == "b text_0.jpg"
    assert table["domain"].to_list()[:2] == ["News", ""]
    assert table["image_binary"].null_count() == table.height


def test_text_comes_from_the_layer_from_ocr_or_from_both(prepared: tuple[Path, Path, FaultLog]) -> None:
    table = pl.read_parquet(prepared[1] / PAGES_FILE)
    texts = dict(zip(table["image_path"], table["ocr_text"], strict=True))
    assert texts["a_scan_0.jpg"] == "Wombat census 1987"
    assert texts["b text_2.jpg"] == f"{LONG} Number 2."
    assert texts["c_figure_0.jpg"].split("\n") == [LONG, "Kangaroo exports"]


@pytest.mark.parametrize(
    ("words", "garbled", "enabled", "whole"),
    [(9, False, True, True), (10, False, True, False), (0, True, True, True), (9, False, False, False)],
)
def test_which_pages_are_read_whole(words: int, garbled: bool, enabled: bool, whole: bool) -> None:
    page = PageContent(612, 792, "word " * words, (), (), garbled)
    assert needs_ocr(page, OcrConfig(enabled=enabled, min_words=10)) is whole


def test_a_figure_does_not_repeat_what_the_text_layer_says(tmp_path: Path) -> None:
    pdf = image_pdf(tmp_path / "a.pdf", [drawn_text("ten words in it\nNew: Emu 55")], text=LONG)
    document = next(prepare_documents({"a": pdf}, OCR, tmp_path / "cache", FaultLog()))
    assert document.pages[0].text.split("\n") == [LONG, "New: Emu 55"]
    figure = [block for block in document.layouts if block.kind == "figure"]
    assert [block.text for block in figure] == ["ten words in it\nNew: Emu 55"]


def test_the_settings_that_change_text_change_the_piece(tmp_path: Path) -> None:
    keys = {
        piece_key("ab", OcrConfig(**values))
        for values in ({}, {"page_pixels": 900}, {"min_words": 3}, {"figures": False}, {"enabled": False})
    }
    assert len(keys) == 5
    assert piece_key("ab", OcrConfig(workers=7)) in keys
    assert piece_key("cd", OcrConfig()) not in keys


def test_a_page_that_fails_is_a_fault_and_keeps_its_row(prepared: tuple[Path, Path, FaultLog]) -> None:
    table = pl.read_parquet(prepared[1] / PAGES_FILE).filter(pl.col("doc_name") == "d_broken")
    assert [text.strip() for text in table["ocr_text"]] == ["first page here", "", "third page here"]
    assert [fault.item for fault in prepared[2].faults] == ["d_broken, page 1"]


def test_the_layout_table_has_boxes_in_points(prepared: tuple[Path, Path, FaultLog]) -> None:
    table = pl.read_parquet(prepared[1] / LAYOUTS_FILE)
    assert table["layout_id"].to_list() == list(range(table.height))
    figure = table.filter((pl.col("doc_name") == "c_figure") & (pl.col("type") == "figure")).row(0, named=True)
    assert (figure["text"], figure["ocr_text"]) == ("", "Kangaroo exports")
    assert figure["page_size"] == [612.0, 792.0]
    assert figure["bbox"] == pytest.approx([72, 292, 472, 492], abs=1)
    text = table.filter((pl.col("doc_name") == "c_figure") & (pl.col("type") == "text")).row(0, named=True)
    assert text["text"] == LONG
    assert text["bbox"][0] == pytest.approx(72, abs=2)


def test_a_second_run_reads_the_cache_and_writes_the_same_bytes(
    prepared: tuple[Path, Path, FaultLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdfs, out, _ = prepared
    started: list[int] = []
    run = WorkerPool.run

    def counted(self: WorkerPool, tasks: list) -> object:
        started.extend(1 for _ in tasks)
        return run(self, tasks)

    monkeypatch.setattr(WorkerPool, "run", counted)
    faults = FaultLog()
    result = prepare_pdfs(pdfs, tmp_path, OCR, out.parent / "cache", faults, domains={"a_scan": "News"})
    assert tables(tmp_path) == tables(out)
    assert (result.documents, result.pages) == (4, 8)
    assert len(started) == 3  # the faulty document alone is tried again: its text, and its page 0 and 2 by OCR
    assert len(faults) == 1


def test_damaged_pieces_are_made_again(prepared: tuple[Path, Path, FaultLog], tmp_path: Path) -> None:
    pdfs, out, _ = prepared
    pieces = sorted((out.parent / "cache" / "documents").iterdir())
    assert len(pieces) == 3
    pieces[0].write_bytes(pieces[0].read_bytes()[:-20])
    data = bytearray(pieces[1].read_bytes())
    data[-30] ^= 1
    pieces[1].write_bytes(bytes(data))
    prepare_pdfs(pdfs, tmp_path, OCR, out.parent / "cache", FaultLog(), domains={"a_scan": "News"})
    assert tables(tmp_path) == tables(out)


SCRIPT = """
import sys
from pathlib import Path
from common.faults import FaultLog
from track1_mdr.config import OcrConfig
from track1_mdr.datasets import documents
from track1_mdr.datasets.prepare import prepare_pdfs
if __name__ == "__main__":
    documents.BATCH = 1
    root = Path(sys.argv[1])
    prepare_pdfs(root / "pdfs", root / sys.argv[2], OcrConfig(workers=1, enabled=False), root / "cache", FaultLog())
"""


def start(script: Path, root: Path, out: str) -> subprocess.Popen[bytes]:
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, str(script), str(root), out], env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    for number in range(12):
        text_pdf(tmp_path / "pdfs" / f"doc{number:02}.pdf", [f"{LONG} {number} {page}" for page in range(40)])
    pieces = tmp_path / "cache" / "documents"
    process = start(tmp_path / "script.py", tmp_path, "out")
    deadline = time.monotonic() + 60
    while not (pieces.is_dir() and len(list(pieces.glob("[!.]*.json"))) >= 2) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in pieces.glob("[!.]*.json")}
    assert 2 <= len(done) < 12
    assert not (tmp_path / "out" / PAGES_FILE).exists()
    prepare_pdfs(tmp_path / "pdfs", tmp_path / "out", NO_OCR, tmp_path / "cache", FaultLog())
    prepare_pdfs(tmp_path / "pdfs", tmp_path / "fresh", NO_OCR, tmp_path / "other_cache", FaultLog())
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")
    assert {name: (pieces / name).stat().st_mtime_ns for name in done} == done
    assert pl.read_parquet(tmp_path / "out" / PAGES_FILE).height == 480


def test_two_runs_at_once_on_one_cache(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    for number in range(4):
        text_pdf(tmp_path / "pdfs" / f"doc{number}.pdf", [f"{LONG} {number} {page}" for page in range(10)])
    runs = [start(tmp_path / f"script{i}.py", tmp_path, f"out{i}") for i in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    prepare_pdfs(tmp_path / "pdfs", tmp_path / "fresh", NO_OCR, tmp_path / "other_cache", FaultLog())
    assert tables(tmp_path / "out0") == tables(tmp_path / "out1") == tables(tmp_path / "fresh")
    assert not list((tmp_path / "cache").rglob(".partial-*"))


def test_page_images(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    (tmp_path / "pdfs").mkdir()
    image_pdf(tmp_path / "pdfs" / "a.pdf", [image, Image.new("RGB", (9, 9), "red")])
    for out in ("one", "two"):  # the second comes from the cache
        prepare_pdfs(
            tmp_path / "pdfs", tmp_path / out, NO_OCR, tmp_path / "cache", FaultLog(), images=True, image_pixels=400
        )
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    pages = [open_image(data, "page") for data in pl.read_parquet(tmp_path / "one" / PAGES_FILE)["image_binary"]]
    assert [page.size for page in pages] == [(310, 400), (310, 400)] or [page.size[1] for page in pages] == [400, 400]
    red = np.asarray(pages[1])[200, 100]
    assert red[0] > 240
    assert red[1] < 20
    piece = next((tmp_path / "cache" / "page_images").iterdir())
    piece.write_bytes(piece.read_bytes()[:200])
    prepare_pdfs(
        tmp_path / "pdfs", tmp_path / "three", NO_OCR, tmp_path / "cache", FaultLog(), images=True, image_pixels=400
    )
    assert tables(tmp_path / "three") == tables(tmp_path / "one")


def test_pages_that_kill_their_worker_are_faults_and_the_rest_is_read(tmp_path: Path) -> None:
    bad = text_pdf(tmp_path / "bad.pdf", ["zero", "KILL", "two", "KILL", "four"])
    worse = text_pdf(tmp_path / "worse.pdf", ["zero", *["KILL"] * 6])
    good = text_pdf(tmp_path / "good.pdf", ["zero", "one"])
    with WorkerPool(extract_or_die, no_state, workers=2, timeout=30) as pool:
        found = extract_documents(pool, {"bad": bad, "worse": worse, "good": good}, 0.03)

    def texts(name: str) -> list[str]:
        return [page.text.strip() if isinstance(page, PageContent) else "-" for page in found[name].pages]

    assert texts("bad") == ["zero", "-", "two", "-", "four"]
    assert texts("good") == ["zero", "one"]
    assert texts("worse") == ["zero", *["-"] * 6]
    assert "exit code 9" in str(found["bad"].pages[1])
    assert f"{extract.MAX_LOST_PAGES} earlier pages" in str(found["worse"].pages[-1])


def test_documents_that_cannot_be_opened_are_faults_and_the_others_go_on(tmp_path: Path) -> None:
    pdfs = tmp_path / "pdfs"
    pdfs.mkdir()
    (pdfs / "empty.pdf").write_bytes(b"")
    (pdfs / "text.pdf").write_text("no PDF")
    whole = text_pdf(pdfs / "good.pdf", [LONG]).read_bytes()
    (pdfs / "cut.pdf").write_bytes(whole[: len(whole) // 3])
    text_pdf(pdfs / "locked.pdf", ["x"], lock="pw")
    blank_pdf(pdfs / "long.pdf", 6_000)
    faults = FaultLog()
    found = {
        document.name: document
        for document in prepare_documents(
            {path.stem: path for path in pdfs.iterdir()}, NO_OCR, tmp_path / "cache", faults
        )
    }
    assert list(found) == sorted(found)
    assert [page.text for page in found["good"].pages] == [LONG]
    errors = {fault.item: fault.error for fault in faults.faults}
    words = {"empty": "empty", "text": "not a PDF", "cut": "truncated", "locked": "encrypted", "long": "6,000"}
    assert set(errors) == set(words)
    for name, word in words.items():
        assert word in errors[name]
        assert f"{name}.pdf" in errors[name]
        assert found[name].error == errors[name]
        assert found[name].pages == ()


def test_bad_folders_and_names(tmp_path: Path) -> None:
    def run(folder: Path, documents: list[str] | None = None) -> None:
        prepare_pdfs(folder, tmp_path / "out", NO_OCR, tmp_path / "cache", FaultLog(), documents=documents)

    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "gone")
    (tmp_path / "pdfs").mkdir()
    with pytest.raises(DataError, match="no PDF in the folder"):
        run(tmp_path / "pdfs")
    text_pdf(tmp_path / "pdfs" / "a.pdf", [LONG])
    with pytest.raises(DataError, match=r"1 documents have no PDF[\s\S]*bb"):
        run(tmp_path / "pdfs", ["a", "bb"])
    assert not (tmp_path / "out").exists()


def test_only_the_documents_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    for name in "abc":
        text_pdf(tmp_path / "pdfs" / f"{name}.PDF", [LONG])
    result = prepare_pdfs(
        tmp_path / "pdfs", tmp_path / "out", NO_OCR, tmp_path / "cache", FaultLog(), documents=["c", "a"]
    )
    assert pl.read_parquet(result.pages_file)["doc_name"].to_list() == ["a", "c"]
    assert result.notes == ("1 of 3 PDFs are not asked for",)
