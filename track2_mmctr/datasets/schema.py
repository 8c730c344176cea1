"""Reading parquet with the schema checked: every fault names the file, the row, the column, expected and got.

Rows are counted from 0 in all messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import DataError
from common.progress import bar

Kind = Literal["integer", "number", "text", "integers", "numbers"]
"""What a column holds; the plural ones are lists."""
BATCH_ROWS = 16384
AGAIN = "download the file again: it is damaged or cut off"


@dataclass(frozen=True)
class Place:
    """Where a batch of a column is in its file, for messages."""

    path: Path
    column: str
    first_row: int = 0

    def error(
        self, what: str, *, row: int | None = None, expected: object = None, got: object = None, todo: str | None = None
    ) -> DataError:
        """Return the error for `row` of this batch (None: the whole column)."""
        at = "" if row is None else f", row {self.first_row + row} (counted from 0)"
        return DataError(what, where=f"{self.path}{at}, column {self.column}", expected=expected, got=got, todo=todo)

    def refuse(
        self, bad: np.ndarray | np.bool, values: np.ndarray, what: str, expected: object, todo: str | None = None
    ) -> None:
        """Raise for the first row of the batch that is marked in `bad`, bool [n]."""
        if bad.any():
            row = int(np.argmax(bad))
            raise self.error(what, row=row, expected=expected, got=shown(values[row]), todo=todo)


def shown(value: object, limit: int = 60) -> str:
    """Return a value for a message, cut short."""
    text = str(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def arrow_errors(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors while reading `path` into one `DataError`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "the parquet file cannot be read", where=path, expected="a whole parquet file", got=first, todo=AGAIN
        ) from None


class Table:
    """A parquet file whose columns are checked when it is opened.

    Parameters
    ----------
    path
        The file.
    columns
        Column -> what it must hold.
    optional
        The same for columns that may be absent.

    Raises
    ------
    DataError
        The file is absent, damaged or empty; a column is absent, given twice, or of another type.
    """

    def __init__(
        self, path: Path, columns: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, *, todo: str = ""
    ) -> None:
        if not path.is_file():
            raise DataError(
                f"{path.name} is missing", where=path.parent, expected=path.name, todo=todo or "see data/README.md"
            )
        self.path = path
        with arrow_errors(path), pq.ParquetFile(path) as file:
            self.schema: pa.Schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
        wanted: dict[str, Kind] = {**columns, **{k: v for k, v in (optional or {}).items() if k in self.schema.names}}
        for column, kind in wanted.items():
            self._check(column, kind)
        self.columns = list(wanted)
        if not self.rows:
            raise DataError(f"{path.name} has no rows", where=path, expected="at least one row", got=0, todo=AGAIN)

    def _check(self, column: str, kind: Kind) -> None:
        place = Place(self.path, column)
        found = self.schema.names.count(column)
        if found != 1:
            what = (
                f"{self.path.name} has no column {column}" if not found else f"column {column} is given {found} times"
            )
            raise place.error(what, expected=f"{column}: {described(kind)}", got=", ".join(self.schema.names))
        have = self.schema.field(column).type
        if not matches(have, kind):
            raise place.error(f"column {column} has another type", expected=described(kind), got=have)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    @property
    def unread(self) -> list[str]:
        """Columns of the file that nothing asked for."""
        return [name for name in self.schema.names if name not in self.columns]

    def batches(self, columns: list[str] | None = None, *, what: str = "") -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (row number of the batch's first row, batch), `BATCH_ROWS` rows at a time.

        Row groups are decoded bit by bit, so that memory does not depend on how large they are.
        """
        first = 0
        with arrow_errors(self.path):
            file = pq.ParquetFile(self.path, pre_buffer=False)
        with file, bar(what or self.path.name, total=self.rows, unit="row") as shown_bar:
            stream = file.iter_batches(BATCH_ROWS, columns=columns or self.columns, use_threads=False)
            while True:
                with arrow_errors(self.path):
                    batch = next(stream, None)
                if batch is None:
                    break
                yield first, batch
                first += batch.num_rows
                shown_bar.update(batch.num_rows)
        if first != self.rows:
            raise DataError("the parquet file is cut off", where=self.path, expected=self.rows, got=first, todo=AGAIN)

    def rectangles(self, column: str, width: int | None = None) -> Iterator[tuple[Place, np.ndarray]]:
        """Yield a list column as arrays [n, width], with their places; None takes the first list's width."""
        for first, batch in self.batches([column]):
            place = Place(self.path, column, first)
            part = rectangle(batch.column(column), place, width)
            width = part.shape[1]
            yield place, part

    def read(self, column: str) -> np.ndarray:
        """Return a whole column of integers [R] (int64), of numbers [R] (float64), or of lists [R, width]."""
        if is_list(self.schema.field(column).type):
            return np.concatenate([part for _, part in self.rectangles(column)])
        batches = self.batches([column])
        return np.concatenate([plain(batch.column(column), Place(self.path, column, at)) for at, batch in batches])

    def read_text(self, column: str) -> list[str | None]:
        """Return a whole column of strings."""
        return [value for _, batch in self.batches([column]) for value in batch.column(column).to_pylist()]


def described(kind: Kind) -> str:
    """Return a kind of column in words."""
    return {
        "integer": "integers",
        "number": "numbers",
        "text": "strings",
        "integers": "a list of integers in each row",
        "numbers": "a list of numbers in each row",
    }[kind]


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column has a list in each row."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def matches(have: pa.DataType, kind: Kind) -> bool:
    """Return whether a column type is of the kind."""
    if kind in ("integers", "numbers"):
        return is_list(have) and matches(have.value_type, "integer" if kind == "integers" else "number")
    if pa.types.is_dictionary(have):  # categories, as pandas and polars write them
        return kind == "text" and matches(have.value_type, kind)
    if kind == "text":
        return pa.types.is_string(have) or pa.types.is_large_string(have) or pa.types.is_string_view(have)
    return pa.types.is_integer(have) or (kind == "number" and pa.types.is_floating(have))


def plain(column: pa.Array, place: Place) -> np.ndarray:
    """Return a column without nulls as int64 or float64 [n]."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise place.error("a value is missing", row=row, expected="a value in each row", got="null")
    integer = pa.types.is_integer(column.type)
    return column.to_numpy(zero_copy_only=False).astype(np.int64 if integer else np.float64, copy=False)


def flat(column: pa.Array, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a list column end to end, and the lists' lengths int64 [n]; nulls are errors."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise place.error("a list is missing", row=row, expected="a list in each row", got="null")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    values = column.flatten()
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise place.error("a list has a missing value", row=row, expected="no nulls", got="null")
    return values.to_numpy(zero_copy_only=False), lengths


def rectangle(column: pa.Array, place: Place, width: int | None) -> np.ndarray:
    """Return a list column as [n, width]; lists of another length than `width` (None: the first's) are errors."""
    values, lengths = flat(column, place)
    if width is None:
        width = int(lengths[0]) if len(lengths) else 0
    place.refuse(
        lengths != width, lengths, "a list has another length than it should", f"{width} values in each row of the file"
    )
    return values.reshape(len(lengths), width)
