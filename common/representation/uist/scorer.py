"""A small click model over codes or dense vectors: what UIST's codes are measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.config import Config
from common.errors import DataError
from common.hashing import digest
from common.metrics.ctr import auc
from common.representation.uist.mixture import HierarchicalMixture
from common.training.fit import FitConfig, FitResult, evaluating, fit_model
from common.training.schedule import ScheduleConfig

Pairs = Literal["all", "finest"]


class CoarseToFine(nn.Module):
    """Embeddings v^(j) = sum_(l<=j) T_l[c_l] of codes, j = 1..L [facts 2.5]; the tables T are trained from scratch."""

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.levels = len(sizes)
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in sizes)
        for table in self.tables:
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.1)

    def forward(self, codes: Tensor) -> Tensor:
        """Return [B, L, d] of codes int [B, L], coarse to fine."""
        return torch.stack([table(codes[:, level]) for level, table in enumerate(self.tables)], 1).cumsum(1)


class Projected(nn.Module):
    """A dense vector as the one level of its side: what codes are compared with."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.levels = 1
        self.project = nn.Linear(width, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return [B, 1, d] of vectors [B, D]."""
        return self.project(vectors)[:, None]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N rows: codes int [N, L] with their `sizes`, or vectors float32 [N, D] without."""

    values: np.ndarray
    sizes: tuple[int, ...] = ()

    def side(self, dim: int) -> CoarseToFine | Projected:
        """Return the module that embeds them."""
        return CoarseToFine(self.sizes, dim) if self.sizes else Projected(self.values.shape[1], dim)


class ScorerConfig(Config):
    """Settings of the click model."""

    dim: int = Field(default=16, gt=0)
    hidden: int = Field(default=32, gt=0)
    pairs: Pairs = Field(default="all", description="finest: the ablation without hierarchical mixture inference")
    batch_size: int = Field(default=512, gt=0)
    fit: FitConfig = FitConfig(
        epochs=8,
        learning_rate=1e-2,
        weight_decay=0.01,
        schedule=ScheduleConfig(type="cosine", warmup_steps=20),
        figure="auc",
        patience=3,
    )


class CtrScorer(nn.Module):
    """s_ij = MLP([u^(i), v^(j), u^(i) * v^(j)]), y = mixture of all s_ij; our own reference f_CTR [I].

    The MLP has one hidden layer. Its matrix is cut in three, so that what only a user or only an item gives is
    computed once a level and not once a pair. With `pairs: finest` only s_LL is computed and y is that score.
    """

    def __init__(self, users: Features, items: Features, config: ScorerConfig) -> None:
        super().__init__()
        self.config = config
        self.users, self.items = users.side(config.dim), items.side(config.dim)
        self.of_user, self.of_item, self.of_both = (
            nn.Linear(config.dim, config.hidden, bias=bias) for bias in (True, False, False)
        )
        self.score = nn.Linear(config.hidden, 1)
        self.mixture: HierarchicalMixture | None = None
        if config.pairs == "all":
            self.mixture = HierarchicalMixture(self.users.levels, self.items.levels)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits [B] of the features of B users and B items."""
        u, v = self.users(users), self.items(items)
        if self.mixture is None:
            u, v = u[:, -1:], v[:, -1:]
        both = self.of_both(u[:, :, None] * v[:, None])
        hidden = torch.relu(self.of_user(u)[:, :, None] + self.of_item(v)[:, None] + both)
        scores = self.score(hidden).squeeze(-1)
        return scores[:, 0, 0] if self.mixture is None else self.mixture(scores)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Return the log-loss of a batch."""
        return {"loss": functional.binary_cross_entropy_with_logits(self(batch.users, batch.items), batch.label)}


@dataclass(frozen=True)
class ClickBatch:
    """Features of B users and items, and labels float32 [B]."""

    users: Tensor
    items: Tensor
    label: Tensor

    def to(self, device: torch.device | str) -> ClickBatch:
        """Return the batch on a device."""
        return ClickBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class ClickRows:
    """Rows of a click log: rows of user and item features int64 [R] and labels [R]; `Batches` of them."""

    def __init__(
        self, users: Features, items: Features, rows: tuple[np.ndarray, np.ndarray, np.ndarray], size: int, seed: int
    ) -> None:
        self.users, self.items, self.seed = torch.from_numpy(users.values), torch.from_numpy(items.values), seed
        self.user, self.item = rows[0].astype(np.int64), rows[1].astype(np.int64)
        self.label = rows[2].astype(np.float32)
        for name, row, table in (("user", self.user, self.users), ("item", self.item, self.items)):
            if not len(row) or not 0 <= row.min() <= row.max() < len(table):
                raise DataError(f"a click has a {name} without features", expected=f"rows 0..{len(table) - 1}")
        self.size = min(size, len(self.label))
        parts = (users.values, items.values, self.user, self.item, self.label)
        self.digest = digest(*(np.ascontiguousarray(part).tobytes() for part in parts), str(self.size), str(seed))

    def __len__(self) -> int:
        return len(self.label) // self.size

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch of an epoch; rows beyond the last full batch wait for another epoch."""
        order = np.random.default_rng((self.seed, 8, number)).permutation(len(self.label))
        return np.split(order[: len(self) * self.size], len(self))

    def make(self, rows: np.ndarray) -> ClickBatch:
        """Return the batch of some rows."""
        label = torch.from_numpy(self.label[rows])
        return ClickBatch(self.users[self.user[rows]], self.items[self.item[rows]], label)


@torch.no_grad()
def predict(model: CtrScorer, rows: ClickRows, chunk: int = 4096) -> np.ndarray:
    """Return logits float32 [R] of all rows, in their order."""
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        for start in range(0, len(rows.label), chunk):
            batch = rows.make(np.arange(start, min(start + chunk, len(rows.label)))).to(device)
            found.append(model(batch.users, batch.items).cpu().numpy())
    return np.concatenate(found)


def fit_scorer(
    users: Features,
    items: Features,
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray, np.ndarray],
    config: ScorerConfig | None = None,
    *,
    seed: int,
    folder: Path | None = None,
) -> tuple[CtrScorer, FitResult]:
    """Train a click model on (user rows, item rows, labels); the AUC on `valid` decides when to stop.

    Raises
    ------
    DataError
        A row without features.
    """
    config = config or ScorerConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CtrScorer(users, items, config)
    batches = ClickRows(users, items, train, config.batch_size, seed)
    held = ClickRows(users, items, valid, config.batch_size, seed)
    key = {"kind": "uist scorer", "config": config.model_dump(mode="json")}

    def evaluate(trained: CtrScorer) -> dict[str, float]:
        return {"auc": auc(held.label, predict(trained, held))}

    return model, fit_model(model, batches, config.fit, key=key, evaluate=evaluate, seed=seed, folder=folder)
