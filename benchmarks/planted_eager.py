"""EAGER on planted data: each item has a behaviour cluster and a semantic cluster, independent, and both predict.

    python -m benchmarks.planted_eager --seeds 3
    python -m benchmarks.planted_eager --speed-at 12000

A user's next item is of the behaviour cluster that follows the last item's, and of the semantic cluster that follows
the last item's, each with probability 0.85 (else a random cluster). Behaviour vectors show the one cluster, semantic
vectors the other; IDs are balanced trees on them. 400 users of nine
items to train on; 1,000 others, whose ninth is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.planted_arms import Run, Values, over_seeds, rows
from common.generative.eager.config import EagerConfig, Fusion, StreamName
from common.generative.eager.model import Eager
from common.generative.sequences import Sequences, from_lists
from common.generative.tiger import Tiger, TigerBatch, TigerConfig
from common.generative.training import FitConfig, fit_generator
from common.tokenizers.balanced_tree import BalancedKMeansTree
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.schedule import ScheduleConfig

CLUSTERS, EACH, STAY, DIM = 8, 16, 0.85, 32
"""Clusters of a kind, items of each pair of clusters, probability to keep to the rule, width of vectors."""
SIZE: dict[str, Any] = {"dim": 48, "heads": 4, "feedforward": 96, "decoder_layers": 1, "dropout": 0.1, "max_items": 10}
FIGURES = ("fused", "concatenated", "behaviour alone", "semantic alone", "est", "est shuffled", "cos own", "cos others")


@dataclass(frozen=True, eq=False)
class World:
    """Planted items, their two clusters, vectors, and users' sequences."""

    clusters: np.ndarray
    """int [N, 2]: behaviour, semantic."""
    follows: np.ndarray
    """int [2, CLUSTERS]: the cluster that follows each."""
    vectors: Mapping[StreamName, np.ndarray]
    train: Sequences
    test: np.ndarray
    """int [T, length]: sequences of other users, whose last item is asked for."""
    seed: int

    @cached_property
    def ids(self) -> dict[StreamName, SemanticIdMap]:
        """Balanced trees on the vectors."""
        return {name: tree(one, self.seed) for name, one in self.vectors.items()}

    def oracle(self, k: int) -> float:
        """Return Recall@k on test of the k most probable items behind the true last item."""
        last = self.test[:, -2]
        chances = np.ones((len(last), len(self.clusters)))
        for kind in range(2):
            right = self.follows[kind][self.clusters[last, kind]][:, None] == self.clusters[None, :, kind]
            chances *= STAY * right + (1 - STAY) / CLUSTERS  # and even in a pair
        order = np.argsort(-chances, axis=1, kind="stable")[:, :k]
        return float((order == self.test[:, -1:]).any(1).mean())


def make_world(seed: int, users: int = 400, fresh: int = 1000, each: int = EACH, length: int = 9) -> World:
    """Return a planted world with `each` items for each pair of clusters; same seed, same bytes."""
    rng = np.random.default_rng((seed, 41))
    pairs = rng.permutation(CLUSTERS**2 * each) // each
    clusters = np.stack(np.divmod(pairs, CLUSTERS), axis=1)
    follows = np.stack([_cycle(rng), _cycle(rng)])
    of_pair = np.argsort(pairs, kind="stable").reshape(CLUSTERS, CLUSTERS, each)
    everyone = users + fresh
    at = rng.integers(0, CLUSTERS, (everyone, 2))
    walk = np.empty((everyone, length), np.int64)
    for step in range(length):
        walk[:, step] = of_pair[at[:, 0], at[:, 1], rng.integers(0, each, everyone)]
        leave = rng.random((everyone, 2)) >= STAY
        ahead = np.stack([follows[kind][at[:, kind]] for kind in range(2)], axis=1)
        at = np.where(leave, rng.integers(0, CLUSTERS, (everyone, 2)), ahead)
    vectors: dict[StreamName, np.ndarray] = {
        "behaviour": _vectors(clusters[:, 0], rng),
        "semantic": _vectors(clusters[:, 1], rng),
    }
    train = from_lists(list(walk[:users]), len(clusters), name="planted")
    return World(clusters, follows, vectors, train, walk[users:], seed)


