"""CART on real pages against BM25 and dense retrieval: recall, training time, and where it goes wrong.

    python -m benchmarks.cart_pages --data DIR [--documents 20] [--epochs 10] [--arm "all kinds"]

DIR holds mmdocir/ with its gold. Every arm is trained on pseudo-queries of the pages alone; the questions are seen by
nothing but the score. Finished arms are kept in `--results` (JSON lines): the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from common.atomic import append_line
from common.cli import main as cli_main
from common.config import apply_override
from common.faults import FaultLog
from common.hashing import digest
from track1_mdr.cart_config import CartRouteConfig, PseudoQueryConfig
from track1_mdr.config import Bm25Config, DataConfig, DenseTextConfig, RouteConfig, ZScoreConfig
from track1_mdr.datasets.mmdocir import load_mmdocir
from track1_mdr.datasets.tables import (
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    Candidates,
    NoImages,
    Passages,
    Queries,
    Scored,
    TaskTables,
    top_k,
)
from track1_mdr.evaluate import clustered_error
from track1_mdr.fusion.simple import zscore_fusion
from track1_mdr.pseudo_queries import PseudoQueries, match_key, pseudo_queries
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment
from track1_mdr.routes.cart import CartRoute
from track1_mdr.stages import question_recall

ROOT = Path(__file__).resolve().parents[1]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BM25 = Bm25Config.model_validate({"type": "bm25", "ngrams": 2})
PROBES = 400
"""Texts of a probe: sentences that some arm was trained on, and sentences that none was."""
BINS = ((0, 0), (1, 8), (9, 16), (17, 10**6))
"""Training pairs of a gold page, by which the questions are counted."""
ARMS: dict[str, tuple[str, ...]] = {
    "sentences": ("pseudo.kinds=[sentence]",),
    "+ titles": ("pseudo.kinds=[sentence, title]",),
    "all kinds": (),
    "random IDs": ("ids.random=true",),
    "own encoder": ("network.encoder=words",),
    "no fusion": ("network.fusion=none",),
    "no KL": ("network.omega=0",),
    "shuffled pages": (),
}
"""What each arm changes. All kinds: sentences, titles, captions and key phrases, a frozen MiniLM with both fusions.
The last is a placebo: every pseudo-query is moved to another page of its document."""


@dataclass(frozen=True)
class Probe:
    """Texts whose page is known: R@1 on them tells what was learnt from what carries over."""

    queries: Queries
    candidates: Candidates
    rows: np.ndarray

    def recall(self, results: Sequence[Scored]) -> float:
        """Return the share of texts whose page comes first among those of its document."""
        hits = [len(s.rows) > 0 and int(top_k(s, 1).rows[0]) == row for s, row in zip(results, self.rows, strict=True)]
        return float(np.mean(hits)) if hits else float("nan")


def arm_config(name: str, changes: Sequence[str]) -> CartRouteConfig:
    """Return the route of an arm; `changes` are for all arms."""
    data: dict[str, Any] = {"type": "cart", "model": MINILM}
    for change in (*changes, *ARMS[name]):
        apply_override(data, change)
    return CartRouteConfig.model_validate(data)


def subset(tables: TaskTables, documents: int) -> TaskTables:
    """Return the task with its first `documents` documents only; 0 = all."""
    names = tables.passages.table["doc_name"].unique(maintain_order=True).to_list()
    if not 0 < documents < len(names):
        return tables
    kept = names[:documents]
    pages = tables.passages.table.with_row_index("old").filter(pl.col("doc_name").is_in(kept))
    renamed = {old: new for new, old in enumerate(pages["old"].to_list())}
    layouts = tables.passages.layouts
    if layouts is not None:
        layouts = layouts.filter(pl.col("passage").is_in(list(renamed))).with_columns(
            pl.col("passage").replace_strict(renamed, return_dtype=pl.Int64)
        )
    table = pages.select(list(PASSAGE_SCHEMA))
    asked = tables.queries.table.filter(pl.col("doc_name").is_in(kept))
    return TaskTables(
        tables.task,
        Passages(table, NoImages(table.height), layouts),
        Queries(asked, NoImages(asked.height)),
        Candidates.by_document(asked["doc_name"].to_list(), table["doc_name"].to_list()),
        {key: tables.qrels[key] for key in asked["question_id"] if key in tables.qrels},
    )


def make_probe(found: PseudoQueries, passages: Passages, seed: int) -> Probe:
    """Return up to `PROBES` of the texts, drawn by the seed, as questions to the documents that they are from."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(found), min(PROBES, len(found)), replace=False))
    names = passages.table["doc_name"].to_list()
    rows = found.rows[chosen]
    blank = {"instruction": "", "domain": "", "num_of_pages": 0, "image_name": None}
    table = pl.DataFrame(
        [
            {**blank, "question_id": str(i), "question": found.texts[i], "doc_name": names[row]}
            for i, row in zip(chosen.tolist(), rows.tolist(), strict=True)
        ],
        schema=QUERY_SCHEMA,
    )
    return Probe(
        Queries(table, NoImages(table.height)), Candidates.by_document(table["doc_name"].to_list(), names), rows
    )


