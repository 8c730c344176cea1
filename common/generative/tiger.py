"""TIGER: an encoder-decoder that reads the semantic IDs of a history and generates that of the next item.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, section 3.2; relative position biases
as in T5 (Raffel et al. 2020, section 2.1), counted in items.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.errors import DataError
from common.generative.base import GenerativeRetriever
from common.generative.beam import Rows, StepFn
from common.generative.distances import bucket, buckets, distance_bias
from common.generative.layers import Decoder, Encoder, TransformerConfig
from common.generative.tiger_batches import Mode, TigerBatch, TigerBatches
from common.generative.trie_tensors import TensorTrie
from common.tokenizers.semantic_ids import SemanticIdMap

__all__ = ["Tiger", "TigerBatch", "TigerBatches", "TigerConfig"]


class TigerConfig(TransformerConfig):
    """Size and variant of TIGER."""

    decoder_layers: int = Field(default=2, ge=1)
    attention: Mode = Field(
        default="causal",
        description="bidirectional: the paper's, one example a row. causal: the encoder is causal over items, so that "
        "one pass over a user teaches every position (our own choice, several times cheaper on a CPU)",
    )
    history: Literal["codes", "items"] = Field(
        default="codes",
        description="codes: a token for each code of each item (the paper). items: one token an item, the sum of its "
        "codes' embeddings (our own choice: a quarter of the encoder's work at four levels)",
    )
    max_items: int = Field(default=20, ge=1, description="items of a history, the most recent ones")
    user_tokens: int = Field(default=0, ge=0, description="buckets that users are hashed to (paper: 2,000); 0 = none")
    separator: bool = Field(default=False, description="a separator token after each item of a history of codes")
    learn_first: bool = Field(default=False, description="learn each user's first item too, from an empty history")
    loss: Literal["level", "trie"] = Field(
        default="level",
        description="softmax over all codes of a level, or over those that continue a known ID, as in decoding",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    tied: bool = Field(default=True, description="output weights are the codes' embeddings")
    bf16: bool = Field(default=False, description="bfloat16 autocast in training")


class Tiger(GenerativeRetriever):
    """TIGER over the IDs of `id_map`.

    The memory that the decoder attends to begins with one token of its own (the user's, where known), so that an
    empty history has a memory: what comes out then is what `learn_first` taught, or an untrained guess without it.

    Parameters
    ----------
    config
        Size and variant.
    id_map
        The IDs of the catalogue.
    """

    kind = "tiger"

    def __init__(self, config: TigerConfig, id_map: SemanticIdMap) -> None:
        super().__init__(id_map)
        self.config = config
        heads, most = config.heads, config.max_items
        self.embedding = nn.Embedding(self.vocabulary.size, config.dim)
        self.users = nn.Embedding(config.user_tokens, config.dim) if config.user_tokens else None
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_bias = nn.Embedding(buckets(most), heads)
        self.cross_bias = nn.Embedding(buckets(most), heads)
        sizes = self.vocabulary.sizes
        self.heads = None if config.tied else nn.ModuleList(nn.Linear(config.dim, n, bias=False) for n in sizes)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 if "embedding" in name or "users" in name else weight.shape[1] ** -0.5)
            if "bias" in name:
                nn.init.zeros_(weight)

    def settings(self) -> dict[str, Any]:
        """Return the configuration."""
        return {"config": self.config.model_dump(mode="json")}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        return cls(TigerConfig.model_validate(settings["config"]), id_map)

    def batches(self, items: np.ndarray, offsets: np.ndarray, *, seed: int, batch_size: int = 256) -> TigerBatches:
        """Return the training batches of users' sequences; see `TigerBatches`."""
        config = self.config
        check_items(torch.from_numpy(np.asarray(items)), len(self.id_map))
        return TigerBatches(
            items,
            offsets,
            mode=config.attention,
            most=config.max_items,
            seed=seed,
            batch_size=batch_size,
            learn_first=config.learn_first,
        )

    def loss(self, batch: TigerBatch) -> dict[str, Tensor]:
        """Return "loss", the mean cross-entropy of a code, and "level_0", ... each level's own."""
        with self._precision():
            if batch.learn is not None:
                states, targets = self._every_position(batch, batch.learn)
            else:
                assert batch.target is not None  # noqa: S101 - a training batch
                memory, mask, bias = self.encode(batch)
                states = self.decode(batch.target[:, None], memory, mask, bias)[:, 0]
                targets = batch.target
            losses = {f"level_{at}": self._level_loss(states[:, at], targets, at) for at in range(self.levels)}
        return {"loss": torch.stack(list(losses.values())).mean(), **losses}

    @property
    def levels(self) -> int:
        """Codes of an item."""
        return self.vocabulary.levels

    def _every_position(self, batch: TigerBatch, learn: Tensor) -> tuple[Tensor, Tensor]:
        """Causal training: states [n, L, D] of the n items to learn, and their rows."""
        if self.config.attention != "causal":
            raise DataError("a batch for a causal encoder", where="attention", expected="causal", got="bidirectional")
        skip = 0 if self.config.learn_first else 1
        history = TigerBatch(batch.items[:, :-1], batch.mask[:, :-1], batch.users)
        memory, _, _ = self.encode(history, every=True)
        wanted, learn = batch.items[:, skip:], learn[:, skip:]
        at = torch.arange(skip, batch.items.shape[1], device=memory.device)
        of = self._places(history.items.shape[1], memory.device)
        seen = (of[None, :] < at[:, None]).repeat_interleave(self.levels, 0)
        bias = distance_bias(self.cross_bias, at, of, self.config.max_items).repeat_interleave(self.levels, 1)
        states = self.decode(wanted, memory, None, bias.masked_fill(~seen, float("-inf")))
        return states[learn], wanted[learn]

    def decode(self, targets: Tensor, memory: Tensor, mask: Tensor | None, bias: Tensor) -> Tensor:
        """Teacher-forced states [B, N, L, D] of targets int64 [B, N]."""
        tokens = self.item_tokens[targets]
        bos = torch.full_like(tokens[..., :1], self.vocabulary.bos)
        x = self.dropout(self.embedding(torch.cat([bos, tokens[..., :-1]], dim=-1)))
        return self.decoder(x, memory, mask, bias)

    def encode(self, batch: TigerBatch, *, every: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return memory [B, S, D], which of it is real [B, 1, 1, S], the cross-attention's bias.

        `every`: the biases and the mask are not needed, since each position has its own.
        """
        x, width = self._history(batch), batch.items.shape[1]
        of = self._places(width, x.device)
        real = torch.cat([batch.mask.new_ones(len(batch), 1), batch.mask], dim=1)[:, of + 1]
        mask = real[:, None, None, :]
        bias = distance_bias(self.encoder_bias, of, of, self.config.max_items)
        if self.config.attention == "causal":  # padding is at the end: nothing real sees it
            bias = bias.masked_fill(of[None, :] > of[:, None], float("-inf"))
            memory = self.encoder(x, None, bias)
        else:
            memory = self.encoder(x, mask, bias)
        if every:
            return memory, mask, bias
        ahead = batch.mask.sum(1)[:, None] - of[None, :]
        cross = self.cross_bias(bucket(ahead, of[None, :], self.config.max_items)).permute(0, 2, 1)[:, :, None]
        return memory, mask, cross

    def _history(self, batch: TigerBatch) -> Tensor:
        """Return the encoder's input [B, S, D]."""
        tokens = self.item_tokens[batch.items]
        if self.config.history == "items":
            body = self.embedding(tokens).sum(2)
        else:
            if self.config.separator:
                ends = torch.full_like(tokens[..., :1], self.vocabulary.separator)
                tokens = torch.cat([tokens, ends], dim=-1)
            body = self.embedding(tokens.flatten(1))
        first = self.embedding.weight[self.vocabulary.bos].expand(len(tokens), 1, -1)
        if self.users is not None and batch.users is not None:
            first = first + self.users(hash_users(batch.users, self.config.user_tokens))[:, None]
        return self.dropout(torch.cat([first, body], dim=1))

    def _places(self, width: int, device: torch.device) -> Tensor:
        """Return int64 [S], the item of each memory token (0..width - 1); -1 for the first token, of no item."""
        each = 1 if self.config.history == "items" else self.levels + self.config.separator
        return torch.arange(-each, width * each, device=device)[each - 1 :].div(each, rounding_mode="floor")

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Logits [n, sizes[level]] of states [n, D]."""
        if self.heads is not None:
            return self.heads[level](states)
        start = self.vocabulary.offset(level)
        return functional.linear(states, self.embedding.weight[start : start + self.vocabulary.sizes[level]])

    def _level_loss(self, states: Tensor, targets: Tensor, level: int) -> Tensor:
        """Mean cross-entropy of one level's codes of target rows [n]."""
        logits = self.logits(states, level).float()
        codes = self.item_tokens[targets, level] - self.vocabulary.offset(level)
        if self.config.loss == "trie":
            logits = logits.masked_fill(~sibling_codes(self.trie().to(self.device), targets, level), float("-inf"))
        return functional.cross_entropy(logits, codes, label_smoothing=self.config.label_smoothing)

    def begin(self, batch: TigerBatch) -> tuple[StepFn, int]:
        """Encode the histories; return the step function of the beam search and their number."""
        check_items(batch.items[batch.mask], len(self.id_map))
        batch = recent(batch, self.config.max_items).to(self.device)
        memory, mask, bias = self.encode(batch)
        cache = self.decoder.start(memory, mask, bias)

        def step(rows: Rows) -> Tensor:
            if rows.level:
                cache.reorder(rows.parent)
                tokens = rows.token + self.vocabulary.offset(rows.level - 1)
            else:
                tokens = torch.full_like(rows.query, self.vocabulary.bos)
            cache.place(rows.query)
            return self.logits(self.decoder.step(self.embedding(tokens), cache), rows.level)

        return step, len(batch)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bf16)


def check_items(items: Tensor, count: int) -> None:
    """Raise `DataError` on an item row that has no semantic ID."""
    bad = torch.nonzero((items < 0) | (items >= count))
    if len(bad):
        raise DataError(
            "no such item: it has no semantic ID",
            expected=f"item rows 0..{count - 1}",
            got=f"{int(items[bad[0, 0]])}; {len(bad)} such items",
            todo="extend the semantic IDs by these items, or leave them out",
        )


def recent(batch: TigerBatch, most: int) -> TigerBatch:
    """Return the batch with the `most` most recent items of each history, without columns that are padding only."""
    lengths = batch.mask.sum(1)
    width = min(most, int(lengths.max())) if len(batch) else 0
    if batch.items.shape[1] == width:
        return batch
    kept = lengths.clamp(max=width)
    columns = torch.arange(width, device=lengths.device)
    mask = columns[None, :] < kept[:, None]
    places = torch.where(mask, (lengths - kept)[:, None] + columns[None, :], 0)
    return TigerBatch(batch.items.gather(1, places), mask, batch.users)


def sibling_codes(trie: TensorTrie, items: Tensor, level: int) -> Tensor:
    """Return bool [n, sizes[level]]: the codes that continue the first `level` codes of item rows [n] to a known ID."""
    nodes = trie.leaves(items)
    for above in reversed(range(level, trie.depth)):
        nodes = trie.parents(above, nodes)
    children = trie.children(nodes, level)
    allowed = torch.zeros(len(items), trie.sizes[level] + 1, dtype=torch.bool, device=items.device)
    tokens = children.tokens.masked_fill(~children.mask, trie.sizes[level])  # padding goes to a column of its own
    return allowed.scatter_(1, tokens, True)[:, :-1]


def hash_users(users: Tensor, buckets: int) -> Tensor:
    """Return the bucket int64 [B] of user rows (Knuth's multiplicative hash)."""
    return (users * 2654435761 % (1 << 32)) * buckets // (1 << 32)
