"""M2KR (Task 2): the challenge's parquet files and image folders become the typed tables.

The folder `m2kr` holds::

    challenge_data/*.parquet      question_id, question, instruction, img_path, pos_item_ids (may be empty)
    challenge_passage/*.parquet   passage_id, passage_content, page_screenshot
    query_images/                 the query images
    Challenge/                    the page screenshots
    gold.csv                      question_id, passage_id (a JSON list), where the gold is known

An image that is missing is recorded as a fault, and its row goes on without one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from common.errors import ConfigError, DataError
from common.faults import FaultLog
from track1_mdr.config import DataConfig
from track1_mdr.datasets.image_folder import FolderImages, ImageFolder
from track1_mdr.datasets.tables import (
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    Candidates,
    Passages,
    Qrels,
    Queries,
    TaskTables,
)
from track1_mdr.gold import read_gold

QUERY_COLUMNS = ("question_id", "question", "instruction", "img_path")
PASSAGE_COLUMNS = ("passage_id", "passage_content", "page_screenshot")
OFFICIAL_QUERIES = 6415
# (first id, last id, prefix of the passage ids): persons (KVQA), image and text questions, documents (WIT).
# Source: the 1st place's code, and counts of the official files.
BLOCKS = ((0, 1399, "A"), (1400, 4414, "Q"), (4415, 6414, "B"))
_TODO = "download the challenge's M2KR data again (README, section Data)"


def load_m2kr(root: Path, data: DataConfig, faults: FaultLog) -> TaskTables:
    """Read and check the M2KR folder.

    Parameters
    ----------
    root
        The `m2kr` folder.
    data
        `m2kr_restrict`: "block_prefix" leaves each query only the passages whose id starts with its block's
        letter. It is the 1st place's shortcut: it uses how the test set was put together, not what the
        images show, so it is off by default and refused on any other set.
    faults
        Where missing images are recorded, by name.

    Raises
    ------
    DataError
        A file or column is missing, or an id is empty, doubled or unknown; an image name is ambiguous.
    ConfigError
        `block_prefix` on a set that is not the official one.
    """
    raw_queries = _read_folder(root / "challenge_data", QUERY_COLUMNS, optional=("pos_item_ids",), key="question_id")
    raw_passages = _read_folder(root / "challenge_passage", PASSAGE_COLUMNS, optional=(), key="passage_id")
    notes: list[str] = []
    query_images = _images(root / "query_images", raw_queries["img_path"], "query image", faults, notes)
    screenshots = _images(root / "Challenge", raw_passages["page_screenshot"], "screenshot", faults, notes)
    queries = Queries(_query_table(raw_queries, query_images), query_images)
    passages = Passages(_passage_table(raw_passages, screenshots), screenshots)
    _check_answerable(queries, faults)
    silent = int((passages.table["text"].str.strip_chars() == "").sum())
    if silent:
        notes.append(f"m2kr: {silent} passages have no text")
    candidates = Candidates.everything(len(queries), len(passages))
    if data.m2kr_restrict == "block_prefix":
        candidates = restrict_by_block(
            queries.table["question_id"].to_list(), passages.table["passage_id"].to_list(), root
        )
        notes.append("m2kr: candidates are restricted by query block and passage id prefix (m2kr_restrict)")
    qrels = _qrels(root, raw_queries, queries.table, passages.table["passage_id"])
    return TaskTables("m2kr", passages, queries, candidates, qrels, tuple(notes))


def restrict_by_block(question_ids: Sequence[str], passage_ids: Sequence[str], where: Path) -> Candidates:
    """Return candidates by query block and passage id prefix; raise `ConfigError` on any other question set."""
    if len(question_ids) != OFFICIAL_QUERIES or set(question_ids) != {str(i) for i in range(OFFICIAL_QUERIES)}:
        raise ConfigError(
            "m2kr_restrict: block_prefix is only valid on the official question set, whose row blocks it relies on",
            where=where / "challenge_data",
            expected=f"question ids 0 to {OFFICIAL_QUERIES - 1}",
            got=f"{len(question_ids)} questions",
            todo="--set data.m2kr_restrict=none",
        )
    by_prefix = {
        prefix: np.asarray([row for row, name in enumerate(passage_ids) if name.startswith(prefix)], dtype=np.int64)
        for _, _, prefix in BLOCKS
    }
    absent = [prefix for prefix, rows in by_prefix.items() if len(rows) == 0]
    if absent:
        raise ConfigError(
            f"m2kr_restrict: block_prefix finds no passage id that starts with {', '.join(absent)}",
            where=where / "challenge_passage",
            todo="--set data.m2kr_restrict=none",
        )
    numbers = [int(question) for question in question_ids]
    prefixes = [next(p for first, last, p in BLOCKS if first <= number <= last) for number in numbers]
    return Candidates(tuple(by_prefix[prefix] for prefix in prefixes))


def _read_folder(folder: Path, required: Sequence[str], optional: Sequence[str], key: str) -> pl.DataFrame:
    """Read the needed columns of all parquet files of a folder, in the order of their names."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError("no parquet file", where=folder, expected="*.parquet", todo=_TODO)
    table = pl.concat([_read_file(file, required, optional) for file in files], how="diagonal_relaxed")
    ids = table[key]
    empty = table.with_row_index().filter(ids.is_null() | (ids.str.strip_chars() == ""))
    if empty.height:
        raise DataError(f"{empty.height} rows have no {key}", where=f"{folder}, row {empty['index'][0]}", todo=_TODO)
    doubled = ids.filter(ids.is_duplicated()).unique(maintain_order=True).to_list()
    if doubled:
        raise DataError(
            f"{len(doubled)} values of {key} occur more than once",
            where=folder,
            got=", ".join(doubled[:5]),
            todo="remove the repeated rows or files",
        )
    if table.height == 0:
        raise DataError("the table has no rows", where=folder, todo=_TODO)
    return table


