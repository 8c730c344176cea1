"""KAR's hybrid-expert adaptor on planted knowledge: 600 users, 400 items, 8 genres, two of which a user likes.

    python -m benchmarks.planted_kar --seeds 3

A user's vector is a random map of what he likes plus noise, an item's one of its genre; a click has log-odds
3 · match - 1.5. The ranker is an MLP over embeddings of the ids and the adaptor's output. A sixth of the users and of
the items are never in training (cold): their clicks are judged apart. The oracle ranks by the true log-odds; the
placebo has the knowledge of other users and items, drawn once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from common.experiment import cores, cpu_name
from common.hashing import digest
from common.metrics.ctr import auc
from common.representation.inputs import Behaviour, Items
from common.representation.kar.adaptor import AdaptorConfig, HybridExpertAdaptor
from common.representation.kar.config import KarConfig
from common.representation.kar.method import Kar
from common.training.fit import FitConfig, fit_model
from common.training.schedule import ScheduleConfig

USERS, ITEMS, GENRES, DIM = 600, 400, 8, 64
GENRE_NAMES = ("horror", "romance", "western", "science fiction", "animation", "war", "musical", "documentary")
COLD = 1 / 6
PLACEBO = "shuffled knowledge"
VARIANTS: dict[str, AdaptorConfig] = {
    "KAR": AdaptorConfig(),
    "no shared experts": AdaptorConfig(shared=0),
    "no dedicated experts": AdaptorConfig(dedicated=0, shared=7),
    "no gate": AdaptorConfig(gate=False),
    "one expert": AdaptorConfig(shared=0, dedicated=1),
}
FIT = FitConfig(
    epochs=8,
    learning_rate=5e-3,
    schedule=ScheduleConfig(type="cosine", warmup_steps=20),
    figure="auc",
    patience=3,
)


@dataclass(frozen=True)
class Rows:
    """Clicks: users, items int64 [R], label float32 [R], true log-odds float64 [R]."""

    users: np.ndarray
    items: np.ndarray
    label: np.ndarray
    odds: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class World:
    """Knowledge float32 [U, D] and [N, D], and clicks: train, valid and warm test of warm ids, cold of cold ones.

    `likes` [U, G] of 0 and 1 and `genre` int64 [N] are the truth behind them. `calibrated`: the adaptor subtracts the
    mean vector of the users and items of training.
    """

    user: np.ndarray
    item: np.ndarray
    likes: np.ndarray
    genre: np.ndarray
    train: Rows
    valid: Rows
    warm: Rows
    cold: Rows
    calibrated: bool = False

    def shuffled(self, seed: int) -> World:
        """Return the world with each user's and item's knowledge being another one's."""
        rng = np.random.default_rng((seed, 1))
        user, item = (vectors[rng.permutation(len(vectors))] for vectors in (self.user, self.item))
        return replace(self, user=user, item=item)


