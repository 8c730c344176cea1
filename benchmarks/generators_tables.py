"""Tables of `benchmarks.generators`: figures with standard errors, what each part earns, learning curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import typer

from benchmarks.generators_real import Row, Settings
from common.generative.evaluate import figures

COLUMNS = ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10")


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the lines of each arm, one a seed, in the order in which arms appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def figure_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table of arms: mean of the seeds, standard error over users in brackets, ± deviation over seeds.

    CPU minutes are of all that the arm made (IDs, tokenizer, model) in one command; where its training went on from an
    earlier command, of the training alone.
    """
    yield "| arm | " + " | ".join(COLUMNS) + " | training, CPU min | epochs | stopped | asking, ms of CPU a user |"
    yield "|---" * 9 + "|"
    for arm, group in by_arm(rows).items():
        cells = [cell([r["figures"][c] for r in group], [r["standard_errors"][c] for r in group]) for c in COLUMNS]
        took = [max(r["train_cpu_seconds"], r.get("making_cpu_seconds", 0)) / 60 for r in group if r["training"]]
        asking = np.mean([1000 * r["evaluate_cpu_seconds"] / r["users"] for r in group])
        epochs, stopped = (sorted({str(r["training"].get(k, "-")) for r in group}) for k in ("epochs", "stopped"))
        trained = f"{np.mean(took):.1f}" if took else "-"
        yield f"| {arm} | {' | '.join(cells)} | {trained} | {', '.join(epochs)} | {', '.join(stopped)} | {asking:.2f} |"


def cell(means: Sequence[float], errors: Sequence[float]) -> str:
    """Return a figure: its mean, the standard error over users, and with several seeds their standard deviation.

    >>> cell([0.05], [0.001]), cell([0.05, 0.07], [0.001, 0.003])
    ('0.0500 (0.0010)', '0.0600 (0.0020) ± 0.0100')
    """
    seeds = f" ± {np.std(means):.4f}" if len(means) > 1 else ""
    return f"{np.mean(means):.4f} ({np.mean(errors):.4f}){seeds}"


def paired(a: np.ndarray, b: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return by figure the mean of a - b over the same users, and its standard error; a, b: ranks int64 [S, U].

    With several seeds a user's figure is the mean over seeds first: users are the sample.
    """
    gains = {name: user_values(a, name) - user_values(b, name) for name in COLUMNS}
    return {name: (float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))) for name, gain in gains.items()}


def user_values(ranks: np.ndarray, name: str) -> np.ndarray:
    """Return each user's figure float64 [U], the mean over seeds, of ranks int64 [S, U].

    >>> user_values(np.array([[1, 3, 0], [9, 1, 0]]), "Recall@5").tolist()
    [0.5, 1.0, 0.0]
    """
    kind, _, k = name.partition("@")
    found = (ranks > 0) & (ranks <= int(k))
    values = found.astype(np.float64)
    if kind == "NDCG":
        values = np.where(found, 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)
    return values.mean(axis=0)


def gain_lines(rows: Sequence[Row], settings: Settings) -> Iterator[str]:
    """Yield what each part earns: the whole model less the ablation, and each model less tiger and sasrec.

    Over the users of the seeds that both have; nothing where an arm's ranks are not in the work folder.
    """
    ranks = {arm: kept_ranks(group, settings) for arm, group in by_arm(rows).items()}
    pairs = [(arm.split()[0], arm) for arm in ranks if " " in arm and arm.split()[0] in ranks]
    whole = [arm for arm in ranks if arm in ("eager", "eager_llm", "store")]
    pairs += [(arm, base) for base in ("tiger", "sasrec") if base in ranks for arm in whole]
    yield "| difference | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for a, b in pairs:
        seeds = sorted(ranks[a].keys() & ranks[b].keys())
        if seeds:
            found = paired(*(np.stack([ranks[arm][seed] for seed in seeds]) for arm in (a, b)))
            yield f"| {a} - {b} | " + " | ".join(f"{mean:+.4f} ({error:.4f})" for mean, error in found.values()) + " |"


def kept_ranks(group: Sequence[Row], settings: Settings) -> dict[int, np.ndarray]:
    """Return by seed the ranks of an arm, where they are kept and belong to the line."""
    found: dict[int, np.ndarray] = {}
    for row in group:
        path = settings.folder(row["arm"], row["seed"]) / "ranks.npy"
        if path.is_file():
            ranks = np.load(path, allow_pickle=False)
            again = figures(ranks, (10,), row["depth"])["Recall@10"].mean
            if len(ranks) == row["users"] and abs(again - row["figures"]["Recall@10"]) < 1e-9:
                found[row["seed"]] = ranks
    return found


def curve_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the learning curves."""
    for row in rows:
        points: list[dict[str, Any]] = row["training"].get("curve", [])
        if points:
            yield f"\n{row['arm']}, seed {row['seed']}: CPU minutes, epochs, training loss, valid Recall@10 of a sample"
        for point in points:
            recall = point["figures"].get("recall@10", float("nan"))
            yield f"  {point['cpu_seconds'] / 60:7.1f} {point['epoch']:5d} {point['loss']:8.4f} {recall:8.4f}"


def print_results(rows: Sequence[Row], settings: Settings) -> None:
    """Print the table of arms (standard errors in brackets), what parts earn, and the learning curves."""
    typer.echo("")
    for line in figure_lines(rows):
        typer.echo(line)
    typer.echo("\nThe same users' figures, one arm less another (standard error of the paired difference):\n")
    for line in gain_lines(rows, settings):
        typer.echo(line)
    for line in curve_lines(rows):
        typer.echo(line)
