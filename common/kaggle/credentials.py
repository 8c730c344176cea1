"""Where Kaggle credentials are, in the client's own order, and the removal of secrets from text.

Source: the installed client, kaggle 2.2.5 (`KaggleApi.authenticate`, `kagglesdk.kaggle_env`).
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

REMOVED = "[removed]"
LOGIN = (
    "make a token at https://www.kaggle.com/settings/api, and put it into the variable KAGGLE_API_TOKEN or the file "
    "~/.kaggle/access_token (chmod 600)"
)
_SHORTEST_SECRET = 6  # a shorter one cannot be told from ordinary text


@dataclass(frozen=True)
class Credentials:
    """Credentials that are there: `source` says where, for people; `path` is the file, where it is one."""

    source: str
    kind: Literal["token", "key", "oauth"]
    path: Path | None = None


def user_home(environ: Mapping[str, str]) -> Path:
    """Return the home folder as the client, run in `environ`, sees it."""
    name = "USERPROFILE" if sys.platform == "win32" else "HOME"
    return Path(environ[name]) if environ.get(name) else Path.home()


def config_folder(environ: Mapping[str, str], home: Path | None = None) -> Path:
    """Return the folder of kaggle.json: KAGGLE_CONFIG_DIR, else ~/.kaggle, else (Linux) the XDG folder."""
    home = home or user_home(environ)
    if environ.get("KAGGLE_CONFIG_DIR"):
        return Path(environ["KAGGLE_CONFIG_DIR"])
    folder = home / ".kaggle"
    if sys.platform.startswith("linux") and not folder.exists():
        return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    return folder


def all_credentials(environ: Mapping[str, str], home: Path | None = None) -> list[Credentials]:
    """Return every credential that is there, the one that the client takes first."""
    home = home or user_home(environ)
    return list(_credentials(environ, home))


def find_credentials(environ: Mapping[str, str], home: Path | None = None) -> Credentials | None:
    """Return the credentials that the client takes, or None."""
    return next(iter(all_credentials(environ, home)), None)


def _credentials(environ: Mapping[str, str], home: Path) -> Iterator[Credentials]:
    token = environ.get("KAGGLE_API_TOKEN")
    if token:
        path = _token_path(token)
        yield Credentials(
            "variable KAGGLE_API_TOKEN" + (f", which names the file {path}" if path else ""), "token", path
        )
    for name in ("access_token", "access_token.txt"):
        path = home / ".kaggle" / name
        if _text(path).strip():
            yield Credentials(f"file {path}", "token", path)
    if environ.get("KAGGLE_USERNAME") and environ.get("KAGGLE_KEY"):
        yield Credentials("variables KAGGLE_USERNAME and KAGGLE_KEY", "key")
    path = config_folder(environ, home) / "kaggle.json"
    values = _values(path)
    if values.get("username") and values.get("key"):
        yield Credentials(f"file {path}", "key", path)
    path = home / ".kaggle" / "credentials.json"
    if _values(path).get("refresh_token"):
        yield Credentials(f"file {path}", "oauth", path)


def secret_values(environ: Mapping[str, str], home: Path | None = None) -> tuple[str, ...]:
    """Return every secret that is there, longest first, so that none is left in part by a shorter one."""
    home = home or user_home(environ)
    found = [environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_IAP_TOKEN")]
    path = _token_path(found[0]) if found[0] else None
    if path is not None:
        found[0] = _text(path)
    found += [_text(home / ".kaggle" / name) for name in ("access_token", "access_token.txt")]
    legacy = _values(config_folder(environ, home) / "kaggle.json")
    found.append(str(legacy.get("key") or ""))
    names = [environ.get("KAGGLE_USERNAME"), legacy.get("username")]
    keys = [environ.get("KAGGLE_KEY"), legacy.get("key")]
    # HTTP Basic sends name and key as base64.
    found += [base64.b64encode(f"{name}:{key}".encode()).decode() for name in names for key in keys if name and key]
    login = _values(home / ".kaggle" / "credentials.json")
    found += [str(login.get(name) or "") for name in ("refresh_token", "access_token")]
    kept = {value.strip() for value in found if len(value.strip()) >= _SHORTEST_SECRET}
    return tuple(sorted(kept, key=len, reverse=True))


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, REMOVED)
    return text


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return text without the secrets, without passwords in addresses, and without queries of addresses.

    The query of a storage address is a signature: whoever has it may download in the user's name.

    >>> redact("GET https://u:p@host/a?sig=1 of k3y-0123", ["k3y-0123"])
    'GET https://[removed]@host/a?[removed] of [removed]'
    """
    text = re.sub(r"(\w+://)[^\s/@]+@", rf"\1{REMOVED}@", hide(text, secrets))
    return re.sub(r"(\w+://[^\s?]+|/[^\s?]+)\?[^\s'\")>]+", rf"\1?{REMOVED}", text)


def _token_path(value: str) -> Path | None:
    """Return the file that KAGGLE_API_TOKEN names, or None where it is the token itself."""
    try:
        return Path(value) if Path(value).is_file() else None
    except (OSError, ValueError):  # too long or odd for a path
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_text(path))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
