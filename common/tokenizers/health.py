"""What is wrong with the codes of a catalogue, in words: many items that share theirs, many codes that nobody uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.tokenizers.collisions import collision_report

MANY = 0.5
"""Share of the items that collide from which on it is said."""
FEW = 0.5
"""Share of the codes that random ones would use, below which it is said."""


def code_warnings(codes: np.ndarray, sizes: tuple[int, ...], *, todo: str, names: Sequence[str] = ()) -> list[str]:
    """Return a line for each thing that is wrong with codes [N, L], and at its end what to do; nothing if all is well.

    Parameters
    ----------
    sizes
        Codes of each level, [L].
    todo
        What makes a quantizer use more of its codes.
    names
        What the levels are called; else they are numbered.

    >>> code_warnings(np.array([[0], [0], [1], [1], [1], [1]]), (100,), todo="train longer")[0]
    'warning: 6 of 6 items (100%) share their codes with another item: 2 different rows of codes; random: 6'
    """
    report = collision_report(codes, sizes)
    found: list[str] = []
    if report.colliding > MANY * report.items:
        found.append(
            f"{report.colliding:,} of {report.items:,} items ({report.colliding / report.items:.0%}) share their codes "
            f"with another item: {report.distinct:,} different rows of codes; random: "
            f"{report.expected_fraction * report.items:,.0f}"
        )
    unused = False
    for level, size in enumerate(sizes):
        used, random = len(np.unique(codes[:, level])), expected_used(report.items, size)
        if used < FEW * random:
            unused = True
            name = names[level] if names else f"level {level + 1}"
            found.append(f"{name} uses {used:,} of {size:,} codes ({used / size:.0%}); random: {random:,.0f}")
    if found:
        tight = report.expected_fraction < 1 - MANY / 2 and not unused
        found.append(f"more codes or levels are needed for {report.items:,} items" if tight else todo)
    return [f"warning: {line}" for line in found[:-1]] + [f"what helps: {line}" for line in found[-1:]]


def expected_used(items: int, size: int) -> float:
    """Return how many of `size` codes `items` random ones use.

    >>> round(expected_used(1682, 400))
    394
    """
    return size * -math.expm1(items * math.log1p(-1 / size)) if size > 1 else 1.0
