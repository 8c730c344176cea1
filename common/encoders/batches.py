"""Items to stored vectors, batch by batch: what the embedding store does with one shard, here or in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from common.errors import DataError

T = TypeVar("T")
Encoded = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True)
class Batch:
    """What became of a batch of a shard's items, by their positions in the shard.

    Attributes
    ----------
    size
        Items of the batch.
    done, arrays
        Those that were encoded, and their vectors in the store's number type.
    errors
        Those that could not be loaded, and why.
    """

    size: int
    done: list[int]
    arrays: list[np.ndarray]
    errors: list[tuple[int, str]]


def encode_batches(
    load: Callable[[int], Any],
    encode: Callable[[list[Any]], Encoded],
    names: Sequence[str],
    *,
    batch_size: int,
    dtype: np.dtype[Any],
) -> Iterator[Batch]:
    """Load and encode the items 0.. of a shard, one for each of `names`; an item that fails to load is left out."""
    for start in range(0, len(names), batch_size):
        positions = range(start, min(start + batch_size, len(names)))
        done: list[int] = []
        items: list[Any] = []
        errors: list[tuple[int, str]] = []
        for position in positions:
            try:
                items.append(load(position))
                done.append(position)
            except Exception as error:
                errors.append((position, f"{type(error).__name__}: {error}"))
        arrays: list[np.ndarray] = []
        if items:
            encoded = encode_halving(encode, items, batch_size=len(items), names=[names[p] for p in done])
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused by the store
                arrays = [np.asarray(vectors).astype(dtype) for vectors in encoded]
        yield Batch(len(positions), done, arrays, errors)


def encode_halving(
    encode: Callable[[list[T]], Encoded], items: list[T], *, batch_size: int, names: Sequence[str] | None = None
) -> Iterator[np.ndarray]:
    """Yield the encoding of each item; a batch that runs out of memory is halved, down to one item.

    Raises
    ------
    DataError
        One item alone does not fit, or the encoder returned another number of results than items.
    """
    start, size = 0, max(batch_size, 1)
    while start < len(items):
        batch = items[start : start + size]
        try:
            result = encode(batch)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise DataError(
                    "one item alone does not fit into memory",
                    where=names[start] if names else f"item {start}",
                    got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                    todo="use a smaller model, smaller images or fewer tokens, or a device with more memory",
                ) from error
            size = len(batch) // 2
            continue
        if len(result) != len(batch):
            raise DataError(f"the encoder returned {len(result)} results for {len(batch)} items")
        yield from result
        start += len(batch)


def _out_of_memory(error: Exception) -> bool:
    """Tell an allocation failure of numpy, torch or ONNX Runtime, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "failed to allocate memory" in text)
