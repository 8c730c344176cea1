"""What the planted benchmarks share: run arms over seeds, print mean ± standard deviation of each figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import typer

Run = Callable[[], dict[str, float]]
Arms = Callable[[int], Iterator[tuple[str, Run]]]
"""Of a seed: each arm's name and what computes its figures."""
Values = dict[str, dict[str, list[float]]]
"""By arm and figure, a value a seed."""
Means = dict[str, dict[str, float]]
"""By arm and figure, the mean over seeds."""


def figures_of(arms: Arms, seed: int) -> dict[str, float]:
    """Return every figure of every arm, by "arm: figure"."""
    return {f"{name}: {figure}": value for name, run in arms(seed) for figure, value in run().items()}


def over_seeds(arms: Arms, seeds: int) -> tuple[Values, dict[str, float]]:
    """Run all arms on seeds 0 to seeds - 1; return their figures, and the CPU seconds a seed of each arm."""
    found: Values = {}
    took: dict[str, float] = {}
    for seed in range(seeds):
        for name, run in arms(seed):
            started = time.process_time()
            for figure, value in run().items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
            took[name] = took.get(name, 0.0) + (time.process_time() - started) / seeds
            typer.echo(f"seed {seed}: {name}", err=True)
    return found, took


def rows(found: Values, took: dict[str, float], figures: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table, and an empty one: mean ± standard deviation (of the seeds themselves)."""
    yield f"| arm | {' | '.join(figures)} | CPU s a seed |"
    yield "|---" * (len(figures) + 2) + "|"
    for name, values in found.items():
        cells = [f"{np.mean(values[f]):.3f} ± {np.std(values[f]):.3f}" if f in values else "" for f in figures]
        yield f"| {name} | {' | '.join(cells)} | {took[name]:.1f} |"
    yield ""


def show(
    arms: Arms, seeds: int, figures: Sequence[str], criteria: Callable[[Means], Iterable[tuple[str, bool]]]
) -> None:
    """Run the arms on one thread, print the table, and for each criterion on the means whether it is met."""
    import torch

    torch.set_num_threads(1)
    found, took = over_seeds(arms, seeds)
    for line in rows(found, took, figures):
        typer.echo(line)
    means = {name: {figure: float(np.mean(one)) for figure, one in values.items()} for name, values in found.items()}
    for text, met in criteria(means):
        typer.echo(f"{'met' if met else 'NOT met'}: {text}")
