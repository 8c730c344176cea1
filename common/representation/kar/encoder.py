"""Knowledge texts to vectors: a sentence encoder, long texts in pieces, kept in the embedding store.

KAR averages the token states of its encoder (BERT or ChatGLM in the authors' code); here the encoder is any
sentence-transformers model, by default one that pools by the mean. A text longer than the encoder reads is split into
pieces at words, and its vector is the mean of theirs, weighted by their tokens: nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from common.config import Config
from common.encoders.base import Backend, TextEncoder, text_key
from common.encoders.spread import Spread
from common.encoders.store import EmbeddingStore
from common.encoders.text import Precision, TorchTextEncoder, build_text_encoder, normalised
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.hashing import digest

Offsets = Callable[[str], list[tuple[int, int]]]
"""Returns (first, last + 1) of each token's characters in a text."""

_VERSION = 1  # of splitting and averaging: raise it when vectors change
_SPECIAL = 4  # tokens that a model adds to a text, with a margin


class EncoderConfig(Config):
    """Which encoder reads the knowledge."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    backend: Backend = "auto"
    prompt: str = Field(default="", description="put before each piece")
    max_tokens: int = Field(default=256, ge=16, description="of a piece; never more than the model reads")
    batch_size: int = Field(default=32, ge=1)
    device: str = "cpu"
    threads: int = Field(default=2, ge=1)
    precision: Precision = "float32"


class KnowledgeEncoder:
    """Vectors of knowledge texts, L2-normalised.

    Parameters
    ----------
    encoder
        Any text encoder.
    limit
        Tokens of a piece, the prompt and what the model adds included.
    offsets
        Of the encoder's own tokenizer.
    cache
        Folder of the embedding store; None keeps nothing.
    recipe
        Makes the same encoder in an engine's worker: a `functools.partial` of a module's function and plain values.
        None: this process encodes, whatever the engine.
    device
        Where the encoder runs.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        limit: int,
        offsets: Offsets,
        cache: Path | None = None,
        *,
        recipe: Callable[[], KnowledgeEncoder] | None = None,
        device: str = "cpu",
    ) -> None:
        self._encoder, self._offsets, self._cache = encoder, offsets, cache
        self._recipe, self._device = recipe, device
        self.room = limit - _SPECIAL
        if self.room < 1:
            raise ConfigError("the encoder's token limit leaves no room for text", where="max_tokens", got=limit)
        self.dim = encoder.dim
        self.identity = f"{encoder.name}@{encoder.revision}#{digest(encoder.preprocessing, self.room, _VERSION)[:16]}"

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,
        faults: FaultLog | None = None,
        name: Callable[[int], str] = str,
        engine: Engine = LOCAL,
    ) -> np.ndarray:
        """Return float32 [N, dim], in the order of the texts. A text's vector does not depend on the others.

        With a cache, the workers of `engine` encode where it has some; the vectors are the same.

        Raises
        ------
        DataError
            An empty text, or one that the encoder cannot read; `name` says whose it is.
        """
        for row, text in enumerate(texts):
            if not text.strip():
                raise DataError("an empty text has no vector", where=name(row))
        if self._cache is None:
            return self.encode_batch(list(texts), batch_size)
        preprocessing = f"{self._encoder.preprocessing} pieces {_VERSION} of {self.room}"
        store = EmbeddingStore(
            self._cache, self._encoder.name, self._encoder.revision, "passage", f"kar {preprocessing}"
        )
        found = store.encode_all(
            [text_key(text) for text in texts],
            lambda row: texts[row],
            lambda batch: self.encode_batch(batch, batch_size),
            batch_size=batch_size,
            faults=FaultLog() if faults is None else faults,
            what="knowledge",
            name=name,
            spread=self._spread(engine, texts, batch_size),
        )
        if not found.present.all():
            raise DataError("a text has no vector", where=name(int((~found.present).argmax())))
        return found.vectors

    def pieces(self, text: str) -> list[tuple[str, int]]:
        """Return the pieces of a text, each with its number of tokens; one that fits is one piece.

        A piece ends before a token that begins a word, so that it reads alone as it does in the text; a single word
        longer than a piece is cut inside.
        """
        spans = self._offsets(text)
        made, start = [], 0
        while len(spans) - start > self.room:
            end = start + self.room
            while end > start and not text[spans[end][0] - 1 : spans[end][0]].isspace():
                end -= 1
            end = end if end > start else start + self.room
            made.append((text[spans[start][0] : spans[end - 1][1]], end - start))
            start = end
        last = text[spans[start][0] :] if start else text
        return [*made, (last, max(1, len(spans) - start))]

    def _spread(self, engine: Engine, texts: Sequence[str], batch_size: int) -> Spread | None:
        if self._recipe is None or not engine.spreads:
            return None
        make = partial(KnowledgeCoder, self._recipe, batch_size)
        return Spread(engine, make, self.identity, lambda row: texts[row], device=self._device)

    def encode_batch(self, texts: list[str], batch_size: int) -> np.ndarray:
        """Return float32 [N, dim] of texts, none of them empty, past the cache."""
        split = [self.pieces(text) for text in texts]
        flat = [piece for pieces in split for piece, _ in pieces]
        vectors = self._encoder.encode(flat, role="passage", batch_size=batch_size)
        if not np.isfinite(vectors).all():
            raise DataError("the encoder gave values that are not finite", where=self._encoder.name)
        result, at = np.empty((len(texts), self.dim), np.float32), 0
        for row, pieces in enumerate(split):
            weight = np.array([count for _, count in pieces], np.float32)
            result[row] = weight @ vectors[at : at + len(pieces)] / weight.sum()
            at += len(pieces)
        return normalised(result)


