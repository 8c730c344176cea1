"""The embedding file: item_info's official layout, row i = item i, row 0 zeros; written by id and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import atomic_path
from common.errors import DataError

WIDTH = 128
_LISTS = {"item_tags": pa.int64(), "item_emb_d128": pa.float64()}


def write_item_info(path: Path, tags: Sequence[Sequence[int]], embedding: np.ndarray) -> None:
    """Write item_id 0..N, `tags` (N + 1 lists) and `embedding` (float32 [N, D <= 128], row r = item r + 1), atomically.

    What was written is read back and compared before it takes its place; equal input gives equal bytes.

    Raises
    ------
    ValueError
        The shapes do not fit, or a value is not finite.
    DataError
        The file that was written differs from what it should hold.
    """
    count, width = embedding.shape
    if len(tags) != count + 1 or width > WIDTH or not np.isfinite(embedding).all():
        raise ValueError(
            f"need {count + 1} tag lists and finite [N, <= {WIDTH}], got {len(tags)} and {embedding.shape}"
        )
    full = np.zeros((count + 1, WIDTH))
    full[1:, :width] = embedding
    columns = {
        "item_id": pa.array(np.arange(count + 1, dtype=np.int64)),
        "item_tags": pa.array([list(row) for row in tags], pa.list_(pa.int64())),
        "item_emb_d128": pa.ListArray.from_arrays(
            pa.array(np.arange(0, full.size + 1, WIDTH, dtype=np.int32)), pa.array(full.ravel())
        ),
    }
    table = pa.table(columns)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
        _check(temporary, table, full, path)


def _check(written: Path, table: pa.Table, full: np.ndarray, path: Path) -> None:
    back = pq.read_table(written)
    types = {name: back.schema.field(name).type.value_type for name in _LISTS if name in back.column_names}
    if back.column_names != table.column_names or types != _LISTS or not back.equals(table):
        raise DataError("the file that was written does not hold what it should", where=path, todo="check the disk")
    values = back["item_emb_d128"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
    if values.tobytes() != full.tobytes() or values[0].any():
        raise DataError("the vectors read back differ from those written", where=path, todo="check the disk")
