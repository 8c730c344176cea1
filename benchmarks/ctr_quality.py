"""Every ranker on the same rows: test AUC over seeds, by what is known of the items, with placebo arms.

    python -m benchmarks.ctr_quality planted --data DIR [--data DIR2]
    python -m benchmarks.ctr_quality movielens --data DIR --text T.parquet --image I.parquet --both B.parquet
    python -m benchmarks.ctr_quality placebos --data DIR

Rankers are trained with small layers (`SMALL`) and one recipe a table (`PLANTED`, `MOVIELENS`), so that a table takes
an hour at most on two cores; early stopping looks at valid, the table at test. Results are appended to `--results`
(JSON lines) as they come: the same command goes on where it was stopped. One process a core, one thread each.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from common.atomic import append_line
from common.config import load_config
from common.experiment import cores
from common.metrics.ctr import auc
from common.metrics.ctr_intervals import delong
from common.progress import progress
from track2_mmctr.config import CONFIG_FOLDER, RunConfig
from track2_mmctr.datasets.tables import CtrData, Split

app = typer.Typer(no_args_is_help=True, add_completion=False)
RANKERS = (
    "din",
    "dcnv2",
    "qin",
    "transformer_dcn",
    "transformer_dcn_inverted",
    "transformer_dcn_quant",
    "din_dcn",
    "din_senet",
    "cross_attention",
    "gbdt",
    "similarity",
    "popularity",
)
COMMON = (
    "features.dim=16",
    "train.batch_size=512",
    "train.schedule={type: plateau, factor: 0.5}",
    "train.patience=2",
)
PLANTED = (*COMMON, "train.learning_rate=0.002", "train.epochs=4", "train.embedding_regularizer=0.000001")
# Few and noisy ratings: little learning rate, much regularisation.
MOVIELENS = (
    *COMMON,
    "train.learning_rate=0.0005",
    "train.epochs=5",
    "train.patience=1",
    "train.embedding_regularizer=0.0001",
    "train.net_regularizer=0.0001",
    "ranker.net_dropout=0.3",
    "data.max_len=10",
)
_TRANSFORMER = (
    "train.epochs=3",
    "ranker.transformer_layers=1",
    "ranker.last=4",
    "ranker.cross_rank=32",
    "ranker.feed_forward=64",
    "ranker.hidden_units=[256, 128]",
)
SMALL = {
    "din": ("ranker.attention_units=[64, 32]", "ranker.hidden_units=[256, 128]"),
    "dcnv2": ("ranker.rank=64", "ranker.hidden_units=[256, 128]"),
    "qin": (),
    "transformer_dcn": _TRANSFORMER,
    "transformer_dcn_inverted": _TRANSFORMER,
    "transformer_dcn_quant": (*_TRANSFORMER, "train.learning_rate=0.0005"),  # at a higher one its ReLUs die
    "din_dcn": ("ranker.cross_layers=3", "ranker.hidden_units=[256, 128]"),
    "din_senet": ("ranker.attention_units=[64, 32]", "ranker.hidden_units=[256, 128]"),
    "cross_attention": ("ranker.feed_forward=64", "ranker.din_units=[64, 32]", "ranker.hidden_units=[256, 128]"),
}


@dataclass(frozen=True)
class Job:
    """One training: a ranker on a data root with overrides, a seed, and an arm (`as it is`, or a placebo)."""

    table: str
    ranker: str
    column: str
    seed: int
    data: str
    overrides: tuple[str, ...] = ()
    arm: str = "as it is"

    @property
    def key(self) -> str:
        """What tells it from other jobs, in the file of results."""
        return json.dumps(asdict(self), sort_keys=True)


def shuffled(data: CtrData, arm: str, seed: int) -> CtrData:
    """Return the data with one thing moved about: histories in all splits, embeddings, labels in train and valid."""
    rng = np.random.default_rng(seed)
    if arm == "embedding shuffled":
        assert data.items.embedding is not None
        order = np.concatenate([[0], 1 + rng.permutation(len(data.items) - 1)])
        return replace(data, items=data.items.with_embedding(data.items.embedding[order]))
    splits = dict(data.splits)
    for name, split in data.splits.items():
        if arm == "history shuffled":
            splits[name] = other_histories(split, rng.permutation(len(split)))
        elif arm == "labels shuffled" and name != "test":
            assert split.label is not None
            splits[name] = replace(split, label=rng.permutation(split.label))
    return replace(data, splits=splits)


def other_histories(split: Split, order: np.ndarray) -> Split:
    """Return the split in which row r has the history of row `order[r]`."""
    starts, lengths = np.asarray(split.offsets)[order], split.lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return replace(split, history=np.asarray(split.history)[places], offsets=offsets)


def train_one(job: Job, cache: str) -> dict[str, object]:
    """Train and score one job in this process, with one thread."""
    import torch

    from track2_mmctr.datasets.microlens import find_folder, load_data
    from track2_mmctr.groups import train_counts
    from track2_mmctr.pipeline import fit_run
    from track2_mmctr.rankers.base import Environment

    torch.set_num_threads(1)
    config = load_config(RunConfig, job.ranker, CONFIG_FOLDER, [*settings(job), *job.overrides, f"seed={job.seed}"])
    config = config.model_copy(update={"name": job.ranker})
    data = load_data(find_folder(Path(job.data)), config.data, config.features, Path(cache))
    if job.arm != "as it is":
        data = shuffled(data, job.arm, job.seed)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        fitted = fit_run(config, data, Environment("cpu", 1, Path(cache)), Path(folder), lambda _: None)
    seconds = time.perf_counter() - started
    test = data.splits["test"]
    assert test.label is not None
    logits = fitted.predict(test)
    found = delong(test.label, logits)
    known = train_counts(data)[np.asarray(test.target)] > 0
    return {
        **asdict(job),
        "auc": found.auc,
        "error": found.error,
        "warm_auc": _auc(test.label[known], logits[known]),
        "cold_auc": _auc(test.label[~known], logits[~known]),
        "valid_auc": fitted.valid_auc,
        "seconds": seconds,
    }


def _auc(label: np.ndarray, logits: np.ndarray) -> float:
    return auc(label, logits) if len(np.unique(label)) == 2 else float("nan")


def settings(job: Job) -> tuple[str, ...]:
    """Return the table's recipe and the ranker's own small layers; none for rankers without layers."""
    if job.ranker not in SMALL:
        return ("data.max_len=10",) if job.table == "movielens" else ()
    return (*(MOVIELENS if job.table == "movielens" else PLANTED), *SMALL[job.ranker])


def run_all(jobs: Iterable[Job], results: Path, cache: Path) -> list[dict[str, object]]:
    """Run the jobs that are not in the file of results yet; return all of them."""
    jobs = list(jobs)
    known = (
        {json.loads(line)["key"]: json.loads(line) for line in results.read_text().splitlines()}
        if results.is_file()
        else {}
    )
    missing = [job for job in jobs if job.key not in known]
    missing.sort(key=lambda job: "transformer" in job.ranker)  # the longest last
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(train_one, job, str(cache)): job for job in missing}
        for future in progress(as_completed(futures), "trainings", total=len(futures)):
            key = futures[future].key
            known[key] = {**future.result(), "key": key}
            append_line(results, json.dumps(known[key]))
    return [known[job.key] for job in jobs]


def show(rows: list[dict[str, object]], line: str, column: str) -> None:
    """Print mean ± sd of the test AUC for each value of `line` (down) and `column` (across)."""
    cells: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        cells[str(row[line]), str(row[column])].append(row)
    across = list(dict.fromkeys(key[1] for key in cells))
    typer.echo(f"{'':<26}" + "".join(f"{name:>18}" for name in across) + f"{'seconds':>9}")
    for name in dict.fromkeys(key[0] for key in cells):
        shown, seconds = "", []
        for other in across:
            found = cells.get((name, other), [])
            values = [float(str(row["auc"])) for row in found]
            seconds += [float(str(row["seconds"])) for row in found]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            shown += f"{(f'{statistics.mean(values):.4f}' + spread) if values else '-':>18}"
        typer.echo(f"{name:<26}{shown}{statistics.mean(seconds):>9.0f}")
    errors = [float(str(row["error"])) for row in rows]
    typer.echo(f"standard error of one AUC on these test rows (DeLong): {statistics.mean(errors):.4f}")


DataOption = Annotated[list[Path], typer.Option("--data", help="Data root; several are columns of the table")]
CacheOption = Annotated[Path, typer.Option("--cache")]
ResultsOption = Annotated[Path, typer.Option("--results", help="JSON lines; finished trainings are not run again")]
RankersOption = Annotated[list[str] | None, typer.Option("--ranker", help="Default: all")]
CACHE, RESULTS = Path("data/cache"), Path("runs/ctr_quality.jsonl")


@app.command()
def planted(
    data: DataOption,
    ranker: RankersOption = None,
    seeds: Annotated[int, typer.Option()] = 1,
    cache: CacheOption = CACHE,
    results: ResultsOption = RESULTS,
) -> None:
    """All rankers on planted data, history levels and similarity features on where a ranker takes them."""
    sets = {"plain": ("features.item_levels=false",), "with levels and similarity": ENGINEERED}
    jobs = [
        Job("planted", name, column, 7 + seed, str(root), overrides)
        for name in ranker or RANKERS
        for column, overrides in sets.items()
        for root in data
        for seed in range(seeds)
        if column == "plain" or name in ("din", "dcnv2", "cross_attention", "gbdt")
    ]
    show(run_all(jobs, results, cache), "ranker", "column")


ENGINEERED = ("features.item_levels=true", "features.similarity=true")
FLOORS = {"similarity": ("+ text", "+ image", "+ both", "+ both, contrastive"), "popularity": ("ids", "+ both, levels")}
# Codes need an embedding; the transformers take longest, and do without the extra column.
SKIPPED = {
    "transformer_dcn": ("+ both, contrastive",),
    "transformer_dcn_quant": ("ids", "+ both, contrastive"),
}


@app.command()
def movielens(
    data: Annotated[Path, typer.Option("--data", help="Made by: python -m track2_mmctr prepare movielens")],
    text: Annotated[Path, typer.Option("--text", help="Made by: embed --method text")],
    image: Annotated[Path, typer.Option("--image", help="Made by: embed --method image")],
    both: Annotated[Path, typer.Option("--both", help="Made by: embed --method pca_concat")],
    contrastive: Annotated[Path, typer.Option("--contrastive", help="Made by: embed --method contrastive")],
    ranker: RankersOption = None,
    seeds: Annotated[int, typer.Option()] = 3,
    cache: CacheOption = CACHE,
    results: ResultsOption = RESULTS,
) -> None:
    """All rankers x what is known of the items: ids, + text, + image, + both, + both and levels."""
    bare = ("features.item_levels=false", "features.target_levels=false", "features.tags=false")
    columns = {
        "ids": (*bare, "features.embedding=none"),
        "+ text": (*bare, f"features.embedding={text.resolve()}"),
        "+ image": (*bare, f"features.embedding={image.resolve()}"),
        "+ both": (*bare, f"features.embedding={both.resolve()}"),
        "+ both, levels": (
            *(part.replace("levels=false", "levels=true") for part in bare),
            f"features.embedding={both.resolve()}",
        ),
    }
    columns["+ both, contrastive"] = (*bare, f"features.embedding={contrastive.resolve()}")
    jobs = [
        Job("movielens", name, column, 7 + seed, str(data), overrides)
        for name in ranker or [name for name in RANKERS if name != "transformer_dcn_inverted"]
        for column, overrides in columns.items()
        for seed in range(seeds if name in SMALL or name == "gbdt" else 1)
        if column in FLOORS.get(name, columns) and column not in SKIPPED.get(name, ())
    ]
    show(run_all(jobs, results, cache), "ranker", "column")


@app.command()
def placebos(
    data: Annotated[Path, typer.Option("--data", help="Planted data")],
    ranker: RankersOption = None,
    cache: CacheOption = CACHE,
    results: ResultsOption = RESULTS,
) -> None:
    """Arms in which a ranker must fall: without its history or embedding to its floor, with shuffled labels to 0.5.

    The floor of a shuffled embedding is none at all; that of a shuffled history is `popularity`. `similarity` has
    one weight, so labels tell it nothing but a sign.
    """
    arms = ("as it is", "history shuffled", "embedding shuffled", "labels shuffled")
    plain = ("features.item_levels=false",)
    jobs = [
        Job("placebos", name, arm, 7 + seed, str(data), plain, arm)
        for name in ranker or ("din", "gbdt", "similarity")
        for arm in arms
        for seed in range(3 if arm == "labels shuffled" else 1)
        if not (name == "similarity" and arm == "labels shuffled")
    ]
    jobs += [
        Job("placebos", name, "embedding left out", 7, str(data), (*plain, "features.embedding=none"))
        for name in ("din", "gbdt")
        if ranker is None or name in ranker
    ]
    jobs.append(Job("placebos", "popularity", "as it is", 7, str(data), plain))
    show(run_all(jobs, results, cache), "ranker", "column")


if __name__ == "__main__":
    app()
