"""The resumable embedding store: encoded items on disk, in shards, each finished or absent.

Layout of one store (one encoder, revision, role, preprocessing version and dtype)::

    <folder>/<encoder>-<identity>/
        store.json                what the store holds, for people
        manifest.json             finished shards, each with the sha256 of its two files
        shard-<digest>.npy        vectors [N, D], or the flat token vectors [T, D] of late interaction
        shard-<digest>.json       the items' keys and their number of vectors, in the order of the .npy
        locks/

A shard is listed after both of its files are on disk (fsync), so that a kill leaves whole shards or
nothing. Every listed shard is hashed before its first use; one that differs is dropped and encoded again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
from filelock import FileLock, Timeout

from common.atomic import atomic_path, write_text
from common.encoders import spread as elsewhere
from common.encoders.batches import Batch, Encoded, encode_batches
from common.encoders.embeddings import Embeddings, MultiEmbeddings, Shard
from common.errors import DataError
from common.faults import FaultLog
from common.hashing import digest, file_digest
from common.progress import bar

__all__ = ["EmbeddingStore", "Embeddings", "MultiEmbeddings"]

T = TypeVar("T")


class EmbeddingStore:
    """Embeddings of one encoder, kept between runs and shared by processes.

    Parameters
    ----------
    folder
        The cache; the store makes a folder of its own in it.
    encoder_name, revision
        The encoder and its weights' version (a hub commit, or a digest of a local file).
    role
        "query" or "passage": most encoders treat them differently.
    preprocessing
        Everything else that changes the result: prompts, token limit, image size, a version number.
    dtype
        Of the files: "float32" or "float16" (half the disk, for late interaction).
    shard_items
        Items a shard; a kill loses at most one shard's work.
    """

    def __init__(
        self,
        folder: Path,
        encoder_name: str,
        revision: str,
        role: str,
        preprocessing: str,
        dtype: Literal["float32", "float16"] = "float32",
        *,
        shard_items: int = 1024,
    ) -> None:
        if shard_items < 1:
            raise ValueError(f"shard_items must be at least 1, got {shard_items}")
        self.identity = (encoder_name, revision, role, preprocessing, dtype)
        self.encoder_name = encoder_name
        self.dtype = np.dtype(dtype)
        self.shard_items = shard_items
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", encoder_name).strip("-.")[-60:]
        self.folder = folder / f"{slug or 'encoder'}-{digest(*self.identity)[:16]}"
        self._shards: dict[str, Shard] = {}

    def key(self, content: str) -> str:
        """Return the key of an item: SHA-256 over its content key and the store's whole identity."""
        return digest(content, *self.identity)

    @overload
    def encode_all(
        self,
        keys: Sequence[str],
        load: Callable[[int], T],
        encode: Callable[[list[T]], Encoded],
        *,
        batch_size: int,
        faults: FaultLog,
        shard: tuple[int, int] = (0, 1),
        what: str = "items",
        name: Callable[[int], str] | None = None,
        spread: elsewhere.Spread | None = None,
        multi: Literal[False] = False,
    ) -> Embeddings: ...

    @overload
    def encode_all(
        self,
        keys: Sequence[str],
        load: Callable[[int], T],
        encode: Callable[[list[T]], Encoded],
        *,
        batch_size: int,
        faults: FaultLog,
        shard: tuple[int, int] = (0, 1),
        what: str = "items",
        name: Callable[[int], str] | None = None,
        spread: elsewhere.Spread | None = None,
        multi: Literal[True],
    ) -> MultiEmbeddings: ...

    def encode_all(
        self,
        keys: Sequence[str],
        load: Callable[[int], T],
        encode: Callable[[list[T]], Encoded],
        *,
        batch_size: int,
        faults: FaultLog,
        shard: tuple[int, int] = (0, 1),
        what: str = "items",
        name: Callable[[int], str] | None = None,
        spread: elsewhere.Spread | None = None,
        multi: bool = False,
    ) -> Embeddings | MultiEmbeddings:
        """Encode the items that the store lacks, and return the embeddings of all, in the order of `keys`.

        Parameters
        ----------
        keys
            One content key an item (SHA-256 of text or image bytes); equal keys are encoded once.
        load
            Returns the item of a row of `keys`. An exception is recorded in `faults`; the row is missing.
        encode
            Items to float [B, D], or with `multi` to B arrays [T_i, D]. Must be pure per item.
        batch_size
            Items an `encode` call; halved when memory runs out.
        shard
            (i, n): encode part i of n (parts are disjoint, by key); what other jobs wrote is returned too.
        what, name
            For the progress bar, faults and messages: the kind of item and, by row, its name.
        spread
            Encodes in an engine's workers what fills more than one shard: the same shards, the same bytes.

        Raises
        ------
        DataError
            The encoder gave a vector that is not finite, or another number of vectors than items.
        """
        part, parts = shard
        if not 0 <= part < parts:
            raise ValueError(f"shard needs 0 <= i < n, got {part}/{parts}")
        label = name or (lambda row: f"{what} {row}")
        own = [self.key(key) for key in keys]
        first: dict[str, int] = {}
        for row, key in enumerate(own):
            first.setdefault(key, row)
        have = self._refresh()
        mine = sorted(key for key in first if key not in have and int(key[:12], 16) % parts == part)
        if mine:
            self._describe()
            work = _Work(load, encode, batch_size, faults, what, label, first, spread, multi)
            self._encode_missing(mine, work)
            have = self._refresh()
        places = [have.get(key) for key in own]
        return MultiEmbeddings.of(places) if multi else Embeddings.of(places)

    def _encode_missing(self, missing: list[str], work: _Work) -> None:
        """Encode in shards; a shard that another process holds is left for last, then waited for."""
        groups = [missing[i : i + self.shard_items] for i in range(0, len(missing), self.shard_items)]
        with bar(f"encode {work.what}", total=len(missing), unit=work.what) as shown:
            if work.spread is not None and len(groups) > 1:
                self._encode_spread(groups, work, work.spread, shown.update)
                return
            busy = [g for g in groups if not self._try_shard(g, work, shown.update, timeout=0)]
            for group in busy:
                self._try_shard(group, work, shown.update, timeout=-1)

    def _try_shard(self, group: list[str], work: _Work, shown: Callable[[float], Any], timeout: float) -> bool:
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(locks / f"{digest(*group)[:16]}.lock", timeout=timeout))
            except Timeout:
                return False
            have = self._refresh()
            todo = [key for key in group if key not in have]
            shown(len(group) - len(todo))
            done, arrays = self._encode_group(todo, work, shown)
            if done:
                self._write_shard(done, arrays, multi=work.multi)
        return True

    def _encode_group(
        self, todo: list[str], work: _Work, shown: Callable[[float], Any]
    ) -> tuple[list[str], list[np.ndarray]]:
        rows = [work.first[key] for key in todo]
        batches = encode_batches(
            lambda position: work.load(rows[position]),
            work.encode,
            [work.label(row) for row in rows],
            batch_size=work.batch_size,
            dtype=self.dtype,
        )
        done: list[str] = []
        arrays: list[np.ndarray] = []
        for batch in batches:
            self._take(batch, todo, work, done, arrays)
            shown(batch.size)
        return done, arrays

    def _take(self, batch: Batch, group: list[str], work: _Work, done: list[str], arrays: list[np.ndarray]) -> None:
        """Check a batch of a group; record its faults, and add its keys and vectors to `done` and `arrays`."""
        for position, error in batch.errors:
            work.faults.add(f"encode {work.what}", work.label(work.first[group[position]]), error)
        for position, vectors in zip(batch.done, batch.arrays, strict=True):
            if not np.isfinite(vectors).all():
                raise DataError(
                    f"the encoder gave values that are not finite (NaN or infinite) as {self.dtype}",
                    where=work.label(work.first[group[position]]),
                    got=f"encoder {self.encoder_name}",
                    todo="check the weights and the number type (a half-precision model may overflow)",
                )
            done.append(group[position])
        arrays += batch.arrays

    def _encode_spread(
        self, groups: list[list[str]], work: _Work, spread: elsewhere.Spread, shown: Callable[[float], Any]
    ) -> None:
        """Let workers encode the groups; write each shard when it comes.

        No lock is held while they work, since there may be thousands of groups: two runs at the same time may
        encode the same shard, which the second finds written.
        """
        rows = [[work.first[key] for key in group] for group in groups]
        shards = (
            elsewhere.Shard(
                [spread.send(row) for row in own], [work.label(row) for row in own], work.batch_size, self.dtype.name
            )
            for own in rows
        )
        for number, batches in elsewhere.encode_elsewhere(spread, shards):
            group = groups[number]
            done: list[str] = []
            arrays: list[np.ndarray] = []
            for batch in batches:
                self._take(batch, group, work, done, arrays)
            if done and not set(done) <= self._refresh().keys():
                self._write_shard(done, arrays, multi=work.multi)
            shown(len(group))

    def _write_shard(self, keys: list[str], arrays: list[np.ndarray], *, multi: bool) -> None:
        name = f"shard-{digest(*keys)[:16]}"
        data = np.concatenate(arrays) if multi else np.stack(arrays)
        with atomic_path(self.folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, data, allow_pickle=False)
        counts = [len(a) for a in arrays] if multi else [1] * len(keys)
        write_text(self.folder / f"{name}.json", json.dumps({"keys": keys, "counts": counts}))
        entry = {end: file_digest(self.folder / f"{name}.{end}") for end in ("npy", "json")}
        with self._manifest_lock():
            manifest = self._read_manifest()
            manifest[name] = entry
            self._write_manifest(manifest)

    def _refresh(self) -> dict[str, tuple[Shard, int]]:
        """Open the shards listed since the last look, drop damaged ones; return where each key is."""
        if not (self.folder / "manifest.json").exists():
            return {}
        manifest = self._read_manifest()
        self._shards = {name: s for name, s in self._shards.items() if name in manifest}
        damaged: dict[str, Any] = {}
        for name, entry in manifest.items():
            if name not in self._shards:
                shard = self._open(name, entry)
                if shard is None:
                    damaged[name] = entry
                else:
                    self._shards[name] = shard
        if damaged:
            with self._manifest_lock():
                current = self._read_manifest()
                # Another process may have written the shard anew in the meantime: drop only what we judged.
                self._write_manifest({n: e for n, e in current.items() if damaged.get(n) != e})
        return {key: (s, i) for _, s in sorted(self._shards.items()) for i, key in enumerate(s.keys)}

    def _open(self, name: str, entry: Any) -> Shard | None:
        try:
            if any(file_digest(self.folder / f"{name}.{end}") != entry[end] for end in ("npy", "json")):
                return None
            return Shard.open(self.folder / f"{name}.npy", self.folder / f"{name}.json")
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _manifest_lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "manifest.lock")

    def _read_manifest(self) -> dict[str, Any]:
        """Return the listed shards; a manifest that cannot be read lists none, and the work is done again."""
        try:
            data = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            return dict(data["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write_manifest(self, shards: dict[str, Any]) -> None:
        text = json.dumps({"version": 1, "shards": dict(sorted(shards.items()))}, indent=1)
        write_text(self.folder / "manifest.json", text + "\n")

    def _describe(self) -> None:
        fields = ("encoder", "revision", "role", "preprocessing", "dtype")
        text = json.dumps(dict(zip(fields, self.identity, strict=True)), indent=1, ensure_ascii=False)
        if not (self.folder / "store.json").exists():
            write_text(self.folder / "store.json", text + "\n")


@dataclass
class _Work:
    """What one `encode_all` call was given."""

    load: Callable[[int], Any]
    encode: Callable[[list[Any]], Encoded]
    batch_size: int
    faults: FaultLog
    what: str
    label: Callable[[int], str]
    first: dict[str, int]
    spread: elsewhere.Spread | None
    multi: bool
