"""Sequences from files: NAME.inter.json with what lies beside it, or a Track 2 data root.

DIR/NAME.inter.json   {"user": [item, item, ...], ...}, oldest first
DIR/NAME.index.json   optional, published semantic IDs: {"item": ["<a_12>", "<b_3>", ...], ...}
DIR/*.parquet         optional, item_id with title or text (string) and/or one list<float> column of vectors
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.generative.sequences import Sequences

_TOKEN = re.compile(r"<([a-z])_(\d{1,9})>")
_SUFFIX = ".inter.json"


def load_sequences(folder: Path) -> Sequences:
    """Read the sequences of a folder in either layout.

    Raises
    ------
    DataError
        Nothing here that can be read, bad JSON, an empty file, an item unknown to the files beside it.
    """
    from common.generative.microlens_sequences import find_microlens, load_microlens

    if not folder.is_dir():
        raise DataError("no such data folder", where="--data", got=folder)
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    if len(files) > 1:
        raise DataError(
            "several data sets in one folder",
            where=folder,
            expected="one NAME.inter.json",
            got=", ".join(path.name for path in files),
            todo="give each a folder of its own",
        )
    if files:
        return _load_inter(files[0])
    root = find_microlens(folder)
    if root is None:
        raise DataError(
            "no sequences here",
            where=folder,
            expected="NAME.inter.json, or item_seq.parquet or MicroLens_1M_x1/train.parquet (a Track 2 data root)",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
        )
    return load_microlens(root)


def _load_inter(path: Path) -> Sequences:
    data = read_object(path, "user -> list of item ids, oldest first")
    lists = {user: _id_list(path, user, value) for user, value in data.items()}
    total = sum(map(len, lists.values()))
    if not total:
        raise DataError(
            "no interactions", where=path, expected="at least one user with items", got=f"{len(data)} users"
        )
    known, tables, notes = item_tables(sorted(path.parent.glob("*.parquet")))
    seen = {item for one in lists.values() for item in one}
    item_ids = id_array(seen | set(known))
    if known and (missing := seen - set(known)):
        raise DataError(
            f"{len(missing):,} items of the sequences are not in the item file",
            where=", ".join(sorted(path.name for path in path.parent.glob("*.parquet"))),
            expected="every item of the sequences",
            got=", ".join(sorted(missing)[:5]),
        )
    row = {str(one): number for number, one in enumerate(item_ids.tolist())}
    users = id_array(lists)
    ordered = [lists[str(user)] for user in users.tolist()]
    flat = np.fromiter((row[item] for one in ordered for item in one), np.int32, total)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ordered])]).astype(np.int64)
    texts, embeddings = (arranged(tables.get(what), item_ids) for what in ("text", "embedding"))
    name = path.name[: -len(_SUFFIX)]
    made = Sequences(flat, offsets, users, item_ids, texts, embeddings, name=name, notes=tuple(notes))
    index = path.with_name(f"{name}.index.json")
    if index.is_file():
        codes, more = read_index(index, item_ids)
        made = replace(made, published=codes, notes=(*made.notes, *more))
    return made


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object; a key given twice, broken JSON and anything else are errors."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) < len(items):
            names = [key for key, _ in items]
            twice = next(key for key in made if names.count(key) > 1)
            raise DataError("a key is given twice", where=path, got=repr(twice))
        return made

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not readable as JSON", where=path, expected=expected, got=str(error)) from None
    if not isinstance(data, dict):
        raise DataError("the JSON is not an object", where=path, expected=expected, got=type(data).__name__)
    return data


def read_index(path: Path, item_ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the published codes int32 [N, L] of all items, and notes.

    The letter names the level: tokens are a, b, c, ... in this order. Codes need not be different: see
    `common.generative.item_ids`.

    Raises
    ------
    DataError
        An item has no codes, another number of them, or a token that is not `<letter_number>`.
    """
    data = read_object(path, 'item -> ["<a_12>", "<b_3>", ...]')
    names = [str(one) for one in item_ids.tolist()]
    missing = [name for name in names if name not in data]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(names):,} items have no published ID",
            where=path,
            expected="every item of the sequences",
            got=f"none for {', '.join(missing[:5])}",
            todo="use --set ids=ours",
        )
    levels = len(data[names[0]]) if isinstance(data[names[0]], list) else 0
    codes = np.array([_codes(path, name, data[name], levels) for name in names], dtype=np.int32)
    extra = len(data) - len(names)
    return codes, [f"{extra:,} IDs of {path.name} are of items that no file has"] if extra else []


