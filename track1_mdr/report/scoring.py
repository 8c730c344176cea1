"""A run's answers and their score question by question: what every part of a page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from common.errors import UserError
from common.metrics.retrieval import KS
from common.pages.blocks import Gap
from common.submission.mdr import Task, tasks_of
from track1_mdr.compare import score_interval, units_of
from track1_mdr.datasets.tables import Qrels
from track1_mdr.evaluate import ScoreReport, evaluate
from track1_mdr.question_scores import score_questions
from track1_mdr.report.collect import RunFiles
from track1_mdr.report.views import Data, View

DEPTH = 20
"""Passages that a run keeps of each source, and the last k of the curves."""

Answers = Mapping[str, Sequence[str]]
"""question id -> passage ids, best first."""


def counted(count: int, noun: str = "question") -> str:
    """Return a number of things in words.

    >>> counted(1), counted(1200)
    ('1 question', '1,200 questions')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@dataclass(frozen=True)
class Outcome:
    """One question's result: its score and a perfect ranking's in points, gold passages found in the first five."""

    score: float
    ceiling: float
    found: int
    gold: int

    @property
    def name(self) -> str:
        """What the first five hold of the gold: all that fits, a part, or nothing."""
        if not self.found:
            return "nothing found"
        return "all found" if self.found >= min(max(KS), self.gold) else "part found"


@dataclass(frozen=True)
class Scored:
    """A run with its answers scored question by question.

    Attributes
    ----------
    answers
        Of each task: the submission's five passages, then the final ranking's next ones.
    gold
        Of the run's tasks.
    outcomes
        By question id, for the questions with gold.
    report
        `evaluate`'s; None without gold.
    gap
        Why there is no score.
    """

    run: RunFiles
    data: Data
    answers: Mapping[Task, Answers]
    gold: Qrels
    outcomes: Mapping[str, Outcome]
    report: ScoreReport | None
    gap: Gap | None = None

    def rankings(self) -> dict[str, Sequence[str]]:
        """Return the answers of all tasks together."""
        return {i: ids for answers in self.answers.values() for i, ids in answers.items()}

    def gold_of(self, task: Task) -> dict[str, tuple[str, ...]]:
        """Return the gold of one task."""
        return {i: ids for i, ids in self.gold.items() if tasks_of([i]) == (task,)}

    def interval(self, ids: Sequence[str]) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean score of questions, by bootstrap over documents."""
        scores = np.asarray([self.outcomes[i].score for i in ids])
        return score_interval([(scores, units_of(ids, self.data.documents()))]) if len(ids) else None


def score_run(run: RunFiles, data: Data) -> Scored:
    """Score a run's answers on the gold at hand, by `evaluate`; without gold, or with answers missing, a gap."""
    answers: dict[Task, Answers] = {task: final_answers(run, task, data.views[task]) for task in run.tasks}
    gold = {i: ids for task in run.tasks for i, ids in data.views[task].gold.items()}
    scored = Scored(run, data, answers, gold, {}, None)
    if data.ground is None or not gold:
        gap = Gap("There is no gold for this run's questions, so no score.", "put gold.csv into the data root")
        return Scored(run, data, answers, {}, {}, None, gap)
    rankings = scored.rankings()
    try:
        report = evaluate(rankings, gold, data.ground.questions, data.ground.evidence)
    except UserError as error:
        gap = Gap(f"The run cannot be scored on this data: {error.what}.", "name the data that the run read: --data")
        return Scored(run, data, answers, {}, {}, None, gap)
    rows = score_questions(rankings, gold).iter_rows()
    outcomes = {i: Outcome(score, ceiling, found, known) for i, score, ceiling, found, known in rows}
    return Scored(run, data, answers, gold, outcomes, report)


def final_answers(run: RunFiles, task: Task, view: View) -> dict[str, list[str]]:
    """Return each question's passages: the submission's, then those that the final ranking has after them.

    Without the submission they are the final ranking's, filled up to five as the run fills them up: with the
    question's candidates in their order.
    """
    sources = run.sources.get(task)
    ranked = sources.final if sources else {}
    sent = run.submission or {}
    ids = (
        [i for i in sent if tasks_of([i]) == (task,)] or list(view.questions) or (sources.questions if sources else [])
    )
    answers: dict[str, list[str]] = {}
    for i in ids:
        kept = [passage for passage, _ in ranked.get(i, ())]
        first = list(dict.fromkeys(sent[i])) if i in sent else kept[: max(KS)]
        if i not in sent and len(first) < max(KS):
            more = (passage for passage in view.candidates(i) if passage not in kept)
            first += islice(more, max(KS) - len(first))
        answers[i] = list(dict.fromkeys([*first, *kept]))[:DEPTH]
    return answers
