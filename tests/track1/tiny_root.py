"""A small data root on disk: an official page table, questions and gold."""

import json
from pathlib import Path

import polars as pl

DOCUMENTS: dict[str, list[str]] = {
    "ferry": [
        "The ferry company sails four boats between the islands.",
        "Revenue from tickets rose to 12 million crowns in 2021.",
        "Captain Lindqvist retired after forty years at sea.",
        "Table 1: passengers by month\nJanuary 300 February 420",
        "The new terminal has a roof of solar panels.",
        "Contact the harbour office for lost luggage.",
    ],
    "bees": [
        "Wild bees nest in dry stone walls.",
        "",
        "Lavender and clover feed most of the colonies.",
    ],
}
QUESTIONS = [
    ("10000", "How much revenue came from tickets?", "ferry", "1"),
    ("10001", "Who retired after forty years?", "ferry", "2"),
    ("10002", "Which plants feed the colonies?", "bees", "2"),
    ("10003", "???", "bees", "0"),
    ("10004", "What does the page 4 show?", "ferry", "3"),
]


def write_pages(folder: Path, documents: dict[str, list[str]] = DOCUMENTS) -> None:
    rows = [
        {"doc_name": name, "domain": "d", "passage_id": str(page), "ocr_text": text, "vlm_text": ""}
        for name, pages in documents.items()
        for page, text in enumerate(pages)
    ]
    pl.DataFrame(rows).write_parquet(folder / "MMDocIR_doc_passages.parquet")


def write_questions(folder: Path, questions: list[tuple[str, str, str, str]], counts: dict[str, int]) -> None:
    lines = [
        {"question_id": i, "question": text, "doc_name": name, "domain": f"about {name}", "num_of_pages": counts[name]}
        for i, text, name, _ in questions
    ]
    (folder / "MMDocIR_gt_remove.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_gold(folder: Path, questions: list[tuple[str, str, str, str]]) -> None:
    rows = "".join(f'{i},"[""{page}""]"\n' for i, _, _, page in questions)
    (folder / "gold.csv").write_text("question_id,passage_id\n" + rows)


def tiny_root(root: Path, gold: bool = True) -> Path:
    """Write `mmdocir` under `root`, which is returned."""
    folder = root / "mmdocir"
    folder.mkdir(parents=True)
    write_pages(folder)
    write_questions(folder, QUESTIONS, {name: len(pages) for name, pages in DOCUMENTS.items()})
    if gold:
        write_gold(folder, QUESTIONS)
    return root
