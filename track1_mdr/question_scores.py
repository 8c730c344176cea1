"""The score question by question, and by any label of the questions: what reports and examples are chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from common.metrics.retrieval import KS, ceiling_at, hits_at, recall_at
from track1_mdr.datasets.tables import Qrels
from track1_mdr.evaluate import Figures, group_figures


def figures_by(
    rankings: Mapping[str, Sequence[str]], gold: Qrels, labels: Mapping[str, Sequence[str]]
) -> dict[str, Figures]:
    """Return the figures of each label over the questions with gold, as `evaluate` gives them by domain.

    `labels` has the labels of a question by its id; one that is not there counts nowhere.
    """
    if not gold:
        return {}
    answers = list(gold.values())
    recall = recall_at([rankings[i] for i in gold], answers)
    return group_figures(recall, ceiling_at(answers), [labels.get(i, ()) for i in gold])


def score_questions(rankings: Mapping[str, Sequence[str]], gold: Qrels) -> pl.DataFrame:
    """Return one row a question with gold, in the order of `gold`; the mean of a task's `score` is its score.

    Columns: `question_id`; `score` and `ceiling` (mean recall@1, 3, 5 of the run and of a perfect ranking, in
    points); `found` (gold passages in the first five, a repeated id once) and `gold` (how many there are).
    """
    answers = list(gold.values())
    found, counts = hits_at([rankings[i] for i in gold], answers) if gold else (np.zeros((0, len(KS)), int), [])
    recall = found / np.asarray(counts)[:, None] if gold else found
    return pl.DataFrame(
        {
            "question_id": list(gold),
            "score": 100.0 * recall.mean(axis=1),
            "ceiling": 100.0 * ceiling_at(answers).mean(axis=1) if gold else [],
            "found": found[:, -1],
            "gold": counts,
        },
        schema={
            "question_id": pl.String, "score": pl.Float64, "ceiling": pl.Float64, "found": pl.Int64, "gold": pl.Int64
        },
    )  # fmt: skip
