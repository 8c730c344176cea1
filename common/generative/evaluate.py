"""Recall@k, NDCG@k and MRR of next-item recommenders over all items, ties by item id, with standard errors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from common.generative.sequences import Examples, Histories
from common.progress import bar

CHUNK = 512


class Recommender(Protocol):
    """What is evaluated: it gets histories and never a target."""

    name: str

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (item rows int64 [Q, k], scores float32 [Q, k]), best first, equal scores by row.

        `allowed`: bool [N], the items to choose from; all by default. Where fewer than k exist: -1 and -inf.
        """
        ...


@runtime_checkable
class ScoresAll(Protocol):
    """A recommender that can score every item, so that every target has an exact rank."""

    def scores(self, histories: Histories) -> np.ndarray:
        """Return float32 [Q, N]."""
        ...


@dataclass(frozen=True)
class Figure:
    """A mean over users and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Report:
    """What an evaluation came to.

    Attributes
    ----------
    figures
        "Recall@10" and so on, in the order of the table.
    users
        Number of targets.
    depth
        How far ranks are known: None = over all items; else the length of the lists (MRR is then MRR@depth).
    ranks
        int64 [users], of each target, 0 = not found; None where they were not kept. Not part of the JSON.
    """

    name: str
    figures: dict[str, Figure]
    users: int
    depth: int | None
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    ranks: np.ndarray | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        means = {name: figure.mean for name, figure in self.figures.items()}
        errors = {name: figure.error for name, figure in self.figures.items()}
        base = {"name": self.name, "users": self.users, "depth": self.depth, "seconds": round(self.seconds, 3)}
        return base | {"figures": means, "standard_errors": errors} | self.extra

    def render(self) -> Any:
        """Return a rich table."""
        from rich.table import Table

        known = "all items ranked" if self.depth is None else f"lists of {self.depth}"
        table = Table("figure", "value", "standard error", title=f"{self.name}: {self.users:,} users, {known}")
        for name, figure in self.figures.items():
            table.add_row(name, f"{figure.mean:.4f}", f"{figure.error:.4f}")
        return table

    @property
    def headline(self) -> str:
        """The recall at the largest k, as `Recall@10 0.0648`."""
        name = [one for one in self.figures if one.startswith("Recall@")][-1]
        return f"{name} {self.figures[name].mean:.4f}"


def evaluate(
    recommender: Recommender,
    examples: Examples,
    *,
    ks: Sequence[int] = (5, 10),
    depth: int = 50,
    exclude_history: bool = False,
    chunk: int = CHUNK,
) -> Report:
    """Evaluate a recommender on examples.

    All items compete, those of the history too unless `exclude_history`, as in the published code of TIGER-like
    systems: a target that the user had before is possible in real data, and a filter would forbid it. A recommender
    that scores all items is ranked over all; of one that lists items, the first max(`depth`, ks) are asked for and a
    target that is not among them counts as not found: Recall and NDCG are the same then, and MRR is MRR@depth.
    """
    started = time.perf_counter()
    full = isinstance(recommender, ScoresAll)
    deep = max(depth, *ks)
    ranks = np.empty(len(examples), np.int64)
    with bar(f"asking {recommender.name}", total=len(examples), unit="user") as shown:
        for start in range(0, len(examples), chunk):
            part = examples.take(slice(start, start + chunk))
            if isinstance(recommender, ScoresAll):
                found = ranks_by_scores(recommender.scores(part.histories), part, exclude_history)
            else:
                items, _ = best_items(recommender, part.histories, deep, exclude_history=exclude_history)
                found = ranks_in_lists(items, part.targets)
            ranks[start : start + len(part)] = found
            shown.update(len(part))
    seconds = time.perf_counter() - started
    depth_known = None if full else deep
    return Report(recommender.name, figures(ranks, ks, depth_known), len(ranks), depth_known, seconds, ranks=ranks)


def best_items(
    recommender: Recommender,
    histories: Histories,
    k: int,
    *,
    allowed: np.ndarray | None = None,
    exclude_history: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (items [Q, k], scores [Q, k]); without the history's items if asked.

    Then k plus the longest history's length are asked for, so that k are left where there are so many.
    """
    if not exclude_history:
        return recommender.recommend(histories, k, allowed=allowed)
    extra = int(histories.lengths.max(initial=0))
    items, scores = recommender.recommend(histories, k + extra, allowed=allowed)
    for query, history in enumerate(histories):
        keep = ~np.isin(items[query], history)
        order = np.argsort(~keep, kind="stable")
        items[query] = np.where(keep, items[query], -1)[order]
        scores[query] = np.where(keep, scores[query], -np.inf)[order]
    return items[:, :k], scores[:, :k]


