"""What a score needs of the data root: questions, page counts, pool ids and gold. Small columns only, no pages.

Gold and evidence types are read here for both tasks; a task that is not under the root is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from common.errors import DataError
from common.submission.mdr import ExpectedSubmission
from common.submission.mdr_rows import parse_file
from track1_mdr.datasets.questions import read_questions
from track1_mdr.datasets.tables import Qrels

QUESTION_SCHEMA = {"question_id": pl.String, "doc_name": pl.String, "domain": pl.String, "num_of_pages": pl.Int64}
_LABEL = re.compile(r"'([^']+)'|\"([^\"]+)\"")


@dataclass(frozen=True)
class Ground:
    """Questions of both tasks (`QUESTION_SCHEMA`), their gold and evidence types, and what a file must hold."""

    questions: pl.DataFrame
    gold: Qrels
    evidence: Mapping[str, tuple[str, ...]]
    expected: ExpectedSubmission


def read_ground(root: Path) -> Ground:
    """Read the questions and gold under the data root.

    Raises
    ------
    DataError
        Neither task's questions are there, or a file is damaged.
    """
    parts: list[pl.DataFrame] = []
    gold: dict[str, tuple[str, ...]] = {}
    evidence: dict[str, tuple[str, ...]] = {}
    pages: dict[str, int] | None = None
    m2kr: list[str] | None = None
    pool: frozenset[str] | None = None
    questions_file = root / "mmdocir" / "MMDocIR_gt_remove.jsonl"
    if questions_file.is_file():
        read = read_questions(questions_file)
        table = read.select(list(QUESTION_SCHEMA))
        pages = dict(zip(table["question_id"], table["num_of_pages"], strict=True))
        annotated, evidence = read_annotations(
            root / "mmdocir" / "MMDocIR_annotations.jsonl", table, read["question"].to_list()
        )
        named = read_gold(root / "mmdocir" / "gold.csv", table)
        gold |= named or annotated
        parts.append(table)
    if any((root / "m2kr" / "challenge_data").glob("*.parquet")):
        table, positives = read_m2kr_questions(root / "m2kr" / "challenge_data")
        m2kr = table["question_id"].to_list()
        pool = read_pool(root / "m2kr" / "challenge_passage")
        answers = read_gold(root / "m2kr" / "gold.csv", table) or positives
        _refuse_unknown(answers, pool, root / "m2kr")
        gold |= answers
        parts.append(table)
    if not parts:
        raise DataError(
            "no questions under the data root",
            where=root,
            expected="mmdocir/MMDocIR_gt_remove.jsonl or m2kr/challenge_data/*.parquet",
            todo="name the data root with --data or MIRC_DATA; data/README.md says where the files come from",
        )
    return Ground(pl.concat(parts), gold, evidence, ExpectedSubmission(pages, m2kr, pool))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return one object a line; raise `DataError` naming the line that is not one."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError("not JSON", where=f"{path}, line {number}", got=str(error)) from None
            if not isinstance(row, dict):
                raise DataError("not a JSON object", where=f"{path}, line {number}", got=type(row).__name__)
            rows.append(row)
    return rows


def read_m2kr_questions(folder: Path) -> tuple[pl.DataFrame, dict[str, tuple[str, ...]]]:
    """Return the M2KR questions, their kind of query as domain, and the gold of `pos_item_ids` where it is given."""
    frame = _scan(folder, ("question_id", "question", "img_path"), ("pos_item_ids",))
    words, image = (pl.col(name).fill_null("").str.strip_chars() != "" for name in ("question", "img_path"))
    kind = (
        pl.when(words & image).then(pl.lit("image and text")).when(image).then(pl.lit("image"))
        .when(words).then(pl.lit("text")).otherwise(pl.lit(""))
    )  # fmt: skip
    table = frame.select(
        pl.col("question_id"),
        pl.lit("").alias("doc_name"),
        kind.alias("domain"),
        pl.lit(0, pl.Int64).alias("num_of_pages"),
    )
    _refuse_duplicates(table, folder)
    positives: dict[str, tuple[str, ...]] = {}
    if "pos_item_ids" in frame.columns and isinstance(frame.schema["pos_item_ids"], pl.List):
        for question, ids in frame.select("question_id", "pos_item_ids").iter_rows():
            if ids:
                positives[question] = tuple(dict.fromkeys(str(i) for i in ids))
    return table, positives


def read_pool(folder: Path) -> frozenset[str] | None:
    """Return the ids of the M2KR pool, or None where its files are absent."""
    if not any(folder.glob("*.parquet")):
        return None
    return frozenset(_scan(folder, ("passage_id",))["passage_id"].to_list())


def _scan(folder: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> pl.DataFrame:
    """Read only these columns of the folder's parquet files."""
    frames: list[pl.DataFrame] = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            schema = pl.read_parquet_schema(path)
            missing = [name for name in columns if name not in schema]
            if missing:
                raise DataError(
                    f"missing columns: {', '.join(missing)}",
                    where=path,
                    expected=", ".join(columns),
                    got=", ".join(schema),
                )
            wanted = [*columns, *(name for name in optional if name in schema)]
            frames.append(pl.read_parquet(path, columns=wanted).cast(dict.fromkeys(columns, pl.String)))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError("not a readable parquet file", where=path, got=str(error)) from None
    return pl.concat(frames, how="diagonal_relaxed")


