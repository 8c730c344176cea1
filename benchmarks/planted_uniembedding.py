"""UniEmbedding on planted data: tastes shared by two domains, each shown by another modality.

Items of domain A show their taste in modality a only, those of B in modality b only; the other modality shows a taste
drawn at random. A user has one or two tastes and takes items of them from both domains. Users of the evaluation are
never trained on, and `COLD` items of each taste and domain are in no training history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.planted_arms import Run, figures_of, over_seeds, rows
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.uniembedding import UniEmbedding, UniEmbeddingConfig
from common.representation.uniembedding.losses import see

TASTES, WARM, COLD, DIM = 40, 5, 2, 16
TRAIN, TEST, TAKEN = 600, 300, 14
FIGURES = ("cross", "cross cold", "intra 1", "intra 2", "gate")
FIT = {"epochs": 12, "learning_rate": 5e-3, "schedule": {"type": "cosine", "warmup_steps": 20}, "figure": "score"}
SETTINGS: dict[str, Any] = {"dim": 32, "hidden": 64, "batch_size": 256, "validation": 0.0, "fit": FIT}


@dataclass(frozen=True)
class World:
    """Items of two domains, histories to train on, and users of the evaluation.

    Attributes
    ----------
    taste
        int64 [N], of each item.
    cold
        bool [N]: in no training history.
    tests
        Histories over all items, cold ones too; `tastes` int64 [U, 2] are the users' (equal: one taste).
    """

    items: Items
    taste: np.ndarray
    cold: np.ndarray
    train: Behaviour
    tests: Behaviour
    tastes: np.ndarray


def make_world(seed: int, train: int = TRAIN, tests: int = TEST, noise: float = 0.3) -> World:
    """Return a planted world; same seed, same bytes."""
    rng = np.random.default_rng(seed)
    each = WARM + COLD
    domain, taste, number = (a.reshape(-1) for a in np.mgrid[0:2, 0:TASTES, 0:each])
    codes = rng.normal(size=(2, TASTES, DIM))
    shown = [np.where(domain == m, taste, rng.integers(0, TASTES, len(taste))) for m in range(2)]
    vectors = [codes[m][shown[m]] + noise * rng.normal(size=(len(taste), DIM)) for m in range(2)]
    modalities = {
        n: Tokens.pooled(v.astype(np.float32), encoder=f"planted-{n}") for n, v in zip("ab", vectors, strict=True)
    }
    ids = np.arange(len(taste))
    items = Items(ids, [""] * len(ids), modalities, domain.astype(np.int64), ("A", "B"))
    cold = number >= WARM
    warm_users, _ = _histories(rng, taste, ~cold, train, TAKEN)
    test_users, tastes = _histories(rng, taste, np.ones(len(ids), bool), tests, 2 * TAKEN)
    return World(items, taste, cold, warm_users, test_users, tastes)


def _histories(rng: np.random.Generator, taste: np.ndarray, allowed: np.ndarray, users: int, taken: int) -> Any:
    """Return histories of at most `taken` items in a random order, and the users' tastes [U, 2]."""
    tastes = np.stack([rng.choice(TASTES, 2, replace=False) for _ in range(users)])
    tastes[: users // 2, 1] = tastes[: users // 2, 0]
    rows = [rng.permutation(np.flatnonzero(np.isin(taste, own) & allowed))[:taken] for own in tastes]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
    return Behaviour(np.arange(users), np.concatenate(rows).astype(np.int64), offsets), tastes


def recall(scores: np.ndarray, wanted: np.ndarray, k: int = 10) -> float:
    """Return |the k best candidates that are wanted| / min(k, |wanted|); ties are broken by place."""
    best = np.argsort(-scores, kind="stable")[:k]
    return float(wanted[best].sum() / min(k, wanted.sum()))


def unit(x: np.ndarray) -> np.ndarray:
    """Return rows of norm 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def cross_recall(world: World, e: np.ndarray, cold: bool = False) -> float:
    """Return Recall@10 of a test user's items of one domain, asked by the mean of those of the other; both ways.

    `cold`: among cold items only.
    """
    e, domain, found = unit(e), world.items.domain_of, []
    for user in range(len(world.tests)):
        mine = world.tests.history(user)
        for source in (0, 1):
            pool = np.flatnonzero((domain != source) & (world.cold if cold else True))
            wanted = np.isin(pool, mine)
            asked = mine[(domain[mine] == source) & ~(world.cold[mine] & cold)]
            if wanted.any() and len(asked):
                found.append(recall(e[pool] @ e[asked].mean(0), wanted))
    return float(np.mean(found))


def chance_figures(world: World, seed: int, draws: int = 10) -> dict[str, float]:
    """Return the mean figures of random vectors."""
    rng = np.random.default_rng([seed, 9])
    found = [vector_figures(world, rng.normal(size=(len(world.taste), 64))) for _ in range(draws)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def intra_recall(world: World, e: np.ndarray, model: UniEmbedding | None = None, interests: int = 2) -> float:
    """Return Recall@10 of a test user's held-out items of a domain, asked by one item of the rest of the history.

    With a `model` query and candidates are seen through the user's view, made of that rest.
    """
    domain, found, rows, contexts, held = world.items.domain_of, [], [], [], []
    for user, own in enumerate(world.tastes):
        mine = world.tests.history(user)
        if (own[0] != own[1]) != (interests == 2):
            continue
        for source in (0, 1):
            there = mine[domain[mine] == source]
            out = there[: len(there) // 2]
            if len(out) and len(there) > len(out):
                rows.append(source)
                held.append(out)
                contexts.append(mine[~np.isin(mine, out)])
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in contexts])]).astype(np.int64)
    views = None
    if model is not None:
        views = model.view(world.items, Behaviour(np.arange(len(rows)), np.concatenate(contexts), offsets)).columns
    for row, (source, out, context) in enumerate(zip(rows, held, contexts, strict=True)):
        pool = np.flatnonzero((domain == source) & ~np.isin(np.arange(len(e)), context))
        seen = e
        if views is not None:
            parts = (torch.from_numpy(x) for x in (e, views["scale"][row], views["shift"][row]))
            seen = see(*parts).numpy()
        seen = unit(seen)
        query = context[domain[context] == source][0]
        found.append(recall(seen[pool] @ seen[query], np.isin(pool, out)))
    return float(np.mean(found))


def fitted(world: World, seed: int, **changes: Any) -> UniEmbedding:
    """Return UniEmbedding fitted on the world's training users."""
    config = UniEmbeddingConfig.model_validate(SETTINGS | changes)
    return UniEmbedding(config).fit(world.items, world.train, seed=seed, say=lambda _: None)


def informative_gate(model: UniEmbedding) -> float:
    """Return the smaller weight that a domain's gate gives to its informative modality: a in A, b in B."""
    return float(model.gates().diagonal().min())


def figures(world: World, model: UniEmbedding) -> dict[str, float]:
    """Return the figures of a fitted model."""
    view = model if model.user_view is not None else None
    return vector_figures(world, model.embed(world.items), view) | {"gate": informative_gate(model)}


def vector_figures(world: World, e: np.ndarray, view: UniEmbedding | None = None) -> dict[str, float]:
    """Return the figures of item vectors [N, D]."""
    return {
        "cross": cross_recall(world, e),
        "cross cold": cross_recall(world, e, cold=True),
        "intra 1": intra_recall(world, e, view, 1),
        "intra 2": intra_recall(world, e, view, 2),
    }


def raw_vectors(world: World) -> np.ndarray:
    """Return both modalities side by side, each of norm 1: what frozen encoders give without a method."""
    return np.concatenate([unit(world.items.modalities[name].mean()) for name in "ab"], 1)


def shuffled_users(world: World, seed: int) -> World:
    """Return the world whose training items are dealt anew among users: nobody has a taste."""
    mixed = np.random.default_rng([seed, 7]).permutation(world.train.items)
    return replace(world, train=replace(world.train, items=mixed))


def shuffled_vectors(world: World, seed: int) -> World:
    """Return the world whose vectors are dealt anew among items: they tell nothing of an item never trained on."""
    order = np.random.default_rng([seed, 8]).permutation(len(world.items))
    mixed = {name: tokens.take(order) for name, tokens in world.items.modalities.items()}
    return replace(world, items=replace(world.items, modalities=mixed))


def oracle_figures(world: World) -> dict[str, float]:
    """Return what the true tastes reach: items of one of the user's tastes come first, whatever the query."""
    e = np.eye(TASTES)[world.taste]
    best = vector_figures(world, e)
    return best | {"intra 2": 1.0}  # a test user has all items of both tastes; at most 7 of them are held out


def trained(world: World, seed: int, **changes: Any) -> Run:
    """Return what fits an arm and computes its figures."""
    return lambda: figures(world, fitted(world, seed, **changes))


def all_arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    world = make_world(seed)
    yield "UniEmbedding", trained(world, seed)
    yield "oracle (true tastes)", lambda: oracle_figures(world)
    yield "chance (random vectors)", lambda: chance_figures(world, seed)
    yield "frozen vectors, cosine", lambda: vector_figures(world, raw_vectors(world))
    yield "placebo: shuffled users", trained(shuffled_users(world, seed), seed)
    yield "placebo: shuffled vectors", trained(shuffled_vectors(world, seed), seed)
    yield "no inter-domain loss", trained(world, seed, inter_weight=0)
    yield "no intra-domain loss", trained(world, seed, intra_weight=0)
    yield "no view projection", trained(world, seed, view=False)
    yield "no domain-aware adapter", trained(world, seed, domain_aware=False)
    yield "no gate (mean)", trained(world, seed, gate=False)
    yield "no view, no inter-domain loss", trained(world, seed, view=False, inter_weight=0)
    yield "history_gradient", trained(world, seed, history_gradient=True)
    yield "history_gradient, no inter-domain loss", trained(world, seed, history_gradient=True, inter_weight=0)


def arms(seed: int) -> dict[str, float]:
    """Return every figure of every arm, by "arm: figure"."""
    return figures_of(all_arms, seed)


def table(seeds: int) -> Iterator[str]:
    """Yield the lines of the table, and the requirements."""
    found, took = over_seeds(all_arms, seeds)
    yield from rows(found, took, FIGURES)
    yield from verdicts({name: {f: float(np.mean(v)) for f, v in values.items()} for name, values in found.items()})


def verdicts(mean: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield each requirement with the means it is about."""
    full, chance = mean["UniEmbedding"], mean["chance (random vectors)"]
    without, flat = mean["no inter-domain loss"]["cross"], mean["no view projection"]["intra 2"]
    raw = mean["frozen vectors, cosine"]
    users, vectors = mean["placebo: shuffled users"]["cross"], mean["placebo: shuffled vectors"]["cross cold"]
    for what, holds in (
        (f"cross {full['cross']:.3f} >= 3 x chance {chance['cross']:.3f}", full["cross"] >= 3 * chance["cross"]),
        (f"without the inter-domain loss {without:.3f}: 30 % lower", without <= 0.7 * full["cross"]),
        (f"two interests: without the view {flat:.3f} < {full['intra 2']:.3f}", flat < full["intra 2"]),
        (f"frozen vectors, two domains {raw['cross']:.3f} < {full['cross']:.3f}", raw["cross"] < full["cross"]),
        (f"frozen vectors, one domain {raw['intra 1']:.3f} < {full['intra 1']:.3f}", raw["intra 1"] < full["intra 1"]),
        (f"gate {full['gate']:.3f} >= 0.7", full["gate"] >= 0.7),
        (f"shuffled users {users:.3f} within 0.04 of chance", abs(users - chance["cross"]) <= 0.04),
        (f"shuffled vectors, cold, {vectors:.3f} within 0.04 of chance", abs(vectors - chance["cross cold"]) <= 0.04),
    ):
        yield f"{'holds' if holds else 'FAILS'}: {what}"


def main(seeds: Annotated[int, typer.Option(min=1, help="Planted worlds, each fitted with its own seed")] = 3) -> None:
    """Print UniEmbedding's figures on planted data beside oracle, chance, placebos and ablations."""
    torch.set_num_threads(1)
    for line in table(seeds):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
