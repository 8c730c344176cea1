"""`explore`: what the data is, as a page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data root [default: MIRC_DATA, else data/, else data/sample]")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of finished OCR and embeddings [default: data/cache]")
]


def add_explore(
    app: typer.Typer,
    home: Path,
    reported: Callable[[bool], AbstractContextManager[None]],
    say: Callable[[str], None],
    data_root: Callable[[Path | None], Path],
    cache_folder: Callable[[Path | None], Path],
) -> None:
    """Add `explore` to the command line; `home` is the project, the rest are the command line's own functions."""

    @app.command()
    def explore(
        data: DataOption = None,
        out: Annotated[Path | None, typer.Option("--out", help="The page [default: runs/explore-track1.html]")] = None,
        ocr: Annotated[bool, typer.Option("--ocr", help="Read PDF pages without words by OCR, as a run does")] = False,
        samples: Annotated[int, typer.Option(min=0, help="Questions of each task to show")] = 60,
        seed: Annotated[int, typer.Option(help="Which questions to show")] = 0,
        cache: CacheOption = None,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")] = False,
    ) -> None:
        """Look at the data before any model: counts, lengths, missing parts, copies, leaks, samples. Exit code 0.

        Example: python -m track1_mdr explore --data data/sample
        """
        from common.explore.command import finish
        from track1_mdr.explore.page import explore as look

        with reported(debug):
            root, target = data_root(data), out or home / "runs" / "explore-track1.html"
            explored = look(root, cache_folder(cache), ocr=ocr, samples=samples, seed=seed)
            following = f"python -m track1_mdr run --config lexical --data {root}"
            finish(explored.findings, explored.page, target, following, say)
