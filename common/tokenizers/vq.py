"""VQ: one codebook, trained by gradient-free moving averages (VQ-VAE's quantizer without the autoencoder)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from common.errors import ConfigError
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.kmeans import count_different, nearest, revive, too_few
from common.tokenizers.quality import fit_metrics
from common.tokenizers.rq_kmeans import check_positive, stored


class VQ(Quantizer):
    """One code a vector, by vector-quantize-pytorch's `VectorQuantize`: k-means start, EMA, reset of dead codes.

    van den Oord, Vinyals & Kavukcuoglu (2017), appendix A.1, for the moving averages.

    Parameters
    ----------
    codes
        K.
    decay
        Of the moving averages.
    epochs, batch_size
        Passes over the training rows, and rows a step.
    dead_below
        A code whose moving average of rows a batch is below this is moved onto a row of the batch.
    sample_per_code
        Training reads at most this many rows a code, drawn without replacement.

    Notes
    -----
    A code that no training row is nearest to in the end is moved onto a far row, so that none is dead there.
    """

    kind = "vq"

    def __init__(
        self,
        codes: int = 256,
        decay: float = 0.95,
        epochs: int = 10,
        batch_size: int = 4096,
        dead_below: float = 1.0,
        sample_per_code: int = 256,
    ) -> None:
        self.codebook_sizes = (check_positive("codes", codes),)
        if not 0 < decay < 1:
            raise ConfigError("decay is a share", where="decay", expected="between 0 and 1", got=decay)
        if not 0 <= dead_below < float("inf"):
            raise ConfigError("dead_below counts rows", where="dead_below", expected="0 or more", got=dead_below)
        self.decay, self.dead_below = float(decay), float(dead_below)
        self.epochs = check_positive("epochs", epochs)
        self.batch_size = check_positive("batch_size", batch_size)
        self.sample_per_code = check_positive("sample_per_code", sample_per_code)
        self.metrics = {}
        self._codebook = np.empty((0, 0), np.float32)

    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebook from float32 [N, D], which may be memory-mapped.

        Raises
        ------
        DataError
            Fewer rows, or fewer different rows, than codes; a value that is not finite.
        """
        size = self.codebook_sizes[0]
        check_vectors(x, least=size)
        digest = data_digest(x)
        sample = sample_rows(x, self.sample_per_code * size, seed)
        different = count_different(sample)
        if different < size:
            raise too_few(size, different, len(sample))
        self._codebook = revive(sample, self._train(sample, seed))
        self._ready(x.shape[1], digest, {})
        self.metrics = fit_metrics(self, sample)
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codes": self.codebook_sizes[0],
            "decay": self.decay,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "dead_below": self.dead_below,
            "sample_per_code": self.sample_per_code,
        }

    def _train(self, sample: np.ndarray, seed: int) -> np.ndarray:
        """Return the codebook float32 [K, D]."""
        import torch
        from vector_quantize_pytorch import VectorQuantize

        from common.training.repeatable import repeatable

        vectors = torch.from_numpy(sample)
        size = self.codebook_sizes[0]
        batch = max(min(self.batch_size, len(sample)), size)  # the k-means start needs a row for each code
        with torch.random.fork_rng(devices=[]), repeatable(torch.device("cpu")), torch.no_grad():
            torch.manual_seed(seed)
            layer = VectorQuantize(
                sample.shape[1],
                size,
                decay=self.decay,
                kmeans_init=True,
                threshold_ema_dead_code=self.dead_below,  # pyright: ignore[reportArgumentType]
            ).train()
            for _ in range(self.epochs):
                order = torch.randperm(len(vectors))
                for start in range(0, len(vectors) - batch + 1, batch):
                    layer(vectors[order[start : start + batch]])
            return layer.codebook.reshape(size, -1).float().numpy().copy()

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return nearest(x, self._codebook)[:, None]

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        del upto  # there is one level
        return self._codebook[codes[:, 0]]

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"codebook": self._codebook}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._codebook = stored(arrays, "codebook", (self.codebook_sizes[0], arrays["codebook"].shape[-1]))
