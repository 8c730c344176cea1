"""Part 2 of `full_size`: the dense and the ColBERT route over a data root, with random vectors (see there)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from common.encoders.base import Role
from common.encoders.colbert import build_token_encoder
from common.encoders.text import build_text_encoder
from common.experiment import peak_bytes
from common.faults import FaultLog
from common.hashing import digest
from track1_mdr.config import ColbertConfig, DataConfig, DenseTextConfig
from track1_mdr.datasets.mmdocir import load_mmdocir
from track1_mdr.routes.base import Environment
from track1_mdr.routes.colbert import ColbertRoute
from track1_mdr.routes.dense_text import DenseTextRoute

COLBERT, DENSE = "answerdotai/answerai-colbert-small-v1", "BAAI/bge-small-en-v1.5"
_TOKENS_PER_WORD = 1.3  # of English prose in BERT's word pieces
_POOL = 4096


class RandomEncoder:
    """Unit vectors out of a fixed pool, chosen by the text: as many tokens as `max_tokens` and the text allow."""

    modality = "text"
    revision = "random"
    preprocessing = "none"

    def __init__(self, name: str, dim: int, max_tokens: int, tokens: bool) -> None:
        pool = np.random.default_rng(7).normal(size=(_POOL, dim)).astype(np.float32)
        self.name, self.dim, self.max_tokens, self.tokens = name, dim, max_tokens, tokens
        self.pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int = 1) -> list[np.ndarray] | np.ndarray:
        """Return float32 [T_i, D] a text, or float32 [N, D]."""
        del role, batch_size
        drawn = [self._draw(text) for text in texts]
        return drawn if self.tokens else np.stack([vectors[0] for vectors in drawn])

    def _draw(self, text: str) -> np.ndarray:
        count = min(int(len(text.split()) * _TOKENS_PER_WORD) + 2, self.max_tokens) if self.tokens else 1
        rng = np.random.default_rng(int(digest(text)[:12], 16))
        return self.pool[rng.integers(_POOL, size=count)]


@contextmanager
def stage(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{name:<32} {time.perf_counter() - start:8.1f} s wall   peak {peak_bytes() / 2**30:5.2f} GiB", flush=True)


def main(root: Path) -> None:
    cache, faults = root / "vector_cache", FaultLog()
    environment = Environment(cache, threads=2, faults=faults)
    colbert = ColbertConfig.model_validate({"type": "colbert", "model": COLBERT})
    dense = DenseTextConfig.model_validate({"type": "dense_text", "model": DENSE})
    with stage("read the tables"):
        tables = load_mmdocir(root / "mmdocir", DataConfig.model_validate({}), cache, faults)
    with stage("load and run both models"):
        real_tokens, real_dense = build_token_encoder(COLBERT), build_text_encoder(DENSE)
        longest = sorted(tables.passages.texts, key=len)[-64:]
        dim = real_tokens.encode(longest, role="passage", batch_size=32)[0].shape[1]
        width = real_dense.encode(longest, role="passage", batch_size=32).shape[1]
    tokens = RandomEncoder("random-tokens", dim, colbert.max_tokens, tokens=True)
    single = RandomEncoder("random-dense", width, dense.max_tokens, tokens=False)
    with patch("track1_mdr.routes.colbert.build_token_encoder", lambda *_, **__: tokens):
        token_route = ColbertRoute(colbert, environment)
    with patch("track1_mdr.routes.text_vectors.build_text_encoder", lambda *_, **__: single):
        dense_route = DenseTextRoute(dense, environment)
    for name, route in (("dense", dense_route), ("colbert", token_route)):
        with stage(f"{name}: store the vectors"):
            route.fit(tables.passages)
        with stage(f"{name}: score"):
            scored = route.score(tables.queries, tables.candidates)
        listed = sum(len(one.rows) for one in scored)
        print(f"{'':<32} {listed:,} scores for {len(scored):,} questions")
    size = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    print(f"{'':<32} {size / 1e9:.1f} GB of vectors on disk, {len(faults)} faults")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
