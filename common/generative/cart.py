"""CART: a query is translated into the semantic ID of the item that answers it.

Li et al., "CART: A Generative Cross-Modal Retrieval Framework With Coarse-To-Fine Semantic Modeling", ACL 2025
(first posted as ACE, arXiv 2406.17507): IDs of a coarse, several fine and a unique token (`cart_ids`), a decoder that
sees all layers of the query encoder (`cart_fusion`), query-augmented training, and a consistency loss between two
dropout passes (R-Drop, Liang et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.generative.base import GenerativeRetriever
from common.generative.beam import BeamResult, Rows, StepFn
from common.generative.cart_batches import CartBatch, CartBatches, check_targets
from common.generative.cart_fusion import Fusion, FusionDecoder
from common.generative.cart_lm import PrefixDecoder
from common.generative.cart_queries import (
    WORDS,
    LoadedEncoder,
    QueryEncoderConfig,
    build_encoder,
    build_words,
    check_texts,
)
from common.generative.layers import TransformerConfig
from common.generative.training import Evaluate, FitConfig, fit_generator
from common.generative.trie import PrefixTrie
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import World
from common.training.schedule import ScheduleConfig

__all__ = ["Cart", "CartBatch", "CartBatches", "CartConfig", "train_cart"]

_QUERIES = 256
"""Queries decoded at once by `rank`."""


class CartConfig(TransformerConfig):
    """Size, variant and training of CART; `encoder_layers` are those of an encoder of our own."""

    decoder_layers: int = Field(default=2, ge=1)
    encoder: QueryEncoderConfig = QueryEncoderConfig()
    architecture: Literal["encoder_decoder", "decoder_only"] = Field(
        default="encoder_decoder",
        description="decoder_only: the query's tokens are the prefix of the codes in one causal sequence; "
        "encoder_layers + decoder_layers deep, and `fusion` says nothing there",
    )
    fusion: Fusion = Field(
        default="both", description="which fusions of the encoder's layers the decoder sees; none = the last layer only"
    )
    omega: float = Field(
        default=1.0, ge=0, description="weight of the symmetric KL between two dropout passes; 0 = one pass"
    )
    augment: bool = Field(default=True, description="train on the items' own captions too")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(default=64, ge=1)
    fit: FitConfig = FitConfig(schedule=ScheduleConfig(type="cosine", warmup_steps=50))

    @model_validator(mode="after")
    def _layers(self) -> CartConfig:
        if self.encoder.model == WORDS and self.architecture == "encoder_decoder" and not self.encoder_layers:
            raise ValueError("an encoder of our own needs encoder_layers of at least 1")
        return self


class Cart(GenerativeRetriever):
    """Generates the ID of the item that answers a query.

    Parameters
    ----------
    config
        Size and variant.
    id_map
        The IDs of the catalogue.
    known
        What the query encoder knows: {"words": [...]} of `build_words`, or {"revision": ...}; {} takes a loaded
        encoder as it is.
    """

    kind = "cart"

    def __init__(self, config: CartConfig, id_map: SemanticIdMap, known: dict[str, Any] | None = None) -> None:
        super().__init__(id_map)
        self.config = config
        alone = config.architecture == "decoder_only"
        self.encoder = build_encoder(
            config.encoder, config, known or {"words": []}, 0 if alone else config.encoder_layers
        )
        self.embedding = nn.Embedding(self.vocabulary.size, config.dim)
        self.decoder: FusionDecoder | PrefixDecoder
        if alone:
            self.decoder = PrefixDecoder(config, config.encoder_layers + config.decoder_layers)
        else:
            self.decoder = FusionDecoder(config, config.fusion, self.encoder.layers)
        self.heads = nn.ModuleList(nn.Linear(config.dim, size) for size in self.vocabulary.sizes)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)

    def settings(self) -> dict[str, Any]:
        """Return the configuration, less that of the training, and what the encoder knows."""
        return {"config": self.config.model_dump(mode="json", exclude={"fit"}), "known": self.encoder.settings()}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        return cls(CartConfig.model_validate(settings["config"]), id_map, settings["known"])

    def batch(self, texts: Sequence[str]) -> CartBatch:
        """Return the batch of some queries; raise `DataError` on none or on a blank one."""
        tokens = self.encoder.tokenize(check_texts(texts))
        return CartBatch(tokens.pad(np.arange(len(tokens))))

    def loss(self, batch: CartBatch) -> dict[str, Tensor]:
        """Return "loss" = "id" + omega * "kl".

        id: mean cross-entropy of a code, over both passes. kl: (KL(p || q) + KL(q || p)) / 2 of a code's
        distributions in two passes that differ by dropout alone (R-Drop, eq. 3).
        """
        assert batch.target is not None  # noqa: S101 - a training batch
        twice = self.config.omega > 0
        target = batch.target.repeat(2) if twice else batch.target
        states, mask = self._encode(batch, passes=2 if twice else 1)
        tokens = self.item_tokens[target]
        first = torch.full_like(tokens[:, :1], self.vocabulary.bos)
        x = self.dropout(self.embedding(torch.cat([first, tokens[:, :-1]], dim=1)))
        decoded = self.decoder(x, states, mask)
        entropy, divergence = [], []
        for level in range(self.vocabulary.levels):
            logits = self.heads[level](decoded[:, level]).float()
            codes = tokens[:, level] - self.vocabulary.offset(level)
            entropy.append(functional.cross_entropy(logits, codes, label_smoothing=self.config.label_smoothing))
            if twice:
                divergence.append(symmetric_kl(*logits.chunk(2)))
        losses = {"id": torch.stack(entropy).mean()}
        losses["kl"] = torch.stack(divergence).mean() if twice else torch.zeros_like(losses["id"])
        return {"loss": losses["id"] + self.config.omega * losses["kl"], **losses}

    def begin(self, batch: CartBatch) -> tuple[StepFn, int]:
        """Encode the queries; return the step function of the beam search and their number."""
        states, mask = self._encode(batch.to(self.device))
        cache = self.decoder.start(states, mask)

        def step(rows: Rows) -> Tensor:
            if rows.level:
                cache.reorder(rows.parent)
                tokens = rows.token + self.vocabulary.offset(rows.level - 1)
            else:
                tokens = torch.full_like(rows.query, self.vocabulary.bos)
            cache.place(rows.query)
            return self.heads[rows.level](self.decoder.step(self.embedding(tokens), cache))  # pyright: ignore[reportArgumentType]

        return step, len(batch)

    def rank(
        self, queries: Sequence[str], trie: PrefixTrie | None = None, *, beam: int = 50, top_k: int = 10
    ) -> BeamResult:
        """Return the `top_k` best items of each query among those of `trie` (None = all), on the CPU.

        Raises
        ------
        DataError
            No query, or a blank one.
        ConfigError
            `beam` below `top_k`.
        """
        texts, trie = check_texts(queries), self.trie() if trie is None else trie
        parts = [
            self.generate(self.batch(texts[start : start + _QUERIES]), trie, beam=beam, top_k=top_k)
            for start in range(0, len(texts), _QUERIES)
        ]
        return BeamResult(torch.cat([p.items.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def _encode(self, batch: CartBatch, passes: int = 1) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's layers [passes * B, T, D] and the mask; a frozen encoder reads once for all passes."""
        tokens, encoder = batch.tokens, self.encoder
        mask = tokens.mask.repeat(passes, 1)
        if isinstance(encoder, LoadedEncoder) and encoder.frozen:
            read = encoder.hidden(tokens) if batch.hidden is None else batch.hidden.float().unbind(2)
            hidden = [one.repeat(passes, 1, 1) for one in read]
        else:
            hidden = encoder.hidden(type(tokens)(tokens.ids.repeat(passes, 1), mask))
        return encoder.expose(hidden), mask


