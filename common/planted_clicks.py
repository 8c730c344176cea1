"""Planted users and clicks: preferences over attribute values, histories drawn from them, true log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.metrics.ctr import auc

CHUNK = 2048
"""Users scored against all items at once."""


@dataclass(frozen=True)
class Tastes:
    """Preferences of users: the log-odds of a click are `bias` + a sum over the attributes that behaviour sees.

    Attributes
    ----------
    preferences
        float64 [U, B, V]: what user u adds for value v of the b-th such attribute.
    values
        int [N, B]: the items' values of these attributes.
    bias
        Log-odds of a click without any preference.
    """

    preferences: np.ndarray
    values: np.ndarray
    bias: float

    def log_odds(self, users: np.ndarray, items: np.ndarray, seen: tuple[int, ...] | None = None) -> np.ndarray:
        """Return the true log-odds float64 [R] of user `users[r]` clicking `items[r]`.

        `seen` (places in 0..B-1) leaves out what the other attributes add, whose mean is 0: the best that can be
        known of a user's ranking when only these attributes of the items can be seen.
        """
        total = np.full(len(users), self.bias)
        for place in range(self.values.shape[1]) if seen is None else seen:
            total += self.preferences[users, place, self.values[items, place]]
        return total

    def histories(self, length: int, sharpness: float, popularity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return what each user chose before, int64 [U, length]: drawn by popularity · exp(sharpness · preference)."""
        found = np.empty((len(self.preferences), length), np.int64)
        for start in range(0, len(found), CHUNK):
            rows = slice(start, min(start + CHUNK, len(found)))
            score = np.zeros((rows.stop - rows.start, len(self.values)))
            for place in range(self.values.shape[1]):
                score += self.preferences[rows, place][:, self.values[:, place]]
            weight = np.cumsum(popularity * np.exp(sharpness * (score - score.max(1, keepdims=True))), axis=1)
            luck = rng.random((len(weight), length)) * weight[:, -1:]
            for row, (edges, drawn) in enumerate(zip(weight, luck, strict=True), start=start):
                found[row] = np.minimum(np.searchsorted(edges, drawn, side="right"), len(edges) - 1)
        return found


@dataclass(frozen=True)
class Clicks:
    """Rows of a click log with the truth: users, items int64 [R], label float32 [R], true log-odds float64 [R]."""

    users: np.ndarray
    items: np.ndarray
    label: np.ndarray
    log_odds: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, start: int, stop: int) -> Clicks:
        """Return rows start..stop-1: how a caller cuts train, valid and test."""
        at = slice(start, stop)
        return Clicks(self.users[at], self.items[at], self.label[at], self.log_odds[at])

    def oracle_auc(self) -> float:
        """Return the AUC of the true log-odds on these labels: what is lost to 1 is the luck of the clicks."""
        return auc(self.label, self.log_odds)

    def expected_auc(self) -> float:
        """Return the oracle's AUC expected over the luck of the clicks: of the probabilities, not of the labels.

        The expected weight of a pair (i above j) is p_i (1 - p_j); ties of log-odds count one half. A ratio of
        expectations, so exact as the number of rows grows.
        """
        score, group = np.unique(self.log_odds, return_inverse=True)
        p = 1 / (1 + np.exp(-self.log_odds))
        positive, negative = np.bincount(group, p, len(score)), np.bincount(group, 1 - p, len(score))
        below = np.cumsum(negative) - negative
        own = np.bincount(group, p * (1 - p), len(score))  # a row is never compared with itself
        won = positive @ below + ((positive * negative).sum() - own.sum()) / 2
        return float(won / (p.sum() * (1 - p).sum() - own.sum()))


def make_clicks(tastes: Tastes, popularity: np.ndarray, rows: int, rng: np.random.Generator) -> Clicks:
    """Return `rows` rows in a random order of users: item by popularity, label by the true log-odds."""
    users = rng.integers(0, len(tastes.preferences), rows)
    items = rng.choice(len(popularity), rows, p=popularity)
    odds = tastes.log_odds(users, items)
    label = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    return Clicks(users, items, label, odds)
