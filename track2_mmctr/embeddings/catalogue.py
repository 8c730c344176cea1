"""What `embed` reads of the items: their tags, texts, covers and raw embeddings, always by id, never by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from common.errors import DataError
from track2_mmctr.embeddings.config import TextField

INFO = Path("MicroLens_1M_x1") / "item_info.parquet"
FEATURE = Path("item_feature.parquet")
RAW = Path("item_emb.parquet")
IMAGES = Path("item_images")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The items 1..`count` of `folder`, and a list of tag ids for each id from 0 (padding) on."""

    folder: Path
    count: int
    tags: list[list[int]]


def read_catalogue(folder: Path) -> Catalogue:
    """Read ids and tags from item_info, or from item_feature where there is no item_info yet.

    Raises
    ------
    DataError
        Neither file is there, an id is missing, given twice or not an integer, or tags are no integers.
    """
    path = folder / (INFO if (folder / INFO).exists() else FEATURE)
    table = _read(path, ["item_tags"])
    count = int(table["item_id"].max() or 0)  # pyright: ignore[reportArgumentType]
    if count == 0:
        raise DataError("the file has no items", where=path, expected="item_id 1, 2, 3, ...")
    absent = np.setdiff1d(np.arange(1, count + 1), table["item_id"].to_numpy())
    if absent.size:
        raise DataError(
            f"{absent.size} items have no row",
            where=path,
            expected=f"every item_id from 1 to {count}",
            got=f"none for {absent[:5].tolist()}",
        )
    column = table["item_tags"]
    if not isinstance(column.dtype, pl.List | pl.Array) or not column.dtype.inner.is_integer():  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError("item_tags has another type", where=path, expected="lists of integers", got=column.dtype)
    if (empty := column.is_null()).any():
        row = int(empty.arg_max() or 0)
        raise DataError("an item has no tags", where=f"{path}, item_id {table['item_id'][row]}", expected="a list")
    tags = column.to_list()
    if table["item_id"][0] != 0:
        tags = [[0] * max(map(len, tags)), *tags]
    return Catalogue(folder, count, tags)


def read_texts(catalogue: Catalogue, fields: Sequence[TextField], notes: list[str]) -> list[str]:
    """Return one text an item ("" = none), the fields that the file has joined by a space."""
    path = catalogue.folder / FEATURE
    wanted = [f"item_{name}" for name in fields]
    present = [name for name in wanted if name in _columns(path)]
    if not present:
        raise DataError(
            "the file has none of the texts that `fields` asks for",
            where=path,
            expected=", ".join(wanted),
            got=", ".join(_columns(path)),
            todo="set method: image to embed covers alone",
        )
    if absent := [name for name in wanted if name not in present]:
        notes.append(f"{path.name} has no column {', '.join(absent)}: texts are {', '.join(present)} alone")
    table = _of_catalogue(_read(path, present), catalogue, path)
    _check_strings(table, present, path)
    texts = [""] * catalogue.count
    for item, *parts in table.iter_rows():
        texts[item - 1] = " ".join(part.strip() for part in parts if part and part.strip())
    return texts


def read_facts(catalogue: Catalogue, fields: Sequence[TextField]) -> list[dict[str, str]]:
    """Return what is known of each item, by field; fields that the file or an item does not have are left out."""
    path = catalogue.folder / FEATURE
    columns = _columns(path)
    present = [name for name in fields if f"item_{name}" in columns]
    table = _of_catalogue(_read(path, [f"item_{name}" for name in present]), catalogue, path)
    _check_strings(table, [f"item_{name}" for name in present], path)
    facts: list[dict[str, str]] = [{} for _ in range(catalogue.count)]
    for item, *parts in table.iter_rows():
        facts[item - 1] = {name: part.strip() for name, part in zip(present, parts, strict=True) if part}
    return facts


def _check_strings(table: pl.DataFrame, names: Sequence[str], path: Path) -> None:
    for name in names:
        if table[name].dtype != pl.String:
            raise DataError(f"{name} has another type", where=path, expected="strings", got=table[name].dtype)


