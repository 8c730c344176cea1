"""Generative recommenders side by side with their baselines, on real purchases and on planted sequences.

    python -m benchmarks.generators beauty --data DIR --minutes 30 --results FILE.jsonl --work DIR
    python -m benchmarks.generators planted --seeds 3

`beauty` trains each arm for the same wall time (or until valid gains no more) and evaluates it on each user's last
item, over all items. It is resumable: an arm that the results hold is not run again, an unfinished one goes on from
its folder under --work. `planted` prints the table of arms on a chain whose best recall is known.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.planted_generators import planted_table
from common.atomic import append_line
from common.config import load_config
from common.experiment import cores, cpu_name

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "popularity": ("popularity", ()),
    "nearest to mean": ("nearest", ("nearest.to=mean",)),
    "nearest to last": ("nearest", ()),
    "sasrec": ("sasrec", ()),
    "tiger": ("tiger", ()),
    "tiger published": ("tiger", ("ids=published",)),
    "tiger random": ("tiger", ("ids=random",)),
    "atomic": ("atomic", ()),
}
"""An arm's name, the configuration that it starts from, and what is changed in it."""


def run_arm(
    arm: str, data: Path, work: Path, minutes: float, overrides: list[str], threads: int, seed: int
) -> dict[str, Any]:
    """Train an arm, or go on with it, and evaluate it on test; return the line of the results."""
    import torch

    from common.generative.config import CONFIG_FOLDER, TRAINED, RunConfig
    from common.generative.evaluate import evaluate
    from common.generative.run import prepare, recommender
    from common.generative.sequence_files import load_sequences

    torch.set_num_threads(threads)
    name, changes = ARMS[arm]
    budget = [f"train.max_seconds={60 * minutes}", f"seed={seed}", f"name={arm}"]
    config = load_config(RunConfig, name, CONFIG_FOLDER, [*budget, *changes, *overrides])
    folder = work / f"{arm.replace(' ', '-')}-{seed}"
    run = prepare(config, load_sequences(data), folder, "cpu", lambda line: typer.echo(f"[{arm}] {line}"))
    asked = recommender(run)
    cpu, wall = time.process_time(), time.perf_counter()
    report = evaluate(asked, run.split.test, ks=config.evaluate.ks, depth=config.evaluate.beam)
    curve: dict[str, Any] = {}
    if config.model in TRAINED:
        curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    return {
        "arm": arm,
        "seed": seed,
        "minutes": minutes,
        "threads": threads,
        "overrides": overrides,
        "cpu": cpu_name(),
        "train_cpu_seconds": round(curve.get("cpu_seconds", 0.0), 1),
        "train_seconds": round(curve.get("seconds", 0.0), 1),
        "evaluate_cpu_seconds": round(time.process_time() - cpu, 1),
        "evaluate_seconds": round(time.perf_counter() - wall, 1),
        "training": curve,
        **report.as_json(),
    }


def read_results(path: Path | None) -> list[dict[str, Any]]:
    """Return the lines of a results file; none where there is no file yet."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@app.command()
def beauty(
    data: Annotated[Path, typer.Option("--data", help="Folder with NAME.inter.json")],
    minutes: Annotated[float, typer.Option(help="Wall time of each arm's training, at most")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 2,
    arms: Annotated[str, typer.Option(help=f"Separated by commas, of: {', '.join(ARMS)}")] = ",".join(ARMS),
    results: Annotated[Path | None, typer.Option(help="JSON lines; an arm that is in there is not run again")] = None,
    work: Annotated[Path, typer.Option(help="Folder for the arms' checkpoints")] = Path("runs/generators"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Of every arm: a.b=value; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option()] = 7,
    show: Annotated[bool, typer.Option("--show", help="Print what the results hold, run nothing")] = False,
) -> None:
    """Train and evaluate the arms, print Recall, NDCG, CPU time and the learning curves."""
    names = [name.strip() for name in arms.split(",")]
    for name in names:
        if name not in ARMS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(ARMS)}", param_hint="--arms")
    key = {"seed": seed, "minutes": minutes, "threads": threads, "overrides": overrides or []}
    typer.echo(f"{cpu_name()}, {cores()} cores; {threads} threads, at most {minutes:g} minutes of training an arm")
    done = read_results(results)
    for name in () if show else names:
        if any(all(row[k] == v for k, v in {"arm": name, **key}.items()) for row in done):
            continue
        row = run_arm(name, data.resolve(), work.resolve(), minutes, overrides or [], threads, seed)
        done.append(row)
        if results is not None:
            append_line(results, json.dumps(row))
        figures = ", ".join(f"{figure} {value:.4f}" for figure, value in row["figures"].items())
        typer.echo(f"[{name}] test: {figures}")
    print_results([row for row in done if row["arm"] in names])


def print_results(rows: list[dict[str, Any]]) -> None:
    """Print a table of the arms (standard errors in brackets) and their learning curves."""
    columns = ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10")
    typer.echo(
        "\n| arm | " + " | ".join(columns) + " | training, CPU min | epochs | stopped | asking, ms of CPU a user |"
    )
    typer.echo("|---" * 9 + "|")
    for row in rows:
        cells = [f"{row['figures'][c]:.4f} ({row['standard_errors'][c]:.4f})" for c in columns]
        training = row["training"]
        took = f"{row['train_cpu_seconds'] / 60:.1f}" if training else "-"
        asking = 1000 * row["evaluate_cpu_seconds"] / row["users"]
        epochs, stopped = training.get("epochs", "-"), training.get("stopped", "-")
        typer.echo(f"| {row['arm']} | {' | '.join(cells)} | {took} | {epochs} | {stopped} | {asking:.2f} |")
    for row in rows:
        points = row["training"].get("curve", [])
        if points:
            typer.echo(f"\n{row['arm']}: CPU minutes, epochs, training loss, valid Recall@10 of a sample of users")
        for point in points:
            recall = point["figures"].get("recall@10", float("nan"))
            typer.echo(f"  {point['cpu_seconds'] / 60:7.1f} {point['epoch']:5d} {point['loss']:8.4f} {recall:8.4f}")


@app.command()
def planted(
    seeds: Annotated[int, typer.Option(min=1, help="Each arm is trained with this many seeds")] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 12,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 1,
) -> None:
    """Print Recall@10 of the arms on planted sequences: mean and standard deviation over seeds."""
    import torch

    torch.set_num_threads(threads)
    typer.echo(f"{cpu_name()}, {threads} threads, {seeds} seeds")
    for line in planted_table(seeds, epochs):
        typer.echo(line)


if __name__ == "__main__":
    app()
