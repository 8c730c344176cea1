"""One file over HTTP: into `NAME.part`, resumed after a break, accepted only when it is whole.

A `.part` is gone on with only when the server says that the file is the same (strong ETag, else Last-Modified and
size, or a SHA-256 known beforehand), and when its last bytes come again as they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3

from common.atomic import write_text
from common.download.content import HEAD_BYTES, fault_of_end, fault_of_head
from common.download.meter import Meter, size_text
from common.download.net import Attempts, Net, Remote, Say, SourceError, Transient, open_url, unreachable
from common.download.space import disk_errors, require_space
from common.hashing import file_digest

OVERLAP = 1 << 16
"""Bytes at the end of a `.part` that are fetched again and compared."""
CHUNK = 1 << 18
AGAIN = "run the same command again; if it comes back, try another --source"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")


@dataclass(frozen=True)
class _State:
    """What the server said about the file that a `.part` is the beginning of."""

    source: str
    etag: str | None
    modified: str | None
    total: int | None


def fetch(remote: Remote, part: Path, net: Net, http: requests.Session, say: Say) -> str:
    """Bring a whole file to `part` and return its SHA-256.

    Parameters
    ----------
    remote
        The file.
    part
        Where it goes: `NAME.part`. `NAME.part.json` beside it says what it is the beginning of; it stays, so that
        a whole file of a killed run is known again, and goes with `state_path` when the file takes its place.
    net, http, say
        Limits, the session, and what takes a line about each failed try.

    Raises
    ------
    SourceError
        The source does not give the file, or gives another than its listing says.
    DataError
        The disk is full or cannot be written.
    """
    attempts = Attempts(net, say)
    with disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = _size(part)
        try:
            _try_once(remote, part, net, http, say)
            digest = _accept(remote, part)
        except Transient as fault:
            attempts.failed(fault, progressed=_size(part) - before > OVERLAP)
        else:
            return digest


def head(remote: Remote, net: Net, http: requests.Session, say: Say) -> int | None:
    """Return a file's size in bytes as the server states it, None where it does not; `SourceError` where it is not."""
    attempts = Attempts(net, say)
    while True:
        try:
            with closing(open_url(http, "HEAD", remote, net)) as answer:
                return _length(answer) if answer.status_code == 200 else None
        except Transient as fault:
            attempts.failed(fault)


def discard(part: Path) -> None:
    """Remove a `.part` and what is known about it."""
    part.unlink(missing_ok=True)
    state_path(part).unlink(missing_ok=True)


def _try_once(remote: Remote, part: Path, net: Net, http: requests.Session, say: Say) -> None:
    state = _usable_state(remote, part)
    have = 0 if state is None else _size(part)
    start = max(0, have - OVERLAP)
    if state is not None and state.total is not None and have == state.total and remote.sha256 is not None:
        return  # whole already; the digest decides
    headers = {"Range": f"bytes={start}-"} if start else {}
    validator = None if state is None else _strong(state.etag) or state.modified
    if start and validator is not None:
        headers["If-Range"] = validator
    with closing(open_url(http, "GET", remote, net, headers)) as answer:
        _refuse_encoded(remote, answer)
        if answer.status_code == 206 and start and state is not None:
            _check_same(remote, part, answer, state, start)
            _append(remote, part, answer, start, have, state.total, net, say)
        elif answer.status_code == 200:
            _write_new(remote, part, answer, net, say)
        else:
            discard(part)
            raise _again(
                remote, "the server gives another part of the file than was asked for", str(answer.status_code)
            )


