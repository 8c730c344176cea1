"""Encoding by an engine's workers: each makes the encoder for itself, is sent a shard's items, and returns vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from common.encoders.base import PairScorer, Role, TextEncoder, TokenEncoder
from common.encoders.batches import Batch, Encoded, encode_batches
from common.engine.base import Engine, Failed, Item
from common.engine.threads import torch_threads, use_torch_threads
from common.errors import DataError


class Coder(Protocol):
    """What a worker encodes with.

    `identity` says which model, weights and preprocessing it is: workers must have those of this process.
    """

    identity: str

    def load(self, sent: Any) -> Any:
        """Return the item that was sent for a row; an exception is a fault of that item."""
        ...

    def encode(self, items: list[Any]) -> Encoded:
        """Return the items' vectors; pure per item."""
        ...


@dataclass(frozen=True)
class Spread:
    """How the items of an embedding store are encoded elsewhere than in this process.

    Attributes
    ----------
    engine
        Has the workers.
    make
        Makes the coder in a worker: a `functools.partial` of a module's function and of plain values.
    identity
        The coder's, as this process has it.
    send
        Returns what is sent for a row: a text, or how to read an image where the worker is.
    threads
        Of torch in each worker. The last bits of its sums depend on their number: None = as in this process.
    device
        With "cuda" each worker takes one GPU.
    """

    engine: Engine
    make: Callable[[], Coder]
    identity: str
    send: Callable[[int], Any]
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Shard:
    """A shard's items as a worker is sent them."""

    sent: list[Any]
    names: list[str]
    batch_size: int
    dtype: str


def encode_elsewhere(spread: Spread, shards: Iterator[Shard]) -> Iterator[tuple[int, list[Batch]]]:
    """Yield (shard, its batches) in the order in which workers finish them.

    Raises
    ------
    DataError
        A worker has another model or cannot make it; the encoder failed; a shard cost several workers their lives
        (told after the others are done).
    """
    threads = spread.threads or torch_threads()
    gpus = 1.0 if spread.device.startswith("cuda") else 0.0
    found: dict[int, list[Batch]] = {}
    lost: list[str] = []
    setup = partial(_start, spread.make, spread.identity, threads)
    with spread.engine.pool(_encode_shard, setup, timeout=None, threads=threads, gpus=gpus) as pool:
        for event in pool.run(shards):
            if isinstance(event, Item):
                found.setdefault(event.task, []).append(event.value)
            elif not isinstance(event, Failed):
                yield event.task, found.pop(event.task)
            elif event.lost:
                found.pop(event.task, None)
                lost.append(f"shard {event.task}: {event.reason}")
            else:
                raise DataError(event.reason)
    if lost:
        raise DataError(
            "workers died while they encoded",
            got="\n            ".join(lost[:5]),
            todo="use smaller batches or fewer workers on a machine; what is finished is kept",
        )


def _start(make: Callable[[], Coder], identity: str, threads: int) -> tuple[Coder, int]:
    coder = make()
    if coder.identity != identity:
        raise DataError(
            "a worker has another model than this process",
            expected=identity,
            got=coder.identity,
            todo="give every node the same weights and the same versions of the packages",
        )
    return coder, threads


def _encode_shard(state: tuple[Coder, int], shard: Shard) -> Iterator[Batch]:
    coder, threads = state
    use_torch_threads(threads)
    yield from encode_batches(
        lambda position: coder.load(shard.sent[position]),
        coder.encode,
        shard.names,
        batch_size=shard.batch_size,
        dtype=np.dtype(shard.dtype),
    )


def identity_of(encoder: Any) -> str:
    """Return an encoder's identity."""
    return f"{encoder.name} {encoder.revision} {encoder.preprocessing}"


class TextCoder:
    """A text encoder in one role; texts are sent as they are."""

    def __init__(self, encoder: TextEncoder | TokenEncoder, role: Role, batch_size: int) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.role: Role = role
        self.identity = identity_of(encoder)

    def load(self, sent: str) -> str:
        """Return the text."""
        return sent

    def encode(self, items: list[str]) -> Encoded:
        """Return the texts' vectors."""
        return self.encoder.encode(items, role=self.role, batch_size=self.batch_size)


class PairCoder:
    """A cross-encoder; (query, passage) is sent as it is."""

    def __init__(self, scorer: PairScorer, batch_size: int) -> None:
        self.scorer, self.batch_size = scorer, batch_size
        self.identity = identity_of(scorer)

    def load(self, sent: tuple[str, str]) -> tuple[str, str]:
        """Return the pair."""
        return sent

    def encode(self, items: list[tuple[str, str]]) -> np.ndarray:
        """Return the pairs' logits, float32 [N, 1]."""
        return self.scorer.score(items, batch_size=self.batch_size)[:, None]


def spread_texts(
    engine: Engine,
    recipe: Callable[..., TextEncoder | TokenEncoder],
    coder: TextCoder,
    texts: Sequence[str],
    *,
    device: str = "cpu",
) -> Spread | None:
    """Return how texts are encoded by an engine's workers; None where the engine leaves that to this process.

    `recipe(threads=1)` makes the encoder in a worker: a `functools.partial` of what made it here. `threads` is how
    many texts run at once, which changes no byte; a worker is one of many.
    """
    if not engine.spreads:
        return None
    make = partial(_text_coder, recipe, coder.role, coder.batch_size)
    return Spread(engine, make, coder.identity, lambda row: texts[row], device=device)


def spread_pairs(
    engine: Engine, recipe: Callable[..., PairScorer], coder: PairCoder, send: Callable[[int], Any], *, device: str
) -> Spread | None:
    """Return the same for (query, passage) pairs; `send` returns a row's."""
    if not engine.spreads:
        return None
    make = partial(_pair_coder, recipe, coder.batch_size)
    return Spread(engine, make, coder.identity, send, device=device)


def _text_coder(recipe: Callable[..., TextEncoder | TokenEncoder], role: Role, batch_size: int) -> TextCoder:
    return TextCoder(recipe(threads=1), role, batch_size)


def _pair_coder(recipe: Callable[..., PairScorer], batch_size: int) -> PairCoder:
    return PairCoder(recipe(threads=1), batch_size)
