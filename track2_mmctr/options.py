"""The options that several commands of Track 2 have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data root [default: MIRC_DATA, else data/, else data/sample]")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of packed data, embeddings, checkpoints [default: data/cache]")
]
ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A name in track2_mmctr/configs, or a YAML file")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override one key: a.b=value; repeatable")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The submission [default: submissions/...zip]")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]
TaskOption = Annotated[
    Literal["Task1", "Task2", "Task1&2"] | None, typer.Option("--task", help="Column to read, where there are several")
]
