"""The two stages of training EASE: the token reader by description and distillation, then the adapter by clicks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.metrics.ctr import auc
from common.representation.ease.adapter import ClickModel, RetrievalHead, SemanticAdapter, pool
from common.representation.ease.batches import ClickBatch, ClickBatches, ClickRows, EaseBatch, EaseBatches
from common.representation.ease.config import EaseConfig, SemanticConfig
from common.representation.ease.qformer import TokenReader
from common.training.fit import FitResult, fit_model

if TYPE_CHECKING:
    from common.representation.ease.language_model import FrozenLanguageModel

LEAST_VALIDATION = 4
"""Rows held out at least; with fewer there is no validation and the last weights are kept."""
EVALUATION_ROWS = 64
Say = Callable[[str], object]


class ReaderStage(nn.Module):
    """The token reader with what teaches it: L_LM through the frozen language model, and distillation.

    Parameters
    ----------
    to_prompt
        W: Z [B, n, d] to a soft prompt of the language model's width; None without that model.
    head
        The retrieval head; None without a teacher.
    decoder
        The frozen language model; it is not part of this module.
    """

    def __init__(
        self,
        reader: TokenReader,
        to_prompt: nn.Linear | None,
        head: RetrievalHead | None,
        decoder: FrozenLanguageModel | None,
        config: EaseConfig,
    ) -> None:
        super().__init__()
        self.reader, self.to_prompt, self.head = reader, to_prompt, head
        self.decoder, self.config = decoder, config

    def loss(self, batch: EaseBatch) -> dict[str, Tensor]:
        """Return "lm" and "distil", those there are, and their weighted sum "loss"."""
        z, parts = self.reader(batch.views), {}
        total: Tensor = z.new_zeros(())
        if self.decoder is not None and self.to_prompt is not None:
            assert batch.ids is not None and batch.told is not None  # noqa: S101 - made beside the decoder
            parts["lm"] = self.decoder.loss(self.to_prompt(z), batch.ids, batch.told)
            total = total + self.config.lm_weight * parts["lm"]
        if self.head is not None:
            assert batch.target is not None  # noqa: S101 - made beside the head
            parts["distil"] = self.head.loss(pool(z, self.config.pool), batch.target)
            total = total + self.config.retrieval.weight * parts["distil"]
        return {**parts, "loss": total}

    def figures(self, batches: EaseBatches, rows: np.ndarray, device: torch.device | str) -> dict[str, float]:
        """Return the mean losses of some items, and "score", the weighted sum with the sign turned."""
        sums: dict[str, float] = {}
        for part in np.array_split(rows, -(-len(rows) // EVALUATION_ROWS)):
            losses = self.loss(batches.make(part).to(device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(rows)
        return {"score": -sums.pop("loss"), **sums}


def hold_out(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on and rows to validate on, both ascending; none of the latter where they are too few."""
    held = int(count * share)
    if held < LEAST_VALIDATION:
        return np.arange(count), np.arange(0)
    order = np.random.default_rng([seed, 5]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def fit_reader(
    stage: ReaderStage,
    train: EaseBatches,
    valid: EaseBatches | None,
    *,
    key: Mapping[str, Any],
    seed: int,
    device: torch.device | str,
    folder: Path | None,
    say: Say,
) -> FitResult:
    """Train the first stage in place. Its finished state stays in `folder` until the whole fit is done."""

    def evaluate(model: ReaderStage) -> dict[str, float]:
        assert valid is not None  # noqa: S101 - evaluated only where there is one
        return model.figures(valid, np.arange(len(valid.items)), device)

    return fit_model(
        stage,
        train,
        stage.config.fit,
        key=key,
        evaluate=None if valid is None else evaluate,
        seed=seed,
        device=device,
        folder=folder,
        say=say,
        keep=True,
    )


class AdapterStage(ClickModel):
    """The second stage: BCE on clicks over fixed Z."""

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Return the binary cross-entropy."""
        return {"loss": F.binary_cross_entropy_with_logits(self(batch.users, batch.items), batch.labels)}


def make_stage(features: Tensor, users: int, adapter: SemanticAdapter | None, seed: int) -> AdapterStage:
    """Return the second stage over pooled Z of all items float32 [N, D], with user vectors drawn by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdapterStage(features, users, adapter)


def fit_adapter(
    model: AdapterStage,
    clicks: ClickRows,
    config: SemanticConfig,
    *,
    key: Mapping[str, Any],
    seed: int,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    say: Say = print,
) -> FitResult:
    """Train the second stage in place. Its finished state stays in `folder` until the whole fit is done."""
    rows, held = hold_out(len(clicks), 0.1, seed)
    valid = clicks.take(held)
    both = len(np.unique(valid.labels)) == 2

    def evaluate(model: AdapterStage) -> dict[str, float]:
        users, items = (torch.as_tensor(one, device=device) for one in (valid.users, valid.items))
        return {"auc": auc(valid.labels, model(users, items).cpu().numpy())}

    return fit_model(
        model,
        ClickBatches(clicks.take(rows), model.features, config.batch_size, seed),
        config.fit,
        key=key,
        evaluate=evaluate if both else None,
        seed=seed,
        device=device,
        folder=folder,
        say=say,
        keep=True,
    )
