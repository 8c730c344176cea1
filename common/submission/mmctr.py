"""Write, read and validate Track 2 submissions.

The format: a zip with `prediction.csv` at its root and nothing else; header `ID` and one or more of `Task1`,
`Task2`, `Task1&2`; one row for each `ID` of the test file, with the probability of a click. Source: the
organisers' prediction script and the zips that teams published. That script numbers the rows itself and always
writes `Task1`; here ids come from the test file, and the task is asked for.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.atomic import atomic_path
from common.errors import SubmissionError
from common.submission.mmctr_archive import MEMBER
from common.submission.mmctr_rows import ID
from common.submission.mmctr_validate import (
    TASKS,
    Ids,
    Task,
    ValidationReport,
    examine,
    validate_submission,
)
from common.submission.report import InvalidSubmission

__all__ = [
    "TASKS",
    "InvalidSubmission",
    "Submission",
    "Task",
    "ValidationReport",
    "pack",
    "read_submission",
    "validate_submission",
    "write_submission",
]


@dataclass(frozen=True, eq=False)
class Submission:
    """What a valid file holds: ids int64 [R] in the order of the file, and task column -> float64 [R], 0 to 1."""

    path: Path
    ids: np.ndarray
    columns: dict[str, np.ndarray]

    def column(self, task: Task | None = None) -> np.ndarray:
        """Return the probabilities of `task`; without it, of the file's only column.

        Raises
        ------
        SubmissionError
            The column is not there, or none is named and there are several.
        """
        names = list(self.columns) if task is None else [task]
        if len(names) != 1 or names[0] not in self.columns:
            raise SubmissionError(
                f"the file has no column {task}" if task else "the file has several task columns",
                where=self.path,
                expected=task or "the name of one of them",
                got=", ".join(self.columns),
                todo="name the column with --task",
            )
        return self.columns[names[0]]


def write_submission(
    path: Path, ids: Ids, probabilities: npt.ArrayLike, task: Task, expected_ids: Ids | None
) -> ValidationReport:
    """Write a submission, validate it, move it into place and read it back. The same rows give the same bytes.

    Parameters
    ----------
    path
        The zip; replaced only by a valid one.
    ids
        int [R]: column `ID` of the test file.
    probabilities
        float [R], 0 to 1; written with nine significant digits.
    task
        Name of the column.
    expected_ids
        Column `ID` of the test file: what the rows are checked against, and their order in the file. None when
        it is not at hand.

    Raises
    ------
    InvalidSubmission
        A rule is broken (a probability is NaN or outside 0 to 1, an id is missing, unknown or repeated): every
        fault is listed. The file at `path` is as it was.
    SubmissionError
        The arguments do not fit together, or the file read back differs from what was written.
    OSError
        The disk is full or the folder is not writable. The file at `path` is as it was.
    """
    path = Path(path)
    keys, values = _rows(path, ids, probabilities, task)
    if expected_ids is not None:
        keys, values = _in_order(keys, values, np.asarray(expected_ids, dtype=np.int64))
    data = pack(keys, values, task)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        report = replace(examine(temporary, expected_ids, task)[1], path=path).check()
    back = read_submission(path)
    read = back.column(task)
    # Nine digits are within half a unit of the ninth: 5e-9 of the value.
    if not np.array_equal(back.ids, keys) or not np.allclose(read, values, rtol=5.001e-9, atol=1e-300):
        raise SubmissionError(
            "the file read back is not what was written",
            where=path,
            todo="another program may write the same file: run again with a file name of its own",
        )
    lost = len(np.unique(values)) - len(np.unique(read))
    if lost:
        told = f"note: {lost:,} different probabilities became equal at nine digits: their order is lost"
        report = replace(report, notes=(*report.notes, told))
    return report


def _rows(path: Path, ids: Ids, probabilities: npt.ArrayLike, task: str) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.asarray(ids), np.asarray(probabilities)
    fault: tuple[str, object, object] | None = None
    if path.suffix.lower() != ".zip":
        fault = ("the submission of Track 2 is a zip", "a file name that ends in .zip", path.name)
    elif task not in TASKS:
        fault = ("unknown task", ", ".join(TASKS), task)
    elif keys.dtype.kind not in "iu" or values.dtype.kind != "f":
        fault = ("ids are whole numbers and probabilities floats", "int and float", f"{keys.dtype} and {values.dtype}")
    elif keys.shape != values.shape or keys.ndim != 1:
        fault = ("one probability for each id", f"two vectors of {len(keys)}", f"{keys.shape} and {values.shape}")
    elif not len(keys):
        fault = ("there are no rows to write", "one row for each ID of the test file", 0)
    if fault is not None:
        raise SubmissionError(fault[0], where=path, expected=fault[1], got=fault[2])
    return keys.astype(np.int64), values.astype(np.float64)


def _in_order(ids: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the order of the test file; as they are where ids differ (the validation tells how)."""
    mine, theirs = np.argsort(ids, kind="stable"), np.argsort(wanted, kind="stable")
    if not np.array_equal(ids[mine], wanted[theirs]):
        return ids, values
    order = np.empty(len(ids), dtype=np.int64)
    order[theirs] = mine
    return ids[order], values[order]


def pack(ids: np.ndarray, probabilities: np.ndarray, task: str) -> bytes:
    """Return the bytes of the zip: no clock, user or platform in them."""
    rows = [f"{ID},{task}", *map("%d,%.9g".__mod__, zip(ids.tolist(), probabilities.tolist(), strict=True)), ""]
    member = zipfile.ZipInfo(MEMBER, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3  # Unix, wherever it is written
    member.external_attr = 0o100644 << 16
    member.compress_type = zipfile.ZIP_DEFLATED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "\n".join(rows).encode("ascii"), compresslevel=6)
    return buffer.getvalue()


def read_submission(path: Path) -> Submission:
    """Return the ids and columns of a valid zip.

    Checks what the file alone can show; `validate_submission` also checks it against the test file.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule of the format.
    DataError
        There is no such file.
    """
    parsed, report = examine(Path(path), None, None)
    report.check()
    return Submission(Path(path), parsed.ids, parsed.columns)
