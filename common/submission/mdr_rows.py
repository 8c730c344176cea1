"""Reading the text of a Track 1 file: bytes to rows, each fault with its CSV line, value and rule."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import DataError
from common.submission.report import NULLS, Faults

HEADER = ("question_id", "passage_id")
IDS_PER_ROW = 5
_ROW_RULE = f'passage_id is a JSON list of {IDS_PER_ROW} strings in double quotes, e.g. ["4", "18", "19", "2", "7"]'


@dataclass(frozen=True)
class Row:
    """One data row: the CSV line it starts on, its question id, and its ids (None where they are at fault)."""

    line: int
    question_id: str
    ids: tuple[str, ...] | None


@dataclass
class ParsedFile(Faults):
    """The rows of a file and the faults that show without knowing the questions."""

    rows: list[Row] = field(default_factory=list)


def parse_file(path: Path, count: int | None = IDS_PER_ROW) -> ParsedFile:
    """Read `path`, a file `question_id,passage_id`, and check all that one row alone can show.

    Parameters
    ----------
    path
        The CSV file. LF, CRLF and CR line ends are read alike.
    count
        Ids a row must hold; None allows any number from 1 (gold files).

    Raises
    ------
    DataError
        There is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            "the file cannot be read", where=path, got=error.strerror, todo="check the path of the submission file"
        ) from None
    parsed = ParsedFile()
    text = parsed.decode(data)
    if text is not None:
        _parse_text(text, count, parsed)
    return parsed


def _parse_text(text: str, count: int | None, parsed: ParsedFile) -> None:
    # newline="" makes StringIO end lines at LF, CRLF and CR, as the csv module asks for.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    seen: dict[str, int] = {}
    columns: tuple[int, int] | None = None
    width, line = 0, 1
    try:
        for cells in reader:
            if columns is None:
                columns, width = _header(cells, parsed), len(cells)
                if columns is None:
                    return
            elif len(cells) != width:
                rule = "empty line" if not cells else f"a row has {width} cells, as the header has, not {len(cells)}"
                parsed.fault(line, ",".join(cells), rule)
            else:
                row = _row(line, cells[columns[0]], cells[columns[1]], count, parsed)
                if row.question_id in seen:
                    parsed.fault(line, row.question_id, f"duplicate question_id, first on line {seen[row.question_id]}")
                seen.setdefault(row.question_id, line)
                parsed.rows.append(row)
            line = reader.line_num + 1  # a quoted cell may hold line ends: a record starts after the last one
    except csv.Error as error:
        parsed.fault(line, str(error), "the file must be CSV: a cell with a comma or quote is quoted, quotes doubled")
    if columns is None and not parsed.faults:
        parsed.fault(None, "", f"the file is empty; it must start with the header {','.join(HEADER)}")


def _header(cells: list[str], parsed: ParsedFile) -> tuple[int, int] | None:
    """Check the header; return where its two columns are, or None when they are not there."""
    if tuple(cells) != HEADER:
        rule = f"the header must be exactly {','.join(HEADER)}"
        if set(cells) > set(HEADER):
            rule += f"; extra columns: {', '.join(c for c in cells if c not in HEADER)}"
        parsed.fault(1, ",".join(cells), rule)
    if all(cells.count(name) == 1 for name in HEADER):
        return cells.index(HEADER[0]), cells.index(HEADER[1])
    return None


def _row(line: int, question_id: str, cell: str, count: int | None, parsed: ParsedFile) -> Row:
    if question_id in NULLS:
        parsed.fault(line, question_id, "question_id is empty or reads as a missing value")
    return Row(line, question_id, _id_list(line, cell, count, parsed))


def _id_list(line: int, cell: str, count: int | None, parsed: ParsedFile) -> tuple[str, ...] | None:
    if cell.strip() in NULLS:
        parsed.fault(line, cell, f"passage_id is empty or reads as a missing value; {_ROW_RULE}")
        return None
    try:
        ids = json.loads(cell)
    except (ValueError, RecursionError):
        hint = "single quotes are Python's str(list), not JSON; write json.dumps(ids); " if "'" in cell else ""
        parsed.fault(line, cell, f"not JSON; {hint}{_ROW_RULE}")
        return None
    if not isinstance(ids, list):
        parsed.fault(line, cell, f"a JSON {type(ids).__name__}, not a list; {_ROW_RULE}")
        return None
    wrong = [value for value in ids if not isinstance(value, str)]
    if wrong:
        parsed.fault(line, wrong[0], f"ids must be strings, not {type(wrong[0]).__name__}; {_ROW_RULE}")
        return None
    if "" in ids:
        parsed.fault(line, cell, "an id is an empty string")
        return None
    if len(ids) != count and (count is not None or not ids):
        parsed.fault(line, cell, f"{len(ids)} ids; a row has {count if count is not None else 'at least 1'}")
        return None
    return tuple(ids)
