"""Sending a checked file to Kaggle: once, with what was said about it kept in the log, whatever happens on the way."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common.errors import SubmissionError, UserError
from common.hashing import file_digest
from common.kaggle import Kaggle, KaggleError, Submission
from common.submission.send_log import Attempt, LocalScore, Track, append, attempts, find_run, local_score, now

Say = Callable[[str], None]
_LIMIT = re.compile(r"allowance|daily.{0,20}limit|maximum number of submissions", re.IGNORECASE)
# After these Kaggle cannot have the file; after any other it may.
_CERTAIN = frozenset({"refused", "forbidden", "login", "no_login", "absent"})
REFRESH = "python -m common.submissions refresh"


@dataclass(frozen=True)
class Outgoing:
    """A valid file and what is known of it. `content`: one line, e.g. rows of each task."""

    track: Track
    place: str
    file: Path
    sha256: str
    size: int
    content: str
    run: str | None
    local: LocalScore | None
    message: str

    def lines(self) -> list[str]:
        """Return what will be sent, a line each."""
        return [
            f"to:          {self.place}",
            f"file:        {self.file}, {self.size:,} bytes, {self.content}",
            f"sha256:      {self.sha256}",
            f"made by:     {self.run or 'no run of the log'}",
            f"local score: {self.local or 'none'}",
            f"description: {self.message}",
        ]


def outgoing(
    track: Track,
    place: str,
    file: Path,
    content: str,
    runs: Path,
    message: str | None,
    score: Callable[[], LocalScore | None],
) -> Outgoing:
    """Return what is to be sent, with the run that made it and its local score.

    Parameters
    ----------
    file
        A file that was validated.
    message
        The description; None takes the configuration's name, or the file's.
    score
        Scores the file, where the log does not know it.
    """
    sha = file_digest(file)
    row = find_run(runs, sha)
    local = local_score(track, row.get("metrics") or {}) if row else None
    name = str(row["config"]) if row else file.name
    return Outgoing(
        track,
        place,
        file.resolve(),
        sha,
        file.stat().st_size,
        content,
        str(row["run"]) if row else None,
        local or score(),
        message or name,
    )


def send(
    what: Outgoing,
    kaggle: Kaggle,
    runs: Path,
    *,
    agree: Callable[[], bool],
    say: Say,
    again: bool = False,
    seconds: float = 900.0,
) -> Attempt | None:
    """Send a file, wait for its score, and log each step; return the attempt, or None where the user did not agree.

    The same bytes are not sent twice: an attempt that was cut off is looked up at Kaggle first.

    Parameters
    ----------
    agree
        Asks the user; called after the checks that need no upload.
    again
        Send bytes that Kaggle has scored already.
    seconds
        How long to wait for the score.

    Raises
    ------
    UserError
        Another `submit` runs; these bytes were sent already; today's allowance is used up.
    KaggleError
        Kaggle did not take the file.
    SubmissionError
        Kaggle took the file and could not score it.
    """
    with _alone(runs):
        attempt = _earlier(what, kaggle, runs, again, say)
        if attempt is None:
            _check_allowance(what, kaggle, say)
            if not agree():
                return None
            attempt = _upload(what, kaggle, runs, say)
        return _finish(attempt, kaggle, runs, seconds, say)


def _earlier(what: Outgoing, kaggle: Kaggle, runs: Path, again: bool, say: Say) -> Attempt | None:
    """Return an attempt with the same bytes that Kaggle is scoring; an error where it has scored them."""
    for past in reversed(attempts(runs)):
        if past.sha256 != what.sha256 or past.place != what.place:
            continue
        if past.state == "sending":
            past = settle(past, kaggle, runs)
        if past.state == "pending":
            say(f"these bytes were sent at {past.time} and have no score yet: asking for it, not sending them again")
            return past
        if past.state == "complete" and not again:
            raise UserError(
                f"these very bytes were sent at {past.time}: public score {past.public_score}",
                where=what.file,
                todo="change something first; to send them all the same, add --again",
            )
    return None


def settle(attempt: Attempt, kaggle: Kaggle, runs: Path) -> Attempt:
    """Find out whether an attempt that was cut off while sending arrived, and log it."""
    found = kaggle.find(attempt.place, attempt.mark)
    if found is None:
        return _log(runs, replace(attempt, state="failed", error="it never arrived at Kaggle"))
    return _log(runs, replace(attempt, state="pending", ref=found.ref))


def _check_allowance(what: Outgoing, kaggle: Kaggle, say: Say) -> None:
    limits = kaggle.limits(what.place)
    if limits is None or not (limits.total or limits.today or limits.left):
        return
    if limits.left <= 0:
        raise _used_up(what.place, f"{limits.today} sent today")
    say(f"today:       {limits.today} sent, {limits.left} more allowed")


def _used_up(place: str, got: str) -> KaggleError:
    moment = datetime.now(UTC)
    midnight = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    hours, rest = divmod(int((midnight - moment).total_seconds()), 3600)
    todo = f"run the same command after 00:00 UTC, in {hours} h {rest // 60} min; nothing was sent"
    return KaggleError("refused", "today's submissions are used up", where=place, got=got, todo=todo)


def _upload(what: Outgoing, kaggle: Kaggle, runs: Path, say: Say) -> Attempt:
    attempt = Attempt(
        id=secrets.token_hex(5),
        track=what.track,
        place=what.place,
        file=str(what.file),
        sha256=what.sha256,
        state="sending",
        time=now(),
        message=what.message,
        run=what.run,
        local=what.local,
    )
    if file_digest(what.file) != what.sha256:
        raise SubmissionError(
            "the file has changed since it was checked", where=what.file, todo="run the same command again"
        )
    _log(runs, attempt)
    try:
        sent = kaggle.submit(what.place, what.file, f"{what.message} {attempt.mark}")
    except KaggleError as error:
        attempt = _not_sent(attempt, error, kaggle, runs)
    else:
        attempt = _log(runs, replace(attempt, state="pending", ref=sent.ref))
    say(f"sent:        submission {attempt.ref}")
    return attempt


def _not_sent(attempt: Attempt, error: KaggleError, kaggle: Kaggle, runs: Path) -> Attempt:
    """Log a failed upload and raise; return the attempt where the file arrived all the same."""
    told = str(error.got or error.what)
    if error.kind in _CERTAIN:
        _log(runs, replace(attempt, state="refused", error=told))
        if _LIMIT.search(told):
            raise _used_up(attempt.place, told) from None
        raise error
    try:
        settled = settle(attempt, kaggle, runs)
    except UserError:
        error = KaggleError(
            error.kind,
            f"{error.what}; it is not known whether the file arrived",
            where=error.where,
            got=error.got,
            todo="run the same command later: it first asks Kaggle whether it has the file",
        )
        raise error from None
    if settled.state != "pending":
        raise error
    return settled


def _finish(attempt: Attempt, kaggle: Kaggle, runs: Path, seconds: float, say: Say) -> Attempt:
    """Wait for the score, log it, and say it."""
    sent = _submission(attempt)

    def told(answer: Submission, waited: float) -> None:
        if answer.status == "pending":
            say(f"scoring:     {waited:.0f} s")

    try:
        sent = kaggle.wait(sent, seconds=seconds, seen=told)
    except KeyboardInterrupt:
        say(f"not waiting any longer; ask for the score with: {REFRESH}")
        raise
    except KaggleError as error:
        say(f"the file was sent (submission {attempt.ref}), but its score is not known yet; later: {REFRESH}")
        raise error from None
    attempt = take(attempt, sent, runs)
    if attempt.state == "error":
        raise SubmissionError(
            "Kaggle could not score the file",
            where=f"submission {attempt.ref} of {attempt.place}",
            got=attempt.error,
            todo=f"python -m track1_mdr validate {attempt.file}",
        )
    return attempt


def take(attempt: Attempt, sent: Submission, runs: Path) -> Attempt:
    """Log what Kaggle says of an attempt, where it is news; return the attempt with it."""
    changed = replace(attempt, state=sent.status, public_score=sent.public_score, error=sent.error)
    return attempt if changed == attempt else _log(runs, changed)


def refresh(runs: Path, kaggle: Kaggle, say: Say) -> int:
    """Ask Kaggle about every attempt without a score; return how many have news."""
    news = 0
    for attempt in attempts(runs):
        after = attempt
        if after.state == "sending":
            after = settle(after, kaggle, runs)
        if after.state == "pending" and after.ref is not None:
            after = take(after, kaggle.look(_submission(after)), runs)
        if after != attempt:
            news += 1
            score = "" if after.public_score is None else f", public score {after.public_score:g}"
            say(f"{after.file}: {after.state}{score}{f': {after.error}' if after.error else ''}")
    return news


def _submission(attempt: Attempt) -> Submission:
    assert attempt.ref is not None  # noqa: S101, an attempt is pending only with a number
    return Submission(attempt.place, attempt.file, attempt.message, attempt.ref)


def _log(runs: Path, attempt: Attempt) -> Attempt:
    append(runs, attempt)
    return attempt


@contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """Let one `submit` run at a time: two would both count the same remaining submission as theirs."""
    runs.mkdir(parents=True, exist_ok=True)
    handle = os.open(runs / ".submit.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another submit is running", where=runs, todo="wait until it is done") from None
        yield
    finally:
        os.close(handle)
