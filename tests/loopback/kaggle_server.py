"""A Kaggle on the loopback: what the pinned client (kaggle 2.2.5) asks for, answered as the real one answers.

The client has no variable for the server's address. `environ` makes it speak to this server as to a proxy, so that
all hosts lead here: `localhost` is the API, `storage.test` holds files, `upload.test` takes uploads. Answers follow
the client's installed source. The wording of the real server's messages is known for 403 only (issues of
Kaggle/kaggle-cli); the others are invented.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.loopback.serving import Serving

USER, KEY = "someone", "dummy-key-0123456789abcdef"
TOKEN = "KGAT_dummy-token-0123456789"  # noqa: S105, invented
SIGNATURE = "dummy-signature-0123456789"  # of the addresses of files and uploads; a secret as well
RULES = "You must accept this competition's rules before you'll be able to download files."
DATE = "2026-01-02T03:04:05.000Z"
Grade = tuple[str, str | None, str | None]  # status, public score, error description


def accept(_: bytes) -> Grade:
    """Score every file alike."""
    return "COMPLETE", "0.5128", None


@dataclass
class Fault:
    """An answer given in place of the right one: to `method` (of the API, or GET, PUT), `times` times."""

    method: str
    status: int
    message: str = "no"
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Delivery:
    """How files are sent. `cuts`: byte offsets at which one GET each breaks off, the first one first.

    `drip`: (bytes, seconds of rest) of each piece. `stated`: what is added to the true Content-Length.
    `html`: a web page comes in place of the file. `changes`: called before each GET, with its number from 0.
    """

    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    drip: tuple[int, float] | None = None
    stated: int = 0
    html: bool = False
    changes: Callable[[int], None] = lambda _: None


@dataclass
class Contest:
    """A competition (or, under a name with a slash, a data set) and its files."""

    files: dict[str, bytes]
    accepted: bool = True
    allowed: int = 3  # submissions a day
    grade: Callable[[bytes], Grade] = accept
    zipped: tuple[str, ...] = ()  # files that come as NAME.zip when they are asked for alone
    page: int = 100  # files to a page of the listing
    pending: int = 0  # times that a new submission is still being scored
    unseen: int = 0  # times that a new submission is not found yet
    changed: int = 1_700_000_000  # Last-Modified


@dataclass
class Sent:
    """A submission that was taken."""

    ref: int
    contest: str
    name: str
    data: bytes
    description: str
    grade: Grade
    polls: int = 0


@dataclass(frozen=True)
class Call:
    """One request: the API's method, GET or PUT; the address; the headers."""

    method: str
    url: str
    headers: Mapping[str, str]


