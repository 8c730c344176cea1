"""RQ-KMeans: k-means of the vectors, then of what is left, level after level."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from common.errors import ConfigError, DataError, UserError
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.beam import beam_encode
from common.tokenizers.kmeans import kmeans, nearest, too_few
from common.tokenizers.quality import fit_metrics


class RQKMeans(Quantizer):
    """Residual quantization by k-means (GRID's "RQ-KMeans"; Chen, Guan & Wang, 2010, for the idea).

    r_0 = x; at level l: c_l = argmin_k |r_(l-1) - E_l[k]|, r_l = r_(l-1) - E_l[c_l]; x is about sum_l E_l[c_l].
    No encoder and no gradient. CART's coarse and fine tokens (k-means cluster, then codes of x - centroid) are the
    same thing with a first codebook of another size.

    Parameters
    ----------
    codebook_sizes
        Codes of each level; levels may differ.
    iterations
        Lloyd steps of each level, at most.
    sample_per_code
        Training reads at most this many rows for each code of the largest codebook, drawn without replacement.
    normalize
        Divide each level's residual by its standard deviation in every dimension while distances are compared: then
        directions of small variance count as much as the others. The reconstruction stays in the vectors' own units.
    beam_size
        1 encodes greedily. More keeps that many partial codes at each level, in `fit` too: smaller errors, at about
        that many times the cost. Not together with `normalize`.

    Notes
    -----
    - Encoding is exact: a code does not depend on the batch, the row's place or the threads.
    - With `beam_size` 1, on the rows that training read every code is used. Identical rows are fine as long as
      each level still sees as many different residuals as it has codes; otherwise `fit` raises.
    - encode(decode(codes)) == codes holds where later levels are small beside the gaps between the first
      level's centroids, as on data with that structure; greedy search guarantees it for no data at all.
    """

    kind = "rq_kmeans"

    def __init__(
        self,
        codebook_sizes: tuple[int, ...] = (256, 256, 256),
        iterations: int = 15,
        sample_per_code: int = 256,
        normalize: bool = False,
        beam_size: int = 1,
    ) -> None:
        self.codebook_sizes = check_sizes(codebook_sizes)
        self.iterations = check_positive("iterations", iterations)
        self.sample_per_code = check_positive("sample_per_code", sample_per_code)
        self.normalize = bool(normalize)
        self.beam_size = check_positive("beam_size", beam_size)
        if self.normalize and self.beam_size > 1:
            raise ConfigError("normalize and beam_size > 1 exclude each other", got=f"beam_size {beam_size}")
        self.metrics = {}
        self._codebooks: list[np.ndarray] = []
        self._scales: list[np.ndarray] = []

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebooks from float32 [N, D], which may be memory-mapped.

        Raises
        ------
        DataError
            Fewer rows, or fewer different rows or residuals, than a level has codes; a value that is not finite.
        """
        largest = max(self.codebook_sizes)
        check_vectors(x, least=largest)
        digest = data_digest(x)
        sample = sample_rows(x, self.sample_per_code * largest, seed)
        self._codebooks, self._scales = self._learn(sample, seed)
        self._ready(x.shape[1], digest, {})
        self.metrics = fit_metrics(self, sample)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "iterations": self.iterations,
            "sample_per_code": self.sample_per_code,
            "normalize": self.normalize,
            "beam_size": self.beam_size,
        }

    def _learn(self, sample: np.ndarray, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the codebooks and the scales of all levels."""
        codebooks: list[np.ndarray] = []
        scales: list[np.ndarray] = []
        left = sample.copy()
        for level, size in enumerate(self.codebook_sizes):
            if level:
                self._something_left(left, sample, level)
            scale = spread(left) if self.normalize else np.ones(sample.shape[1], dtype=np.float32)
            try:
                found = kmeans(
                    left / scale if self.normalize else left, size, seed=(seed, level), iterations=self.iterations
                )
            except UserError as error:
                raise DataError(
                    error.what, where=f"level {level + 1}", expected=error.expected, got=error.got, todo=error.todo
                ) from None
            codebooks.append(found.centroids * scale if self.normalize else found.centroids)
            scales.append(scale)
            if self.beam_size == 1 or not level:
                left -= codebooks[level][found.codes]
            elif level + 1 < self.levels:
                left = sample - sum_codewords(codebooks, beam_encode(sample, codebooks, self.beam_size))
        return codebooks, scales

    def _something_left(self, left: np.ndarray, sample: np.ndarray, level: int) -> None:
        """Refuse to cluster rounding errors."""
        if self.codebook_sizes[level] > 1 and np.abs(left).max() <= 1e-6 * np.abs(sample).max():
            where = f"level {level + 1}: the levels before leave rounding errors only"
            raise too_few(self.codebook_sizes[level], 1, len(sample), where)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        if self.beam_size > 1:
            return beam_encode(x, self._codebooks, self.beam_size)
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        left = x.copy()
        for level, (codebook, scale) in enumerate(zip(self._codebooks, self._scales, strict=True)):
            if self.normalize:
                codes[:, level] = nearest(left / scale, codebook / scale)
            else:
                codes[:, level] = nearest(left, codebook)
            if level + 1 < self.levels:
                left -= codebook[codes[:, level]]
        return codes

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        return sum_codewords(self._codebooks[:upto], codes)

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"codebook_{level:02d}": codebook for level, codebook in enumerate(self._codebooks)}
        if self.normalize:
            arrays |= {f"scale_{level:02d}": scale for level, scale in enumerate(self._scales)}
        return arrays

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim = arrays["codebook_00"].shape[-1]
        self._codebooks = [
            stored(arrays, f"codebook_{level:02d}", (size, dim)) for level, size in enumerate(self.codebook_sizes)
        ]
        self._scales = [np.ones(dim, dtype=np.float32)] * self.levels
        if self.normalize:
            self._scales = [stored(arrays, f"scale_{level:02d}", (dim,)) for level in range(self.levels)]


def sum_codewords(codebooks: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return float32 [n, D], the sum of the codewords, the first level first."""
    found = codebooks[0][codes[:, 0]]
    for level in range(1, len(codebooks)):
        found += codebooks[level][codes[:, level]]
    return found


def stored(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a finite float32 array of a saved quantizer; raise ValueError where it has another shape."""
    array = arrays[name]
    if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite float32 {list(shape)}, got {array.dtype} {list(array.shape)}")
    return array


def spread(x: np.ndarray) -> np.ndarray:
    """Return float32 [D], the standard deviation of each dimension; 1 where a dimension does not vary."""
    deviation = x.std(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, np.float32(1))


def check_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return codebook sizes as a tuple of ints; raise `ConfigError` on none, or on one below 1."""
    if not len(sizes) or any(isinstance(size, bool) or int(size) != size or size < 1 for size in sizes):
        raise ConfigError("codebook_sizes needs a whole number from 1 for each level", got=list(sizes))
    return tuple(int(size) for size in sizes)


def check_positive(name: str, value: int) -> int:
    """Return a whole number from 1; raise `ConfigError` otherwise."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ConfigError(f"{name} needs a whole number from 1", got=value)
    return int(value)