def _read_file(file: Path, required: Sequence[str], optional: Sequence[str]) -> pl.DataFrame:
    try:
        schema = pl.read_parquet_schema(file)
        missing = [name for name in required if name not in schema]
        if missing:
            strangers = [name for name in schema if name not in (*required, *optional)]
            near = {name: difflib.get_close_matches(name, strangers, n=1) for name in missing}
            hints = [f"{name} (nearest: {near[name][0]})" if near[name] else name for name in missing]
            raise DataError(
                f"missing columns: {', '.join(hints)}",
                where=file,
                expected=", ".join(required),
                got=", ".join(schema),
                todo="rename the columns, or use the challenge's file",
            )
        columns = [*required, *(name for name in optional if name in schema)]
        table = pl.read_parquet(file, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("not a readable parquet file", where=file, got=str(error), todo=_TODO) from None
    for name in required:
        if table.schema[name] not in (pl.String, pl.Null):
            raise DataError(
                f"column {name} has the wrong type",
                where=file,
                expected="string",
                got=str(table.schema[name]),
                todo="cast the column to string, or use the challenge's file",
            )
    return table.with_columns(pl.col(name).cast(pl.String) for name in required)


def _images(folder: Path, names: pl.Series, what: str, faults: FaultLog, notes: list[str]) -> FolderImages:
    """Resolve the names of a column in a folder; a missing image is a fault, an absent folder a note."""
    if not folder.is_dir():
        notes.append(f"m2kr: no folder {folder.name}/, so no {what} is used")
        return FolderImages.empty(len(names))
    index = ImageFolder(folder)
    found: list[Path | None] = []
    for name in names:
        try:
            found.append(index.find(name) if name and name.strip() else None)
        except DataError as error:
            if "missing" not in error.what and "outside" not in error.what:
                raise
            faults.add(f"m2kr {what}", name, error.what)
            found.append(None)
    kept = [name if path is not None else None for name, path in zip(names, found, strict=True)]
    return FolderImages(tuple(kept), tuple(found))


def _query_table(raw: pl.DataFrame, images: FolderImages) -> pl.DataFrame:
    kinds = [
        {(True, True): "image and text", (True, False): "image", (False, True): "text"}.get(
            (bool(path and path.strip()), bool(question and question.strip())), ""
        )
        for path, question in zip(raw["img_path"], raw["question"], strict=True)
    ]
    return pl.DataFrame(
        {
            "question_id": raw["question_id"],
            "question": raw["question"].fill_null(""),
            "instruction": raw["instruction"].fill_null(""),
            "doc_name": [""] * raw.height,
            "domain": kinds,
            "num_of_pages": [0] * raw.height,
            "image_name": list(images.names),
        },
        schema=QUERY_SCHEMA,
    )


def _passage_table(raw: pl.DataFrame, images: FolderImages) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "passage_id": raw["passage_id"],
            "doc_name": [""] * raw.height,
            "text": raw["passage_content"].fill_null(""),
            "image_name": list(images.names),
        },
        schema=PASSAGE_SCHEMA,
    )


def _check_answerable(queries: Queries, faults: FaultLog) -> None:
    """Record the queries that name neither an image nor a question."""
    for question_id in queries.table.filter(pl.col("domain") == "")["question_id"]:
        faults.add("m2kr query", question_id, "neither a question nor an image")


def _qrels(root: Path, raw: pl.DataFrame, queries: pl.DataFrame, passage_ids: pl.Series) -> Qrels:
    """Return the gold of `gold.csv` where there is one, else of the non-empty `pos_item_ids`."""
    path = root / "gold.csv"
    where = path if path.is_file() else root / "challenge_data"
    qrels = read_gold(path, queries) if path.is_file() else _positives(raw, where)
    have = set(passage_ids)
    for question, gold in qrels.items():
        absent = [passage for passage in gold if passage not in have]
        if absent:
            raise DataError(
                "a gold passage is not in challenge_passage/",
                where=f"{where}, question {question}",
                got=", ".join(absent[:5]),
                todo="check the gold against the passages",
            )
    return qrels


def _positives(raw: pl.DataFrame, where: Path) -> Mapping[str, tuple[str, ...]]:
    if "pos_item_ids" not in raw.columns:
        return {}
    column = raw["pos_item_ids"]
    if not isinstance(column.dtype, pl.List):
        if column.null_count() == len(column):
            return {}
        raise DataError("column pos_item_ids has the wrong type", where=where, expected="list", got=str(column.dtype))
    return {
        question: tuple(dict.fromkeys(str(item) for item in items))
        for question, items in zip(raw["question_id"], column.to_list(), strict=True)
        if items
    }
