"""What Uni-Code reads: paired features of two or three modalities, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import DataError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scale:
    """A modality's centre float32 [D_m] and its one scale, a positive number: features become (x - mean) / size."""

    mean: np.ndarray
    size: np.float32

    @classmethod
    def of(cls, x: np.ndarray, name: str) -> Scale:
        """Return those of features float32 [N, T, D_m].

        Raises
        ------
        DataError
            All vectors are the same.
        """
        mean = x.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        size = float(np.sqrt(np.square(x - mean, dtype=np.float64).mean()))
        if not size > 1e-6 * float(np.abs(x).max()):
            raise DataError(
                "all vectors of a modality are the same: it says nothing",
                where=name,
                expected="different vectors",
                got=f"{x.shape[0] * x.shape[1]} equal ones",
            )
        return cls(mean, np.float32(size))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return scaled features float32."""
        return ((np.asarray(x, np.float32) - self.mean) / self.size).astype(np.float32)


def as_steps(x: np.ndarray, name: str) -> np.ndarray:
    """Return features [N, T, D_m] of an array [N, T, D_m], or [N, D_m], which is one step; checked, float32.

    Raises
    ------
    DataError
        Another shape, not floats, no rows, or a value that is not finite (its row is named).
    """
    x = np.asarray(x)
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3 or x.dtype.kind != "f" or 0 in x.shape:
        raise DataError(
            "features have another shape",
            where=name,
            expected="floats [N, T, D], or [N, D] for one step",
            got=f"{x.dtype} {list(x.shape)}",
        )
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=(1, 2)))
    if len(bad):
        raise DataError(
            "a vector is not finite (NaN or infinite)",
            where=f"{name}, row {int(bad[0])}",
            expected="finite values",
            got=f"{len(bad)} such rows",
            todo="mend or leave out these rows in every modality",
        )
    return x


def check_paired(features: Arrays) -> dict[str, np.ndarray]:
    """Return the features of two or three modalities, by name in alphabetical order, float32 [N, T, D_m] each.

    Row i and step t are the same thing in every modality.

    Raises
    ------
    DataError
        One modality or more than three; other numbers of rows or steps; see `as_steps`.
    """
    if not 2 <= len(features) <= 3:
        raise DataError(
            "a shared codebook needs two or three modalities",
            expected="2 or 3",
            got=f"{len(features)}: {', '.join(features) or 'none'}",
            todo="give the missing modality's features",
        )
    found = {name: as_steps(features[name], name) for name in sorted(features)}
    first = next(iter(found))
    for name, x in found.items():
        if x.shape[:2] != found[first].shape[:2]:
            raise DataError(
                "modalities are not paired: they have other numbers of rows or steps",
                where=name,
                expected=f"[N, T] = {list(found[first].shape[:2])}, as {first} has",
                got=list(x.shape[:2]),
                todo="leave out the rows that a modality lacks, in all modalities",
            )
    return found


def check_names(given: Sequence[str], known: Sequence[str]) -> None:
    """Raise `DataError` on a modality that a tokenizer was not fitted on."""
    strange = [name for name in given if name not in known]
    if strange:
        raise DataError(
            "the tokenizer does not know this modality",
            where=strange[0],
            expected=", ".join(known),
            got=", ".join(strange),
        )


def paired_digest(features: Arrays) -> str:
    """Return the SHA-256 over names, shapes and values of float32 features."""
    state = hashlib.sha256()
    for name in sorted(features):
        state.update(f"{name} float32 {features[name].shape}".encode())
        state.update(np.ascontiguousarray(features[name], dtype=np.float32).data)
    return state.hexdigest()