def make_world(seed: int, rows: int = 12000, noise: float = 0.3) -> World:
    """Return a planted world; same seed, same bytes."""
    rng = np.random.default_rng((seed, 0))
    likes = np.zeros((USERS, GENRES))
    likes[np.arange(USERS)[:, None], rng.random((USERS, GENRES)).argsort(1)[:, :2]] = 1
    genre = rng.integers(GENRES, size=ITEMS)
    user = likes @ rng.normal(size=(GENRES, DIM)) + noise * rng.normal(size=(USERS, DIM))
    item = np.eye(GENRES)[genre] @ rng.normal(size=(GENRES, DIM)) + noise * rng.normal(size=(ITEMS, DIM))

    def clicks(users: range, items: range, count: int) -> Rows:
        u, i = rng.integers(users.start, users.stop, count), rng.integers(items.start, items.stop, count)
        odds = 3 * likes[u, genre[i]] - 1.5
        label = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.float32)
        return Rows(u, i, label, odds)

    warm = range(round(USERS * (1 - COLD))), range(round(ITEMS * (1 - COLD)))
    cold = range(warm[0].stop, USERS), range(warm[1].stop, ITEMS)
    train, valid, test = (clicks(*warm, count) for count in (rows, rows // 6, rows // 3))
    unseen = clicks(*cold, rows // 3)
    return World(user.astype(np.float32), item.astype(np.float32), likes, genre, train, valid, test, unseen)


def text_world(world: World, seed: int, config: KarConfig | None = None, say: Callable[[str], object] = print) -> World:
    """Return the world with knowledge that KAR makes of texts: what an item's genre is, what a user has seen.

    A user's history is six warm items of the genres that he likes. The knowledge is the filled template itself, read
    by a sentence encoder; neither sees `likes`, the clicks, or a vector of the plant.
    """
    rng = np.random.default_rng((seed, 3))
    warm = np.arange(round(ITEMS * (1 - COLD)))
    facts = [{"title": f"Film {row}", "genres": GENRE_NAMES[genre]} for row, genre in enumerate(world.genre)]
    seen = [rng.choice(warm[liked[world.genre[warm]] > 0], 6) for liked in world.likes]
    behaviour = Behaviour(np.arange(USERS), np.concatenate(seen), np.arange(USERS + 1) * 6)
    items = Items(np.arange(ITEMS), [""] * ITEMS)
    kar = Kar(config).fit(items, behaviour, seed=seed, say=say)
    item = kar.transform(items, facts=facts).columns["knowledge"]
    user = kar.transform_users(items, behaviour, facts=facts).columns["knowledge"]
    return replace(world, user=user, item=item)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors [B]."""

    users: Tensor
    items: Tensor
    label: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(self.users.to(device), self.items.to(device), self.label.to(device))


class RowBatches:
    """Batches of rows in a new order each epoch."""

    def __init__(self, rows: Rows, seed: int, size: int = 128) -> None:
        self.rows, self.seed, self.size = rows, seed, size
        self.digest = digest(rows.users.tobytes(), rows.items.tobytes(), rows.label.tobytes(), seed, size)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch of an epoch."""
        order = np.random.default_rng((self.seed, 2, number)).permutation(len(self.rows))
        return [order[start : start + self.size] for start in range(0, len(order), self.size)]

    def make(self, rows: np.ndarray) -> Batch:
        """Return the batch of these rows."""
        r = self.rows
        return Batch(*(torch.from_numpy(values[rows]) for values in (r.users, r.items, r.label)))


class Ranker(nn.Module):
    """An MLP over the embeddings of user and item (a cold id has none: zeros) and the adaptor's output.

    Parameters
    ----------
    adaptor
        None: ids only.
    """

    def __init__(self, world: World, adaptor: AdaptorConfig | None, dim: int = 16) -> None:
        super().__init__()
        known = world.train
        self.register_buffer("warm_user", torch.from_numpy(np.isin(np.arange(USERS), known.users)).float()[:, None])
        self.register_buffer("warm_item", torch.from_numpy(np.isin(np.arange(ITEMS), known.items)).float()[:, None])
        self.user, self.item = nn.Embedding(USERS, dim), nn.Embedding(ITEMS, dim)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.01)
        self.knowledge_user, self.knowledge_item = torch.from_numpy(world.user), torch.from_numpy(world.item)
        dims = {"user": world.user.shape[1], "item": world.item.shape[1]}
        self.adaptor = None if adaptor is None else HybridExpertAdaptor(dims, adaptor)
        if self.adaptor is not None and world.calibrated:
            self.adaptor.calibrate("user", self.knowledge_user[np.unique(known.users)])
            self.adaptor.calibrate("item", self.knowledge_item[np.unique(known.items)])
        width = 2 * dim + (0 if self.adaptor is None else self.adaptor.dim)
        self.head = nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits [B]."""
        warm_user, warm_item = self.get_buffer("warm_user")[users], self.get_buffer("warm_item")[items]
        parts = [self.user(users) * warm_user, self.item(items) * warm_item]
        if self.adaptor is not None:
            parts.append(self.adaptor({"user": self.knowledge_user[users], "item": self.knowledge_item[items]}))
        return self.head(torch.cat(parts, 1)).squeeze(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return binary cross-entropy."""
        logits = self(batch.users, batch.items)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, batch.label)}

    def auc(self, rows: Rows) -> float:
        """Return the AUC of the model's logits."""
        with torch.no_grad():
            return auc(rows.label, self(torch.from_numpy(rows.users), torch.from_numpy(rows.items)).numpy())


