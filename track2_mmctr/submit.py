"""Getting a Track 2 file to Codabench: checked, packed where it is a bare CSV, logged, and the steps of the upload."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from common.errors import DataError, SubmissionError
from common.submission.codabench import COMPETITION, page, steps
from common.submission.mmctr import TASKS, Task, ValidationReport, read_submission, write_submission
from common.submission.mmctr_validate import OFFICIAL_ROWS
from common.submission.send import Outgoing, outgoing
from common.submission.send_log import Attempt, LocalScore, append, attempts, now
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.evaluate import predicted, score_path, validate_path

Say = Callable[[str], None]


def submit(
    file: Path,
    data: CtrData,
    sample: bool,
    runs: Path,
    *,
    competition: int = COMPETITION,
    dry_run: bool,
    say: Say,
) -> Path:
    """Check a zip (or a bare prediction.csv, which is packed beside itself), log it, say how to upload it.

    Parameters
    ----------
    data
        What it was made on.
    sample
        Whether that is the shipped sample, whose predictions are for nobody.

    Returns
    -------
    Path
        The zip.

    Raises
    ------
    SubmissionError
        It breaks a rule, or it is the sample's and this is no dry run.
    """
    target = pack_csv(file, data) if file.suffix.lower() == ".csv" else file
    report = validate_path(target, data).check()
    what = describe(target, data, report, runs, competition)
    for line in what.lines():
        say(line)
    for note in report.notes:
        say(note)
    if report.rows != OFFICIAL_ROWS:
        say(f"note:        the official test set has {OFFICIAL_ROWS:,} rows, this file {report.rows:,}")
    if dry_run:
        say("dry run:     nothing was logged")
        return target
    if sample:
        raise SubmissionError(
            "these are predictions of the shipped sample",
            where=target,
            expected=f"predictions of the official test file, {OFFICIAL_ROWS:,} rows",
            todo="get the data: python -m track2_mmctr download, then run and submit again; --dry-run only shows",
        )
    _log(what, runs)
    say("upload:      Codabench takes files in the browser:")
    for step in steps(target, report.tasks, competition):
        say(f"  {step}")
    return target


def describe(
    target: Path, data: CtrData, report: ValidationReport, runs: Path, competition: int = COMPETITION
) -> Outgoing:
    """Return what is to be uploaded, with the run that made it and its local score."""

    def score() -> LocalScore | None:
        try:
            task = cast("Task", report.tasks[0])
            splits, _ = predicted(target, data, task)
            reports = score_path(target, data, task, resamples=0).reports if splits else {}
        except DataError:  # test labels are not at hand
            return None
        return LocalScore(reports["test"].headline, "test AUC") if "test" in reports else None

    content = f"{', '.join(report.tasks)}, {report.rows:,} rows"
    return outgoing("track2", page(competition), target, content, runs, None, score)


def pack_csv(file: Path, data: CtrData) -> Path:
    """Write `<name>.zip` beside a CSV with `ID` and one task column; its rows may be in any order.

    Raises
    ------
    SubmissionError
        It is not such a CSV, or its rows are not those of the test file.
    DataError
        There is no such file.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the file cannot be read", where=file, got=error, todo="check the path") from None
    lines = list(csv.reader(io.StringIO(text, newline="")))
    header = lines[0] if lines else []
    if len(header) != 2 or header[0] != "ID" or header[1] not in TASKS:
        raise SubmissionError(
            "not a file of predictions", where=file, expected=f"ID and one of {', '.join(TASKS)}", got=",".join(header)
        )
    try:
        ids = np.array([int(line[0]) for line in lines[1:]], dtype=np.int64)
        values = np.array([float(line[1]) for line in lines[1:]], dtype=np.float64)
    except (ValueError, IndexError, OverflowError) as error:
        raise SubmissionError(
            "a row is not a whole number and a probability", where=file, got=error, todo="write ID,probability"
        ) from None
    test = data.splits.get("test")
    target = file.with_suffix(".zip")
    write_submission(target, ids, values, header[1], None if test is None else test.ids)
    read_submission(target)
    return target


def _log(what: Outgoing, runs: Path) -> None:
    """Log the file as one to be uploaded by hand; once."""
    if any(past.sha256 == what.sha256 and past.place == what.place for past in attempts(runs)):
        return
    append(
        runs,
        Attempt(
            id=secrets.token_hex(5),
            track="track2",
            place=what.place,
            file=str(what.file),
            sha256=what.sha256,
            state="by_hand",
            time=now(),
            message=what.message,
            run=what.run,
            local=what.local,
        ),
    )
