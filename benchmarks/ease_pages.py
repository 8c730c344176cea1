"""The route `ease` on real pages, beside the dense route that it distils from.

    python -m benchmarks.ease_pages --data DIR

DIR holds mmdocir/ with its gold. The controls: the mean of a page's chunk vectors (one vector a page, no training),
the mean of its pseudo-texts' vectors, no Q-Former, and a placebo whose targets are those of other pages of the same
document. The questions are seen by nothing but the score.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cart_pages import BM25, MINILM, ROOT, scores
from common.cli import main as cli_main
from common.faults import FaultLog
from common.index.faiss_index import FaissIndex
from track1_mdr.config import DataConfig, DenseTextConfig
from track1_mdr.datasets.mmdocir import load_mmdocir
from track1_mdr.datasets.tables import Passages, Scored, TaskTables
from track1_mdr.ease_config import EaseRouteConfig
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.ease import EaseRoute
from track1_mdr.stages import question_recall


class Untrained(EaseRoute):
    """One vector a page without training: the mean of its chunks' vectors, or what EASE would be drawn to."""

    def fit(self, passages: Passages) -> None:
        """Index the vectors."""
        items, means = self._items(passages)
        vectors = self._targets(passages, means)[items.ids]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
        self.rows, self._fitted = items.ids, True
        self._index = FaissIndex(vectors.shape[1], "flat", 7, self._environment.threads)
        self._index.add(vectors, self.rows)


class Misled(EaseRoute):
    """The placebo: each page is drawn to the target of another page of its document."""

    def _targets(self, passages: Passages, means: np.ndarray) -> np.ndarray:
        targets, rng = super()._targets(passages, means), np.random.default_rng(7)
        names = passages.table["doc_name"].to_numpy()
        moved = targets.copy()
        for name in np.unique(names):
            rows = rng.permutation(np.flatnonzero((names == name) & targets.any(1)))
            moved[rows] = targets[np.roll(rows, 1)]
        return moved


def routes(environment: Environment) -> dict[str, Any]:
    """Return the arms by name."""

    def ease(**changes: Any) -> EaseRouteConfig:
        return EaseRouteConfig.model_validate({"type": "ease", "model": MINILM, **changes})

    dense = DenseTextConfig.model_validate({"type": "dense_text", "model": MINILM})
    return {
        "BM25": build_route(BM25, environment),
        "dense: every chunk has a vector": build_route(dense, environment),
        "mean of the chunks' vectors": Untrained(ease(), environment),
        "mean of the pseudo-texts' vectors": Untrained(ease(teacher="pseudo"), environment),
        "EASE": EaseRoute(ease(), environment),
        "EASE, drawn to the pseudo-texts": EaseRoute(ease(teacher="pseudo"), environment),
        "EASE, no Q-Former": EaseRoute(ease(network={"reader": "mean"}), environment),
        "EASE, targets of other pages (placebo)": Misled(ease(), environment),
    }


def measure(route: Any, tables: TaskTables) -> tuple[dict[str, Any], float, float, float]:
    """Return a route's recall, the CPU seconds of fit and of the questions, and its bytes of vectors a page."""
    gold = tables.gold_rows()
    names = tables.queries.table["doc_name"].to_list()
    start = time.process_time()
    route.fit(tables.passages)
    fitted = time.process_time()
    found: list[Scored] = route.score(tables.queries, tables.candidates)
    asked = time.process_time() - fitted
    known = [name for name, rows in zip(names, gold, strict=True) if rows is not None]
    index = getattr(route, "_index", None)
    size = 4 * index.dim * len(index) / len(tables.passages) if isinstance(index, FaissIndex) else float("nan")
    return scores(question_recall(found, gold), known), fitted - start, asked, size


def main(
    data: Annotated[Path, typer.Option("--data", help="data root with mmdocir/ and its gold")],
    cache: Annotated[Path, typer.Option()] = ROOT / "data" / "cache",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Print Recall@1, 3, 5 of the arms, their CPU time, and the bytes of a page's vectors."""
    import torch

    torch.set_num_threads(threads)
    environment = Environment(cache.resolve(), seed=seed, threads=threads, faults=FaultLog(), say=typer.echo)
    tables = load_mmdocir(data / "mmdocir", DataConfig(), environment.cache, environment.faults)
    table = Table(title=f"{len(tables.queries)} questions, {len(tables.passages):,} pages", title_justify="left")
    columns = ("route", "R@1", "R@3", "R@5", "mean", "± SE", "fit, CPU s", "questions, CPU s", "bytes a page")
    for column in columns:
        table.add_column(column, justify="left" if column == "route" else "right")
    for name, route in routes(environment).items():
        found, fit, asked, size = measure(route, tables)
        cells = [*found["recall"], found["mean"]]
        error = "-" if found["error"] is None else f"{found['error']:.1f}"
        bytes_ = "-" if np.isnan(size) else f"{size:,.0f}"
        table.add_row(name, *(f"{cell:.1f}" for cell in cells), error, f"{fit:.1f}", f"{asked:.1f}", bytes_)
        typer.echo(f"{name}: {found}")
    Console(width=140).print(table)


if __name__ == "__main__":
    cli_main(lambda: typer.run(main), os.environ)
