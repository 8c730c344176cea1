"""Unpacking an archive of which nothing is believed: every name and size is checked before the first byte is written.

All files go into a fresh folder, which takes its place when every one is whole. What an archive must not do: name a
place outside, hold links or devices, name a file twice or twice but for case, be larger than the limits, or say one
size and hold another.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.download.archives import Archive, DamagedArchive, Member, archive_errors, open_archive
from common.download.manifest import Listed
from common.download.meter import size_text
from common.download.space import disk_errors, require_space
from common.errors import DataError
from common.progress import bar

Choose = Callable[[str], str | None]
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LITTER = ("__MACOSX",)


@dataclass(frozen=True)
class Limits:
    """Caps on what an archive may hold.

    Attributes
    ----------
    size, count
        Bytes when unpacked, and members.
    ratio
        Unpacked to packed bytes: of all together, and of each file of more than `ratio_from` bytes.
    case_clashes
        Whether names that differ in case alone are let through.
    """

    size: int = 400 * 10**9
    count: int = 1_000_000
    ratio: float = 200.0
    ratio_from: int = 10 * 10**6
    case_clashes: bool = False


@dataclass(frozen=True)
class Plan:
    """Which member becomes which file: `targets` by the member's number, paths relative with "/" between."""

    targets: Mapping[int, str]
    size: int


def check_members(archive: Archive, limits: Limits, choose: Choose | None = None) -> Plan:
    """Check every member of an archive and say what becomes of it.

    Parameters
    ----------
    archive
        The archive.
    limits
        Caps.
    choose
        Gives the path of a member's file, or None to leave the member out; None takes all, less folders that hold
        everything (`item_images/1.jpg` becomes `1.jpg`).

    Raises
    ------
    DataError
        A name, kind or size that is not let through; the member is named.
    """
    members = _listed(archive, limits)
    names = [_checked_name(archive, member) for member in members]
    files = {
        number: names[number]
        for number, member in enumerate(members)
        if member.kind == "file" and names[number].split("/")[0] not in _LITTER
    }
    _check_sizes(archive, [members[number] for number in files], limits)
    if choose is None:
        chosen = _without_common_folder(files)
    else:
        chosen = {number: target for number, name in files.items() if (target := choose(name)) is not None}
    if not chosen:
        raise _refused(archive, "it holds no file that is wanted", None, f"{len(members):,} members")
    _check_clashes(archive, chosen.values(), limits)
    return Plan(chosen, sum(members[number].size for number in chosen))


def unpack(
    paths: Sequence[Path], folder: Path, limits: Limits | None = None, choose: Choose | None = None
) -> list[Listed]:
    """Unpack an archive into a folder that does not exist yet; return its files with sizes and digests.

    Raises
    ------
    DataError
        See `open_archive` and `check_members`; or the disk has no room. What was written so far is the caller's to
        remove: the folder is of no use then.
    """
    limits = limits or Limits()
    with open_archive(paths) as archive:
        plan = check_members(archive, limits, choose)
        require_space(folder.parent, plan.size, f"what is in {archive.path.name}")
        with disk_errors(folder):
            folder.mkdir(parents=True)
        done: list[Listed] = []
        with bar(f"unpack {archive.path.name}", total=len(plan.targets), unit="file") as shown:
            for number, (member, blocks) in enumerate(archive.walk()):
                if number in plan.targets:
                    done.append(_write(archive, member, blocks, folder, plan.targets[number]))
                    shown.update(1)
    if len(done) != len(plan.targets):
        raise _refused(archive, "it changed while it was read", len(plan.targets), len(done))
    return sorted(done, key=lambda listed: listed.name)


def _listed(archive: Archive, limits: Limits) -> list[Member]:
    """Return the members; stop at the first that is too much, so that a bomb is not read to its end."""
    members: list[Member] = []
    total = 0
    for member, _ in archive.walk():
        members.append(member)
        total += member.size
        if len(members) > limits.count:
            raise _refused(archive, "it holds too many files", f"at most {limits.count:,}", "more")
        if member.size < 0 or total > limits.size:
            raise _refused(archive, "it would be too large", f"at most {size_text(limits.size)}", size_text(total))
    return members


