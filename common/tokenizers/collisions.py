"""How many items share their codes, against what hashing them at random would do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import DataError
from common.tokenizers.base import check_codes
from common.tokenizers.packed import RowIndex

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class CollisionReport:
    """Figures of `collision_report`.

    Attributes
    ----------
    items, distinct
        N and the number of different rows of codes.
    unique_fraction, expected_fraction
        distinct / N, measured and by `expected_unique_fraction`. A quantizer follows the density of its data, so
        somewhat less than expected is normal; far less means dead codes.
    capacity
        Number of possible rows of codes.
    colliding
        Items that share their codes with another item.
    largest
        Items in the largest group: as many codes as a rank level needs (`rank_width`).
    groups
        Size of a group to the number of groups of that size; size 1 are the items alone.
    """

    items: int
    distinct: int
    unique_fraction: float
    expected_fraction: float
    capacity: int
    colliding: int
    largest: int
    groups: dict[int, int]

    @property
    def rank_width(self) -> int:
        """Codes that a rank level needs; 1 where nothing collides."""
        return self.largest

    def render(self) -> RenderableType:
        """Return the table for a terminal."""
        from rich.table import Table

        table = Table("figure", "value", title="collisions", title_justify="left")
        table.columns[1].justify = "right"
        shown = sorted(self.groups.items())
        groups = ", ".join(f"{count:,} of {size}" for size, count in shown[:6])
        if len(shown) > 6:
            groups += f", ... {shown[-1][1]:,} of {shown[-1][0]}"
        for name, value in (
            ("items", f"{self.items:,}"),
            ("different codes", f"{self.distinct:,}"),
            ("unique fraction", f"{self.unique_fraction:.4f}"),
            ("expected of random codes", f"{self.expected_fraction:.4f}"),
            ("possible codes", f"{self.capacity:,}" if self.capacity < 10**15 else f"{self.capacity:.2e}"),
            ("items that collide", f"{self.colliding:,}"),
            ("groups by size", groups),
            ("rank level needs", f"{self.rank_width:,} codes"),
        ):
            table.add_row(name, value)
        return table


def expected_unique_fraction(n: int, sizes: tuple[int, ...]) -> float:
    """Return the expected distinct / N of N items hashed uniformly: M (1 - (1 - 1/M)^N) / N, M = product of sizes.

    By log1p and expm1, so that neither a huge M nor a small N / M cancels.

    >>> round(expected_unique_fraction(4000, (16, 16, 16)), 3), expected_unique_fraction(10, (2**31,) * 40)
    (0.638, 1.0)
    """
    if n < 1 or not sizes or min(sizes) < 1:
        raise ValueError(f"need n >= 1 and sizes >= 1, got {n}, {sizes}")
    capacity = math.prod(sizes)
    if capacity == 1:
        return 1 / n
    if capacity > 1 << 512:  # beyond floats; the loss is (n - 1) / 2M
        return 1.0
    return min(1.0, -float(capacity) * math.expm1(n * math.log1p(-1 / capacity)) / n)


def collision_report(codes: np.ndarray, sizes: tuple[int, ...]) -> CollisionReport:
    """Count groups of equal rows in codes [N, L].

    Raises
    ------
    DataError
        No rows, or a code outside its codebook.
    """
    codes = check_codes(np.asarray(codes), sizes)
    if not len(codes):
        raise DataError("no codes to report on", expected="at least 1 row", got=0)
    _, counts = RowIndex(codes, sizes).groups()
    values, numbers = np.unique(counts, return_counts=True)
    return CollisionReport(
        items=len(codes),
        distinct=len(counts),
        unique_fraction=len(counts) / len(codes),
        expected_fraction=expected_unique_fraction(len(codes), sizes),
        capacity=math.prod(sizes),
        colliding=int(counts[counts > 1].sum()),
        largest=int(counts.max()),
        groups={int(size): int(number) for size, number in zip(values, numbers, strict=True)},
    )