def train(world: World, adaptor: AdaptorConfig | None, seed: int, fit: FitConfig = FIT) -> Ranker:
    """Return the ranker trained on the world, the epoch of the best valid AUC."""
    torch.manual_seed(seed)
    model = Ranker(world, adaptor)
    fit_model(
        model,
        RowBatches(world.train, seed),
        fit,
        key={"model": "planted", "adaptor": None if adaptor is None else adaptor.model_dump(mode="json")},
        evaluate=lambda trained: {"auc": trained.auc(world.valid)},
        seed=seed,
    )
    return model


def runs(seed: int, text: bool = False) -> dict[str, Callable[[], tuple[float, float]]]:
    """Return each arm's name and what computes its AUC on warm and on cold rows; `text` adds arms on texts."""
    world = make_world(seed)

    def arm(
        adaptor: AdaptorConfig | None, make: Callable[[], World] = lambda: world
    ) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            model = train(make(), adaptor, seed)
            return model.auc(world.warm), model.auc(world.cold)

        return run

    made = {"oracle": lambda: (auc(world.warm.label, world.warm.odds), auc(world.cold.label, world.cold.odds))}
    made |= {name: arm(config) for name, config in VARIANTS.items()}
    made["ids only"] = arm(None)
    made[PLACEBO] = arm(AdaptorConfig(), lambda: world.shuffled(seed))
    if text:
        read = cache(lambda: text_world(world, seed))
        made["KAR, texts by template and encoder"] = arm(AdaptorConfig(), read)
        made["the same, calibrated"] = arm(AdaptorConfig(), lambda: replace(read(), calibrated=True))
        made["shuffled texts, calibrated"] = arm(
            AdaptorConfig(), lambda: replace(read(), calibrated=True).shuffled(seed)
        )
    return made


def arms(seed: int) -> dict[str, float]:
    """Return the AUC of each arm: "<arm>, warm" and "<arm>, cold"."""
    return {
        f"{name}, {which}": value
        for name, run in runs(seed).items()
        for which, value in zip(("warm", "cold"), run(), strict=True)
    }


def main(
    seeds: Annotated[int, typer.Option(help="worlds and trainings")] = 3,
    text: Annotated[bool, typer.Option(help="three arms more: texts through the templates and MiniLM")] = False,
) -> None:
    """Print the AUC of all arms, mean ± standard deviation over seeds, and CPU seconds."""
    table = Table(title="Planted knowledge: AUC", title_justify="left")
    for name in ("arm", "warm", "cold", "must be", "CPU seconds"):
        table.add_column(name, justify="left" if name in ("arm", "must be") else "right")
    found: dict[str, list[tuple[float, float]]] = {}
    used: dict[str, float] = {}
    for seed in range(seeds):
        for name, run in runs(seed, text).items():
            started = time.process_time()
            found.setdefault(name, []).append(run())
            used[name] = used.get(name, 0) + time.process_time() - started
    must = {"KAR": "oracle - 0.03, ids only + 0.15", PLACEBO: "0.5 ± 0.04"}
    for name, values in found.items():
        mean, spread = np.mean(values, 0), np.std(values, 0, ddof=1 if seeds > 1 else 0)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, spread, strict=True)]
        table.add_row(name, *cells, must.get(name, ""), f"{used[name] / seeds:.1f}")
    Console(width=120).print(table)
    typer.echo(f"{seeds} seeds; {cores()} cores, {cpu_name()}, {torch.get_num_threads()} threads of torch")


if __name__ == "__main__":
    typer.run(main)