def _write(archive: Archive, member: Member, blocks: Iterable[bytes], folder: Path, target: str) -> Listed:
    path = folder / target
    if not Path(os.path.normpath(path)).is_relative_to(folder):  # the names were checked: this cannot be
        raise _refused(archive, "a name leads out of the folder", None, repr(target))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    digest, size = hashlib.sha256(), 0
    with file, archive_errors(archive.path):
        for block in blocks:
            size += len(block)
            if size > member.size:
                break
            digest.update(block)
            with disk_errors(path):
                file.write(block)
    if size != member.size:
        raise DamagedArchive(
            f"{member.name[:80]!r} has another size than the archive says",
            where=archive.path,
            expected=f"{member.size:,} bytes",
            got="more" if size > member.size else f"{size:,} bytes",
            todo="run the same command again: it is downloaded anew; or try another --source",
        )
    return Listed(target, size, digest.hexdigest())


def _checked_name(archive: Archive, member: Member) -> str:
    """Return a member's name as a relative path with "/" between; refuse it where it is not one for sure."""
    name = member.name
    if member.kind in ("link", "other"):
        what = "a link" if member.kind == "link" else "neither a plain file nor a folder, or encrypted"
        raise _refused(archive, f"{name[:80]!r} is {what}", "files and folders", member.kind)
    path = name.rstrip("/") if member.kind == "folder" else name
    while path.startswith("./"):
        path = path[2:]
    if member.kind == "folder" and path in ("", "."):
        return "."
    parts = path.split("/")
    fault = (
        "empty"
        if not path
        else "absolute"
        if path.startswith(("/", "\\")) or _DRIVE.match(path)
        else "with a control character"
        if _CONTROL.search(path)
        else "with a backslash"
        if "\\" in path
        else "with '..', '.' or nothing between slashes"
        if any(part in ("", ".", "..") for part in parts)
        else "not text"
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in path)
        else "too long"
        if len(path.encode("utf-8")) > 1024 or max(len(part.encode("utf-8")) for part in parts) > 250
        else "not one that Windows can hold"
        if os.name == "nt" and any(_RESERVED.match(p) or p.endswith((" ", ".")) or ":" in p for p in parts)
        else None
    )
    if fault is not None:
        raise _refused(archive, f"a name is {fault}", "relative names inside the folder", repr(name)[:120])
    return path


def _check_sizes(archive: Archive, members: Sequence[Member], limits: Limits) -> None:
    total = sum(member.size for member in members)
    if total > limits.ratio_from and total > limits.ratio * archive.size:
        told = f"{size_text(total)} from {size_text(archive.size)}"
        raise _refused(archive, "it would grow too much", f"at most {limits.ratio:g} times its size", told)
    for member in members:
        if member.packed is not None and member.size > max(limits.ratio_from, limits.ratio * member.packed):
            told = f"{member.name[:80]!r}: {size_text(member.size)} from {size_text(member.packed)}"
            raise _refused(archive, "a file would grow too much", f"at most {limits.ratio:g} times its size", told)


def _check_clashes(archive: Archive, names: Iterable[str], limits: Limits) -> None:
    """Refuse names that are one file on some system, and names that are a file here and a folder there."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        folded = _folded(name, limits)
        if folded in seen:
            exact = seen[folded] == name
            raise _refused(
                archive,
                "a name is there twice" if exact else "two names differ in case alone",
                "each name once",
                repr(name) if exact else f"{seen[folded]!r} and {name!r}",
                None if exact else "if your disk tells case apart: --allow-case-clashes",
            )
        seen[folded] = name
        parts = folded.split("/")
        folders.update({"/".join(parts[:depth]): name for depth in range(1, len(parts))})
    both = next((name for name in folders if name in seen), None)
    if both is not None:
        raise _refused(archive, "a name is a file and a folder", "one of them", f"{seen[both]!r} and {folders[both]!r}")


def _folded(name: str, limits: Limits) -> str:
    return name if limits.case_clashes else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _without_common_folder(files: Mapping[int, str]) -> dict[int, str]:
    """Return the names without the folders that hold all of them."""
    names = dict(files)
    while names and all("/" in name for name in names.values()):
        if len({name.split("/", 1)[0] for name in names.values()}) > 1:
            break
        names = {number: name.split("/", 1)[1] for number, name in names.items()}
    return names


def _refused(archive: Archive, what: str, expected: object, got: object, todo: str | None = None) -> DataError:
    todo = todo or "do not unpack it by hand either; tell its owner, or try another --source"
    return DataError(f"the archive is refused: {what}", where=archive.path, expected=expected, got=got, todo=todo)
