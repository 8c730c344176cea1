"""Vectors, indexes over them, and what exact search finds among them."""

from pathlib import Path
from typing import Any

import numpy as np

from common.index.faiss_index import FaissIndex
from common.index.milvus_index import MilvusIndex


def clustered(n: int, dim: int, clusters: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    vectors = centres[rng.integers(clusters, size=n)] + 0.35 * rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute(vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    scores = queries @ vectors.T
    return np.stack([ids[np.lexsort((ids, -row))[:k]] for row in scores])


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]))


def build(work: Path, vectors: np.ndarray, ids: np.ndarray, kind: Any = "flat", **more: Any) -> MilvusIndex:
    index = MilvusIndex(vectors.shape[1], kind, work=work, **more)
    index.add(vectors, ids)
    return index


def faiss(vectors: np.ndarray, ids: np.ndarray) -> FaissIndex:
    index = FaissIndex(vectors.shape[1], threads=1)
    index.add(vectors, ids)
    return index


def integers(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of small whole numbers, whose products are exact and often equal, and ids in no order."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, size=(n, dim)).astype(np.float32), rng.permutation(3 * n)[:n].astype(np.int64)
