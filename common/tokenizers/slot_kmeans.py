"""K-means for each slot of a vector, the codes in parallel (STORE)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from common.errors import ConfigError
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.kmeans import count_different, kmeans, nearest, too_few
from common.tokenizers.quality import fit_metrics
from common.tokenizers.rq_kmeans import check_positive, check_sizes, stored


class SlotKMeans(Quantizer):
    """One code for each of m slots: x [N, m * d] is m dense tokens side by side (STORE, 2024, the dense tokeniser).

    Each slot has a k-means of its own, after PCA if asked for; no level is the residual of another.

    Parameters
    ----------
    codebook_sizes
        Codes of each slot: as many sizes as slots.
    components
        Principal components of a slot that its k-means sees; 0 for all dimensions. Codewords are kept in the slot's
        own dimensions: a vector is nearest to c among the components where it is nearest to mean + V^T c outside.
    iterations
        Lloyd steps of each slot, at most.
    sample_per_code
        Training reads at most this many rows for each code of the largest codebook.

    Notes
    -----
    A prefix of codes says nothing about the later slots: `embed` fills those with their mean.
    Every code occurs on the rows that training read; a slot with fewer different values than codes is an error.
    """

    kind = "slot_kmeans"

    def __init__(
        self,
        codebook_sizes: tuple[int, ...] = (256, 256, 256, 256),
        components: int = 0,
        iterations: int = 25,
        sample_per_code: int = 256,
    ) -> None:
        self.codebook_sizes = check_sizes(codebook_sizes)
        self.components = check_positive("components", components) if components else 0
        self.iterations = check_positive("iterations", iterations)
        self.sample_per_code = check_positive("sample_per_code", sample_per_code)
        self.metrics = {}
        self._codebooks: list[np.ndarray] = []
        self._mean = np.empty(0, np.float32)

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebooks from float32 [N, m * d], which may be memory-mapped.

        Raises
        ------
        ConfigError
            The width is not a multiple of the number of slots, or a slot has fewer dimensions than `components`.
        DataError
            Fewer rows, or fewer different values of a slot, than codes; a value that is not finite.
        """
        largest = max(self.codebook_sizes)
        check_vectors(x, least=largest)
        width = self._width(x.shape[1])
        digest = data_digest(x)
        sample = sample_rows(x, self.sample_per_code * largest, seed)
        self._mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._codebooks = []
        for level, size in enumerate(self.codebook_sizes):
            slot = np.ascontiguousarray(sample[:, level * width : (level + 1) * width])
            different = count_different(slot)
            if different < size:
                raise too_few(size, different, len(slot), f"slot {level + 1} of {self.levels}")
            self._codebooks.append(self._learn(slot, size, (seed, level)))
        self._ready(x.shape[1], digest, {})
        self.metrics = fit_metrics(self, sample)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "components": self.components,
            "iterations": self.iterations,
            "sample_per_code": self.sample_per_code,
        }

    def _width(self, dim: int) -> int:
        """Return the width of a slot."""
        if dim % self.levels:
            raise ConfigError("the vectors do not divide into slots", expected=f"a multiple of {self.levels}", got=dim)
        if self.components > dim // self.levels:
            raise ConfigError(
                "more components than a slot has dimensions",
                where="components",
                expected=f"up to {dim // self.levels}",
                got=self.components,
            )
        return dim // self.levels

    def _learn(self, slot: np.ndarray, size: int, seed: tuple[int, int]) -> np.ndarray:
        """Return the codewords float32 [K, d] of one slot."""
        if not self.components:
            return kmeans(slot, size, seed=seed, iterations=self.iterations).centroids
        mean, axes = principal_axes(slot, self.components)
        seen = ((slot - mean) @ axes.T).astype(np.float32)
        found = kmeans(seen, size, seed=seed, iterations=self.iterations).centroids
        return (mean + found @ axes).astype(np.float32)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        width = x.shape[1] // self.levels
        for level, codebook in enumerate(self._codebooks):
            codes[:, level] = nearest(np.ascontiguousarray(x[:, level * width : (level + 1) * width]), codebook)
        return codes

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        found = np.tile(self._mean, (len(codes), 1))
        width = found.shape[1] // self.levels
        for level in range(upto):
            found[:, level * width : (level + 1) * width] = self._codebooks[level][codes[:, level]]
        return found

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self._mean} | {f"codebook_{level:02d}": book for level, book in enumerate(self._codebooks)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim = arrays["mean"].shape[-1]
        self._mean = stored(arrays, "mean", (dim,))
        width = dim // self.levels
        self._codebooks = [
            stored(arrays, f"codebook_{level:02d}", (size, width)) for level, size in enumerate(self.codebook_sizes)
        ]


def principal_axes(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean float64 [d], axes float64 [count, d], orthonormal, the largest variance first)."""
    mean = x.mean(axis=0, dtype=np.float64)
    moved = x - mean
    _, vectors = np.linalg.eigh(moved.T @ moved)
    axes = vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return mean, axes * np.where(largest < 0, -1.0, 1.0)  # an axis has no sign of its own
