"""How a time or a memory grows with the size of the work: an exponent fitted on logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEEP = 1.15
"""An exponent above this is more than linear: measuring errors of 10 % at both ends of 4x move one by 0.1."""


@dataclass(frozen=True)
class Growth:
    """The exponent of a power law through some points.

    Attributes
    ----------
    exponent
        The slope of least squares of log(value) on log(size); nan with fewer than two points.
    error
        Its standard error from the residuals; nan with fewer than three points.
    slopes
        The slope between each point and the next: a fixed cost shows as slopes that rise towards the true one.
    """

    exponent: float
    error: float
    slopes: tuple[float, ...]

    @property
    def steep(self) -> bool:
        """Whether it grows faster than the work: the whole fit, or the last step (where fixed costs weigh least)."""
        return max((self.exponent, *self.slopes[-1:]), default=math.nan) > STEEP

    def text(self) -> str:
        """Return "0.98 ± 0.02"."""
        if math.isnan(self.exponent):
            return ""
        return f"{self.exponent:.2f}" + ("" if math.isnan(self.error) else f" ± {self.error:.2f}")


def grow(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """Fit value = c * size ** exponent; points with a value that is not above zero are left out.

    >>> grow([1, 4, 16], [3, 12, 48]).text()
    '1.00 ± 0.00'
    """
    points = [(math.log(n), math.log(v)) for n, v in zip(sizes, values, strict=True) if v > 0 and math.isfinite(v)]
    if len(points) < 2:
        return Growth(math.nan, math.nan, ())
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    exponent = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    slopes = tuple((d - b) / (c - a) for (a, b), (c, d) in pairwise(points))
    if len(points) < 3:
        return Growth(exponent, math.nan, slopes)
    residual = sum((y - mean_y - exponent * (x - mean_x)) ** 2 for x, y in points)
    return Growth(exponent, math.sqrt(residual / (len(points) - 2) / spread), slopes)
