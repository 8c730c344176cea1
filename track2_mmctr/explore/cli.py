"""`explore`: what the data is, as a page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from track2_mmctr.options import CacheOption, DataOption, DebugOption


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
        out: Annotated[Path | None, typer.Option("--out", help="The page [default: runs/explore-track2.html]")] = None,
        samples: Annotated[int, typer.Option(min=0, help="Rows, and items, to show")] = 60,
        seed: Annotated[int, typer.Option(help="Which rows and items to show")] = 0,
        cache: CacheOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Look at the data before any model: counts, cold items, missing parts, copies, leaks, samples. Exit code 0.

        Example: python -m track2_mmctr explore --data data/sample
        """
        from common.explore.command import finish
        from track2_mmctr.explore.page import explore as look

        with reported(debug):
            root, target = data_root(data), out or home / "runs" / "explore-track2.html"
            explored = look(root, cache_folder(cache), samples=samples, seed=seed)
            following = f"python -m track2_mmctr run --config baseline --data {root}"
            finish(explored.findings, explored.page, target, following, say)
