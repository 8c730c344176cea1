"""Which items EASE can read: those without a description or modality are an error, or left out and counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import DataError
from common.representation.ease.config import EaseConfig
from common.representation.inputs import Items

LEAST_ITEMS = 2


def modality_names(items: Items, wanted: tuple[str, ...] | None) -> list[str]:
    """Return the modalities to read, in their order; raise `DataError` where one is absent or none is there."""
    names = list(items.modalities) if wanted is None else list(wanted)
    for name in names:
        items.modality(name, "ease, modalities")
    if not names:
        raise DataError("the items have no modality", where="ease", expected="frozen outputs of an encoder")
    return names


def usable(
    items: Items, names: Sequence[str], config: EaseConfig, *, described: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows of the items that can be read, and how many lack what.

    Parameters
    ----------
    described
        Items need a description too.

    Raises
    ------
    DataError
        More than `max_missing` items lack something; the first of them is named. Fewer than two items to learn from.
    """
    lacks = {name: ~items.modalities[name].present for name in names}
    if config.need == "any":
        lacks = {" and ".join(names): np.logical_and.reduce(list(lacks.values()))}
    if described:
        lacks["description"] = np.array([not text.strip() for text in items.texts], bool)
    missing = np.logical_or.reduce(list(lacks.values())) if len(items) else np.zeros(0, bool)
    counts = {name: int(rows.sum()) for name, rows in lacks.items() if rows.any()}
    if missing.sum() > config.max_missing:
        row = int(missing.argmax())
        what = " and ".join(name for name, rows in lacks.items() if rows[row])
        raise DataError(
            "items lack a description or a modality",
            where=f"item {items.ids[row]} has no {what}",
            expected=f"at most {config.max_missing} such items (max_missing)",
            got=", ".join(f"{count} without {name}" for name, count in counts.items()),
            todo="complete them, or raise max_missing: they are then left out, and counted",
        )
    kept = np.flatnonzero(~missing)
    if described and len(kept) < LEAST_ITEMS:
        raise DataError("too few items to learn from", expected=f"at least {LEAST_ITEMS}", got=len(kept))
    return kept, counts


def unit_vectors(target: np.ndarray, items: Items, rows: np.ndarray) -> np.ndarray:
    """Return the teacher's vectors of some items at length 1, float32 [len(rows), D].

    Raises
    ------
    DataError
        Another shape than [N, D]; a vector that is zero or not finite.
    """
    if target.ndim != 2 or len(target) != len(items):
        raise DataError(
            "the teacher's vectors have another shape", expected=f"[{len(items)}, D]", got=list(target.shape)
        )
    vectors = target[rows].astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~np.isfinite(length[:, 0]) | (length[:, 0] < 1e-12)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            "a vector of the teacher is zero or not finite",
            where=f"target, item {items.ids[rows[row]]}",
            got=f"{int(bad.sum())} such items",
            todo="encode these items again",
        )
    return vectors / length
