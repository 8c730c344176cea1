"""The page of several runs: scores, paired differences to the first, wins and losses, configurations, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import DataError
from common.metrics.retrieval import KS
from common.pages.blocks import Block, Cell, Column, Gap, Page, Section, Table
from common.pages.charts import Bar, bars
from common.pages.images import Images
from common.submission.mdr import TASK_TITLES, tasks_of
from track1_mdr.compare import Comparison, Effect
from track1_mdr.gold import read_ground
from track1_mdr.report.duels import duel_blocks
from track1_mdr.report.entries import Entry, compare_entries, data_of, left_by, read_entries, runs_of
from track1_mdr.report.gallery import PICTURE_BYTES
from track1_mdr.report.page import Places, Say, choose_root, short, unknown_questions
from track1_mdr.report.record import gigabytes, seconds_told, settings
from track1_mdr.report.scoring import Scored, counted, score_run
from track1_mdr.report.views import Data


def compare_all(
    given: Sequence[str], places: Places, runs: Path, page: Path | None, say: Say, show: Callable[[object], None]
) -> int:
    """Compare the first of `given` with each other one; write the page if one is asked for, and return its bytes.

    Parameters
    ----------
    given
        Submission files, and runs by folder, name or "last".
    show
        Prints a rich renderable.

    Raises
    ------
    UserError
        A file or run is not there or breaks a rule; without a page, there is no gold for what they share.
    """
    from common.pages.render import write_page

    entries = read_entries(given, runs)
    root, gaps = choose_root(runs_of(entries), places)
    ground = read_ground(root)
    lost = any(entry.file is None for entry in entries)
    data = data_of(entries, root, places.cache) if lost or page is not None else None
    try:
        comparisons = compare_entries(entries, ground, data)
    except DataError as error:
        if page is None:
            raise
        comparisons = []
        gaps = [*gaps, Gap(f"No paired differences: {error.what}.", error.todo or "")]
        say(f"no comparison: {error.what}")
    for comparison in comparisons:
        show(comparison.render())
    if page is None or data is None:
        return 0
    return write_page(page, compare_page(entries, comparisons, data, gaps, root))


def compare_page(
    entries: Sequence[Entry], comparisons: Sequence[Comparison], data: Data, gaps: Sequence[Gap], root: Path
) -> Page:
    """Return the page of entries; `comparisons` are of the first with each other one, or none without gold."""
    scored = [score_run(left_by(entry), data) for entry in entries]
    images = Images(PICTURE_BYTES)
    said = [*gaps, *data.gaps]
    for entry, one in zip(entries, scored, strict=True):
        own = [*(entry.run.gaps if entry.run is not None else ()), *unknown_questions(one.run, data)]
        said += [Gap(f"{entry.label}: {gap.what}", gap.todo) for gap in own]
    duels = duel_blocks(entries, scored, images)
    sections = [
        Section("scores", "Scores", [*dict.fromkeys(said), names_table(entries), *score_blocks(entries, scored)]),
        Section("differences", "Differences to A", difference_blocks(entries, comparisons), _DIFFERENCES),
        Section("configurations", "Configurations", config_blocks(entries)),
        Section("costs", "What the runs cost", cost_blocks(entries)),
        Section("questions", "Wins and losses", duels, _DUELS),
    ]
    title = "Track 1: " + " against ".join(dict.fromkeys(entry.what for entry in entries))
    about = [("data", short(root)), *((entry.label, entry.name) for entry in entries)]
    tasks = {task for one in scored for task in one.run.tasks}
    subtitle = " and ".join(TASK_TITLES[task] for task in TASK_TITLES if task in tasks)
    return Page(title, f"{subtitle} · {len(entries)} runs", sections, images, about)


_DIFFERENCES = (
    "A minus the other, question by question: above 0 A is better. 95 % intervals by paired bootstrap over documents; "
    "domains are not corrected for their number."
)
_DUELS = "The questions on which the runs differ, the largest differences first. Pages are counted from 0."


def names_table(entries: Sequence[Entry]) -> Table:
    """Return what each letter stands for."""
    rows: list[list[Cell]] = [[e.label, e.what, e.name if e.run is not None else "a submission file"] for e in entries]
    return Table([Column("letter"), Column("configuration or file"), Column("run")], rows, "What is compared")


def score_blocks(entries: Sequence[Entry], scored: Sequence[Scored]) -> list[Block]:
    """Return every run's score with its interval and ceiling, as a chart and a table."""
    rows: list[list[Cell]] = []
    drawn: list[Bar] = []
    gaps: list[Block] = []
    for entry, one in zip(entries, scored, strict=True):
        if one.report is None:
            gaps += [Gap(f"{entry.label}: {one.gap.what}", one.gap.todo)] if one.gap is not None else []
            continue
        for task, score in one.report.tasks.items():
            low, high = one.interval([i for i in one.outcomes if tasks_of([i]) == (task,)]) or (None, None)
            best, micro = score.micro.ceiling["mean"], score.micro
            recalls = [micro.recall[f"R@{k}"] for k in KS]
            rows.append([entry.label, TASK_TITLES[task], micro.questions, *recalls, micro.mean, low, high, best])
            name = f"{entry.label} {entry.what}"
            drawn.append(Bar(name, micro.mean, low, high, TASK_TITLES[task], counted(micro.questions), best))
        if one.report.final is not None:
            count = sum(score.micro.questions for score in one.report.tasks.values())
            rows.append([entry.label, "final", count, None, None, None, one.report.final, None, None, None])
    if not rows:
        return gaps
    columns = [Column("run"), Column("task"), Column("n", ","), *(Column(f"R@{k}", ".1f") for k in KS)]
    columns += [Column("score", ".2f"), Column("from", ".1f"), Column("to", ".1f"), Column("at best", ".1f")]
    caption = "In points; from, to: 95 % interval of each run alone, by bootstrap over documents"
    text = "Intervals of single runs overlap sooner than that of their difference, which is below."
    return [*gaps, bars("Scores", drawn, text=text, axis="score, points", per="run"), Table(columns, rows, caption)]


