"""MaxSim: how late interaction compares a query's token vectors with a passage's (Khattab & Zaharia 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCK_TOKENS = 32_768  # passage tokens x query tokens compared at once: 64 MB of products
_BLOCK_QUERY_TOKENS = 512


def maxsim(
    passages: np.ndarray,
    offsets: np.ndarray,
    queries: np.ndarray,
    query_offsets: np.ndarray,
    weights: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Return the weighted mean over query tokens of the best product with a passage token: float32 [P, Q].

    Parameters
    ----------
    passages, offsets
        float32 [T, D] and int64 [P + 1]: passage p is `passages[offsets[p]:offsets[p + 1]]`.
    queries, query_offsets
        float32 [S, D] and int64 [Q + 1], likewise.
    weights
        float32 [S], not negative; 1 for every token when None.
    device
        "cpu" runs in numpy; any other name in torch on that device.

    Notes
    -----
    NaN where a passage or a query has no token, or a query's weights sum to 0: there is no score.
    """
    lengths, query_lengths = np.diff(offsets), np.diff(query_offsets)
    best = np.full((len(lengths), len(queries)), np.nan, np.float32)
    for first, last in _blocks(lengths, _BLOCK_TOKENS):
        filled = first + np.flatnonzero(lengths[first:last])
        if not len(filled):
            continue
        block = passages[offsets[first] : offsets[last]]
        starts = offsets[filled] - offsets[first]  # an empty passage takes no tokens, so these are the segments
        for at in range(0, len(queries), _BLOCK_QUERY_TOKENS):
            some = slice(at, at + _BLOCK_QUERY_TOKENS)
            best[filled, some] = _segment_max(block, starts, queries[some], device)
    scale = np.ones(len(queries), np.float32) if weights is None else weights.astype(np.float32)
    result = np.full((len(lengths), len(query_lengths)), np.nan, np.float32)
    asked = np.flatnonzero(query_lengths)
    if len(asked) and len(lengths):
        starts = query_offsets[asked]
        totals = np.add.reduceat(scale, starts)
        sums = np.add.reduceat(best * scale, starts, axis=1)
        result[:, asked] = np.where(totals > 0, sums / np.where(totals > 0, totals, 1), np.nan)
    return result


def _segment_max(block: np.ndarray, starts: np.ndarray, queries: np.ndarray, device: str) -> np.ndarray:
    """Return float32 [segments, S]: the best product of each segment's tokens with each query token."""
    if device == "cpu":
        return np.maximum.reduceat(block @ queries.T, starts, axis=0)
    import torch

    moved: Any = torch.from_numpy(np.ascontiguousarray(block)).to(device)
    products = moved @ torch.from_numpy(np.ascontiguousarray(queries)).to(device).T
    lengths = torch.from_numpy(np.diff(np.append(starts, len(block)))).to(device)
    return torch.segment_reduce(products, "max", lengths=lengths, axis=0).cpu().numpy()


def _blocks(lengths: np.ndarray, tokens: int) -> list[tuple[int, int]]:
    """Cut passages into runs of at most `tokens` tokens (a longer passage is a run of its own)."""
    runs: list[tuple[int, int]] = []
    first, held = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if held and held + length > tokens:
            runs.append((first, i))
            first, held = i, 0
        held += length
    if first < len(lengths):
        runs.append((first, len(lengths)))
    return runs
