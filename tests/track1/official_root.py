"""A data root with the official 8,073 questions on a handful of short documents and passages."""

import io
import json
from pathlib import Path

import polars as pl

from common.metrics.retrieval import TASK_IDS

DOCUMENTS = 6
PAGES = 12
PASSAGES = 60
PAGE_FILE, QUESTION_FILE = "MMDocIR_doc_passages.parquet", "MMDocIR_gt_remove.jsonl"
QUERY_FILE = "challenge_data/train-00000-of-00001.parquet"
PASSAGE_FILE = "challenge_passage/train-00000-of-00001.parquet"


def word(number: int) -> str:
    """Return a word of a number: no two numbers share one."""
    return "".join("bcdfghklmn"[int(digit)] + "aeiou"[int(digit) % 5] for digit in f"{number:04d}")


def page_of(question: int) -> tuple[int, int]:
    """Return the document and page that hold the answer."""
    return question % DOCUMENTS, question // DOCUMENTS % PAGES


def asked_about(question: int) -> str:
    """Return the word that a question names: of its page, and for every seventh question of another one."""
    doc, page = page_of(question)
    return word(doc * 100 + (page + (question % 7 == 3)) % PAGES)


def official_files() -> dict[str, bytes]:
    """Return the competition's files, as Kaggle would list them: each question names a word."""
    pages = [
        {
            "doc_name": f"doc{doc}",
            "domain": "Guidebook",
            "passage_id": str(page),
            "ocr_text": f"Page about {word(doc * 100 + page)} and the ferry.",
            "vlm_text": "",
        }
        for doc in range(DOCUMENTS)
        for page in range(PAGES)
    ]
    questions = []
    for question in TASK_IDS["mmdocir"]:
        questions.append(
            {
                "question_id": str(question),
                "question": f"Where is {asked_about(question)} told?",
                "doc_name": f"doc{page_of(question)[0]}",
                "domain": "Guidebook",
                "num_of_pages": PAGES,
                "passage_id": [],
            }
        )
    queries = pl.DataFrame(
        {
            "question_id": [str(i) for i in TASK_IDS["m2kr"]],
            "question": [f"Which is {word(5000 + (i + (i % 3 == 1)) % PASSAGES)}?" for i in TASK_IDS["m2kr"]],
            "instruction": ["Answer."] * len(TASK_IDS["m2kr"]),
            "img_path": [""] * len(TASK_IDS["m2kr"]),
        }
    )
    passages = pl.DataFrame(
        {
            "passage_id": [f"Q{i}" for i in range(PASSAGES)],
            "passage_content": [f"The {word(5000 + i)} is a kind of bird." for i in range(PASSAGES)],
            "page_screenshot": [""] * PASSAGES,
        }
    )
    return {
        QUESTION_FILE: "".join(json.dumps(row) + "\n" for row in questions).encode(),
        PAGE_FILE: parquet(pl.DataFrame(pages)),
        QUERY_FILE: parquet(queries),
        PASSAGE_FILE: parquet(passages),
    }


def annotations() -> bytes:
    """Return the public gold of MMDocIR, a line for each document."""
    rows = []
    for doc in range(DOCUMENTS):
        asked = [q for q in TASK_IDS["mmdocir"] if page_of(q)[0] == doc]
        rows.append(
            {
                "doc_name": f"doc{doc}.pdf",
                "domain": "Guidebook",
                "page_indices": [doc * PAGES, doc * PAGES + PAGES - 1],
                "questions": [
                    {
                        "Q": f"Where is {asked_about(question)} told?",
                        "A": "there",
                        "type": "['Text']",
                        "page_id": [page_of(question)[1]],
                        "layout_mapping": [],
                    }
                    for question in asked
                ],
            }
        )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of a parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def rankings() -> dict[str, list[str]]:
    """Return a perfect ranking of all 8,073 questions."""
    found: dict[str, list[str]] = {}
    for i in TASK_IDS["m2kr"]:
        first = i % PASSAGES
        found[str(i)] = [f"Q{(first + step) % PASSAGES}" for step in range(5)]
    for question in TASK_IDS["mmdocir"]:
        found[str(question)] = [str((page_of(question)[1] + step) % PAGES) for step in range(5)]
    return found


def official_root(root: Path) -> Path:
    """Write the data root, with MMDocIR's public gold, and return it."""
    for name, data in official_files().items():
        path = root / ("m2kr" if name.startswith("challenge") else "mmdocir") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "mmdocir" / "MMDocIR_annotations.jsonl").write_bytes(annotations())
    return root