def read_raw(catalogue: Catalogue, name: str, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return a ready-made embedding column of item_feature or item_emb: float32 [N, D] and present bool [N]."""
    paths = [catalogue.folder / file for file in (FEATURE, RAW)]
    path = next((p for p in paths if p.exists() and name in _columns(p)), None)
    if path is None:
        raise DataError(
            f"no file has the column {name}",
            where=", ".join(map(str, paths)),
            expected=f"lists of numbers in {name}, one an item",
            todo="get item_emb.parquet of the challenge, or set source: encoders",
        )
    table = _of_catalogue(_read(path, [name]), catalogue, path).filter(pl.col(name).is_not_null())
    return _vectors(table, name, catalogue, path, notes)


def cover_path(folder: Path, item: int) -> Path | None:
    """Return the cover of an item, item_images/<id>.jpg (.jpeg, .png, .webp), or None."""
    return next((p for s in _SUFFIXES if (p := folder / IMAGES / f"{int(item)}{s}").is_file()), None)


def _vectors(
    table: pl.DataFrame, name: str, catalogue: Catalogue, path: Path, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    column = table[name]
    if not isinstance(column.dtype, pl.List | pl.Array) or not column.dtype.inner.is_numeric():  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError(f"{name} has another type", where=path, expected="lists of numbers", got=column.dtype)
    column = column.cast(pl.List(pl.Float32))
    ids, lengths = table["item_id"].to_numpy(), column.list.len().to_numpy()
    width = int(np.bincount(lengths).argmax()) if len(lengths) else 0
    flat = column.explode(empty_as_null=False).to_numpy()
    if width == 0 or (lengths != width).any():
        row = int((lengths != width).argmax()) if width else 0
        got = f"{lengths[row]} for item_id {ids[row]}" if len(lengths) else "no vectors"
        raise DataError(f"{name} is ragged or empty", where=path, expected=f"{width} numbers an item", got=got)
    values = flat.reshape(-1, width)
    if not (finite := np.isfinite(values).all(axis=1)).all():
        raise DataError(
            f"{name} has values that are not finite",
            where=f"{path}, item_id {ids[int((~finite).argmax())]}",
            expected="finite numbers",
            got="NaN, null or infinity",
        )
    vectors = np.zeros((catalogue.count, width), np.float32)
    present = np.zeros(catalogue.count, bool)
    vectors[ids - 1], present[ids - 1] = values, True
    if not present.all():
        notes.append(f"{int((~present).sum())} items have no {name}: they get its mean")
    return vectors, present


def _columns(path: Path) -> list[str]:
    try:
        return list(pl.read_parquet_schema(path))
    except FileNotFoundError:
        raise DataError("the file is missing", where=path, todo="check --data, or prepare the data first") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None


def _read(path: Path, names: Sequence[str]) -> pl.DataFrame:
    """Return item_id (int64, sorted, no duplicates, not null) and the columns `names`."""
    have = _columns(path)
    if absent := [name for name in ("item_id", *names) if name not in have]:
        raise DataError(
            f"the column {absent[0]} is missing",
            where=path,
            expected=", ".join(("item_id", *names)),
            got=", ".join(have),
        )
    try:
        table = pl.read_parquet(path, columns=["item_id", *names])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, error) from None
    ids = table["item_id"]
    if not ids.dtype.is_integer():
        raise DataError("item_id has another type", where=path, expected="integers", got=ids.dtype)
    if (bad := (ids.is_null() | (ids < 0)).fill_null(True)).any():
        row = int(bad.arg_max() or 0)
        raise DataError("an item_id is null or negative", where=f"{path}, row {row}", expected=">= 0", got=ids[row])
    if (twice := ids.is_duplicated()).any():
        raise DataError("an item_id is given twice", where=path, got=f"item_id {ids.filter(twice)[0]}")
    return table.with_columns(pl.col("item_id").cast(pl.Int64)).sort("item_id").select("item_id", *names)


def _of_catalogue(table: pl.DataFrame, catalogue: Catalogue, path: Path) -> pl.DataFrame:
    """Return the rows without the padding item; refuse ids that item_info does not have."""
    highest = int(table["item_id"].max() or 0)  # pyright: ignore[reportArgumentType]
    if highest > catalogue.count:
        raise DataError(
            "an item is not in item_info",
            where=f"{path}, item_id {highest}",
            expected=f"item_id 1 to {catalogue.count}",
            got=highest,
        )
    return table.filter(pl.col("item_id") > 0)


def _damaged(path: Path, error: Exception) -> DataError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError("the parquet file is truncated or damaged", where=path, got=first, todo="download the file again")
