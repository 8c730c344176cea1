"""A run's figures as text, the same in the terminal and on the page."""

from __future__ import annotations

from datetime import UTC

from common.runs.records import Run

TRACKS = {"track1": "Track 1", "track2": "Track 2"}
NONE = "-"


def score_text(run: Run) -> str:
    """Return the first figure with its error."""
    return NONE if run.headline is None else run.headline.text


def of_text(run: Run) -> str:
    """Return what the figure is and over how much: "test AUC, 1,500 rows"."""
    if run.headline is None:
        return NONE
    return ", ".join(part for part in (run.headline.name, run.headline.of) if part)


def public_text(run: Run) -> str:
    """Return the score on the leaderboard, in the digits of the local one."""
    if run.public is None:
        return NONE
    digits = run.headline.digits if run.headline is not None else 4 if run.track == "track2" else 2
    return f"{run.public:.{digits}f}"


def time_text(seconds: float | None) -> str:
    """Return a duration for people.

    >>> time_text(7.26), time_text(153), time_text(7300), time_text(None)
    ('7.3 s', '2 min 33 s', '2 h 2 min', '-')
    """
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def memory_text(count: int | None) -> str:
    """Return a number of bytes in GB.

    >>> memory_text(1_554_305_024), memory_text(None)
    ('1.55 GB', '-')
    """
    return NONE if count is None else f"{count / 1e9:.2f} GB"


def started_text(run: Run) -> str:
    """Return when the run started, UTC, to the minute."""
    return NONE if run.started is None else run.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def hash_text(run: Run) -> str:
    """Return the start of the submission's SHA-256."""
    return NONE if run.submission is None else run.submission["sha256"][:8]
