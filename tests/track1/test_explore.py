"""`explore` on Track 1: planted faults are counted, clean data has no problems, what is absent is a gap."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import DataError
from common.explore.findings import Finding
from common.pages.blocks import Gallery, Gap, Page, Table
from common.pages.render import render
from tests.pages.browser import BrowserPage, assert_fits, browser_page, chromium
from track1_mdr.explore.mmdocir_samples import marked_words
from track1_mdr.explore.page import Explored, explore
from track1_mdr.explore.scripts import scripts_of

__all__ = ["browser_page", "chromium"]  # fixtures
PAGES = {
    "ferry": ["The ferry company sails four boats between the islands.", "Revenue from tickets rose to 12 million."],
    "bees": ["Wild bees nest in dry stone walls of the farm.", "Lavender and clover feed most of the colonies."],
}
QUESTIONS = [
    ("10000", "How much revenue came from tickets?", "ferry"),
    ("10001", "How many boats does the company have?", "ferry"),
    ("10002", "Which plants feed the colonies?", "bees"),
]
GOLD = {"10000": ["1"], "10001": ["0"], "10002": ["1"]}


def picture(seed: int) -> bytes:
    with io.BytesIO() as file:
        pixels = np.random.default_rng(seed).integers(0, 255, (30, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue()


def page_rows(pages: dict[str, list[str]]) -> list[dict[str, object]]:
    flat = [(name, number, text) for name, texts in pages.items() for number, text in enumerate(texts)]
    return [
        {"doc_name": name, "passage_id": str(number), "ocr_text": text, "vlm_text": "", "image_binary": picture(row)}
        for row, (name, number, text) in enumerate(flat)
    ]


def write(
    root: Path,
    rows: list[dict[str, object]] | None = None,
    questions: list[tuple[str, str, str]] = QUESTIONS,
    counts: dict[str, int] | None = None,
    gold: dict[str, list[str]] | None = GOLD,
) -> Path:
    folder = root / "mmdocir"
    folder.mkdir(parents=True)
    rows = page_rows(PAGES) if rows is None else rows
    pl.DataFrame(rows).write_parquet(folder / "MMDocIR_doc_passages.parquet")
    sizes = {name: sum(row["doc_name"] == name for row in rows) for name in {name for _, _, name in questions}}
    lines = [
        {
            "question_id": i,
            "question": text,
            "doc_name": name,
            "domain": "d",
            "num_of_pages": {**sizes, **(counts or {})}[name],
        }
        for i, text, name in questions
    ]
    (folder / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if gold:
        quoted = [f'{i},"{json.dumps(pages)}"'.replace('["', '[""').replace('"]', '""]') for i, pages in gold.items()]
        (folder / "gold.csv").write_text("question_id,passage_id\n" + "\n".join(quoted) + "\n")
    return root


def found(explored: Explored, name: str, part: str = "MMDocIR") -> Finding:
    (one,) = [finding for finding in explored.findings if finding.name == name and finding.about == part]
    return one


def told(explored: Explored, name: str, part: str = "MMDocIR") -> tuple[str, str]:
    one = found(explored, name, part)
    return one.weight, one.found


def gaps(page: Page) -> list[str]:
    return [block.what for section in page.sections for block in section.blocks if isinstance(block, Gap)]


def test_clean_pages_and_queries_have_no_problem(tmp_path: Path) -> None:
    write_m2kr(write(tmp_path / "data"))
    explored = explore(tmp_path / "data", tmp_path / "cache")
    assert [finding for finding in explored.findings if finding.weight == "problem"] == []
    notes = {finding.name for finding in explored.findings if finding.weight == "note"}
    assert notes == {"pages without words", "gold pages without words"}  # some have fewer than ten words
    assert gaps(explored.page) == []
    assert render(explored.page) == render(explore(tmp_path / "data", tmp_path / "other").page)


def test_missing_empty_and_doubled_pages_are_counted(tmp_path: Path) -> None:
    long = "These words stand on two pages of one document and on one of another, which makes three in all."
    rows = page_rows({**PAGES, "maps": [long, long, "", "7"], "copy": [long.upper() + " ", "An own page of words."]})
    rows[1]["image_binary"] = None
    rows[2]["image_binary"] = b""
    rows[4]["image_binary"] = rows[5]["image_binary"]
    questions = [*QUESTIONS, ("10003", "What stands on two pages?", "maps"), ("10004", "And which is own?", "copy")]
    root = write(tmp_path, rows, questions, gold={**GOLD, "10003": ["0"], "10004": ["1"]})
    explored = explore(root, tmp_path / "cache")
    assert told(explored, "page images") == ("problem", "2 of 10 (20.0%) have none, in bees, ferry")
    weight, text = told(explored, "pages without words")
    assert weight == "note" and text.startswith("1 of 10 (10.0%) have none, ")
    assert told(explored, "pages with the same text") == ("note", "3 pages share 1 text; 1 text in several documents")
    assert told(explored, "pages with the same image") == ("note", "2 pages share 1 image")
    assert "of 1 question a gold page" in found(explored, "gold pages with a twin").found
    assert told(explored, "gold pages without words")[1].startswith(
        "4 of 5"
    )  # all but the long page: 10 words and more
    assert found(explored, "documents under two names").weight == "ok"


def test_documents_that_are_absent_idle_doubled_or_misnumbered_are_named(tmp_path: Path) -> None:
    rows = page_rows({**PAGES, "twin": PAGES["bees"], "short": ["First page of it all.", "Its last page of all."]})
    rows[-1]["passage_id"] = "2"
    questions = [*QUESTIONS, ("10003", "Where is the lost one?", "lost"), ("10004", "What is short here?", "short")]
    explored = explore(write(tmp_path, rows, questions, {"lost": 4}), tmp_path / "cache")
    assert told(explored, "documents of the questions") == (
        "problem",
        "1 of 4 (25.0%) have no pages (lost); 1 question ask about them",
    )
    assert told(explored, "documents without questions") == ("note", "1 of 4 (25.0%), 2 pages (twin)")
    weight, text = told(explored, "page numbers")
    assert weight == "problem" and text.endswith("short: 2 of 2 pages, numbered 0 to 2")
    weight, text = told(explored, "documents under two names")
    assert weight == "problem" and text == "1 group of documents with the same pages: bees, twin"


def test_repeated_and_verbatim_questions_and_partial_gold(tmp_path: Path) -> None:
    rows = page_rows({**PAGES, "faq": ["Contents", "Q:  How do I Find\nthe lost luggage office? A: by the harbour."]})
    questions = [
        *QUESTIONS,
        ("10003", "how do I find the lost luggage office?", "faq"),
        ("10004", "How do I find  the lost luggage office?", "faq"),
        ("10005", "Which plants feed the colonies?", "faq"),
    ]
    explored = explore(write(tmp_path, rows, questions, gold={**GOLD, "10003": ["1"]}), tmp_path / "cache")
    weight, text = told(explored, "questions asked twice")
    assert weight == "note"
    assert text.startswith("2 questions repeat the text of another of their document (1 of 1 text with another gold)")
    assert text.endswith("1 text in several documents")
    weight, text = told(explored, "questions that stand on a page")
    assert weight == "note" and text.startswith("2 of 6 (33.3%)") and "1 on a gold page (first: 10003, 10004)" in text
    weight, text = told(explored, "gold")
    assert weight == "note" and text.startswith("4 of 6 (66.7%) from gold.csv; 1 document")
    assert "(faq)" in text


def test_the_gallery_shows_gold_pages_with_the_words_asked_for(tmp_path: Path) -> None:
    explored = explore(write(tmp_path), tmp_path / "cache")
    (gallery,) = [
        b for s in explored.page.sections for b in s.blocks if isinstance(b, Gallery) and b.noun == "questions"
    ]
    assert [card.title for card in gallery.cards] == [text for _, text, _ in QUESTIONS]
    tile = gallery.cards[0].strips[0].tiles[0]
    assert (tile.caption, tile.badge, tile.image) == ("page 1", "gold", "page:ferry:1")
    assert "page:ferry:1" in explored.page.images
    assert [piece.strip() for piece, mark in tile.text if mark] == ["Revenue from tickets"]
    domains = next(
        b for s in explored.page.sections for b in s.blocks if isinstance(b, Table) and b.caption == "Domains"
    )
    assert domains.rows[0][:4] == ("d", 3, 2, 4)


def write_m2kr(root: Path) -> Path:
    folder = root / "m2kr"
    for name in ("challenge_data", "challenge_passage", "query_images", "Challenge"):
        (folder / name).mkdir(parents=True)
    for row in range(4):
        (folder / "query_images" / f"q{row}.jpg").write_bytes(picture(100 + row))
        (folder / "Challenge" / f"p{row}.png").write_bytes(picture(200 + row))
    passages = {
        "passage_id": [f"{letter}{row}" for row, letter in enumerate("AABB")],
        "passage_content": [
            f"The {word} is a bird of the northern coast." for word in ("tern", "gull", "auk", "puffin")
        ],
        "page_screenshot": [f"p{row}.jpg" for row in range(4)],
    }
    queries = {
        "question_id": [str(row) for row in range(4)],
        "question": ["", "", "Which bird is it?", "Where does it live?"],
        "instruction": ["Describe."] * 2 + ["Answer."] * 2,
        "img_path": [f"q{row}.JPEG" for row in range(4)],
        "pos_item_ids": [["A0"], ["B2"], ["A1"], ["B3"]],
    }
    pl.DataFrame(passages).write_parquet(folder / "challenge_passage" / "a.parquet")
    pl.DataFrame(queries).write_parquet(folder / "challenge_data" / "a.parquet")
    return root


def change(root: Path, name: str, **columns: list[object]) -> None:
    path = root / "m2kr" / name / "a.parquet"
    table = pl.read_parquet(path)
    table.with_columns(
        pl.Series(column, values, table.schema[column]) for column, values in columns.items()
    ).write_parquet(path)


def test_planted_faults_of_m2kr_are_counted(tmp_path: Path) -> None:
    root = write_m2kr(tmp_path)
    images, shots = root / "m2kr" / "query_images", root / "m2kr" / "Challenge"
    (images / "q0.jpg").unlink()
    (shots / "p2.png").write_bytes((images / "q2.jpg").read_bytes())  # the query's image is its gold's screenshot
    (shots / "p1.png").write_bytes(b"")
    change(root, "challenge_passage", passage_content=["The tern.", "the  TERN.", "", "The puffin."])
    change(root, "challenge_passage", page_screenshot=["p0.jpg", "p1.jpg", "p2.jpg", None])
    change(root, "challenge_data", img_path=["q0.jpg", "q1.jpg", "q2.jpg", ""], question=["", "", "Which?", ""])
    change(root, "challenge_data", pos_item_ids=[["A0"], ["A0"], ["B2"], None])
    explored = explore(root, tmp_path / "cache")

    def of(name: str) -> tuple[str, str]:
        return told(explored, name, "M2KR")

    assert of("query images")[0] == "problem" and of("query images")[1].startswith("1 of 3 (33.3%)")
    assert of("image files") == ("problem", "1 file empty or not to be opened: passage p1.jpg")
    assert of("queries with nothing to ask")[1].startswith("1 of 4 (25.0%) have neither a question nor an image (3)")
    assert of("passages without words") == ("note", "1 of 4 (25.0%) (B2)")
    assert of("passages without a screenshot") == ("note", "1 of 4 (25.0%) (B3)")
    assert of("passages with the same text")[1].startswith("2 passages share 1 text, 1 of them gold of a question")
    assert of("query images that are a screenshot") == (
        "note",
        "1 of 4 (25.0%), of which 1 are the screenshot of their gold passage",
    )
    assert of("gold") == ("note", "3 of 4 (75.0%) have gold; 1 of 2 (50.0%) gold passages answer several queries")
    assert of("queries asked twice")[0] == "ok"
    (gallery,) = [b for s in explored.page.sections for b in s.blocks if isinstance(b, Gallery) and b.noun == "queries"]
    assert len(gallery.cards) == 4 and "query:2" in explored.page.images


def test_queries_and_screenshots_with_the_same_bytes(tmp_path: Path) -> None:
    root = write_m2kr(tmp_path)
    for folder, kept, copy in (("query_images", "q0.jpg", "q1.jpg"), ("Challenge", "p0.png", "p3.png")):
        (root / "m2kr" / folder / copy).write_bytes((root / "m2kr" / folder / kept).read_bytes())
    explored = explore(root, tmp_path / "cache")
    assert found(explored, "queries asked twice", "M2KR").found.startswith("2 queries in 1 group share question")
    assert told(explored, "images with the same bytes", "M2KR") == (
        "note",
        "2 query images in 1 group, 2 screenshots in 1 group",
    )
    change(root, "challenge_data", pos_item_ids=[["A0"], ["A1"], ["B2"], ["B3"]])
    explored = explore(root, tmp_path / "cache")
    letters = found(explored, "passage ids tell the query's kind", "M2KR")
    assert letters.weight == "note" and "image A, image and text B" in letters.found


def test_what_is_absent_is_a_gap(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data to explore"):
        explore(tmp_path, tmp_path / "cache")
    alone = explore(write(tmp_path / "one", gold=None), tmp_path / "cache")
    assert gaps(alone.page) == [
        "No question has gold: there is no local score.",
        "The folder m2kr is not in the data root.",
    ]
    assert found(alone, "gold").weight == "note"
    other = explore(write_m2kr(tmp_path / "two"), tmp_path / "cache")
    assert gaps(other.page) == ["The folder mmdocir is not in the data root."]
    render(other.page)


def test_a_part_that_cannot_be_read_leaves_the_rest(tmp_path: Path) -> None:
    root = write_m2kr(write(tmp_path))
    (root / "mmdocir" / "MMDocIR_gt_remove.jsonl").write_text("{}\n")
    (root / "m2kr" / "challenge_data" / "a.parquet").write_bytes(b"PAR1")
    explored = explore(root, tmp_path / "cache")
    assert found(explored, "questions").weight == "problem" and "line 1" in found(explored, "questions").found
    assert found(explored, "tables", "M2KR").weight == "problem"
    assert found(explored, "pages with the same text").weight == "ok"
    assert any("M2KR cannot be read" in gap for gap in gaps(explored.page))
    (root / "mmdocir" / "MMDocIR_doc_passages.parquet").write_bytes(b"no parquet")
    (root / "mmdocir" / "gold.csv").write_text("question_id,passage_id\n10000,[1]\n")
    again = explore(root, tmp_path / "cache")
    assert found(again, "pages").weight == "problem" and "The questions of MMDocIR cannot be read." in gaps(again.page)
    render(again.page)


def test_gold_that_no_page_has_is_a_problem(tmp_path: Path) -> None:
    explored = explore(write(tmp_path, gold={**GOLD, "10002": ["2"]}), tmp_path / "cache")
    problems = [finding for finding in explored.findings if finding.weight == "problem"]
    assert [(finding.name, "not a page of the document" in finding.found) for finding in problems] == [("gold", True)]


def test_scripts_are_those_of_most_letters() -> None:
    texts = pl.Series(["ferry 12", "船在港口。", "Паром", "17%", "Паром is a ferry boat", ""])
    assert dict(scripts_of(texts).iter_rows()) == {"Latin": 2, "Han": 1, "Cyrillic": 1, "none": 2}


def test_the_shown_words_are_about_the_place_with_most_of_the_words_asked_for() -> None:
    assert marked_words("a b red fox. c", {"red", "fox", "hen"}) == [("a b ", False), ("red fox.", True), (" c", False)]
    far = " ".join(["red", *map(str, range(100)), "red", "fox", *map(str, range(100))])
    shown = marked_words(far, {"red", "fox"}, limit=12)
    assert shown == [("… 94 95 96 97 98 99 ", False), ("red fox", True), (" 0 1 2 3 …", False)]
    assert marked_words("", {"red"}) == [] and marked_words("none", {"red"}) == [("none", False)]


def test_the_sample_on_the_command_line_and_in_the_browser(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser_page: BrowserPage
) -> None:
    from track1_mdr.__main__ import app

    monkeypatch.chdir(tmp_path)
    arguments = ["explore", "--data", str(root / "data" / "sample"), "--cache", "cache", "--samples", "12"]
    done = CliRunner().invoke(app, [*arguments, "--out", "one.html"])
    assert done.exit_code == 0, done.output
    assert "0 problems, 2 notes" in done.output and "track1_mdr run" in done.output
    for width in (1440, 360):
        page = browser_page.open(tmp_path / "one.html", width=width)
        assert_fits(page)
    assert page.locator(".card").count() >= 12


@pytest.mark.real
def test_the_real_documents(real_data: Path, tmp_path: Path) -> None:
    explored = explore(real_data, tmp_path / "cache", samples=5)
    assert [finding for finding in explored.findings if finding.weight == "problem"] == []
    assert told(explored, "pages without words") == (
        "note",
        "354 of 2,186 (16.2%) have none, 395 fewer than 10; in 9 documents every page is such",
    )
    assert told(explored, "gold pages without words")[1].startswith("112 of 428 (26.2%)")
    assert gaps(explored.page)[-1] == "The folder m2kr is not in the data root."
