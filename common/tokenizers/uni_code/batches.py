"""Training batches of paired samples: a new order each epoch, a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.tokenizers.uni_code.inputs import Arrays
from common.tokenizers.uni_code.model import PairedBatch


class PairedBatches:
    """Batches of scaled features [N, T, D_m] by modality.

    A last batch that is not full is left out, since contrasts need candidates; other samples are left out each epoch.
    Fewer samples than `batch_size` are one batch.

    Parameters
    ----------
    features
        By modality.
    digest
        SHA-256 of the data.
    batch_size, seed
        Samples of a batch, seed of the order.
    """

    def __init__(self, features: Arrays, digest: str, batch_size: int, seed: int) -> None:
        self.digest = f"{digest}, {batch_size}, {seed}"
        self.tensors = {name: torch.from_numpy(x) for name, x in features.items()}
        self.count = len(next(iter(self.tensors.values())))
        self.size, self.seed = min(batch_size, self.count), seed

    def __len__(self) -> int:
        return self.count // self.size

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """Return the samples of each batch of an epoch."""
        order = np.random.default_rng((self.seed, 2, number)).permutation(self.count)
        return [order[start : start + self.size] for start in range(0, len(self) * self.size, self.size)]

    def make(self, rows: np.ndarray) -> PairedBatch:
        """Return the batch of these samples."""
        chosen = torch.from_numpy(rows)
        return PairedBatch({name: x[chosen] for name, x in self.tensors.items()})
