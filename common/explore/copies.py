"""Files with the same content, found without reading most of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from common.hashing import digest, file_digest

HEAD = 4096
"""Bytes that tell most files of one size apart."""
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Copies(Generic[K]):
    """Keys of files with the same bytes, each group and the groups in the order of the keys; files that cannot be read.

    `empty` are files of 0 bytes: they are in no group.
    """

    groups: list[list[K]]
    unreadable: list[K]
    empty: list[K]

    @property
    def extra(self) -> int:
        """Return how many files could be left out: all but one of each group."""
        return sum(len(group) - 1 for group in self.groups)


def same_files(paths: Mapping[K, Path]) -> Copies[K]:
    """Return which files have the same content: those of one size are compared by their heads, then in whole.

    Parameters
    ----------
    paths
        What to call each file -> the file. Two keys of one path are in one group.
    """
    unreadable: list[K] = []

    def told(keys: Iterable[K], tell: Callable[[Path], Hashable]) -> list[list[K]]:
        """Group keys by what `tell` says of their files; a group of one is of no interest."""
        groups: dict[Hashable, list[K]] = {}
        for key in keys:
            try:
                groups.setdefault(tell(paths[key]), []).append(key)
            except OSError:
                unreadable.append(key)
        return list(groups.values())

    sizes = told(paths, lambda path: path.stat().st_size)
    empty = [key for group in sizes if paths[group[0]].stat().st_size == 0 for key in group]
    known = set(empty)
    alike = [group for group in sizes if len(group) > 1 and group[0] not in known]
    for tell in (_head, file_digest):
        alike = [group for one in alike for group in told(one, tell) if len(group) > 1]
    order = {key: place for place, key in enumerate(paths)}
    return Copies(
        sorted(alike, key=lambda group: order[group[0]]),
        sorted(dict.fromkeys(unreadable), key=lambda key: order[key]),
        empty,
    )


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return digest("head", file.read(HEAD))
