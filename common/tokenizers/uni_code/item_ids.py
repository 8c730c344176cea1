"""From codes of several modalities to one semantic ID an item."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError, DataError
from common.tokenizers.semantic_ids import SemanticIdMap
from common.tokenizers.spread import step_codes
from common.tokenizers.uni_code.inputs import as_steps
from common.tokenizers.uni_code.tokenizer import UniCode

Pool = Literal["most", "all"]
Missing = Literal["error", "other"]


def pooled(codes: np.ndarray, size: int, pool: Pool) -> np.ndarray:
    """Return the codes int32 [N, 1 or T] that stand for an item, of its codes [N, T].

    most: the code that occurs at most steps, the smallest of equals; all: one level a step.

    >>> pooled(np.array([[2, 1, 2], [3, 0, 1]]), 4, "most").tolist()
    [[2], [0]]
    """
    if pool == "all":
        return codes.astype(np.int32)
    counts = np.zeros((len(codes), size), np.int32)
    np.add.at(counts, (np.arange(len(codes))[:, None], codes), 1)
    return counts.argmax(axis=1).astype(np.int32)[:, None]


def item_codes(
    tokenizer: UniCode,
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    order: tuple[str, ...],
    *,
    pool: Pool = "most",
    missing: Missing = "error",
    encoders: Mapping[str, str] | None = None,
    engine: Engine = LOCAL,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return item ids int64 [N] (ascending), their codes int32 [N, M or M x T], and how many lacked each modality.

    Parameters
    ----------
    features
        By modality: ids int64 [N_m] and features [N_m, T, D_m] or [N_m, D_m].
    order
        Modalities from the first level of the ID to the last.
    pool
        See `pooled`.
    missing
        What to do about an item that a modality lacks. error: refuse. other: it takes the codes of the first modality
        in `order` that has the item; the codebook is shared, so that they are codes of the same meaning.
    encoders
        What made the features, by modality; see `UniCode.encode`.
    engine
        Its workers encode, where it has some; the codes are the same.

    Raises
    ------
    ConfigError
        `order` is not the modalities.
    DataError
        An item that a modality lacks (error), other numbers of steps, and all of `UniCode.encode`.
    """
    if sorted(order) != sorted(features):
        raise ConfigError("the order names other modalities", where="order", expected=sorted(features), got=order)
    ids = np.unique(np.concatenate([known for known, _ in features.values()]))
    found: dict[str, np.ndarray] = {}
    there: dict[str, np.ndarray] = {}
    for name in order:
        own, x = features[name]
        encode = partial(tokenizer.encode, name, encoder=(encoders or {}).get(name, ""))
        codes = pooled(step_codes(encode, as_steps(x, name), engine), tokenizer.config.codes, pool)
        rows = np.searchsorted(ids, own)
        found[name] = np.full((len(ids), codes.shape[1]), -1, np.int32)
        found[name][rows] = codes
        there[name] = np.isin(ids, own)
    if len({part.shape[1] for part in found.values()}) > 1:
        got = ", ".join(f"{name} {part.shape[1]}" for name, part in found.items())
        raise DataError("modalities have other numbers of steps", expected="one number", got=got)
    lacking = {name: int((~have).sum()) for name, have in there.items()}
    if missing == "error" and any(lacking.values()):
        _refuse(ids, there)
    first = np.stack([there[name] for name in order]).argmax(0)
    spare = np.stack([found[name] for name in order])[first, np.arange(len(ids))]
    levels = [np.where(there[name][:, None], found[name], spare) for name in order]
    return ids, np.concatenate(levels, axis=1), lacking


def make_ids(tokenizer: UniCode, codes: np.ndarray, *, rank_codes: int = 0) -> SemanticIdMap:
    """Return distinct IDs of `item_codes`: a code a level, and a rank among items with equal ones."""
    sizes = (tokenizer.config.codes,) * codes.shape[1]
    return SemanticIdMap.from_codes(codes, sizes, version=tokenizer.version, rank_codes=rank_codes)


def common_rows(features: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the ids int64 [N] that every modality has, ascending, and their features by modality, in that order.

    Raises
    ------
    DataError
        No item has all modalities.
    """
    ids: np.ndarray | None = None
    for own, _ in features.values():
        ids = np.unique(own) if ids is None else np.intersect1d(ids, own)
    if ids is None or not len(ids):
        raise DataError(
            "no item has all modalities",
            expected="files over the same items, with equal ids",
            got="; ".join(f"{name}: ids {own[:3].tolist()}..." for name, (own, _) in features.items()),
        )
    chosen: dict[str, np.ndarray] = {}
    for name, (own, x) in features.items():
        by_id = np.argsort(own, kind="stable")
        chosen[name] = np.asarray(x)[by_id[np.searchsorted(own[by_id], ids)]]
    return ids, chosen


def _refuse(ids: np.ndarray, there: Mapping[str, np.ndarray]) -> None:
    name = max(there, key=lambda one: int((~there[one]).sum()))
    lost = ids[~there[name]]
    raise DataError(
        f"{len(lost):,} of {len(ids):,} items lack a modality",
        where=name,
        expected="a vector for each item",
        got=f"none for {', '.join(map(str, lost[:5].tolist()))}",
        todo="add them, leave them out of the other files, or let them take the other's codes: --missing other",
    )
