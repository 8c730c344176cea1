"""The rules of a Track 2 submission, checked against the ids of the test file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from common.submission.mmctr_archive import read_archive
from common.submission.mmctr_rows import ID, TASK_COLUMNS, ParsedPredictions, parse_csv
from common.submission.report import Report, RowFault

Task = Literal["Task1", "Task2", "Task1&2"]
TASKS: tuple[Task, ...] = ("Task1", "Task2", "Task1&2")
OFFICIAL_ROWS = 379_142
Ids = npt.NDArray[np.integer[Any]] | Sequence[int]


@dataclass(frozen=True)
class ValidationReport(Report):
    """The outcome of a validation: `faults` holds all of them, in the order of the file."""

    path: Path
    rows: int
    tasks: tuple[str, ...]
    faults: tuple[RowFault, ...] = ()
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """Return the report as plain text."""
        verdict = "valid" if self.ok else f"INVALID, {len(self.faults):,} faults"
        lines = [f"{self.path}: {verdict} ({', '.join(self.tasks) or 'no task column'}, {self.rows:,} rows)"]
        lines += [f"  {line}" for line in self.lines()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, without the folder of the file."""
        return {
            "file": self.path.name,
            "valid": self.ok,
            "rows": self.rows,
            "tasks": list(self.tasks),
            "fault_count": len(self.faults),
            "faults": self.lines(),
            "notes": list(self.notes),
        }


def examine(path: Path, expected_ids: Ids | None, task: Task | None) -> tuple[ParsedPredictions, ValidationReport]:
    """Return what the file at `path` holds and the report on it; arguments and errors as `validate_submission`."""
    data, archive_faults = read_archive(path)
    parsed = ParsedPredictions() if data is None else parse_csv(data)
    if data is not None:
        if task is not None and task not in parsed.columns:
            parsed.fault(1, ",".join([ID, *parsed.columns]), f"the column {task} is asked for and is not there")
        if not len(parsed.lines) and not parsed.faults:
            parsed.fault(None, "", "the file has no rows")
        _duplicates(parsed)
    notes = _against(parsed, expected_ids) if data is not None else []
    # In the order of the file; what concerns the file as a whole (missing ids) comes last.
    faults = sorted(parsed.faults, key=lambda fault: fault.line if fault.line is not None else 1 << 62)
    tasks = tuple(name for name in TASK_COLUMNS if name in parsed.columns)
    report = ValidationReport(path, len(parsed.lines), tasks, (*archive_faults, *faults), tuple(notes))
    return parsed, report


def validate_submission(path: Path, expected_ids: Ids | None = None, *, task: Task | None = None) -> ValidationReport:
    """Check every rule of the zip at `path`; the report lists each broken one.

    Parameters
    ----------
    path
        The zip.
    expected_ids
        Column `ID` of the test file, in its order; None when it is not at hand, which the report notes.
    task
        A column that must be there; None accepts any of the three.

    Raises
    ------
    DataError
        There is no such file.
    """
    return examine(path, expected_ids, task)[1]


def _duplicates(parsed: ParsedPredictions) -> None:
    known = np.flatnonzero(parsed.ids >= 0)
    _, first, run = np.unique(parsed.ids[known], return_index=True, return_inverse=True)
    for place in np.flatnonzero(first[run] != np.arange(len(known))):
        row, earlier = known[place], known[first[run[place]]]
        parsed.fault(
            int(parsed.lines[row]), int(parsed.ids[row]), f"duplicate {ID}, first on line {parsed.lines[earlier]}"
        )


def _against(parsed: ParsedPredictions, expected_ids: Ids | None) -> list[str]:
    """Compare the ids with those of the test file; return notes."""
    if expected_ids is None:
        count = "" if len(parsed.ids) == OFFICIAL_ROWS else f"; the official test set has {OFFICIAL_ROWS:,} rows"
        return [f"note: the test file is not at hand: ids checked for repeats only{count}"]
    wanted = np.asarray(expected_ids, dtype=np.int64)
    if not len(parsed.lines) and parsed.faults:
        return []  # the file could not be read as rows: that each id is missing says nothing new
    if len(parsed.lines) != len(wanted):
        parsed.fault(
            None, f"{len(parsed.lines):,} rows", f"the test file has {len(wanted):,}: one row for each of its ids"
        )
    for row in np.flatnonzero((parsed.ids >= 0) & ~np.isin(parsed.ids, wanted)):
        parsed.fault(int(parsed.lines[row]), int(parsed.ids[row]), f"unknown {ID}: not in the test file")
    for missing in wanted[~np.isin(wanted, parsed.ids)]:
        parsed.fault(None, int(missing), f"missing {ID}: it is in the test file")
    if parsed.faults or np.array_equal(parsed.ids, wanted):
        return []
    return ["warning: rows are not in the order of the test file; a scorer that reads by position would mix them up"]
