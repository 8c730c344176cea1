"""Track 1 on real documents: every route, fusion and reranker, by domain and kind of document, with time and memory.

    python -m benchmarks.track1 --data ../shared/data

Whatever was trained is scored out of fold: no question by a model that saw its document.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from common.config import load_config
from common.experiment import Experiment
from track1_mdr.app import make_environment
from track1_mdr.config import CONFIG_FOLDER, RrfConfig, RunConfig, TaskConfig, ZScoreConfig, coverages
from track1_mdr.datasets.mmdocir import load_mmdocir
from track1_mdr.datasets.tables import Scored, TaskTables
from track1_mdr.evaluate import clustered_error
from track1_mdr.fusion.learned import LearnedFusion
from track1_mdr.fusion.simple import reciprocal_rank_fusion, zscore_fusion
from track1_mdr.pipeline import TaskRanking, rank_task
from track1_mdr.routes.base import Environment
from track1_mdr.stages import question_recall

ROOT = Path(__file__).resolve().parents[1]
FOLDS = 8


def image_only(root: Path, config: RunConfig, environment: Environment) -> set[str]:
    """Return the documents of whose pages more than 9 in 10 have a text layer of fewer than 10 words."""
    bare = config.data.model_copy(update={"ocr": config.data.ocr.model_copy(update={"enabled": False})})
    table = load_mmdocir(root / "mmdocir", bare, environment.cache, environment.faults).passages.table
    empty: dict[str, list[bool]] = {}
    for name, text in zip(table["doc_name"], table["text"], strict=True):
        empty.setdefault(name, []).append(len(text.split()) < 10)
    return {name for name, pages in empty.items() if np.mean(pages) > 0.9}


def fold_count(tables: TaskTables) -> int:
    """Return the folds to use: 8, or one a document where there are fewer."""
    return min(FOLDS, tables.queries.table["doc_name"].n_unique())


def add_fusions(ranking: TaskRanking, config: TaskConfig, seed: int) -> None:
    """Add every other fusion of the same scores, with and without the reranker, trained ones out of fold."""
    tables = ranking.tables
    coverage = coverages(config)
    sparse = [name for name, kind in coverage.items() if kind == "sparse"]
    routes = {name: ranking.scores[name] for name in config.routes if name in ranking.scores}
    dense = [name for name in routes if name not in sparse]
    ranking.rankings["RRF, k 10"] = reciprocal_rank_fusion(routes, RrfConfig(type="rrf", k=10, weights={}))
    equal = ZScoreConfig(type="zscore", weights=dict.fromkeys(dense, 1.0), bonus=dict.fromkeys(sparse, 3.0))
    ranking.rankings["z-scores, equal weights"] = zscore_fusion(routes, equal)
    for name, scores in (("learned, no reranker", routes), ("learned, all", ranking.scores)):
        fitted = LearnedFusion.fit(
            scores, tables, coverage=coverage, folds=fold_count(tables), seed=seed, provenance={}
        )
        ranking.rankings[f"{name} (out of fold)"] = fitted.fuse(scores, tables.queries, tables.passages)


def fold_spread(ranking: TaskRanking, config: TaskConfig, seeds: Sequence[int]) -> str:
    """Return the learned fusion's out-of-fold mean recall over several assignments of documents to folds."""
    gold = ranking.tables.gold_rows()
    means: list[float] = []
    for seed in seeds:
        fitted = LearnedFusion.fit(
            ranking.scores,
            ranking.tables,
            coverage=coverages(config),
            folds=fold_count(ranking.tables),
            seed=seed,
            provenance={},
        )
        results = fitted.fuse(ranking.scores, ranking.tables.queries, ranking.tables.passages)
        means.append(100 * float(question_recall(results, gold).mean()))
    return f"learned, all, over {len(means)} assignments to folds: {np.mean(means):.2f}, sd {np.std(means):.2f}"


