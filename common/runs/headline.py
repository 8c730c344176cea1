"""A run's first figure, read from its `metrics.json`: which keys hold it, and what it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from common.submission.send_log import LocalScore, local_score


@dataclass(frozen=True)
class Headline:
    """The figure by which runs are ranked.

    Attributes
    ----------
    value
        Track 1: points, 0 to 100; Track 2: AUC, 0 to 1.
    error
        Its standard error, with a document's questions (Track 1) or a user's rows (Track 2) taken together where the
        run says so; None where the run did not record one.
    name
        "both tasks", "MMDocIR only", "test AUC", "valid AUC".
    of
        How many questions or rows it is over, as "39 + 84 questions" (tasks by name) or "1,500 rows". Runs over
        different numbers of them had different data, and are not ranked against each other.
    """

    value: float
    error: float | None
    name: str
    of: str

    @property
    def digits(self) -> int:
        """Digits behind the point: points with two, an AUC with four."""
        return 4 if self.name.endswith("AUC") else 2

    @property
    def text(self) -> str:
        """Value and error as they are shown."""
        error = "" if self.error is None else f" ± {self.error:.{self.digits}f}"
        return f"{self.value:.{self.digits}f}{error}"


def headline(track: str, metrics: Mapping[str, Any]) -> Headline | None:
    """Return the first figure among a run's metrics, or None where there is none (no gold, no labels, a broken file).

    Keys of Track 1: `final` and `standard_error`, or of the one task with gold `tasks.<task>.mean` and
    `standard_error_by_document`, else `standard_error`; `tasks.<task>.questions`. Keys of Track 2: under `test`, else
    `valid`: `auc`, `standard_error_by_user`, else `standard_error`; `overall.rows`.
    """
    if track != "track1" and track != "track2":
        return None
    score = local_score(track, metrics)
    if score is None or not math.isfinite(score.value):
        return None
    try:
        error, of = _track1(metrics, score) if track == "track1" else _track2(metrics)
    except (AttributeError, KeyError, TypeError, ValueError):
        error, of = None, ""
    return Headline(score.value, error, score.name, of)


def _track1(metrics: Mapping[str, Any], score: LocalScore) -> tuple[float | None, str]:
    tasks = metrics["tasks"]
    of = " + ".join(f"{int(tasks[task]['questions']):,}" for task in sorted(tasks)) + " questions"
    if score.comparable:
        return _number(metrics.get("standard_error")), of
    return _first_error(next(iter(tasks.values())), "standard_error_by_document"), of


def _track2(metrics: Mapping[str, Any]) -> tuple[float | None, str]:
    split: Literal["test", "valid"] = "test" if "test" in metrics else "valid"
    figures = metrics[split]
    return _first_error(figures, "standard_error_by_user"), f"{int(figures['overall']['rows']):,} rows"


def _first_error(figures: Mapping[str, Any], clustered: str) -> float | None:
    error = _number(figures.get(clustered))
    return _number(figures.get("standard_error")) if error is None else error


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
