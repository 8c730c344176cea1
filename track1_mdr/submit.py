"""Sending a Track 1 file to Kaggle: checked against the questions at hand, shown, agreed to, sent, scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import DataError, SubmissionError
from common.kaggle import Kaggle
from common.submission.mdr import TASK_TITLES, TASKS
from common.submission.send import Outgoing, outgoing, send
from common.submission.send_log import LocalScore, gap, public_value

COMPETITION = "multimodal-document-retrieval-challenge"
Say = Callable[[str], None]


def prepare(
    file: Path, root: Path, runs: Path, competition: str = COMPETITION, message: str | None = None
) -> tuple[Outgoing, str | None]:
    """Return what would be sent, and why it must not be, or None.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule.
    """
    from track1_mdr.evaluate import score_files, validate_file

    report = validate_file(file, root).check()
    content = ", ".join(f"{TASK_TITLES[task]} {report.rows.get(task, 0):,} rows" for task in TASKS)

    def score() -> LocalScore | None:
        try:
            found = score_files(file, root)
        except DataError:  # no gold at hand
            return None
        if found.final is not None:
            return LocalScore(found.final, "both tasks")
        return LocalScore(found.headline, f"{TASK_TITLES[next(iter(found.tasks))]} only", comparable=False)

    return outgoing("track1", competition, file, content, runs, message, score), report.partial


def submit(
    file: Path,
    root: Path,
    runs: Path,
    *,
    competition: str = COMPETITION,
    message: str | None = None,
    dry_run: bool,
    again: bool,
    seconds: float,
    agree: Callable[[], bool],
    say: Say,
    kaggle: Kaggle,
) -> None:
    """Validate, show, ask, send, wait for the score, log it; a dry run stops after showing, and asks nobody.

    Raises
    ------
    SubmissionError
        The file is invalid or holds a part of the rows, or Kaggle could not score it.
    KaggleError
        Kaggle did not take it.
    """
    what, partial = prepare(file, root, runs, competition, message)
    for line in what.lines():
        say(line)
    if dry_run:
        if partial:
            say(f"note:        {partial}: it would not be sent")
        say("dry run:     nothing was sent")
        return
    if partial:
        raise SubmissionError(
            partial,
            where=file,
            expected="all rows of both tasks: Kaggle takes nothing less, and the try would count",
            todo="run on the whole data (python -m track1_mdr download), or join two tasks with merge",
        )
    sent = send(what, kaggle, runs, agree=agree, say=say, again=again, seconds=seconds)
    if sent is None:
        say("nothing was sent")
        return
    if sent.state == "pending":
        say("no score yet; later: python -m common.submissions refresh")
        return
    if sent.public_score is None:
        say("accepted; Kaggle shows no public score")
    else:
        value, difference = public_value("track1", sent.public_score), gap(sent)
        against = "" if difference is None else f"; local {what.local}, gap {difference:+.2f}"
        say(f"accepted:    public score {value:.2f} of 100{against}")
    say("next:        python -m common.submissions list")
