"""The questions of MMDocIR, checked field by field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from common.errors import DataError
from track1_mdr.datasets.tables import QUERY_SCHEMA

QUESTION_FIELDS: dict[str, type] = {
    "question_id": str,
    "question": str,
    "doc_name": str,
    "domain": str,
    "num_of_pages": int,
}


def read_questions(path: Path) -> pl.DataFrame:
    """Read MMDocIR_gt_remove.jsonl into `QUERY_SCHEMA`, in the order of the file.

    Raises
    ------
    DataError
        No such file, bad JSON, a missing or renamed field (the nearest name is shown), a wrong type, an empty
        value, a repeated question_id, or a document with two page counts; the message has file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the questions cannot be read", where=path, got=str(error), todo="see data/README.md") from None
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    counts: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parse(line, where)
        first = seen.setdefault(row["question_id"], number)
        if first != number:
            raise DataError(
                "a question_id is used twice", where=where, got=f"{row['question_id']}, also on line {first}"
            )
        pages, at = counts.setdefault(row["doc_name"], (row["num_of_pages"], number))
        if pages != row["num_of_pages"]:
            raise DataError(
                f"document {row['doc_name']!r} has two page counts",
                where=where,
                expected=f"num_of_pages {pages}, as on line {at}",
                got=row["num_of_pages"],
            )
        rows.append({**row, "instruction": "", "image_name": None})
    if not rows:
        raise DataError("the file has no questions", where=path)
    return pl.DataFrame([{name: row[name] for name in QUERY_SCHEMA} for row in rows], schema=QUERY_SCHEMA)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise DataError("the line is not JSON", where=where, got=str(error)) from None
    if not isinstance(body, dict):
        raise DataError("the line is not a JSON object", where=where, got=type(body).__name__)
    require(list(body), list(QUESTION_FIELDS), where)
    for name, kind in QUESTION_FIELDS.items():
        value = body[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{name} has the wrong type", where=where, expected=kind.__name__, got=repr(value)[:80])
        if (value.strip() == "") if isinstance(value, str) else value < 1:
            raise DataError(f"{name} is empty", where=where, expected="a value", got=repr(value))
    return {name: body[name] for name in QUESTION_FIELDS}


def require(names: Sequence[str], wanted: Sequence[str], where: object) -> None:
    """Raise `DataError` naming the first absent field or column and the nearest one that is there."""
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, [other for other in names if other not in wanted], n=1, cutoff=0.5)
            raise DataError(
                f"{name!r} is missing",
                where=where,
                expected=", ".join(wanted),
                got=", ".join(names),
                todo=f"rename {near[0]!r} to {name!r}" if near else "download the file again",
            )
