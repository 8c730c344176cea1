"""How the network is treated: waits, tries, and what each answer of a server means for the user."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests
import urllib3

from common.errors import DataError

RETRIED = (408, 425, 429, 500, 502, 503, 504)
Say = Callable[[str], None]


class SourceError(DataError):
    """A source does not give a file: another one may."""


class Transient(Exception):
    """One try failed in a way that the next may not.

    Parameters
    ----------
    error
        What the user reads when no try is left.
    wait
        Seconds that the server asks for; None leaves it to the back-off.
    """

    def __init__(self, error: SourceError, wait: float | None = None) -> None:
        super().__init__(error.what)
        self.error = error
        self.wait = wait


@dataclass(frozen=True)
class Net:
    """Time limits (seconds) and tries.

    Attributes
    ----------
    connect, read
        How long to wait for a connection, and for the next byte.
    tries
        How often a step may fail in a row; progress sets the count back.
    backoff, longest
        First wait between tries, doubled each time, and the longest one.
    slow_rate, slow_after
        A transfer that stays below this rate (bytes a second) for so long counts as failed.
    """

    connect: float = 15.0
    read: float = 60.0
    tries: int = 6
    backoff: float = 1.0
    longest: float = 120.0
    slow_rate: float = 1024.0
    slow_after: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Hints:
    """What the user does next about a source's answers."""

    login: str = "log in with the account that may read it"
    rules: str = "ask its owner for access"
    missing: str = "it may have moved: try another --source, or see data/README.md"


@dataclass(frozen=True)
class Remote:
    """One file of a server.

    Attributes
    ----------
    name
        For messages, and its suffix for what it must hold.
    size, sha256
        As the source's listing states them; None where it does not.
    headers
        Sent with each request; may hold a token, so they are never shown.
    source
        Names the file across runs: a `.part` of another source is not gone on with.
    """

    name: str
    url: str
    source: str
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    hints: Hints = Hints()


class Attempts:
    """Counts failures in a row, waits between tries, and gives up in the end."""

    def __init__(self, net: Net, say: Say) -> None:
        self.net = net
        self.say = say
        self.failures = 0

    def failed(self, fault: Transient, *, progressed: bool = False) -> None:
        """Wait before the next try; raise the fault's error when none is left, or the server asks for too long."""
        self.failures = 1 if progressed else self.failures + 1
        wait = fault.wait
        if self.failures >= self.net.tries or (wait is not None and wait > self.net.longest):
            raise fault.error from None
        if wait is None:
            wait = min(self.net.backoff * 2 ** (self.failures - 1), self.net.longest)
        got = "" if fault.error.got is None else f" ({fault.error.got})"
        tries = f"failure {self.failures} of {self.net.tries}"
        self.say(f"{fault.error.where}: {fault.error.what}{got}; again in {wait:.0f} s, {tries}")
        self.net.sleep(wait)


def session() -> requests.Session:
    """Return a session that follows few redirects; its own retries are off."""
    made = requests.Session()
    made.max_redirects = 5
    made.headers.update({"Accept-Encoding": "identity", "User-Agent": "mirc-starter-kit"})
    return made


def shown(url: str) -> str:
    """Return an address without its query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def open_url(
    http: requests.Session, method: str, remote: Remote, net: Net, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Ask once and return the answer with its body unread; the caller closes it.

    It has the status 200, 206 or 416, or that of a server without HEAD (405, 501).

    Raises
    ------
    Transient
        No connection, no answer in time, or a status that may pass.
    SourceError
        A status that will not: 401, 403, 404, ...
    """
    try:
        response = http.request(
            method,
            remote.url,
            headers={**remote.headers, **(headers or {})},
            stream=True,
            timeout=(net.connect, net.read),
            allow_redirects=True,
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise unreachable(remote, error, net) from None
    if response.status_code in (200, 206, 416) or (method == "HEAD" and response.status_code in (405, 501)):
        return response
    response.close()
    raise status_error(remote, response)


def unreachable(remote: Remote, error: BaseException, net: Net) -> Transient | SourceError:
    """Return what a failed connection means. The library's own text is left out: it has the whole address."""
    todo = "check the network, then run the same command: it goes on where it stopped"
    permanent = (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)
    if isinstance(error, (*permanent, requests.TooManyRedirects)):
        what = "too many redirects" if isinstance(error, requests.TooManyRedirects) else "not an address"
        return SourceError(what, where=remote.name, got=shown(remote.url), todo="check the address")
    if isinstance(error, requests.ConnectTimeout):
        got = f"no connection within {net.connect:g} s"
    elif isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        got = f"no answer within {net.read:g} s"
    elif isinstance(error, requests.exceptions.SSLError):
        got = "its certificate is not accepted"
    else:
        got = root_cause(error)
    host = urlsplit(remote.url).netloc.rpartition("@")[2]
    return Transient(SourceError(f"{host} cannot be reached", where=remote.name, got=got, todo=todo))


def root_cause(error: BaseException) -> str:
    """Return the system's words for a failed connection; "the connection was cut" where there are none."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, OSError) and found.strerror and not isinstance(found, requests.RequestException):
            return str(found.strerror)
        linked = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        waiting += [other for other in linked if isinstance(other, BaseException)]
    return "the connection was cut"


def status_error(remote: Remote, response: requests.Response) -> Transient | SourceError:
    """Return what a status other than success means."""
    status, hints = response.status_code, remote.hints
    got = f"{status} {response.reason} from {shown(response.url)}"
    if status in RETRIED:
        limited = status == 429
        what = "the server takes no more requests for now" if limited else "the server is in trouble"
        wait = retry_after(response.headers.get("Retry-After"), time.time())
        when = "in a few minutes" if wait is None else f"in {wait / 60:.0f} minutes" if wait > 90 else "in a minute"
        todo = f"run the same command again {when}: it goes on where it stopped"
        return Transient(SourceError(what, where=remote.name, got=got, todo=todo), wait)
    what, todo = {
        401: ("the server asks for a login", hints.login),
        403: ("the server refuses access", hints.rules),
        404: ("the server has no such file", hints.missing),
        410: ("the server has no such file any more", hints.missing),
    }.get(status, ("the server answers with an error", hints.missing))
    return SourceError(what, where=remote.name, got=got, todo=todo)


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date); None where there is none.

    >>> retry_after("7", 0.0)
    7.0
    """
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    moment = email.utils.parsedate_tz(value)
    return None if moment is None else max(0.0, email.utils.mktime_tz(moment) - now)
