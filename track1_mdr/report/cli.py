"""The verbs `report` and `compare`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from common import cli

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Data root [default: the run's own, else as for other verbs]")
]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Where the run kept prepared PDFs")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]
Folder = Callable[[Path | None], Path]


def add_report(
    app: typer.Typer,
    home: Callable[[], Path],
    reported: Callable[[bool], AbstractContextManager[None]],
    say: Callable[[str], None],
    data_root: Folder,
    cache_folder: Folder,
) -> None:
    """Add `report` and `compare` to the command line.

    Parameters
    ----------
    home
        Returns the project's folder, under which runs/ is.
    reported, say
        Turns errors into one block; prints a line.
    data_root, cache_folder
        Return the folders of `--data` and `--cache`, or the defaults.
    """

    @app.command()
    def report(
        run: Annotated[str, typer.Argument(help="A run's folder, its name in runs/, or last")] = "last",
        data: DataOption = None,
        out: Annotated[Path | None, typer.Option("--out", help="The page [default: report.html in the run]")] = None,
        cache: CacheOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Write a page about a run: scores, curves, routes, every question with its pages, time and memory.

        Example: python -m track1_mdr report last --data data/sample
        """
        from track1_mdr.report.collect import find_run
        from track1_mdr.report.page import Places, write_report

        with reported(debug):
            folder = find_run(run, home() / "runs")
            page = out or folder / "report.html"
            root = data_root(data) if data is not None else None
            size = write_report(folder, Places(root, lambda: data_root(None), cache_folder(cache)), page, say)
            say(f"wrote {page}: {size / 1e6:.1f} MB, open it in a browser")
            say(f"next: python -m track1_mdr compare {folder} OTHER --page compare.html")

    @app.command()
    def compare(
        runs: Annotated[list[str], typer.Argument(help="Submissions or runs: A B [C ...]; the others against A")],
        data: DataOption = None,
        page: Annotated[Path | None, typer.Option("--page", help="Also write a page: FILE.html")] = None,
        cache: CacheOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Compare submissions or runs with the first: paired bootstrap over documents, wins and losses, by domain.

        Example: python -m track1_mdr compare A.csv B.csv --data data/sample --page compare.html
        """
        from track1_mdr.report.compare_page import compare_all
        from track1_mdr.report.page import Places

        with reported(debug):
            root = data_root(data) if data is not None else None
            places = Places(root, lambda: data_root(None), cache_folder(cache))
            size = compare_all(runs, places, home() / "runs", page, say, cli.print_rich)
            if page is not None:
                say(f"wrote {page}: {size / 1e6:.1f} MB, open it in a browser")
