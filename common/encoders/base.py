"""The Encoder contracts: what turns texts into vectors, whatever library runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from common.hashing import digest

Role = Literal["query", "passage"]
Backend = Literal["auto", "torch", "onnx"]


class TextEncoder(Protocol):
    """One vector a text.

    `name`, `revision` and `preprocessing` (everything besides the weights that changes a vector: prompts,
    token limit, pooling, number type) go into the embedding store's keys.
    """

    name: str
    revision: str
    preprocessing: str
    dim: int
    modality: Literal["text"]

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> np.ndarray:
        """Return float32 [N, D], L2-normalised; the vector of a text does not depend on the other texts."""
        ...


class TokenEncoder(Protocol):
    """One vector a token (late interaction)."""

    name: str
    revision: str
    preprocessing: str
    dim: int
    modality: Literal["text"]

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> list[np.ndarray]:
        """Return one float32 [T_i, D] a text, rows L2-normalised; T_i may be 0."""
        ...

    def token_texts(self, text: str) -> list[str]:
        """Return the tokens of a query, one for each vector of role "query"; "" for those that are no words."""
        ...

    def vocabulary_of(self, text: str) -> set[str]:
        """Return the tokens that a passage's text holds."""
        ...


class PairScorer(Protocol):
    """A cross-encoder: reads a query and a passage together."""

    name: str
    revision: str
    preprocessing: str

    def score(self, pairs: Sequence[tuple[str, str]], *, batch_size: int) -> np.ndarray:
        """Return one logit a pair, float32 [N]; higher is more relevant."""
        ...


def text_key(text: str) -> str:
    """Return the content key of a text."""
    return digest("text", text)


def pair_key(query: str, passage: str) -> str:
    """Return the content key of a (query, passage) pair."""
    return digest("pair", query, passage)
