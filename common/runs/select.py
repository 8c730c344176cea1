"""Which runs are shown, in which order, and which is the best of those that can be ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from common.errors import ConfigError
from common.runs.records import STATUSES, Run

Order = Literal["started", "score", "time", "memory", "name"]


@dataclass(frozen=True)
class Filters:
    """What a run must be to be shown; an empty field asks nothing.

    Attributes
    ----------
    track, status, config
        Equal to the run's; the status as recorded ("running", not "running or killed").
    tags
        The run has all of them.
    since
        The run started then or later; one without a time is left out.
    words
        Each stands somewhere in the run's name, configuration's name, changed keys, tags, status or errors.
    """

    track: str = ""
    status: str = ""
    config: str = ""
    tags: tuple[str, ...] = ()
    since: datetime | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status and self.status not in STATUSES:
            raise ConfigError(
                "there is no such status", where="--status", expected=", ".join(STATUSES), got=self.status
            )

    def keep(self, run: Run) -> bool:
        """Return whether the run is shown."""
        equal = ((self.track, run.track), (self.status, run.status), (self.config, run.config))
        if any(asked and asked != value for asked, value in equal) or not set(self.tags) <= set(run.tags):
            return False
        if self.since is not None and (run.started is None or run.started < self.since):
            return False
        text = search_text(run).casefold() if self.words else ""
        return all(word.casefold() in text for word in self.words)


def search_text(run: Run) -> str:
    """Return all words by which a run is found."""
    changed = run.record.get("changed")
    keys = [f"{key}={value}" for key, value in changed.items()] if isinstance(changed, dict) else []
    sha = run.submission["sha256"] if run.submission else ""
    return " ".join([run.name, run.config, *run.tags, run.status_text, *run.problems, sha, *keys])


def since_time(text: str) -> datetime:
    """Return the time that "2026-11-29" or "2026-11-29T18:00" names, UTC unless it says another zone.

    Raises
    ------
    ConfigError
        The text is no date.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "this is no date", where="--since", expected="2026-11-29 or 2026-11-29T18:00 (UTC)", got=text
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def ordered(runs: Iterable[Run], order: Order) -> list[Run]:
    """Return the runs with the newest, best, quickest or smallest first, or by name.

    A run without the figure comes last. Scores stand together by track and by what they are over.
    """
    oldest = sorted(runs, key=_started)
    newest = oldest[::-1]
    if order == "started":
        return newest
    if order == "name":
        return sorted(newest, key=lambda run: (run.config, run.name))
    if order == "score":
        return sorted(oldest, key=_score)  # of equals, the one that was first
    values = {"time": lambda run: run.seconds, "memory": lambda run: run.peak_bytes}[order]
    return sorted(newest, key=lambda run: (values(run) is None, values(run) or 0))


def best_runs(runs: Iterable[Run]) -> list[Run]:
    """Return the best finished run of each track, figure and data; of equals, the one that was first.

    Runs over different numbers of questions or rows had different data (the sample, a part, all): each has its best.
    """
    return _best(runs, by_config=False)


def best_by_config(runs: Iterable[Run]) -> list[Run]:
    """Return the best finished run of each configuration, track, figure and data."""
    return _best(runs, by_config=True)


def _best(runs: Iterable[Run], by_config: bool) -> list[Run]:
    best: dict[Sequence[str], Run] = {}
    for run in sorted(runs, key=_started):
        if run.headline is None or run.comparable is None or run.status != "finished":
            continue
        key = (*run.comparable, run.config if by_config else "")
        old = best[key].headline if key in best else None
        if old is None or run.headline.value > old.value:
            best[key] = run
    return ordered(best.values(), "score")


def _started(run: Run) -> tuple[str, str]:
    return ("" if run.started is None else run.started.astimezone(UTC).isoformat(), run.name)


def _score(run: Run) -> tuple[bool, tuple[str, str, str], float]:
    if run.headline is None or run.comparable is None:
        return True, ("", "", ""), 0.0
    return False, run.comparable, -run.headline.value
