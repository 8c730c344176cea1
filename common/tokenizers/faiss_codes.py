"""FAISS's product and residual quantizers behind the Quantizer contract: FAISS trains, the codes are exact."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Self

import numpy as np

from common.errors import ConfigError
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.beam import beam_encode
from common.tokenizers.kmeans import count_different, nearest, too_few
from common.tokenizers.quality import fit_metrics
from common.tokenizers.rq_kmeans import check_positive, check_sizes, stored, sum_codewords


class ProductQuantizer(Quantizer):
    """Product quantization (Jegou, Douze & Schmid, 2011): each level is one of L equal parts of the vector.

    Parameters
    ----------
    codebook_sizes
        Codes of each part: all the same power of two. D must be a multiple of L.
    iterations
        Steps of FAISS's k-means.
    sample_per_code
        Training reads at most this many rows a code, drawn without replacement.

    Notes
    -----
    Codes of different levels do not depend on each other, so a prefix of codes means nothing by itself: `embed`
    fills the parts that are not asked for with their mean. For IDs that are decoded in order take a residual one.
    FAISS may leave codes of a codebook unused; `metrics` says how many.
    """

    kind = "product"

    def __init__(
        self, codebook_sizes: tuple[int, ...] = (256, 256, 256, 256), iterations: int = 25, sample_per_code: int = 256
    ) -> None:
        self.codebook_sizes = _powers(codebook_sizes)
        if len(set(self.codebook_sizes)) > 1:
            raise ConfigError("FAISS's product quantizer has parts of one size", got=list(codebook_sizes))
        self.iterations = check_positive("iterations", iterations)
        self.sample_per_code = check_positive("sample_per_code", sample_per_code)
        self.metrics = {}
        self._codebooks = np.empty((0, 0, 0), np.float32)
        self._mean = np.empty(0, np.float32)

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebooks from float32 [N, D], which may be memory-mapped.

        Raises
        ------
        ConfigError
            D is not a multiple of L.
        DataError
            Fewer rows, or fewer different values of a part, than codes; a value that is not finite.
        """
        import faiss

        levels, size = self.levels, self.codebook_sizes[0]
        check_vectors(x, least=size)
        dim = x.shape[1]
        if dim % levels:
            raise ConfigError("the vectors do not divide into equal parts", expected=f"a multiple of {levels}", got=dim)
        digest = data_digest(x)
        sample = sample_rows(x, self.sample_per_code * size, seed)
        for level, part in enumerate(_parts(sample, levels)):
            _enough(part, size, f"part {level + 1} of {levels}")
        product = faiss.ProductQuantizer(dim, levels, _bits(size))
        _training(product.cp, self.iterations, seed)
        product.train(sample)
        self._codebooks = faiss.vector_to_array(product.centroids).reshape(levels, size, dim // levels).copy()
        self._mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._ready(dim, digest, {})
        self.metrics = fit_metrics(self, sample)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "iterations": self.iterations,
            "sample_per_code": self.sample_per_code,
        }

    def _encode(self, x: np.ndarray) -> np.ndarray:
        parts = _parts(x, self.levels)
        return np.stack([nearest(part, book) for part, book in zip(parts, self._codebooks, strict=True)], axis=1)

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        found = np.tile(self._mean, (len(codes), 1))
        width = self._codebooks.shape[2]
        for level in range(upto):
            found[:, level * width : (level + 1) * width] = self._codebooks[level][codes[:, level]]
        return found

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"codebooks": self._codebooks, "mean": self._mean}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim = arrays["mean"].shape[-1]
        self._mean = stored(arrays, "mean", (dim,))
        shape = (self.levels, self.codebook_sizes[0], dim // self.levels)
        self._codebooks = stored(arrays, "codebooks", shape)


class ResidualQuantizer(Quantizer):
    """FAISS's residual quantizer (Chen, Guan & Wang, 2010; beams as in Babenko & Lempitsky, 2014).

    Parameters
    ----------
    codebook_sizes
        Codes of each level: powers of two.
    beam_size
        Partial codes that training and encoding keep (`max_beam_size`): more is better and slower.
    iterations
        Steps of FAISS's k-means, at each of its widths (it adds dimensions step by step).
    sample_per_code
        Training reads at most this many rows for each code of the largest codebook.

    Notes
    -----
    The codebooks are FAISS's. Encoding is this package's beam search: the same codes as FAISS's `compute_codes`
    but for ties, which FAISS decides by the batch. FAISS may leave codes unused; `metrics` says how many.
    """

    kind = "residual"

    def __init__(
        self,
        codebook_sizes: tuple[int, ...] = (256, 256, 256),
        beam_size: int = 5,
        iterations: int = 10,
        sample_per_code: int = 256,
    ) -> None:
        self.codebook_sizes = _powers(codebook_sizes)
        self.beam_size = check_positive("beam_size", beam_size)
        self.iterations = check_positive("iterations", iterations)
        self.sample_per_code = check_positive("sample_per_code", sample_per_code)
        self.metrics = {}
        self._codebooks: list[np.ndarray] = []

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebooks from float32 [N, D], which may be memory-mapped.

        Raises
        ------
        DataError
            Fewer rows, or fewer different rows, than codes; a value that is not finite.
        """
        import faiss

        largest = max(self.codebook_sizes)
        check_vectors(x, least=largest)
        dim = x.shape[1]
        digest = data_digest(x)
        sample = sample_rows(x, self.sample_per_code * largest, seed)
        _enough(sample, self.codebook_sizes[0], "level 1")
        bits: Any = faiss.UInt64Vector()
        for size in self.codebook_sizes:
            bits.push_back(_bits(size))
        residual = faiss.ResidualQuantizer(dim, bits)
        residual.max_beam_size = self.beam_size
        _training(residual.cp, self.iterations, seed)
        residual.train(sample)
        edges = np.cumsum((0, *self.codebook_sizes))
        table = faiss.vector_to_array(residual.codebooks).reshape(-1, dim)
        self._codebooks = [table[a:b].copy() for a, b in pairwise(edges)]
        self._ready(dim, digest, {})
        self.metrics = fit_metrics(self, sample)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "beam_size": self.beam_size,
            "iterations": self.iterations,
            "sample_per_code": self.sample_per_code,
        }

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return beam_encode(x, self._codebooks, self.beam_size)

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        return sum_codewords(self._codebooks[:upto], codes)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"codebook_{level:02d}": codebook for level, codebook in enumerate(self._codebooks)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim = arrays["codebook_00"].shape[-1]
        self._codebooks = [
            stored(arrays, f"codebook_{level:02d}", (size, dim)) for level, size in enumerate(self.codebook_sizes)
        ]


def _parts(x: np.ndarray, levels: int) -> list[np.ndarray]:
    """Cut float32 [n, D] into L arrays [n, D / L], each in one piece of memory."""
    width = x.shape[1] // levels
    return [np.ascontiguousarray(x[:, level * width : (level + 1) * width]) for level in range(levels)]


def _powers(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return checked codebook sizes; FAISS's are powers of two."""
    sizes = check_sizes(sizes)
    bad = [size for size in sizes if size < 2 or size & (size - 1) or size > 1 << 16]
    if bad:
        raise ConfigError("FAISS's codebooks are powers of two", expected="2, 4, ... 65536", got=bad[0])
    return sizes


def _bits(size: int) -> int:
    return size.bit_length() - 1


def _enough(x: np.ndarray, size: int, where: str) -> None:
    """Raise unless there are as many different rows as codes: FAISS would make the same codeword twice."""
    different = count_different(x)
    if different < size:
        raise too_few(size, different, len(x), where)


def _training(parameters: Any, iterations: int, seed: int) -> None:
    """Set FAISS's k-means; the sample is drawn before, so FAISS draws none and never asks for more rows."""
    parameters.niter = iterations
    parameters.seed = seed
    parameters.min_points_per_centroid = 1
    parameters.max_points_per_centroid = 1 << 30
