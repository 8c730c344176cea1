"""From settings to an index: which engine, where it runs, and what kind of index it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from common.errors import ConfigError

if TYPE_CHECKING:  # the command line's --help loads this module, and no numpy
    from collections.abc import Callable

    from common.index.base import Kind, VectorIndex

Engine = Literal["faiss", "milvus"]


@dataclass(frozen=True)
class IndexSettings:
    """Which engine searches vectors.

    Attributes
    ----------
    engine
        "faiss", in this process; "milvus", in this process (milvus-lite) or on a server.
    uri
        Address of a Milvus server, http://HOST:PORT; None runs milvus-lite.
    token
        "user:password" or an API key of the server; never shown.
    """

    engine: Engine = "faiss"
    uri: str | None = None
    token: str = field(default="", repr=False)

    @classmethod
    def of(cls, engine: str, uri: str | None, token: str) -> IndexSettings:
        """Return the settings of a command line.

        Raises
        ------
        ConfigError
            An unknown engine, or an address for one that has none.
        """
        if engine not in get_args(Engine):
            raise ConfigError("no such engine", where="--index", expected=" or ".join(get_args(Engine)), got=engine)
        if uri is not None and engine != "milvus":
            raise ConfigError("an address is for Milvus", where="--uri", todo="add --index milvus")
        made: Any = engine
        return cls(made, uri, token)


def check_engine(settings: IndexSettings) -> None:
    """Raise what `make_index` would raise, before there is work to be lost."""
    if settings.engine == "milvus":
        from common.index.milvus_server import Server, installed

        if settings.uri is None:
            installed("pymilvus", "milvus_lite")
        else:
            Server(settings.uri, settings.token).close()


def make_index(
    settings: IndexSettings,
    dim: int,
    kind: Kind,
    *,
    work: Path,
    seed: int = 7,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> VectorIndex:
    """Return an empty index over float32 [N, `dim`] vectors.

    Parameters
    ----------
    kind
        As `choose_kind` says. milvus-lite has no product codes: for "ivfpq" it takes one byte a value, "ivfsq8".
    work
        Folder for the databases of milvus-lite; nothing stays in it when the index is closed.
    seed, threads
        Of FAISS; see `FaissIndex`.
    say
        Takes lines about what is found of an earlier run.

    Raises
    ------
    ConfigError
        The client of Milvus is not installed, nobody answers at the address, or the token is refused.
    """
    if settings.engine == "faiss":
        from common.index.faiss_index import FaissIndex

        return FaissIndex(dim, kind, seed, threads)
    from common.index.milvus_index import MilvusIndex

    if kind == "ivfpq" and settings.uri is None:
        kind = "ivfsq8"
    return MilvusIndex(dim, kind, work=work, uri=settings.uri, token=settings.token, say=say)
