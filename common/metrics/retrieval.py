"""The Track 1 leaderboard's rule: recall@1, @3 and @5, averaged; then the mean of the two tasks, 0 to 100.

The file stands alone (numpy and pandas only), so that a host can paste it as a Kaggle metric.
Sources: the challenge's page ("average score of recall@1, recall@3, and recall@5 for each task; the final
score will be based on the average of the two tasks") and MMDocIR's metric_eval.py for recall@k.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

KS = (1, 3, 5)
# One file holds both tasks; a question's id says which task it belongs to.
TASK_IDS = {"m2kr": range(0, 6415), "mmdocir": range(10_000, 11_658)}
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,8}")


class ParticipantVisibleError(Exception):
    """A fault of the submission whose message a participant may see."""


def task_of(question_id: str) -> str | None:
    """Return the task that a question id belongs to, or None when it is no id of either.

    >>> task_of("0"), task_of("11657"), task_of("6415"), task_of("010")
    ('m2kr', 'mmdocir', None, None)
    """
    if not _CANONICAL.fullmatch(question_id):
        return None
    number = int(question_id)
    return next((task for task, ids in TASK_IDS.items() if number in ids), None)


def recall_at_k(ranking: Sequence[Hashable], gold: Sequence[Hashable], k: int) -> float:
    """Return |first k of `ranking` in `gold`| / |gold| for one query; a repeated id counts once.

    >>> recall_at_k(["4", "18", "7"], ["18", "19"], 1), recall_at_k(["4", "18", "7"], ["18", "19"], 3)
    (0.0, 0.5)
    """
    relevant = set(gold)
    if not relevant:
        raise ValueError("a query without gold has no recall")
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def hits_at(
    rankings: Sequence[Sequence[Hashable]], gold: Sequence[Sequence[Hashable]], ks: Sequence[int] = KS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of distinct gold ids in the first k of each ranking, and of gold ids per query.

    Parameters
    ----------
    rankings, gold
        One sequence of ids a query; lengths may differ. A repeated id counts once.
    ks
        Cut-offs, each at least 1.

    Returns
    -------
    hits : int64 [Q, len(ks)]
    gold_counts : int64 [Q]

    Raises
    ------
    ValueError
        Unequal lengths, a query without gold, or a cut-off below 1.
    """
    if len(rankings) != len(gold):
        raise ValueError(f"{len(rankings)} rankings for {len(gold)} gold lists")
    if not ks or min(ks) < 1:
        raise ValueError(f"cut-offs must be at least 1, got {tuple(ks)}")
    depth = max(ks)
    codes: dict[Hashable, int] = {}

    def keys(lists: Sequence[Sequence[Hashable]], limit: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return each (query, id) as one number, with its place in the query's list."""
        cut = [list(ids[:limit]) for ids in lists]
        lengths = np.asarray([len(ids) for ids in cut], dtype=np.int64)
        flat = np.asarray([codes.setdefault(i, len(codes)) for ids in cut for i in ids], dtype=np.int64)
        query = np.repeat(np.arange(len(cut)), lengths)
        place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return (query << 32) + flat, place

    gold_keys = np.unique(keys(gold, None)[0])
    gold_counts = np.bincount(gold_keys >> 32, minlength=len(gold))
    if len(gold) and gold_counts.min() == 0:
        raise ValueError(f"query {int(gold_counts.argmin())} has no gold")
    ranked, place = keys(rankings, depth)
    unique, first = np.unique(ranked, return_index=True)  # `first` is an id's best place in its list
    found = np.isin(unique, gold_keys)
    grid = np.zeros((len(gold), depth), dtype=np.int64)
    np.add.at(grid, (unique[found] >> 32, place[first[found]]), 1)
    return grid.cumsum(axis=1)[:, [k - 1 for k in ks]], gold_counts


def recall_at(
    rankings: Sequence[Sequence[Hashable]], gold: Sequence[Sequence[Hashable]], ks: Sequence[int] = KS
) -> np.ndarray:
    """Return recall@k of every query: float64 [Q, len(ks)], 0 to 1. Arguments and errors as `hits_at`.

    >>> recall_at([["4", "18", "7"], ["0"]], [["18", "19"], ["0"]]).tolist()
    [[0.0, 0.5, 0.5], [1.0, 1.0, 1.0]]
    """
    hits, gold_counts = hits_at(rankings, gold, ks)
    return hits / gold_counts[:, None]


def ceiling_at(gold: Sequence[Sequence[Hashable]], ks: Sequence[int] = KS) -> np.ndarray:
    """Return the recall@k of a perfect ranking, min(k, |gold|) / |gold|: float64 [Q, len(ks)].

    >>> ceiling_at([["18", "19"]]).tolist()
    [[0.5, 1.0, 1.0]]
    """
    counts = np.asarray([len(set(ids)) for ids in gold], dtype=np.float64)[:, None]
    return np.minimum(np.asarray(ks, dtype=np.float64), counts) / counts


def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str) -> float:
    """Return the leaderboard's score, 0 to 100.

    Parameters
    ----------
    solution
        Columns `row_id_column_name` and `passage_id`, a JSON list of the gold ids. Holds both tasks, or one:
        then the score is that task's alone. Other columns (such as Usage) are ignored.
    submission
        The same two columns; `passage_id` is a JSON list of ids, best first.
    row_id_column_name
        The column that holds the question ids: "question_id".

    Raises
    ------
    ParticipantVisibleError
        The submission lacks a column, has a missing value, a duplicate, missing or unknown question id, or a
        cell that is not a JSON list of strings.
    ValueError
        The solution itself breaks one of these rules.

    Examples
    --------
    Question 0 (M2KR) finds its only passage at rank 2: recall 0, 1, 1, mean 2/3. Question 10000 (MMDocIR) finds
    one of its two pages at rank 1 and the other at rank 4: recall 1/2, 1/2, 1, mean 2/3. Question 10001 finds
    nothing. M2KR is 66.67, MMDocIR (66.67 + 0) / 2 = 33.33, the final score 50.

    >>> gold = pd.DataFrame({"question_id": [0, 10000, 10001], "passage_id": ['["Q7"]', '["3", "4"]', '["0"]']})
    >>> run = pd.DataFrame(
    ...     {
    ...         "question_id": [0, 10000, 10001],
    ...         "passage_id": [
    ...             '["Q1", "Q7", "Q2", "Q3", "Q4"]', '["3", "0", "1", "4", "2"]', '["1", "2", "3", "4", "5"]'
    ...         ],
    ...     }
    ... )
    >>> round(score(gold, run, "question_id"), 9)
    50.0
    """
    try:
        gold = _read(solution, row_id_column_name, "the solution")
    except ParticipantVisibleError as error:
        raise ValueError(str(error)) from None
    if not gold:
        raise ValueError("the solution is empty")
    runs = _read(submission, row_id_column_name, "the submission")
    missing = [i for i in gold if i not in runs]
    extra = [i for i in runs if i not in gold]
    if missing or extra:
        raise ParticipantVisibleError(
            f"the question ids must be those of the solution: {_some('missing', missing)}, {_some('unknown', extra)}"
        )
    by_task: dict[str, list[str]] = {}
    for question in gold:
        task = task_of(question)
        if task is None:
            raise ValueError(f"question id {question!r} of the solution belongs to neither task")
        by_task.setdefault(task, []).append(question)
    means = [recall_at([runs[i] for i in ids], [gold[i] for i in ids], KS).mean() for ids in by_task.values()]
    return float(100.0 * np.mean(means))


