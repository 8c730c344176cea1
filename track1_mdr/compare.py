"""Compare two submissions question by question: paired bootstrap, by document where questions share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from common.errors import DataError
from common.metrics.retrieval import recall_at
from common.submission.mdr import TASK_TITLES, Task, tasks_of
from track1_mdr.datasets.tables import Qrels
from track1_mdr.evaluate import scorable
from track1_mdr.gold import Ground, read_ground

if TYPE_CHECKING:
    from rich.console import Group

RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # resample counts held at once (int64: 32 MB)


@dataclass(frozen=True)
class Effect:
    """A difference of two runs, `a` minus `b`, in points.

    Attributes
    ----------
    questions, clusters
        How many questions, and how many units were resampled (documents or questions).
    mean_a, mean_b, difference
        Mean score of each run and their difference: positive where `a` is better.
    low, high
        95 % percentile interval of the bootstrap; None with a single cluster, which resampling cannot vary.
    p
        Two-sided bootstrap p of "no difference", never below 2 / (resamples + 1); None as above.
    wins, ties, losses
        Questions where `a` scores higher, the same, lower.
    """

    questions: int
    clusters: int
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    wins: int
    ties: int
    losses: int

    def to_dict(self) -> dict[str, Any]:
        """Return the effect for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """Effects per task, per domain of each task, and of the final score where both tasks have gold."""

    a: str
    b: str
    tasks: Mapping[Task, Effect]
    domains: Mapping[Task, Mapping[str, Effect]] = field(default_factory=dict)
    final: Effect | None = None
    unit: str = "document"
    resamples: int = RESAMPLES
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "unit": self.unit,
            "resamples": self.resamples,
            "final": None if self.final is None else self.final.to_dict(),
            "tasks": {task: effect.to_dict() for task, effect in self.tasks.items()},
            "domains": {
                task: {name: effect.to_dict() for name, effect in effects.items()}
                for task, effects in self.domains.items()
            },
            "notes": list(self.notes),
        }

    def render(self) -> Group:
        """Return rich tables: print them with `rich.console.Console().print`."""
        from track1_mdr.score_tables import render_comparison

        return render_comparison(self)


