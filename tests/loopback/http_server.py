"""A web server on the loopback that behaves as real ones do, and misbehaves as told: cuts, drips, lies, changes."""

from __future__ import annotations

import hashlib
import html
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback.serving import Serving

LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n" * 8


@dataclass
class Served:
    """One file.

    Attributes
    ----------
    ranges, if_range
        Whether Range is honoured, and If-Range.
    etag, modified
        Whether these headers are sent.
    length
        Whether Content-Length is sent; without it the end of the connection is the end of the file.
    """

    data: bytes
    ranges: bool = True
    if_range: bool = True
    etag: bool = True
    modified: bool = True
    length: bool = True
    changed: int = 1_700_000_000
    kind: str = "application/octet-stream"

    @property
    def tag(self) -> str:
        """A strong ETag: of these very bytes."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:24]}"'


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with one GET.

    Attributes
    ----------
    status, headers
        An error in place of the file.
    cut
        The byte of the file before which the connection breaks.
    stated
        What is added to the true Content-Length.
    drip
        (bytes, seconds of rest) of each piece.
    page
        Whether a web page comes in place of the file.
    before
        Called before the answer: changes the file, say.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stated: int = 0
    drip: tuple[int, float] | None = None
    page: bool = False
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    sent: int = 0


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class WebServer(Serving):
    """Use it as a context manager.

    Attributes
    ----------
    files
        Path ("/data/train.parquet") -> file. A folder of them is answered with a list of links, unless `listing`
        is off.
    troubles
        Path -> what goes wrong with each GET in turn, until the list is used up.
    always
        Path -> what goes wrong with every GET.
    secret
        A token that every request must carry (Authorization: Bearer); None asks for none.
    """

    def __init__(self, files: Mapping[str, Served] | None = None) -> None:
        self.files = dict(files or {})
        self.troubles: dict[str, list[Trouble]] = {}
        self.always: dict[str, Trouble] = {}
        self.listing = True
        self.secret: str | None = None
        self.head = True
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self._http = _Quiet(("127.0.0.1", 0), self.handler())
        self._http.site = self  # pyright: ignore[reportAttributeAccessIssue]

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return what answers requests."""
        return Handler

    def gets(self, path: str) -> list[Asked]:
        """Return the GETs of a path, in order."""
        return [asked for asked in self.asked if asked.method == "GET" and asked.path == path]

    def trouble(self, path: str) -> Trouble:
        """Return what goes wrong with the next GET of a path."""
        with self.lock:
            waiting = self.troubles.get(path)
            return waiting.pop(0) if waiting else self.always.get(path, Trouble())


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD and GET."""

    protocol_version = "HTTP/1.1"

    @property
    def site(self) -> Any:
        """The server's state."""
        return self.server.site  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._note("HEAD")
        if not self.site.head:
            self._answer(405)
        elif self._allowed():
            self.respond("HEAD")

    def do_GET(self) -> None:
        """Answer with a body."""
        self._note("GET")
        if self._allowed():
            self.respond("GET")

    def respond(self, method: str) -> None:
        """Send a file, a list of links, or 404."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        found = self.site.files.get(path)
        if found is None and self.site.listing and any(name.startswith(path) for name in self.site.files):
            self._list(path, method)
        elif found is None:
            self._answer(404)
        else:
            self.deliver(path, found, method)

    def deliver(self, path: str, found: Served, method: str) -> None:
        """Send a file, whole or from a byte on, with the trouble that waits for it."""
        trouble = self.site.trouble(path) if method == "GET" else Trouble()
        if trouble.before is not None:
            trouble.before()
            found = self.site.files[path]
        if trouble.status is not None:
            self._answer(trouble.status, trouble.headers)
            return
        if trouble.page:
            self._send(200, {"Content-Type": "text/html; charset=utf-8"}, LOGIN_PAGE, 0, len(LOGIN_PAGE), Trouble())
            return
        headers = {"Content-Type": found.kind}
        if found.etag:
            headers["ETag"] = found.tag
        if found.modified:
            headers["Last-Modified"] = formatdate(found.changed, usegmt=True)
        start, status = 0, 200
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if found.ranges:
            headers["Accept-Ranges"] = "bytes"
        known = (None, headers.get("ETag"), headers.get("Last-Modified"))
        if found.ranges and asked and (condition in known or not found.if_range):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(found.data):
                self._answer(416, {"Content-Range": f"bytes */{len(found.data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(found.data) - 1}/{len(found.data)}"
        if method == "HEAD":
            self._head(status, headers, len(found.data) - start + trouble.stated if found.length else None)
            return
        end = len(found.data) if trouble.cut is None else min(len(found.data), max(trouble.cut, start))
        self._send(status, headers, found.data, start, end, trouble, length=found.length)

    def _list(self, path: str, method: str) -> None:
        """Send a folder's list of links, as web servers make it."""
        folder = path if path.endswith("/") else f"{path}/"
        names = sorted({n[len(folder) :].split("/")[0] + "/" * ("/" in n[len(folder) :]) for n in self.site.files
                        if n.startswith(folder)})  # fmt: skip
        links = "".join(f'<a href="{urllib.parse.quote(n)}">{html.escape(n)}</a>  01-Jan-2025  1K\n' for n in names)
        page = f"<html><head><title>Index of {folder}</title></head><body><h1>Index</h1><pre><a href='../'>../</a>\n"
        body = f"{page}<a href='?C=N;O=D'>Name</a>\n{links}</pre></body></html>".encode()
        end = len(body) if method == "GET" else 0
        self._send(200, {"Content-Type": "text/html"}, body, 0, end, Trouble())

    def _note(self, method: str) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        with self.site.lock:
            self.site.asked.append(Asked(method, path, dict(self.headers.items())))

    def _allowed(self) -> bool:
        secret = self.site.secret
        if secret is not None and self.headers.get("Authorization") != f"Bearer {secret}":
            self._answer(401)
            return False
        return True

    def _answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self._send(status, dict(headers or {}), body, 0, len(body), Trouble())

    def _head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(
        self,
        status: int,
        headers: Mapping[str, str],
        data: bytes,
        start: int,
        end: int,
        trouble: Trouble,
        *,
        length: bool = True,
    ) -> None:
        self._head(status, headers, len(data) - start + trouble.stated if length else None)
        piece, rest = trouble.drip or (1 << 16, 0.0)
        try:
            for at in range(start, end, piece):
                self.wfile.write(data[at : min(at + piece, end)])
                self.wfile.flush()
                if rest:
                    time.sleep(rest)
        except OSError:  # the client has gone
            self.close_connection = True
        if end < len(data) or trouble.stated:
            self.close_connection = True
