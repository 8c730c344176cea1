"""Small task tables of text for route tests."""

from __future__ import annotations

import polars as pl

from track1_mdr.datasets.tables import PASSAGE_SCHEMA, QUERY_SCHEMA, Candidates, NoImages, Passages, Queries

PAGES = [
    ("d", "The cat sat on the mat and purred while the dog slept."),
    ("d", "Quarterly revenue of the bank grew by ten percent, driven by loans. " * 3),
    ("d", ""),
    ("d", "Solar panels on the roof produce electricity from sunlight."),
    ("e", "A recipe: bread needs flour, water, salt and yeast. Bake the loaf for an hour."),
    ("e", "Paris is the capital of France."),
]
QUESTIONS = [
    ("how much did the income of the bank increase?", "d", 1),
    ("renewable energy on a building", "d", 3),
    ("baking a loaf", "e", 4),
    ("which city is the seat of the French government?", "e", 5),
]


def make_passages(pages: list[tuple[str, str]] = PAGES) -> Passages:
    seen: dict[str, int] = {}
    rows = []
    for document, text in pages:
        number = seen[document] = seen.get(document, -1) + 1
        rows.append({"passage_id": str(number), "doc_name": document, "text": text, "image_name": None})
    return Passages(pl.DataFrame(rows, schema=PASSAGE_SCHEMA), NoImages(len(rows)))


def make_queries(questions: list[tuple[str, str]]) -> Queries:
    rows = [
        {
            "question_id": f"q{i}",
            "question": text,
            "instruction": "",
            "doc_name": document,
            "domain": "",
            "num_of_pages": 0,
            "image_name": None,
        }
        for i, (text, document) in enumerate(questions)
    ]
    return Queries(pl.DataFrame(rows, schema=QUERY_SCHEMA), NoImages(len(rows)))


def planted() -> tuple[Passages, Queries, Candidates, list[int]]:
    """Return passages, queries, candidates by document, and the row of each query's answer."""
    passages = make_passages()
    queries = make_queries([(text, document) for text, document, _ in QUESTIONS])
    candidates = Candidates.by_document(queries.table["doc_name"].to_list(), passages.table["doc_name"].to_list())
    return passages, queries, candidates, [gold for _, _, gold in QUESTIONS]
