"""The rules of a Track 1 submission file, checked against the competition's questions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from common.errors import DataError
from common.metrics.retrieval import TASK_IDS, task_of
from common.submission.mdr_rows import IDS_PER_ROW, ParsedFile, Row, parse_file
from common.submission.report import Report, RowFault

Task = Literal["mmdocir", "m2kr"]
TASKS: tuple[Task, Task] = ("m2kr", "mmdocir")  # in the order of their question ids
TASK_TITLES: Mapping[Task, str] = {"m2kr": "M2KR", "mmdocir": "MMDocIR"}
FULL_ROWS = sum(len(ids) for ids in TASK_IDS.values())
_PAGE = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class ExpectedSubmission:
    """What a submission is checked against.

    Attributes
    ----------
    pages
        MMDocIR question id -> number of pages of its document; None when the questions are not at hand:
        then the official ids 10000..11657 are asked for and pages are only checked to be whole numbers.
    m2kr
        M2KR question ids; None when they are not at hand: then the official ids 0..6414 are asked for.
    m2kr_passages
        The ids of the M2KR pool; None when it is not at hand, which the report notes.
    required
        Tasks that must be in the file. By default either task may be absent: the file is then partial.
    """

    pages: Mapping[str, int] | None = None
    m2kr: Sequence[str] | None = None
    m2kr_passages: frozenset[str] | None = None
    required: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        for task in TASKS:
            wrong = [i for i in self.question_ids(task) if task_of(i) != task]
            if wrong:
                ids = TASK_IDS[task]
                raise DataError(
                    f"{len(wrong)} question ids are not ids of {TASK_TITLES[task]}",
                    where=f"{TASK_TITLES[task]} questions",
                    expected=f"{ids.start} to {ids.stop - 1}: the ids tell the two tasks apart in one submission",
                    got=", ".join(wrong[:5]),
                    todo="use the challenge's question file",
                )

    def known(self, task: Task) -> bool:
        """Return whether the questions of `task` are at hand."""
        return (self.pages if task == "mmdocir" else self.m2kr) is not None

    def question_ids(self, task: Task) -> Sequence[str]:
        """Return the question ids that a file with `task` in it must hold, in order."""
        given = self.pages if task == "mmdocir" else self.m2kr
        return [str(i) for i in TASK_IDS[task]] if given is None else list(given)

    def candidates(self, question_id: str) -> int | None:
        """Return how many passages a question may retrieve, or None when that is not known."""
        if task_of(question_id) == "mmdocir":
            return None if self.pages is None else self.pages.get(question_id)
        return None if self.m2kr_passages is None else len(self.m2kr_passages)


@dataclass(frozen=True)
class ValidationReport(Report):
    """The outcome of a validation: `faults` holds all of them, in the order of the file."""

    path: Path
    rows: Mapping[Task, int]
    faults: tuple[RowFault, ...] = ()
    notes: tuple[str, ...] = ()
    partial: str | None = None

    def render(self) -> str:
        """Return the report as plain text."""
        counts = ", ".join(f"{TASK_TITLES[task]} {self.rows.get(task, 0):,} rows" for task in TASKS)
        verdict = "valid" if self.ok else f"INVALID, {len(self.faults):,} faults"
        lines = [f"{self.path}: {verdict} ({counts})"]
        lines += [f"  {line}" for line in self.lines()]
        lines += [f"  {note}" for note in ((self.partial,) if self.partial else ()) + self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, without the folder of the file."""
        return {
            "file": self.path.name,
            "valid": self.ok,
            "rows": {task: self.rows.get(task, 0) for task in TASKS},
            "fault_count": len(self.faults),
            "faults": self.lines(),
            "partial": self.partial,
            "notes": list(self.notes),
        }


