"""What the measurements must show on two cores, as data in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from benchmarks.suite.work import Figure, Found


@dataclass(frozen=True)
class Target:
    """A bound on a figure of a system.

    `kind`: "times", the speed-up over the peer is at least `limit`; "most", the value is at most `limit`; "near", the
    fact `fact` is at most `limit` below the peer's.
    """

    work: str
    system: str
    figure: str
    kind: Literal["times", "most", "near"]
    limit: float
    peer: str | None = None
    fact: str = ""

    def text(self) -> str:
        """Return it as the table prints it."""
        if self.kind == "times":
            return f">= {self.limit:g} x"
        return f"<= {self.limit:g}" if self.kind == "most" else f"{self.fact} within {self.limit:g}"

    def met(self, figure: Figure, ours: Found, peer: Found | None) -> bool | None:
        """Return whether it is met; None where that cannot be told, because something was not measured."""
        if self.kind == "most":
            value = ours.best(figure)
            return None if math.isnan(value) else value <= self.limit
        if peer is None:
            return None
        if self.kind == "times":
            value = figure.times(ours.best(figure), peer.best(figure))
            return None if math.isnan(value) else value >= self.limit
        gap = peer.fact(self.fact) - ours.fact(self.fact)
        return None if math.isnan(gap) else gap <= self.limit


TARGETS = (
    Target("din", "din_1024", "train", "times", 8.0, "fuxictr_1024"),
    Target("din", "din_1024", "predict", "times", 8.0, "fuxictr_1024"),
    Target("din", "din_8192", "train", "times", 8.0, "fuxictr_8192"),
    Target("din", "din_8192", "predict", "times", 8.0, "fuxictr_8192"),
    Target("text", "int8", "encode", "times", 4.0, "plain"),
    Target("text", "int8", "encode", "near", 0.5, "plain", fact="recall"),
    Target("beam", "masks", "search", "most", 10.0),
    Target("trie", "rows_10m", "build", "most", 3.0),
    Target("ocr", "kit", "pages", "most", 0.8),
    Target("jobs", "track1_cold", "run", "most", 60.0),
    Target("jobs", "track2_cold", "run", "most", 60.0),
    Target("jobs", "mmdocir_cold", "run", "most", 360.0),
    Target("jobs", "mmdocir_warm", "run", "most", 30.0),
    Target("startup", "track1", "help", "most", 0.5),
    Target("startup", "track2", "help", "most", 0.5),
)
"""At the full size only: the small ones measure less work, and say nothing about these bounds."""


def targets_of(work: str, system: str, figure: str, peer: str | None) -> list[Target]:
    """Return the targets of one row of the table; a bound without a peer goes with every row of its system."""
    return [
        one
        for one in TARGETS
        if (one.work, one.system, one.figure) == (work, system, figure) and (one.peer is None or one.peer == peer)
    ]
