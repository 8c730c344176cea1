"""The shipped sample: same bytes each time, the official layout, and questions that are neither trivial nor chance."""

import csv
import json
import re
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pypdfium2
import pytest
from PIL import Image

from common.doctor import read_pins
from data.make_sample import make_sample
from data.sample_documents import read_source

KINDS = {"Chart", "Table", "Figure", "Pure-text (Plain-text)", "Generalized-text (Layout)"}


@pytest.fixture(scope="module")
def sample(root: Path) -> Path:
    return root / "data" / "sample"


@pytest.fixture(scope="module")
def questions(sample: Path) -> list[dict]:
    return [json.loads(line) for line in (sample / "mmdocir" / "MMDocIR_gt_remove.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def page_texts(sample: Path) -> dict[str, list[str]]:
    texts = {}
    for path in sorted((sample / "mmdocir" / "pdfs").glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        texts[path.stem] = [page.get_textpage().get_text_range() for page in document]
        document.close()
    return texts


def read_gold(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["question_id"]: json.loads(row["passage_id"]) for row in csv.DictReader(file)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_made_again_it_has_the_same_bytes(sample, tmp_path, root):
    pins = read_pins(root / "requirements.txt")
    other = [name for name in ("reportlab", "pillow", "pyarrow", "numpy") if metadata.version(name) != pins[name]]
    if other:
        pytest.skip(f"other versions than the pinned ones, which may draw other bytes: {', '.join(other)}")
    make_sample(tmp_path / "again")
    made, shipped = files(tmp_path / "again"), files(sample)
    assert sorted(made) == sorted(shipped)
    assert [name for name in made if made[name] != shipped[name]] == []
    assert sum(map(len, shipped.values())) < 3_500_000


def test_questions_are_in_the_official_form(questions, page_texts):
    keys = ["question_id", "question", "doc_name", "domain", "num_of_pages", "passage_id"]
    assert all(list(row) == keys and row["passage_id"] == [] for row in questions)
    assert [row["question_id"] for row in questions] == [str(10000 + i) for i in range(len(questions))]
    assert len(questions) >= 45 and len({row["question"] for row in questions}) == len(questions)
    assert {row["doc_name"]: row["num_of_pages"] for row in questions} == {
        name: len(pages) for name, pages in page_texts.items()
    }
    assert len({row["domain"] for row in questions}) == 6


def test_gold_annotations_and_page_ranges_agree(sample, questions, page_texts):
    gold = read_gold(sample / "mmdocir" / "gold.csv")
    assert list(gold) == [row["question_id"] for row in questions]
    rows = [json.loads(line) for line in (sample / "mmdocir" / "MMDocIR_annotations.jsonl").read_text().splitlines()]
    first, kinds, joined = 0, Counter(), {}
    for row in rows:
        pages = len(page_texts[row["doc_name"].removesuffix(".pdf")])
        assert row["page_indices"] == [first, first + pages - 1]  # inclusive at both ends
        first += pages
        for entry in row["questions"]:
            kinds[entry["type"].strip("[']")] += 1
            joined[entry["question_id"]] = entry
            assert all(0 <= page < pages for page in entry["page_id"])
            assert entry["page_id"] == sorted(set(entry["page_id"])) and entry["A"]
    assert set(kinds) <= KINDS and all(kinds[kind] >= 5 for kind in ("Chart", "Table", "Pure-text (Plain-text)"))
    for question in questions:
        entry = joined[question["question_id"]]
        assert entry["Q"] == question["question"]
        assert [str(page) for page in entry["page_id"]] == gold[question["question_id"]]
    assert sum(len(pages) > 1 for pages in gold.values()) >= 5
    texts = " ".join(row["question"] for row in questions)
    assert all(re.search(pattern, texts) for pattern in (r"page \d", r"slide \d", r"Figure \d", r"Table \d"))


def test_some_pages_are_pixels_only_and_ocr_is_little_work(page_texts, sample):
    blank = {name: sum(not text.strip() for text in pages) for name, pages in page_texts.items()}
    whole = [name for name, count in blank.items() if count == len(page_texts[name])]
    assert len(whole) == 2 and sum(blank.values()) == sum(blank[name] for name in whole)
    assert 10 <= sum(blank.values()) <= 25
    for name, pages in page_texts.items():
        assert name in whole or all(len(text.split()) >= 10 for text in pages)
        assert 8 <= len(pages) <= 20


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]{3,}", text.lower())


def lexical_order(question: str, pages: list[str]) -> list[int]:
    """Order pages by the summed idf of the question's words on them: a crude BM25 with its own code."""
    sets = [set(words(page)) for page in pages]
    held = Counter(word for page in sets for word in page)
    scores = [sum(np.log(1 + len(pages) / held[word]) for word in set(words(question)) & page) for page in sets]
    return sorted(range(len(pages)), key=lambda page: -scores[page])


def test_lexical_retrieval_is_neither_perfect_nor_chance(sample, questions):
    gold = read_gold(sample / "mmdocir" / "gold.csv")
    texts = source_texts(sample.parent / "sample_source")
    first, chance = [], []
    for row in questions:
        pages = {int(page) for page in gold[row["question_id"]]}
        order = lexical_order(row["question"], texts[row["doc_name"]])
        first.append(len(pages & set(order[:1])) / len(pages))
        chance.append(1 / row["num_of_pages"])
    assert np.mean(chance) < 0.1
    assert 3 * np.mean(chance) < np.mean(first) < 0.8


def source_texts(folder: Path) -> dict[str, list[str]]:
    """Page texts as written, so that the decks can be searched without OCR."""
    result = {}
    for path in folder.glob("*.txt"):
        document = read_source(path)
        result[document.name] = [
            " ".join([page.heading, *(p if isinstance(p, str) else f"{p.caption} {p.rows}" for p in page.parts)])
            for page in document.pages
        ]
    return result


def test_a_meaningless_source_line_is_named(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_text("@doc a | b | text\n=== Heading\n%table T\na | b\ntext\nc | d\n")
    with pytest.raises(ValueError, match=r"bad\.txt:6"):
        read_source(path)


def test_m2kr_tables_and_pictures_agree(sample):
    folder = sample / "m2kr"
    queries = pl.read_parquet(folder / "challenge_data" / "*.parquet")
    passages = pl.read_parquet(folder / "challenge_passage" / "*.parquet")
    assert queries.columns == [
        "question_id",
        "question",
        "instruction",
        "img_path",
        "pos_item_ids",
        "pos_item_contents",
    ]
    assert passages.columns == ["passage_id", "passage_content", "page_screenshot"]
    assert queries["question_id"].to_list() == [str(i) for i in range(queries.height)] and queries.height >= 36
    assert passages.height == 120 and passages["passage_id"].n_unique() == passages["passage_content"].n_unique() == 120
    assert set(queries["img_path"]) == {path.name for path in (folder / "query_images").iterdir()}
    assert set(passages["page_screenshot"]) == {path.name for path in (folder / "Challenge").iterdir()}
    assert {Path(name).suffix for name in queries["img_path"]} == {".jpg", ".JPEG", ".png"}
    assert queries["pos_item_ids"].list.len().sum() == 0
    gold = read_gold(folder / "gold.csv")
    assert list(gold) == queries["question_id"].to_list()
    assert {passage for ids in gold.values() for passage in ids} <= set(passages["passage_id"])
    blocks = [{passage[0] for passage in gold[question]} for question in queries["question_id"]]
    assert [min(block) for block in blocks] == sorted((min(block) for block in blocks), key="AQB".index)
    asked = queries["question"].to_list()
    assert all((blocks[i] == {"Q"}) == bool(asked[i]) for i in range(len(asked)))
    assert any(len(ids) > 1 for ids in gold.values())


def grey(path: Path, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    image = Image.open(path).convert("L")
    small = image.resize((24, 18), box=box) if box else image.resize((24, 18))
    values = np.asarray(small, dtype=np.float64).ravel()
    return (values - values.mean()) / values.std()


def test_query_pictures_show_what_the_screenshot_shows(sample):
    """The plain correlation of small grey pictures already finds most: the picture is in the gold's screenshot."""
    folder = sample / "m2kr"
    queries = pl.read_parquet(folder / "challenge_data" / "*.parquet")
    passages = pl.read_parquet(folder / "challenge_passage" / "*.parquet")
    names = passages["page_screenshot"].unique(maintain_order=True).to_list()
    boxes = [(204, 80, 460, 272), (112, 76, 368, 268)]
    shown = np.stack([[grey(folder / "Challenge" / name, box) for box in boxes] for name in names])
    of = dict(zip(passages["passage_id"], passages["page_screenshot"], strict=True))
    gold = read_gold(folder / "gold.csv")
    hits = []
    for question, name in zip(queries["question_id"], queries["img_path"], strict=True):
        scores = (shown @ grey(folder / "query_images" / name)).max(axis=1)
        hits.append(names[int(scores.argmax())] == of[gold[question][0]])
    assert np.mean(hits) > 0.5  # chance: 0.01
