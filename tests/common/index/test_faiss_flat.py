"""Exact search by a matrix product first: to the bit what FAISS sums one product at a time."""

from pathlib import Path

import numpy as np
import pytest

from common.index.faiss_flat import Threshold, faiss_module, one_by_one
from common.index.faiss_index import FaissIndex

KINDS = ("spread", "nearly equal", "equal")


def vectors_of(kind: str, n: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(len(kind))
    if kind == "spread":
        return rng.normal(size=(n, dim)).astype(np.float32)
    noise = 2e-7 if kind == "nearly equal" else 0.0  # a few last bits: their order depends on the order of the sums
    return (rng.normal(size=dim) + noise * rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [1, 10, 100])
def test_scores_are_those_of_single_products_to_the_bit(kind: str, wanted: int) -> None:
    vectors = vectors_of(kind, 1500, 96)
    index = faiss_module().IndexFlatIP(96)
    index.add(vectors)
    queries = np.concatenate([vectors[:20], vectors_of("spread", 20, 96)])
    with Threshold(2**31 - 1):
        expected = index.search(queries, wanted)
    length = float(np.linalg.norm(vectors, axis=1).max())
    found = one_by_one(index.search, index.reconstruct_batch, 1500, length, queries)(wanted)
    np.testing.assert_array_equal(found[0], expected[0])
    if kind == "spread":
        np.testing.assert_array_equal(found[1], expected[1])
    with Threshold(0):  # what the second look is for: the product alone sums otherwise
        product = index.search(queries, wanted)
    assert kind == "equal" or (product[0] != expected[0]).any()


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("allowed", [None, 700])
def test_a_query_is_answered_alike_alone_and_among_others(tmp_path: Path, loaded: bool, allowed: int | None) -> None:
    vectors = np.concatenate([vectors_of("spread", 1200, 48), vectors_of("nearly equal", 300, 48)])
    vectors[1000:1200] = vectors[:200]
    index = FaissIndex(48, threads=1)
    index.add(vectors[:1100], np.arange(1100)[::-1])
    index.add(vectors[1100:], np.arange(1100, 1500))
    if loaded:
        index.save(tmp_path / "index")
        index = FaissIndex.load(tmp_path / "index", threads=1)
    candidates = None if allowed is None else np.random.default_rng(0).permutation(1500)[:allowed]
    queries = vectors[::40]
    scores, ids = index.search(queries, 12, candidates)
    for row, query in enumerate(queries):
        alone = index.search(query[None], 12, candidates)
        np.testing.assert_array_equal(scores[row], alone[0][0])
        np.testing.assert_array_equal(ids[row], alone[1][0])


def test_the_threshold_is_put_back_whatever_happens() -> None:
    before = faiss_module().cvar.distance_compute_blas_threshold
    with pytest.raises(KeyError), Threshold(7):
        assert faiss_module().cvar.distance_compute_blas_threshold == 7
        raise KeyError
    assert faiss_module().cvar.distance_compute_blas_threshold == before
