"""TIGER on a planted Markov chain over the clusters of a tree of items (facts: section 3, "Generator").

256 items are the leaves of an 8 x 8 x 4 tree; the next item is, with probability .85, one of the four under the
node that follows the last item's. The best Recall@10 that anything can reach is .857. Measured with seeds 0, 1, 2
and 200 steps: planted IDs .840, .848, .845; random IDs .069, .102, .099; atomic IDs .817, .821, .835; shuffled
training items .067, .060, .054; popularity .058, .064, .046.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch

from common.generative.tiger import Tiger, TigerBatch, TigerConfig
from common.generative.training import FitConfig, fit_generator
from common.planted import ClusterChain, tree_vectors
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.schedule import ScheduleConfig

BRANCHING = (8, 8, 4)
ITEMS = 256
FAST: dict[str, Any] = {"dim": 32, "heads": 4, "feedforward": 128, "encoder_layers": 1, "decoder_layers": 1}
Ids = Literal["planted", "random", "atomic"]


@cache
def planted(seed: int) -> tuple[np.ndarray, ClusterChain, np.ndarray]:
    """Return the paths of the items, the chain, and 1,100 sequences of 9."""
    paths = tree_vectors(ITEMS, branching=BRANCHING, seed=seed)[1]
    chain = ClusterChain(paths, stay=0.85, seed=seed)
    return paths, chain, np.stack(chain.sequences(1100, 9, seed))


def make_ids(kind: Ids, paths: np.ndarray, seed: int) -> SemanticIdMap:
    if kind == "random":
        return SemanticIdMap.random(ITEMS, BRANCHING, 1000 + seed)  # not the permutation that the tree was drawn with
    return SemanticIdMap.atomic(ITEMS) if kind == "atomic" else SemanticIdMap.from_sids(paths, BRANCHING)


def trained(ids: SemanticIdMap, sequences: list[np.ndarray], seed: int, epochs: int, **options: Any) -> Tiger:
    torch.manual_seed(seed)
    model = Tiger(TigerConfig.model_validate({**FAST, "dropout": 0.0, **options}), ids)
    offsets = np.cumsum([0, *map(len, sequences)])
    batches = model.batches(np.concatenate(sequences), offsets, seed=seed, batch_size=330)
    fit = FitConfig(epochs=epochs, learning_rate=1e-2, schedule=ScheduleConfig(type="cosine", warmup_steps=20))
    fit_generator(model, batches, fit, seed=seed)
    return model


def recall(model: Tiger, histories: np.ndarray, targets: np.ndarray) -> float:
    batch = TigerBatch.of(list(histories))
    found = model.generate(batch, model.trie(), beam=20, top_k=10).items.numpy()
    return float((found == targets[:, None]).any(1).mean())


@cache
def arm(kind: Ids, *, seed: int = 0, epochs: int = 9, shuffled: bool = False, **options: Any) -> float:
    """Return Recall@10 of the last item of each sequence, after training on the others."""
    paths, _, sequences = planted(seed)
    known = sequences[:, :-1]
    if shuffled:
        known = np.random.default_rng(seed).permuted(known.reshape(-1)).reshape(known.shape)
    model = trained(make_ids(kind, paths, seed), list(known), seed, epochs, **options)
    return recall(model, sequences[:, :-1], sequences[:, -1])


def popularity(seed: int = 0) -> float:
    sequences = planted(seed)[2]
    most = np.argsort(-np.bincount(sequences[:, :-1].reshape(-1), minlength=ITEMS), kind="stable")[:10]
    return float(np.isin(sequences[:, -1], most).mean())


def test_planted_ids_are_learnt_and_random_ones_are_not() -> None:
    got, best = arm("planted"), planted(0)[1].recall(10)
    assert got >= 0.82
    assert got <= best + 3 * (best * (1 - best) / 1100) ** 0.5  # more than the chain's own is a leak
    assert got >= 2 * arm("random")
    assert got >= 5 * popularity()


def test_shuffled_training_items_teach_nothing() -> None:
    assert arm("planted", shuffled=True) <= popularity() + 0.04


def test_the_papers_encoder_learns_it_too() -> None:
    # each example is a row of its own: fewer epochs fit the time
    got = arm("planted", epochs=3, attention="bidirectional", history="items")
    assert got >= 0.3  # measured .447; random IDs, with three times the epochs, .069


@cache
def cold_start(kind: Ids, seed: int, epochs: int) -> tuple[float, float]:
    """Return Recall@10 of items that training never saw (one of the four in 16 nodes), and of the others."""
    paths, chain, sequences = planted(seed)
    cold = np.concatenate([np.flatnonzero(chain.cluster == node)[:1] for node in range(0, chain.clusters, 4)])
    known = [one[~np.isin(one, cold)] for one in sequences[:, :-1]]
    model = trained(make_ids(kind, paths, seed), [one for one in known if len(one) > 1], seed, epochs)
    fresh = np.stack(chain.sequences(4000, 9, seed + 50))
    is_cold = np.isin(fresh[:, -1], cold)
    fresh = fresh[~np.isin(fresh[:, :-1], cold).any(1)]
    is_cold = np.isin(fresh[:, -1], cold)
    both = (recall(model, fresh[rows][:, :-1], fresh[rows][:, -1]) for rows in (is_cold, ~is_cold))
    return next(both), next(both)


def test_items_never_seen_are_found_through_their_prefix_and_atomic_ones_are_not() -> None:
    semantic, warm = cold_start("planted", 0, 9)
    atomic, _ = cold_start("atomic", 0, 9)
    assert warm >= 0.72  # seeds 0, 1, 2: .826, .843, .784
    assert semantic >= 0.28  # .619, .713, .494
    assert atomic <= 0.01  # 0 with seed 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_full_comparison(seed: int) -> None:
    size = {"dim": 64, "feedforward": 256, "encoder_layers": 2, "decoder_layers": 2}
    got, random, atomic, shuffled = (
        arm("planted", seed=seed, epochs=17, **size),
        arm("random", seed=seed, epochs=17, **size),
        arm("atomic", seed=seed, epochs=17, **size),
        arm("planted", seed=seed, epochs=17, shuffled=True, **size),
    )
    assert got >= 0.75
    assert got >= 2 * random
    assert got >= 5 * popularity(seed)
    assert got >= 0.95 * atomic
    assert shuffled <= popularity(seed) + 0.05
