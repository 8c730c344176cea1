"""Rich tables of a local score and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from track2_mmctr.compare import Comparison, Disagreement, Effect
    from track2_mmctr.evaluate import CtrReport, Figures


def number(value: float | None, form: str = ".4f") -> str:
    """Return a figure as text, "-" where there is none."""
    return "-" if value is None else format(value, form)


def render_score(report: CtrReport) -> Group:
    """Return the table of a report, then what is said about all rows, and the notes."""
    overall = report.overall
    planted = overall.oracle is not None
    table = Table(title=f"{report.split}: AUC {report.headline:.4f} ± {number(overall.error)}", title_justify="left")
    table.add_column("rows", overflow="fold", min_width=14)
    for name in ("n", "clicks", "AUC", "±", *(["oracle"] if planted else []), "log-loss", "predicted", "clicked"):
        table.add_column(name, justify="right", no_wrap=True)
    _row(table, "all", overall, planted, bold=True)
    _section(table, "history ", report.by_length, planted)
    _section(table, "in train ", report.by_popularity, planted)
    if report.warm is not None:
        _row(table, "all but cold", report.warm, planted)
    lines: list[RenderableType] = [table, *(Text(line) for line in _lines(report)), *(Text(n) for n in report.notes)]
    return Group(*lines)


def _lines(report: CtrReport) -> list[str]:
    found, rates = report.gauc, report.calibration
    ratio = rates.predicted / rates.label if rates.label else float("nan")
    lines = [
        f"GAUC {number(found.value)} over {found.users:,} users ({found.rows:,} rows); left out: "
        f"{found.left_out_users:,} users with one class ({found.left_out_rows:,} rows)",
        f"calibration: error {rates.error:.4f}, mean prediction {rates.predicted:.4f}, click rate {rates.label:.4f} "
        f"(ratio {ratio:.3f})",
    ]
    if report.by_user is not None:
        lines.insert(
            0,
            f"AUC with users resampled: ± {report.by_user.error:.4f}, 95 % {report.by_user.low:.4f} .. "
            f"{report.by_user.high:.4f} ({report.by_user.clusters:,} users, {report.by_user.resamples:,} resamples)",
        )
    return lines


def _section(table: Table, what: str, groups: Mapping[str, Figures], planted: bool) -> None:
    if groups:
        table.add_section()
    for name, figures in groups.items():
        _row(table, what + name, figures, planted)


def _row(table: Table, name: str, figures: Figures, planted: bool, bold: bool = False) -> None:
    table.add_row(
        Text(name),
        f"{figures.rows:,}",
        f"{figures.positives:,}",
        number(figures.auc),
        number(figures.error),
        *([number(figures.oracle)] if planted else []),
        number(figures.log_loss),
        number(figures.predicted),
        number(figures.label),
        style="bold" if bold else None,
    )


def render_comparison(comparison: Comparison) -> Group:
    """Return the table of effects, how to read it, the rows ranked furthest apart, and the notes."""
    title = Text(f"{comparison.split}: a = {comparison.a}, b = {comparison.b}")
    table = Table(title=title, title_justify="left")
    table.add_column("rows", overflow="fold", min_width=14)
    for name in ("n", "users", "AUC a", "AUC b", "a - b", "±", "p", "95 % by user"):
        table.add_column(name, justify="right", no_wrap=True)
    _effect_row(table, "all", comparison.overall, bold=True)
    for what, groups in (("history ", comparison.by_length), ("in train ", comparison.by_popularity)):
        if groups:
            table.add_section()
        for name, effect in groups.items():
            _effect_row(table, what + name, effect)
    how = (
        f"positive: a is better. ± and p: paired DeLong, rows independent; interval: {comparison.resamples:,} paired "
        f"resamples of users; groups are not corrected for their number. Correlation of the two orders: "
        f"{comparison.correlation:.4f}; {comparison.far:,} rows are ranked further apart than a quarter of all rows"
    )
    parts: list[RenderableType] = [table, Text(how)]
    if comparison.furthest:
        parts.append(_furthest(comparison.furthest))
    return Group(*parts, *(Text(note) for note in comparison.notes))


def _furthest(rows: Sequence[Disagreement]) -> Table:
    table = Table(title="ranked furthest apart (1 = likeliest click)", title_justify="left")
    for name in ("row", "user", "item", "clicked", "rank a", "rank b"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.row),
            str(row.user),
            str(row.item),
            "yes" if row.label else "no",
            f"{row.rank_a:.4f}",
            f"{row.rank_b:.4f}",
        )
    return table


def _effect_row(table: Table, name: str, effect: Effect, bold: bool = False) -> None:
    known = effect.low is not None and effect.high is not None
    table.add_row(
        Text(name),
        f"{effect.rows:,}",
        f"{effect.users:,}",
        number(effect.auc_a),
        number(effect.auc_b),
        number(effect.difference, "+.4f"),
        number(effect.error),
        "<0.0001" if effect.p is not None and effect.p < 1e-4 else number(effect.p),
        f"{effect.low:+.4f} .. {effect.high:+.4f}" if known else "-",
        style="bold" if bold else None,
    )
