"""Files of vectors (npy, parquet) and of semantic IDs (parquet), read with checks and written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import atomic_path
from common.errors import DataError
from common.tokenizers.base import check_codes, check_vectors

_META = b"mirc_semantic_ids"


@dataclass(frozen=True, eq=False)
class SidFile:
    """Semantic IDs by item: `item_ids` int64 [N] (ascending, different), `sids` int32 [N, L].

    `sizes` are the codes of each level; `levels` of them are the quantizer's, and what follows is a rank among items
    with equal codes (0: all are codes). `version` is that of the `SemanticIdMap` they come from: what was trained
    on one version refuses another.
    """

    item_ids: np.ndarray
    sids: np.ndarray
    sizes: tuple[int, ...]
    version: str
    levels: int = 0


def read_vectors(path: Path, column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids int64 [N], floats [N, D]) of a .npy file (memory-mapped; ids are row numbers) or a parquet table.

    Parameters
    ----------
    path
        A .npy array [N, D] of floats, or a parquet table with a column of lists of equal length and, for the ids, a
        column `item_id`, `id` or `passage_id` of integers (row numbers without one).
    column
        The list column; needed only where there are several.

    Raises
    ------
    DataError
        Not such a file, a null, lists of different lengths, an id that occurs twice.
    """
    if path.suffix == ".npy":
        try:
            x = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError("not a .npy array", where=path, got=str(error)) from None
        check_vectors(x, what="vectors")
        return np.arange(len(x), dtype=np.int64), x
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError("not a .npy array or a parquet table", where=path, got=str(error)) from None
    vectors = _list_column(table, column, path)
    return _ids(table, path), vectors


def _list_column(table: pa.Table, column: str | None, path: Path) -> np.ndarray:
    lists = [
        field.name
        for field in table.schema
        if (
            pa.types.is_list(field.type)
            or pa.types.is_large_list(field.type)
            or pa.types.is_fixed_size_list(field.type)
        )
        and pa.types.is_floating(field.type.value_type)
    ]
    if (column is not None and column not in lists) or (column is None and len(lists) != 1):
        raise DataError(
            "which column holds the vectors?" if lists else "no column of float lists",
            where=path,
            expected="one column of lists of floats, named with --column where there are several",
            got=column or (", ".join(lists) or ", ".join(table.column_names)),
        )
    name = column or lists[0]
    array = table[name].combine_chunks()
    flat = array.flatten()
    if array.null_count or flat.null_count:
        row = next(i for i, value in enumerate(array.to_pylist()) if value is None or None in value)
        raise DataError("a vector is missing or has a null", where=f"{path}, row {row}, column {name}")
    lengths = (
        np.diff(array.offsets.to_numpy()) if hasattr(array, "offsets") else np.full(len(array), array.type.list_size)
    )
    wrong = np.flatnonzero(lengths != (lengths[0] if len(lengths) else 0))
    if len(wrong):
        raise DataError(
            "vectors of different lengths",
            where=f"{path}, row {int(wrong[0])}, column {name}",
            expected=int(lengths[0]),
            got=int(lengths[wrong[0]]),
        )
    values = flat.to_numpy(zero_copy_only=False).reshape(len(array), -1) if len(array) else np.empty((0, 0))
    check_vectors(values, what="vectors")
    return values.astype(np.float32, copy=False)


def _ids(table: pa.Table, path: Path) -> np.ndarray:
    name = next((name for name in ("item_id", "id", "passage_id") if name in table.column_names), None)
    if name is None:
        return np.arange(len(table), dtype=np.int64)
    if not pa.types.is_integer(table.schema.field(name).type) or table[name].null_count:
        raise DataError("ids are not integers", where=f"{path}, column {name}", got=table.schema.field(name).type)
    ids = table[name].to_numpy().astype(np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise DataError("an id occurs twice", where=f"{path}, column {name}", got=int(values[counts > 1][0]))
    return ids


def write_sids(path: Path, file: SidFile) -> None:
    """Write item_id int64 and sid_0..sid_{L-1} int32, with sizes and version in the file's metadata; by item id."""
    order = np.argsort(file.item_ids, kind="stable")
    columns = {"item_id": pa.array(file.item_ids[order].astype(np.int64))}
    for level in range(file.sids.shape[1]):
        columns[f"sid_{level}"] = pa.array(file.sids[order, level].astype(np.int32))
    meta = json.dumps({"sizes": list(file.sizes), "version": file.version, "levels": file.levels or len(file.sizes)})
    table = pa.table(columns).replace_schema_metadata({_META: meta.encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_sids(path: Path) -> SidFile:
    """Read what `write_sids` wrote.

    Raises
    ------
    DataError
        Another file, a code outside its codebook, an item or an ID that occurs twice.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError("not a file of semantic IDs", where=path, got=str(error)) from None
    meta = (table.schema.metadata or {}).get(_META)
    if meta is None:
        raise DataError(
            "not a file of semantic IDs: it names no version",
            where=path,
            todo="write one: python -m common.tokenizers encode --help",
        )
    header = json.loads(meta)
    sizes = tuple(int(size) for size in header["sizes"])
    names = [f"sid_{level}" for level in range(len(sizes))]
    if table.column_names != ["item_id", *names]:
        raise DataError("other columns", where=path, expected=", ".join(["item_id", *names]), got=table.column_names)
    ids = _ids(table, path)
    sids = np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.int32)
    check_codes(sids, sizes)
    if len(np.unique(sids, axis=0)) != len(sids):
        raise DataError("two items have the same semantic ID", where=path, todo="encode again with --dedup append")
    return SidFile(ids, sids, sizes, str(header["version"]), int(header.get("levels", len(sizes))))
