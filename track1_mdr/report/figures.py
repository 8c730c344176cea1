"""Scores, curves and bars of one run. All figures are `evaluate`'s and `compare`'s; here they are put into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.metrics.retrieval import KS, ceiling_at, recall_at
from common.pages.blocks import Block, Cell, Column, Fact, Facts, Gap, Table
from common.pages.charts import Bar, Point, bars, lines
from common.submission.mdr import TASK_TITLES, Task, tasks_of
from track1_mdr.compare import RESAMPLES, score_interval, units_of
from track1_mdr.evaluate import Figures
from track1_mdr.question_scores import figures_by
from track1_mdr.report.scoring import DEPTH, Scored, counted

LENGTHS = (10, 20, 50, 100)
"""Upper ends of the groups of document length, in pages."""
FEW_WORDS = 10
"""A page with fewer words is an image to a text route."""
LINES = 6
"""Routes in one chart of curves, beside the answer's and a perfect ranking's: each has a colour of its own."""
ANSWER = "answer"
"""What the run's own answer is called among its sources."""
FIRST = max(KS)

Labels = Mapping[str, Sequence[str]]
"""question id -> its labels: a question counts in each."""


def score_blocks(scored: Scored) -> list[Block]:
    """Return the scores: figures to be seen first, then a table by task and domain."""
    if scored.report is None:
        return [scored.gap, *_recorded(scored.run.metrics)] if scored.gap else []
    facts: list[Fact] = []
    every = list(scored.outcomes)
    if scored.report.final is not None:
        parts = [[i for i in every if tasks_of([i]) == (task,)] for task in scored.report.tasks]
        documents = scored.data.documents()
        span = score_interval(
            [(np.asarray([scored.outcomes[i].score for i in ids]), units_of(ids, documents)) for ids in parts]
        )
        facts.append(Fact("Final score", f"{scored.report.final:.2f}", f"{_span(span)}mean of the two tasks, of 100"))
    for task, score in scored.report.tasks.items():
        span = scored.interval([i for i in every if tasks_of([i]) == (task,)])
        note = f"{_span(span)}{score.micro.ceiling['mean']:.1f} at best · {counted(score.micro.questions)}"
        facts.append(Fact(TASK_TITLES[task], f"{score.micro.mean:.2f}", note))
    blocks: list[Block] = [Facts(facts), *(_score_table(scored, task) for task in scored.report.tasks)]
    notes = [note for note in scored.report.notes if note]
    changed = _changed(scored)
    return [*blocks, *([Gap(" · ".join(notes))] if notes else []), *([changed] if changed else [])]


def _span(span: tuple[float, float] | None) -> str:
    return f"{span[0]:.1f} to {span[1]:.1f} · " if span else ""


def _recorded(metrics: Mapping[str, Any]) -> list[Block]:
    """Return the score that the run recorded when it had gold."""
    tasks = metrics.get("tasks")
    if not isinstance(tasks, dict):
        return []
    known = [(task, one["mean"]) for task, one in tasks.items() if isinstance(one, dict) and "mean" in one]
    return [Facts([Fact(TASK_TITLES.get(task, task), f"{mean:.2f}", "as the run recorded it") for task, mean in known])]


def _changed(scored: Scored) -> Gap | None:
    """Return a gap where the score is not the one that the run recorded."""
    recorded = scored.run.metrics.get("tasks") or {}
    for task, score in scored.report.tasks.items() if scored.report else ():
        before = recorded.get(task, {}).get("mean")
        if before is not None and abs(before - score.micro.mean) > 1e-6:
            return Gap(
                f"{TASK_TITLES[task]}: the run recorded {before:.2f} and this page counts {score.micro.mean:.2f}: "
                "the gold, or the data root, is another one."
            )
    return None


def _score_table(scored: Scored, task: Task) -> Table:
    score = scored.report.tasks[task] if scored.report else None
    ids = list(scored.gold_of(task))
    rows: list[list[Cell]] = []
    if score is not None:
        domains = {i: scored.data.views[task].question(i).domain for i in ids}
        rows.append(_score_row("all questions", score.micro, scored.interval(ids)))
        rows += [
            _score_row(name, figures, scored.interval([i for i in ids if domains[i] == name]))
            for name, figures in score.by_domain.items()
        ]
    columns = [
        Column("questions"),
        Column("n", ","),
        *(Column(f"R@{k}", ".1f", f"recall in the first {k}") for k in KS),
    ]
    columns += [Column("score", ".1f", "mean of the three recalls"), Column("from", ".1f"), Column("to", ".1f")]
    columns += [Column("at best", ".1f", "a perfect ranking's score"), Column("share", ".1f", "of the best, in %")]
    unit = "document" if task == "mmdocir" else "question"
    caption = f"{TASK_TITLES[task]}, in points; from, to: 95 % interval, {RESAMPLES:,} bootstrap resamples by {unit}"
    return Table(columns, rows, caption, frozenset({0}))


def _score_row(name: str, figures: Figures, span: tuple[float, float] | None) -> list[Cell]:
    low, high = span or (None, None)
    recalls = [figures.recall[f"R@{k}"] for k in KS]
    best = figures.ceiling["mean"]
    return [name, figures.questions, *recalls, figures.mean, low, high, best, figures.share_of_ceiling]


