"""What the Kaggle client says when it fails, as one error that says what to do next."""

from __future__ import annotations

import re
from typing import Literal

from common.errors import UserError
from common.kaggle.credentials import LOGIN, Credentials, redact

Kind = Literal[
    "no_login", "login", "forbidden", "absent", "too_often", "server", "network", "disk", "stalled", "refused", "answer"
]
RULES_PAGE = "https://www.kaggle.com/competitions/{}/rules"
RETRIED: frozenset[Kind] = frozenset({"too_often", "server", "network"})
_SHOWN = 600
# The pinned client's own words; the first that is found tells the kind.
_SIGNS: tuple[tuple[Kind, str], ...] = (
    ("login", r"Authentication required to call|Unauthenticated|\b401\b.*Unauthorized|Invalid credentials"),
    ("disk", r"No space left on device|Disk quota exceeded"),
    ("too_often", r"You have been rate limited|\b429\b.*Too Many Requests"),
    ("forbidden", r"You don't have access to this resource|accept this competition's rules|\b403\b.*Forbidden"),
    ("absent", r"The resource was not found|Could not find competition|\b404\b.*Not Found"),
    ("server", r"This is a problem on Kaggle's side|\b50[0234]\b.*Server Error|Could not submit to competition"),
    (
        "network",
        r"Max retries exceeded|Connection(Error| refused| reset| aborted|Pool)|NameResolution|ProxyError|timed out"
        r"|Connection broken|IncompleteRead|does not match expected size",
    ),
)


class KaggleError(UserError):
    """A request to Kaggle failed; `kind` tells how."""

    def __init__(self, kind: Kind, what: str, *, got: object = None, todo: str, where: object = None) -> None:
        self.kind: Kind = kind
        super().__init__(what, where=where, got=got, todo=todo)


def kind_of(text: str) -> Kind:
    """Return what kind of failure the client's output tells of."""
    for kind, sign in _SIGNS:
        if re.search(sign, text, re.IGNORECASE):
            return kind
    return "refused"


def no_login() -> KaggleError:
    """Return the error that there are no credentials."""
    return KaggleError("no_login", "there are no Kaggle credentials", todo=LOGIN)


def explain(text: str, place: str, doing: str, credentials: Credentials | None) -> KaggleError:
    """Return the error for what the client printed, already cleared of secrets.

    Parameters
    ----------
    text
        Standard error, then standard output; signatures are taken out here.
    place
        A competition, or a data set (owner/name).
    doing
        What was asked for, as the end of "Kaggle did not ...".
    credentials
        Those that were used.
    """
    kind = kind_of(text)
    dataset = "/" in place
    page = f"https://www.kaggle.com/{'datasets' if dataset else 'competitions'}/{place}"
    if kind == "login":
        if credentials is None:
            return no_login()
        what = f"Kaggle does not accept the credentials of {credentials.source}"
        return KaggleError(kind, what, where=page, todo=f"they may have expired: {LOGIN}")
    if kind == "forbidden" and not dataset:
        todo = f"open {RULES_PAGE.format(place)} in a browser, join and accept the rules, then run this again"
    else:
        todo = {
            "forbidden": f"open {page} in a browser, signed in: it may be private, or ask for an agreement first",
            "absent": f"see whether {page} opens in a browser; names of files are listed there",
            "too_often": "wait some minutes, then run the same command again: what is there already is kept",
            "server": "this is on Kaggle's side: run the same command again later",
            "network": "check the connection (and the variable HTTPS_PROXY), then run the same command again",
            "disk": "free some space, or name a folder on another disk",
        }.get(kind, "read what Kaggle says above; the pinned client is in requirements.txt")
    return KaggleError(kind, f"Kaggle did not {doing}", where=page, got=short(text), todo=todo)


def short(text: str) -> str:
    """Return the client's words without its own hints and bars, and without signatures, cut to a few lines."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", redact(text, ()))]
    own = ("Authentication required", "You don't have access", "If this is a comp", "https://www.kaggle.com/comp")
    hints = ("The resource was not", "References are", "To search", "You have been rate", "This is a problem on")
    debug = ("If this is unexpected", "traceback. If you")
    kept = [line for line in lines if line and "%|" not in line and not line.startswith((*own, *hints, *debug))]
    said = " / ".join(dict.fromkeys(kept)) or "no message"
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
