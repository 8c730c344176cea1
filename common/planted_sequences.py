"""Planted behaviour: users walk a Markov chain over clusters of items; the chain knows the best reachable Recall@k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.errors import ConfigError

Rule = Literal["cycle", "same"]


class ClusterChain:
    """A Markov chain over clusters of items.

    With probability `stay` the next item is drawn from the cluster that follows the last item's, otherwise from a
    random cluster. In a cluster an item is drawn by its weight. `rule="cycle"`: the following clusters are one
    random cycle through all of them, so that an item's neighbours in any embedding do not tell the next item;
    "same": the next cluster is the last one.

    Parameters
    ----------
    codes
        int [N], each item's cluster; or paths int [N, L], of which all but the last level are the cluster.
    stay
        Probability of keeping to the rule, 0..1.
    seed
        Of the cycle and of the items' weights.
    rule
        "cycle" or "same".
    skew
        Weights are rank^-skew in a random order within the cluster: 0 = even.

    Raises
    ------
    ConfigError
        No items, codes of another shape, `stay` outside 0..1.
    """

    def __init__(
        self, codes: np.ndarray, *, stay: float = 0.85, seed: int = 0, rule: Rule = "cycle", skew: float = 0.5
    ) -> None:
        if codes.ndim not in (1, 2) or not codes.size or codes.dtype.kind not in "iu":
            got = f"{codes.dtype} {list(codes.shape)}"
            raise ConfigError(
                "a chain needs clusters of items", where="codes", expected="integers [N] or [N, L]", got=got
            )
        if not 0 <= stay <= 1:
            raise ConfigError("this is not a probability", where="stay", expected="0..1", got=stay)
        keys = codes if codes.ndim == 1 else codes[:, : max(1, codes.shape[1] - 1)]
        _, cluster = np.unique(keys, axis=0, return_inverse=True)
        self.cluster = cluster.reshape(-1).astype(np.int64)
        self.clusters, self.stay = int(self.cluster.max()) + 1, float(stay)
        rng = np.random.default_rng((seed, 1))
        self.successor = np.arange(self.clusters)
        if rule == "cycle":
            cycle = rng.permutation(self.clusters)
            self.successor[cycle] = np.roll(cycle, -1)
        self._order = np.lexsort((rng.random(len(cluster)), self.cluster))  # by cluster, at random within
        self._start = np.searchsorted(self.cluster[self._order], np.arange(self.clusters + 1))
        weight = (1.0 + np.arange(len(cluster)) - self._start[self.cluster[self._order]]) ** -skew
        total = np.add.reduceat(weight, self._start[:-1])[self.cluster[self._order]]
        self.weight = np.empty(len(cluster))
        self.weight[self._order] = weight / total

    def __len__(self) -> int:
        return len(self.cluster)

    def sequences(self, users: int, length: int, seed: int = 0) -> list[np.ndarray]:
        """Return `users` sequences of `length` item rows, each int64 [length]."""
        if users < 1 or length < 1:
            raise ConfigError("sequences need users and a length", expected="at least 1", got=(users, length))
        rng = np.random.default_rng((seed, 2))
        items = np.empty((users, length), np.int64)
        cluster = rng.integers(0, self.clusters, users)
        for step in range(length):
            items[:, step] = self._draw(cluster, rng)
            leave = rng.random(users) >= self.stay
            cluster = np.where(leave, rng.integers(0, self.clusters, users), self.successor[cluster])
        return list(items)

    def _draw(self, cluster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an item of each cluster, by weight: one search in the running sum over all clusters."""
        edges = np.concatenate([[0.0], np.cumsum(self.weight[self._order])])
        low, high = edges[self._start[cluster]], edges[self._start[cluster + 1]]
        place = np.searchsorted(edges, low + rng.random(len(cluster)) * (high - low), side="right") - 1
        return self._order[np.clip(place, self._start[cluster], self._start[cluster + 1] - 1)]

    def probabilities(self, last: np.ndarray) -> np.ndarray:
        """Return the true probability of every next item after the items `last` [B], float64 [B, N]."""
        follows = self.successor[self.cluster[last]][:, None] == self.cluster
        return self.weight * (self.stay * follows + (1 - self.stay) / self.clusters)

    def recall(self, k: int) -> float:
        """Return the best Recall@k that anything can reach, expected over the chain's own sequences.

        The k most probable items after the last one are the best k there are; clusters are visited evenly.
        """
        firsts = self._order[self._start[:-1]]
        best = np.partition(self.probabilities(firsts), max(0, len(self) - k), axis=1)[:, -k:]
        return float(best.sum(1).mean())

    def ranking(self, last: np.ndarray, k: int) -> np.ndarray:
        """Return the oracle's `k` best next items after `last` [B], best first, ties by row: int64 [B, k]."""
        return np.argsort(-self.probabilities(last), axis=1, kind="stable")[:, :k]


def cluster_sequences(
    codes: np.ndarray, users: int, length: int, stay: float = 0.85, seed: int = 0, rule: Rule = "cycle"
) -> list[np.ndarray]:
    """Return `users` sequences int64 [length] of a `ClusterChain` over `codes`, which has the oracle as well."""
    return ClusterChain(codes, stay=stay, seed=seed, rule=rule).sequences(users, length, seed)


def recall_of(rankings: np.ndarray, targets: Sequence[int] | np.ndarray, k: int) -> float:
    """Return the share of rows whose target is among the first k of its ranking [B, at least k]."""
    return float((rankings[:, :k] == np.asarray(targets)[:, None]).any(1).mean())
