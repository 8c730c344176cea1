"""Rich tables of a local score and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.metrics.retrieval import KS
from common.submission.mdr import TASK_TITLES

if TYPE_CHECKING:
    from track1_mdr.compare import Comparison, Effect
    from track1_mdr.evaluate import Figures, ScoreReport, TaskScore


def render_score(report: ScoreReport) -> Group:
    """Return one table a task, then the final score and the notes."""
    parts: list[RenderableType] = [_table(TASK_TITLES[task], score) for task, score in report.tasks.items()]
    if report.final is not None:
        parts.append(Text(f"final: {report.final:.2f} of 100 (mean of the two tasks)", style="bold"))
    parts += [Text(note) for note in report.notes]
    return Group(*parts)


def _table(title: str, score: TaskScore) -> Table:
    table = Table(title=f"{title}: {score.micro.mean:.2f} ± {score.micro.error or 0:.2f}", title_justify="left")
    table.add_column("questions", overflow="fold", min_width=16)
    for name in ("n", *(f"R@{k}" for k in KS), "mean", "ceiling", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    _row(table, "all (micro)", score.micro, bold=True)
    if score.macro is not None:
        means = [f"{value:.1f}" for value in score.macro.values()]
        table.add_row("mean of domains (macro)", str(len(score.by_domain)), *means)
    _section(table, score.by_domain)
    _section(table, score.by_evidence)
    if score.error_by_document is not None:
        table.caption = (
            f"share: of the ceiling, what a perfect ranking gets; standard error {score.micro.error or 0:.2f}, "
            f"by document {score.error_by_document:.2f}"
        )
    return table


def _section(table: Table, groups: Mapping[str, Figures]) -> None:
    if groups:
        table.add_section()
    for name, figures in groups.items():
        _row(table, name, figures)


def _row(table: Table, name: str, figures: Figures, bold: bool = False) -> None:
    values = [*figures.recall.values(), figures.ceiling["mean"]]
    table.add_row(
        Text(name),  # Text: a name with square brackets is not markup
        f"{figures.questions:,}",
        *(f"{value:.1f}" for value in values),
        f"{figures.share_of_ceiling:.1f}%",
        style="bold" if bold else None,
    )


def render_comparison(comparison: Comparison) -> Group:
    """Return one table of effects, then how to read it and the notes."""
    table = Table(title=Text(f"a = {comparison.a}, b = {comparison.b}"), title_justify="left")
    table.add_column("questions", overflow="fold")
    for name in ("n", "a", "b", "a - b", "95 % interval", "p", "win/tie/loss"):
        table.add_column(name, justify="right", no_wrap=True)
    if comparison.final is not None:
        _effect_row(table, "final", comparison.final, bold=True)
    for task, effect in comparison.tasks.items():
        table.add_section()
        _effect_row(table, TASK_TITLES[task], effect, bold=True)
        for name, part in comparison.domains.get(task, {}).items():
            _effect_row(table, name, part)
    how = (
        f"paired bootstrap, {comparison.resamples:,} resamples by {comparison.unit}; "
        "positive: a is better; domains are not corrected for their number"
    )
    return Group(table, Text(how), *(Text(note) for note in comparison.notes))


def _effect_row(table: Table, name: str, effect: Effect, bold: bool = False) -> None:
    table.add_row(
        Text(name),
        f"{effect.questions:,}",
        f"{effect.mean_a:.1f}",
        f"{effect.mean_b:.1f}",
        f"{effect.difference:+.1f}",
        "one document" if effect.low is None else f"{effect.low:+.1f} .. {effect.high:+.1f}",
        "" if effect.p is None else f"{effect.p:.4f}",
        f"{effect.wins}/{effect.ties}/{effect.losses}",
        style="bold" if bold else None,
    )
