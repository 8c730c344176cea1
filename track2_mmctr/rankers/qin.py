"""Quadratic Interest Network, 2nd place of Task 2 (Li et al., arXiv 2504.17699): ASTA and quadratic layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from track2_mmctr.batches import Batch
from track2_mmctr.config import FeatureConfig, QinConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.rankers.dropout import Dropout
from track2_mmctr.rankers.layers import init_linear
from track2_mmctr.rankers.packed import look_up, pool, spread


class SparseTargetAttention(nn.Module):
    """ASTA: u = W_o Σ_j relu(W_q t · W_k h_j / √A) W_v h_j + t; no softmax, no dropout, no bias, one head.

    Both maps of the history are moved to the rows, W_q t · W_k h = (W_kᵀ W_q t) · h and Σ a W_v h = W_v Σ a h, so
    that a history token costs two products of vectors and no matrix.
    """

    def __init__(self, dim: int, attention_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, attention_dim, bias=False)
        self.key = nn.Linear(dim, attention_dim, bias=False)
        self.value = nn.Linear(dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, dim, bias=False)

    def forward(self, target: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
        """Return [B, D] of targets [B, D] and item vectors [U, D]; the target for an empty history."""
        query = self.query(target) @ self.key.weight / self.key.out_features**0.5
        scores = (spread(query, batch) * look_up(vectors, batch)).sum(1)
        return self.output(self.value(pool(vectors, batch, scores.relu()))) + target


class QuadraticLayer(nn.Module):
    """x + Dropout(PReLU(BN(x ⊙ Σ_r Dropout(W_r x + b_r)))): all products of two inputs, in `rows` linear maps."""

    def __init__(self, dim: int, rows: int, dropout: float, batch_norm: bool) -> None:
        super().__init__()
        self.dim, self.rows = dim, rows
        self.linear = nn.Linear(dim, dim * rows)
        self.norm = nn.BatchNorm1d(dim) if batch_norm else nn.Identity()
        self.activation = nn.PReLU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, dim] of [B, dim]."""
        if self.training and self.dropout.p:
            factor = self.dropout(self.linear(x)).view(-1, self.rows, self.dim).sum(1)
        else:  # without dropout between them, the maps add up to one
            weight = self.linear.weight.view(self.rows, self.dim, self.dim).sum(0)
            factor = functional.linear(x, weight, self.linear.bias.view(self.rows, self.dim).sum(0))
        return x + self.dropout(self.activation(self.norm(x * factor)))


class Qin(Ranker):
    """y = w · QNN(side ‖ similarity ‖ target ‖ ASTA(target, history))."""

    def __init__(self, config: QinConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        dim = self.encoder.dim
        self.attention = SparseTargetAttention(dim, config.attention_dim or 2 * dim)
        inputs = self.encoder.side_dim + self.encoder.dense_dim + 2 * dim
        self.layers = nn.Sequential(
            *(QuadraticLayer(inputs, config.rows, config.net_dropout, config.batch_norm) for _ in range(config.layers))
        )
        self.head = nn.Linear(inputs, 1)
        init_linear(self)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        vectors = self.encoder(batch.items)
        target = vectors[batch.target]
        interest = self.attention(target, vectors, batch)
        parts = [self.encoder.side(batch), self.encoder.dense(batch), target, interest]
        return self.head(self.layers(torch.cat(parts, dim=1))).squeeze(1)
