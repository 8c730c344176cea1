"""Images in a folder, found by the names that a table gives them."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from common.errors import DataError
from common.faults import FaultLog
from common.images import MAX_PIXELS, open_image
from common.progress import progress
from track1_mdr.datasets.tables import ImageSource

_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)


class ImageFolder:
    """An index of a folder's image files, at any depth; names are compared without case and suffix.

    The challenge's tables name a file `x.jpg` that the archive holds as `x.JPEG` in a sub-folder. Only files
    met while walking the folder can be returned, so that a name in a table cannot reach any other file.
    Links to files outside the folder, and links to folders, are left out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_stem: dict[str, list[PurePosixPath]] = {}
        self._outside: set[str] = set()
        real_root = root.resolve()
        for folder, folders, files in os.walk(root):
            folders.sort()
            for file in sorted(files):
                path = Path(folder) / file
                if _SUFFIX.search(file) is None:
                    continue
                if path.is_symlink() and not path.resolve().is_relative_to(real_root):
                    self._outside.add(_stem(file))
                    continue
                relative = PurePosixPath(path.relative_to(root).as_posix())
                self._by_stem.setdefault(_stem(file), []).append(relative)

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._by_stem.values())

    def find(self, name: str) -> Path:
        """Return the file that `name` means.

        Raises
        ------
        DataError
            The name is unsafe (absolute, with `..` or NUL), ambiguous, or there is no such file.
        """
        parts = _safe_parts(name, self.root)
        found = self._by_stem.get(_stem(parts[-1]), [])
        for narrow in (_same_path, _same_folders, _same_file):
            kept = [path for path in found if narrow(path, parts)]
            if len(kept) == 1:
                return self.root / kept[0]
            found = kept or found
        if len(found) > 1:
            raise DataError(
                f"the image name is ambiguous: {len(found)} files fit",
                where=f"{self.root}: {name}",
                got=", ".join(str(path) for path in found[:5]),
                todo="keep one of them, or name its folder and suffix in the table",
            )
        if not found:
            outside = _stem(parts[-1]) in self._outside
            raise DataError(
                "the image is a link to a file outside its folder" if outside else "the image is missing",
                where=f"{self.root}: {name}",
                todo="put the file itself into the folder" if outside else "extract the whole archive again",
            )
        return self.root / found[0]


@dataclass(frozen=True)
class FolderImages:
    """An image source over files: images are opened when asked for, never kept.

    `names` and `paths` have one entry a table row, None where the row has no image. It holds no open files
    or locks, so that it can be handed to worker processes.
    """

    names: tuple[str | None, ...]
    paths: tuple[Path | None, ...]
    max_pixels: int = MAX_PIXELS
    _keys: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def empty(cls, rows: int) -> FolderImages:
        """Return the source of a table whose rows have no images."""
        return cls((None,) * rows, (None,) * rows)

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, row: int) -> str | None:
        """Return the SHA-256 of the file's bytes (read once), or None where the row has no image."""
        if self.paths[row] is None:
            return None
        if row not in self._keys:
            self._read(row)
        return self._keys[row]

    def load(self, row: int) -> Image.Image:
        """Return the image as RGB; raise `DataError` with its name when it cannot be read."""
        return open_image(self._read(row), self.names[row] or f"row {row}", self.max_pixels)

    def _read(self, row: int) -> bytes:
        path = self.paths[row]
        if path is None:
            raise DataError("no image for this row", where=f"row {row}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError("the image cannot be read", where=self.names[row], got=f"{path}: {error}") from None
        self._keys.setdefault(row, hashlib.sha256(data).hexdigest())
        return data


def content_keys(
    images: ImageSource, names: Sequence[str | None], faults: FaultLog, what: str, threads: int = 1
) -> list[str | None]:
    """Return the content key of every row; None where there is no image, or where its file cannot be read.

    A file that cannot be read is recorded in `faults` under the stage `what`.
    """

    def one(row: int) -> str | None:
        try:
            return images.key(row)
        except DataError as error:
            faults.add(what, names[row] or f"row {row}", error)
            return None

    with ThreadPoolExecutor(max(threads, 1)) as pool:  # hashing and reading release the interpreter's lock
        return list(progress(pool.map(one, range(len(images))), f"hash {what}", total=len(images), unit="image"))


def _stem(name: str) -> str:
    """Return a file name without image suffix, for comparison: `St._Ives.JPG` gives `st._ives`."""
    return unicodedata.normalize("NFC", _SUFFIX.sub("", name)).casefold()


def _safe_parts(name: str, root: Path) -> Sequence[str]:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    unsafe = "\0" in name or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name) is not None
    if unsafe or ".." in parts or not parts:
        raise DataError(
            "the image name is not a plain name inside its folder",
            where=root,
            expected="a relative path without '..'",
            got=repr(name),
            todo="correct the name in the table",
        )
    return parts


def _fold(parts: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", part).casefold() for part in parts]


def _same_path(path: PurePosixPath, parts: Sequence[str]) -> bool:
    """Tell whether it is the path as written, with or without the folder's own name before it."""
    return list(path.parts) == list(parts) or list(path.parts) == list(parts[1:])


def _same_folders(path: PurePosixPath, parts: Sequence[str]) -> bool:
    """Tell whether the named folders are the file's folders, as far as the name goes."""
    named, actual = _fold(parts[:-1]), _fold(path.parts[:-1])
    return bool(named) and (actual[-len(named) :] == named or actual == named[1:])


def _same_file(path: PurePosixPath, parts: Sequence[str]) -> bool:
    """Tell whether it is the file name with its suffix, as written."""
    return path.name == parts[-1]
