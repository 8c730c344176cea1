"""Residual encoding with a beam: several partial codes are kept at each level, and the best whole one is chosen."""

from __future__ import annotations

import numpy as np

from common.tokenizers.parallel import over_rows

_TILE = 1 << 19
"""Scores of a tile (2 MiB of float32)."""


def beam_encode(x: np.ndarray, codebooks: list[np.ndarray], beam: int) -> np.ndarray:
    """Return int32 [N, L]: of the `beam` best partial codes of each level (all where fewer exist), the best in the end.

    `beam` 1 is greedy encoding. Exact like `kmeans.nearest`: partial codes whose errors the matrix product cannot
    tell apart are compared in float64, ties go to the smaller code, so no code depends on the batch.
    """
    codes = np.zeros((len(x), len(codebooks)), dtype=np.int32)
    levels = [(codebook, np.ascontiguousarray(codebook.T), _squares(codebook)) for codebook in codebooks]
    width = max(min(beam, int(np.prod([float(len(b)) for b in codebooks[:level]]))) * len(codebooks[level])
                for level in range(len(codebooks)))  # fmt: skip
    tile = max(_TILE // width, 16)

    def work(rows: slice) -> None:
        for start in range(rows.start, rows.stop, tile):
            part = slice(start, min(start + tile, rows.stop))
            codes[part] = _tile(x[part], levels, beam)

    over_rows(work, len(x), tile)
    return codes


def _tile(x: np.ndarray, levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]], beam: int) -> np.ndarray:
    """Encode a few rows."""
    rows = np.arange(len(x))[:, None]
    left = x[:, None]  # [n, b, D], what each partial code leaves
    codes = np.zeros((len(x), 1, 0), dtype=np.int32)
    for level, (codebook, turned, norms) in enumerate(levels):
        size, last = len(codebook), level + 1 == len(levels)
        keep = 1 if last else min(beam, left.shape[1] * size)
        chosen = _best(left, codebook, turned, norms, keep)
        parents, new = chosen // size, chosen % size
        codes = np.concatenate([codes[rows, parents], new[..., None].astype(np.int32)], axis=2)
        if not last:
            left = left[rows, parents] - codebook[new]
    return codes[:, 0]


def _best(left: np.ndarray, codebook: np.ndarray, turned: np.ndarray, norms: np.ndarray, keep: int) -> np.ndarray:
    """Return int64 [n, keep], ascending: which b * K + k leave least of float32 [n, b, D]."""
    count, partial, dim = left.shape
    size = len(codebook)
    if keep == partial * size:
        return np.broadcast_to(np.arange(keep), (count, keep))
    flat = left.reshape(-1, dim)
    squares = _squares(flat)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = flat @ turned
        scores *= -2
        scores += norms
        scores += squares[:, None]
        scores = scores.reshape(count, partial * size)
        edge = np.partition(scores, keep - 1, axis=1)[:, keep - 1] if keep > 1 else scores.min(axis=1)
        longest = np.sqrt(squares.reshape(count, partial).max(axis=1)) + np.sqrt(norms.max())
        bound = 2.5 * (dim + 4) * 2.0**-24 * np.square(longest, dtype=np.float64)
        close = ~(scores > (edge + bound)[:, None])  # an overflow makes it NaN: then all are close
    found = close.sum(axis=1)
    chosen = np.empty((count, keep), dtype=np.int64)
    sure = found == keep
    chosen[sure] = np.nonzero(close[sure])[1].reshape(-1, keep)
    for row in np.flatnonzero(~sure):
        candidates = np.flatnonzero(close[row])
        difference = left[row, candidates // size].astype(np.float64) - codebook[candidates % size]
        order = np.argsort(np.square(difference).sum(axis=1), kind="stable")[:keep]
        chosen[row] = np.sort(candidates[order])
    return chosen


def _squares(x: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", x, x)
