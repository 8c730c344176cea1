"""Query encoders of CART: tokens of texts, and the hidden states of every layer of an encoder, E_1 to E_S."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Config
from common.errors import DataError
from common.generative.layers import EncoderLayer, TransformerConfig

WORDS = "words"
_WORD = re.compile(r"\w+|[^\w\s]")
_PADDING, _BEGIN, _FIRST = 0, 1, 2


class QueryEncoderConfig(Config):
    """What reads the queries."""

    model: str = Field(
        default=WORDS,
        description="words: a transformer of our own over the words of the training queries, trained from scratch; "
        "else the hub name or the folder of any encoder that transformers' AutoModel loads",
    )
    trainable: bool = Field(default=False, description="train a loaded encoder too; `words` always is")
    layers: int = Field(
        default=0, ge=0, description="layers of a loaded encoder that the decoder sees, spread evenly; 0 = all"
    )
    max_tokens: int = Field(default=32, ge=2, description="tokens read of a query, special ones included")
    min_count: int = Field(default=1, ge=1, description="words: rarer ones are hashed")
    max_words: int = Field(default=50_000, ge=1, description="words: at most, the most frequent ones")
    buckets: int = Field(default=64, ge=1, description="words: unknown ones share this many embeddings by hash")
    cache_mb: int = Field(
        default=2048,
        ge=0,
        description="a frozen encoder reads the training queries once where its states (float16) fit in this",
    )


@dataclass(frozen=True)
class QueryTokens:
    """Tokens of B queries: ids int64 [B, T], mask bool [B, T] (True = real)."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> QueryTokens:
        """Return the tokens on a device."""
        return QueryTokens(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FlatTokens:
    """Tokens of many queries without padding: query i is ids[offsets[i]:offsets[i + 1]], int32."""

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> FlatTokens:
        """Join lists of tokens."""
        lengths = np.array([len(one) for one in lists], dtype=np.int64)
        ids = np.fromiter((token for one in lists for token in one), dtype=np.int32, count=int(lengths.sum()))
        return cls(ids, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each query, int64 [M]."""
        return np.diff(self.offsets)

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the tokens of some queries are in `ids`, int64 [B, T], and which of these are real."""
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max(initial=0))
        mask = columns[None, :] < lengths[:, None]
        return np.where(mask, self.offsets[rows][:, None] + columns[None, :], 0), mask

    def pad(self, rows: np.ndarray) -> QueryTokens:
        """Return the tokens of some queries as a rectangle."""
        places, mask = self.places(rows)
        ids = np.where(mask, self.ids[places], 0).astype(np.int64)
        return QueryTokens(torch.from_numpy(ids), torch.from_numpy(mask))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def check_texts(texts: Sequence[str], what: str = "queries") -> list[str]:
    """Return the texts as a list; raise `DataError` on none and on a blank one."""
    if isinstance(texts, str) or not len(texts):
        got = "one text" if isinstance(texts, str) else 0
        raise DataError(f"no {what}", expected="a list of at least one text", got=got)
    for row, text in enumerate(texts):
        if not text.strip():
            raise DataError(
                f"{what} must have text: one is blank",
                where=f"row {row}",
                expected="a text with at least one character that is not a space",
                got=repr(text),
                todo="leave it out: nothing can be found by it",
            )
    return list(texts)


def split_words(text: str) -> list[str]:
    """Return lower-cased words and punctuation marks.

    >>> split_words("Is it Red?")
    ['is', 'it', 'red', '?']
    """
    return _WORD.findall(text.lower())


def build_words(texts: Sequence[str], config: QueryEncoderConfig) -> list[str]:
    """Return the words of the training queries, the most frequent first, ties by the alphabet."""
    counts = Counter(word for text in texts for word in split_words(text))
    known = sorted((word for word, n in counts.items() if n >= config.min_count), key=lambda w: (-counts[w], w))
    return known[: config.max_words]


class WordEncoder(nn.Module):
    """A transformer over a vocabulary of words, with learnt positions; an unknown word has its hash's embedding.

    Parameters
    ----------
    words
        The vocabulary, in its order.
    layers
        Number of layers; 0 exposes the embeddings alone (the decoder-only arm).
    """

    frozen = False

    def __init__(self, config: QueryEncoderConfig, size: TransformerConfig, words: Sequence[str], layers: int) -> None:
        super().__init__()
        self.config, self.words = config, list(words)
        first = _FIRST + config.buckets
        self._numbers = {word: first + place for place, word in enumerate(self.words)}
        self.embedding = nn.Embedding(first + len(self.words), size.dim)
        self.positions = nn.Embedding(config.max_tokens, size.dim)
        self.dropout = nn.Dropout(size.dropout)
        self.body = nn.ModuleList(EncoderLayer(size) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size.dim) for _ in range(layers))
        self.layers = max(1, layers)
        nn.init.normal_(self.embedding.weight, std=size.dim**-0.5)
        nn.init.normal_(self.positions.weight, std=0.02)

    def tokenize(self, texts: Sequence[str]) -> FlatTokens:
        """Return a first token and the tokens of each text."""
        return FlatTokens.of(
            [[_BEGIN, *map(self._number, split_words(t)[: self.config.max_tokens - 1])] for t in texts]
        )

    def hidden(self, tokens: QueryTokens) -> list[Tensor]:
        """Return the layers' outputs, each [B, T, D]."""
        x = self.embedding(tokens.ids) + self.positions.weight[: tokens.ids.shape[1]]
        outputs = [self.dropout(x)]
        for layer in self.body:
            outputs.append(layer(outputs[-1], tokens.mask[:, None, None]))
        return outputs[1:] or outputs

    def expose(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """Return E_1, ..., E_S, each [B, T, D]."""
        if not len(self.norms):
            return list(hidden)
        return [norm(one) for norm, one in zip(self.norms, hidden, strict=True)]

    def settings(self) -> dict[str, Any]:
        """Return what `build_encoder` needs to know to build this again."""
        return {"words": self.words}

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        return _FIRST + zlib.crc32(word.encode()) % self.config.buckets if number is None else number


class LoadedEncoder(nn.Module):
    """An encoder that transformers' AutoModel loads; each exposed layer is normed and mapped to the decoder's width.

    A frozen one is no part of the module: neither its gradients nor its weights are kept, and a saved model names it
    by its revision. A trainable one starts from its weights and is saved with the rest.

    Parameters
    ----------
    revision
        What the model must be; "" takes what is there.

    Raises
    ------
    ConfigError
        The model cannot be had.
    DataError
        It has another revision.
    """

    def __init__(self, config: QueryEncoderConfig, size: TransformerConfig, revision: str = "") -> None:
        from common.generative.cart_loading import load_body, load_tokenizer, resolve_model

        super().__init__()
        source = resolve_model(config.model)
        self.config, self.revision = config, source.revision()
        if revision and revision != self.revision:
            raise DataError(
                "the query encoder is not the one that the model was trained with",
                where=config.model,
                expected=f"revision {revision}",
                got=self.revision,
                todo="restore these weights, or train the model again",
            )
        self._tokenizer = load_tokenizer(source)
        body, width, depth = load_body(source)
        self.frozen = not config.trainable
        self._held: list[nn.Module] = []  # a list hides a frozen encoder from state_dict and parameters
        if self.frozen:
            self._held.append(body.requires_grad_(False).eval())
        else:
            self.body = body.train()
        count = min(config.layers or depth, depth)
        self.chosen = [round(depth * (place + 1) / count) for place in range(count)]
        self.layers, self.width = count, width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(count))
        self.maps = nn.ModuleList(nn.Linear(width, size.dim) for _ in range(count))
        self.dropout = nn.Dropout(size.dropout)

    def tokenize(self, texts: Sequence[str]) -> FlatTokens:
        """Return the tokens of each text, special ones included."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)["input_ids"]
        for row, one in enumerate(encoded):
            if not one:
                raise DataError("the tokenizer makes no token of a query", where=f"row {row}", got=repr(texts[row]))
        return FlatTokens.of(encoded)

    def hidden(self, tokens: QueryTokens) -> list[Tensor]:
        """Return the outputs of the exposed layers, each [B, T, width]; without gradient where frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            body = self._held[0].to(tokens.ids.device) if self.frozen else self.body
            found = body(input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True)
        return [found.hidden_states[layer] for layer in self.chosen]

    def expose(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """Return E_1, ..., E_S, each [B, T, D]."""
        parts = zip(self.maps, self.norms, hidden, strict=True)
        return [self.dropout(one(norm(state))) for one, norm, state in parts]

    def settings(self) -> dict[str, Any]:
        """Return what `build_encoder` needs to know to build this again."""
        return {"revision": self.revision}


QueryEncoder = WordEncoder | LoadedEncoder


def build_encoder(
    config: QueryEncoderConfig, size: TransformerConfig, known: dict[str, Any], layers: int
) -> QueryEncoder:
    """Return the untrained encoder of a configuration.

    Parameters
    ----------
    known
        Its `settings()`: the words of the vocabulary, or the revision of the model that is loaded.
    layers
        Of an encoder of our own.
    """
    if config.model == WORDS:
        return WordEncoder(config, size, cast("list[str]", known["words"]), layers)
    return LoadedEncoder(config, size, str(known.get("revision", "")))
