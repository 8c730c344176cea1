"""`report` and `compare`: pages of one run and of several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from track2_mmctr.options import CacheOption, DataOption, DebugOption, TaskOption


@dataclass(frozen=True)
class Surroundings:
    """What the commands take from `__main__`, which alone knows the environment and the working folder."""

    data_root: Callable[[Path | None], Path]
    cache_folder: Callable[[Path | None], Path]
    runs: Callable[[], Path]
    reported: Callable[[bool], AbstractContextManager[None]]
    say: Callable[[str], None]


def add_report(app: typer.Typer, around: Surroundings) -> None:
    """Add `report` and `compare` to the command line."""

    @app.command()
    def report(
        run: Annotated[str, typer.Argument(help='A run: its folder, its name in runs/, or "last"')] = "last",
        data: DataOption = None,
        out: Annotated[Path | None, typer.Option("--out", help="The page [default: RUN/report.html]")] = None,
        method: Annotated[
            Literal["pca", "tsne"], typer.Option("--map", help="How the items' embedding is drawn")
        ] = "pca",
        cache: CacheOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Write a run's page: scores, curves, groups, training, the items' map and neighbours, the rows most wrong.

        One HTML file that needs no network. Nothing is scored but by `score`; what is missing is said in its place.
        Without --data: the data root that the run noted down, where it is still there.

        Example: python -m track2_mmctr report last --data data/sample
        """
        from track2_mmctr.app import report_to
        from track2_mmctr.report.files import find_run, recorded_root

        with around.reported(debug):
            folder = find_run(run, around.runs())
            root = around.data_root(data or recorded_root(folder))
            target = out or folder / "report.html"
            report_to(folder, root, target, around.cache_folder(cache), around.say, method=method)

    @app.command()
    def compare(
        runs: Annotated[list[str], typer.Argument(help="Runs or submission zips, the first against each other one")],
        data: DataOption = None,
        page: Annotated[Path | None, typer.Option("--page", help="Write the comparison as a page, FILE.html")] = None,
        task: TaskOption = None,
        cache: CacheOption = None,
        debug: DebugOption = False,
    ) -> None:
        """Compare runs or submissions, paired by row: difference in AUC with its error, by parts; --page: to look at.

        Example: python -m track2_mmctr compare A.zip B.zip --data data/sample
        """
        from track2_mmctr.app import compare_to
        from track2_mmctr.report.files import find_run, recorded_root

        with around.reported(debug):
            paths = [find_run(name, around.runs()) for name in runs]
            root = around.data_root(data or recorded_root(paths[0]))
            compare_to(paths, root, page, task, around.cache_folder(cache), around.say)
