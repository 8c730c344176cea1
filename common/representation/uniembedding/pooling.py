"""Items as the adapter reads them, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.representation.inputs import Items


@dataclass(frozen=True)
class Pooled:
    """N items as the adapter reads them.

    Attributes
    ----------
    vectors
        Of each modality float32 [N, D], the mean of its tokens.
    present
        bool [N, M], modalities in the order of `vectors`.
    domains
        int64 [N].
    digest
        SHA-256 over the items: a training is tied to it.
    """

    vectors: dict[str, np.ndarray]
    present: np.ndarray
    domains: np.ndarray
    digest: str = ""

    def take(self, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return vectors, present and domains of some items as tensors."""
        vectors = {name: torch.from_numpy(values[rows]) for name, values in self.vectors.items()}
        return vectors, torch.from_numpy(self.present[rows]), torch.from_numpy(self.domains[rows])


def pool_items(items: Items, dims: Mapping[str, int], domains: Sequence[str]) -> Pooled:
    """Return items with the modalities `dims` (width by name) and the domains numbered as in `domains`.

    Raises
    ------
    DataError
        A modality of another width; an item without any; a domain that is not in `domains`.
    """
    vectors = {name: np.zeros((len(items), width), np.float32) for name, width in dims.items()}
    present = np.zeros((len(items), len(dims)), bool)
    for column, (name, width) in enumerate(dims.items()):
        if name not in items.modalities:
            continue
        tokens = items.modalities[name]
        if tokens.dim != width:
            raise DataError(f"{name} has another width than at fit", where=name, expected=width, got=tokens.dim)
        vectors[name], present[:, column] = tokens.mean(), tokens.present
    lacking = ~present.any(1)
    if lacking.any():
        raise DataError(
            "an item has none of the modalities",
            where=f"item {items.ids[int(lacking.argmax())]}",
            expected=" or ".join(dims),
            got=f"{int(lacking.sum())} such items",
            todo="encode them, or leave them out",
        )
    return Pooled(vectors, present, _numbered(items, domains), items.digest())


def _numbered(items: Items, domains: Sequence[str]) -> np.ndarray:
    """Return each item's place in `domains`, int64 [N]: domains go by their names."""
    known = {name: number for number, name in enumerate(domains)}
    used = [items.domain_names[number] for number in np.unique(items.domain_of)]
    if unknown := [name for name in used if name not in known]:
        raise DataError(
            "items of a domain that was not there at fit",
            where="domains",
            expected=", ".join(known),
            got=", ".join(unknown),
            todo="fit the method again with this domain",
        )
    return np.array([known.get(name, -1) for name in items.domain_names], np.int64)[items.domain_of]


def check_domains(items: Items) -> None:
    """Raise `DataError` where a domain has fewer than two items."""
    counts = np.bincount(items.domain_of, minlength=len(items.domain_names))
    if counts.min() < 2:
        small = int(counts.argmin())
        raise DataError(
            "a domain has too few items to tell one from another",
            where=f"domain {items.domain_names[small]!r}",
            expected="at least 2 items",
            got=f"{counts[small]}",
            todo="join it with another domain, or leave it out",
        )
