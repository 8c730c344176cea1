"""The Hugging Face hub on the loopback, as its client asks it: a data set's commit, its tree, its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler

from tests.loopback.http_server import Handler, Served, WebServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_INFO = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?$")
_TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)$")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


class HubServer(WebServer):
    """Data sets by name, each a mapping of paths to bytes; `gated` ones need `token`, `hidden` ones are not found.

    `files` of the base class, and its `troubles`, go by the address of a file: `path_of(repo, name)`.
    """

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]], *, token: str | None = None) -> None:
        super().__init__()
        self.repos = {name: dict(files) for name, files in repos.items()}
        self.token = token
        self.gated: set[str] = set()
        self.down: int | None = None
        for repo, files in self.repos.items():
            for name, data in files.items():
                self.files[path_of(repo, name)] = Served(data)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return what answers requests."""
        return _HubHandler

    def environ(self) -> dict[str, str]:
        """Return what leads the client here."""
        return {"HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


def path_of(repo: str, name: str) -> str:
    """Return the path of a data set's file on the server."""
    return f"/datasets/{repo}/resolve/{COMMIT}/{name}"


class _HubHandler(Handler):
    def respond(self, method: str) -> None:
        path = self.path.partition("?")[0]
        site: HubServer = self.site
        if site.down is not None:
            self._answer(site.down)
        elif found := _INFO.match(path) or _TREE.match(path):
            self._api(found[1], tree="/tree/" in path)
        elif found := _FILE.match(path):
            if self._open(found[1]):
                super().respond(method)
        else:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})

    def _open(self, repo: str) -> bool:
        """Answer for a data set that is not there or not open; return whether it is."""
        site: HubServer = self.site
        if repo not in site.repos:
            self._answer(401 if site.token is None else 404, {"X-Error-Code": "RepoNotFound"})
            return False
        if repo in site.gated and self.headers.get("Authorization") != f"Bearer {site.token}":
            self._answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
            return False
        return True

    def _api(self, repo: str, *, tree: bool) -> None:
        if not self._open(repo):
            return
        files = self.site.repos[repo]
        body: object = {"id": repo, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": []}
        if tree:
            body = [_entry(name, data) for name, data in files.items()]
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _entry(name: str, data: bytes) -> dict[str, object]:
    """Return a file of the tree; a large one is in LFS, with its SHA-256."""
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324, git's own
    if len(data) > 1000:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
