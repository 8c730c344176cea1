"""Descriptions of the figures of many images, kept on disk: made in parallel, resumed, shared by processes.

A shard is one safetensors file with the descriptions of a few dozen images; it is written atomically, and
named by the content keys of its images. An interrupted run loses the shards in work, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.atomic import atomic_path
from common.engine.base import Engine, Failed, Item, sendable
from common.engine.local import LOCAL
from common.faults import FaultLog
from common.hashing import digest
from common.progress import bar
from track1_mdr.datasets.tables import ImageSource
from track1_mdr.figures import Box, FigureLimits, crop, find_figures, top_part
from track1_mdr.keypoints import LONG_SIDE, VECTOR, WINDOWS, Keypoints, detect, shrink, thumbnail_vectors

VERSION = 3
SHARD_IMAGES = 32
POOL_FROM = 4 * SHARD_IMAGES
"""Fewer images than this are described without worker processes, whose start costs more."""
IMAGE_SECONDS = 120.0
"""A worker that spends longer on one image is stopped."""

Task = list[tuple[int, str]]
"""(row, content key) of the images of one shard."""
Report = tuple[int, str | None]
"""(row, error or None) of an image."""


@dataclass(frozen=True)
class Recipe:
    """How an image is described: `page` = its figures and its top part, `whole` = the image itself."""

    kind: Literal["page", "whole"]
    limits: FigureLimits
    features: int

    @property
    def name(self) -> str:
        """The folder of this recipe's shards."""
        return f"{self.kind}-{digest(VERSION, repr(self), LONG_SIDE, repr(WINDOWS), VECTOR)[:16]}"

    @property
    def views(self) -> int:
        """Thumbnails of each region: figures are also seen in part, since a query may be cut out of one."""
        return 1 if self.kind == "whole" else len(WINDOWS)


@dataclass(frozen=True)
class _Described:
    """A shard's file as a worker sends it, and the keys of its images."""

    keys: list[str]
    content: bytes


