"""The page of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.pages.blocks import Block, Cell, Column, Gap, Page, Section, Table
from common.pages.images import Images
from common.submission.mdr import TASK_TITLES, tasks_of
from track1_mdr.config import DataConfig
from track1_mdr.report.collect import RunFiles, read_run
from track1_mdr.report.figures import curve_blocks, group_blocks, score_blocks
from track1_mdr.report.gallery import PICTURE_BYTES, gallery_blocks
from track1_mdr.report.record import about, run_blocks
from track1_mdr.report.routes import route_blocks
from track1_mdr.report.scoring import Scored, counted, score_run
from track1_mdr.report.views import Data, read_data

HARDEST = 30
"""Documents in the table of the hardest."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Places:
    """Where a page's parts are read from.

    Attributes
    ----------
    data
        The data root; None takes the one that a run recorded, where it is still there, else `default`.
    default
        Returns the data root of a command without `--data`.
    cache
        Where runs keep prepared documents.
    """

    data: Path | None
    default: Callable[[], Path]
    cache: Path


def write_report(folder: Path, places: Places, out: Path, say: Say) -> int:
    """Write the report of the run in `folder` to `out`, and return its size in bytes.

    Raises
    ------
    DataError
        The folder has no readable run.json.
    """
    from common.pages.render import write_page

    run = read_run(folder)
    root, gaps = choose_root([run], places)
    say(f"run {run.name}, data {root}")
    data = read_data(root, data_config(run), places.cache, run.tasks)
    scored = score_run(run, data)
    page = report_page(scored, [*gaps, *unknown_questions(run, data)], root)
    return write_page(out, page)


def choose_root(runs: Sequence[RunFiles], places: Places) -> tuple[Path, list[Gap]]:
    """Return the data root that the first run recorded, or what was asked for; a gap where it had to be guessed."""
    if places.data is not None:
        return places.data, []
    recorded = [path for run in runs if (path := run.record.get("data"))]
    for path in recorded:
        if Path(path).is_dir():
            return Path(path), []
    root = places.default()
    if not runs:
        return root, []
    why = "is no longer there" if recorded else "is not recorded, as in older runs"
    return root, [Gap(f"The run's data root {why}: {short(root)} is shown.", "name another one with --data")]


def short(path: Path) -> str:
    """Return the last two parts of a path: what tells data roots apart, and nothing of the machine."""
    return "/".join(path.parts[-2:])


def data_config(run: RunFiles | None) -> DataConfig:
    """Return how the run read its data; the defaults where that is not known."""
    return run.config.data if run is not None and run.config is not None else DataConfig()


def unknown_questions(run: RunFiles, data: Data) -> list[Gap]:
    """Return a gap for each task of which the data root does not have all of the run's questions."""
    gaps: list[Gap] = []
    for task in run.tasks:
        known = data.views[task].questions
        ranked = run.sources[task].questions if task in run.sources else []
        absent = {i for i in (*(run.submission or ()), *ranked) if tasks_of([i]) == (task,) and i not in known}
        if known and absent:
            gaps.append(
                Gap(
                    f"{TASK_TITLES[task]}: the data root lacks {counted(len(absent))} of the run.",
                    "name the data root that the run read with --data",
                )
            )
    return gaps


def report_page(scored: Scored, gaps: Sequence[Gap], root: Path) -> Page:
    """Return the page of a scored run; `gaps` stand first."""
    run, images = scored.run, Images(PICTURE_BYTES)
    questions: list[Block] = gallery_blocks(scored, images)
    sections = [
        Section("scores", "Scores", [*gaps, *run.gaps, *scored.data.gaps, *score_blocks(scored)]),
        Section("curves", "Recall by depth", curve_blocks(scored)),
        Section("groups", "Where it is good, where not", group_blocks(scored), _GROUPS),
        Section("routes", "Routes: each alone, and what it adds", route_blocks(scored), _ROUTES),
        Section("documents", "Hardest documents", hardest_documents(scored), _HARDEST),
        Section("run", "Time, memory and configuration", run_blocks(run)),
        Section("questions", "Questions, errors first", questions, _QUESTIONS),
    ]
    tasks = " and ".join(TASK_TITLES[task] for task in run.tasks) or "no task"
    title = f"Track 1: {run.record.get('config', run.name)}"
    return Page(title, f"{tasks} · run {run.name}", sections, images, about(run, short(root)))


_GROUPS = (
    "Bars: mean of recall@1, 3 and 5, in points; lines: 95 % interval by bootstrap over documents; ticks: what a "
    "perfect ranking gets. A question with several labels counts in each."
)
_ROUTES = (
    "A route has found a gold passage when it is among its own first five. Rankings follow each other: the last one "
    "is the run's answer."
)
_QUESTIONS = (
    "Pages are counted from 0, as in the submission. Below a page: each source's rank and score of it, if it is among "
    "the source's first 20; in its words, those of the question are marked."
)
_HARDEST = (
    "In the order of what there is to gain: the points by which the task's score would rise if all questions of the "
    "document were answered in full."
)


def hardest_documents(scored: Scored) -> list[Block]:
    """Return the documents that cost the task's score most."""
    asked: dict[str, list[str]] = {}
    view = scored.data.views.get("mmdocir")
    for i in scored.gold_of("mmdocir"):
        asked.setdefault(view.question(i).document if view else "", []).append(i)
    total = sum(len(ids) for ids in asked.values())
    rows: list[tuple[float, str, list[Cell]]] = []
    for name, ids in asked.items():
        outcomes = [scored.outcomes[i] for i in ids]
        lost = sum(one.ceiling - one.score for one in outcomes)
        known = view.question(ids[0]) if view else None
        mean = sum(one.score for one in outcomes) / len(ids)
        missed = sum(not one.found for one in outcomes)
        told: list[Cell] = [name, *((known.domain, known.pages) if known else ("", 0)), len(ids), missed, mean]
        rows.append((-lost / total, name, [*told, lost / total]))
    if not rows:
        return [Gap("MMDocIR has no gold here, or the run did not rank it: documents cannot be told apart.")]
    rows.sort(key=lambda row: row[:2])
    columns = [Column("document"), Column("domain"), Column("pages", ","), Column("questions", ",")]
    columns += [Column("nothing found", ",", "questions without a gold page in the first five")]
    columns += [Column("score", ".1f"), Column("to gain", ".2f", "points of MMDocIR's score")]
    return [
        Table(columns, [row for _, _, row in rows[:HARDEST]], f"{min(HARDEST, len(rows))} of {len(rows)} documents")
    ]
