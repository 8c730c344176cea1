"""The list of runs as a page: the best of each track, scores as runs went by, all runs to sort, filter and search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.pages.blocks import Block, Card, Cell, Choice, Column, Fact, Facts, Gallery, Gap, Link, Page, Section, Table
from common.pages.charts import Point, lines
from common.pages.images import Images
from common.runs.find import HOW_TO_RUN, short_names
from common.runs.records import Run
from common.runs.select import best_by_config, best_runs, ordered, search_text
from common.runs.text import (
    NONE,
    TRACKS,
    hash_text,
    memory_text,
    of_text,
    public_text,
    score_text,
    started_text,
    time_text,
)

REPORT = "report.html"
_INTRO = "A head sorts. The best of each track stands out; runs over other numbers of questions or rows have their own."
_SCORE, _ERROR = "#.4g", "#.2g"  # points and AUCs stand in one column
_COLUMNS = (
    Column("run", note="The end of its folder's name: what report, compare and show take for it"),
    Column("config"),
    Column("score", _SCORE, "Track 1: points of 100; Track 2: AUC"),
    Column("error", _ERROR, "Standard error; questions of a document or rows of a user are taken together"),
    Column("of", note="Which figure, and over how many questions or rows"),
    Column("report", note="The run's own page, where the verb report made one"),
    Column("status"),
    Column("tags"),
    Column("public", _SCORE, "On the leaderboard, once it is known"),
    Column("started", note="UTC"),
    Column("seconds", ",.1f"),
    Column("memory, GB", ".2f", "Largest resident memory"),
    Column("submission", note="Start of the file's SHA-256"),
    Column("faults", ",", "Items that failed and were left out"),
    Column("track"),
)


def runs_page(runs: Sequence[Run], folder: Path, out: Path) -> Page:
    """Return the page of all `runs`, which were read from `folder`; `out` is where it will be, for the links."""
    images = Images()
    if not runs:
        gap = Gap("There are no runs yet.", f"make one: {HOW_TO_RUN}")
        return Page("Runs", "Both tracks", [Section("runs", "All runs", [gap])], images)
    short = short_names([run.name for run in runs])
    tracks = sorted({run.track for run in runs})
    sections = [
        Section("best", "Best", [_best_facts(runs, short), *_gap_of_scores(runs), *_by_config(runs, short)]),
        Section("time", "Scores as runs went by", _charts(runs, short) or [Gap("No finished run has a score yet.")]),
        Section("all", "All runs", [_table(ordered(runs, "started"), short, out)], _INTRO),
        Section("find", "Find a run", [_gallery(ordered(runs, "started"), short)]),
    ]
    names = ", ".join(TRACKS.get(track, track) for track in tracks)
    return Page("Runs", f"{len(runs):,} runs of {names}", sections, images, [("runs", folder.name)])


def _best_facts(runs: Sequence[Run], short: dict[str, str]) -> Facts:
    found = [
        Fact(
            f"{TRACKS.get(run.track, run.track)}, {run.headline.name}",
            *_split(run.headline.text, f"{run.config} {short[run.name]}, {run.headline.of}"),
            "good",
        )
        for run in best_runs(runs)
        if run.headline is not None
    ]
    counts = [(status, sum(run.status_text == status for run in runs)) for status in _distinct(runs)]
    return Facts([*found, Fact("Runs", f"{len(runs):,}", ", ".join(f"{count:,} {status}" for status, count in counts))])


def _split(score: str, what: str) -> tuple[str, str]:
    """Return the value, and its error with what it is of: a card shows the one large and the other small."""
    value, _, error = score.partition(" ")
    return value, f"{error}; {what}" if error else what


def _distinct(runs: Sequence[Run]) -> list[str]:
    return sorted({run.status_text for run in runs})


def _gap_of_scores(runs: Sequence[Run]) -> list[Block]:
    """Return what is to be said of tracks of which no run has a score."""
    scored = {run.track for run in runs if run.headline is not None}
    return [
        Gap(
            f"No run of {title} has a score.",
            f"a finished run on data with gold or labels has one: python -m {package} run --data data/sample",
        )
        for track, title, package in (("track1", "Track 1", "track1_mdr"), ("track2", "Track 2", "track2_mmctr"))
        if track not in scored
    ]


def _by_config(runs: Sequence[Run], short: dict[str, str]) -> list[Block]:
    best = best_by_config(runs)
    if not best:
        return []
    columns = [Column("config"), Column("score", _SCORE), Column("error", _ERROR), Column("of")]
    columns += [Column("seconds", ",.1f"), Column("run"), Column("track")]
    rows: list[list[Cell]] = [
        [run.config, *_score_cells(run), of_text(run), run.seconds, short[run.name], run.track] for run in best
    ]
    first = {run.name for run in best_runs(runs)}
    marked = frozenset(row for row, run in enumerate(best) if run.name in first)
    return [Table(columns, rows, "The best run of each configuration", marked)]


def _score_cells(run: Run) -> list[Cell]:
    return [None, None] if run.headline is None else [run.headline.value, run.headline.error]


def _charts(runs: Sequence[Run], short: dict[str, str]) -> list[Block]:
    """Return a chart for each track, figure and data: every run's score in the order of start, and the best so far."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in reversed(ordered(runs, "started")):
        if run.comparable is not None and run.status == "finished":
            groups.setdefault(run.comparable, []).append(run)
    several = sorted(groups.items(), key=lambda pair: (len(pair[1]) < 2, pair[0]))
    return [_chart(key, group, short) for key, group in several]