def _usable_state(remote: Remote, part: Path) -> _State | None:
    """Return what is known about a `.part`, or None where it is not the beginning of this file for sure."""
    try:
        state = _State(**json.loads(state_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    sure = remote.sha256 is not None or _strong(state.etag) or (state.modified and state.total is not None)
    if state.source != remote.source or not sure:
        return None
    if None not in (remote.size, state.total) and remote.size != state.total:
        return None
    return state if state.total is None or _size(part) <= state.total else None


def _check_same(remote: Remote, part: Path, answer: requests.Response, state: _State, start: int) -> None:
    """Refuse to go on with a `.part` when the server's file is another one by now."""
    found = _RANGE.match(answer.headers.get("Content-Range", ""))
    got = answer.headers.get("Content-Range", "no Content-Range")
    if found is None or int(found[1]) != start:
        discard(part)
        raise _again(remote, "the server gives another part of the file than was asked for", got)
    total = None if found[3] == "*" else int(found[3])
    new = _state_of(remote, answer, total)
    for old_value, new_value in ((state.etag, new.etag), (state.modified, new.modified), (state.total, new.total)):
        if None not in (old_value, new_value) and old_value != new_value:
            discard(part)
            raise _again(remote, "the file has changed on the server", f"{new_value}, was {old_value}")


def _append(
    remote: Remote, part: Path, answer: requests.Response, start: int, have: int, total: int | None, net: Net, say: Say
) -> None:
    """Compare what is there with what comes, then add the rest."""
    kept = have - start
    with part.open("r+b") as file, Meter(remote.name, total, have, net, say) as meter:
        file.seek(start)
        for data in _chunks(remote, answer, net):
            if kept:
                old = file.read(min(kept, len(data)))
                if data[: len(old)] != old:
                    file.close()
                    discard(part)
                    raise _again(remote, "the file has changed on the server", "other bytes at the end of the .part")
                kept -= len(old)
                data = data[len(old) :]
            _put(file, part, data, meter)
        _sync(file, part)
    _check_whole(remote, _size(part), total)


def _write_new(remote: Remote, part: Path, answer: requests.Response, net: Net, say: Say) -> None:
    """Take the whole file from its first byte; an old `.part` goes only when the new file looks right."""
    total = _length(answer)
    if None not in (total, remote.size) and total != remote.size:
        raise _again(remote, "the file has another length than the source's listing says", f"{total:,} bytes")
    require_space(part.parent, (total or 0) - _size(part), remote.name)
    chunks = _chunks(remote, answer, net)
    first = b""
    for data in chunks:
        first += data
        if len(first) >= HEAD_BYTES:
            break
    html = "text/html" in answer.headers.get("Content-Type", "") and not remote.name.lower().endswith((".html", ".htm"))
    fault = fault_of_head(remote.name, first)
    if html and fault is None and first.lstrip().startswith(b"<"):
        fault = "an HTML page came in place of the file"
    if fault is not None and (len(first) >= HEAD_BYTES or len(first) == total or total is None):
        what = f"the server says {total:,} bytes" if total is not None else None
        raise SourceError(fault, where=remote.name, got=what, todo=remote.hints.rules)
    with disk_errors(part):
        discard(part)
        state = _state_of(remote, answer, total if total is not None else remote.size)
        write_text(state_path(part), json.dumps(asdict(state)))
        file = part.open("xb")
    with file, Meter(remote.name, total, 0, net, say) as meter:
        _put(file, part, first, meter)
        for data in chunks:
            _put(file, part, data, meter)
        _sync(file, part)
    _check_whole(remote, _size(part), total)


def _chunks(remote: Remote, answer: requests.Response, net: Net) -> Iterator[bytes]:
    """Yield bytes as they come; raise `Transient` when the connection breaks or drips."""
    since, come = net.clock(), 0
    while True:
        try:
            data = answer.raw.read1(CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(remote, error, net) from None
        if not data:
            return
        yield data
        come += len(data)
        now = net.clock()
        if now - since >= net.slow_after:
            if come < net.slow_rate * (now - since):
                raise _again(remote, "the transfer is too slow", f"{size_text(come / (now - since))}/s")
            since, come = now, 0


def _put(file: BinaryIO, part: Path, data: bytes, meter: Meter) -> None:
    with disk_errors(part):
        file.write(data)
    meter.add(len(data))


def _sync(file: BinaryIO, part: Path) -> None:
    with disk_errors(part):
        file.flush()
        os.fsync(file.fileno())


def _check_whole(remote: Remote, size: int, total: int | None) -> None:
    if total is not None and size != total:
        raise _again(remote, "the connection was cut", f"{size:,} of {total:,} bytes")


def _accept(remote: Remote, part: Path) -> str:
    """Return the digest of a `.part` that is whole; a wrong one is removed."""
    size = _size(part)
    digest = file_digest(part)
    fault = None
    if remote.size is not None and size != remote.size:
        fault = f"{size:,} bytes came, the source's listing says {remote.size:,}"
    elif remote.sha256 is not None and digest != remote.sha256:
        fault = f"sha256 {digest[:12]}..., the source's listing says {remote.sha256[:12]}..."
    else:
        fault = fault_of_end(remote.name, part)
    if fault is None:
        return digest
    discard(part)
    raise _again(remote, "the file came damaged", fault)


def _again(remote: Remote, what: str, got: str) -> Transient:
    expected = None if remote.size is None else f"{remote.size:,} bytes"
    return Transient(SourceError(what, where=remote.name, expected=expected, got=got, todo=AGAIN))


def _refuse_encoded(remote: Remote, answer: requests.Response) -> None:
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise SourceError("the server sends the file compressed, unasked", where=remote.name, got=encoding, todo=AGAIN)


def _length(answer: requests.Response) -> int | None:
    value = answer.headers.get("Content-Length", "")
    return int(value) if value.isdigit() and "Content-Encoding" not in answer.headers else None


def _state_of(remote: Remote, answer: requests.Response, total: int | None) -> _State:
    return _State(remote.source, answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total)


def _strong(etag: str | None) -> str | None:
    """Return an ETag that stands for the very bytes; a weak one (W/) does not."""
    return etag if etag and not etag.startswith("W/") else None


def state_path(part: Path) -> Path:
    """Return where it is written what a `.part` is the beginning of."""
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