def select(found: PseudoQueries, keep: Sequence[bool]) -> PseudoQueries:
    """Return the pseudo-queries at which `keep` is True."""
    places = np.flatnonzero(keep)
    return PseudoQueries([found.texts[i] for i in places], found.rows[places], [found.kinds[i] for i in places])


def probes(passages: Passages, configs: Sequence[CartRouteConfig], seed: int) -> dict[str, Probe]:
    """Return sentences that all arms were trained on, and sentences that none was."""
    trained = [
        {(row, match_key(text)) for row, text in zip(made.rows.tolist(), made.texts, strict=True)}
        for made in (pseudo_queries(passages, config) for config in dict.fromkeys(c.pseudo for c in configs))
    ]
    every = pseudo_queries(passages, PseudoQueryConfig(kinds=("sentence",), per_page=10**6))
    keys = [(row, match_key(text)) for row, text in zip(every.rows.tolist(), every.texts, strict=True)]
    return {
        "seen": make_probe(select(every, [all(key in t for t in trained) for key in keys]), passages, seed),
        "unseen": make_probe(select(every, [not any(key in t for t in trained) for key in keys]), passages, seed),
    }


def shuffled(passages: Passages, config: CartRouteConfig, folder: Path, seed: int) -> CartRouteConfig:
    """Return a configuration that trains on the same texts, each moved to another page of its document."""
    found = pseudo_queries(passages, config.pseudo)
    names = np.asarray(passages.table["doc_name"].to_list(), dtype=object)
    rng, rows = np.random.default_rng(seed), found.rows.copy()
    for name in dict.fromkeys(names.tolist()):
        places = np.flatnonzero(names[found.rows] == name)
        rows[places] = rng.permutation(rows[places])
    ids = passages.table["passage_id"].to_list()
    path = folder / "shuffled.parquet"
    pl.DataFrame(
        {"doc_name": names[rows].tolist(), "passage_id": [ids[row] for row in rows], "text": found.texts}
    ).write_parquet(path)
    return config.model_copy(update={"queries": str(path), "pseudo": config.pseudo.model_copy(update={"kinds": ()})})


def prefix_errors(route: CartRoute, results: Sequence[Scored], gold: Sequence[np.ndarray | None]) -> list[float]:
    """Return the share of questions whose first page leaves the nearest gold page's ID at each level; the last: right.

    A level counts where all before it are right.
    """
    assert route.model is not None
    sids = route.model.id_map.sids
    counts = np.zeros(sids.shape[1] + 1)
    for scored, pages in zip(results, gold, strict=True):
        if pages is None or not len(scored.rows):
            continue
        items = np.searchsorted(route.rows, pages[np.isin(pages, route.rows)])
        if not len(items):
            continue
        best = sids[np.searchsorted(route.rows, top_k(scored, 1).rows[0])]
        counts[int(np.cumprod(sids[items] == best, axis=1).sum(axis=1).max())] += 1
    return (counts / max(counts.sum(), 1)).tolist()