def curve_blocks(scored: Scored) -> list[Block]:
    """Return recall@k of every source and of a perfect ranking, a few lines a chart."""
    blocks: list[Block] = []
    for task in scored.run.tasks:
        gold = scored.gold_of(task)
        if not gold:
            continue
        curves = recall_curves(scored, task)
        best = [float(y) for y in 100.0 * ceiling_at(list(gold.values()), range(1, DEPTH + 1)).mean(axis=0)]
        answer = curves.pop(ANSWER)
        sources = scored.run.sources.get(task)
        routes = sorted(sources.routes if sources else (), key=lambda name: -curves[name][FIRST - 1])
        groups = [("rankings", [name for name in curves if name not in routes])]
        groups += [("more routes" if at else "routes", routes[at : at + LINES]) for at in range(0, len(routes), LINES)]
        text = f"Of the gold, the answer's first 5 hold {answer[FIRST - 1]:.1f} %, its first 20 {answer[-1]:.1f} %."
        for what, names in groups:
            shown = {"at best": best, ANSWER: answer, **{name: curves[name] for name in names}}
            points = [Point(k, y, name) for name, curve in shown.items() for k, y in enumerate(curve, 1)]
            title = f"{TASK_TITLES[task]}: recall@k of {what}"
            blocks.append(lines(title, points, text=text, x="k", y="recall@k, %", form=".1f", zero=True))
            text = (
                "The best of them at 5 first." if len(routes) <= LINES else "The best of them at 5 in the first chart."
            )
    return blocks or [Gap("Curves need gold.")]


def recall_curves(scored: Scored, task: Task) -> dict[str, list[float]]:
    """Return recall@1 to recall@20 in percent of the run's answer (`ANSWER`), then of each source alone."""
    gold = scored.gold_of(task)
    sources = scored.run.sources.get(task)
    ranked = {name: _ids(one) for name, one in sources.all.items() if name != sources.final_name} if sources else {}
    curves: dict[str, list[float]] = {}
    for name, rankings in {**ranked, ANSWER: scored.answers[task]}.items():
        found = recall_at([rankings.get(i, ()) for i in gold], list(gold.values()), range(1, DEPTH + 1))
        curves[name] = [float(value) for value in 100.0 * found.mean(axis=0)]
    return curves


def _ids(ranked: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, list[str]]:
    return {question: [passage for passage, _ in scores] for question, scores in ranked.items()}


def group_blocks(scored: Scored) -> list[Block]:
    """Return the score by domain, evidence type, what the gold pages hold, and document length."""
    blocks: list[Block] = []
    for task in scored.report.tasks if scored.report else ():
        for what, labels in _labels(scored, task).items():
            blocks += _group_chart(scored, task, what, labels)
    return blocks or [Gap("Groups of questions need gold.")]


def _labels(scored: Scored, task: Task) -> dict[str, Labels]:
    """Return what the bars are by -> question id -> labels."""
    view, gold = scored.data.views[task], scored.gold_of(task)
    questions = {i: view.question(i) for i in gold}
    domains: Labels = {i: (q.domain,) if q.domain else () for i, q in questions.items()}
    if task == "m2kr":
        return {"kind of query": domains}
    labels: dict[str, Labels] = {
        "domain": domains,
        "evidence type": {i: tuple(view.evidence.get(i, ())) for i in gold},
    }
    if view.passages is not None:
        texts = view.passages.texts
        labels["words on the gold pages"] = {
            i: (_words([texts[row] for page in pages if (row := view.row(i, page)) is not None]),)
            for i, pages in gold.items()
        }
    labels["document length"] = {i: (length_group(q.pages),) for i, q in questions.items() if q.pages}
    return labels


def _words(texts: Sequence[str]) -> str:
    return "text" if any(len(text.split()) >= FEW_WORDS for text in texts) else "image only"


def length_group(pages: int) -> str:
    """Return the group of a document of so many pages.

    >>> length_group(10), length_group(11), length_group(400)
    ('1 to 10 pages', '11 to 20 pages', 'over 100 pages')
    """
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        if pages <= high:
            return f"{low + 1} to {high} pages"
    return f"over {LENGTHS[-1]} pages"


def _group_chart(scored: Scored, task: Task, what: str, labels: Labels) -> list[Block]:
    gold = scored.gold_of(task)
    found = figures_by(scored.answers[task], gold, labels)
    title = f"{TASK_TITLES[task]} by {what}"
    if not found:
        return [Gap(f"{title}: the data does not say.")]
    if what == "document length":
        order = [length_group(pages) for pages in (1, *(end + 1 for end in LENGTHS))]
        found = {name: found[name] for name in order if name in found}
    rows: list[Bar] = []
    for name, figures in found.items():
        span = scored.interval([i for i in gold if name in labels.get(i, ())])
        low, high = span or (None, None)
        note = counted(figures.questions)
        rows.append(Bar(name, figures.mean, low, high, note=note, ceiling=figures.ceiling["mean"]))
    best, worst = (pick(found, key=lambda name: found[name].mean) for pick in (max, min))
    text = f"Best on {best} ({found[best].mean:.1f}), worst on {worst} ({found[worst].mean:.1f})."
    if len(found) == 1:
        text = f"All questions are of {best} ({found[best].mean:.1f})."
    return [bars(title, rows, text=text, axis="score, points", per=what)]
