"""Codes of many vectors by an engine's workers, block by block; the quantizer is fitted where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    _encode_blocks(quantizer.encode, (chunk for _, chunk in chunks(x, quantizer.dim, size)), codes, size, engine)
    return codes


def step_codes(
    encode: Callable[[np.ndarray], np.ndarray], x: np.ndarray, engine: Engine, *, size: int = CHUNK
) -> np.ndarray:
    """Return `encode(x)`, int32 [N, T] of checked features [N, T, D], the same codes from any engine.

    `encode` is pure per row; a bound method, or a `functools.partial` of one, can be sent to workers.
    """
    if not engine.spreads or len(x) <= size:
        return encode(x)
    codes = np.empty(x.shape[:2], dtype=np.int32)
    _encode_blocks(encode, (x[i : i + size] for i in range(0, len(x), size)), codes, size, engine)
    return codes


def _encode_blocks(
    encode: Callable[[np.ndarray], np.ndarray],
    blocks: Iterator[np.ndarray],
    codes: np.ndarray,
    size: int,
    engine: Engine,
) -> None:
    """Let workers encode blocks of `size` rows, and write them into `codes`."""
    threads = torch_threads()
    setup = partial(_given, encode, threads)
    with (
        engine.pool(_encode_block, setup, timeout=None, threads=threads) as pool,
        bar("encode vectors", total=len(codes), unit="vector") as shown,
    ):
        for event in pool.run(blocks):
            if isinstance(event, Item):
                start = event.task * size
                codes[start : start + len(event.value)] = event.value
                shown.update(len(event.value))
            elif isinstance(event, Failed):
                raise DataError("vectors could not be encoded", where=f"block {event.task}", got=event.reason)


def _given(encode: Callable[[np.ndarray], np.ndarray], threads: int) -> tuple[Callable[..., np.ndarray], int]:
    return encode, threads


def _encode_block(state: tuple[Callable[..., np.ndarray], int], block: np.ndarray) -> Iterator[np.ndarray]:
    encode, threads = state
    use_torch_threads(threads)
    yield encode(block)