def stage_rows(ranking: TaskRanking, pictures: set[str]) -> Table:
    """Return recall of each stage, with the standard error by document, and by kind of document."""
    gold = ranking.tables.gold_rows()
    names = ranking.tables.queries.table["doc_name"].to_list()
    documents = [name for name, rows in zip(names, gold, strict=True) if rows is not None]
    kind = np.asarray([name in pictures for name in documents])
    table = Table(title=f"{len(documents)} questions, {len(set(documents))} documents", title_justify="left")
    for column in ("stage", "R@1", "R@3", "R@5", "mean", "± SE", "text docs", "image-only"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, results in [*ranking.scores.items(), *ranking.rankings.items()]:
        recall = 100 * question_recall(results, gold)
        mean = recall.mean(axis=1)
        parts = [f"{mean[chosen].mean():.1f}" if chosen.any() else "-" for chosen in (~kind, kind)]
        error = clustered_error(mean, documents)
        shown = "-" if error is None else f"{error:.1f}"
        table.add_row(name, *(f"{v:.1f}" for v in recall.mean(axis=0)), f"{mean.mean():.2f}", shown, *parts)
    return table


def domain_rows(ranking: TaskRanking, stages: Sequence[str]) -> Table:
    """Return the mean of Recall@1,3,5 of the named stages by domain."""
    gold = ranking.tables.gold_rows()
    domains = np.asarray(
        [d for d, rows in zip(ranking.tables.queries.table["domain"], gold, strict=True) if rows is not None]
    )
    everything: dict[str, list[Scored]] = {**ranking.scores, **ranking.rankings}
    means = {stage: 100 * question_recall(everything[stage], gold).mean(axis=1) for stage in stages}
    table = Table(title="mean recall by domain", title_justify="left")
    for column in ("domain", "questions", *stages):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for domain in sorted(set(domains.tolist())):
        chosen = domains == domain
        cells = [f"{means[s][chosen].mean():.1f}" for s in stages]
        table.add_row(domain, str(int(chosen.sum())), *cells)
    return table


def time_rows(record: Experiment) -> Table:
    """Return the stages' times and the peak memory by their end."""
    table = Table(title="time and memory", title_justify="left")
    for column in ("stage", "wall s", "CPU s", "peak GiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in record.stages:
        peak = f"{stage.peak_bytes / 2**30:.2f}"
        table.add_row(stage.stage, f"{stage.wall_seconds:.1f}", f"{stage.cpu_seconds:.1f}", peak)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data root with mmdocir/ and its gold")
    parser.add_argument("--config", default="baseline")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=value")
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "cache")
    arguments = parser.parse_args()
    config = load_config(RunConfig, arguments.config, CONFIG_FOLDER, arguments.overrides)
    section = config.tasks.mmdocir  # its final, shipped fusion is scored out of fold on documents it was fitted on
    if section is None:
        parser.error("the configuration has no mmdocir section")
    environment = make_environment(config, arguments.cache.resolve())
    console = Console(width=120)
    with Experiment(ROOT / "runs", "benchmark-track1", config, config.seed, repository=ROOT) as record:
        record.faults = environment.faults
        with record.stage("read data (text, OCR)"):
            tables: TaskTables = load_mmdocir(
                arguments.data / "mmdocir", config.data, environment.cache, environment.faults
            )
        pictures = image_only(arguments.data, config, environment)
        ranking = rank_task(section, tables, environment, record, print)
        with record.stage("other fusions"):
            add_fusions(ranking, section, config.seed)
    console.print(stage_rows(ranking, pictures))
    learned = "learned, all (out of fold)"
    console.print(domain_rows(ranking, [*(n for n in ("bm25", "dense", "colbert") if n in ranking.scores), learned]))
    console.print(fold_spread(ranking, section, range(5)))
    console.print(time_rows(record))
    if environment.faults.faults:
        console.print(f"{len(environment.faults)} faults:\n{environment.faults.summary()}")


if __name__ == "__main__":
    main()
