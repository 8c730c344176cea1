"""The table of features that every method writes: one parquet file, an id and its feature columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import atomic_path
from common.errors import DataError

FORMAT = "mirc-features-1"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of N items or users.

    Attributes
    ----------
    ids
        int64 [N], all different.
    columns
        By name: float32 [N, D] vectors, or integer [N, L] codes.
    about
        JSON values that say what made it: method, encoder, version, costs.
    id_name
        Column of the ids in the file: item_id or user_id.
    """

    ids: np.ndarray
    columns: dict[str, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)
    id_name: str = "item_id"

    def __post_init__(self) -> None:
        if len(np.unique(self.ids)) != len(self.ids):
            raise DataError("an id has two rows of features", where=self.id_name)
        for name, values in self.columns.items():
            if values.ndim != 2 or len(values) != len(self.ids):
                raise DataError(
                    "a feature column has another shape",
                    where=name,
                    expected=f"[{len(self.ids)}, D]",
                    got=list(values.shape),
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int((~np.isfinite(values).all(1)).argmax())
                raise DataError("a feature is not finite", where=f"{name}, {self.id_name} {self.ids[row]}")

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all; equal tables give equal bytes."""
        arrays: dict[str, Any] = {self.id_name: pa.array(self.ids.astype(np.int64))}
        for name, values in self.columns.items():
            kind = np.float32 if values.dtype.kind == "f" else np.int32
            flat = pa.array(np.ascontiguousarray(values, kind).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        about = json.dumps({"format": FORMAT, **self.about}, sort_keys=True)
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(arrays).replace_schema_metadata({"mirc": about}), temporary, compression="zstd")


def read_features(path: Path) -> FeatureTable:
    """Read what `FeatureTable.write` wrote.

    Raises
    ------
    DataError
        No file, a damaged one, or one that is no table of features.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError("the table of features is missing", where=path, todo="write it: embed --method ...") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError("the table of features is damaged", where=path, got=str(error).splitlines()[0]) from None
    about = _about(table.schema.metadata or {}, path)
    names = [name for name in ("item_id", "user_id") if name in table.column_names]
    if about.pop("format", None) != FORMAT or len(names) != 1:
        raise DataError(
            "not a table of features of this program's version",
            where=path,
            expected=f"{FORMAT} with a column item_id or user_id",
            got=", ".join(table.column_names),
        )
    columns = {}
    for field_ in table.schema:
        if field_.name in names:
            continue
        if not pa.types.is_fixed_size_list(field_.type):
            raise DataError("a feature column has another type", where=f"{path}, {field_.name}", got=field_.type)
        flat = table[field_.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        columns[field_.name] = flat.reshape(-1, field_.type.list_size)
    return FeatureTable(table[names[0]].to_numpy(), columns, about, names[0])


def _about(metadata: dict[bytes, bytes], path: Path) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(b"mirc", b"{}"))
    except ValueError as error:
        raise DataError(
            "the table's description is damaged", where=path, got=str(error), todo="make it again"
        ) from None
    return found if isinstance(found, dict) else {}
