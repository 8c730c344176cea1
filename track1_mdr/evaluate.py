"""Score a submission against local gold: per task, domain and evidence type, with ceiling and standard error.

The rule is the leaderboard's (`common.metrics.retrieval`); all figures are points, 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from common.errors import DataError
from common.metrics.retrieval import KS, ceiling_at, recall_at
from common.submission.mdr import (
    TASK_TITLES,
    Task,
    ValidationReport,
    read_submission,
    tasks_of,
    validate_submission,
)
from track1_mdr.datasets.tables import Qrels
from track1_mdr.gold import Ground, read_ground

if TYPE_CHECKING:
    from rich.console import Group

_METRICS = (*(f"R@{k}" for k in KS), "mean")


@dataclass(frozen=True)
class Figures:
    """Mean figures of a group of questions, in points.

    Attributes
    ----------
    questions
        How many questions the group has.
    recall, ceiling
        "R@1", "R@3", "R@5" and their "mean", of the run and of a perfect ranking.
    hit
        "hit@1", ...: share of questions with at least one gold passage in the first k.
    error
        Standard error of the mean over questions; None for a single question.
    """

    questions: int
    recall: Mapping[str, float]
    ceiling: Mapping[str, float]
    hit: Mapping[str, float]
    error: float | None

    @property
    def mean(self) -> float:
        """The task's score: the mean of R@1, R@3 and R@5."""
        return self.recall["mean"]

    @property
    def share_of_ceiling(self) -> float:
        """The score as a percentage of a perfect ranking's."""
        return 100.0 * self.recall["mean"] / self.ceiling["mean"]

    @classmethod
    def of(cls, recall: np.ndarray, ceiling: np.ndarray) -> Figures:
        """Return the figures of recalls and ceilings [Q, len(KS)], 0 to 1."""
        per_question = 100.0 * recall.mean(axis=1)
        count = len(per_question)
        error = float(per_question.std(ddof=1) / np.sqrt(count)) if count > 1 else None
        hit = 100.0 * (recall > 0).mean(axis=0)
        return cls(
            count,
            _named(recall),
            _named(ceiling),
            {f"hit@{k}": float(h) for k, h in zip(KS, hit, strict=True)},
            error,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "questions": self.questions,
            **self.recall,
            "ceiling": dict(self.ceiling),
            "share_of_ceiling": self.share_of_ceiling,
            "standard_error": self.error,
            **self.hit,
        }


def _named(values: np.ndarray) -> dict[str, float]:
    points = [float(v) for v in 100.0 * values.mean(axis=0)]
    return dict(zip(_METRICS, [*points, float(np.mean(points))], strict=True))


@dataclass(frozen=True)
class TaskScore:
    """One task's figures: over all its questions (micro), and by group.

    `error_by_document` is the standard error with questions of one document taken together: they are not
    independent. None with fewer than two documents. `macro` is the mean over domains, None without domains.
    """

    micro: Figures
    macro: Mapping[str, float] | None
    error_by_document: float | None
    by_domain: Mapping[str, Figures] = field(default_factory=dict)
    by_evidence: Mapping[str, Figures] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            **self.micro.to_dict(),
            "standard_error_by_document": self.error_by_document,
            "macro": None if self.macro is None else dict(self.macro),
            "by_domain": {name: figures.to_dict() for name, figures in self.by_domain.items()},
            "by_evidence": {name: figures.to_dict() for name, figures in self.by_evidence.items()},
        }


