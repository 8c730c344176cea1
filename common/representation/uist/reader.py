"""How UIST reads items: which modalities or words, scaled how, as sequences and as one vector each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.uist.config import UistConfig
from common.representation.uist.network import GroupShape
from common.representation.uist.sources import SPECIAL, Group, vectors_group, word_list, words_group

WORDS = "words"


def describe(items: Items, behaviour: Behaviour | None, config: UistConfig) -> dict[str, Any]:
    """Return what is read and how wide it is, as JSON values: what a saved method is built from.

    Raises
    ------
    DataError
        No histories for the users' tokenizer; no modality, or no text where words are read.
    ConfigError
        Users of items read as words, without the items' tokenizer.
    """
    if "users" in config.sides():
        if behaviour is None:
            raise DataError("users' codes need histories", where="uist", got="none", todo="give them; or parts: items")
        behaviour.check(len(items))
    words = config.source == "words" or (config.source == "auto" and not items.modalities)
    names = () if words else config.modalities or tuple(sorted(items.modalities))
    tokens = {name: items.modality(name, "uist") for name in names}
    if not words and not names:
        raise DataError("the items have no modality", where="uist, source: vectors", todo="encode them")
    if words and config.tokenizer == "rq_kmeans":
        todo = "encode the items, or set tokenizer: transformer"
        raise DataError("RQ-KMeans codes vectors, not words", where="uist, tokenizer: rq_kmeans", todo=todo)
    if words and config.parts == "users":
        raise ConfigError("histories of items read as words need the items' tokenizer", where="parts", expected="both")
    known = word_list(items.texts, config.max_words) if words else []
    if words and not known:
        raise DataError("the items have no text", where="uist, source: words", got=f"{len(items)} empty texts")
    longest = 1 if behaviour is None else int(behaviour.lengths.max(initial=1))
    return {
        "encoders": {name: one.encoder for name, one in tokens.items()},
        "modalities": list(names),
        "dims": [one.dim for one in tokens.values()],
        "lengths": [min(one.values.shape[1], config.max_tokens) for one in tokens.values()],
        "words": known,
        "max_words": config.max_tokens,
        "history": max(1, min(config.max_history, longest)),
    }


class Scale(nn.Module):
    """Mean [D] of vectors, and one number that they are divided by: their root mean square about it."""

    mean: Tensor
    size: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("size", torch.ones(1))

    def fit(self, x: np.ndarray, where: str) -> None:
        """Learn from float32 [n, D]; raise `DataError` where all rows are equal."""
        mean = x.mean(0, dtype=np.float64) if len(x) else np.zeros(x.shape[1])
        size = float(np.sqrt(np.square(x - mean).mean())) if len(x) else 0.0
        if not size > 1e-6 * float(np.abs(x).max(initial=0)):
            raise DataError("all vectors are the same: there is nothing to code", where=where, got=f"{len(x)} vectors")
        self.mean.copy_(torch.from_numpy(mean))
        self.size.fill_(size)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Return float32 [..., D], about 0 and of unit mean square."""
        return (x - self.mean.cpu().numpy()) / self.size.cpu().numpy()


class ItemReader(nn.Module):
    """Reads items as `describe` said; its scales are learnt from the items of the fit."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.names: list[str] = state["modalities"]
        self.dims: list[int] = state["dims"]
        self.lengths: list[int] = state["lengths"]
        self.words: list[str] = state["words"]
        self.max_words: int = state["max_words"]
        self.token_scales = nn.ModuleList(Scale(dim) for dim in self.dims)
        self.pooled_scales = nn.ModuleList(Scale(dim) for dim in self.dims)

    def fit(self, items: Items) -> None:
        """Learn the scales of tokens and of their means; raise `DataError` where they are all alike."""
        for name, token, pooled in zip(self.names, self._scales(False), self._scales(True), strict=True):
            tokens = items.modality(name, "uist")
            token.fit(tokens.values[tokens.mask], name)
            pooled.fit(tokens.mean()[tokens.present], name)

    def shapes(self) -> list[GroupShape]:
        """Return the shapes of the groups that `groups` gives."""
        if self.words:
            return [GroupShape(WORDS, self.max_words + 1, SPECIAL + len(self.words), words=True)]
        named = zip(self.names, self.lengths, self.dims, strict=True)
        return [GroupShape(name, length, dim) for name, length, dim in named]

    def groups(self, items: Items) -> tuple[dict[str, Group], np.ndarray]:
        """Return the items' tokens by group, and which items have any, bool [N].

        Raises
        ------
        DataError
            A modality is missing, or of another width.
        """
        if self.words:
            group = words_group(items.texts, self.words, self.max_words)
            return {WORDS: group}, group.present
        groups, present = {}, np.zeros(len(items), bool)
        for name, length, scale in zip(self.names, self.lengths, self._scales(False), strict=True):
            tokens = self._tokens(items, name, scale)
            groups[name] = vectors_group(tokens, scale.mean.cpu().numpy(), float(scale.size), length)
            present |= tokens.present
        return groups, present

    def vectors(self, items: Items) -> tuple[np.ndarray, np.ndarray]:
        """Return one vector an item, float32 [N, D], and which items have one, bool [N].

        The scaled means of all modalities side by side, each of the same weight; what an item lacks is at the
        catalogue's mean. Raises as `groups`.
        """
        parts, present = [], np.zeros(len(items), bool)
        even = sum(self.dims) / max(1, len(self.dims))
        for name, dim, scale in zip(self.names, self.dims, self._scales(True), strict=True):
            tokens = self._tokens(items, name, scale)
            part = scale.scaled(tokens.mean()) * np.float32((even / dim) ** 0.5)
            part[~tokens.present] = 0  # the mean; the method counts these items
            present |= tokens.present
            parts.append(part)
        return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32), present

    def partial(self, items: Items) -> dict[str, int]:
        """Return how many items lack a modality and have another one, by the one they lack."""
        if self.words:
            return {}
        have = {name: items.modality(name, "uist").present for name in self.names}
        some = np.any(list(have.values()), axis=0)
        return {name: int((some & ~own).sum()) for name, own in have.items() if (some & ~own).any()}

    def _tokens(self, items: Items, name: str, scale: Scale) -> Tokens:
        tokens, dim = items.modality(name, "uist"), len(scale.mean)
        if tokens.dim != dim:
            raise DataError("vectors of another width than at fit", where=name, expected=dim, got=tokens.dim)
        return tokens

    def _scales(self, pooled: bool) -> list[Scale]:
        return list(self.pooled_scales if pooled else self.token_scales)  # pyright: ignore[reportReturnType]
