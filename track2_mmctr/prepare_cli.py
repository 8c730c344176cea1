"""`prepare`: other data sets in the challenge's layout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from track2_mmctr.options import DebugOption


def add_prepare(
    app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]], say: Callable[[str], None]
) -> None:
    """Add `prepare` to the command line; `reported` turns errors into one block, `say` prints a line."""
    prepare = typer.Typer(no_args_is_help=True, help="Turn another data set into the challenge's layout.")
    app.add_typer(prepare, name="prepare")

    @prepare.command()
    def movielens(
        source: Annotated[Path, typer.Option("--from", help="Folder with ml-100k/ and, for covers, ml-100k-posters/")],
        out: Annotated[Path, typer.Option("--out", help="Folder to write: a data root for --data")],
        allow_faults: Annotated[int, typer.Option(help="Posters that may fail to decode")] = 0,
        debug: DebugOption = False,
    ) -> None:
        """Turn MovieLens-100K into the challenge's layout, split by time: the real-data benchmark of this track.

        Example: python -m track2_mmctr prepare movielens --from downloads --out data/movielens
        """
        from track2_mmctr.datasets.movielens import prepare_movielens

        with reported(debug):
            made = prepare_movielens(source, out, allow_faults=allow_faults)
            say(f"wrote {made.folder}: " + ", ".join(f"{count:,} {name}" for name, count in made.counts.items()))
            for note in made.notes:
                say(f"note: {note}")
            say(f"next: {made.next_command}")