@dataclass(frozen=True)
class ScoreReport:
    """The local score; `final` is the leaderboard's formula, or None when not both tasks have gold."""

    tasks: Mapping[Task, TaskScore]
    final: float | None
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float:
        """The final score, or the score of the one task that has gold."""
        return self.final if self.final is not None else next(iter(self.tasks.values())).micro.mean

    @property
    def error(self) -> float | None:
        """Standard error of `headline`: by document where a task has several, tasks taken as independent."""
        errors = [
            score.micro.error if score.error_by_document is None else score.error_by_document
            for score in self.tasks.values()
        ]
        known = [error for error in errors if error is not None]
        return float(np.sqrt(np.square(known).sum()) / len(known)) if len(known) == len(errors) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report for metrics.json."""
        return {
            "final": self.final,
            "standard_error": self.error,
            "tasks": {task: score.to_dict() for task, score in self.tasks.items()},
            "notes": list(self.notes),
        }

    def render(self) -> Group:
        """Return rich tables: print them with `rich.console.Console().print`."""
        from track1_mdr.score_tables import render_score

        return render_score(self)


def evaluate(
    rankings: Mapping[str, Sequence[str]],
    gold: Qrels,
    questions: pl.DataFrame,
    evidence: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> ScoreReport:
    """Score rankings against gold.

    Parameters
    ----------
    rankings
        question id -> passage ids, best first. Questions without gold are left out of the score.
    gold
        question id -> gold passage ids, of one task or of both.
    questions
        Columns `question_id`, `doc_name` and `domain` ("" where there is none).
    evidence
        question id -> evidence types (a question may have several, and counts in each).
    notes
        Put into the report as they are.

    Raises
    ------
    DataError
        A question with gold has no ranking (which ones is said), or is not in `questions`; or there is no gold.
    """
    if not gold:
        raise DataError("there is no gold to score against", expected="gold for at least one task")
    _demand(gold, rankings, "questions with gold are not in the submission", "submit all questions of the task")
    known = {row["question_id"]: row for row in questions.select("question_id", "doc_name", "domain").to_dicts()}
    _demand(gold, known, "questions with gold are not in the question file", "check gold and questions together")
    tasks: dict[Task, TaskScore] = {}
    for task in tasks_of(list(gold)):
        ids = [i for i in gold if tasks_of([i]) == (task,)]
        recall = recall_at([rankings[i] for i in ids], [gold[i] for i in ids])
        ceiling = ceiling_at([gold[i] for i in ids])
        domains = [(known[i]["domain"],) if known[i]["domain"] else () for i in ids]
        by_domain = group_figures(recall, ceiling, domains)
        by_evidence = group_figures(recall, ceiling, [tuple((evidence or {}).get(i, ())) for i in ids])
        documents = [known[i]["doc_name"] for i in ids]
        macro = {m: float(np.mean([f.recall[m] for f in by_domain.values()])) for m in _METRICS} if by_domain else None
        tasks[task] = TaskScore(
            Figures.of(recall, ceiling),
            macro,
            clustered_error(100.0 * recall.mean(axis=1), documents),
            by_domain,
            by_evidence,
        )
    said = list(notes)
    if len(tasks) == 1:
        said.insert(0, f"local score covers {TASK_TITLES[next(iter(tasks))]} only")
    final = float(np.mean([score.micro.mean for score in tasks.values()])) if len(tasks) > 1 else None
    return ScoreReport(tasks, final, tuple(said))


def _demand(gold: Qrels, there: Mapping[str, object], what: str, todo: str) -> None:
    missing = [i for i in gold if i not in there]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(gold):,} {what}",
            expected="all of them: a score over a part would not be comparable",
            got="missing " + ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else ""),
            todo=todo,
        )


def group_figures(recall: np.ndarray, ceiling: np.ndarray, labels: Sequence[Sequence[str]]) -> dict[str, Figures]:
    """Return the figures of each label, most questions first; a question may have several labels, or none."""
    members: dict[str, list[int]] = {}
    for row, names in enumerate(labels):
        for name in dict.fromkeys(names):
            members.setdefault(name, []).append(row)
    order = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: Figures.of(recall[rows], ceiling[rows]) for name, rows in order}


def clustered_error(values: np.ndarray, documents: Sequence[str]) -> float | None:
    """Return the cluster-robust standard error of the mean of float [Q]; None for a single document.

    Residuals are summed within documents first, since the questions of one document are not independent.
    """
    _, cluster = np.unique(np.asarray(documents), return_inverse=True)
    count = int(cluster.max()) + 1
    if count < 2:
        return None
    sums = np.bincount(cluster, weights=values - values.mean(), minlength=count)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))


def score_files(submission: Path, root: Path) -> ScoreReport:
    """Score a submission file against the gold under the data root `root`.

    The file is validated first. Of a partial file, the task it holds is scored, and the report says so.

    Raises
    ------
    InvalidSubmission
        The file breaks a rule.
    DataError
        There is no gold for any task of the file.
    """
    ground = read_ground(root)
    rankings, gold, notes = scorable(submission, ground)
    return evaluate(rankings, gold, ground.questions, ground.evidence, notes)


def scorable(submission: Path, ground: Ground) -> tuple[dict[str, tuple[str, ...]], Qrels, list[str]]:
    """Return a valid file's rankings, the gold of the tasks that it holds, and notes on what is left out."""
    report = validate_submission(submission, ground.expected).check()
    rankings = read_submission(submission)
    gold, notes = known_gold(rankings, ground, submission)
    return rankings, gold, [report.partial, *notes] if report.partial else notes


def known_gold(
    rankings: Mapping[str, Sequence[str]], ground: Ground, where: Path | None = None
) -> tuple[Qrels, list[str]]:
    """Return the gold of the tasks that `rankings` hold, and notes on questions whose gold is not known.

    Raises
    ------
    DataError
        There is no gold for any of these tasks; `where` names the rankings.
    """
    present = tasks_of(list(rankings))
    gold = {i: ids for i, ids in ground.gold.items() if tasks_of([i])[0] in present}
    if not gold:
        raise DataError(
            "there is no gold for the tasks of this submission",
            where=where,
            expected=f"gold for {' or '.join(TASK_TITLES[task] for task in present)}",
            got=f"gold for {' and '.join(TASK_TITLES[task] for task in tasks_of(list(ground.gold))) or 'neither task'}",
            todo="put mmdocir/gold.csv or mmdocir/MMDocIR_annotations.jsonl under the data root",
        )
    notes: list[str] = []
    for task in tasks_of(list(gold)):
        known, sent = (sum(tasks_of([i]) == (task,) for i in ids) for ids in (gold, rankings))
        if known < sent:
            notes.append(f"{TASK_TITLES[task]}: gold is known for {known:,} of {sent:,} questions")
    return gold, notes


def validate_file(submission: Path, root: Path) -> ValidationReport:
    """Check a submission file against the questions and passages under the data root `root`."""
    return validate_submission(submission, read_ground(root).expected)