def symmetric_kl(one: Tensor, other: Tensor) -> Tensor:
    """Return (KL(p || q) + KL(q || p)) / 2, mean over the rows of logits [n, K]."""
    p, q = functional.log_softmax(one, dim=-1), functional.log_softmax(other, dim=-1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def train_cart(
    texts: Sequence[str],
    targets: np.ndarray,
    id_map: SemanticIdMap,
    config: CartConfig | None = None,
    *,
    captions: tuple[Sequence[str], np.ndarray] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    evaluate: Evaluate | None = None,
    world: World = World(),  # noqa: B008 - frozen
) -> Cart:
    """Train CART on queries and the items that answer them; return it in evaluation mode.

    Parameters
    ----------
    texts, targets
        M queries and the item row of each, int64 [M].
    id_map
        The IDs; item row i is `id_map.sids[i]`.
    captions
        Texts that describe items and the item row of each: more training queries, unless `config.augment` is off.
    folder
        Where the model is written, and while it trains its checkpoint: the same call goes on from there. None: the
        model is only returned.
    evaluate
        As of `fit_generator`; None trains all epochs.
    world
        The processes that train together; the main one writes.

    Raises
    ------
    DataError
        No query, a blank one, an item without an ID; a damaged checkpoint.
    ConfigError
        The encoder cannot be had; a checkpoint of another configuration.
    """
    config = config or CartConfig()
    every, rows = check_texts(texts, "training queries"), check_targets(targets, len(texts), len(id_map))
    if config.augment and captions is not None and len(captions[0]):
        every = every + check_texts(captions[0], "captions")
        rows = np.concatenate([rows, check_targets(captions[1], len(captions[0]), len(id_map))])
    torch.manual_seed(seed)
    known = {"words": build_words(every, config.encoder)} if config.encoder.model == WORDS else {}
    model = Cart(config, id_map, known).to(device)
    batches = CartBatches(model, every, rows, seed=seed)
    say(f"CART: {len(every):,} training queries of {len(np.unique(rows)):,} items, {len(id_map):,} items have an ID")
    fit_generator(
        model,
        batches,
        config.fit,
        evaluate=evaluate,
        seed=seed,
        device=device,
        folder=folder,
        say=say,
        keep=folder is not None,
        world=world,
    )
    if folder is not None and world.main:
        model.save(folder)
    return model