def _codes(path: Path, item: str, tokens: object, levels: int) -> list[int]:
    found = [_TOKEN.fullmatch(t) if isinstance(t, str) else None for t in tokens] if isinstance(tokens, list) else []
    codes = [int(m[2]) for n, m in enumerate(found) if m is not None and m[1] == chr(ord("a") + n)]
    if not codes or len(codes) != len(found) or len(codes) != levels:
        raise DataError(
            "a published ID of another form",
            where=f"{path}, item {item}",
            expected=f"{levels or 'some'} tokens <a_0>, <b_0>, ... in this order",
            got=str(tokens)[:80],
        )
    return codes


def item_tables(paths: Iterable[Path]) -> tuple[list[str], dict[str, dict[str, Any]], list[str]]:
    """Read texts and vectors from parquet files with a column item_id; others are noted and left alone.

    Returns
    -------
    tuple
        Known item ids as text; {"text": {id: text}, "embedding": {id: vector}}; notes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[str, None] = {}
    tables: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for path in paths:
        try:
            schema = pq.read_schema(path)
            names = schema.names
            if "item_id" not in names:
                notes.append(f"{path.name} has no column item_id and is not read")
                continue
            text = next((name for name in ("text", "title", "item_title") if name in names), None)
            vectors = [f.name for f in schema if _is_vector(f.type)]
            vector = _one_vector(path, vectors)
            columns = pq.read_table(path, columns=[name for name in ("item_id", text, vector) if name])
        except (OSError, pa.ArrowException) as error:
            raise DataError("not readable as parquet", where=path, got=str(error)) from None
        ids = [str(one) for one in columns["item_id"].to_pylist()]
        if len(set(ids)) < len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise DataError("an item is there twice", where=path, got=twice)
        known |= dict.fromkeys(ids)
        for what, column in (("text", text), ("embedding", vector)):
            if column is None:
                continue
            if what in tables:
                raise DataError(f"two files have item {what}s", where=path, todo="leave one of them in the folder")
            tables[what] = dict(zip(ids, _values(columns[column], what, path), strict=True))
    return list(known), tables, notes


def _is_vector(kind: Any) -> bool:
    import pyarrow as pa

    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


def _one_vector(path: Path, names: list[str]) -> str | None:
    if len(names) > 1 and "emb" not in names:
        raise DataError(
            "several columns of vectors", where=path, expected="one, or one called emb", got=", ".join(names)
        )
    return "emb" if "emb" in names else next(iter(names), None)


def _values(column: Any, what: str, path: Path) -> list[Any]:
    if what == "text":
        return ["" if value is None else str(value) for value in column.to_pylist()]
    flat = column.combine_chunks()
    lengths = set(flat.value_lengths().to_pylist()) if len(flat) else set()
    if len(lengths) != 1 or None in lengths or 0 in lengths:
        raise DataError(
            "vectors of different lengths, or none", where=path, expected="one width", got=sorted(map(str, lengths))[:5]
        )
    matrix = np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(flat), -1)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(f"{len(bad)} vectors are not finite", where=f"{path}, row {int(bad[0])}")
    return list(matrix)


def arranged(table: dict[str, Any] | None, item_ids: np.ndarray) -> Any:
    """Return a column of `item_tables` in the order of the items: a list of texts, or float32 [N, D]."""
    if table is None:
        return None
    names = [str(one) for one in item_ids.tolist()]
    lacking = [name for name in names if name not in table]
    if lacking:
        raise DataError(
            f"{len(lacking):,} items have no text or vector", where="item files", got=", ".join(lacking[:5])
        )
    ordered = [table[name] for name in names]
    return np.stack(ordered) if isinstance(ordered[0], np.ndarray) else ordered


def id_array(ids: Iterable[str]) -> np.ndarray:
    """Return ids sorted: int64 and by value where each is a canonical number, else as text.

    >>> id_array(["10", "9"]).tolist(), id_array(["10", "9", "x"]).tolist()
    ([9, 10], ['10', '9', 'x'])
    """
    names = list(ids)
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in names):
        return np.array(sorted(int(name) for name in names), dtype=np.int64)
    return np.array(sorted(names))


def _id_list(path: Path, user: str, value: object) -> list[str]:
    good = isinstance(value, list) and all(
        (isinstance(one, int) and not isinstance(one, bool)) or (isinstance(one, str) and one) for one in value
    )
    if not good:
        raise DataError(
            "a sequence of another form",
            where=f"{path}, user {user}",
            expected="a list of item ids (whole numbers or text)",
            got=str(value)[:80],
        )
    return [str(one) for one in value]  # pyright: ignore[reportGeneralTypeIssues]
