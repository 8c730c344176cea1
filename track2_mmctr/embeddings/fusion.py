"""From one vector a modality to one embedding an item: principal components, whitening, sums.

Row r of every array here is item r + 1. An item that lacks a modality is given this modality's mean, which every
PCA maps to zeros: it is told nothing, not something false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import eigh

from common.errors import DataError
from track2_mmctr.embeddings.config import EmbedConfig

_CHUNK = 16_384  # rows that are float64 at a time
_RANK = 1e-10  # a direction with less than this share of the largest variance is rounding, not data


@dataclass(frozen=True, eq=False)
class Modality:
    """One modality's vectors: float32 [N, D], and `present` bool [N]; rows that are not present are not read.

    `encoder` is the name and revision of what made them.
    """

    name: str
    vectors: np.ndarray
    present: np.ndarray
    encoder: str = ""

    def __post_init__(self) -> None:
        if int(self.present.sum()) < 2:
            raise DataError(
                f"fewer than two items have any {self.name}",
                expected="at least two, to tell items apart",
                got=int(self.present.sum()),
                todo="give the missing files, or choose a method that does not read this modality",
            )

    def filled(self) -> np.ndarray:
        """Return float32 [N, D], the mean of the present rows where a row is missing."""
        mean = self.vectors[self.present].mean(axis=0, dtype=np.float64).astype(np.float32)
        return np.where(self.present[:, None], self.vectors, mean)


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components, strongest first; of each, the loading with the largest magnitude is positive.

    Attributes
    ----------
    mean
        float64 [D].
    components
        float64 [K, D], orthonormal rows.
    variances
        float64 [K], of the fitted rows along each component (divided by their number less one).
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, count: int) -> Self:
        """Fit on the rows of x [N, D]; fewer than `count` components where the data have no more directions."""
        mean = x.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((x.shape[1], x.shape[1]))
        for start in range(0, len(x), _CHUNK):
            part = x[start : start + _CHUNK].astype(np.float64) - mean
            scatter += part.T @ part
        scatter /= max(len(x) - 1, 1)
        kept = min(count, x.shape[1])
        values, vectors = eigh(scatter, subset_by_index=(x.shape[1] - kept, x.shape[1] - 1))
        values, components = values[::-1], vectors.T[::-1]
        real = values > max(values[0], 0) * _RANK
        components = components[real]
        largest = np.abs(components).argmax(axis=1)
        signs = np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)
        return cls(mean, components * signs[:, None], values[real])

    def transform(self, x: np.ndarray, *, whiten: bool = False) -> np.ndarray:
        """Return float32 [N, K]; with `whiten` each column has variance 1 over the fitted rows."""
        rotation = self.components.T
        if whiten:
            rotation = rotation / np.sqrt(self.variances)
        parts = [
            ((x[start : start + _CHUNK].astype(np.float64) - self.mean) @ rotation).astype(np.float32)
            for start in range(0, len(x), _CHUNK)
        ]
        return np.concatenate(parts)


def reduced(modality: Modality, width: int, notes: list[str], *, whiten: bool = False) -> np.ndarray:
    """Return the modality in `width` components, float32 [N, width]; columns beyond its rank are zero (noted)."""
    pca = Pca.fit(modality.vectors[modality.present], width)
    result = pca.transform(modality.filled(), whiten=whiten)
    result[~modality.present] = 0  # exactly, not up to rounding
    return _padded(result, width, modality.name, notes)


def fuse(modalities: Sequence[Modality], config: EmbedConfig, *, same_space: bool) -> tuple[np.ndarray, list[str]]:
    """Return float32 [N, config.dim] and remarks, by any method but `contrastive`.

    Parameters
    ----------
    modalities
        Those of `config.modalities`, in this order.
    same_space
        Text and image vectors come from one model that was trained to align them.
    """
    notes: list[str] = []
    if config.method in ("text", "image"):
        return reduced(modalities[0], config.dim, notes), notes
    text, image = modalities
    if config.method == "joint_pca":
        return _joint(text, image, config.dim, notes), notes
    if config.method == "weighted_sum":
        return _weighted(text, image, config, same_space, notes), notes
    whiten = config.method == "whitening"
    return np.hstack([reduced(m, config.dim // 2, notes, whiten=whiten) for m in modalities]), notes


def scaled(embedding: np.ndarray, rms: float) -> np.ndarray:
    """Return the embedding times one factor, so that the root mean square of its values is `rms`; 0 = as it is."""
    now = float(np.sqrt(np.mean(np.square(embedding, dtype=np.float64))))
    return embedding if rms == 0 or now == 0 else (embedding * (rms / now)).astype(np.float32)


def _joint(text: Modality, image: Modality, width: int, notes: list[str]) -> np.ndarray:
    both = text.present & image.present
    if both.sum() < 2:
        notes.append("fewer than two items have both a text and a cover: the PCA is fitted on all items")
        both = np.ones_like(both)
    x = np.hstack([text.filled(), image.filled()])
    return _padded(Pca.fit(x[both], width).transform(x), width, "text and image", notes)


def _weighted(text: Modality, image: Modality, config: EmbedConfig, same_space: bool, notes: list[str]) -> np.ndarray:
    share = config.image_weight
    if same_space:
        summed = share * image.filled() + (1 - share) * text.filled()
        fused = Modality("weighted sum", summed.astype(np.float32), text.present | image.present)
        return reduced(fused, config.dim, notes)
    notes.append(
        "weighted_sum: the text and the image encoder have no common space, so each is reduced by its own PCA before "
        "the sum, which mixes unrelated axes; text.library: open_clip gives both one space"
    )
    parts = [reduced(m, config.dim, notes) for m in (text, image)]
    return ((1 - share) * parts[0] + share * parts[1]).astype(np.float32)


def _padded(x: np.ndarray, width: int, name: str, notes: list[str]) -> np.ndarray:
    if x.shape[1] == width:
        return x
    notes.append(f"{name}: the data have {x.shape[1]} directions; columns {x.shape[1] + 1} to {width} are zero")
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))