def _some(what: str, ids: Sequence[str], limit: int = 5) -> str:
    names = ", ".join(ids[:limit]) + (", ..." if len(ids) > limit else "")
    return f"{len(ids)} {what}" + (f" ({names})" if ids else "")


def _read(table: pd.DataFrame, id_column: str, what: str) -> dict[str, list[str]]:
    """Return question id -> list of ids; raise `ParticipantVisibleError` naming the row (from 0) otherwise."""
    for column in (id_column, "passage_id"):
        if column not in table.columns:
            raise ParticipantVisibleError(f"{what} has no column {column!r}; it has {list(table.columns)}")
    rows: dict[str, list[str]] = {}
    for number, (raw, cell) in enumerate(zip(table[id_column].tolist(), table["passage_id"].tolist(), strict=True)):
        question = _question_id(raw)
        if question is None:
            raise ParticipantVisibleError(f"{what}, row {number}: {id_column} is {raw!r}, not a question id")
        if question in rows:
            raise ParticipantVisibleError(f"{what}, row {number}: question id {question} is given twice")
        ids = _id_list(cell)
        if ids is None:
            raise ParticipantVisibleError(
                f"{what}, row {number} ({id_column} {question}): passage_id is {str(cell)[:80]!r},"
                ' not a JSON list of strings such as ["4", "18"]'
            )
        rows[question] = ids
    return rows


def _question_id(value: object) -> str | None:
    """Return the id as text; ids that pandas read as numbers are whole numbers."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    return value if isinstance(value, str) and value else None


def _id_list(cell: object) -> list[str] | None:
    if not isinstance(cell, str):
        return None
    try:
        ids = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if not isinstance(ids, list) or not ids or not all(isinstance(i, str) and i for i in ids):
        return None
    return ids
