"""Cluster chains: the oracle's recall is reached by the true probabilities, and by nothing that knows less."""

import numpy as np
import pytest

from common.errors import ConfigError
from common.planted import ClusterChain, cluster_sequences, recall_of, tree_vectors


@pytest.fixture(scope="module")
def chain() -> ClusterChain:
    return ClusterChain(tree_vectors(256, branching=(8, 8, 4))[1], stay=0.85, seed=5)


def test_probabilities_are_those_of_the_walks(chain: ClusterChain) -> None:
    assert chain.clusters == 64
    p = chain.probabilities(np.arange(256))
    assert p.sum(1) == pytest.approx(np.ones(256))
    walks = np.stack(chain.sequences(20_000, 4, seed=1))
    counts = np.zeros((256, 256))
    np.add.at(counts, (walks[:, :-1].ravel(), walks[:, 1:].ravel()), 1)
    shares = counts / counts.sum(1, keepdims=True)
    assert abs(shares - p).max() < 0.16 and abs(shares - p).mean() < 0.003


def test_the_oracle_reaches_its_recall(chain: ClusterChain) -> None:
    walks = np.stack(chain.sequences(4000, 9, seed=2))
    for k in (1, 5, 10):
        ranking = chain.ranking(walks[:, -2], k)
        assert recall_of(ranking, walks[:, -1], k) == pytest.approx(chain.recall(k), abs=0.025)
    assert chain.recall(256) == pytest.approx(1)
    assert chain.recall(1000) == pytest.approx(1)
    assert chain.recall(1) < chain.recall(5) < chain.recall(10)


def test_shuffled_walks_and_popularity_are_far_below(chain: ClusterChain) -> None:
    walks = np.stack(chain.sequences(4000, 9, seed=2))
    other = np.random.default_rng(0).permutation(walks[:, -1])
    assert recall_of(chain.ranking(walks[:, -2], 10), other, 10) < 0.08
    popular = np.argsort(-np.bincount(walks[:, :-1].ravel(), minlength=256), kind="stable")[:10]
    assert recall_of(np.tile(popular, (4000, 1)), walks[:, -1], 10) < 0.12
    same = ClusterChain(chain.cluster, stay=0.85, seed=5, rule="same")
    assert recall_of(same.ranking(walks[:, -2], 10), walks[:, -1], 10) < 0.08, "the last cluster tells nothing"


def test_stay_zero_is_chance_and_stay_one_never_leaves() -> None:
    clusters = np.arange(60) % 6
    free = ClusterChain(clusters, stay=0.0, skew=0.0)
    assert free.recall(6) == pytest.approx(0.1)
    kept = ClusterChain(clusters, stay=1.0)
    walks = np.stack(kept.sequences(50, 7))
    assert (kept.successor[clusters[walks[:, :-1]]] == clusters[walks[:, 1:]]).all()
    loyal = np.stack(cluster_sequences(clusters, 50, 7, stay=1.0, rule="same"))
    assert (clusters[loyal] == clusters[loyal[:, :1]]).all()


def test_one_cycle_through_all_clusters() -> None:
    chain = ClusterChain(np.arange(12))
    at, seen = 0, set()
    for _ in range(12):
        seen.add(at)
        at = int(chain.successor[at])
    assert at == 0 and len(seen) == 12


def test_one_item_and_one_cluster() -> None:
    alone = ClusterChain(np.array([7]))
    assert [w.tolist() for w in alone.sequences(2, 3)] == [[0, 0, 0], [0, 0, 0]]
    assert alone.recall(1) == pytest.approx(1)


def test_same_seed_same_walks() -> None:
    codes = tree_vectors(64, branching=(4, 4, 4))[1]
    first, again, other = (cluster_sequences(codes, 20, 5, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first[0].dtype == np.int64


@pytest.mark.parametrize(
    ("codes", "stay", "users"),
    [
        (np.zeros((0,), int), 0.5, 1),
        (np.zeros((2, 2, 2), int), 0.5, 1),
        (np.zeros(3), 0.5, 1),
        (np.zeros(3, int), 1.5, 1),
        (np.zeros(3, int), float("nan"), 1),
        (np.zeros(3, int), 0.5, 0),
    ],
)
def test_bad_arguments_are_refused(codes: np.ndarray, stay: float, users: int) -> None:
    with pytest.raises(ConfigError):
        ClusterChain(codes, stay=stay).sequences(users, 3)
