"""What the runs left behind: `run.json`, `metrics.json`, tags, and the lines of `log.jsonl`, one value a run.

Nothing is skipped: a run whose record cannot be read is there with its fault, one whose folder was removed with what
its line in the log says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.experiment import read_log
from common.runs.find import run_folders, run_track, stamp_of
from common.runs.headline import Headline, headline
from common.runs.tags import FILE as TAGS
from common.runs.tags import read_tags
from common.submission import send_log

UNREADABLE, GONE = "unreadable", "gone"
STATUSES = ("finished", "failed", "interrupted", "running", UNREADABLE, GONE)
_SHOWN = {"running": "running or killed", UNREADABLE: "record unreadable", GONE: "folder is gone"}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes
    ----------
    name
        Of its folder.
    folder
        None where only the log remembers the run.
    track, config
        As recorded: "track1", "track2", or of other work with a record ("track1-fit").
    started
        UTC; None where neither the record nor the folder's name says it.
    status
        "finished", "failed", "interrupted", "running" (or killed: its record cannot tell), "unreadable" (no record,
        or a broken one), "gone" (the folder was removed).
    seconds, peak_bytes
        Wall time, and the largest resident memory.
    faults
        Items that failed and were left out.
    headline
        Its first figure.
    submission
        {"path", "sha256"} of the file that it made.
    public
        Score on the leaderboard of the file with these bytes, in the unit of the headline.
    tags
        In order.
    problems
        What could not be read, and the run's own error: one sentence each.
    """

    name: str
    folder: Path | None
    track: str
    config: str
    started: datetime | None
    status: str
    seconds: float | None = None
    peak_bytes: int | None = None
    faults: int = 0
    headline: Headline | None = None
    submission: Mapping[str, str] | None = None
    public: float | None = None
    tags: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metrics: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def status_text(self) -> str:
        """The status as it is shown."""
        return _SHOWN.get(self.status, self.status)

    @property
    def comparable(self) -> tuple[str, str, str] | None:
        """What runs must share to be ranked: track, which figure, and over how many questions or rows."""
        return None if self.headline is None else (self.track, self.headline.name, self.headline.of)


def read_runs(runs: Path) -> list[Run]:
    """Return all runs under the folder `runs`, oldest first; none where it is not there."""
    log = read_log(runs)
    public = public_scores(send_log.attempts_in(log))
    folders = run_folders(runs)
    found = [read_run(folder, public) for folder in folders]
    there = {folder.name for folder in folders}
    lines = {str(row["run"]): row for row in log if row.get("event") != send_log.EVENT and row.get("run")}
    gone = [(name, row) for name, row in lines.items() if name not in there]
    found += [_run(None, name, row, _mapping(row.get("metrics")), public, (), ()) for name, row in gone]
    return sorted(found, key=lambda run: ("" if run.started is None else run.started.isoformat(), run.name))


def read_run(folder: Path, public: Mapping[str, float]) -> Run:
    """Return the run in `folder`; `public`: see `public_scores`."""
    problems: list[str] = []
    record = _read(folder / "run.json", problems)
    metrics = _read(folder / "metrics.json", problems, optional=True)
    tags: tuple[str, ...] = ()
    try:
        tags = read_tags(folder)
    except DataError as error:
        problems.append(f"{error.what}: {TAGS}")
    return _run(folder, folder.name, record, metrics or {}, public, tags, tuple(problems))


def public_scores(attempts: Sequence[send_log.Attempt]) -> dict[str, float]:
    """Return SHA-256 -> score on the leaderboard, Track 1's in points; of several, the last known."""
    return {
        attempt.sha256: send_log.public_value(attempt.track, attempt.public_score)
        for attempt in attempts
        if attempt.public_score is not None
    }


def _run(
    folder: Path | None,
    name: str,
    record: Mapping[str, Any] | None,
    metrics: Mapping[str, Any],
    public: Mapping[str, float],
    tags: tuple[str, ...],
    problems: tuple[str, ...],
) -> Run:
    found = record or {}
    track = str(found.get("track") or ("" if folder is None else run_track(folder)) or "unknown")
    file = _file(found.get("submission"))
    status = str(found.get("status"))
    if record is None or status not in STATUSES:
        status = UNREADABLE
    error = (str(found["error"]),) if found.get("error") else ()
    peak, faults = _number(found.get("peak_bytes")), _number(found.get("faults"))
    return Run(
        name=name,
        folder=folder,
        track=track,
        config=str(found.get("config") or "unknown"),
        started=_time(found.get("started")) or stamp_of(name),
        status=GONE if folder is None else status,
        seconds=_number(found.get("seconds")),
        peak_bytes=None if peak is None else int(peak),
        faults=0 if faults is None else int(faults),
        headline=headline(track, metrics),
        submission=file,
        public=None if file is None else public.get(file["sha256"]),
        tags=tags,
        problems=(*problems, *error),
        record=found,
        metrics=metrics,
    )


def _read(path: Path, problems: list[str], optional: bool = False) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not optional:
            problems.append(f"{path.name} is missing")
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds a {type(value).__name__} where a mapping is expected")
        return None
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _file(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict) or not value.get("path") or not value.get("sha256"):
        return None
    return {key: str(value[key]) for key in ("path", "sha256")}


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
