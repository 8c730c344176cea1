"""Codes of many vectors by an engine's workers, block by block; the quantizer is fitted where it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from common.engine.base import Engine, Failed, Item
from common.engine.threads import torch_threads, use_torch_threads
from common.errors import DataError
from common.progress import bar
from common.tokenizers.base import CHUNK, Quantizer, chunks


def item_codes(quantizer: Quantizer, x: np.ndarray, engine: Engine, *, size: int = CHUNK) -> np.ndarray:
    """Return `quantizer.item_codes(x)`, int32 [N, L], the same codes from any engine.

    Blocks of `size` vectors are read here (`x` may be memory-mapped) and sent; a quantizer is pure per vector.
    Kinds that keep codes of the rows of their fit, and vectors of a single block, are encoded here.
    """
    kept = type(quantizer).item_codes is not Quantizer.item_codes
    if not engine.spreads or kept or len(x) <= size:
        return quantizer.item_codes(x)
    codes = np.empty((len(x), quantizer.levels), dtype=np.int32)
    blocks = (chunk for _, chunk in chunks(x, quantizer.dim, size))
    threads = torch_threads()
    setup = partial(_given, quantizer, threads)
    with (
        engine.pool(_encode_block, setup, timeout=None, threads=threads) as pool,
        bar("encode vectors", total=len(x), unit="vector") as shown,
    ):
        for event in pool.run(blocks):
            if isinstance(event, Item):
                start = event.task * size
                codes[start : start + len(event.value)] = event.value
                shown.update(len(event.value))
            elif isinstance(event, Failed):
                raise DataError("vectors could not be encoded", where=f"block {event.task}", got=event.reason)
    return codes


def _given(quantizer: Quantizer, threads: int) -> tuple[Quantizer, int]:
    return quantizer, threads


def _encode_block(state: tuple[Quantizer, int], block: np.ndarray) -> Iterator[np.ndarray]:
    quantizer, threads = state
    use_torch_threads(threads)
    yield quantizer.encode(block)