def ranks_by_scores(scores: np.ndarray, examples: Examples, exclude_history: bool = False) -> np.ndarray:
    """Return each target's rank int64 [Q] from 1 among all items: better scores first, equal ones by row.

    Raises
    ------
    ValueError
        A score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    rows, targets = np.arange(len(scores)), examples.targets.astype(np.int64)
    own = scores[rows, targets]
    if exclude_history:
        scores = scores.copy()
        lengths = examples.histories.lengths
        scores[np.repeat(rows, lengths), np.concatenate([*examples.histories, np.empty(0, np.int32)])] = -np.inf
        own = np.where(np.isneginf(scores[rows, targets]), -np.inf, own)
    better = (scores > own[:, None]).sum(axis=1)
    ties = (scores == own[:, None]) & (np.arange(scores.shape[1])[None, :] < targets[:, None])
    return better + ties.sum(axis=1) + 1


def ranks_in_lists(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each target's place int64 [Q] from 1 in its list [Q, K]; 0 where it is not in there."""
    hit = items == targets[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def figures(ranks: np.ndarray, ks: Sequence[int], depth: int | None) -> dict[str, Figure]:
    """Return the means and standard errors (standard deviation / sqrt(Q)) of ranks; 0 = not found.

    With one relevant item, NDCG@k = 1 / log2(1 + rank) where rank <= k, else 0. The error of a recall p is the
    binomial one, sqrt(p (1 - p) / Q).

    >>> {name: round(f.mean, 3) for name, f in figures(np.array([1, 3, 0]), (2, 5), 5).items()}
    {'Recall@2': 0.333, 'Recall@5': 0.667, 'NDCG@2': 0.333, 'NDCG@5': 0.5, 'MRR@5': 0.444}
    """
    found = ranks > 0
    safe = np.maximum(ranks, 1).astype(np.float64)
    values = {f"Recall@{k}": (found & (ranks <= k)).astype(np.float64) for k in ks}
    values |= {f"NDCG@{k}": np.where(found & (ranks <= k), 1 / np.log2(safe + 1), 0.0) for k in ks}
    values["MRR" if depth is None else f"MRR@{depth}"] = np.where(found, 1 / safe, 0.0)
    return {name: Figure(float(v.mean()), float(v.std() / math.sqrt(len(v)))) for name, v in values.items()}


def top_k(scores: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows int64 [Q, k], scores float32 [Q, k]) of the best of [Q, N], equal scores by row; -1 beyond N.

    Scores of -inf are not returned.
    """
    scores = np.asarray(scores, np.float32)
    if allowed is not None:
        scores = np.where(allowed[None, :], scores, np.float32(-np.inf))
    items = np.full((len(scores), k), -1, np.int64)
    best = np.full((len(scores), k), -np.inf, np.float32)
    width = min(k, scores.shape[1])
    for query, row in enumerate(scores):
        # All that reach the k-th score, ties included, in row order; then a stable sort of these few.
        least = np.partition(row, -width)[-width]
        near = np.flatnonzero(row >= least)
        order = near[np.argsort(-row[near], kind="stable")][:width]
        order = order[~np.isneginf(row[order])]
        items[query, : len(order)], best[query, : len(order)] = order, row[order]
    return items, best