def _cycle(rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(CLUSTERS)
    follows = np.empty(CLUSTERS, np.int64)
    follows[order] = np.roll(order, -1)
    return follows


def _vectors(cluster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a vector for each item: its cluster's centre, and a deviation of its own half as long."""
    centres = rng.standard_normal((CLUSTERS, DIM))
    return (centres[cluster] + 0.5 * rng.standard_normal((len(cluster), DIM))).astype(np.float32)


def tree(vectors: np.ndarray, seed: int) -> SemanticIdMap:
    """Return the paths of a balanced tree with as many first branches as there are clusters."""
    branching = (CLUSTERS, len(vectors) // CLUSTERS)
    found = BalancedKMeansTree(branching).fit(vectors, seed=seed)
    return SemanticIdMap.from_codes(found.assigned_codes(vectors), branching, dedup="raise", version=found.version)


def other_items(world: World, seed: int) -> World:
    """Return the world with the training items of all users shuffled: nothing is left to learn but popularity."""
    mixed = np.random.default_rng((seed, 42)).permutation(world.train.items)
    return replace(world, train=replace(world.train, items=mixed))


def fit_config(epochs: int) -> FitConfig:
    """Return how arms are trained: all epochs, no early stop."""
    schedule = ScheduleConfig(type="cosine", warmup_steps=20)
    return FitConfig(epochs=epochs, learning_rate=4e-3, schedule=schedule)


def trained(world: World, epochs: int, batch_size: int = 128, **options: Any) -> Eager:
    """Return EAGER trained on the world's training part."""
    torch.manual_seed(world.seed)
    config = EagerConfig.model_validate({**SIZE, **options})
    model = Eager.with_vectors(config, world.ids["behaviour"], world.ids["semantic"], world.vectors)
    train = world.train
    batches = model.batches(train.items, train.offsets, seed=world.seed, batch_size=batch_size)
    fit_generator(model, batches, fit_config(epochs), seed=world.seed)
    return model


def trained_tiger(world: World, epochs: int, name: StreamName) -> Tiger:
    """Return TIGER of the same width on one stream's IDs, for as many epochs."""
    torch.manual_seed(world.seed)
    config = TigerConfig.model_validate({**SIZE, "encoder_layers": 1, "loss": "trie"})
    model, train = Tiger(config, world.ids[name]), world.train
    batches = model.batches(train.items, train.offsets, seed=world.seed, batch_size=128)
    fit_generator(model, batches, fit_config(epochs), seed=world.seed)
    return model


def questions(world: World) -> TigerBatch:
    """Return the test histories, with their targets."""
    batch = TigerBatch.of(list(world.test[:, :-1]))
    return replace(batch, target=torch.from_numpy(world.test[:, -1]))


def recall(model: Eager | Tiger, asked: TigerBatch, beam: int = 100) -> float:
    """Return Recall@10."""
    assert asked.target is not None
    found = model.generate(replace(asked, target=None), model.trie(), beam=beam, top_k=10).items
    return float((found == asked.target[:, None]).any(1).float().mean())


def estimates(model: Eager, asked: TigerBatch, seed: int) -> tuple[float, float]:
    """Return the accuracy of the estimate with the right guides and with guides dealt to other items."""
    torch.manual_seed(seed)
    others = torch.from_numpy(np.roll(np.arange(len(asked)), 1))
    right, wrong = (torch.cat([a > 0, b <= 0]).float().mean() for a, b in _both(model, asked, others))
    return float(right), float(wrong)


def _both(model: Eager, asked: TigerBatch, others: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield model.estimates(asked)
    yield model.estimates(asked, guides=others)


def closeness(model: Eager, asked: TigerBatch) -> tuple[float, float]:
    """Return the mean cosine of summaries with their item's vector and with the other items', the lower stream's."""
    found = []
    for name in model.contrast:
        cosines, items = model.cosines(asked, name)  # pyright: ignore[reportArgumentType]
        own = cosines.gather(1, items[:, None]).sum()
        found.append((float(own / len(items)), float((cosines.sum() - own) / (cosines.numel() - len(items)))))
    return min(found, key=lambda pair: pair[0] - pair[1])


def figures(world: World, model: Eager) -> dict[str, float]:
    """Return Recall@10 of each fusion that the model allows, and how well it does its tasks."""
    asked = questions(world)
    made: dict[str, Fusion] = {"fused": "confidence", "concatenated": "concatenate"}
    made |= {"behaviour alone": "behaviour", "semantic alone": "semantic"}
    if model.config.streams != "both":
        return {f"{model.config.streams} alone": recall(model, asked)}
    found = {name: recall(model.answer_by(fusion), asked) for name, fusion in made.items()}
    if model.transfer is not None and model.config.est > 0:
        found["est"], found["est shuffled"] = estimates(model, asked, world.seed)
    if model.contrast:
        found["cos own"], found["cos others"] = closeness(model, asked)
    return found


def arms(seed: int, epochs: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    world = make_world(seed)

    def arm(of: World = world, **options: Any) -> Run:
        return lambda: figures(of, trained(of, epochs, **options))

    yield "oracle (true transition probabilities)", lambda: {"fused": world.oracle(10)}
    yield "EAGER", arm()
    yield "shuffled training", arm(other_items(world, seed))
    yield "popularity", lambda: {"fused": popularity(world)}
    yield "behaviour stream trained alone", arm(streams="behaviour")
    yield "semantic stream trained alone", arm(streams="semantic")
    yield (
        "TIGER on behaviour IDs",
        lambda: {"behaviour alone": recall(trained_tiger(world, epochs, "behaviour"), questions(world))},
    )
    yield (
        "TIGER on semantic IDs",
        lambda: {"semantic alone": recall(trained_tiger(world, epochs, "semantic"), questions(world))},
    )
    yield "without contrastive task", arm(gct=0.0)
    yield "without transfer task", arm(recon=0.0, est=0.0)
    yield "without both", arm(gct=0.0, recon=0.0, est=0.0)
    yield "contrastive task as published (weights 1, 10)", arm(gct=1.0)
    yield "shared encoder", arm(encoder="shared")
    yield "history: items", arm(history="items")


def popularity(world: World) -> float:
    """Return Recall@10 of the most frequent items."""
    counts = np.bincount(world.train.items, minlength=len(world.clusters))
    most = np.argsort(-counts, kind="stable")[:10]
    return float(np.isin(world.test[:, -1], most).mean())


def criteria(found: Values) -> Iterator[tuple[str, bool]]:
    """Yield the tests of the method on means over seeds, and whether each is met."""

    def mean(arm: str, figure: str) -> float:
        return float(np.mean(found[arm][figure]))

    fused, joined = mean("EAGER", "fused"), mean("EAGER", "concatenated")
    single = max(float(np.mean(values[f])) for values in found.values() for f in FIGURES[2:4] if f in values)
    est, luck = mean("EAGER", "est"), mean("EAGER", "est shuffled")
    own, others = mean("EAGER", "cos own"), mean("EAGER", "cos others")
    mixed, popular = mean("shuffled training", "fused"), mean("popularity", "fused")
    yield f"fused - best single stream of any arm = {fused - single:.3f} (at least 0.03)", fused >= single + 0.03
    yield f"fused - concatenated = {fused - joined:.3f} (at least 0)", fused >= joined
    yield (
        f"estimate {est:.3f} (at least 0.8), with others' guides {luck:.3f} (0.45..0.55)",
        (est >= 0.8 and abs(luck - 0.5) <= 0.05),
    )
    yield (
        f"cos with own vector {own:.3f} (above 0.5), with others' {others:.3f} (0.3 less)",
        (own > 0.5 and own > others + 0.3),
    )
    yield f"shuffled training {mixed:.3f}, popularity {popular:.3f} (at most 0.02 above)", mixed <= popular + 0.02
    for arm in ("without contrastive task", "without transfer task", "without both"):
        gain = fused - mean(arm, "fused")
        yield f"fused - {arm} = {gain:.3f} (above 0)", gain > 0


def speed(items: int, dim: int = 96, queries: int = 64) -> Iterator[str]:
    """Yield a table: a training step of 256 targets, and answers, of EAGER and of TIGER of the same width."""
    rng = np.random.default_rng(0)
    first = math.isqrt(items - 1) + 1
    ids, other = (SemanticIdMap.random(items, (first, -(-items // first)), seed) for seed in (1, 2))
    widths: dict[StreamName, int] = {"behaviour": 64, "semantic": 384}
    vectors: dict[StreamName, np.ndarray] = {
        name: rng.standard_normal((items, width), dtype=np.float32)
        for name, width in widths.items()
        if items <= 100_000
    }  # beyond that, answers are what counts, and vectors are gigabytes
    size = {"dim": dim, "heads": 4, "feedforward": 4 * dim, "encoder_layers": 1, "decoder_layers": 2}
    plain = EagerConfig.model_validate({**size, "gct": 0.0, "recon": 0.0, "est": 0.0})
    trie_loss = TigerConfig.model_validate({**size, "loss": "trie", "history": "items"})
    models: dict[str, Eager | Tiger] = {
        "EAGER" if vectors else "EAGER, without contrastive task": Eager.with_vectors(
            EagerConfig.model_validate(size), ids, other, vectors
        ),
        "EAGER, codes alone": Eager(plain, ids, other),
        "TIGER, same width and IDs": Tiger(trie_loss, ids),
    }
    histories = TigerBatch.of(list(rng.integers(0, items, (queries, 10))))
    rows = rng.integers(0, items, 2560)
    yield f"| {items:,} items, {dim} wide | step, CPU ms | queries/s, beam 10 | queries/s, beam 50 |"
    yield "|---|---|---|---|"
    for name, model in models.items():
        batches = model.batches(rows, np.arange(0, 2561, 10), seed=0, batch_size=256)
        step = _seconds(lambda m=model, b=batches: m.loss(b.make(b.epoch(0)[0]))["loss"].backward(), 5)
        asked = [
            queries / _seconds(lambda m=model, w=wide: m.generate(histories, m.trie(), beam=w, top_k=10), 3)
            for wide in (10, 50)
        ]
        yield f"| {name} | {1000 * step:.0f} | {asked[0]:.0f} | {asked[1]:.0f} |"


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the median CPU seconds of a call, after one that is not counted."""
    call()
    found = []
    for _ in range(times):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return float(np.median(found))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3,
    epochs: Annotated[int, typer.Option(help="of each arm's training")] = 12,
    speed_at: Annotated[int, typer.Option(help="measure speed with so many items instead")] = 0,
) -> None:
    """Print the table of arms and the criteria, or of speed."""
    torch.set_num_threads(1)
    if speed_at:
        for line in speed(speed_at):
            typer.echo(line)
        return
    started = time.process_time()
    found, took = over_seeds(lambda seed: arms(seed, epochs), seeds)
    for line in rows(found, took, FIGURES):
        typer.echo(line)
    for text, met in criteria(found):
        typer.echo(f"{'met' if met else 'NOT met'}: {text}")
    typer.echo(f"{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    app()