@dataclass
class _Check:
    """One validation in progress."""

    parsed: ParsedFile
    expected: ExpectedSubmission
    rows: dict[Task, int] = field(default_factory=lambda: dict.fromkeys(TASKS, 0))

    def run(self) -> None:
        wanted = {task: set(self.expected.question_ids(task)) for task in TASKS}
        present: set[str] = set()
        for row in self.parsed.rows:
            task = cast("Task | None", task_of(row.question_id))
            if task is None or row.question_id not in wanted[task]:
                rule = "unknown question_id" + (
                    "" if task is None else f": not among the {TASK_TITLES[task]} questions"
                )
                self.parsed.fault(row.line, row.question_id, rule)
                continue
            present.add(row.question_id)
            self.rows[task] += 1
            if row.ids is not None:
                self._ids(row, task)
        for task in TASKS:
            self._missing(task, present)

    def _ids(self, row: Row, task: Task) -> None:
        ids = cast("tuple[str, ...]", row.ids)
        limit = self.expected.candidates(row.question_id)
        for value in dict.fromkeys(ids):
            rule = self._page_rule(value, limit) if task == "mmdocir" else self._passage_rule(value)
            if rule:
                self.parsed.fault(row.line, value, rule)
        distinct = list(dict.fromkeys(ids))
        if len(distinct) == len(ids):
            return
        padded = distinct + distinct[-1:] * (len(ids) - len(distinct))
        if limit is not None and limit >= IDS_PER_ROW:
            self.parsed.fault(row.line, list(ids), f"an id is repeated although there are {limit:,} passages to choose")
        elif limit is None and task == "m2kr":
            self.parsed.fault(row.line, list(ids), "an id is repeated; the M2KR pool holds thousands of passages")
        elif padded != list(ids):
            self.parsed.fault(row.line, list(ids), "only the last id may be repeated, as padding at the end of a row")

    @staticmethod
    def _page_rule(value: str, pages: int | None) -> str | None:
        if not _PAGE.fullmatch(value):
            return 'a page is a whole number from "0", without sign, space or leading zero'
        if pages is not None and int(value) >= pages:
            return f"page out of range: the question's document has pages 0 to {pages - 1}"
        return None

    def _passage_rule(self, value: str) -> str | None:
        known = self.expected.m2kr_passages
        return None if known is None or value in known else "unknown passage: not in the M2KR pool"

    def _missing(self, task: Task, present: set[str]) -> None:
        ids = self.expected.question_ids(task)
        if not self.rows[task] and task not in self.expected.required:
            return
        for question in ids:
            if question not in present:
                self.parsed.fault(None, question, f"missing question_id of {TASK_TITLES[task]}")

    def notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        for task in TASKS:
            if self.rows[task] and not self.expected.known(task):
                ids = TASK_IDS[task]
                notes.append(
                    f"note: the {TASK_TITLES[task]} questions are not at hand: ids checked against "
                    f"{ids.start}..{ids.stop - 1}"
                    + (", pages not checked against the documents" if task == "mmdocir" else "")
                )
        if self.rows["m2kr"] and self.expected.m2kr_passages is None:
            notes.append("note: the M2KR pool is not at hand: passage ids not checked")
        return tuple(notes)

    def partial(self) -> str | None:
        total = sum(self.rows.values())
        present = [TASK_TITLES[task] for task in TASKS if self.rows[task]]
        if len(present) == 1:
            return f"partial: {present[0]} only, {total:,} of {FULL_ROWS:,} rows; Kaggle wants both tasks"
        if 0 < total < FULL_ROWS:
            return f"partial: {total:,} of {FULL_ROWS:,} rows: the questions at hand are not the whole test set"
        return None


def validate_submission(path: Path, expected: ExpectedSubmission) -> ValidationReport:
    """Check every rule of the file at `path`; the report lists each broken one.

    Raises
    ------
    DataError
        There is no such file.
    """
    parsed = parse_file(path)
    check = _Check(parsed, expected)
    check.run()
    if not parsed.rows and not parsed.faults:
        parsed.fault(None, "", "the file has no rows")
    # In the order of the file; what concerns the file as a whole (missing ids) comes last.
    faults = sorted(parsed.faults, key=lambda fault: fault.line if fault.line is not None else 1 << 62)
    return ValidationReport(path, check.rows, tuple(faults), check.notes(), check.partial())
