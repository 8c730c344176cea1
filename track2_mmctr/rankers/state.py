"""What a fitted ranker saves: JSON values and safetensors arrays, tied to the item table by its digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_path, write_text
from common.errors import DataError
from track2_mmctr.datasets.tables import ItemTable

VALUES, ARRAYS = "ranker.json", "ranker.safetensors"
TODO = "fit the ranker again: run"


def save_state(folder: Path, values: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Write `ranker.json`, and `ranker.safetensors` when there are arrays; each atomically."""
    if arrays:
        from safetensors.numpy import save_file

        with atomic_path(folder / ARRAYS) as temporary:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    write_text(folder / VALUES, json.dumps(values, indent=1, sort_keys=True) + "\n")


def load_state(
    folder: Path, kind: str, keys: set[str], arrays: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `save_state` wrote.

    Raises
    ------
    DataError
        A file is missing or damaged, is that of another kind of ranker, or lacks a key or an array.
    """
    values = _read_values(folder / VALUES, kind, keys)
    if not arrays:
        return values, {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / ARRAYS
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError("the fitted ranker is missing or damaged", where=path, got=error, todo=TODO) from None
    if set(loaded) != arrays:
        raise DataError(
            "the fitted ranker has other arrays", where=path, expected=sorted(arrays), got=sorted(loaded), todo=TODO
        )
    return values, loaded


def _read_values(path: Path, kind: str, keys: set[str]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("the fitted ranker is missing or damaged", where=path, got=error, todo=TODO) from None
    if not isinstance(values, dict) or values.get("type") != kind:
        got = values.get("type") if isinstance(values, dict) else type(values).__name__
        raise DataError("the folder holds another ranker", where=path, expected=f"type {kind}", got=got, todo=TODO)
    if missing := sorted(keys - set(values)):
        raise DataError("the fitted ranker lacks values", where=path, expected=sorted(keys), got=missing, todo=TODO)
    return values


def check_items(items: ItemTable, digest: str) -> None:
    """Raise `DataError` when a ranker was fitted on another item table: its statistics are by item id."""
    if items.digest != digest:
        raise DataError(
            "the ranker was fitted on another item table",
            expected=f"digest {digest[:16]}",
            got=f"digest {items.digest[:16]}",
            todo="fit it again on this data",
        )