def by_pairs(queries: PseudoQueries, recall: np.ndarray, gold: Sequence[np.ndarray], pages: int) -> list[list[float]]:
    """Return (questions, mean Recall@1) for each bin of training pairs of the best covered gold page."""
    pairs = np.bincount(queries.rows, minlength=pages)
    most = np.asarray([pairs[rows].max() for rows in gold])
    rows: list[list[float]] = []
    for low, high in BINS:
        inside = (most >= low) & (most <= high)
        rows.append([int(inside.sum()), float(recall[inside, 0].mean()) if inside.any() else float("nan")])
    return rows


def scores(recall: np.ndarray, documents: Sequence[str]) -> dict[str, Any]:
    """Return Recall@1, 3, 5 and their mean in percent, and the mean's standard error by document."""
    mean = recall.mean(axis=1)
    error = clustered_error(mean, documents)
    return {
        "recall": [round(100 * float(v), 2) for v in recall.mean(axis=0)],
        "mean": round(100 * float(mean.mean()), 2),
        "error": None if error is None else round(100 * error, 2),
    }


@dataclass
class Bench:
    """The task, what all arms are measured on, and where results go."""

    tables: TaskTables
    environment: Environment
    probes: dict[str, Probe]
    results: Path
    settings: str

    def __post_init__(self) -> None:
        self.gold = self.tables.gold_rows()
        names = self.tables.queries.table["doc_name"].to_list()
        self.documents = [name for name, rows in zip(names, self.gold, strict=True) if rows is not None]
        self.known = [rows for rows in self.gold if rows is not None]
        self.bm25 = self.scored(BM25)[0]

    def scored(self, config: RouteConfig) -> tuple[list[Scored], Any, float, float]:
        """Return a route's results on the questions, the route, and the seconds of fit and score."""
        route = build_route(config, self.environment)
        start = time.perf_counter()
        route.fit(self.tables.passages)
        fitted = time.perf_counter()
        found = route.score(self.tables.queries, self.tables.candidates)
        return found, route, fitted - start, time.perf_counter() - fitted

    def measure(self, name: str, config: RouteConfig) -> dict[str, Any]:
        """Return the line of one route or arm, from the results file where it is there."""
        key = digest(name, config.model_copy(update={"queries": None}).model_dump_json(), self.settings)[:16]
        known = [json.loads(line) for line in self.results.read_text().splitlines()] if self.results.exists() else []
        for line in known:
            if line["key"] == key:
                return line
        found, route, fit_seconds, score_seconds = self.scored(config)
        recall = question_recall(found, self.gold)
        line: dict[str, Any] = {"key": key, "name": name, **scores(recall, self.documents)}
        line |= {"fit_seconds": round(fit_seconds, 1), "score_seconds": round(score_seconds, 1)}
        for probe, one in self.probes.items():
            line[probe] = round(100 * one.recall(route.score(one.queries, one.candidates)), 2)
        if isinstance(route, CartRoute):
            line["pairs"] = len(route.queries)
            line["prefix"] = [round(v, 4) for v in prefix_errors(route, found, self.gold)]
            line["by_pairs"] = by_pairs(route.queries, recall, self.known, len(self.tables.passages))
        if name != "bm25":
            for weight in (0.3, 1.0):
                fusion = ZScoreConfig(type="zscore", weights={"bm25": 1.0, name: weight})
                fused = zscore_fusion({"bm25": self.bm25, name: found}, fusion)
                line[f"with bm25, {weight}"] = scores(question_recall(fused, self.gold), self.documents)
        append_line(self.results, json.dumps(line))
        return line


def recall_table(lines: Sequence[dict[str, Any]], title: str) -> Table:
    """Return the arms' own recall, in fusion with BM25, on the probes, and their time."""
    table = Table(title=title, title_justify="left")
    columns = ("route", "R@1", "R@3", "R@5", "mean", "± SE", "+ bm25, 0.3", "+ bm25, 1", "seen R@1", "unseen R@1")
    for column in (*columns, "pairs", "fit s", "score s"):
        table.add_column(column, justify="left" if column == "route" else "right")
    for line in lines:
        fused = [line.get(f"with bm25, {weight}") for weight in (0.3, 1.0)]
        table.add_row(
            line["name"],
            *(f"{v:.1f}" for v in line["recall"]),
            f"{line['mean']:.2f}",
            "-" if line["error"] is None else f"{line['error']:.2f}",
            *("-" if one is None else f"{one['mean']:.2f}" for one in fused),
            *(f"{line[probe]:.1f}" for probe in ("seen", "unseen")),
            f"{line['pairs']:,}" if "pairs" in line else "-",
            f"{line['fit_seconds']:.0f}",
            f"{line['score_seconds']:.1f}",
        )
    return table


