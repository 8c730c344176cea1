"""What there is to do: which parts are here and as they came, which are to be downloaded, from where, how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.download.journal import archives_of, part_of
from common.download.manifest import faults_of, read_list
from common.download.meter import size_text
from common.download.net import SourceError
from common.download.parts import Found, Offer, Part, Want, choose_offers, is_archive
from common.download.record import Entry, Record, described
from common.download.source import Source
from common.download.sources import Opener
from common.errors import DataError, UserError
from common.hashing import file_digest
from common.kaggle import KaggleError

Refused = (SourceError, KaggleError)
"""Errors after which the next source is tried."""


@dataclass(frozen=True)
class Job:
    """One want of a part, and the files of a source that fill it; sizes in bytes, None where nobody says."""

    want: Want
    files: tuple[Found, ...]
    sizes: tuple[int | None, ...]

    @property
    def unpacks(self) -> bool:
        """Whether the files are an archive."""
        return self.want.folder and is_archive(self.files[0].name)

    def left(self, root: Path) -> int:
        """Return the bytes that this takes on the disk beyond what is there, an archive unpacked beside itself."""
        size = sum(size or 0 for size in self.sizes)
        if self.unpacks:
            place = archives_of(root / self.want.target)
            came = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        else:
            came = [part for path in self.want.paths(self.files) if (part := part_of(root / path)).is_file()]
        left = max(0, size - sum(path.stat().st_size for path in came))
        return left + size if self.unpacks else left


@dataclass(frozen=True)
class Choice:
    """What one part gets from one offer."""

    offer: Offer
    source: Source
    jobs: tuple[Job, ...]


@dataclass
class PartPlan:
    """One part: `choice` is None where nothing is to be done, or where no source has it (`refusals`)."""

    part: Part
    offers: list[Offer]
    here: list[str] = field(default_factory=list)
    missing: list[Want] = field(default_factory=list)
    choice: Choice | None = None
    refusals: list[tuple[Offer, UserError]] = field(default_factory=list)


class Planner:
    """Finds out what is there and which source has the rest.

    Parameters
    ----------
    root, record
        The data root and its record.
    opened
        Opens sources.
    contents
        Whether the files of unpacked folders are hashed too, not only counted and measured.
    again
        Whether everything is downloaded again.
    """

    def __init__(self, root: Path, record: Record, opened: Opener, *, contents: bool = False, again: bool = False):
        self.root, self.record, self.opened = root, record, opened
        self.contents, self.again = contents, again
        self._broken: dict[Offer, UserError] = {}

    def plan(self, part: Part, source: str | None) -> PartPlan:
        """Return what one part needs; the sources are asked only when something is missing."""
        made = PartPlan(part, [])
        for want in part.wants:
            present = want.present(self.root)
            recorded = [self.record.get(path.relative_to(self.root).as_posix()) for path in present]
            if present and not (self.again and any(recorded)):  # --again is no leave to replace the user's own files
                made.here += [self._checked(path) for path in present]
            else:
                made.missing.append(want)
        if made.missing:
            made.offers = choose_offers(part, source)
            self.choose(made)
        return made

    def choose(self, made: PartPlan) -> None:
        """Take the first offer that is left and has everything; the refusals of others are kept."""
        made.choice = None
        while made.offers and made.choice is None:
            offer = made.offers.pop(0)
            try:
                made.choice = self._resolve(offer, made.missing)
            except Refused as error:
                made.refusals.append((offer, error))

    def _resolve(self, offer: Offer, wants: Sequence[Want]) -> Choice:
        if offer in self._broken:
            raise self._broken[offer]
        source = self.opened(offer)
        try:
            files = source.files()
        except Refused as error:
            self._broken[offer] = error
            raise
        jobs: list[Job] = []
        for want in wants:
            found = want.choose(files)
            if not found:
                raise SourceError(
                    "the source does not have it",
                    where=offer.title,
                    expected=want.title,
                    got=", ".join(file.name for file in files[:6]) + (", ..." if len(files) > 6 else ""),
                    todo="try another --source, or see data/README.md",
                )
            jobs.append(Job(want, tuple(found), tuple(source.size(file) for file in found)))
        return Choice(offer, source, tuple(jobs))

    def _checked(self, path: Path) -> str:
        """Return a line about something that is here; raise `DataError` where it is not as it came."""
        name = path.relative_to(self.root).as_posix()
        entry = self.record.get(name)
        if entry is None:
            return f"{name}: here, not from this command, left as it is"
        if path.is_file():
            size, digest = path.stat().st_size, file_digest(path)
            if digest != entry.sha256:
                raise self._changed(name, entry, f"{size:,} bytes, sha256 {digest[:12]}...")
            return f"{name}: here, {size_text(size)}, sha256 as when it came"
        listed = read_list(self.root, name, entry.sha256)
        if listed is None:
            return f"{name}: here, its list of files is gone: not checked"
        faults = faults_of(path, listed, contents=self.contents)
        if faults:
            raise self._changed(name, entry, "; ".join(faults))
        how = "with their bytes" if self.contents else "with their sizes"
        return f"{name}: here, {len(listed):,} files {how} as when they came"

    @staticmethod
    def _changed(name: str, entry: Entry, got: str) -> DataError:
        return DataError(
            "a downloaded file has changed since",
            where=name,
            expected=described(entry),
            got=got,
            todo="--again gets its part again (with --only PART); or move your own file out of the data root",
        )


def total_left(plans: Sequence[PartPlan], root: Path) -> int:
    """Return the bytes that all parts take on the disk beyond what is there; unknown sizes count as none."""
    return sum(job.left(root) for plan in plans if plan.choice for job in plan.choice.jobs)


def table(plans: Sequence[PartPlan], root: Path, free: int) -> list[str]:
    """Return the plan as lines: part, what, files, size, source; then the sums."""
    rows: list[tuple[str, str, str, str, str]] = []
    get, unknown = 0, 0
    for plan in plans:
        if plan.choice is None:
            state = "no source has it" if plan.missing else "here"
            rows.append((plan.part.name, plan.part.title, "", "", state))
            continue
        sizes = [size for job in plan.choice.jobs for size in job.sizes]
        known = sum(size or 0 for size in sizes)
        get += known
        unknown += sizes.count(None)
        count = f"{len(sizes):,} file" + ("s" if len(sizes) > 1 else "")
        size = size_text(known) if None not in sizes else f"{size_text(known)}+" if known else "size unknown"
        rows.append((plan.part.name, plan.part.title, count, size, plan.choice.source.title))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    more = f" and {unknown} files of unknown size" if unknown else ""
    needed = size_text(total_left(plans, root))
    lines.append(f"to download: {size_text(get)}{more}; needs {needed} on the disk, {size_text(free)} free in {root}")
    return [line.rstrip() for line in lines]
