"""Write, read and merge Track 1 submission files.

The format: a CSV with the header `question_id,passage_id`, one row a question, `passage_id` a JSON list of five
strings, best first: `11360,"[""4"", ""18"", ""19"", ""2"", ""7""]"`. One file holds both tasks (8,073 rows);
a file with one task only is partial, and two partial files merge into one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from common.atomic import atomic_path
from common.errors import SubmissionError
from common.metrics.retrieval import task_of
from common.submission.mdr_rows import HEADER, IDS_PER_ROW, parse_file
from common.submission.mdr_validate import (
    TASK_TITLES,
    TASKS,
    ExpectedSubmission,
    Task,
    ValidationReport,
    validate_submission,
)
from common.submission.report import InvalidSubmission

__all__ = [
    "TASKS",
    "TASK_TITLES",
    "ExpectedSubmission",
    "InvalidSubmission",
    "Task",
    "ValidationReport",
    "merge_submissions",
    "pad",
    "read_submission",
    "tasks_of",
    "validate_submission",
    "write_submission",
]


def pad(ids: Sequence[str], count: int = IDS_PER_ROW) -> list[str]:
    """Return the first `count` ids; where there are fewer, the last one is repeated.

    A repeated id earns nothing and costs nothing: recall counts each id once. A valid row is padded only
    where the question has fewer than five candidates (a document of three pages).

    >>> pad(["2", "0", "1"])
    ['2', '0', '1', '1', '1']
    """
    if not ids:
        raise ValueError("nothing to pad")
    cut = list(ids[:count])
    return cut + cut[-1:] * (count - len(cut))


def tasks_of(question_ids: Sequence[str]) -> tuple[Task, ...]:
    """Return the tasks that the ids belong to, in the order of `TASKS`."""
    present = {task_of(i) for i in question_ids}
    return tuple(task for task in TASKS if task in present)


def write_submission(
    path: Path, rankings: Mapping[str, Sequence[str]], expected: ExpectedSubmission
) -> ValidationReport:
    """Write a submission, validate it, move it into place and read it back.

    Parameters
    ----------
    path
        The CSV file; replaced only by a valid one.
    rankings
        question id -> passage ids, best first; the first five are written, fewer are padded (see `pad`).
        Rows come in the order of the mapping.
    expected
        What the file is checked against; the tasks with a ranking must be complete.

    Raises
    ------
    InvalidSubmission
        A rule is broken: every fault is listed. The file at `path` is as it was.
    SubmissionError
        A question has no passages at all, or the file read back differs from what was written.
    OSError
        The disk is full or the folder is not writable. The file at `path` is as it was.
    """
    empty = [question for question, ids in rankings.items() if not ids]
    if empty or not rankings:
        raise SubmissionError(
            f"{len(empty)} questions have no passages" if empty else "there are no rankings to write",
            where=path,
            expected="at least one passage for each question",
            got=", ".join(empty[:5]) or "nothing",
            todo="rank the question's candidates; a part of the run has failed for these",
        )
    rows = {question: pad(ids) for question, ids in rankings.items()}
    required = tuple(task for task in TASKS if task in expected.required or task in tasks_of(list(rows)))
    with atomic_path(path) as temporary:
        _write_rows(temporary, rows)
        report = validate_submission(temporary, replace(expected, required=required))
        report = replace(report, path=path).check()
    back = read_submission(path)
    if list(back.items()) != [(question, tuple(ids)) for question, ids in rows.items()]:
        raise SubmissionError(
            "the file read back is not what was written",
            where=path,
            todo="another program may write the same file: run again with a file name of its own",
        )
    return report


def read_submission(path: Path) -> dict[str, tuple[str, ...]]:
    """Return question id -> its five passage ids, in the order of the file.

    Checks what the file alone can show; `validate_submission` also checks it against the questions.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule of the format.
    DataError
        There is no such file.
    """
    parsed = parse_file(path)
    for row in parsed.rows:
        if task_of(row.question_id) is None:
            parsed.fault(row.line, row.question_id, "unknown question_id: neither 0..6414 nor 10000..11657")
    if not parsed.rows and not parsed.faults:
        parsed.fault(None, "", "the file has no rows")
    counts = dict.fromkeys(TASKS, 0)
    for row in parsed.rows:
        task = cast("Task | None", task_of(row.question_id))
        if task is not None:
            counts[task] += 1
    ValidationReport(path, counts, tuple(parsed.faults)).check()
    return {row.question_id: row.ids for row in parsed.rows if row.ids is not None}


def merge_submissions(
    first: Path, second: Path, out: Path, expected: ExpectedSubmission | None = None
) -> ValidationReport:
    """Join two partial files, one a task, into one: M2KR first, each task's rows in their file's order.

    Parameters
    ----------
    first, second
        Files with one task each.
    out
        The joined file.
    expected
        Checks the result against the questions; without it the official 8,073 rows are asked for.

    Raises
    ------
    SubmissionError
        A file holds both tasks, both hold the same one, or a rule is broken.
    """
    parts: dict[Task, tuple[Path, dict[str, tuple[str, ...]]]] = {}
    for path in (first, second):
        rankings = read_submission(path)
        tasks = tasks_of(list(rankings))
        if len(tasks) != 1 or tasks[0] in parts:
            raise SubmissionError(
                "the two files must hold one task each, and not the same one",
                where=path,
                expected="one file with M2KR rows only, one with MMDocIR rows only",
                got=" and ".join(TASK_TITLES[task] for task in tasks)
                + (f", and so does {parts[tasks[0]][0].name}" if tasks[0] in parts else ""),
            )
        parts[tasks[0]] = (path, rankings)
    return write_submission(out, parts["m2kr"][1] | parts["mmdocir"][1], expected or ExpectedSubmission())


def _write_rows(path: Path, rows: Mapping[str, Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((question, json.dumps(list(ids), ensure_ascii=False)) for question, ids in rows.items())