def difference_blocks(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> list[Block]:
    """Return, for each other run, A's differences to it: final, by task and by domain."""
    blocks: list[Block] = []
    for entry, comparison in zip(entries[1:], comparisons, strict=False):
        effects: list[tuple[str, Effect]] = [("final", comparison.final)] if comparison.final is not None else []
        for task, effect in comparison.tasks.items():
            effects.append((TASK_TITLES[task], effect))
            effects += [(f"{TASK_TITLES[task]}: {name}", one) for name, one in comparison.domains.get(task, {}).items()]
        name, first = entry.label, effects[0][1]
        span = "" if first.low is None else f", 95 % interval {first.low:+.1f} to {first.high:+.1f}"
        text = f"A minus {name}: {first.difference:+.2f} points{span}."
        drawn = [Bar(label, e.difference, e.low, e.high, note=counted(e.questions)) for label, e in effects]
        title = f"A minus {name}"
        blocks.append(bars(title, drawn, text=text, axis="difference, points", per="questions", form="+.1f"))
        blocks.append(_effects_table(name, comparison, effects))
        blocks += [Gap(note) for note in comparison.notes]
    return blocks or [Gap("There is no gold that all of them can be scored on, so there are no differences.")]


def _effects_table(name: str, comparison: Comparison, effects: Sequence[tuple[str, Effect]]) -> Table:
    rows: list[list[Cell]] = [
        [label, e.questions, e.mean_a, e.mean_b, e.difference, e.low, e.high, e.p, e.wins, e.ties, e.losses]
        for label, e in effects
    ]
    columns = [Column("questions"), Column("n", ","), Column("A", ".1f"), Column(name, ".1f")]
    columns += [Column("difference", "+.1f"), Column("from", "+.1f"), Column("to", "+.1f"), Column("p", ".4f")]
    columns += [Column("A wins", ","), Column("same", ","), Column(f"{name} wins", ",")]
    caption = f"A minus {name}; {comparison.resamples:,} resamples by {comparison.unit}"
    return Table(columns, rows, caption)


def config_blocks(entries: Sequence[Entry]) -> list[Block]:
    """Return the configurations' keys that differ."""
    known = [(entry, settings(entry.run, every=True)) for entry in entries if entry.run is not None]
    known = [(entry, values) for entry, values in known if values]
    blocks: list[Block] = []
    absent = [entry.label for entry in entries if all(entry is not one for one, _ in known)]
    if absent:
        todo = "name the run's folder in the place of its submission"
        blocks.append(Gap(f"The configuration of {', '.join(absent)} is not known.", todo))
    if len(known) < 2:
        return blocks
    # A key that is default everywhere it stands says nothing, also where a route is not in all of them.
    keys = list(dict.fromkeys(key for entry, _ in known if entry.run is not None for key in settings(entry.run)))
    differ = [key for key in keys if len({values.get(key) for _, values in known}) > 1]
    rows: list[list[Cell]] = [[key, *(values.get(key) for _, values in known)] for key in differ]
    if not rows:
        return [*blocks, Gap(f"The configurations of {', '.join(e.label for e, _ in known)} are the same.")]
    columns = [Column("key"), *(Column(entry.label) for entry, _ in known)]
    return [
        *blocks,
        Table(columns, rows, f"{counted(len(rows), 'key')} in which they differ; a dash: it has no such part"),
    ]


def cost_blocks(entries: Sequence[Entry]) -> list[Block]:
    """Return time and memory of the runs, in all and by stage."""
    known = [(entry.label, entry.run.record) for entry in entries if entry.run is not None]
    absent = [entry.label for entry in entries if entry.run is None]
    blocks: list[Block] = []
    if absent:
        todo = "name the run's folder in the place of its submission"
        blocks.append(Gap(f"What {', '.join(absent)} cost is not known: a submission does not tell.", todo))
    if not known:
        return blocks
    rows: list[list[Cell]] = [
        [label, seconds_told(r.get("seconds") or 0.0), gigabytes(r.get("peak_bytes")), r.get("faults"), _machine(r)]
        for label, r in known
    ]
    columns = [Column("run"), Column("time"), Column("memory"), Column("failed items", ","), Column("machine")]
    blocks.append(Table(columns, rows, "In all"))
    times = {label: _stage_seconds(record) for label, record in known}
    stages = list(dict.fromkeys(stage for one in times.values() for stage in one))
    if stages:
        head = [Column("stage"), *(Column(label, ".1f") for label in times)]
        body: list[list[Cell]] = [[stage, *(one.get(stage) for one in times.values())] for stage in stages]
        blocks.append(Table(head, body, "Seconds by stage; a part that a cache had ready takes less"))
    return blocks


def _machine(record: object) -> str:
    machine = (record.get("machine") if isinstance(record, dict) else None) or {}
    return ", ".join(str(machine[key]) for key in ("cpu", "cores", "gpu") if machine.get(key))


def _stage_seconds(record: object) -> dict[str, float]:
    """Return the seconds of each stage; a stage that was timed twice counts in all."""
    found: dict[str, float] = {}
    for one in (record.get("stages") if isinstance(record, dict) else None) or ():
        found[str(one["stage"])] = found.get(str(one["stage"]), 0.0) + one["wall_seconds"]
    return found
