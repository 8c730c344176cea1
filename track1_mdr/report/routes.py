"""Each route alone and what it adds: what it found in its first five that no other route found, and their overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.metrics.retrieval import KS
from common.pages.blocks import Block, Cell, Column, Gap, Table
from common.pages.charts import Bar, bars
from common.submission.mdr import TASK_TITLES, Task
from track1_mdr.datasets.tables import Qrels
from track1_mdr.evaluate import Figures
from track1_mdr.question_scores import figures_by
from track1_mdr.report.collect import Ranked, Sources
from track1_mdr.report.scoring import Answers, Scored, counted

FIRST = max(KS)

Found = frozenset[tuple[str, str]]
"""Gold passages that a source has among its first five: (question id, passage id)."""


@dataclass(frozen=True)
class Added:
    """What one route adds to the others.

    Attributes
    ----------
    found
        Gold passages among its first five.
    alone
        Those of them that no other route has among its first five.
    questions
        Questions that these belong to.
    kept
        How many of `alone` are in the run's answer.
    """

    found: int
    alone: int
    questions: int
    kept: int


def first_five(ranked: Ranked) -> dict[str, list[str]]:
    """Return each question's first five passages."""
    return {question: [passage for passage, _ in scores[:FIRST]] for question, scores in ranked.items()}


def found_gold(answers: Answers, gold: Qrels) -> Found:
    """Return the gold passages among the first five, one pair each."""
    return frozenset(
        (i, passage) for i, ids in gold.items() for passage in answers.get(i, ())[:FIRST] if passage in ids
    )


def what_each_adds(found: Mapping[str, Found], answer: Found) -> dict[str, Added]:
    """Return what each route of `found` adds to all others; `answer` is what the run's answer found."""
    added: dict[str, Added] = {}
    for name, own in found.items():
        others: Found = frozenset[tuple[str, str]]().union(*(one for other, one in found.items() if other != name))
        alone = own - others
        added[name] = Added(len(own), len(alone), len({question for question, _ in alone}), len(alone & answer))
    return added


def shared_answers(a: Answers, b: Answers) -> float | None:
    """Return how many of their first five two sources share, on average over the questions where both say something."""
    both = [len(set(ids[:FIRST]) & set(b[i][:FIRST])) for i, ids in a.items() if ids and b.get(i)]
    return sum(both) / len(both) if both else None


def found_by(question: str, gold: Iterable[str], routes: Mapping[str, Answers]) -> list[str]:
    """Return the routes that have a gold passage of the question among their first five."""
    wanted = set(gold)
    return [name for name, answers in routes.items() if wanted & set(answers.get(question, ())[:FIRST])]


def route_blocks(scored: Scored) -> list[Block]:
    """Return, a task at a time, each source alone, what each route adds, and how the routes overlap."""
    blocks: list[Block] = []
    for task, sources in scored.run.sources.items():
        gold = scored.gold_of(task)
        if gold:
            blocks += _alone(scored, task, sources, gold)
        blocks += _overlap(task, sources, gold)
    return blocks or [Gap("The run left no scores by route.", "python -m track1_mdr run leaves scores.parquet behind")]


def _alone(scored: Scored, task: Task, sources: Sources, gold: Qrels) -> list[Block]:
    title = TASK_TITLES[task]
    figures = {name: _figures(first_five(ranked), gold) for name, ranked in sources.all.items()}
    routes = {name: found_gold(first_five(ranked), gold) for name, ranked in sources.routes.items()}
    added = what_each_adds(routes, found_gold(scored.answers[task], gold))
    rows: list[list[Cell]] = []
    for kind, group in (("route", sources.routes), ("reranker", sources.rerankers), ("ranking", sources.rankings)):
        for name, ranked in group.items():
            one = figures[name]
            said = 100.0 * sum(bool(ranked.get(i)) for i in gold) / len(gold)
            recalls = [one.recall[f"R@{k}"] for k in KS]
            plus = added.get(name)
            more = [None] * 4 if plus is None else [plus.found, plus.alone, plus.questions, plus.kept]
            rows.append([name, kind, *recalls, one.mean, said, *more])
    columns = [Column("source"), Column("kind"), *(Column(f"R@{k}", ".1f") for k in KS)]
    columns += [Column("score", ".1f"), Column("answers", ".0f", "questions on which it says anything, in %")]
    columns += [
        Column("found", ",", "gold passages among its first five"),
        Column("only here", ",", "of these, found by no other route"),
        Column("questions", ",", "questions that these belong to"),
        Column("kept", ",", "of these, how many the run's answer holds"),
    ]
    known = sum(len(set(ids)) for ids in gold.values())
    total = len(frozenset[tuple[str, str]]().union(*routes.values()))
    together = f"The routes together have {total:,} of {known:,} gold passages among their first five."
    chart = [
        Bar(name, one.mean, note=f"{one.recall['R@5']:.1f} in the first 5", ceiling=one.ceiling["mean"])
        for name, one in figures.items()
    ]
    plus = [Bar(name, one.questions, note=f"{one.alone} passages, {one.kept} kept") for name, one in added.items()]
    best = max(added, key=lambda name: added[name].questions) if added else ""
    text = f"{best} has gold that no other route has on {counted(added[best].questions)}." if best else ""
    return [
        bars(f"{title}: each source alone", chart, text=together, axis="score, points", per="source"),
        bars(f"{title}: found by one route only", plus, text=text, axis="questions", per="route", form=","),
        Table(columns, rows, f"{title}: each source alone"),
    ]


def _figures(answers: Answers, gold: Qrels) -> Figures:
    """Return a source's own figures: where it says nothing it has found nothing."""
    whole = {i: answers.get(i, ()) for i in gold}
    return figures_by(whole, gold, dict.fromkeys(gold, ("all",)))["all"]


def _overlap(task: Task, sources: Sources, gold: Qrels) -> list[Block]:
    """Return a table of gold passages found by both of two routes, or without gold of how far their answers agree."""
    answers = {name: first_five(ranked) for name, ranked in sources.routes.items()}
    if len(answers) < 2:
        return [Gap(f"{TASK_TITLES[task]}: a single route has none to overlap with.")] if answers else []
    names = list(answers)
    shared: list[list[Cell]] = [[a, *(shared_answers(answers[a], answers[b]) for b in names)] for a in names]
    agree = Table(
        [Column("route"), *(Column(name, ".1f") for name in names)],
        shared,
        f"{TASK_TITLES[task]}: passages that two routes share among their first five, on average",
    )
    if not gold:
        return [agree]
    found = {name: found_gold(ids, gold) for name, ids in answers.items()}
    both: Sequence[Sequence[Cell]] = [[a, *(len(found[a] & found[b]) for b in names)] for a in names]
    caption = f"{TASK_TITLES[task]}: gold passages that both have among their first five"
    return [Table([Column("route"), *(Column(name, ",") for name in names)], both, caption), agree]