@dataclass(frozen=True, eq=False)
class FigureTable:
    """The figures of many images, in order of row.

    Attributes
    ----------
    rows
        int64 [F], ascending: the image row of each figure.
    vectors
        float16 [F, views, VECTOR]: thumbnails, for the shortlist.
    sizes
        int64 [F, 2]: width and height of the figure as described.
    shards
        The shards; `places` (int64 [F, 3]) has each figure's shard, first and last keypoint in it.
    """

    rows: np.ndarray
    vectors: np.ndarray
    sizes: np.ndarray
    shards: tuple[_Shard, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def keypoints(self, figure: int) -> Keypoints:
        """Read the keypoints of one figure from its shard."""
        shard, first, last = self.places[figure].tolist()
        return self.shards[shard].keypoints(first, last)


@dataclass(frozen=True)
class _Shard:
    """An open shard: its images' keys, and where its arrays are in the file."""

    path: Path
    keys: list[str]
    points_at: int
    descriptors_at: int

    @classmethod
    def open(cls, path: Path) -> _Shard | None:
        """Read the header; None when the file is damaged, and its images are to be described again."""
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, 100_000_000)))
            start = 8 + length
            places = [start + int(header[name]["data_offsets"][0]) for name in ("points", "descriptors")]
            end = start + max(int(entry["data_offsets"][1]) for name, entry in header.items() if name[0] != "_")
            keys = json.loads(header["__metadata__"]["keys"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(path, keys, places[0], places[1]) if path.stat().st_size == end else None

    def keypoints(self, first: int, last: int) -> Keypoints:
        """Read keypoints `first` to `last` (read, not mapped: mapped pages would count as used memory)."""
        with self.path.open("rb") as file:
            file.seek(self.points_at + first * 8)
            points = np.frombuffer(file.read((last - first) * 8), np.float32).reshape(-1, 2)
            file.seek(self.descriptors_at + first * 128)
            descriptors = np.frombuffer(file.read((last - first) * 128), np.uint8).reshape(-1, 128)
        return Keypoints(points, descriptors)


class FigureStore:
    """The descriptions made by one recipe, below `folder`."""

    def __init__(self, folder: Path, recipe: Recipe, engine: Engine = LOCAL) -> None:
        self.engine = engine
        self.folder = folder / recipe.name
        self.recipe = recipe

    def describe(
        self,
        images: ImageSource,
        keys: Sequence[str | None],
        names: Sequence[str | None],
        *,
        workers: int,
        faults: FaultLog,
        shard: tuple[int, int] = (0, 1),
        what: str = "image",
    ) -> FigureTable:
        """Describe the images that the store lacks; return the figures of all that it has.

        Parameters
        ----------
        images, keys, names
            The images, their content keys (None = no image) and what messages call them.
        workers
            Processes; each uses one thread.
        faults
            An image that cannot be read is recorded here, and has no figures. It is tried again next time.
        shard
            (i, n): describe part i of n, by key.
        """
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key is not None and int(key[:12], 16) % shard[1] == shard[0]:
                first.setdefault(key, row)
        have = {key for opened in self._shards() for key in opened.keys}
        missing = [(row, key) for key, row in sorted(first.items()) if key not in have]
        with bar(f"describe {what}", total=len(missing), unit="image") as shown:
            for row, error in self._run(missing, images, workers):
                if error is not None:
                    faults.add(f"describe {what}", names[row] or f"row {row}", error)
                shown.update(1)
        return self._table(keys)

    def _run(self, missing: Task, images: ImageSource, workers: int) -> Iterator[Report]:
        """Describe in shards; yield (row, error or None) for each image."""
        tasks = [missing[i : i + SHARD_IMAGES] for i in range(0, len(missing), SHARD_IMAGES)]
        setup = partial(_start_worker, images, self.recipe)
        if self.engine.parallel(workers) <= 1 or len(missing) < POOL_FROM or not sendable(images):
            for task in tasks:
                for value in _describe_shard((images, self.recipe), task):
                    yield from self._kept(value)
            return
        with self.engine.pool(_describe_shard, setup, workers=workers, timeout=IMAGE_SECONDS) as pool:
            reported: set[int] = set()
            lost: Task = []
            for event in pool.run(tasks):
                if isinstance(event, Item):
                    for row, error in self._kept(event.value):
                        reported.add(row)
                        yield row, error
                elif isinstance(event, Failed):
                    lost += tasks[event.task]
            # A worker that died takes its shard with it: one image at a time finds the one to blame.
            for event in pool.run([[item] for item in lost]):
                if isinstance(event, Item):
                    yield from (one for one in self._kept(event.value) if one[0] not in reported)
                elif isinstance(event, Failed):
                    yield lost[event.task][0], event.reason

    def _kept(self, value: _Described | Report) -> Iterator[Report]:
        """Write a shard that was described; pass on what is said of an image."""
        if isinstance(value, _Described):
            with atomic_path(self.folder / f"shard-{digest(*value.keys)[:24]}.safetensors") as temporary:
                temporary.write_bytes(value.content)
        else:
            yield value

    def _shards(self) -> list[_Shard]:
        opened = [_Shard.open(path) for path in sorted(self.folder.glob("shard-*.safetensors"))]
        return [shard for shard in opened if shard is not None]

    def _table(self, keys: Sequence[str | None]) -> FigureTable:
        from safetensors import safe_open

        rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            if key is not None:
                rows_of.setdefault(key, []).append(row)
        shards = self._shards()
        parts = _Parts(self.recipe.views)
        for number, shard in enumerate(shards):
            wanted = [(row, place) for place, key in enumerate(shard.keys) for row in rows_of.pop(key, ())]
            if not wanted:
                continue
            with safe_open(shard.path, framework="numpy") as file:
                starts, offsets = file.get_tensor("image_starts"), file.get_tensor("point_starts")
                chosen = [(row, f) for row, place in wanted for f in range(starts[place], starts[place + 1])]
                figures = np.asarray([f for _, f in chosen], dtype=np.int64)
                parts.rows.append(np.asarray([row for row, _ in chosen], dtype=np.int64))
                parts.vectors.append(file.get_tensor("vectors")[figures])
                parts.sizes.append(file.get_tensor("sizes")[figures])
                parts.places.append(
                    np.stack([np.full(len(figures), number), offsets[figures], offsets[figures + 1]], axis=1)
                )
        return parts.table(tuple(shards))


@dataclass
class _Parts:
    """The pieces of a `FigureTable`, shard by shard."""

    views: int
    rows: list[np.ndarray] = field(default_factory=lambda: [np.empty(0, np.int64)])
    vectors: list[np.ndarray] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=lambda: [np.empty((0, 2), np.int64)])
    places: list[np.ndarray] = field(default_factory=lambda: [np.empty((0, 3), np.int64)])

    def table(self, shards: tuple[_Shard, ...]) -> FigureTable:
        rows = np.concatenate(self.rows)
        self.vectors.append(np.empty((0, self.views, VECTOR), np.float16))
        order = np.argsort(rows, kind="stable")
        vectors, sizes, places = (np.concatenate(part)[order] for part in (self.vectors, self.sizes, self.places))
        return FigureTable(rows[order], vectors, sizes, shards, places)


def regions(image: np.ndarray, recipe: Recipe) -> list[Box]:
    """Return the regions of an image that are described."""
    height, width = image.shape[:2]
    if recipe.kind == "whole":
        return [Box(0, 0, width, height)]
    return [*find_figures(image, recipe.limits), top_part(width, height)]


def _describe_shard(state: tuple[ImageSource, Recipe], task: Task) -> Iterator[Report | _Described]:
    """Describe the images: yield (row, error or None) of each, and before the last one's their shard."""
    images, recipe = state
    done: list[str] = []
    described: list[list[tuple[np.ndarray, tuple[int, int], Keypoints]]] = []
    for row, key in task:
        error = None
        try:
            image = np.asarray(images.load(row))
            pictures = [shrink(crop(image, box)) for box in regions(image, recipe)]
            described.append(
                [
                    (thumbnail_vectors(p, recipe.views), (p.shape[1], p.shape[0]), detect(p, recipe.features))
                    for p in pictures
                ]
            )
            done.append(key)
        except Exception as caught:  # whatever is wrong with one image, the others go on
            error = f"{type(caught).__name__}: {caught}"
        if (row, key) == task[-1] and done:
            yield _Described(done, _content(done, described))
        yield row, error


def _content(keys: list[str], described: list[list[tuple[np.ndarray, tuple[int, int], Keypoints]]]) -> bytes:
    """Return the file of a shard."""
    from safetensors.numpy import save

    figures = [figure for image in described for figure in image]
    tensors = {
        "image_starts": _starts([len(image) for image in described]),
        "point_starts": _starts([len(points) for _, _, points in figures]),
        "vectors": np.stack([vectors for vectors, _, _ in figures]),
        "sizes": np.asarray([size for _, size, _ in figures], dtype=np.int64),
        "points": np.concatenate([points.points for _, _, points in figures]),
        "descriptors": np.concatenate([points.descriptors for _, _, points in figures]),
    }
    return save(tensors, metadata={"keys": json.dumps(keys)})


def _starts(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _start_worker(images: ImageSource, recipe: Recipe) -> tuple[Any, Recipe]:
    import cv2

    cv2.setNumThreads(1)
    return images, recipe