class KnowledgeCoder:
    """A knowledge encoder in a worker; texts are sent as they are."""

    def __init__(self, recipe: Callable[[], KnowledgeEncoder], batch_size: int) -> None:
        self._encoder, self._batch_size = recipe(), batch_size
        self.identity = self._encoder.identity

    def load(self, sent: str) -> str:
        """Return the text."""
        return sent

    def encode(self, items: list[str]) -> np.ndarray:
        """Return the texts' vectors."""
        return self._encoder.encode_batch(items, self._batch_size)


def build_knowledge_encoder(config: EncoderConfig, cache: Path | None = None) -> KnowledgeEncoder:
    """Return the encoder of a configuration.

    Raises
    ------
    ConfigError
        The model is not to be had, or has no fast tokenizer.
    """
    encoder = build_text_encoder(
        config.model,
        cache=None if cache is None else cache / "exports",
        backend=config.backend,
        query_prompt=config.prompt,
        passage_prompt=config.prompt,
        max_tokens=config.max_tokens,
        device=config.device,
        threads=config.threads,
        precision=config.precision,
    )
    if isinstance(encoder, TorchTextEncoder):
        offsets, most, own = _torch_offsets(encoder), int(encoder.model.max_seq_length), _own_prompt(encoder)
    else:
        offsets, most, own = _file_offsets(config), config.max_tokens, ""
    limit = min(config.max_tokens, most) - len(offsets(config.prompt or own))
    # How many texts run at once changes no byte; a worker is one of many.
    recipe = partial(build_knowledge_encoder, config.model_copy(update={"threads": 1}), cache)
    vectors = None if cache is None else cache / "vectors"
    return KnowledgeEncoder(encoder, limit, offsets, vectors, recipe=recipe, device=config.device)


def _own_prompt(encoder: TorchTextEncoder) -> str:
    """Return the longest of the prompts that a model has itself: it may be put before a piece."""
    from common.encoders.onnx_export import own_prompts

    return max(own_prompts(encoder.model).values(), key=len, default="")


def _torch_offsets(encoder: TorchTextEncoder) -> Offsets:
    tokenizer: Any = encoder.model.tokenizer
    if not tokenizer.is_fast:
        raise ConfigError("the encoder's tokenizer does not say where its tokens are", where=encoder.name)

    def offsets(text: str) -> list[tuple[int, int]]:
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
        return [(int(first), int(last)) for first, last in made["offset_mapping"]]

    return offsets


def _file_offsets(config: EncoderConfig) -> Offsets:
    from tokenizers import Tokenizer

    from common.encoders.packaged import resolve

    folder = resolve(config.model).folder
    path = None if folder is None else folder / "tokenizer.json"
    if path is None or not path.is_file():
        raise ConfigError(
            "no tokenizer.json beside the encoder, to split long texts with",
            where=f"model {config.model}",
            todo="set backend: torch, or give a folder that holds tokenizer.json",
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).offsets
