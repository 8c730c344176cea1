"""The list of runs in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.runs.find import short_names
from common.runs.records import GONE, UNREADABLE, Run
from common.runs.text import hash_text, memory_text, of_text, public_text, score_text, started_text, time_text

if TYPE_CHECKING:
    from rich.table import Table

BEST = "★"
_RIGHT = {"score", "public", "time", "memory", "faults"}
# The first go first where the terminal is narrow; `show`, `page` and --json have them all.
_LESS = ("memory", "submission", "faults", "of", "started", "public", "time")
_GAP = 2
_LONGEST_LINE = 200


def columns(shown: Sequence[Run], best: Sequence[Run], names: Sequence[str]) -> dict[str, list[str]]:
    """Return column -> a text for each run.

    Parameters
    ----------
    shown
        The runs of the table.
    best
        Those to be marked.
    names
        Names of all runs, among which a short name must be the only one.
    """
    short, first = short_names(names), {run.name for run in best}
    return {
        "": [BEST if run.name in first else "" for run in shown],
        "run": [short[run.name] for run in shown],
        "started": [started_text(run) for run in shown],
        "track": [run.track for run in shown],
        "config": [run.config for run in shown],
        "score": [score_text(run) for run in shown],
        "of": [of_text(run) for run in shown],
        "public": [public_text(run) for run in shown],
        "time": [time_text(run.seconds) for run in shown],
        "memory": [memory_text(run.peak_bytes) for run in shown],
        "submission": [hash_text(run) for run in shown],
        "tags": [" ".join(run.tags) for run in shown],
        "status": [run.status_text for run in shown],
        "faults": [str(run.faults) if run.faults else "" for run in shown],
    }


def fitting(found: Mapping[str, Sequence[str]], width: int | None) -> list[str]:
    """Return the columns that fit into `width` characters (None = any); columns without a text are left out."""
    kept = [name for name, texts in found.items() if any(texts)]
    for name in _LESS:
        if width is None or needed(found, kept) <= width:
            break
        kept = [column for column in kept if column != name]
    return kept


def needed(found: Mapping[str, Sequence[str]], kept: Sequence[str]) -> int:
    """Return how many characters the columns take side by side."""
    return sum(max(len(name), *map(len, found[name])) + _GAP for name in kept)


def render(found: Mapping[str, Sequence[str]], kept: Sequence[str], shown: Sequence[Run]) -> Table:
    """Return the columns `kept` as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in kept:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for row, run in enumerate(shown):
        style = "bold green" if found[""][row] else _STYLES.get(run.status, "")
        table.add_row(*(Text(found[name][row]) for name in kept), style=style)  # Text: no markup of theirs
    return table


_STYLES = {"failed": "red", UNREADABLE: "red", GONE: "dim", "interrupted": "yellow", "running": "cyan"}


def notes(shown: Sequence[Run], found: Mapping[str, Sequence[str]], kept: Sequence[str], total: int) -> list[str]:
    """Return the lines below the table: what the marks mean, what is left out, and each run's problems."""
    lines = [
        f"{name}: {problem.splitlines()[0][:_LONGEST_LINE]}"
        for run, name in zip(shown, found["run"], strict=True)
        for problem in run.problems
        if problem.strip()
    ]
    if any(found[""]):
        lines.append(f"{BEST} best of its track over the same number of questions or rows")
    left_out = [name for name, texts in found.items() if name not in kept and any(texts)]
    if left_out:
        lines.append(f"left out for the width: {', '.join(left_out)} (a wider terminal, show, page or --json has them)")
    if len(shown) < total:
        lines.append(f"{len(shown):,} of {total:,} runs shown; --limit 0 shows all")
    return lines


def as_json(shown: Sequence[Run], best: Sequence[Run]) -> list[dict[str, object]]:
    """Return the runs for JSON: figures as numbers, hashes whole."""
    first = {run.name for run in best}
    return [
        {
            "run": run.name,
            "track": run.track,
            "config": run.config,
            "started": None if run.started is None else run.started.isoformat(),
            "status": run.status,
            "score": None if run.headline is None else run.headline.value,
            "error": None if run.headline is None else run.headline.error,
            "score_is": None if run.headline is None else of_text(run),
            "best": run.name in first,
            "public": run.public,
            "seconds": run.seconds,
            "peak_bytes": run.peak_bytes,
            "faults": run.faults,
            "submission": None if run.submission is None else dict(run.submission),
            "tags": list(run.tags),
            "problems": list(run.problems),
        }
        for run in shown
    ]
