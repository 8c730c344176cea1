"""The sample's M2KR half: 120 passages with drawn screenshots, and queries of the three blocks with gold."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.sample_facts import people, places
from data.sample_pictures import draw_picture, draw_screenshot, vary
from data.sample_things import SUBJECTS

ABOUT_PERSON = "Provide a brief description of the person in the image."
ABOUT_BOTH = "Using the provided image, obtain documents that address the subsequent question: "
ABOUT_DOCUMENT = "Identify the document that is connected to this image."
SUFFIXES = (".jpg", ".JPEG", ".jpg", ".png")


@dataclass(frozen=True)
class Passage:
    """A passage: its screenshot shows `picture` (kind, seed) and may be shared by a subject's passages."""

    passage_id: str
    title: str
    text: str
    screenshot: str
    picture: tuple[str, int]


@dataclass(frozen=True)
class Query:
    """A query, the picture it shows, and its gold passages."""

    question: str
    instruction: str
    picture: tuple[str, int]
    gold: tuple[str, ...]


def build() -> tuple[list[Passage], list[Query]]:
    """Return the passages (blocks A, Q, B of 40 each) and the queries (13 to 15 of each block, in that order)."""
    passages: list[Passage] = []
    queries: list[Query] = []
    for i, (name, text) in enumerate(people(40)):
        passages.append(Passage(f"A{1000 + 7 * i}", name, text, f"person_{i:03}.jpg", ("face", i)))
    queries += [Query("", ABOUT_PERSON, p.picture, (p.passage_id,)) for p in passages[1:40:3]]
    for i, subject in enumerate(SUBJECTS):
        ids = [f"Q{2000 + 10 * i + aspect}" for aspect in range(2)]
        for passage_id, text in zip(ids, subject.texts, strict=True):
            passages.append(
                Passage(passage_id, subject.name, f"{subject.name}. {text}", f"thing_{i:03}.jpg", (subject.kind, i))
            )
        for question, gold in subject.questions:
            queries.append(Query(question, ABOUT_BOTH, (subject.kind, i), tuple(ids[aspect] for aspect in gold)))
    for i, (name, kind, text) in enumerate(places(40)):
        passages.append(Passage(f"B{3000 + 3 * i}", name, text, f"place_{i:03}.jpg", (kind, 100 + i)))
    queries += [Query("", ABOUT_DOCUMENT, p.picture, (p.passage_id,)) for p in passages[82:120:3]]
    return passages, queries


def write_m2kr(folder: Path) -> None:
    """Write the parquet files, the pictures, the screenshots and gold.csv under `folder`."""
    passages, queries = build()
    for name in ("challenge_data", "challenge_passage", "query_images", "Challenge"):
        (folder / name).mkdir(parents=True)
    for row, passage in enumerate(passages):
        path = folder / "Challenge" / passage.screenshot
        if not path.exists():
            draw_screenshot(passage.title, passage.text, draw_picture(*passage.picture), row // 2).save(
                path, quality=58
            )
    names = [f"query_{row:03}{SUFFIXES[row % len(SUFFIXES)]}" for row in range(len(queries))]
    for row, (query, name) in enumerate(zip(queries, names, strict=True)):
        image = vary(draw_picture(*query.picture), row)
        if name.endswith(".png"):
            image.quantize(32).save(folder / "query_images" / name)
        else:
            image.save(folder / "query_images" / name, "JPEG", quality=65)
    _write_tables(folder, passages, queries, names)


def _write_tables(folder: Path, passages: Sequence[Passage], queries: Sequence[Query], names: Sequence[str]) -> None:
    empty: list[list[str]] = [[] for _ in queries]
    strings = pa.list_(pa.string())
    questions = pa.table(
        {
            "question_id": [str(row) for row in range(len(queries))],
            "question": [query.question for query in queries],
            "instruction": [query.instruction for query in queries],
            "img_path": list(names),
            "pos_item_ids": pa.array(empty, strings),
            "pos_item_contents": pa.array(empty, strings),
        }
    )
    pool = pa.table(
        {
            "passage_id": [passage.passage_id for passage in passages],
            "passage_content": [passage.text for passage in passages],
            "page_screenshot": [passage.screenshot for passage in passages],
        }
    )
    for name, table in (("challenge_data", questions), ("challenge_passage", pool)):
        pq.write_table(table, folder / name / "train-00000-of-00001.parquet", compression="NONE")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["question_id", "passage_id"])
    writer.writerows((row, json.dumps(list(query.gold))) for row, query in enumerate(queries))
    (folder / "gold.csv").write_text(buffer.getvalue(), encoding="utf-8")
