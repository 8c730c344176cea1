"""Reading the text of a Track 2 `prediction.csv`: bytes to columns, each fault with its line, value and rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from common.submission.report import NULLS, Faults

ID = "ID"
TASK_COLUMNS = ("Task1", "Task2", "Task1&2")
HEADER_RULE = f"the header must be {ID} and one or more of {', '.join(TASK_COLUMNS)}, e.g. ID,Task2"
_WHOLE = r"^(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?$"
_INFINITE = frozenset(["inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"])


@dataclass
class ParsedPredictions(Faults):
    """The rows of a file and the faults that show without knowing the test set.

    Attributes
    ----------
    lines
        int64 [R]: line of each row, from 1 (the header's).
    ids
        int64 [R]; -1 where the cell is no id.
    columns
        Task column -> float64 [R]; NaN where the cell is no probability.
    """

    lines: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    columns: dict[str, np.ndarray] = field(default_factory=dict)


def parse_csv(data: bytes) -> ParsedPredictions:
    """Parse the bytes of a `prediction.csv` and check all that it alone can show. LF, CRLF and CR are read alike."""
    parsed = ParsedPredictions()
    text = parsed.decode(data)
    if text is None:
        return parsed
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        parsed.fault(None, "", f"the file is empty; {HEADER_RULE}")
        return parsed
    header = [_bare(cell) for cell in lines[0].split(",")]
    if _header(header, lines[0], parsed):
        _body(lines, header, parsed)
    return parsed


def _bare(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _header(header: Sequence[str], line: str, parsed: ParsedPredictions) -> bool:
    """Check the header; return whether the rows can be read under it."""
    faults = []
    if header[0] != ID:
        faults.append(f"the first column must be {ID}")
    unknown = [name for name in header if name not in (ID, *TASK_COLUMNS)]
    if unknown:
        faults.append(f"unknown columns: {', '.join(repr(name) for name in unknown)}")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        faults.append(f"columns given twice: {', '.join(repeated)}")
    if not set(header) & set(TASK_COLUMNS):
        faults.append("no task column")
    for fault in faults:
        parsed.fault(1, line, f"{fault}; {HEADER_RULE}")
    return header.count(ID) == 1 and not repeated


def _body(lines: Sequence[str], header: Sequence[str], parsed: ParsedPredictions) -> None:
    width = len(header)
    table = pl.DataFrame({"text": pl.Series(lines[1:], dtype=pl.String)}).with_row_index("line", offset=2)
    table = table.with_columns(pl.col("line").cast(pl.Int64))
    cells = pl.col("text").str.count_matches(",", literal=True) + 1
    empty = pl.col("text") == ""
    for line, text, count in table.with_columns(n=cells).filter((pl.col("n") != width) | empty).iter_rows():
        rule = "empty line" if not text else f"a row has {width} cells, as the header has, not {count}"
        parsed.fault(line, text, rule)
    names = [f"c{place}" for place in range(width)]
    table = table.filter((cells == width) & ~empty)
    split = pl.col("text").str.split_exact(",", width - 1).struct.rename_fields(names)
    table = table.select("line", split).unnest("text")
    table = table.with_columns(pl.col(names).str.replace(r'^"([^"]*)"$', "$1"))
    parsed.lines = table["line"].to_numpy()
    parsed.ids = _ids(table, names[header.index(ID)], parsed)
    for name, place in zip(header, names, strict=True):
        if name in TASK_COLUMNS:
            parsed.columns[name] = _probabilities(table, place, name, parsed)


def _ids(table: pl.DataFrame, place: str, parsed: ParsedPredictions) -> np.ndarray:
    good = pl.col(place).str.contains(_WHOLE)
    for line, text in table.filter(~good).select("line", place).iter_rows():
        missing = "ID is empty or reads as a missing value; " if text in NULLS else ""
        parsed.fault(line, text, f"{missing}an ID is a whole number without sign, point, space or leading zero")
    ids = pl.when(good).then(pl.col(place)).otherwise(pl.lit("-1")).cast(pl.Int64)
    return table.select(ids).to_series().to_numpy()


def _probabilities(table: pl.DataFrame, place: str, name: str, parsed: ParsedPredictions) -> np.ndarray:
    number = pl.when(pl.col(place).str.contains(_NUMBER)).then(pl.col(place)).cast(pl.Float64, strict=False)
    table = table.select("line", pl.col(place).alias("text"), number.alias("value"))
    wrong = ~pl.col("value").is_between(0, 1).fill_null(False)
    for line, text, value in table.filter(wrong).iter_rows():
        if value is not None:
            rule = "outside 0 to 1: write probabilities, not logits"
        elif text.strip() in NULLS:
            rule = "empty or reads as a missing value"
        else:
            rule = "infinite" if text.strip().lower() in _INFINITE else "not a number"
        parsed.fault(line, text, f"{name} is {rule}; it must be a number from 0 to 1")
    value = pl.when(~wrong).then(pl.col("value")).otherwise(float("nan"))
    return table.select(value.alias("value")).to_series().to_numpy()
