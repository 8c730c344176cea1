"""A connection to Milvus: a server's address, or a database folder that milvus-lite opens inside the process."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from common.atomic import write_text
from common.errors import ConfigError, DataError, UserError

CONNECT_SECONDS = 5.0
"""How long a server may take to answer the first call."""
CALL_SECONDS = 120.0
"""How long one batch of vectors or queries may take; a server that has gone away is waited for as long."""
DATABASE = "milvus.db"
_SCHEMES = ("http", "https", "tcp", "unix")
_REFUSED = ("unauthenticated", "permission_denied", "auth check failure", "invalid token")


class Server:
    """A client of one server or database; every call's failure is one error of the user's kind.

    Parameters
    ----------
    uri
        http://HOST:PORT of a server; None opens `database`.
    token
        "user:password" or an API key. It is shown nowhere, and neither is one inside the uri.
    database
        Folder that milvus-lite keeps its files in, named *.db; its parent exists.

    Raises
    ------
    ConfigError
        The client is not installed, the address is none, nobody answers there, or the token is refused.
    """

    def __init__(self, uri: str | None, token: str = "", database: Path | None = None) -> None:
        if (uri is None) == (database is None):
            raise ValueError("give an address or a database")
        needs = ("pymilvus",) if database is None else ("pymilvus", "milvus_lite")
        installed(*needs)
        self.uri, self.token, self.database = uri, token, database
        self.where = str(database) if uri is None else shown(uri)
        self._client: Any = None
        self._open()

    @property
    def embedded(self) -> bool:
        """Whether the database runs inside this process."""
        return self.database is not None

    def _open(self) -> None:
        from pymilvus import MilvusClient

        _quieten()
        address = str(self.database) if self.uri is None else checked(self.uri)
        try:
            # A connection of one's own: the shared ones outlive a database that was closed and opened again.
            self._client = MilvusClient(address, token=self.token, timeout=CONNECT_SECONDS, dedicated=True)
        except Exception as error:  # pymilvus lets errors of gRPC and of sockets through
            raise self._connecting(error) from None

    def call(self, name: str, *arguments: Any, timeout: float | None = CALL_SECONDS, **options: Any) -> Any:
        """Return what the client's method `name` gives; `timeout` in seconds, None waits as long as it takes.

        Raises
        ------
        ConfigError
            The token does not allow it.
        DataError
            The server has gone away, or refuses what it was asked.
        """
        if self._client is None:
            self._open()
        return self.attempt(name, lambda: getattr(self._client, name)(*arguments, timeout=timeout, **options))

    def attempt(self, name: str, function: Callable[[], Any]) -> Any:
        """Return what a function of the client gives, with the errors of `call`."""
        try:
            return function()
        except Exception as error:
            raise self._failed(name, error) from None

    def close(self) -> None:
        """Close the connection, and the database's files; the next call opens them again."""
        if self._client is not None:
            with suppress(Exception):
                self._client.close()
            self._client = None
        if self.database is not None:
            release(self.database)

    def _connecting(self, error: Exception) -> UserError:
        text = self._hidden(error)
        if _is_refusal(error):
            return self._refused(text)
        if self.uri is None:
            return ConfigError("the Milvus database cannot be opened", where=self.where, got=text)
        return ConfigError(
            "no Milvus server answers",
            where=f"--uri {self.where}",
            got=text,
            todo="check that it runs and can be reached from here; without --uri milvus-lite runs in the process",
        )

    def _refused(self, text: str) -> ConfigError:
        return ConfigError(
            "the Milvus server refuses the token",
            where=f"--uri {self.where}",
            expected="MIRC_MILVUS_TOKEN=USER:PASSWORD, or an API key",
            got=text,
        )

    def _failed(self, name: str, error: Exception) -> UserError:
        text = self._hidden(error)
        if _is_refusal(error):
            return self._refused(text)
        return DataError(
            "Milvus failed, or has gone away", where=f"{name} at {self.where}", got=text, todo="run the command again"
        )

    def _hidden(self, error: Exception) -> str:
        text = str(getattr(error, "message", "") or error) or type(error).__name__
        secrets = [self.token, *self.token.split(":")]
        if self.uri is not None and self.uri != self.where:
            parts = urlsplit(self.uri)
            secrets += [self.uri, parts.netloc.rpartition("@")[0], parts.password or "", parts.username or ""]
        for secret in sorted(filter(lambda one: len(one) > 2, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(text.split())[:300]


def _is_refusal(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the token does not open the door."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # the client raises errors from themselves
        seen.add(id(error))
        text = f"{error} {getattr(error, 'message', '')}".lower()
        if any(sign in text for sign in _REFUSED):
            return True
        error = error.__cause__
    return False


def shown(uri: str) -> str:
    """Return a server's address without the user and password in it.

    >>> shown("https://me:secret@host:19530/db")
    'https://host:19530/db'
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(no address)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def checked(uri: str) -> str:
    """Return a server's address.

    Raises
    ------
    ConfigError
        It is not the address of a server.
    """
    try:
        parts = urlsplit(uri)
        fine = parts.scheme in _SCHEMES and bool(parts.hostname or parts.path) and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine or uri.endswith(".db"):
        raise ConfigError(
            "not the address of a Milvus server", where="--uri", expected="http://HOST:PORT", got=shown(uri)
        )
    return uri


def release(database: Path) -> None:
    """Close the files of a database that milvus-lite has open in this process."""
    with suppress(Exception):
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(database))


class Claim:
    """A folder that one process uses at a time: `base`/`name`-0, or the first with a higher number that is free.

    The operating system frees the lock of a process that was killed; what it left in the folder is there.

    Attributes
    ----------
    folder
        The folder.
    """

    def __init__(self, base: Path, name: str) -> None:
        number = 0
        while not self._take(base / f"{name}-{number}"):
            number += 1

    def _take(self, folder: Path) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another has just given the folder back
            return self._take(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.fstat(handle).st_ino == path.stat().st_ino
        except OSError as error:
            os.close(handle)
            return self._take(folder) if isinstance(error, FileNotFoundError) else False
        if not same:
            os.close(handle)
            return self._take(folder)
        self.folder, self._handle = folder, handle
        return True

    def give_back(self, *, empty: bool = True) -> None:
        """Free the lock, and remove the folder first unless what is in it is to stay."""
        if empty:
            shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            os.close(self._handle)


class Holding:
    """What an index holds outside the process: a claimed folder, and in it or on a server a collection.

    Attributes
    ----------
    kept
        Whether the collection stays on its server when the index ends.
    unfinished
        Whether it is being filled: then it stays where it is, for the next run to go on with.
    """

    def __init__(self, server: Server, claim: Claim, collection: str) -> None:
        self.server, self.claim, self.collection = server, claim, collection
        self.kept = self.unfinished = False

    def end(self) -> None:
        """Drop the collection unless it stays, leave the server, and give the folder back."""
        if not (self.kept or self.unfinished or self.server.embedded):
            with suppress(UserError):  # an end of the process cannot be helped by an error
                self.server.call("drop_collection", self.collection, timeout=CONNECT_SECONDS)
        self.server.close()
        self.claim.give_back(empty=not self.unfinished)


def owner(work: Path) -> str:
    """Return the name that is this folder's alone, so that two machines' collections on a server differ."""
    path = work / "owner"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def installed(*packages: str) -> None:
    """Raise `ConfigError` unless the packages can be imported."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "the Milvus client is not installed",
            where="--index milvus",
            expected=f"the Python package {missing[0].replace('_', '-')}",
            todo="pip install -r requirements-cluster.txt",
        )


def _quieten() -> None:
    """Keep the libraries' own log lines back: what they raise says the same, and some lines hold the address."""
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
