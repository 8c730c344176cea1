"""Each stage's own recall: what a route, a fusion or a reranker is worth by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.metrics.retrieval import KS, recall_at
from track1_mdr.datasets.tables import Scored, top_k
from track1_mdr.pipeline import TaskRanking


@dataclass(frozen=True)
class StageScore:
    """Recall@1,3,5 (shares, micro) of one stage, and the share of questions on which it said anything."""

    name: str
    recall: tuple[float, float, float]
    answers: float

    @property
    def mean(self) -> float:
        """The mean of Recall@1,3,5."""
        return sum(self.recall) / len(self.recall)


def question_recall(results: Sequence[Scored], gold: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return float64 [questions with gold, 3]: Recall@1,3,5 of what a stage itself ranked, no filling up."""
    known = [(scored, pages) for scored, pages in zip(results, gold, strict=True) if pages is not None]
    rankings = [top_k(scored, max(KS)).rows.tolist() for scored, _ in known]
    return recall_at(rankings, [pages.tolist() for _, pages in known])


def stage_scores(ranking: TaskRanking) -> list[StageScore]:
    """Return the routes' and rerankers' own scores, then each ranking's, in the order of the run."""
    gold = ranking.tables.gold_rows()
    known = [query for query, rows in enumerate(gold) if rows is not None]
    scores: list[StageScore] = []
    for name, results in [*ranking.scores.items(), *ranking.rankings.items()]:
        recall = question_recall(results, gold).mean(axis=0)
        answers = float(np.mean([len(results[query].rows) > 0 for query in known]))
        scores.append(StageScore(name, (float(recall[0]), float(recall[1]), float(recall[2])), answers))
    return scores
