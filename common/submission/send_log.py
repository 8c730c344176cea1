"""What was sent, and what came of it: events in `runs/log.jsonl`, beside the lines of the runs.

A submission is an attempt with an id of its own. Each step appends one line; the last line of an attempt is its
state. A kill between two steps leaves the earlier state, and the next `submit` goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from common.atomic import append_line
from common.errors import UserError
from common.experiment import read_log

Track = Literal["track1", "track2"]
# sending: Kaggle may have it. pending: it has, and scores it. by_hand: checked, to be uploaded in a browser.
State = Literal["sending", "pending", "complete", "error", "refused", "failed", "by_hand"]
EVENT = "submission"
_POINTS = 100.0
_TITLES = {"mmdocir": "MMDocIR", "m2kr": "M2KR"}  # spelt out: their own module loads pandas


@dataclass(frozen=True)
class LocalScore:
    """A local score and what it is of; `comparable` where it is the leaderboard's own figure, if on other data."""

    value: float
    name: str
    comparable: bool = True

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.name})" if self.value > 1 else f"{self.value:.4f} ({self.name})"


@dataclass(frozen=True)
class Attempt:
    """One submission; times are UTC, `public_score` is in the platform's unit, `run` the folder it was made in."""

    id: str
    track: Track
    place: str
    file: str
    sha256: str
    state: State
    time: str
    message: str = ""
    run: str | None = None
    local: LocalScore | None = None
    ref: int | None = None
    public_score: float | None = None
    error: str | None = None

    @property
    def mark(self) -> str:
        """What tells this attempt from others in Kaggle's list of descriptions."""
        return f"[id {self.id}]"


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(runs: Path, attempt: Attempt) -> None:
    """Append the attempt's state to the log."""
    append_line(runs / "log.jsonl", json.dumps({"event": EVENT} | asdict(attempt), ensure_ascii=False))


def attempts(runs: Path) -> list[Attempt]:
    """Return each attempt in its last state, in the order in which they were begun."""
    return attempts_in(read_log(runs))


def attempts_in(log: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """Return the attempts among the lines of a log that was read already, as `attempts`."""
    found: dict[str, Attempt] = {}
    for row in log:
        attempt = _attempt(row) if row.get("event") == EVENT else None
        if attempt is not None:
            found[attempt.id] = attempt
    return list(found.values())


def _attempt(row: Mapping[str, Any]) -> Attempt | None:
    """Return the attempt of a line, or None where a foreign hand left a line that is none."""
    values = {field.name: row[field.name] for field in fields(Attempt) if field.name in row}
    try:
        if values.get("local") is not None:
            values["local"] = LocalScore(**values["local"])
        return Attempt(**values)
    except TypeError:
        return None


def find_run(runs: Path, sha256: str) -> Mapping[str, Any] | None:
    """Return the line of the newest finished run that made a file with these bytes."""
    for row in reversed(read_log(runs)):
        if row.get("event") != EVENT and (row.get("submission") or {}).get("sha256") == sha256:
            return row
    return None


def local_score(track: Track, metrics: Mapping[str, Any]) -> LocalScore | None:
    """Return the local score among a run's figures: Track 1 in points, Track 2 the AUC of test, else of valid."""
    try:
        if track == "track1":
            if metrics.get("final") is not None:
                return LocalScore(float(metrics["final"]), "both tasks")
            task, figures = next(iter(metrics["tasks"].items()))
            return LocalScore(float(figures["mean"]), f"{_TITLES.get(task, task)} only", comparable=False)
        split = "test" if "test" in metrics else "valid"
        return LocalScore(float(metrics[split]["auc"]), f"{split} AUC")
    except (KeyError, StopIteration, TypeError, ValueError, AttributeError):
        return None


def public_value(track: Track, score: float) -> float:
    """Return a public score in the unit of the local one: Track 1's in points.

    Kaggle shows this metric as a fraction or in points, depending on how the host set it up. A score of at most 1 is
    taken for a fraction: in points it would be that of a file that is all but empty.
    """
    return score * _POINTS if track == "track1" and score <= 1 else score


def gap(attempt: Attempt) -> float | None:
    """Return public minus local, in the unit of the local score; None where the two do not compare."""
    if attempt.public_score is None or attempt.local is None or not attempt.local.comparable:
        return None
    return public_value(attempt.track, attempt.public_score) - attempt.local.value


def choose(runs: Path, name: str) -> Mapping[str, Any]:
    """Return the run (a line of the log) that `name` tells of: a run's name, or the start of a file's SHA-256.

    Raises
    ------
    UserError
        There is none, or more than one.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for row in read_log(runs):
        sha = str((row.get("submission") or {}).get("sha256") or "")
        if row.get("event") != EVENT and sha and (row.get("run") == name or (len(name) >= 6 and sha.startswith(name))):
            found[sha] = row
    if len(found) != 1:
        raise UserError(
            "no run has this name or hash" if not found else "several files have this hash",
            where=runs / "log.jsonl",
            got=name,
            todo="python -m common.submissions list shows both",
        )
    return next(iter(found.values()))


def as_track(text: object) -> Track:
    """Return the track of a log line's text."""
    return "track2" if text == "track2" else "track1"
