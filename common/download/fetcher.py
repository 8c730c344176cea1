"""Carrying a plan out: files come, archives are unpacked, and each want takes its place whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.download.archives import DamagedArchive
from common.download.content import check_file
from common.download.journal import archives_of, new_of, part_of, take_files, take_folder, tidy
from common.download.manifest import Listed, save_list
from common.download.meter import size_text
from common.download.net import Say, SourceError
from common.download.parts import Found
from common.download.plan import Choice, Job, PartPlan, Planner, Refused
from common.download.record import FOLDER, Entry, Record, described, entry
from common.download.source import Source
from common.download.transfer import discard, state_path
from common.download.unpack import Limits, unpack
from common.errors import DataError, UserError
from common.hashing import file_digest


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes
    ----------
    keep_archives
        Keep archives that were unpacked.
    accept_changes
        Take a file that is not the one that came first.
    case_clashes
        Let names through that differ in case alone.
    """

    keep_archives: bool = False
    accept_changes: bool = False
    case_clashes: bool = False


class Fetcher:
    """Downloads into one data root, whose lock is held."""

    def __init__(self, root: Path, record: Record, planner: Planner, choices: Choices, say: Say) -> None:
        self.root, self.record, self.planner, self.choices, self.say = root, record, planner, choices, say
        self._used: dict[int, Source] = {}
        self._last: Source | None = None

    def release(self) -> None:
        """Let the sources remove what they made."""
        for source in self._used.values():
            source.release()
        for left in (self.root / FOLDER).glob("*.zip"):  # of a run that was killed before it came to this
            left.unlink()

    def fetch(self, plan: PartPlan) -> bool:
        """Download one part, from the next source when one refuses; return whether it is here now."""
        while plan.choice is not None:
            choice = plan.choice
            try:
                self._fetch_from(choice)
            except Refused as error:
                plan.refusals.append((choice.offer, error))
                self.planner.choose(plan)
                if plan.choice is not None:
                    self.say(f"{choice.offer.title}: {error.what}; trying {plan.choice.offer.title}")
            else:
                return True
        return not plan.missing

    def _fetch_from(self, choice: Choice) -> None:
        source = self._used.setdefault(id(choice.source), choice.source)
        if source is not self._last:
            self.say(f"from {source.title}")
        self._last = source
        (self.root / FOLDER).mkdir(parents=True, exist_ok=True)
        source.prepare(sum(len(job.files) for job in choice.jobs), self.root / FOLDER)
        for job in choice.jobs:
            if job.unpacks:
                self._archive(source, job)
            elif job.want.folder:
                self._tree(source, job)
            else:
                self._files(source, job)

    def _files(self, source: Source, job: Job) -> None:
        """Bring the files of a want; they take their places together."""
        entries: dict[str, Entry] = {}
        for file, name in zip(job.files, job.want.paths(job.files), strict=True):
            part = part_of(self.root / name)
            part.parent.mkdir(parents=True, exist_ok=True)
            digest = source.get(file, part)
            entries[name] = entry(digest, part.stat().st_size, source.title)
            self._refuse_other(name, entries[name])
        take_files(self.root, self.record, entries)
        for name, new in entries.items():
            self.say(f"{name}: {size_text(new.size)}, sha256 {new.sha256[:12]}...")

    def _tree(self, source: Source, job: Job) -> None:
        """Bring the files of a folder; it takes its place when all are there."""
        target = self.root / job.want.target
        names = [path.removeprefix(f"{job.want.target}/") for path in job.want.paths(job.files)]
        self._refuse_clash(names, job.files)
        listed = source.get_all(job.files, names, new_of(target))
        prune(new_of(target), {file.name for file in listed})
        self._take_folder(job.want.target, listed, source, None)

    def _archive(self, source: Source, job: Job) -> None:
        """Bring an archive, or all its parts, and unpack it; the folder takes its place when it is whole."""
        target = self.root / job.want.target
        place = archives_of(target)
        place.mkdir(parents=True, exist_ok=True)
        paths = [place / PurePosixPath(file.name).name for file in job.files]
        digests = [self._whole(source, file, path) for file, path in zip(job.files, paths, strict=True)]
        for path in paths:
            if part_of(path).is_file():
                part_of(path).replace(path)
        tidy(target)
        new = new_of(target)
        shutil.rmtree(new, ignore_errors=True)
        self.say(f"unpacking {paths[0].name}" + (f" and {len(paths) - 1} more parts" if len(paths) > 1 else ""))
        try:
            listed = unpack(paths, new, Limits(case_clashes=self.choices.case_clashes))
        except DamagedArchive:
            for file, path in zip(job.files, paths, strict=True):
                if file.sha256 is None:  # with one, it is what the source has
                    path.unlink(missing_ok=True)
            raise
        together = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        self._take_folder(job.want.target, listed, source, together)
        if not self.choices.keep_archives:
            shutil.rmtree(place)
        else:
            for path in paths:
                state_path(part_of(path)).unlink(missing_ok=True)

    def _whole(self, source: Source, file: Found, path: Path) -> str:
        """Bring one file of an archive to its `.part`, and return its SHA-256.

        What came in an earlier run is used when its digest is the listed one, or the source says that it has the
        same file still: parts of two versions are not mixed.
        """
        if path.is_file():
            if file.sha256 is not None and (digest := file_digest(path)) == file.sha256:
                return digest
            path.replace(part_of(path))
        digest = source.get(file, part_of(path))
        try:
            check_file(path.name, part_of(path))
        except SourceError:
            discard(part_of(path))
            raise
        self.say(f"{path.name}: {size_text(part_of(path).stat().st_size)}, sha256 {digest[:12]}...")
        return digest

    def _take_folder(self, name: str, listed: Sequence[Listed], source: Source, archive: str | None) -> None:
        digest = save_list(self.root, name, listed)
        size = sum(file.size for file in listed)
        new = entry(digest, size, source.title, files=len(listed), archive=archive)
        self._refuse_other(name, new)
        take_folder(self.root, self.record, name, new)
        self.say(f"{name}/: {len(listed):,} files, {size_text(size)}")

    def _refuse_other(self, name: str, new: Entry) -> None:
        """Refuse content other than what came first under this name, unless the user wants it."""
        old = self.record.get(name)
        if old is not None and not self.choices.accept_changes and not self.record.same_content(name, new):
            raise DataError(
                "the source gives another file than when it was first downloaded",
                where=name,
                expected=described(old),
                got=f"{new.size:,} bytes, sha256 {new.sha256[:12]}..., from {new.source}",
                todo="find out why it changed; --accept-changes takes the new one",
            )

    def _refuse_clash(self, names: Sequence[str], files: Sequence[Found]) -> None:
        """Refuse two remote files that would be one here."""
        seen: dict[str, str] = {}
        for name, file in zip(names, files, strict=True):
            folded = name if self.choices.case_clashes else name.casefold()
            if folded in seen:
                raise DataError(
                    "two files of the source clash here",
                    where=file.name,
                    got=f"{seen[folded]} and {file.name}",
                    todo="if they differ in case alone and your disk tells case apart: --allow-case-clashes",
                )
            seen[folded] = file.name


def prune(folder: Path, names: Collection[str]) -> None:
    """Remove files that an earlier run left in a folder and that do not belong to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()


def summed_up(plans: Sequence[PartPlan]) -> UserError | None:
    """Return one error for all parts that no source gave, or None; a single refusal is itself."""
    failed = [plan for plan in plans if plan.missing and plan.choice is None]
    refusals = [refusal for plan in failed for refusal in plan.refusals]
    if not failed:
        return None
    if len(failed) == 1 and len(refusals) == 1:
        return refusals[0][1]
    lines: list[str] = []
    for plan in failed:
        lines.append(f"  {plan.part.name} ({plan.part.title})")
        for offer, error in plan.refusals:
            lines.append(f"    {offer.title}: {error.what}" + (f" ({error.got})" if error.got is not None else ""))
            lines += [f"      do: {error.todo}"] if error.todo else []
    count = "1 part" if len(failed) == 1 else f"{len(failed)} parts"
    return DataError(f"{count} could not be downloaded:\n" + "\n".join(lines))
