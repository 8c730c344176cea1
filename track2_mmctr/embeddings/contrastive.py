"""A projection learnt from training histories: items that stand near each other in one become neighbours.

InfoNCE over in-batch negatives, with each candidate's log share of the positives taken off its logit (logQ
correction: Yi et al. 2019, "Sampling-bias-corrected neural modeling", RecSys), so that popular items, which are
negatives more often, are not pushed away for it. The projection starts as `pca_concat`, and the state with the best
loss on held-out users is kept, the start included: histories that say nothing change nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import DataError
from common.progress import bar
from track2_mmctr.datasets.tables import Split
from track2_mmctr.embeddings.config import ContrastiveConfig, EmbedConfig
from track2_mmctr.embeddings.fusion import Modality, reduced

_INPUT = 256  # components of each modality that the projection reads
_JUDGES = 2048  # held-out positives, and as many candidates at most, that judge an epoch


@dataclass(frozen=True, eq=False)
class Histories:
    """One history a user: user u has `items[offsets[u]:offsets[u + 1]]`, oldest first."""

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, users: np.ndarray) -> Histories:
        """Return the histories of `users`, in this order."""
        return _gathered(self.items, self.offsets[users], self.offsets[users + 1] - self.offsets[users])


def user_histories(split: Split) -> Histories:
    """Return the longest history of each user: rows of one user hold mostly the same items."""
    lengths = split.lengths
    order = np.lexsort((np.arange(len(lengths)), -lengths, split.users))
    first = np.r_[True, np.diff(split.users[order]) != 0] if len(order) else np.zeros(0, bool)
    rows = order[first]
    return _gathered(split.history, split.offsets[rows], lengths[rows])


def fit_projection(
    modalities: Sequence[Modality], histories: Histories, config: EmbedConfig, notes: list[str]
) -> np.ndarray:
    """Return float32 [N, config.dim], rows of length 1 (items without any modality: zeros).

    Parameters
    ----------
    modalities
        Text and image; row r is item r + 1.
    histories
        Of the training period only.

    Raises
    ------
    DataError
        No history holds two different items near each other.
    """
    import torch

    settings = config.contrastive
    rng = np.random.default_rng(config.seed)
    inputs, kept = _inputs(modalities, config.dim, notes)
    train, judge = _split_users(histories, settings.held_out, rng)
    table = torch.from_numpy(inputs)
    counts = np.bincount(train.items, minlength=len(inputs) + 1)[1:].astype(np.float64) + 1
    log_share = torch.from_numpy(np.log(counts / counts.sum()).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _projection(inputs.shape[1], kept, settings)
    judges = torch.from_numpy(_pairs(judge, settings.window, _JUDGES, rng) - 1)
    before, after, epoch = _optimise(model, table, log_share, train, judges, settings, rng)
    notes.append(
        f"contrastive: loss on positives of {len(judge)} held-out users {before:.4f} -> {after:.4f} "
        + (f"(epoch {epoch})" if epoch else "(no epoch was better: the embedding is that of pca_concat, normalised)")
    )
    with torch.inference_mode():
        result = torch.nn.functional.normalize(model(table), dim=-1).numpy().copy()
    result[~np.any([m.present for m in modalities], axis=0)] = 0
    return result


def _inputs(modalities: Sequence[Modality], dim: int, notes: list[str]) -> tuple[np.ndarray, list[int]]:
    """Return the modalities' components side by side, [N, I], and the `dim` columns that `pca_concat` would keep."""
    ignored: list[str] = []  # zero columns of the input are of no interest to the user
    parts = [reduced(m, min(_INPUT, m.vectors.shape[1]), ignored) for m in modalities]
    starts = np.cumsum([0, *(p.shape[1] for p in parts)])
    share = dim // len(parts)
    kept = [int(s) + i for s, p in zip(starts[:-1], parts, strict=True) for i in range(min(share, p.shape[1]))]
    if len(kept) < dim:
        notes.append(f"contrastive: the projection starts with {len(kept)} of {dim} columns; it may fill the others")
    x = np.hstack(parts)
    length = float(np.sqrt(np.mean(np.square(x, dtype=np.float64).sum(axis=1))))
    return (x / max(length, 1e-12)).astype(np.float32), [*kept, *[-1] * (dim - len(kept))]