def error_table(lines: Sequence[dict[str, Any]]) -> Table:
    """Return where the first page's ID leaves the gold page's, and Recall@1 by training pairs of the gold page."""
    table = Table(title="where CART goes wrong (%)", title_justify="left")
    levels = max(len(line["prefix"]) for line in lines) - 1
    table.add_column("arm")
    for level in range(levels):
        table.add_column(f"wrong at code {level + 1}", justify="right")
    table.add_column("right", justify="right")
    for low, high in BINS:
        name = str(low) if low == high else f"{low}+" if high >= 10**6 else f"{low}-{high}"
        table.add_column(f"R@1, {name} pairs", justify="right")
    for line in lines:
        shares = [*line["prefix"][:-1], *[0.0] * (levels + 1 - len(line["prefix"])), line["prefix"][-1]]
        bins = [f"{100 * mean:.1f} ({int(count)})" if count else "-" for count, mean in line["by_pairs"]]
        table.add_row(line["name"], *(f"{100 * v:.1f}" for v in shares), *bins)
    return table


def main(
    data: Annotated[Path, typer.Option("--data", help="data root with mmdocir/ and its gold")],
    documents: Annotated[int, typer.Option(help="the first N documents; 0 = all")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="one of ARMS; repeatable; default: all")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="of all arms: a.b=value")] = None,
    seed: Annotated[int, typer.Option()] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    cache: Annotated[Path, typer.Option()] = ROOT / "data" / "cache",
    results: Annotated[Path, typer.Option(help="JSON lines")] = ROOT / "runs" / "cart_pages.jsonl",
) -> None:
    """Measure CART's arms, BM25 and dense retrieval on the questions, and print two tables."""
    import torch

    torch.set_num_threads(threads)
    unknown = sorted({*(arm or ())} - {*ARMS})
    if unknown:
        raise typer.BadParameter(f"no such arm: {', '.join(unknown)}; known: {', '.join(ARMS)}")
    changes = [f"training.epochs={epochs}", *(overrides or ())]
    environment = Environment(cache.resolve(), seed=seed, threads=threads, faults=FaultLog(), say=typer.echo)
    tables = subset(load_mmdocir(data / "mmdocir", DataConfig(), environment.cache, environment.faults), documents)
    passages = tables.passages
    configs = {name: arm_config(name, changes) for name in arm or ARMS}
    every = [arm_config(name, changes) for name in ARMS]  # the probes are the same whichever arms are run
    settings = digest(seed, threads, *passages.texts, *tables.queries.texts)
    with TemporaryDirectory() as folder:
        bench = Bench(tables, environment, probes(passages, every, seed), results, settings)
        lines = [bench.measure("bm25", BM25)]
        for name, model in (("dense, MiniLM", MINILM), ("dense, bge-small", "BAAI/bge-small-en-v1.5")):
            prompt = "Represent this sentence for searching relevant passages: " if "bge" in model else ""
            dense = {"type": "dense_text", "model": model, "query_prompt": prompt}
            lines.append(bench.measure(name, DenseTextConfig.model_validate(dense)))
        for name, config in configs.items():
            used = shuffled(passages, config, Path(folder), seed) if name == "shuffled pages" else config
            lines.append(bench.measure(name, used))
            typer.echo(json.dumps(lines[-1]))
    count = len(set(tables.passages.table["doc_name"].to_list()))
    title = f"{len(bench.known)} questions, {count} documents, {len(passages):,} pages, {epochs} epochs"
    console = Console(width=160)
    console.print(recall_table(lines, title))
    arms = [line for line in lines if "prefix" in line]
    if arms:
        console.print(error_table(arms))


if __name__ == "__main__":
    cli_main(lambda: typer.run(main), os.environ)
