"""What a quantizer does to given vectors: error, perplexity and dead codes by level, collisions, a plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.atomic import atomic_path
from common.tokenizers.base import Quantizer
from common.tokenizers.collisions import CollisionReport, collision_report
from common.tokenizers.quality import LevelQuality, level_quality

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class TokenizerReport:
    """Figures of one quantizer on one set of vectors."""

    kind: str
    version: str
    vectors: int
    dim: int
    levels: list[LevelQuality]
    collisions: CollisionReport

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def render(self) -> RenderableType:
        """Return the two tables for a terminal."""
        from rich.console import Group
        from rich.table import Table

        table = Table(
            title=f"{self.kind} {self.version} on {self.vectors:,} vectors of {self.dim}", title_justify="left"
        )
        for name in ("level", "codes", "relative error", "perplexity", "perplexity/codes", "used", "dead"):
            table.add_column(name, justify="right")
        for row in self.levels:
            table.add_row(
                str(row.level),
                str(row.size),
                f"{row.relative_error:.4f}",
                f"{row.perplexity:.1f}",
                f"{row.perplexity / row.size:.2f}",
                str(row.used),
                str(row.dead),
            )
        return Group(table, self.collisions.render())


def make_report(quantizer: Quantizer, x: np.ndarray) -> TokenizerReport:
    """Encode float32 [N, D] and measure it."""
    codes = quantizer.encode(x)
    return TokenizerReport(
        quantizer.kind,
        quantizer.version,
        len(x),
        quantizer.dim,
        level_quality(quantizer, x),
        collision_report(codes, quantizer.codebook_sizes),
    )


def plot_report(report: TokenizerReport, codes: np.ndarray, path: Path) -> None:
    """Draw error by level, how often each code is used, and the sizes of collision groups, as one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    error, use, groups = figure.subplots(1, 3)
    error.plot([row.level for row in report.levels], [row.relative_error for row in report.levels], "o-")
    error.set(title="relative error", xlabel="level", ylim=(0, None), xticks=[row.level for row in report.levels])
    for row, column in zip(report.levels, codes.T, strict=True):
        counts = np.sort(np.bincount(column, minlength=row.size))[::-1]
        use.plot(
            np.arange(1, row.size + 1) / row.size, counts / max(1, len(codes)) * row.size, label=f"level {row.level}"
        )
    use.axhline(1, color="grey", lw=0.8, ls=":")
    use.set(title="use of codes (1 = even)", xlabel="codes, most used first (share)", ylim=(0, None))
    use.legend()
    sizes = np.unique(codes, axis=0, return_counts=True)[1]
    values, counts = np.unique(sizes, return_counts=True)
    groups.bar([str(value) for value in values[:20]], counts[:20])
    groups.set(title="items that share an ID", xlabel="items", ylabel="IDs", yscale="log")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
