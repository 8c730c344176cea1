"""Planted vectors: sums of one codeword a level (additive), paths of a tree, and the control without structure."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from common.errors import ConfigError

SHRINK = 0.5
"""Each level's offsets are half as long as those of the level before: shares of variance 0.76, 0.19, 0.05."""


def additive_vectors(
    n: int, dim: int = 32, levels: int = 3, codes: int = 16, noise: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return x float32 [n, dim] = a[i] + b[j] + c[k] + ... + noise, and the planted codes int32 [n, levels].

    All items share the codewords of a level, so residual quantization fits, and flat k-means of the same number
    of stored centres cannot.

    Parameters
    ----------
    n, dim
        Number of vectors, and their width.
    levels, codes
        Number of codebooks, and of codewords in each. A coordinate of level l's codewords is N(0, `SHRINK`^2l).
    noise
        Standard deviation of the noise in each coordinate.
    seed
        Of everything: same arguments, same bytes.

    Raises
    ------
    ConfigError
        A number that is not positive, or negative noise.
    """
    _positive(n=n, dim=dim, levels=levels, codes=codes)
    _noise(noise)
    rng = np.random.default_rng(seed)
    books = rng.normal(size=(levels, codes, dim)) * SHRINK ** np.arange(levels)[:, None, None]
    chosen = rng.integers(0, codes, (n, levels)).astype(np.int32)
    x = books[np.arange(levels), chosen].sum(1) + noise * rng.normal(size=(n, dim))
    return x.astype(np.float32), chosen


def tree_vectors(
    n: int, dim: int = 32, branching: Sequence[int] = (8, 8, 8), noise: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return x float32 [n, dim], the leaves of a tree with noise, and their paths int32 [n, len(branching)].

    Every node has its own offset from its parent (codewords are NOT shared by parents). Leaves are filled evenly,
    in a random order: n = prod(branching) gives one vector a leaf.

    Raises
    ------
    ConfigError
        A number that is not positive, or negative noise.
    """
    if not len(branching):
        raise ConfigError("a tree needs a level", where="branching", got=list(branching))
    _positive(n=n, dim=dim, branching=min(branching))
    _noise(noise)
    rng = np.random.default_rng(seed)
    leaf = rng.permutation(n) % prod(branching)
    x, paths, nodes = np.zeros((n, dim)), np.empty((n, len(branching)), np.int32), 1
    for level, width in enumerate(branching):
        nodes *= width
        node = leaf // (prod(branching) // nodes)
        x += rng.normal(size=(nodes, dim))[node] * SHRINK**level
        paths[:, level] = node % width
    return (x + noise * rng.normal(size=(n, dim))).astype(np.float32), paths


def isotropic_vectors(n: int, dim: int = 32, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return float32 [n, dim] of N(0, scale²): the control, in which there is nothing to find."""
    _positive(n=n, dim=dim)
    _noise(scale, "scale")
    return (scale * np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float32)


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError("planted data need a positive number", where=name, expected="at least 1", got=value)


def _noise(value: float, name: str = "noise") -> None:
    if not 0 <= value < np.inf:
        raise ConfigError("this must be a finite number, not below 0", where=name, got=value)
