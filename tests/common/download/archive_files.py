"""Archives for tests, hostile ones too: zip and tar with any names, and stored rar (version 5, built byte by byte)."""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path


def zip_bytes(members: Sequence[tuple[str, bytes]], *, mode: int = 0o100644, deflate: bool = True) -> bytes:
    """Return a zip whose names are written as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
            archive.writestr(info, data)
    return buffer.getvalue()


def tar_bytes(members: Sequence[tuple[str, bytes]], *, kind: bytes = tarfile.REGTYPE, mode: str = "w:gz") -> bytes:
    """Return a tar; `kind` is that of every member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = data.decode()
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def rar_bytes(members: Sequence[tuple[str, bytes]], *, link: bool = False) -> bytes:
    """Return a rar of stored files; with `link`, each is a symbolic link to what its data says."""
    blocks = [b"Rar!\x1a\x07\x01\x00", _block(1, 0, _number(0))]
    for name, data in members:
        raw = name.encode("utf-8")
        target = b"\x05\x01\x00" + _number(len(data)) + data
        extra = _number(len(target)) + target if link else b""
        content = b"" if link else data
        body = _number(4) + _number(len(content)) + _number(0o100644)
        body += zlib.crc32(content).to_bytes(4, "little") + _number(0) + _number(1) + _number(len(raw)) + raw + extra
        sizes = (_number(len(extra)) if extra else b"") + _number(len(content))
        blocks += [_block(2, 3 if extra else 2, sizes + body), content]
    return b"".join([*blocks, _block(5, 0, _number(0))])


def _number(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _block(kind: int, flags: int, body: bytes) -> bytes:
    header = _number(kind) + _number(flags) + body
    sized = _number(len(header)) + header
    return zlib.crc32(sized).to_bytes(4, "little") + sized


def split_bytes(data: bytes, parts: int, folder: Path, name: str) -> list[Path]:
    """Write NAME.001, NAME.002, ... and return their paths."""
    step = len(data) // parts + 1
    paths = [folder / f"{name}.{number + 1:03d}" for number in range(parts)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number * step : (number + 1) * step])
    return paths


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def picture_members(count: int = 6) -> Mapping[str, bytes]:
    """Return names and contents of a small folder of pictures."""
    return {f"item_images/{number}.jpg": bytes([number]) * (100 + number) for number in range(1, count + 1)}