def _refuse_unknown(gold: Qrels, pool: frozenset[str] | None, where: Path) -> None:
    for question, ids in gold.items():
        absent = [i for i in ids if pool is not None and i not in pool]
        if absent:
            raise DataError(
                "a gold passage is not in challenge_passage/", where=f"{where}, question {question}", got=absent[0]
            )


def _refuse_duplicates(table: pl.DataFrame, where: Path) -> None:
    doubled = table.filter(pl.col("question_id").is_duplicated())["question_id"].unique(maintain_order=True).to_list()
    if doubled:
        raise DataError(f"{len(doubled)} question ids are given twice", where=where, got=", ".join(doubled[:5]))


def read_annotations(
    path: Path, questions: pl.DataFrame, texts: list[str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return gold pages and evidence types from the public annotations; ({}, {}) where the file is absent.

    The annotations carry no question id and another order: they join on document and question text, and
    repeated texts of one document join in order.

    Raises
    ------
    DataError
        A line is not of the annotations' form, or names a page that the document does not have.
    """
    gold: dict[str, tuple[str, ...]] = {}
    evidence: dict[str, tuple[str, ...]] = {}
    if not path.is_file():
        return gold, evidence
    counts = dict(zip(questions["question_id"], questions["num_of_pages"], strict=True))
    waiting: dict[tuple[str, str], list[str]] = {}
    for question_id, document, text in zip(questions["question_id"], questions["doc_name"], texts, strict=True):
        waiting.setdefault((document, text), []).append(question_id)
    for number, line in enumerate(read_json_lines(path), 1):
        try:
            document = str(line["doc_name"]).removesuffix(".pdf")
            items = [(str(q["Q"]), [int(page) for page in q["page_id"]], str(q["type"])) for q in line["questions"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "not an annotation line",
                where=f"{path}, row {number}",
                expected="doc_name and questions with Q, page_id and type",
                got=f"{type(error).__name__}: {error}",
            ) from None
        for text, page_ids, types in items:
            ids = waiting.get((document, text))
            if ids:
                question_id = ids.pop(0)
                wrong = [page for page in page_ids if not 0 <= page < counts[question_id]]
                if wrong:
                    raise DataError(
                        "an annotated page is out of range",
                        where=f"{path}, question {question_id}",
                        expected=f"0 to {counts[question_id] - 1}",
                        got=wrong[0],
                    )
                if page_ids:
                    gold[question_id] = tuple(dict.fromkeys(str(page) for page in page_ids))
                evidence[question_id] = tuple(a or b for a, b in _LABEL.findall(types)) or ("not stated",)
    return gold, evidence


def read_gold(path: Path, questions: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the gold of a `gold.csv` (the submission's format, any number of ids); {} where there is none.

    Raises
    ------
    DataError
        A broken row, an unknown question, or a page that the document does not have.
    """
    if not path.is_file():
        return {}
    parsed = parse_file(path, count=None)
    pages = dict(zip(questions["question_id"], questions["num_of_pages"], strict=True))
    for row in parsed.rows:
        if row.question_id not in pages:
            parsed.fault(row.line, row.question_id, "unknown question_id: not in the question file")
        elif pages[row.question_id] and row.ids is not None:
            wrong = [i for i in row.ids if not (i.isdecimal() and int(i) < pages[row.question_id])]
            if wrong:
                last = pages[row.question_id] - 1
                parsed.fault(row.line, wrong[0], f"not a page of the document, which has pages 0 to {last}")
    if parsed.faults:
        lines = "\n".join(f"  {fault}" for fault in parsed.faults[:20])
        raise DataError(f"the gold file has {len(parsed.faults)} faults:\n{lines}", where=path)
    return {row.question_id: tuple(dict.fromkeys(row.ids)) for row in parsed.rows if row.ids}