def resample_means(values: np.ndarray, clusters: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean of `values` in each bootstrap resample of whole clusters: float64 [resamples].

    `values` is float [Q], `clusters` int [Q] from 0 without gaps. A resample draws as many clusters as there
    are, with replacement; its mean is over all questions of the clusters drawn.
    """
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters, weights=values, minlength=count)
    sizes = np.bincount(clusters, minlength=count).astype(np.float64)
    # Clusters of equal sum and size are alike: drawing kinds by their share is the same draw, and far smaller.
    kinds, alike = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    means = np.empty(resamples)
    step = max(1, _CHUNK_CELLS // len(kinds))
    for start in range(0, resamples, step):
        draws = rng.multinomial(count, alike / count, size=min(step, resamples - start))
        drawn = draws @ kinds
        means[start : start + len(draws)] = drawn[:, 0] / drawn[:, 1]
    return means


def score_interval(
    parts: Sequence[tuple[np.ndarray, Sequence[str]]], *, resamples: int = RESAMPLES, seed: int = 7
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a mean score by bootstrap over documents, as `compare` draws them.

    Parameters
    ----------
    parts
        (scores float [Q], the unit of each question: see `units_of`). One part for a task or a group of its
        questions; one a task for the final score: parts are resampled apart, and their means averaged.
    resamples, seed
        The same arguments give the same figures.

    Returns
    -------
    (low, high), or None where a part has a single unit, which resampling cannot vary.
    """
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for scores, units in parts:
        _, clusters = np.unique(np.asarray(units), return_inverse=True)
        if not len(clusters) or clusters.max() == 0:
            return None
        drawn.append(resample_means(scores, clusters, resamples, rng))
    low, high, _ = _interval(np.mean(drawn, axis=0))
    return low, high


def units_of(ids: Sequence[str], documents: Mapping[str, str]) -> list[str]:
    """Return what is resampled for each question: its document, or itself where it has none (M2KR)."""
    return [documents.get(i) or f"question {i}" for i in ids]


def compare(
    a: Mapping[str, Sequence[str]],
    b: Mapping[str, Sequence[str]],
    gold: Qrels,
    questions: pl.DataFrame,
    *,
    names: tuple[str, str] = ("a", "b"),
    by_document: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 7,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two runs on the questions with gold.

    Parameters
    ----------
    a, b
        question id -> passage ids, best first; both must hold all questions with gold.
    gold
        question id -> gold passage ids.
    questions
        Columns `question_id`, `doc_name`, `domain`.
    names
        What the two runs are called in the report.
    by_document
        Resample documents, since questions of one document are not independent; else questions.
        M2KR queries have no document and are resampled one by one.
    resamples, seed
        Bootstrap resamples, and the seed of their generator: the same arguments give the same figures.
    notes
        Put into the comparison as they are.

    Raises
    ------
    DataError
        A question with gold is not in one of the runs or not in `questions`, or there is no gold.
    """
    if not gold:
        raise DataError("there is no gold to compare on", expected="gold for a task that both runs hold")
    known = {row["question_id"]: row for row in questions.select("question_id", "doc_name", "domain").to_dicts()}
    for name, there in ((names[0], a), (names[1], b), ("the question file", known)):
        missing = [i for i in gold if i not in there]
        if missing:
            raise DataError(
                f"{len(missing):,} questions with gold are not in {name}",
                expected="the same questions in both runs",
                got="missing " + ", ".join(missing[:10]),
            )
    rng = np.random.default_rng(seed)
    tasks: dict[Task, Effect] = {}
    domains: dict[Task, dict[str, Effect]] = {}
    drawn: dict[Task, np.ndarray] = {}
    for task in tasks_of(list(gold)):
        ids = [i for i in gold if tasks_of([i]) == (task,)]
        answers = [gold[i] for i in ids]
        scores = np.stack([100.0 * recall_at([run[i] for i in ids], answers).mean(axis=1) for run in (a, b)])
        units = np.asarray([(by_document and known[i]["doc_name"]) or f"question {i}" for i in ids])
        tasks[task], drawn[task] = _effect(scores, units, resamples, rng)
        labels = np.asarray([known[i]["domain"] or "" for i in ids])
        domains[task] = {
            str(name): _effect(scores[:, labels == name], units[labels == name], resamples, rng)[0]
            for name in np.unique(labels)
            if name
        }
    final = _final(tasks, drawn) if len(tasks) > 1 else None
    said = list(notes)
    if final is None:
        said.insert(0, f"the comparison covers {TASK_TITLES[next(iter(tasks))]} only")
    return Comparison(
        *names, tasks, domains, final, "document" if by_document else "question", resamples, tuple(dict.fromkeys(said))
    )


def _effect(
    scores: np.ndarray, units: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[Effect, np.ndarray]:
    """Return the effect of scores [2, Q] with the resampled differences."""
    gain = scores[0] - scores[1]
    _, clusters = np.unique(units, return_inverse=True)
    drawn = resample_means(gain, clusters, resamples, rng)
    low, high, p = _interval(drawn) if clusters.max() > 0 else (None, None, None)
    wins, losses = int((gain > 1e-9).sum()), int((gain < -1e-9).sum())
    effect = Effect(
        questions=len(gain),
        clusters=int(clusters.max()) + 1,
        mean_a=float(scores[0].mean()),
        mean_b=float(scores[1].mean()),
        difference=float(gain.mean()),
        low=low,
        high=high,
        p=p,
        wins=wins,
        ties=len(gain) - wins - losses,
        losses=losses,
    )
    return effect, drawn


def _interval(drawn: np.ndarray) -> tuple[float, float, float]:
    """Return the 95 % interval and the two-sided p: twice the smaller share at or beyond no difference, at most 1."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    # A resample of equal scores may miss zero by rounding: it counts on both sides.
    below, above = int((drawn <= 1e-9).sum()), int((drawn >= -1e-9).sum())
    return float(low), float(high), min(1.0, 2.0 * (min(below, above) + 1) / (len(drawn) + 1))


def _final(tasks: Mapping[Task, Effect], drawn: Mapping[Task, np.ndarray]) -> Effect:
    """Return the effect on the final score: tasks are resampled apart, and averaged resample by resample."""
    effects = list(tasks.values())
    known = all(effect.p is not None for effect in effects)
    low, high, p = _interval(np.mean([drawn[task] for task in tasks], axis=0)) if known else (None, None, None)
    mean_a, mean_b = (float(np.mean([getattr(e, name) for e in effects])) for name in ("mean_a", "mean_b"))
    return Effect(
        questions=sum(e.questions for e in effects),
        clusters=sum(e.clusters for e in effects),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=mean_a - mean_b,
        low=low,
        high=high,
        p=p,
        wins=sum(e.wins for e in effects),
        ties=sum(e.ties for e in effects),
        losses=sum(e.losses for e in effects),
    )


@dataclass(frozen=True)
class Contestant:
    """One run to compare: question id -> passage ids, the gold of the tasks it holds, and notes on both."""

    name: str
    rankings: Mapping[str, Sequence[str]]
    gold: Qrels
    notes: Sequence[str] = ()


def compare_two(a: Contestant, b: Contestant, ground: Ground, *, by_document: bool = True, seed: int = 7) -> Comparison:
    """Compare two runs over the tasks that both hold; errors as `compare`."""
    gold = {i: ids for i, ids in a.gold.items() if i in b.gold}
    notes = [f"{Path(one.name).name}: {note}" for one in (a, b) for note in one.notes]
    return compare(
        a.rankings, b.rankings, gold, ground.questions,
        names=(a.name, b.name), by_document=by_document, seed=seed, notes=notes,
    )  # fmt: skip


def compare_files(a: Path, b: Path, root: Path, *, by_document: bool = True, seed: int = 7) -> Comparison:
    """Compare two submission files on the gold under the data root `root`, over the tasks that both hold.

    Raises
    ------
    InvalidSubmission
        A file breaks a rule.
    DataError
        There is no gold for a task that both files hold.
    """
    ground = read_ground(root)
    names = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    first, second = (Contestant(name, *scorable(path, ground)) for name, path in zip(names, (a, b), strict=True))
    return compare_two(first, second, ground, by_document=by_document, seed=seed)
