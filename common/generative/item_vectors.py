"""Item vectors from sequences alone: positive pointwise mutual information of neighbours, and its truncated SVD.

Levy & Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014, sections 3.3 and 4:
PPMI(i, j) = max(0, log(#(i, j) |D| / (#(i) #(j)))), factored as U sqrt(S).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from common.errors import DataError
from common.generative.sequences import Sequences


def co_occurrence_vectors(train: Sequences, *, dim: int = 64, window: int = 5, seed: int = 7) -> np.ndarray:
    """Return float32 [N, D] vectors of length 1, from the co-occurrence of items in sequences.

    Two items co-occur where at most `window` steps of one sequence lie between them; a pair at distance d counts
    1 / d. Give the training part only (`leave_one_out(...).train`): nothing else is read, so nothing leaks. An item
    without a neighbour gets zeros: nothing is known of it. D is `dim`, or what the items allow (N - 1).

    Raises
    ------
    DataError
        No two items co-occur.
    """
    ppmi = positive_pmi(co_occurrence(train, window))
    n, width = ppmi.shape[0], min(dim, ppmi.shape[0] - 1)
    if not ppmi.nnz or width < 1:
        raise DataError(
            "no two items co-occur above chance: no vectors can be made",
            where=train.name,
            expected="sequences that share items",
            got=f"{len(train.items):,} interactions of {n:,} items",
            todo="give item vectors in a parquet file (item_id, emb), or use --set ids=random",
        )
    left, values = truncated_svd(ppmi, width, seed)
    vectors = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    degree = np.asarray(ppmi.sum(axis=1)).ravel()
    vectors = np.where((degree > 0)[:, None] & (norms > 0), vectors / np.maximum(norms, 1e-12), 0.0)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def co_occurrence(train: Sequences, window: int) -> Any:
    """Return the symmetric weighted counts, sparse [N, N], of pairs of different items within `window` steps."""
    n, users = len(train.item_ids), np.repeat(np.arange(len(train.users)), train.lengths)
    total: Any = sparse.csr_array((n, n), dtype=np.float64)
    for distance in range(1, window + 1):
        left, right = train.items[:-distance], train.items[distance:]
        together = (users[:-distance] == users[distance:]) & (left != right)
        ones = np.full(int(together.sum()), 1.0 / distance)
        total = total + sparse.coo_array((ones, (left[together], right[together])), shape=(n, n)).tocsr()
    return (total + total.T).tocsr()


def positive_pmi(counts: Any) -> Any:
    """Return max(0, PMI) of a symmetric matrix of counts; pairs that never met stay 0."""
    found = counts.tocoo()
    degree = np.asarray(counts.sum(axis=1)).ravel()
    pmi = np.log(found.data * degree.sum() / (degree[found.row] * degree[found.col]))
    made = sparse.coo_array((np.maximum(pmi, 0.0), (found.row, found.col)), shape=counts.shape).tocsr()
    made.eliminate_zeros()
    return made


def truncated_svd(matrix: Any, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (left singular vectors [N, rank], values [rank], largest first), the same for the same seed.

    Randomised range finder with power iterations (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1); the sign
    of each vector is that of its largest entry, which an SVD leaves open.
    """
    n = matrix.shape[0]
    wide = min(n, rank + 16)
    basis = np.linalg.qr(matrix @ np.random.default_rng(seed).standard_normal((n, wide)))[0]
    for _ in range(6):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    small, values, _ = np.linalg.svd(np.ascontiguousarray((matrix.T @ basis).T), full_matrices=False)
    left = (basis @ small)[:, :rank]
    largest = np.abs(left).argmax(axis=0)
    return left * np.where(left[largest, np.arange(rank)] < 0, -1.0, 1.0), values[:rank]
