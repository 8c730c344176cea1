"""Opening a Track 2 zip that may be damaged or hostile: its one file's bytes, and each fault of the archive."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from common.errors import DataError
from common.submission.report import RowFault, short

MEMBER = "prediction.csv"
MAX_BYTES = 256 << 20  # of the zip, and of the CSV: twenty times the official test set's
MAX_RATIO = 100  # a CSV of predictions shrinks 2 to 20 times; deflate can do 1000
SHOWN_MEMBERS = 10


def read_archive(path: Path) -> tuple[bytes | None, list[RowFault]]:
    """Return the bytes of the zip's `prediction.csv`, or None where they cannot be had, and the faults.

    Nothing is extracted to disk, and no more than `MAX_BYTES` are ever decompressed. A file in a folder is
    read too, so that all its faults can be told at once.

    Raises
    ------
    DataError
        There is no such file.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(
            "the file cannot be read", where=path, got=error.strerror, todo="check the path of the submission file"
        ) from None
    if size > MAX_BYTES:
        return None, [RowFault(None, f"{size:,} bytes", f"the zip must not be larger than {MAX_BYTES:,} bytes")]
    if not data.startswith(b"PK\x03\x04"):
        hint = "it is the bare CSV: zip it" if data.startswith((b"ID", b"\xef\xbb\xbfID")) else "it is something else"
        return None, [RowFault(None, short(data[:16]), f"the submission must be a zip that holds {MEMBER}; {hint}")]
    faults: list[RowFault] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = _choose(archive.infolist(), faults)
            return (None if member is None else _read(archive, member, faults)), faults
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        faults.append(RowFault(None, short(str(error)), "the zip is damaged or of a kind that cannot be read"))
        return None, faults


def _choose(members: list[zipfile.ZipInfo], faults: list[RowFault]) -> zipfile.ZipInfo | None:
    """Check the names of the members; return the one to read."""
    chosen: zipfile.ZipInfo | None = None
    for number, member in enumerate(members):
        rule = _name_rule(member)
        if rule is None and chosen is not None:
            rule = f"{MEMBER} is in the zip twice"
        if rule is None:
            chosen = member
        elif number < SHOWN_MEMBERS:
            faults.append(RowFault(None, short(member.filename), rule))
    if len(members) > SHOWN_MEMBERS:
        faults.append(RowFault(None, f"{len(members):,} members", f"the zip must hold {MEMBER} and nothing else"))
    if chosen is None:
        faults.append(RowFault(None, "", f"there is no {MEMBER} at the root of the zip"))
        named = [m for m in members if PurePosixPath(m.filename).name == MEMBER and not m.is_dir()]
        chosen = named[0] if len(named) == 1 else None
    return chosen


def _name_rule(member: zipfile.ZipInfo) -> str | None:
    """Return the rule that a member breaks by its name or kind, or None."""
    name = member.orig_filename
    if name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in name.split("/"):
        return "a name that leads out of the zip's own folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link; the zip must hold the file itself"
    if name == MEMBER:
        return None
    if name.endswith("/" + MEMBER):
        return f"{MEMBER} must be at the root of the zip, not in a folder: zip the file, not the folder"
    if name.lower() == MEMBER:
        return f"the file must be named {MEMBER}, in lower case"
    return f"the zip must hold {MEMBER} and nothing else"


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, faults: list[RowFault]) -> bytes | None:
    if member.flag_bits & 1:
        faults.append(RowFault(None, short(member.filename), "the file must not be encrypted"))
        return None
    if member.file_size > MAX_BYTES or member.file_size > MAX_RATIO * max(member.compress_size, 1):
        told = f"{member.file_size:,} bytes from {member.compress_size:,}"
        rule = f"the file must not be larger than {MAX_BYTES:,} bytes, nor than {MAX_RATIO} times its compressed size"
        faults.append(RowFault(None, told, rule))
        return None
    with archive.open(member) as file:
        data = file.read(MAX_BYTES + 1)  # no more than the size stated above, which the checksum then confirms
    if len(data) != member.file_size:
        faults.append(RowFault(None, f"{len(data):,} bytes", f"the zip says the file has {member.file_size:,} bytes"))
        return None
    return data
