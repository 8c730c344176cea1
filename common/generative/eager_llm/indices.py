"""Dual-source indices: the path of an item in a tree of behaviour vectors, then that in a tree of semantic ones.

The released figures do not say how deep the trees are [I]. A tree whose every leaf is one item would settle the item
by itself: under constrained decoding the codes after it would have one continuation each, hence probability 1, and
the second source would have no say. So with both sources each tree is cut above its leaves, and the item is what
both paths have in common; items that share both get a rank. One source alone keeps its leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from common.hashing import digest
from common.tokenizers.balanced_tree import BalancedKMeansTree
from common.tokenizers.semantic_ids import SemanticIdMap

JITTER = 1e-3
"""Standard deviation of what tells equal vectors apart, in those of the columns."""


def dual_ids(
    vectors: Mapping[str, tuple[np.ndarray, str]],
    branching: tuple[int, ...],
    *,
    iterations: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> SemanticIdMap:
    """Return one ID an item: the codes of each source one after the other, and a rank where they collide.

    Parameters
    ----------
    vectors
        By source, float32 [N, D] and where they come from; the order is that of the codes.
    branching
        Branches of each level; empty: `default_branching`.

    Raises
    ------
    DataError
        Fewer items than the first level has branches, vectors that are not finite.
    """
    count = len(next(iter(vectors.values()))[0])
    branching = branching or default_branching(count)
    alone = len(vectors) == 1
    if not alone and math.prod(branching) >= count:
        say("IDs: the first source's codes settle each item: the others have no say in decoding, take fewer branches")
    parts: list[np.ndarray] = []
    versions: list[str] = []
    sizes: tuple[int, ...] = ()
    for number, (name, (given, origin)) in enumerate(vectors.items()):
        apart, equal = told_apart(given, seed + number)
        codes, used, version = tree_codes(apart, branching, iterations, seed, leaves=alone)
        parts.append(codes)
        versions.append(version)
        sizes = (*sizes, *used)
        note = f"; {equal:,} items have another's vector, chance tells them apart" if equal else ""
        say(f"IDs: {name} codes {' x '.join(map(str, used))} of {origin}{note}")
    sids = np.concatenate(parts, axis=1)
    ids = SemanticIdMap.from_codes(sids, sizes, version=digest(*versions)[:16])
    if ids.sizes[-1] == 1:  # no two items collide: a level with one code says nothing
        return SemanticIdMap.from_sids(sids, sizes, version=ids.source)
    distinct = len(np.unique(sids, axis=0))
    say(f"IDs: {distinct:,} of {count:,} differ without a rank, which has {ids.sizes[-1]} codes")
    return ids


def default_branching(count: int) -> tuple[int, int]:
    """Return two levels of about the cube root of the number of items.

    >>> default_branching(256), default_branching(12_101)
    ((7, 7), (23, 23))
    """
    size = max(2, math.ceil(round(count ** (1 / 3), 9)))
    return size, size


def tree_codes(
    vectors: np.ndarray, branching: tuple[int, ...], iterations: int, seed: int, *, leaves: bool
) -> tuple[np.ndarray, tuple[int, ...], str]:
    """Return codes int32 [N, L], the sizes of the L levels, and the tree's version.

    `leaves`: one level more, where the given ones do not tell all items apart.
    """
    rest = math.ceil(len(vectors) / math.prod(branching))
    sizes = (*branching, rest) if rest > 1 else branching
    tree = BalancedKMeansTree(sizes, iterations).fit(vectors, seed=seed)
    kept = len(sizes) if leaves else len(branching)
    return tree.assigned_codes(vectors)[:, :kept], sizes[:kept], tree.version


def told_apart(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Return vectors no two of which are equal, and how many were: those get a little noise.

    Items that nobody has used yet all have one behaviour vector, and a tree cannot split what is equal.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    _, group, counts = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    equal = np.flatnonzero(counts[group.reshape(-1)] > 1)
    if not len(equal):
        return vectors, 0
    scale = np.maximum(vectors.std(axis=0), 1e-3)
    vectors = vectors.copy()
    noise = np.random.default_rng((seed, 31)).normal(size=(len(equal), vectors.shape[1]))
    vectors[equal] += (JITTER * scale * noise).astype(np.float32)
    return vectors, len(equal)
