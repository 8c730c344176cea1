"""SASRec: a causal transformer over items (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

As in the paper: learned positions, causal self-attention, scores by the inner product with the input's own item
embeddings (section III, tied). Not as in the paper, which has one sampled negative and a binary loss: softmax
cross-entropy over the whole catalogue at each position, with which SASRec is at least as good as BERT4Rec
(Klenitskiy & Vasilev, "Turning Dross Into Gold Loss", RecSys 2023); and pre-norm layers with GELU.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.generative.base import GenerativeRetriever
from common.generative.beam import Rows, StepFn
from common.generative.layers import Encoder, TransformerConfig
from common.generative.sequences import Histories
from common.generative.tiger import recent
from common.generative.tiger_batches import TigerBatch, TigerBatches
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import evaluating


class SasRecConfig(TransformerConfig):
    """Size of SASRec; `encoder_layers` are its layers."""

    dim: int = Field(default=64, gt=0)
    heads: int = Field(default=2, gt=0)
    feedforward: int = Field(default=256, gt=0)
    decoder_layers: int = Field(default=0, ge=0, le=0, description="it has none")
    dropout: float = Field(default=0.3, ge=0, lt=1)
    max_items: int = Field(default=50, ge=1, description="items of a history, the most recent ones")


class SasRec(GenerativeRetriever):
    """SASRec over a catalogue: to the trie it is a generator of one code an item, so it decodes restricted too.

    Parameters
    ----------
    config
        Its size.
    id_map
        `SemanticIdMap.atomic(N)`.
    """

    kind = "sasrec"

    def __init__(self, config: SasRecConfig, id_map: SemanticIdMap) -> None:
        super().__init__(id_map)
        self.config = config
        self.items = nn.Embedding(len(id_map), config.dim)
        self.start = nn.Parameter(torch.zeros(config.dim))
        self.positions = nn.Embedding(config.max_items + 1, config.dim)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def settings(self) -> dict[str, Any]:
        """Return the configuration."""
        return {"config": self.config.model_dump(mode="json")}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        return cls(SasRecConfig.model_validate(settings["config"]), id_map)

    def batches(self, items: np.ndarray, offsets: np.ndarray, *, seed: int, batch_size: int = 256) -> TigerBatches:
        """Return the training batches of users' sequences: each position of a window is a target."""
        most = self.config.max_items
        return TigerBatches(items, offsets, mode="causal", most=most, seed=seed, batch_size=batch_size)

    def states(self, items: Tensor) -> Tensor:
        """Return float [B, T + 1, D]; state t has seen the first t of items int64 [B, T]."""
        x = torch.cat([self.start.expand(len(items), 1, -1), self.items(items)], dim=1)
        length = x.shape[1]
        x = self.dropout(x * self.config.dim**0.5 + self.positions.weight[:length])
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        return self.encoder(x, causal)

    def loss(self, batch: TigerBatch) -> dict[str, Tensor]:
        """Return {"loss": mean cross-entropy over all items of the positions to learn}."""
        assert batch.learn is not None  # noqa: S101 - a training batch
        states = self.states(batch.items[:, :-1])[batch.learn]
        return {"loss": functional.cross_entropy(states @ self.items.weight.T, batch.items[batch.learn])}

    def last_states(self, batch: TigerBatch) -> Tensor:
        """Return the state after each history, float [B, D]."""
        batch = recent(batch, self.config.max_items).to(self.device)
        rows = torch.arange(len(batch), device=self.device)
        return self.states(batch.items)[rows, batch.mask.sum(1)]

    def begin(self, batch: TigerBatch) -> tuple[StepFn, int]:
        """Encode the histories; the one step scores all items."""
        logits = self.last_states(batch) @ self.items.weight.T

        def step(rows: Rows) -> Tensor:
            return logits[rows.query]

        return step, len(batch)

    @torch.no_grad()
    def user_vectors(self, histories: Histories, chunk: int = 64) -> np.ndarray:
        """Return the state after each history, float32 [Q, D], without dropout."""
        made = np.empty((len(histories), self.config.dim), np.float32)
        with evaluating(self):
            for rows in histories.batches(chunk, self.config.max_items):
                batch = TigerBatch.of([one[-self.config.max_items :] for one in histories.take(rows)])
                made[rows] = self.last_states(batch).float().cpu().numpy()
        return made

    @torch.no_grad()
    def item_vectors(self) -> np.ndarray:
        """Return the item embeddings float32 [N, D] that states are compared with."""
        return self.items.weight.detach().float().cpu().numpy()
