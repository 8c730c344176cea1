"""From the options of a command to the engine that its work runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from common.engine.base import Engine
from common.engine.local import LocalEngine
from common.errors import ConfigError

EngineName = Literal["local", "ray"]
EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="local = this machine; ray = workers of a Ray cluster, by default here")
]
AddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a running Ray cluster [default: one started here]")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes, or tasks at once on Ray [default: one per core]")
]


@contextmanager
def open_engine(
    name: EngineName, address: str | None, workers: int | None, *, processes: bool = True
) -> Iterator[Engine]:
    """Yield the engine that a command's options ask for, and end it with the block.

    Parameters
    ----------
    processes
        Whether the command has worker processes on one machine, too, whose number `workers` is.

    Raises
    ------
    ConfigError
        An option of one engine is given with the other; Ray is not installed, or no cluster answers.
    """
    if name == "local":
        if address is not None:
            raise ConfigError("an address is for Ray", where="--ray-address", got="--engine local", todo=_TODO)
        if workers is not None and not processes:
            raise ConfigError("without Ray this runs in one process", where="--workers", got=workers, todo=_TODO)
        yield LocalEngine(workers or 0)
        return
    from common.engine.ray_pool import RayEngine

    with RayEngine(address, workers or 0) as engine:
        yield engine


_TODO = "add --engine ray, or leave the option out"
