"""Generators and baselines on planted sequences: a tree of 8 x 8 x 4 items, a cycle through its 64 clusters.

1,100 users of 11 items each: nine to train, one valid, one test. The chain (stay 0.85) states the best Recall@10.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.config import make_config
from common.generative.config import RunConfig
from common.generative.evaluate import evaluate
from common.generative.run import Prepared, prepare, recommender
from common.generative.sequences import Sequences, from_lists
from common.planted import ClusterChain, tree_vectors
from common.tokenizers.semantic_ids import SemanticIdMap

BRANCHING = (8, 8, 4)
SMALL = {"dim": 64, "heads": 4, "feedforward": 128, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1}
TRAIN = {"learning_rate": 2e-3, "patience": 100, "valid_users": 200, "evaluate_every": 4, "batch_size": 256}


@dataclass(frozen=True)
class World:
    """Planted items, their paths in the tree, the chain, and users' sequences over them."""

    data: Sequences
    paths: np.ndarray
    chain: ClusterChain


def make_world(seed: int, users: int = 1100, length: int = 11) -> World:
    """Return a planted world; same seed, same bytes."""
    items = int(np.prod(BRANCHING))
    vectors, paths = tree_vectors(items, 32, BRANCHING, 0.05, seed)
    chain = ClusterChain(paths, stay=0.85, seed=seed)
    data = from_lists(chain.sequences(users, length, seed), items, embeddings=vectors, name="planted")
    return World(data, paths, chain)


def arm_config(model: str, ids: str, epochs: int, seed: int, **nearest: object) -> RunConfig:
    """Return the configuration of one arm."""
    size = {**SMALL, "max_items": 10}
    values = {
        "name": f"{model} {ids}",
        "model": model,
        "ids": ids,
        "seed": seed,
        "tokenizer": {"codebook_sizes": [8, 8, 8]},
        "tiger": size,
        "sasrec": {**size, "decoder_layers": 0},
        "train": {**TRAIN, "epochs": epochs},
        "evaluate": {"beam": 20},
        "nearest": nearest,
    }
    return make_config(RunConfig, values, (), "planted")


def shuffled(run: Prepared, seed: int) -> Prepared:
    """Return the run with the training items of all users shuffled: nothing is left to learn but popularity."""
    train = run.split.train
    mixed = np.random.default_rng(seed).permutation(train.items)
    return replace(run, split=replace(run.split, train=replace(train, items=mixed)))


def without_items(run: Prepared, cold: np.ndarray) -> Prepared:
    """Return the run whose training part lacks the items `cold`, and whose test targets are these only."""
    train, test = run.split.train, run.split.test
    kept = ~np.isin(train.items, cold)
    user = np.repeat(np.arange(len(train.users)), train.lengths)[kept]
    counts = np.bincount(user, minlength=len(train.users))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cut = replace(train, items=train.items[kept], offsets=offsets)
    split = replace(run.split, train=cut, test=test.take(np.flatnonzero(np.isin(test.targets, cold))))
    return replace(run, split=split)


def cold_items(world: World, seed: int) -> np.ndarray:
    """Return one item of every second cluster: never trained on, though its cluster is."""
    rng = np.random.default_rng((seed, 5))
    clusters = rng.permutation(world.chain.clusters)[: world.chain.clusters // 2]
    return np.array([rng.choice(np.flatnonzero(world.chain.cluster == c)) for c in clusters])


def recall_at_10(world: World, config: RunConfig, change: Callable[[Prepared], Prepared] = lambda run: run) -> float:
    """Train an arm in a temporary folder; return its Recall@10 on test."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if config.ids == "planted":
            SemanticIdMap.from_codes(world.paths, BRANCHING, dedup="raise").save(folder / "planted")
            config = config.model_copy(update={"ids": str(folder / "planted")})
        run = change(prepare(config, world.data, folder / "run", "cpu", lambda _: None))
        report = evaluate(recommender(run), run.split.test, ks=(10,), depth=config.evaluate.beam)
    return report.figures["Recall@10"].mean


def arms(world: World, epochs: int, seed: int) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield each arm's name and what computes its Recall@10."""

    def arm(
        model: str, ids: str = "ours", change: Callable[[Prepared], Prepared] = lambda run: run
    ) -> Callable[[], float]:
        return lambda: recall_at_10(world, arm_config(model, ids, epochs, seed), change)

    cold = cold_items(world, seed)
    yield "TIGER, planted IDs", arm("tiger", "planted")
    yield "TIGER, our IDs (RQ-KMeans of item vectors)", arm("tiger")
    yield "TIGER, random IDs", arm("tiger", "random")
    yield "TIGER, one code an item (atomic)", arm("tiger", "atomic")
    yield "SASRec", arm("sasrec")
    yield "popularity", arm("popularity")
    yield "nearest to the last item", arm("nearest")
    yield "TIGER, planted IDs, shuffled training", arm("tiger", "planted", lambda run: shuffled(run, seed))
    yield "cold items: TIGER, planted IDs", arm("tiger", "planted", lambda run: without_items(run, cold))
    yield "cold items: TIGER, atomic", arm("tiger", "atomic", lambda run: without_items(run, cold))


def planted_table(seeds: int, epochs: int) -> Iterator[str]:
    """Yield the lines of the table."""
    found: dict[str, list[float]] = {}
    took: dict[str, float] = {}
    best: list[float] = []
    for seed in range(seeds):
        world = make_world(seed)
        best.append(world.chain.recall(10))
        for name, compute in arms(world, epochs, seed):
            started = time.process_time()
            found.setdefault(name, []).append(compute())
            took[name] = took.get(name, 0.0) + time.process_time() - started
    yield "| arm | Recall@10 | CPU s a seed |"
    yield "|---|---|---|"
    yield f"| oracle (true transition probabilities) | {np.mean(best):.3f} | |"
    for name, values in found.items():
        yield f"| {name} | {np.mean(values):.3f} ± {np.std(values):.3f} | {took[name] / seeds:.1f} |"
