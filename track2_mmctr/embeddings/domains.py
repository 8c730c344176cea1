"""Domains of the items by a stated split, for methods that tell domains apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import ConfigError
from common.representation.inputs import Behaviour
from track2_mmctr.embeddings.represent_config import DomainConfig


def domains_of(
    config: DomainConfig, by: str, tags: Sequence[Sequence[int]], behaviour: Behaviour
) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Return domains int64 [N] (None: one for all), their names, and what was done, in words.

    Parameters
    ----------
    by
        The split, `auto` made up.
    tags
        Tag ids of the items 1..N.
    behaviour
        Training histories; item row r is item r + 1.

    Raises
    ------
    ConfigError
        No item has the tag, or all have it.
    """
    count = len(tags)
    if by == "none":
        return None, ("all",), "all items are in one domain"
    if by == "popularity":
        shown = np.bincount(behaviour.items, minlength=count)
        order = np.argsort(-shown, kind="stable")
        domains = np.ones(count, np.int64)
        domains[order[: (count + 1) // 2]] = 0
        return domains, ("popular", "rare"), "domains: the half of the items that is more often in histories, the rest"
    tag = config.tag or _halving(tags)
    have = np.array([tag in row for row in tags], bool)
    if not have.any() or have.all():
        raise ConfigError(
            "this tag does not split the items",
            where="domains.tag",
            expected="a tag that some items have, and some have not",
            got=f"{tag}, of {int(have.sum())} of {count} items",
        )
    names = (f"tag {tag}", f"without tag {tag}")
    return np.where(have, 0, 1).astype(np.int64), names, f"domains: {int(have.sum())} items with tag {tag}, the rest"


def _halving(tags: Sequence[Sequence[int]]) -> int:
    """Return the tag whose share of the items is nearest to one half; the smaller id of equal ones."""
    counts: dict[int, int] = {}
    for row in tags:
        for tag in set(row) - {0}:
            counts[tag] = counts.get(tag, 0) + 1
    return min(counts, key=lambda tag: (abs(2 * counts[tag] - len(tags)), tag), default=0)
