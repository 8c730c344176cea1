"""Counting for pages of exploration: lengths as a chart and a row, shares, lists cut short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.pages.blocks import Cell, Column, Table

if TYPE_CHECKING:
    from common.pages.blocks import Chart
    from common.pages.charts import Bin

BINS = 30
"""Bars of a histogram at most."""
REACH = 0.99
"""Share of the values that a histogram shows at least: few very large ones would squeeze all others into one bar."""


def of(part: int, whole: int) -> str:
    """Return "12 of 345 (3.5%)"."""
    return f"{part:,} of {whole:,}" + (f" ({part / whole:.1%})" if whole else "")


def listed(names: Sequence[object], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return "1 page" or "1,200 pages"; `nouns` is the plural where it does not end in s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def bins(values: np.ndarray) -> tuple[list[Bin], int]:
    """Return a histogram of whole numbers >= 0, and how many values lie beyond its last bar.

    Bars are 1, 2, 5, 10, 20, ... wide, at most `BINS` of them, over at least the share `REACH` of the values.
    """
    from common.pages.charts import Bin

    if not len(values):
        return [], 0
    values = values.astype(np.int64)
    low = int(values.min())
    reach = int(np.quantile(values, REACH, method="inverted_cdf"))
    steps = (mantissa * 10**power for power in range(12) for mantissa in (1, 2, 5))
    width = next(step for step in steps if (reach - low // step * step) // step + 1 <= BINS)
    first = low // width * width
    whole = (int(values.max()) - first) // width + 1
    bars = whole if whole <= BINS else (reach - first) // width + 1
    at = (values - first) // width
    counts = np.bincount(at[at < bars], minlength=bars)
    made = [Bin(first + i * width, first + (i + 1) * width, int(count)) for i, count in enumerate(counts)]
    return made, int((at >= bars).sum())


def length_chart(title: str, values: np.ndarray, x: str, y: str) -> Chart:
    """Return a histogram of lengths, with a sentence of its middle and its end. `y`: what is counted, as "pages"."""
    from common.pages.charts import histogram

    made, beyond = bins(values)
    text = (
        f"Half of the {len(values):,} {y} have at most {np.median(values):,.0f} {x}, "
        f"nine of ten at most {np.quantile(values, 0.9):,.0f}, none more than {values.max():,}."
    )
    if beyond:
        text += f" {beyond:,} beyond {made[-1].high:,.0f} are not drawn."
    return histogram(title, made, text=text, x=x, y=y)


def spread(name: str, values: np.ndarray) -> list[Cell]:
    """Return a row of `spread_table`: count, mean and quantiles of the values; dashes where there are none."""
    if not len(values):
        return [name, 0, *[None] * 6]
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return [name, len(values), float(values.mean()), *(float(value) for value in quantiles)]


def spread_table(rows: Sequence[Sequence[Cell]], caption: str = "", form: str = ",.1f") -> Table:
    """Return a table of rows of `spread`."""
    titles = ("mean", "least", "quarter", "half", "three quarters", "most")
    notes = ("", "", "a quarter are below", "the median", "three quarters are below", "")
    columns = [Column("what"), Column("how many", ","), *map(Column, titles, [form] * 6, notes)]
    return Table(columns, rows, caption)
