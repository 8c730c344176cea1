"""EDIT HERE: your own retrieval route.

Run it alone:       ./run_all.sh track1 --config my_route
Add it to a run:    put `mine: {type: my_route}` under `routes` of a configuration, and a weight under `fusion`.
Keep several:       copy this file to `my_NAME.py` and say `{type: my_route, file: my_NAME}` (docs/add_a_route.md).

As shipped it scores a page by the share of the question's words that stand on it: weak, but it runs.
Change `score`; everything else (data, fusion, submission, local score) stays as it is.
"""

from __future__ import annotations

import numpy as np

from track1_mdr.config import MyRouteConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored
from track1_mdr.routes.base import Environment


class MyRoute:
    """A route by word overlap; `params.min_length` is the shortest word that counts."""

    def __init__(self, config: MyRouteConfig, environment: Environment) -> None:
        self._min_length = int(config.params.get("min_length", 4))
        self._words: list[set[str]] = []

    def fit(self, passages: Passages) -> None:
        """Prepare the passages once: `passages.texts[row]`, `passages.images.load(row)`."""
        self._words = [self._split(text) for text in passages.texts]

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return one `Scored` per query; leave a passage out when you have no opinion about it."""
        results: list[Scored] = []
        for question, rows in zip(queries.texts, candidates.rows, strict=True):
            words = self._split(question)
            if not words:
                results.append(Scored.empty())
                continue
            overlap = [len(words & self._words[row]) / len(words) for row in rows]
            results.append(Scored(rows, np.asarray(overlap, dtype=np.float32)))
        return results

    def _split(self, text: str) -> set[str]:
        return {word for word in text.lower().split() if len(word) >= self._min_length}
