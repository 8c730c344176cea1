"""The rich table of an ensemble."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from track2_mmctr.ensemble import EnsembleResult

MATRIX = 8
"""Runs up to which all correlations are shown."""


def render_ensemble(result: EnsembleResult) -> Group:
    """Return the runs with their AUCs, weights and correlations, the ensemble, and its gain over the best run."""
    config, scores, overall = result.config, result.scores, result.scores.overall
    runs = len(config.runs)
    title = f"ensemble ({config.method}): valid AUC {overall['valid'].auc:.4f} ± {overall['valid'].error:.4f}"
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold")
    for split in overall:
        table.add_column(f"{split} AUC", justify="right", no_wrap=True)
        table.add_column("±", justify="right", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    matrix = range(runs) if runs <= MATRIX else range(0)
    for number in matrix:
        table.add_column(f"ρ {number + 1}", justify="right", no_wrap=True)
    for number, (name, weight) in enumerate(zip(config.runs, config.weights, strict=True)):
        figures = [text for split in overall for text in _pair(scores.members[split][number])]
        shown = [_number(scores.correlation[number, other]) for other in matrix]
        table.add_row(str(number + 1), Text(name), *figures, f"{weight:.3f}", *shown)
    table.add_section()
    figures = [text for split in overall for text in _pair(overall[split])]
    table.add_row("", "ensemble", *figures, "", *("" for _ in matrix), style="bold")
    gain = scores.gain
    lines = [
        f"above the best run on valid: {gain.value:+.4f} ± {gain.error:.4f} (paired, DeLong; p {gain.p:.3f})",
        "ρ: Spearman's correlation of two runs on valid",
    ]
    if config.method == "stacked":
        lines.append(f"valid AUC of the ensemble: out-of-fold by user; intercept {config.intercept:+.3f}")
    return Group(table, *(Text(line) for line in lines))


def _pair(estimate: tuple[float, float]) -> tuple[str, str]:
    return f"{estimate[0]:.4f}", _number(estimate[1], 4)


def _number(value: float, digits: int = 3) -> str:
    return "-" if value != value else f"{value:.{digits}f}"
