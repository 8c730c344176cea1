"""Codes that collide: refused, ranked within their group, or moved by Sinkhorn."""

from __future__ import annotations

import numpy as np

from common.errors import ConfigError, DataError
from common.tokenizers.base import Quantizer, check_codes
from common.tokenizers.packed import RowIndex, ranks


def check_sids(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return int32 [N, L], a copy, of integers [N >= 1, L] in their codebooks; raise `DataError` on others."""
    codes = np.asarray(codes)
    if not sizes or min(sizes) < 1:
        raise ConfigError("codebooks without codes", where="sizes", expected="at least 1 code a level", got=list(sizes))
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or not len(codes):
        raise DataError("codes have another shape", expected=f"integers [N >= 1, {len(sizes)}]", got=list(codes.shape))
    return check_codes(codes, sizes).astype(np.int32)


def next_ranks(sids: np.ndarray, sizes: tuple[int, ...], codes: np.ndarray) -> np.ndarray:
    """Return the ranks int32 [M] that come next, for new codes [M, L], in the groups of ranked IDs [N, L + 1]."""
    old, new = RowIndex(sids[:, :-1], sizes[:-1]), RowIndex(codes, sizes[:-1])
    starts, _ = old.groups()
    used = np.maximum.reduceat(sids[old.order, -1], starts) + 1
    first, held = old.find(codes)
    group = np.minimum(np.searchsorted(starts, first), len(used) - 1)
    rank = ranks(new)[0] + np.where(held, used[group], 0)
    full = np.flatnonzero(rank >= sizes[-1])
    if len(full):
        raise DataError(
            f"the rank level is full: no ID is left for {len(full)} of the new items",
            where=f"new row {int(full[0])}, codes {codes[full[0]].tolist()}",
            expected=f"at most {sizes[-1]} items with the same codes",
            got=int(rank.max()) + 1,
            todo="make all IDs again with a larger rank_codes (or a finer quantizer) and train again on them",
        )
    return rank.astype(np.int32)


def moved(
    codes: np.ndarray, sizes: tuple[int, ...], fixed: int, quantizer: Quantizer | None, x: np.ndarray | None
) -> np.ndarray:
    """Return the codes after `sinkhorn.reassign`; `x` are the vectors of the rows from `fixed` on."""
    from common.tokenizers.sinkhorn import last_level, reassign

    if quantizer is None or x is None:
        raise ConfigError(
            "sinkhorn needs to know which other codes are near",
            where="dedup",
            expected="quantizer=..., x=... (the encoded vectors)",
            todo='give both, or use dedup="append"',
        )
    near = last_level(quantizer, x, codes[fixed:])
    return reassign(codes, sizes, lambda rows: near(rows - fixed), fixed=fixed).codes


def refuse_equal(index: RowIndex, codes: np.ndarray) -> None:
    """Raise `DataError` that names the first rows of `codes` that are equal; `index` is theirs."""
    starts, counts = index.groups()
    many = np.flatnonzero(counts > 1)
    if not len(many):
        return
    first = [np.sort(index.order[starts[g] : starts[g] + counts[g]])[:4].tolist() for g in many[:3]]
    raise DataError(
        f"{int(counts[many].sum())} items share their codes with another item",
        where="; ".join(f"rows {rows} have codes {codes[rows[0]].tolist()}" for rows in first),
        expected="distinct codes",
        got=f"{len(starts)} distinct of {len(codes)}",
        todo='use dedup="append", or a quantizer with more codes or levels',
    )
