"""The folder of a saved Milvus index: a manifest, the ids, and the files of milvus-lite's database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common.atomic import atomic_folder
from common.hashing import digest, file_digest
from common.index.base import Kind, damaged
from common.index.milvus_server import DATABASE

_FORMAT = 1
_SAMPLE = 64


def write_saved(folder: Path, manifest: dict[str, Any], ids: np.ndarray, database: Path | None) -> None:
    """Write manifest.json (with the SHA-256 of all else), ids.npy and a copy of a closed database."""
    with atomic_folder(folder) as temporary:
        np.save(temporary / "ids.npy", ids)
        if database is not None:
            shutil.copytree(database, temporary / DATABASE, ignore=shutil.ignore_patterns("LOCK"))
        hashes = {name: file_digest(temporary / name) for name in _files(temporary)}
        body = {"format": _FORMAT, "engine": "milvus", **manifest, "sha256": hashes}
        (temporary / "manifest.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def read_saved(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return the manifest, with the digest of itself as "key", and the ids; hashes are compared first.

    Raises
    ------
    DataError
        A file is missing, damaged, one too many, or of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise damaged(folder, "no manifest.json")
    try:
        data = path.read_bytes()
        manifest: dict[str, Any] = json.loads(data)
        if manifest["format"] != _FORMAT or manifest["engine"] != "milvus" or manifest["kind"] not in get_args(Kind):
            raise ValueError("unknown format, engine or kind")
        for key in ("dim", "vectors", "lists"):
            manifest[key] = int(manifest[key])
        for key in ("collection", *(("uri", "sample") if "uri" in manifest else ())):
            manifest[key] = str(manifest[key])
        hashes = dict(manifest["sha256"])
        found = [name for name in _files(folder) if name != "manifest.json"]
        if found != sorted(hashes):
            raise ValueError(f"files: {len(found)} instead of {len(hashes)}, or others")
        for name, expected in hashes.items():
            if file_digest(folder / name) != expected:
                raise ValueError(f"{name} is changed")
        ids = np.load(folder / "ids.npy", allow_pickle=False)
        if ids.dtype != np.int64 or ids.shape != (manifest["vectors"],):
            raise ValueError(f"ids: {ids.dtype} {ids.shape}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{type(error).__name__}: {error}") from None
    return manifest | {"key": digest(data)}, ids


def unpacked(folder: Path, to: Path) -> None:
    """Copy the saved database to `to`, in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder / DATABASE, to)


def sampled(ids: np.ndarray) -> np.ndarray:
    """Return some of the ids, evenly spread: their vectors show whether a collection is the one that was saved."""
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(np.int64))]


def sample_digest(vectors: np.ndarray) -> str:
    """Return SHA-256 over vectors float32 [N, D]."""
    return digest(*vectors.shape, np.ascontiguousarray(vectors).tobytes())


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
