"""What can be downloaded: parts, what each of them needs, and the sources that offer it, in the order of trial."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from common.download.net import SourceError
from common.errors import ConfigError, DataError

SourceKind = Literal["kaggle", "hub", "pages", "mirror"]
_ARCHIVE = re.compile(r"\.(zip|rar|tar|tgz|tar\.(gz|bz2|xz))(\.\d{2,4})?$", re.IGNORECASE)
ARCHIVE = r"\.(zip|rar|tar|tgz|tar\.(gz|bz2|xz))(\.\d+)?"
"""The end of an archive's name, for patterns of `Want`."""
_NUMBER = re.compile(r"\.\d{2,4}$")


@dataclass(frozen=True)
class Offer:
    """Where a part may be had: a kind of source and the address there (a competition, a data set, a page)."""

    kind: SourceKind
    address: str

    @property
    def title(self) -> str:
        """The source for messages: "hub Jingbiao/M2KR-Challenge"."""
        return f"{self.kind} {self.address}"


@dataclass(frozen=True)
class Found:
    """A file in a source's list: `name` is its path there, size in bytes and SHA-256 where the list has them."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Want:
    """What a part needs under the data root.

    Attributes
    ----------
    target
        The folder under the root that the files go to; of a folder want, the folder that is made.
    names
        Patterns of paths in a source's list, the first with a match wins; without case, from any folder.
    folder
        Whether `target` as a whole is what is wanted: an archive is unpacked into it, loose files lie in it.
    many
        Whether all matches are wanted, not just one.
    """

    target: str
    names: tuple[str, ...]
    folder: bool = False
    many: bool = False

    @property
    def title(self) -> str:
        """The names in words: "query_images.zip (.rar, .tar, parts .zip.001 ...) or query_images/*"."""
        words = [name.replace(ARCHIVE, ".zip (.rar, .tar, parts .zip.001 ...)") for name in self.names]
        return " or ".join(re.sub(r"\[\^/\]\+|\.\+", "*", word).replace("\\", "") for word in words)

    def choose(self, files: Sequence[Found]) -> list[Found]:
        """Return the files of a list that this takes, in order; [] where there is none.

        Raises
        ------
        DataError
            One of them has a name that leads elsewhere.
        """
        for pattern in self.names:
            compiled = re.compile(rf"(.*/)?{pattern}", re.IGNORECASE)
            found = [file for file in files if compiled.fullmatch(file.name)]
            for file in found:
                check_name(file)
            if found:
                return self._narrowed(found)
        return []

    def _narrowed(self, found: list[Found]) -> list[Found]:
        """Of several copies in other folders, take that nearest to the root; of a split archive, all parts."""
        depth = min(file.name.count("/") for file in found)
        if self.folder and not is_archive(found[0].name):
            return sorted(found, key=lambda file: file.name)
        nearest = sorted((file for file in found if file.name.count("/") == depth), key=lambda file: file.name)
        if self.many:
            return nearest
        stem = _NUMBER.sub("", nearest[0].name) if is_archive(nearest[0].name) else nearest[0].name
        return [file for file in nearest if file.name == nearest[0].name or _NUMBER.sub("", file.name) == stem]

    def paths(self, files: Sequence[Found]) -> list[str]:
        """Return where loose files go, relative to the root."""
        if not self.folder:
            return [f"{self.target}/{PurePosixPath(file.name).name}" for file in files]
        top = PurePosixPath(self.target).name.casefold()
        return [f"{self.target}/{_below(file.name, top)}" for file in files]

    def present(self, root: Path) -> list[Path]:
        """Return what is there already: the folder when it holds anything, or the files that fit."""
        place = root / self.target
        if not place.is_dir():
            return []
        if self.folder:
            return [place] if any(place.iterdir()) else []
        compiled = [re.compile(rf"(.*/)?{pattern}", re.IGNORECASE) for pattern in self.names]
        relative = ((path, path.relative_to(root / self.target).as_posix()) for path in sorted(place.iterdir()))
        top = PurePosixPath(self.target).name
        fit = [path for path, name in relative if any(c.fullmatch(f"{top}/{name}") for c in compiled)]
        return [path for path in fit if path.is_file()]


@dataclass(frozen=True)
class Part:
    """One choice of `--only`.

    Attributes
    ----------
    name, title
        For the command line, and in words.
    group
        Another name that chooses it, with others.
    wants
        What it needs.
    offers
        Where it may be had, in the order of trial.
    default
        Whether it is downloaded without `--only`.
    """

    name: str
    title: str
    group: str
    wants: tuple[Want, ...]
    offers: tuple[Offer, ...]
    default: bool = True


def check_name(file: Found) -> None:
    """Raise `DataError` where a name in a source's list is not a plain relative path."""
    pieces = file.name.split("/")
    if any(piece in ("", ".", "..") for piece in pieces) or re.search(r"[\x00-\x1f\x7f\\]", file.name):
        raise DataError(
            "a name in the source's list is not safe", where=repr(file.name)[:120], todo="try another --source"
        )


def is_archive(name: str) -> bool:
    """Return whether a name is that of an archive or of a part of one.

    >>> is_archive("Web_Image.zip.001"), is_archive("train.parquet")
    (True, False)
    """
    return _ARCHIVE.search(name) is not None


def choose_parts(parts: Sequence[Part], only: str | None) -> list[Part]:
    """Return the parts that `--only` names, by name or group, in their own order; None takes the default ones.

    Raises
    ------
    ConfigError
        An unknown name; the nearest is shown.
    """
    if only is None:
        return [part for part in parts if part.default]
    names = [name.strip().lower() for name in only.split(",") if name.strip()]
    known = sorted({part.name for part in parts} | {part.group for part in parts} | {"all"})
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"no part {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                where="--only",
                expected=", ".join(known),
                got=only,
            )
    if not names:
        raise ConfigError("no part is named", where="--only", expected=", ".join(known))
    return [part for part in parts if {part.name, part.group, "all"} & set(names)]


def choose_offers(part: Part, source: str | None) -> list[Offer]:
    """Return the offers to try: those of `--source`, else all but copies by others ("mirror").

    Raises
    ------
    SourceError
        The part is not offered there.
    """
    offers = [offer for offer in part.offers if source == offer.kind or (source is None and offer.kind != "mirror")]
    if not offers:
        kinds = sorted({offer.kind for offer in part.offers})
        raise SourceError(
            f"{part.title}: not offered by this source", where="--source", expected=", ".join(kinds), got=source
        )
    return offers


def _below(name: str, top: str) -> str:
    """Return a path below the folder that is named `top`, or the whole path where there is none."""
    parts = name.split("/")
    folded = [part.casefold() for part in parts[:-1]]
    return "/".join(parts[folded.index(top) + 1 :]) if top in folded else name
