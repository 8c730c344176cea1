"""The `download` command, which both tracks' command lines have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common import cli

if TYPE_CHECKING:
    from common.download.parts import Part

Typed = Callable[[str], str]


@dataclass(frozen=True)
class Track:
    """What a track can download, and its check: (data root, cache) to lines that sum up what is there."""

    parts: tuple[Part, ...]
    check: Callable[[Path, Path], list[str]]


def target_root(given: Path | None, environ: Mapping[str, str], home: Path) -> Path:
    """Return the folder to download into: `given`, else MIRC_DATA, else `home`/data; it need not exist."""
    return (given or Path(environ.get("MIRC_DATA") or home / "data")).expanduser().resolve()


def add_command(
    app: typer.Typer, module: str, home: Path, environ: Mapping[str, str], typed: Typed, load: Callable[[], Track]
) -> None:
    """Add `download` to a track's command line.

    Parameters
    ----------
    app, module
        The command line, and the package that is run for it.
    home, environ
        The project's folder, and the environment variables.
    typed
        Makes text ready to be typed as it stands.
    load
        Returns the track; called late, so that other commands do not load the network libraries.
    """

    def download(
        only: Annotated[
            str | None, typer.Option("--only", help="Parts or groups, with commas between [default: what runs need]")
        ] = None,
        source: Annotated[
            Literal["kaggle", "hub", "pages", "mirror"] | None,
            typer.Option(help="Take this source only [default: each that a part names, but mirror]"),
        ] = None,
        data: Annotated[
            Path | None, typer.Option("--data", help="Folder to fill [default: MIRC_DATA, else data/]")
        ] = None,
        cache: Annotated[
            Path | None, typer.Option("--cache", help="Folder of checked data [default: data/cache]")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan with its sizes, and stop")] = False,
        again: Annotated[bool, typer.Option("--again", help="Get again what an earlier download brought")] = False,
        verify: Annotated[bool, typer.Option("--verify", help="Hash all files of unpacked folders too")] = False,
        keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep archives once unpacked")] = False,
        accept_changes: Annotated[
            bool, typer.Option("--accept-changes", help="Take a file that its source has changed since it first came")
        ] = False,
        allow_case_clashes: Annotated[
            bool, typer.Option("--allow-case-clashes", help="Take names that differ in case alone")
        ] = False,
        tries: Annotated[int, typer.Option(min=1, help="Failures in a row before a source is given up")] = 6,
        timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the next byte")] = 60.0,
        pages: Annotated[
            str | None, typer.Option("--pages", help="Address of a copy of the web pages, with / at its end")
        ] = None,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")] = False,
    ) -> None:
        from common.download.command import Options, download, make_setup, moved_pages, parts_table
        from common.download.fetcher import Choices
        from common.download.net import Net

        def say(line: str) -> None:
            typer.echo(typed(line))

        with cli.reported(debug, typed):
            root, kept = target_root(data, environ, home), cli.cache_folder(cache, environ, home / "data")
            track = load()
            if only == "list":
                for line in parts_table(track.parts):
                    say(line)
                return
            net = Net(connect=min(timeout, 15.0), read=timeout, tries=tries, slow_after=timeout)
            setup = make_setup(environ, Path.home(), net, say)
            choices = Choices(keep_archives, accept_changes, allow_case_clashes)
            options = Options(only, source, dry_run, verify, again, choices)
            download(moved_pages(track.parts, pages), root, options, setup, lambda place: track.check(place, kept))

    download.__doc__ = (
        "Get the challenge's data: resumes, checks, unpacks. Kaggle first where credentials are, then the hub, then "
        "web pages.\n\n"
        "Parts: --only list. What is here is left alone, and checked against the SHA-256 it came with.\n\n"
        f"Example: python -m {module} download --dry-run"
    )
    app.command("download")(download)
