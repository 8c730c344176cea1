"""Item and side features as modules: one table, looked up once for each different item of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from track2_mmctr.batches import Batch
from track2_mmctr.config import FeatureConfig
from track2_mmctr.datasets.tables import LEVELS, ItemTable
from track2_mmctr.rankers.embedding import Embedding
from track2_mmctr.rankers.knowledge import KnowledgeFeature, UserCodeEmbedding
from track2_mmctr.rankers.semantic_ids import SemanticIdEmbedding


class ItemEncoder(nn.Module):
    """The vector of an item: id [d] ‖ mean of tags [d] ‖ frozen embedding [E] ‖ likes, views levels [2d] ‖ codes [S].

    Which parts there are is told by `FeatureConfig`; `dim` is their sum. The item table is kept in buffers that
    are not part of a checkpoint: it is data, and a checkpoint names the data it belongs to.

    What is known of a row beside the items is `side`: the target's levels [2d] ‖ knowledge of the user and of the
    target [32 each] ‖ the user's tokens [d]; `side_fields` are the widths of its parts and `side_dim` is their sum.
    Numbers are `dense`, of width `dense_dim`.

    Raises
    ------
    ConfigError
        All parts are switched off, or one is asked for that the data does not have.
    """

    item_tags: Tensor
    item_levels: Tensor
    frozen: Tensor

    def __init__(self, config: FeatureConfig, items: ItemTable) -> None:
        super().__init__()
        self.config, d = config, config.dim
        self.ids = Embedding(len(items), d) if config.ids else None
        self.tags = Embedding(items.tag_vocabulary, d) if config.tags else None
        self.likes = Embedding(LEVELS, d) if config.item_levels or config.target_levels else None
        self.views = Embedding(LEVELS, d) if config.item_levels or config.target_levels else None
        self.register_buffer("item_tags", torch.from_numpy(items.tags.astype(np.int64)), persistent=False)
        levels = torch.from_numpy(np.stack([items.likes, items.views], axis=1).astype(np.int64))
        self.register_buffer("item_levels", levels, persistent=False)
        width = 0
        if config.embedding != "none":
            if items.embedding is None:
                raise ConfigError(
                    "the item table has no embedding",
                    where="features.embedding",
                    got=config.embedding,
                    todo="make one (python -m track2_mmctr embed) and name its file, or set features.embedding=none",
                )
            width = items.embedding.shape[1]
            frozen = torch.from_numpy(np.ascontiguousarray(items.embedding, dtype=np.float32))
            self.register_buffer("frozen", frozen, persistent=False)
        self.projection = nn.Linear(width, width, bias=False) if width and config.project else None
        self.embedding_dim = width
        self.semantic = None
        if config.semantic_ids != "none":
            if items.semantic_ids is None:
                raise ConfigError("the item table has no semantic IDs", where="features.semantic_ids")
            self.semantic = SemanticIdEmbedding(config.sid, items.semantic_ids, d)
        semantic = 0 if self.semantic is None else self.semantic.dim
        self.dim = (config.ids + config.tags) * d + width + 2 * d * config.item_levels + semantic
        self.knowledge = self.user_codes = None
        if config.knowledge.used:
            if items.knowledge is None:
                raise ConfigError("the item table has no knowledge", where="features.knowledge")
            self.knowledge = KnowledgeFeature(config.knowledge, items.knowledge)
        if config.user_semantic_ids != "none":
            if items.user_codes is None:
                raise ConfigError("the data has no user codes", where="features.user_semantic_ids")
            self.user_codes = UserCodeEmbedding(config.user_sid, items.user_codes, d)
        self.side_fields = [d] * (2 * config.target_levels)
        self.side_fields += [] if self.knowledge is None else self.knowledge.fields
        self.side_fields += [] if self.user_codes is None else [d]
        self.side_dim = sum(self.side_fields)
        self.dense_dim = 3 * (config.similarity and width > 0) + 3 * (config.candidates != "none")
        if not self.dim:
            raise ConfigError("every item feature is switched off", where="features", todo="switch one on")
        if config.similarity and not width:
            raise ConfigError("features.similarity needs an item embedding", where="features.embedding")

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors of item ids [U] as float32 [U, D]."""
        parts: list[Tensor] = []
        if self.ids is not None:
            parts.append(self.ids(items))
        if self.tags is not None:
            parts.append(self.mean_tags(items))
        if self.embedding_dim:
            frozen = self.frozen.index_select(0, items)
            parts.append(frozen if self.projection is None else self.projection(frozen))
        if self.config.item_levels:
            assert self.likes is not None and self.views is not None  # noqa: S101 - made in __init__ on the same condition
            levels = self.item_levels[items]
            parts += [self.likes(levels[:, 0]), self.views(levels[:, 1])]
        if self.semantic is not None:
            parts.append(self.semantic(items))
        return torch.cat(parts, dim=1)

    def mean_tags(self, items: Tensor) -> Tensor:
        """Return the mean embedding of each item's tags, zeros for an item without tags: [U, d]."""
        assert self.tags is not None  # noqa: S101
        return functional.embedding_bag(self.item_tags[items], self.tags.weight, mode="mean", padding_idx=0)

    def side(self, batch: Batch) -> Tensor:
        """Return what is known of rows beside their items, [B, side_dim] ([B, 0] when all of it is off)."""
        parts = [torch.zeros(len(batch), 0, device=batch.items.device)]
        if self.config.target_levels:
            assert self.likes is not None and self.views is not None  # noqa: S101
            parts += [self.likes(batch.levels[:, 0]), self.views(batch.levels[:, 1])]
        if self.knowledge is not None:
            parts.append(self.knowledge(batch))
        if self.user_codes is not None:
            parts.append(self.user_codes(batch))
        return torch.cat(parts, dim=1)

    def dense(self, batch: Batch) -> Tensor:
        """Return what is known of rows as numbers, [B, dense_dim]: similarity [3] ‖ a generator's opinion [3].

        Raises
        ------
        ConfigError
            `features.candidates` is asked for and the split was read without it.
        """
        parts = [torch.zeros(len(batch), 0, device=batch.items.device)]
        if self.config.similarity:
            parts.append(self.similarity(batch))
        if self.config.candidates != "none":
            if batch.candidates is None:
                raise ConfigError("the rows have no generated candidates", where="features.candidates")
            parts.append(batch.candidates)
        return torch.cat(parts, dim=1)

    def similarity(self, batch: Batch) -> Tensor:
        """Return cosines of the target's frozen vector with the history: with its mean, the largest, the last.

        Float32 [B, 3], zeros for an empty history.
        """
        unit = functional.normalize(self.frozen[batch.items], dim=1)
        target = unit[batch.target]
        bag = functional.embedding_bag(batch.history, unit, batch.offsets[:-1], mode="mean")
        mean = (functional.normalize(bag, dim=1) * target).sum(1)
        each = (unit[batch.history] * target[batch.row_of]).sum(1)
        largest, last = torch.zeros_like(mean), torch.zeros_like(mean)
        for block in batch.blocks:
            if block.length:
                rows = slice(block.first_row, block.first_row + block.rows)
                tokens = each[block.first_token : block.first_token + block.rows * block.length]
                grid = tokens.view(block.rows, block.length)
                largest[rows], last[rows] = grid.amax(1), grid[:, -1]
        return torch.stack([mean, largest, last], dim=1)