def _projection(inputs: int, kept: list[int], settings: ContrastiveConfig) -> Any:
    """Return x -> W x (+ V relu(U x)); W picks the columns `kept` (-1: none), V is zero at the start."""
    import torch

    hidden = settings.hidden

    class Projection(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(inputs, len(kept), bias=False)
            weight = torch.zeros(len(kept), inputs)
            for row, column in enumerate(kept):
                if column >= 0:
                    weight[row, column] = 1
            self.linear.weight.data.copy_(weight)
            self.up = torch.nn.Linear(inputs, hidden) if hidden else None
            self.down = torch.nn.Linear(hidden, len(kept), bias=False) if hidden else None
            if self.down is not None:
                torch.nn.init.zeros_(self.down.weight)
            # Learnt with the rest: else much of the first steps' gain is less confidence, paid for with the geometry.
            self.log_temperature = torch.nn.Parameter(torch.tensor(math.log(settings.temperature)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.linear(x)
            if self.up is not None and self.down is not None:
                z = z + self.down(torch.relu(self.up(x)))
            return z

    return Projection()


def _optimise(
    model: Any,
    table: Any,
    log_share: Any,
    train: Histories,
    judges: Any,
    settings: ContrastiveConfig,
    rng: np.random.Generator,
) -> tuple[float, float, int]:
    """Train `model` in place, to the state that judges best; return the loss before, after, and its epoch."""
    import torch

    def judged() -> float:
        with torch.inference_mode():
            return float(_loss(model, table, log_share, judges))

    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    first = best = judged()
    best_epoch, state = 0, copy.deepcopy(model.state_dict())
    with bar("contrastive", total=settings.epochs, unit="epoch") as shown:
        for epoch in range(1, settings.epochs + 1):
            pairs = torch.from_numpy(_pairs(train, settings.window, settings.pairs, rng) - 1)
            for batch in pairs.split(settings.batch_size):
                if len(batch) < 2:
                    continue
                loss = _loss(model, table, log_share, batch)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            now = judged()
            shown.update(1)
            shown.set_postfix_str(f"held-out loss {now:.4f}")
            if now < best:
                best, best_epoch, state = now, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(state)
    return first, best, best_epoch


def _loss(model: Any, table: Any, log_share: Any, pairs: Any) -> Any:
    """Return the mean InfoNCE of positives [B, 2] (rows of `table`), candidates = the second items of all."""
    import torch

    left, right = pairs[:, 0], pairs[:, 1]
    z = torch.nn.functional.normalize(model(table[left]), dim=-1)
    candidates = torch.nn.functional.normalize(model(table[right]), dim=-1)
    temperature = model.log_temperature.exp().clamp(min=0.01)
    logits = z @ candidates.T / temperature - log_share[right]
    # A candidate that is the anchor itself, or the positive again, is no negative.
    other = ~torch.eye(len(pairs), dtype=torch.bool)
    no_negative = ((right[None] == right[:, None]) | (right[None] == left[:, None])) & other
    logits = logits.masked_fill(no_negative, float("-inf"))
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(pairs)))


def _pairs(histories: Histories, window: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw positives, int64 [count, 2] item ids: two different items of one history, at most `window` apart."""
    owner = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
    items = histories.items.astype(np.int64)
    found: list[np.ndarray] = []
    total, tries = 0, 0
    while total < count:
        tries += 1
        if len(items) < 2 or (tries > 20 and total == 0):
            raise DataError(
                "no training history has two different items near each other",
                expected="histories of two items and more",
                todo="choose a method that does not learn from histories, e.g. method: pca_concat",
            )
        left = rng.integers(0, len(items), 2 * count)
        right = left + rng.integers(1, window + 1, 2 * count)
        inside = right < len(items)
        left, right = left[inside], right[inside]
        good = (owner[left] == owner[right]) & (items[left] != items[right])
        pair = np.stack([items[left[good]], items[right[good]]], axis=1)
        turn = rng.random(len(pair)) < 0.5
        pair[turn] = pair[turn][:, ::-1]
        found.append(pair)
        total += len(pair)
    return np.concatenate(found)[:count]


def _split_users(histories: Histories, share: float, rng: np.random.Generator) -> tuple[Histories, Histories]:
    """Return (training, held-out) histories; only users with two items and more are held out."""
    useful = rng.permutation(np.flatnonzero(np.diff(histories.offsets) > 1))
    if len(useful) < 2:
        raise DataError(
            "fewer than two users have a history of two items",
            got=len(useful),
            todo="choose a method that does not learn from histories, e.g. method: pca_concat",
        )
    cut = min(max(1, round(share * len(useful))), len(useful) - 1)
    return histories.take(np.sort(useful[cut:])), histories.take(np.sort(useful[:cut]))


def _gathered(items: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Histories:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Histories(np.asarray(items)[places], offsets)
