"""The Quantizer contract: vectors to codes and back, saved as safetensors + JSON, each fit with its own version."""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from common.atomic import atomic_folder
from common.errors import ConfigError, DataError
from common.hashing import digest, file_digest

FORMAT = "mirc-quantizer-1"
CHUNK = 65_536
"""Vectors read and encoded at once: at 128 floats each, 32 MiB."""


class Quantizer(ABC):
    """Maps vectors float32 [N, D] to codes int32 [N, L], one code a level, and back.

    A subclass sets `kind`, calls `_ready` at the end of its fit, and gives `_encode` and `_embed`. What is saved are
    the attributes that `learnt` names and the constructor's arguments, kept as attributes of the same names; a kind
    that keeps them otherwise gives `_arrays`, `_restore` and `settings`. Everything here is pure per vector: the order
    of rows and the size of batches change no code.

    Attributes
    ----------
    learnt
        Names of the arrays of floats that `fit` sets.
    codebook_sizes
        Number of codes of each level; levels may differ.
    dim
        D, known after `fit` or `load`.
    version
        16 hexadecimal digits over kind, settings and codebooks: codes of two fits never pass for each other.
    metrics
        Figures of the fit, for people.
    """

    kind: ClassVar[str]
    learnt: ClassVar[tuple[str, ...]] = ()
    codebook_sizes: tuple[int, ...]
    dim: int = 0
    version: str = ""
    data_digest: str = ""
    metrics: dict[str, Any]

    @property
    def levels(self) -> int:
        """L, the number of codes of a vector."""
        return len(self.codebook_sizes)

    @abstractmethod
    def fit(self, x: np.ndarray, *, seed: int) -> Self:
        """Learn the codebooks from float32 [N, D], which may be memory-mapped; same seed and data, same bytes."""

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values: `type(self)(**settings)` is an unfitted twin."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @abstractmethod
    def _encode(self, x: np.ndarray) -> np.ndarray:
        """Return the codes int32 [n, L] of one chunk of checked vectors."""

    @abstractmethod
    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        """Return float32 [n, D] from the first `upto` levels of checked codes."""

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return what `fit` learnt, for saving and for `version`."""
        return {name: getattr(self, name) for name in self.learnt}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `_arrays` gave; raise KeyError or ValueError where it does not fit the settings."""
        for name in self.learnt:
            if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name}: expected finite floats, got {arrays[name].dtype}")
            setattr(self, name, arrays[name])

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return the codes int32 [N, L] of float32 [N, D], chunk by chunk."""
        self._fitted()
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        for rows, chunk in chunks(x, self.dim):
            codes[rows] = self._encode(chunk)
        return codes

    def item_codes(self, x: np.ndarray) -> np.ndarray:
        """Return codes int32 [N, L] to make IDs of: `encode`, unless a kind has better ones for the rows of its fit."""
        return self.encode(x)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, D], the vectors that codes [N, L] stand for."""
        return self.embed(codes, self.levels)

    def embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        """Return float32 [N, D] from the first `upto` levels (1..L) of codes [N, L or more than upto - 1].

        Raises
        ------
        DataError
            A code outside its codebook, or another number of levels.
        """
        self._fitted()
        if not 1 <= upto <= self.levels:
            raise ConfigError("no such level", where="upto", expected=f"1..{self.levels}", got=upto)
        return self._embed(check_codes(np.asarray(codes), self.codebook_sizes[:upto]), upto)

    def save(self, folder: Path) -> None:
        """Write quantizer.json and quantizer.safetensors to `folder`, whole or not at all."""
        self._fitted()
        with atomic_folder(folder) as temporary:
            save_file(self._arrays(), temporary / "quantizer.safetensors")
            header = {
                "format": FORMAT,
                "kind": self.kind,
                "version": self.version,
                "dim": self.dim,
                "settings": self.settings(),
                "data_sha256": self.data_digest,
                "metrics": self.metrics,
                "sha256": file_digest(temporary / "quantizer.safetensors"),
            }
            (temporary / "quantizer.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, header: dict[str, Any], folder: Path) -> Self:
        """Return the quantizer of a checked header; see `common.tokenizers.load_quantizer`."""
        path = folder / "quantizer.safetensors"
        try:
            if file_digest(path) != header["sha256"]:
                raise DataError("the quantizer's file is not the one that was saved", where=path, todo=_again(folder))
            quantizer = cls(**header["settings"])
            quantizer._restore(load_file(path))
            quantizer._ready(int(header["dim"]), str(header["data_sha256"]), dict(header["metrics"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError("the quantizer is damaged", where=path, got=str(error), todo=_again(folder)) from None
        if quantizer.version != header.get("version"):
            raise DataError(
                "the quantizer's settings were changed after it was saved",
                where=folder / "quantizer.json",
                expected=quantizer.version,
                got=header.get("version"),
                todo=_again(folder),
            )
        return quantizer

    def _ready(self, dim: int, data_digest: str, metrics: dict[str, Any]) -> Self:
        """End a fit: set what is known only now, and the version; return self."""
        self.dim, self.data_digest, self.metrics = dim, data_digest, metrics
        parts: list[bytes | str] = [self.kind, json.dumps(self.settings(), sort_keys=True), str(dim)]
        for name, array in sorted(self._arrays().items()):
            parts += [name, str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes()]
        self.version = digest(*parts)[:16]
        return self

    def _fitted(self) -> None:
        if not self.version:
            raise ConfigError(f"{self.kind} has no codebooks yet", todo="call fit, or load a saved quantizer")


def read_header(folder: Path) -> dict[str, Any]:
    """Return quantizer.json of a saved quantizer."""
    path = folder / "quantizer.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("no saved quantizer here", where=path, got=str(error), todo=_again(folder)) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        got = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise DataError("not a quantizer of this program", where=path, expected=FORMAT, got=got, todo=_again(folder))
    return header


def _again(folder: Path) -> str:
    return f"fit it again: python -m common.tokenizers fit --out {folder} ..."


def check_vectors(x: np.ndarray, *, least: int = 1, what: str = "vectors") -> None:
    """Raise `DataError` unless `x` is a [N, D] array of floats with at least `least` rows (values: `chunks`)."""
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind != "f":
        raise DataError(f"{what} have another shape", expected="floats [N, D]", got=f"{x.dtype} {list(x.shape)}")
    if len(x) < least:
        raise DataError(
            f"fewer {what} than codes: a codebook cannot be fitted",
            expected=f"at least {least} rows",
            got=len(x),
            todo="give more vectors, or ask for smaller codebooks",
        )


def chunks(x: np.ndarray, dim: int | None = None, size: int = CHUNK) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, float32 [n, D]) of an array that may be memory-mapped; each value is checked to be finite.

    Raises
    ------
    DataError
        Another width than `dim`, or a value that is NaN or infinite (the row is named).
    """
    check_vectors(x, least=0)
    if dim is not None and x.shape[1] != dim:
        raise DataError("vectors of another width", expected=f"[N, {dim}]", got=list(x.shape))
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        chunk = np.ascontiguousarray(x[rows], dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1))
        if len(bad):
            raise DataError(
                "a vector is not finite (NaN or infinite)",
                where=f"row {start + int(bad[0])}",
                expected="finite values",
                got=f"{len(bad)} such rows in rows {rows.start} to {rows.stop - 1}",
                todo="mend or leave out these vectors",
            )
        yield rows, chunk


def data_digest(x: np.ndarray) -> str:
    """Return the SHA-256 of vectors [N, D] as float32, read chunk by chunk; every value is checked to be finite."""
    state = hashlib.sha256(f"float32 {x.shape}".encode())
    for _, chunk in chunks(x):
        state.update(chunk.data)
    return state.hexdigest()


def sample_rows(x: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return float32 [min(N, most), D]: rows drawn without replacement, in their order; what training reads."""
    check_vectors(x)
    rows = np.arange(len(x))
    if len(x) > most:
        rows = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
    sample = np.concatenate([chunk for _, chunk in chunks(x[rows] if len(x) > most else x)])
    return np.ascontiguousarray(sample)


def check_codes(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return the first `len(sizes)` columns of integer codes [N, L]; raise `DataError` on one outside its codebook."""
    if codes.ndim != 2 or codes.shape[1] < len(sizes) or codes.dtype.kind not in "iu":
        raise DataError(
            "codes have another shape", expected=f"integers [N, {len(sizes)}]", got=f"{codes.dtype} {list(codes.shape)}"
        )
    codes = codes[:, : len(sizes)]
    for level, size in enumerate(sizes):
        bad = np.flatnonzero((codes[:, level] < 0) | (codes[:, level] >= size))
        if len(bad):
            raise DataError(
                "a code is outside its codebook",
                where=f"row {int(bad[0])}, level {level}",
                expected=f"0..{size - 1}",
                got=int(codes[bad[0], level]),
            )
    return codes
