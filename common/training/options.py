"""The options of commands that train in several processes."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

TrainEngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="local: this process, or those of torchrun; ray: --workers processes of a cluster"),
]
TrainWorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="With --engine ray: processes that train together, each takes its share")
]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a running Ray cluster [default: one on this machine]")
]
