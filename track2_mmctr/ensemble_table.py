"""The rich table of an ensemble."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from track2_mmctr.ensemble import EnsembleResult

MATRIX = 8
"""Runs up to which all correlations are shown."""


def render_ensemble(result: EnsembleResult) -> Group:
    """Return the runs with their AUCs and weights, the ensemble, its gain over the best run, and correlations."""
    config, scores, overall = result.config, result.scores, result.scores.overall
    table = Table(title=f"ensemble ({config.method}): valid AUC {_pair(overall['valid'])}", title_justify="left")
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold", min_width=20)
    for split in overall:
        table.add_column(f"{split} AUC", justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    for number, (name, weight) in enumerate(zip(config.runs, config.weights, strict=True)):
        figures = [_pair(scores.members[split][number]) for split in overall]
        table.add_row(str(number + 1), Text(name), *figures, f"{weight:.3f}")
    table.add_section()
    table.add_row("", "ensemble", *(_pair(overall[split]) for split in overall), "", style="bold")
    gain = scores.gain
    change = f"{gain.value:+.4f} ± {_number(gain.error, 4)} (paired, DeLong; p {_number(gain.p)})"
    lines = [f"against the best run, on valid: {change}"]
    if config.method == "stacked":
        lines.append(f"valid AUC of the ensemble: out-of-fold by user; intercept {config.intercept:+.3f}")
        lines.append("the runs' own valid AUCs flatter where valid stopped their training early")
    parts: list[RenderableType] = [table, *(Text(line) for line in lines)]
    return Group(*parts, *([_correlations(scores.correlation)] if len(config.runs) <= MATRIX else []))


def _correlations(matrix: np.ndarray) -> Table:
    table = Table(title="correlation of the runs' scores on valid (Spearman)", title_justify="left")
    table.add_column("", justify="right")
    for number in range(len(matrix)):
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for number, row in enumerate(matrix):
        table.add_row(str(number + 1), *(_number(value) for value in row))
    return table


def _pair(estimate: tuple[float, float]) -> str:
    return f"{estimate[0]:.4f} ± {_number(estimate[1], 4)}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
