"""The rich table of a tuning study."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from track2_mmctr.tune import TuneResult
from track2_mmctr.tune_study import TrialRow, shorten


def render_tune(result: TuneResult, top: int = 10) -> Group:
    """Return the best `top` trials and the configuration's own, the counts, failures and importances."""
    keys = list(result.best.values)
    table = Table(title=f"best of {len(result.rows)} trials: valid AUC {result.best.auc:.5f}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("valid AUC", justify="right")
    table.add_column("seconds", justify="right")
    leaves = [key.rpartition(".")[2] for key in keys]
    for key, leaf in zip(keys, leaves, strict=True):
        table.add_column(Text(leaf if leaves.count(leaf) == 1 else key), justify="right", overflow="fold")
    finished = sorted((r for r in result.rows if r.state == "finished"), key=lambda r: (-(r.auc or 0.0), r.index))
    shown = finished[:top] + [row for row in finished[top:] if row.index == 0]
    for row in shown:
        values = [Text(shorten(row.values[key])) for key in keys]
        style = "bold" if row == result.best else None
        table.add_row(str(row.index), f"{row.auc:.5f}", f"{row.seconds:.1f}", *values, style=style)
    return Group(table, *_notes(result, finished))


def _notes(result: TuneResult, finished: list[TrialRow]) -> list[RenderableType]:
    pruned = sum(row.state == "pruned" for row in result.rows)
    failed = [row for row in result.rows if row.state == "failed"]
    notes = [f"{len(finished)} finished, {pruned} pruned (behind the median of the others), {len(failed)} failed"]
    notes += [f"  trial {row.index} failed: {row.error}" for row in failed[:10]]
    if len(failed) > 10:
        notes.append(f"  ... and {len(failed) - 10} more")
    own = result.own
    if own is not None and own == result.best:
        notes.append("trial 0, the configuration itself, is the best so far")
    elif own is not None and own.state == "finished":
        gain = (result.best.auc or 0.0) - (own.auc or 0.0)
        notes.append(f"trial 0 is the configuration itself, valid AUC {own.auc:.5f}: the best is {gain:+.5f} above")
    if result.auc_error is not None:
        notes.append(
            f"standard error of an AUC on these valid rows: {result.auc_error:.5f} (Hanley and McNeil 1982); "
            f"the best of {len(finished)} trials is chosen on the same rows, so it flatters"
        )
    if result.importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in result.importances.items())
        notes.append(f"importance (PED-ANOVA): {shares}")
    best = ", ".join(f"{key}={shorten(value)}" for key, value in result.best.values.items())
    notes.append(f"written: {result.out} ({best})")
    return [Text(note) for note in notes]
