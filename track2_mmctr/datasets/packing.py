"""A split file becomes packed, memory-mapped arrays in the cache: checked once, then opened at once.

Layout of one entry, named after the SHA-256 of the file's content, the vocabulary and the format::

    <cache>/track2/<key>/arrays/
        users.npy history.npy offsets.npy target.npy levels.npy [label.npy] [ids.npy] [oracle.npy]
        manifest.json     written last: what there is, of which type and shape

The file is read batch by batch and each array is appended to its own file, so that memory does not grow with
the number of rows. An array's header tells its true length only when it is closed, and the folder gets its name
when everything is on disk: an interrupted run leaves nothing that could be taken for data.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock

from common.atomic import atomic_folder, write_text
from common.errors import DataError
from common.hashing import digest, file_digest
from track2_mmctr.datasets.schema import Kind, Place, Table, plain, rectangle, shown
from track2_mmctr.datasets.tables import LEVELS, Split, SplitName

FORMAT = 1
COLUMNS: dict[str, Kind] = {
    "user_id": "integer",
    "item_seq": "integers",
    "item_id": "integer",
    "likes_level": "integer",
    "views_level": "integer",
}
LEFT = "sequences padded on the left with 0: 0, 0, oldest, ..., newest"


class NpyWriter:
    """A .npy file that grows: the header is written again, with the true length, when it is closed."""

    def __init__(self, path: Path, dtype: str, row: tuple[int, ...] = ()) -> None:
        self.file = path.open("wb")
        self.dtype, self.row, self.length = np.dtype(dtype), row, 0
        self._header()
        self.start = self.file.tell()

    def _header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.row)}
        np.lib.format.write_array_header_1_0(self.file, header)  # padded by numpy, so that it can grow in place

    def append(self, values: np.ndarray) -> None:
        """Add rows [n, *row]."""
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        """Write the true length and flush everything to disk."""
        self.file.seek(0)
        self._header()
        if self.file.tell() != self.start:  # pragma: no cover - a numpy without room for growth
            raise RuntimeError("numpy's header changed its size")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Writers(dict[str, NpyWriter]):
    """The arrays of one entry."""

    def __init__(self, folder: Path, arrays: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        super().__init__({name: NpyWriter(folder / f"{name}.npy", *form) for name, form in arrays.items()})
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.values():
            writer.file.close()

    def finish(self, **facts: object) -> None:
        """Close all arrays, then write the manifest."""
        for writer in self.values():
            writer.close()
        arrays = {name: [writer.dtype.str, [writer.length, *writer.row]] for name, writer in self.items()}
        write_text(self.folder / "manifest.json", json.dumps({"format": FORMAT, "arrays": arrays, **facts}, indent=1))


@dataclass(frozen=True)
class Packed:
    """A split as packed, and what else its file has."""

    split: Split
    width: int
    unread: list[str]


def pack(path: Path, name: SplitName, items: int, cache: Path) -> Packed:
    """Return the split of a file; read, checked and packed if the cache does not have it.

    Parameters
    ----------
    path
        train.parquet, valid.parquet or test.parquet.
    items
        Number of rows of the item table: ids are below it.
    cache
        The cache folder of the project.

    Raises
    ------
    DataError
        The file is absent or damaged, or breaks the schema.
    """
    table = open_split(path, name)
    content = file_digest(path)
    folder = cache / "track2" / digest("split", FORMAT, name, items, content)[:32] / "arrays"
    packed = _open(folder, name, content)
    if packed is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name("lock")):  # the processes of one run pack once
            for stale in folder.parent.glob(".partial-*"):  # of one that was killed: we have the lock
                shutil.rmtree(stale, ignore_errors=True)
            if (packed := _open(folder, name, content)) is None:
                with atomic_folder(folder) as temporary:
                    _write(table, name, items, temporary)
                packed = _open(folder, name, content)
    if packed is None:  # pragma: no cover - removed by someone between the two lines
        raise DataError("the packed split disappeared from the cache", where=folder, todo="run the command again")
    return packed


def open_split(path: Path, name: SplitName) -> Table:
    """Open a split file and check its columns."""
    test = name == "test"
    own: dict[str, Kind] = {"ID": "integer"} if test else {"label": "number"}
    optional: dict[str, Kind] = {"label": "number"} if test else {"oracle": "number"}
    return Table(path, {**COLUMNS, **own}, optional)


def _open(folder: Path, name: SplitName, content: str) -> Packed | None:
    """Return the entry, or None when it is not there in full."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return None
        arrays: dict[str, np.ndarray] = {}
        for key, (dtype, shape) in manifest["arrays"].items():
            array = np.load(folder / f"{key}.npy", mmap_mode="r")
            if [array.dtype.str, list(array.shape)] != [dtype, shape]:
                return None
            arrays[key] = np.asarray(array)  # a plain view of the mapped file
    except (OSError, ValueError, KeyError, TypeError):
        return None
    split = Split(
        name=name,
        users=arrays["users"],
        history=arrays["history"],
        offsets=arrays["offsets"],
        target=arrays["target"],
        levels=arrays["levels"],
        label=arrays.get("label"),
        ids=arrays.get("ids"),
        digest=digest("split", content),
        oracle=arrays.get("oracle"),
    )
    return Packed(split, manifest["width"], manifest["unread"])