class KaggleServer(Serving):
    """Use it as a context manager; change `contests`, `faults` and `delivery` between calls."""

    def __init__(self, contests: Mapping[str, Contest]) -> None:
        self.contests = dict(contests)
        self.faults: list[Fault] = []
        self.delivery = Delivery()
        self.calls: list[Call] = []
        self.sent: list[Sent] = []
        self.uploads: dict[str, tuple[str, str, bytes]] = {}  # token -> contest, file name, bytes
        self.gets = 0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.kaggle = self  # pyright: ignore[reportAttributeAccessIssue]

    def environ(self, home: Path, *, login: str = "key") -> dict[str, str]:
        """Return what leads the client here, with a home of its own; `login`: "key", "token" or "none"."""
        home.mkdir(parents=True, exist_ok=True)
        found = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HOME": str(home), "USERPROFILE": str(home)}
        found |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")  # other loopback servers are asked directly
        found |= dict.fromkeys(("HTTP_PROXY", "http_proxy"), self.address)
        if login == "key":
            found |= {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
        elif login == "token":
            found |= {"KAGGLE_API_TOKEN": TOKEN}
        return found

    def fail(self, method: str, status: int, message: str = "no", *, times: int = 1, **headers: str) -> None:
        """Answer `method` with an error the next `times` times."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, status, message, times, named))

    def methods(self) -> list[str]:
        """Return the methods that were asked for, in order."""
        return [call.method for call in self.calls]

    def bundle(self, contest: str) -> bytes:
        """Return the zip of all files, as it is sent."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.contests[contest].files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue()


def zip_of(name: str, data: bytes) -> bytes:
    """Return a zip with one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


class _Refused(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, dict(headers or {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def server_state(self) -> KaggleServer:
        return self.server.kaggle  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = self.path.rpartition("/")[2]
        self._note(method)
        try:
            self._fault(method)
            if method == "IntrospectToken":
                self._json({"active": True, "username": USER} if json.loads(body)["token"] == TOKEN else {})
                return
            self._authorized()
            with self.server_state.lock:
                answer = getattr(self, f"_{method}", None)
                if answer is None:
                    raise _Refused(404, "Not found")
                result = answer(json.loads(body))
            if isinstance(result, str):
                self._send(302, b"", {"Location": result})
            else:
                self._json(result)
        except _Refused as refused:
            self._refuse(refused)

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        self._note("PUT")
        try:
            self._fault("PUT")
            token = urllib.parse.urlparse(self.path).path.rpartition("/")[2]
            contest, name, _ = self.server_state.uploads[token]
            self.server_state.uploads[token] = (contest, name, data)
            self._send(200, b"")
        except _Refused as refused:
            self._refuse(refused)

    def do_GET(self) -> None:
        state = self.server_state
        self._note("GET")
        with state.lock:
            state.delivery.changes(state.gets)
            state.gets += 1
        try:
            self._fault("GET")
        except _Refused as refused:
            self._refuse(refused)
            return
        if state.delivery.html:
            page = b"<!DOCTYPE html>\n<html><head><title>Kaggle</title></head><body>Sign in</body></html>\n"
            self._send(
                200, page, {"Content-Type": "text/html; charset=utf-8", "Last-Modified": formatdate(0, usegmt=True)}
            )
            return
        _, contest, name = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).split("/", 2)
        self._deliver(contest.replace("@", "/"), name)

    def _deliver(self, contest: str, name: str) -> None:
        state = self.server_state
        found = state.contests[contest]
        if name.startswith("*"):
            data = state.bundle(contest)
        elif name.removesuffix(".zip") in found.zipped:
            data = zip_of(Path(name).stem, found.files[name.removesuffix(".zip")])
        else:
            data = found.files[name]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": etag,
            "Last-Modified": formatdate(found.changed, usegmt=True),
        }
        start, status = 0, 200
        if state.delivery.ranges:
            headers["Accept-Ranges"] = "bytes"
            asked = self.headers.get("Range")
            if asked and self.headers.get("If-Range") in (None, etag, headers["Last-Modified"]):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                    return
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._body(status, data, start, headers)

    def _body(self, status: int, data: bytes, start: int, headers: Mapping[str, str]) -> None:
        delivery = self.server_state.delivery
        end = min(len(data), delivery.cuts.pop(0)) if delivery.cuts else len(data)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start + delivery.stated))
        self.end_headers()
        piece, rest = delivery.drip or (1 << 20, 0.0)
        try:
            for at in range(start, end, piece):
                self.wfile.write(data[at : min(at + piece, end)])
                self.wfile.flush()
                time.sleep(rest)
        except OSError:  # the client has gone
            pass
        if end < len(data) or delivery.stated:
            self.close_connection = True

    # --- the API's methods

    def _contest(self, name: str) -> Contest:
        found = self.server_state.contests.get(name)
        if found is None:
            raise _Refused(404, f"Not found: {name}")
        if not found.accepted:
            raise _Refused(403, RULES)
        return found

    def _address(self, contest: str, name: str) -> str:
        where = f"{contest.replace('/', '@')}/{name}"
        return f"http://storage.test/{urllib.parse.quote(where)}?X-Goog-Signature={SIGNATURE}"

    def _ListDataFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._contest(asked["competitionName"])
        first = int(asked.get("pageToken") or 0)
        page = list(found.files.items())[first : first + found.page]
        more = str(first + found.page) if first + found.page < len(found.files) else ""
        return {"files": [_file(*item) for item in page], "nextPageToken": more}

    def _DownloadDataFiles(self, asked: dict[str, Any]) -> str:
        name = asked["competitionName"]
        self._contest(name)
        return self._address(name, "*archive.zip")

    def _DownloadDataFile(self, asked: dict[str, Any]) -> str:
        contest, name = asked["competitionName"], asked["fileName"]
        found = self._contest(contest)
        if name not in found.files:
            raise _Refused(404, f"Not found: {name}")
        return self._address(contest, name + (".zip" if name in found.zipped else ""))

    def _GetDatasetMetadata(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._contest(f"{asked['ownerSlug']}/{asked['datasetSlug']}")
        return {"info": {"datasetSlug": asked["datasetSlug"], "ownerUser": asked["ownerSlug"]}}

    def _ListDatasetFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = self._contest(f"{asked['ownerSlug']}/{asked['datasetSlug']}")
        first = int(asked.get("pageToken") or 0)
        page = list(found.files.items())[first : first + found.page]
        more = str(first + found.page) if first + found.page < len(found.files) else ""
        return {"datasetFiles": [_file(*item) for item in page], "nextPageToken": more}

    def _DownloadDataset(self, asked: dict[str, Any]) -> str:
        name = f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        found = self._contest(name)
        file = asked.get("fileName")
        if not file:
            return self._address(name, "*archive.zip")
        if file not in found.files:
            raise _Refused(404, f"Not found: {file}")
        return self._address(name, file)

    def _StartSubmissionUpload(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._contest(asked["competitionName"])
        token = f"blob-{len(self.server_state.uploads)}"
        self.server_state.uploads[token] = (asked["competitionName"], asked["fileName"], b"")
        return {"token": token, "createUrl": f"http://upload.test/{token}?signature={SIGNATURE}"}

    def _CreateSubmission(self, asked: dict[str, Any]) -> dict[str, Any]:
        state, name = self.server_state, asked["competitionName"]
        found = self._contest(name)
        if self._left(name) <= 0:
            raise _Refused(
                400,
                f"Submission not allowed: your team has used its daily submission allowance ({found.allowed}) today, "
                "please try again tomorrow UTC (5.5 hours from now).",
            )
        _, file, data = state.uploads[asked["blobFileTokens"]]
        ref = 40_000_000 + len(state.sent)
        state.sent.append(Sent(ref, name, file, data, asked.get("submissionDescription") or "", found.grade(data)))
        return {"message": "Successfully submitted", "ref": ref}

    def _left(self, name: str) -> int:
        """Submissions still allowed today; those that failed to score do not count."""
        counted = [s for s in self.server_state.sent if s.contest == name and s.grade[0] != "ERROR"]
        return self.server_state.contests[name].allowed - len(counted)

    def _GetSubmissionLimits(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["competitionName"]
        self._contest(name)
        today = len([s for s in self.server_state.sent if s.contest == name])
        return {"numToday": today, "numTotal": today, "numAllowedNow": max(self._left(name), 0)}

    def _GetSubmission(self, asked: dict[str, Any]) -> dict[str, Any]:
        for sent in self.server_state.sent:
            if sent.ref == asked["ref"]:
                sent.polls += 1
                if sent.polls <= self.server_state.contests[sent.contest].unseen:
                    break
                return self._submission(sent)
        raise _Refused(404, "Not found: submission")

    def _ListSubmissions(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["competitionName"]
        self._contest(name)
        return {"submissions": [self._submission(s) for s in reversed(self.server_state.sent) if s.contest == name]}

    def _submission(self, sent: Sent) -> dict[str, Any]:
        contest = self.server_state.contests[sent.contest]
        status, score, error = sent.grade
        if sent.polls <= contest.unseen + contest.pending:
            status, score, error = "PENDING", None, None
        shown = {
            "ref": sent.ref,
            "date": DATE,
            "description": sent.description,
            "fileName": sent.name,
            "status": status,
            "publicScore": score,
            "errorDescription": error,
        }
        return {key: value for key, value in shown.items() if value is not None}

    # --- answers

    def _note(self, method: str) -> None:
        with self.server_state.lock:
            self.server_state.calls.append(Call(method, self.path, dict(self.headers.items())))

    def _fault(self, method: str) -> None:
        with self.server_state.lock:
            for fault in self.server_state.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    raise _Refused(fault.status, fault.message, fault.headers)

    def _authorized(self) -> None:
        given = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if given not in (basic, f"Bearer {TOKEN}"):
            raise _Refused(401, "Unauthenticated")

    def _refuse(self, refused: _Refused) -> None:
        body = json.dumps({"code": refused.status, "message": refused.message}).encode()
        self._send(refused.status, body, {"Content-Type": "application/json", **refused.headers})

    def _json(self, value: dict[str, Any]) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _file(name: str, data: bytes) -> dict[str, Any]:
    return {"ref": name, "name": name, "totalBytes": len(data), "creationDate": DATE}