def _chart(key: tuple[str, str, str], group: Sequence[Run], short: dict[str, str]) -> Block:
    track, name, of = key
    each: list[Point] = []
    best: list[Point] = []
    highest = float("-inf")
    for number, run in enumerate(group, start=1):
        if run.headline is None:
            continue
        value, error = run.headline.value, run.headline.error
        highest = max(highest, value)
        low, high = (None, None) if error is None else (value - error, value + error)
        note = f"{run.config} {short[run.name]}, {started_text(run)}"
        each.append(Point(number, value, "each run", low, high, note))
        best.append(Point(number, highest, "best so far"))
    title = f"{TRACKS.get(track, track)}: {name}, {of}"
    if len(each) < 2:
        return Gap(f"{title}: one run, and nothing to draw a line to.")
    text = f"{len(each)} runs in the order they started; the best has {highest:.4g}. The band is one standard error."
    digits = ".4f" if name.endswith("AUC") else ".2f"
    return lines(title, each + best, text=text, x="run, in order of start", y=name, form=digits)


def _report(run: Run, out: Path) -> Cell:
    """Return a link to the run's own page from one at `out`; None where there is no such page."""
    path = run.folder / REPORT if run.folder else None
    if path is None or not path.is_file():
        return None
    return Link("report", Path(os.path.relpath(path, out.parent)).as_posix())


def _table(runs: Sequence[Run], short: dict[str, str], out: Path) -> Table:
    rows: list[list[Cell]] = [
        [
            short[run.name],
            run.config,
            *_score_cells(run),
            None if run.headline is None else of_text(run),
            _report(run, out),
            run.status_text,
            " ".join(run.tags) or None,
            run.public,
            started_text(run),
            run.seconds,
            None if run.peak_bytes is None else run.peak_bytes / 1e9,
            None if run.submission is None else hash_text(run),
            run.faults,
            run.track,
        ]
        for run in runs
    ]
    first = {run.name for run in best_runs(runs)}
    return Table(_COLUMNS, rows, marked=frozenset(row for row, run in enumerate(runs) if run.name in first))


def _gallery(runs: Sequence[Run], short: dict[str, str]) -> Gallery:
    first = {run.name for run in best_runs(runs)}
    filters = [Choice("track", "Track"), Choice("status", "Status"), Choice("config", "Configuration")]
    filters += [Choice("tag", "Tag")] if any(run.tags for run in runs) else []
    filters += [Choice("best", "Best")] if first else []
    sorts = [Choice("started", "newest first", True), Choice("score", "score", True)]
    sorts += [Choice("seconds", "time"), Choice("memory", "memory")]
    return Gallery([_card(run, short, run.name in first) for run in runs], "runs", filters, sorts)


def _card(run: Run, short: dict[str, str], best: bool) -> Card:
    facts = [
        ("score", NONE if run.headline is None else f"{score_text(run)} ({of_text(run)})"),
        ("started", started_text(run)),
        ("time", time_text(run.seconds)),
        ("memory", memory_text(run.peak_bytes)),
        ("status", run.status_text),
        ("folder", run.name),
        ("submission", hash_text(run)),
        ("public score", public_text(run)),
        ("tags", " ".join(run.tags)),
    ]
    facts = [(label, text) for label, text in facts if text not in ("", NONE)]
    facts += [("problem", problem) for problem in run.problems]
    values = {
        "started": None if run.started is None else run.started.timestamp(),
        "score": None if run.headline is None else run.headline.value,
        "seconds": run.seconds,
        "memory": run.peak_bytes,
    }
    return Card(
        title=f"{run.config} {short[run.name]}",
        facts=facts,
        facets={
            "track": [run.track],
            "status": [run.status_text],
            "config": [run.config],
            "tag": run.tags,
            "best": ["best of its track"] if best else [],
        },
        numbers={key: float(value) for key, value in values.items() if value is not None},
        search=search_text(run),
    )