def _write(table: Table, name: SplitName, items: int, folder: Path) -> None:
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {
        "users": ("<i8", ()),
        "history": ("<i4", ()),
        "offsets": ("<i8", ()),
        "target": ("<i4", ()),
        "levels": ("<i4", (2,)),
    }
    if "label" in table:
        arrays["label"] = ("<f4", ())
    if "ID" in table:
        arrays["ids"] = ("<i8", ())
    if "oracle" in table:
        arrays["oracle"] = ("<f8", ())
    width: int | None = None
    with Writers(folder, arrays) as out:
        out["offsets"].append(np.zeros(1, np.int64))
        for first, batch in table.batches(what=f"packing {name}"):
            width = _append(out, batch, table.path, first, items, width)
        out.finish(width=width, unread=table.unread)
    if "ID" in table:
        check_ids(np.load(folder / "ids.npy"), table.path)


def _append(out: Writers, batch: pa.RecordBatch, path: Path, first: int, items: int, width: int | None) -> int:
    """Check one batch and append it; return the width of its sequences."""

    def read(column: str) -> tuple[Place, np.ndarray]:
        place = Place(path, column, first)
        return place, plain(batch.column(column), place)

    out["users"].append(read("user_id")[1])
    place, target = read("item_id")
    place.refuse(
        (target < 1) | (target >= items), target, "an item id is outside the item table", f"1..{items - 1} (item_info)"
    )
    out["target"].append(target)
    levels = [read("likes_level"), read("views_level")]
    for place, level in levels:
        check_levels(level, place)
    out["levels"].append(np.stack([level for _, level in levels], axis=1))
    if "label" in out:
        place, label = read("label")
        check_labels(label, place)
        out["label"].append(label)
    if "ids" in out:
        out["ids"].append(read("ID")[1])
    if "oracle" in out:
        place, oracle = read("oracle")
        place.refuse(~np.isfinite(oracle), oracle, "a log-odds is not finite", "finite numbers")
        out["oracle"].append(oracle)
    place = Place(path, "item_seq", first)
    sequences = rectangle(batch.column("item_seq"), place, width)
    real = check_sequences(sequences, place, items)
    out["offsets"].append(out["history"].length + np.cumsum(real.sum(1)))
    out["history"].append(sequences[real])
    return sequences.shape[1]


def check_levels(level: np.ndarray, place: Place) -> None:
    """Refuse popularity levels outside 0..10."""
    place.refuse((level < 0) | (level >= LEVELS), level, "a level is out of range", f"0..{LEVELS - 1}")


def check_labels(label: np.ndarray, place: Place) -> None:
    """Refuse labels other than 0 and 1 (NaN included)."""
    place.refuse((label != 0) & (label != 1), label, "a label is neither 0 nor 1", "0 or 1")


def check_sequences(sequences: np.ndarray, place: Place, items: int) -> np.ndarray:
    """Check padded sequences [n, width] and return the mask of real items."""
    if sequences.size and (sequences.min() < 0 or sequences.max() >= items):
        outside = (sequences < 0) | (sequences >= items)
        row = int(np.argmax(outside.any(1)))
        raise place.error(
            "an item id is outside the item table",
            row=row,
            expected=f"0 (padding), 1..{items - 1} (item_info)",
            got=shown(sequences[row][outside[row]]),
        )
    real = sequences > 0
    holes = (real[:, :-1] & ~real[:, 1:]).any(1)
    if holes.any():
        row = int(np.argmax(holes))
        edges = int(np.count_nonzero(np.diff(real[row].astype(np.int8))))
        right = real[row, 0] and edges == 1
        raise place.error(
            "a sequence is padded on the right" if right else "a sequence has a 0 after a real item",
            row=row,
            expected=LEFT,
            got=shown(sequences[row]),
            todo="move the zeros to the front; the newest item comes last",
        )
    return real


def check_ids(ids: np.ndarray, path: Path) -> None:
    """Refuse a test set that has an ID twice."""
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        row = int(again.min())
        raise Place(path, "ID").error("an ID is given twice", row=row, expected="each ID once", got=int(ids[row]))
