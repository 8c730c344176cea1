"""What representation methods show: on planted data with a known optimum, and in Track 2's rankers on MovieLens.

    python -m benchmarks.representation planted --seeds 3
    python -m benchmarks.representation make --data DIR --features DIR
    python -m benchmarks.representation movielens --data DIR --features DIR

`planted` prints each method's table of arms beside oracle, placebos and ablations (`benchmarks.planted_<method>`).
`make` runs `embed` for each arm whose files are not there yet, and notes seconds, peak memory and bytes in
FEATURES/costs.jsonl. `movielens` trains the rankers with each arm (recipes of `benchmarks.ctr_quality`; finished
trainings are kept in --results) and prints AUC on all rows, on those whose target was a training target, and on cold
ones. Arms with a language model need one to be named with --source, and are left out without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.ctr_quality import CacheOption, Job, run_all, show
from common.atomic import append_line

app = typer.Typer(no_args_is_help=True, add_completion=False)
BARE = ("features.item_levels=false", "features.target_levels=false", "features.tags=false")
METHODS = ("kar", "ease", "roma", "uniembedding", "uist")
RANKERS = ("din", "dcnv2")
CACHE, RESULTS = Path("data/cache"), Path("runs/representation.jsonl")


@dataclass(frozen=True)
class Arm:
    """One way to know the items: the `embed` call that makes its files, and how rankers read them.

    Attributes
    ----------
    method
        Of `embed`; empty: nothing is made.
    settings
        Of `embed`.
    reads
        embedding, knowledge or codes.
    model
        Whether a language model has to be named first.
    """

    method: str
    settings: tuple[str, ...] = ()
    reads: str = "embedding"
    model: bool = False


_EASE = ("modalities=[text,image]", "method.need=any")
# ROMA end to end through MiniLM takes hours on a CPU: here items are learnt by masked words, users by the top alone.
ARMS: dict[str, Arm] = {
    "ids": Arm("", reads="none"),
    "PCA": Arm("pca_concat"),
    "KAR, templates": Arm("kar", reads="knowledge"),
    "KAR, language model": Arm("kar", reads="knowledge", model=True),
    "EASE, distilled": Arm("ease", (*_EASE, "method.adapter=retrieval", "teacher=text")),
    "EASE, clicks alone": Arm("ease", (*_EASE, "method.adapter=semantic", "method.lm_weight=0")),
    "EASE, language model": Arm("ease", (*_EASE, "method.adapter=semantic"), model=True),
    "UniEmbedding": Arm("uniembedding"),
    "ROMA": Arm("roma", ("method.uic=false", "method.finetune_items=false", "method.pretrain.epochs=2")),
    "UIST": Arm("uist", reads="codes"),
}

DataOption = Annotated[Path, typer.Option("--data", help="Made by: python -m track2_mmctr prepare movielens")]
FeaturesOption = Annotated[Path, typer.Option("--features", help="Folder of the arms' files")]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Default: all")]


def file_of(arm: str, folder: Path) -> Path:
    """Return the items' file of an arm."""
    return folder / f"{arm.lower().replace(', ', '-').replace(' ', '-')}.parquet"


def overrides(arm: str, folder: Path, ranker: str) -> tuple[str, ...]:
    """Return what makes a ranker read the arm's files. The boosted trees read codes as they are, without HMI."""
    path, reads = file_of(arm, folder).resolve(), ARMS[arm].reads
    users = path.with_suffix(".users.parquet")
    if reads == "embedding":
        return (*BARE, f"features.embedding={path}")
    own = [*BARE, "features.embedding=none"]
    if reads == "knowledge":
        own += [f"features.knowledge.items={path}", f"features.knowledge.users={users}"]
        own.append("features.knowledge.allow_missing=1000000")
    elif reads == "codes" and ranker == "gbdt":
        own.append(f"features.semantic_ids={path}")
    elif reads == "codes":
        own += [f"features.semantic_ids={path}", f"features.user_semantic_ids={users}", "features.sid.combine=sum"]
        own += ["features.hmi=true", "features.user_sid.allow_missing=1000000"]
        own += ["features.sid.levels=2", "features.user_sid.levels=2"]  # 4 passes of the ranker and not 16
    return tuple(own)


@app.command()
def planted(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    method: Annotated[list[str] | None, typer.Option("--method", help="Default: all")] = None,
) -> None:
    """Print every method's table on planted data."""
    for name in method or METHODS:
        typer.echo(f"\n{name}")
        import_module(f"benchmarks.planted_{name}").main(seeds=seeds)


@app.command()
def make(
    data: DataOption,
    features: FeaturesOption,
    arm: ArmOption = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Setting that names a language model: method.source.type=..."),
    ] = None,
    cache: CacheOption = CACHE,
) -> None:
    """Run `embed` for each arm that has no file yet, and note what it cost."""
    features.mkdir(parents=True, exist_ok=True)
    for name in arm or ARMS:
        made, path = ARMS[name], file_of(name, features)
        if not made.method or path.exists():
            continue
        if made.model and not source:
            typer.echo(f"{name}: left out, no --source names a language model")
            continue
        chosen = [*made.settings, *((source or []) if made.model else [])]
        settings = [part for setting in chosen for part in ("--set", setting)]
        command = ["embed", "--method", made.method, "--data", str(data), "--out", str(path), "--cache", str(cache)]
        typer.echo(f"{name}: {' '.join([*command, *settings])}")
        started = time.perf_counter()
        running = subprocess.Popen([sys.executable, "-m", "track2_mmctr", *command, *settings])
        _, status, used = os.wait4(running.pid, 0)
        if status:
            raise typer.Exit(os.waitstatus_to_exitcode(status))
        cost = {
            "arm": name,
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss / 1024),
            "bytes": path.stat().st_size,
        }
        append_line(features / "costs.jsonl", json.dumps(cost))
        typer.echo(json.dumps(cost))


@app.command()
def movielens(
    data: DataOption,
    features: FeaturesOption,
    arm: ArmOption = None,
    ranker: Annotated[list[str] | None, typer.Option("--ranker", help="Default: din and dcnv2")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    cache: CacheOption = CACHE,
    results: Annotated[Path, typer.Option("--results", help="JSON lines; finished trainings are kept")] = RESULTS,
) -> None:
    """Train the rankers on each arm whose files are there; print test AUC on all, warm and cold rows."""
    there = [name for name in arm or ARMS if not ARMS[name].method or file_of(name, features).exists()]
    for name in set(arm or ARMS) - set(there):
        typer.echo(f"{name}: left out, {file_of(name, features)} is not there")
    jobs = [
        Job("movielens", one, name, 7 + seed, str(data), overrides(name, features, one))
        for one in ranker or RANKERS
        for name in there
        if one != "gbdt" or ARMS[name].reads != "knowledge"  # KAR's adaptor is trained with a network
        for seed in range(seeds)
    ]
    rows = run_all(jobs, results, cache)
    for figure in ("auc", "warm_auc", "cold_auc"):
        typer.echo(f"\n{figure.replace('_', ' ')}, mean ± sd over {seeds} seeds")
        show([{**row, "auc": row[figure]} for row in rows], "column", "ranker")


if __name__ == "__main__":
    app()
