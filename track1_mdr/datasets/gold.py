"""Gold pages and evidence types of MMDocIR: gold.csv, and the benchmark's annotations."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from common.errors import DataError

GOLD_COLUMNS = ["question_id", "passage_id"]


@dataclass(frozen=True)
class Annotation:
    """One annotated question: gold pages (from 0) and evidence types such as "Chart" or "Pure-text"."""

    doc_name: str
    question: str
    pages: tuple[int, ...]
    types: tuple[str, ...]
    question_id: str | None
    where: str


def read_gold(path: Path, queries: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Read gold.csv (question_id, passage_id as a JSON list of strings) and check it against the questions.

    Raises
    ------
    DataError
        Wrong header, bad JSON, an unknown or repeated question, a page that is repeated or out of range; the
        message has file and line.
    """
    pages = dict(zip(queries["question_id"], queries["num_of_pages"], strict=True))
    gold: dict[str, tuple[str, ...]] = {}
    for line, row in _csv_rows(path):
        where = f"{path}, line {line}"
        question = row[0]
        if question not in pages:
            raise DataError("the gold names an unknown question", where=where, got=question)
        if question in gold:
            raise DataError("the gold names a question twice", where=where, got=question)
        gold[question] = _passages(row[1], pages[question], where)
    return gold


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != GOLD_COLUMNS:
                raise DataError("wrong header", where=path, expected=",".join(GOLD_COLUMNS), got=",".join(header))
            for row in reader:
                if len(row) != 2:
                    raise DataError(
                        "wrong number of cells", where=f"{path}, line {reader.line_num}", expected=2, got=len(row)
                    )
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError("the file is not valid CSV in UTF-8", where=path, got=str(error)) from None


def _passages(text: str, pages: int, where: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(page, str) for page in found):
        raise DataError("not a JSON list of strings", where=where, expected='["4", "18"]', got=text[:80])
    for page in found:
        if not page.isascii() or not page.isdigit() or str(int(page)) != page or int(page) >= pages:
            raise DataError("a gold page is out of range", where=where, expected=f'"0" to "{pages - 1}"', got=page)
    if len(set(found)) != len(found):
        raise DataError("a gold page is named twice", where=where, got=text[:80])
    return tuple(found)


def read_annotations(path: Path) -> list[Annotation]:
    """Read MMDocIR_annotations.jsonl (evaluation or training): one document a line, with its questions."""
    found: list[Annotation] = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        try:
            body = json.loads(line)
            name = str(body["doc_name"]).removesuffix(".pdf")
            for item in body["questions"]:
                pages = tuple(int(page) for page in item["page_id"])
                known = item.get("question_id")
                types = _types(item.get("type", "[]"))
                found.append(Annotation(name, item["Q"], pages, types, None if known is None else str(known), where))
        except (ValueError, SyntaxError, KeyError, TypeError) as error:
            raise DataError(
                "not an annotation",
                where=where,
                expected="doc_name and questions with Q, page_id and type",
                got=f"{type(error).__name__}: {error}",
            ) from None
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the annotations cannot be read", where=path, got=str(error)) from None


def _types(value: Any) -> tuple[str, ...]:
    """Read "['Chart', 'Table']", a list written as Python would print it, or a plain list."""
    names = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"type {value!r} is not a list of names")
    return tuple(names)


def join_annotations(annotations: list[Annotation], queries: pl.DataFrame) -> dict[str, Annotation]:
    """Return question_id -> annotation: by document and question text; repeated texts in their order.

    The annotations of the benchmark carry no question ids, and one document repeats questions.
    """
    waiting: dict[tuple[str, str], list[Annotation]] = {}
    for item in annotations:
        waiting.setdefault((item.doc_name, item.question), []).append(item)
    joined: dict[str, Annotation] = {}
    rows = queries.select("question_id", "doc_name", "question").iter_rows()
    for question_id, doc_name, question in rows:
        found = waiting.get((doc_name.removesuffix(".pdf"), question))
        if found:
            joined[question_id] = found.pop(0)
    return joined


def gold_from_annotations(path: Path, queries: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return question_id -> gold pages from the annotations; a page out of range is an error."""
    joined = join_annotations(read_annotations(path), queries)
    pages = dict(zip(queries["question_id"], queries["num_of_pages"], strict=True))
    gold: dict[str, tuple[str, ...]] = {}
    for question, item in joined.items():
        text = json.dumps([str(page) for page in item.pages])
        gold[question] = _passages(text, pages[question], f"{item.where}, question {item.question[:60]!r}")
    return gold


def read_evidence_types(
    path: Path, queries: pl.DataFrame | None = None
) -> Mapping[str | tuple[str, str], tuple[str, ...]]:
    """Return the evidence types of each annotated question.

    Parameters
    ----------
    path
        MMDocIR_annotations.jsonl.
    queries
        The questions (question_id, doc_name, question). Given: keys are question ids. None: keys are question
        ids where the file has them, else (doc_name without .pdf, question); the first of a repeated text counts.
    """
    annotations = read_annotations(path)
    if queries is not None:
        return {question: item.types for question, item in join_annotations(annotations, queries).items()}
    found: dict[str | tuple[str, str], tuple[str, ...]] = {}
    for item in annotations:
        found.setdefault(item.question_id or (item.doc_name, item.question), item.types)
    return found
