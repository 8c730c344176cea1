"""Balanced hierarchical k-means: every row of the fit has a path of its own (EAGER, RecForest)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from common.errors import DataError
from common.tokenizers.balanced import balanced_assignment, even_sizes
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.kmeans import kmeans, nearest
from common.tokenizers.parallel import single_blas
from common.tokenizers.quality import fit_metrics
from common.tokenizers.rq_kmeans import check_positive, check_sizes, stored

TOLERANCE = 0.005
"""An assignment may cost this share more than the cheapest balanced one, about."""


@dataclass
class _Levels:
    """Nodes of each level in order of their paths: centres float32 [M, D]; children of node i are starts[i:i + 2]."""

    centres: list[np.ndarray] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)


class BalancedKMeansTree(Quantizer):
    """A tree of k-means clusters of equal size; the code of a row is its path.

    EAGER (KDD 2024) and RecForest (NeurIPS 2022): the rows of a node are split into K_l clusters whose sizes differ
    by one at most, down to single rows. So the fitted rows' codes are all different (`assigned_codes`) and no rank
    has to be added to make IDs of them. Unlike EAGER's greedy split (each centre takes its N / K nearest free rows),
    each split is an assignment of nearly the smallest total distance.

    Parameters
    ----------
    codebook_sizes
        Branching of each level; their product is at least the number of rows.
    iterations
        Steps (assign, move the centres) of each split, at most.

    Notes
    -----
    - `fit` reads all rows into memory, and the last level keeps each of them: the file is as large as the vectors.
    - `encode` follows the nearest centre, level by level, and does not know of balance: a fitted row that balance
      moved elsewhere, or an identical one, may get another row's code. `metrics["recovered"]` is the share that
      comes back to its own. For the fitted rows use `assigned_codes`.
    - A node with fewer rows than branches uses its first codes only; `decode` refuses a path that ends before.
    """

    kind = "balanced_tree"

    def __init__(self, codebook_sizes: tuple[int, ...] = (128, 128), iterations: int = 20) -> None:
        self.codebook_sizes = check_sizes(codebook_sizes)
        self.iterations = check_positive("iterations", iterations)
        self.metrics = {}
        self._tree = _Levels()
        self._assigned = np.empty((0, len(self.codebook_sizes)), np.int32)

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Build the tree of float32 [N, D].

        Raises
        ------
        DataError
            More rows than paths, fewer rows than the first level has codes, a node whose rows are too much alike to
            be split, or a value that is not finite.
        """
        check_vectors(x, least=self.codebook_sizes[0])
        paths = math.prod(self.codebook_sizes)
        if len(x) > paths:
            raise DataError(
                "more vectors than the tree has paths",
                where="codebook_sizes",
                expected=f"a product of {len(x):,} or more",
                got=f"{list(self.codebook_sizes)}: {paths:,}",
            )
        digest = data_digest(x)
        rows = sample_rows(x, len(x), seed)
        self._tree, self._assigned = self._grow(rows, seed)
        self._ready(x.shape[1], digest, {})
        recovered = float((self.encode(rows) == self._assigned).all(axis=1).mean())
        self.metrics = fit_metrics(self, rows) | {"recovered": recovered}
        return self

    def assigned_codes(self, x: np.ndarray) -> np.ndarray:
        """Return the codes int32 [N, L] of the rows of the fit, all different.

        Raises
        ------
        DataError
            `x` is not what the tree was fitted on, to the byte.
        """
        self._fitted()
        if data_digest(x) != self.data_digest:
            raise DataError(
                "these are not the vectors that the tree was fitted on",
                expected=f"{len(self._assigned):,} vectors of {self.dim}, in the same order",
                got=f"{x.dtype} {list(x.shape)}",
                todo="use encode for other vectors",
            )
        return self._assigned.copy()

    def item_codes(self, x: np.ndarray) -> np.ndarray:
        """Return `assigned_codes` of the rows of the fit; of any other vectors, `encode`."""
        self._fitted()
        return self._assigned.copy() if data_digest(x) == self.data_digest else self.encode(x)

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {"codebook_sizes": list(self.codebook_sizes), "iterations": self.iterations}

    def _grow(self, x: np.ndarray, seed: int) -> tuple[_Levels, np.ndarray]:
        """Return the tree and each row's path."""
        tree, assigned = _Levels(), np.zeros((len(x), self.levels), dtype=np.int32)
        nodes = [np.arange(len(x))]
        for level, size in enumerate(self.codebook_sizes):
            children: list[np.ndarray] = []
            starts = [0]
            for number, rows in enumerate(nodes):
                codes = self._split(x[rows], size, (seed, level, number), f"level {level + 1}, node {number}")
                count = int(codes.max()) + 1
                children += [rows[codes == code] for code in range(count)]
                assigned[rows, level] = codes
                starts.append(starts[-1] + count)
            tree.centres.append(np.stack([x[rows].mean(axis=0, dtype=np.float64) for rows in children]).astype("f4"))
            tree.starts.append(np.array(starts))
            nodes = children
        return tree, assigned

    def _split(self, x: np.ndarray, size: int, seed: tuple[int, ...], where: str) -> np.ndarray:
        """Return the code of each row of a node: clusters of even sizes, or a code for each row where they suffice."""
        if len(x) <= size:
            return np.arange(len(x))
        if size == 1:
            return np.zeros(len(x), dtype=np.int64)
        x = x - x.mean(axis=0)
        try:
            start = kmeans(x, size, seed=seed, iterations=self.iterations)
        except DataError as error:
            raise DataError(error.what, where=where, expected=error.expected, got=error.got, todo=error.todo) from None
        sizes = even_sizes(len(x), size, np.bincount(start.codes, minlength=size))
        centres, prices, codes = start.centroids, None, start.codes
        squares = np.einsum("nd,nd->n", x, x)[:, None]
        for _ in range(self.iterations):
            with single_blas():
                costs = np.maximum(squares - 2 * (x @ centres.T) + np.einsum("nd,nd->n", centres, centres), 0)
            tolerance = TOLERANCE * max(float(costs.min(axis=1).mean()), 1e-6 * float(costs.mean()))
            found = balanced_assignment(costs, sizes, tolerance=max(tolerance, 1e-30), prices=prices)
            moved, codes, prices = int((found.clusters != codes).sum()), found.clusters, found.prices
            if moved <= len(x) // 1000:
                break
            order = np.argsort(codes, kind="stable")
            sums = np.add.reduceat(x[order], np.concatenate([[0], np.cumsum(sizes)[:-1]]), axis=0, dtype=np.float64)
            centres = (sums / sizes[:, None]).astype(np.float32)
        return codes

    def _encode(self, x: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(x), self.levels), dtype=np.int32)
        nodes = np.zeros(len(x), dtype=np.int64)
        for level, (centres, starts) in enumerate(zip(self._tree.centres, self._tree.starts, strict=True)):
            order = np.argsort(nodes, kind="stable")
            edges = np.flatnonzero(np.diff(nodes[order], prepend=-1, append=-1))
            for begin, end in itertools.pairwise(edges):
                rows = order[begin:end]
                children = slice(starts[nodes[rows[0]]], starts[nodes[rows[0]] + 1])
                codes[rows, level] = nearest(x[rows], centres[children])
            nodes = starts[nodes] + codes[:, level]
        return codes

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        nodes = np.zeros(len(codes), dtype=np.int64)
        for level in range(upto):
            starts = self._tree.starts[level]
            missing = np.flatnonzero(codes[:, level] >= starts[nodes + 1] - starts[nodes])
            if len(missing):
                raise DataError(
                    "a path ends before this code: no fitted row has it",
                    where=f"row {int(missing[0])}, level {level}",
                    expected=f"below {int(np.diff(starts)[nodes[missing[0]]])}",
                    got=int(codes[missing[0], level]),
                )
            nodes = starts[nodes] + codes[:, level]
        return self._tree.centres[upto - 1][nodes]

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"centres_{level:02d}": centres for level, centres in enumerate(self._tree.centres)}
        arrays |= {f"starts_{level:02d}": starts for level, starts in enumerate(self._tree.starts)}
        return arrays | {"assigned": self._assigned}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim, parents, tree = arrays["centres_00"].shape[-1], 1, _Levels()
        for level, size in enumerate(self.codebook_sizes):
            starts = arrays[f"starts_{level:02d}"]
            counts = np.diff(starts)
            if starts.shape != (parents + 1,) or starts.dtype != np.int64 or starts[0] != 0:
                raise ValueError(f"starts of level {level + 1} are not those of {parents} nodes")
            if counts.min() < 1 or counts.max() > size:
                raise ValueError(f"a node of level {level + 1} has {int(counts.max())} branches of {size}")
            parents = int(starts[-1])
            tree.starts.append(starts)
            tree.centres.append(stored(arrays, f"centres_{level:02d}", (parents, dim)))
        assigned = arrays["assigned"]
        if assigned.shape != (parents, self.levels) or assigned.dtype != np.int32:
            raise ValueError(f"assigned: expected int32 {[parents, self.levels]}, got {list(assigned.shape)}")
        self._tree, self._assigned = tree, assigned
