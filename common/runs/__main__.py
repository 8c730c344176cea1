"""The command line of the runs: `python -m common.runs`, the same as `python -m common.runs list`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from common import cli
from common.errors import DataError
from common.runs.find import HOW_TO_RUN, find_run
from common.runs.records import Run, public_scores, read_run, read_runs

ROOT = Path(__file__).resolve().parents[2]


class ListByDefault(TyperGroup):
    """`list` is what is meant where no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front of options, and where nothing is typed; `ctx`: typer's own class of click's context."""
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ListByDefault,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The runs of both tracks: list, find, tag, show, a page. Without a command: list.",
)
RunsOption = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs [default: runs/]")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]
RunArgument = Annotated[str, typer.Argument(help='Name of a run, its start or end, its folder, or "last"')]
TagsArgument = Annotated[list[str], typer.Argument(help="Tags: letters, digits and _ . + -")]


def typed(text: str) -> str:
    """Return text in which commands can be typed as they stand, with paths under the working directory cut short."""
    for module in ("track1_mdr", "track2_mmctr", "common.runs"):
        text = cli.typed(text, module, os.environ, Path.cwd())
    return text


def say(line: str) -> None:
    """Print one line."""
    typer.echo(typed(line))


@app.command("list")
def show_list(
    track: Annotated[str, typer.Option(help="Only this track: track1, track2")] = "",
    status: Annotated[str, typer.Option(help="Only: finished, failed, interrupted, running, unreadable or gone")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Only runs with this tag; repeatable")] = None,
    config: Annotated[str, typer.Option(help="Only this configuration")] = "",
    since: Annotated[str, typer.Option(help="Only runs from this day or time (UTC): 2026-11-29")] = "",
    search: Annotated[str, typer.Option(help="Only runs with all these words in name, keys, tags or errors")] = "",
    sort: Annotated[
        Literal["started", "score", "time", "memory", "name"], typer.Option(help="Newest, best, quickest ... first")
    ] = "started",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 = all")] = 40,
    best: Annotated[bool, typer.Option("--best", help="Only the best of each track (and data)")] = False,
    best_config: Annotated[
        bool, typer.Option("--best-config", help="Only the best of each configuration and track (and data)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list")] = False,
    runs: RunsOption = None,
    debug: DebugOption = False,
) -> None:
    """List the runs of both tracks, newest first, the best of each track marked.

    Example: python -m common.runs --track track1 --sort score
    """
    from common.runs import select, table

    with cli.reported(debug, typed):
        time = select.since_time(since) if since else None
        filters = select.Filters(track, status, config, tuple(tag or ()), time, tuple(search.split()))
        every = read_runs(runs or ROOT / "runs")
        marked = select.best_runs(every)
        kept = [run for run in every if filters.keep(run)]
        if best or best_config:
            kept = select.best_by_config(kept) if best_config else select.best_runs(kept)
        kept = select.ordered(kept, sort)
        shown = kept[:limit] if limit else kept
        if as_json:
            typer.echo(json.dumps(table.as_json(shown, marked), indent=1, ensure_ascii=False))
        elif not every:
            say(f"there are no runs in {runs or ROOT / 'runs'} yet; next: {HOW_TO_RUN}")
        elif not shown:
            say(f"none of {len(every):,} runs is like that; python -m common.runs lists all")
        else:
            _print(shown, marked, every, len(kept))


def _print(shown: list[Run], best: list[Run], every: list[Run], total: int) -> None:
    from rich.console import Console

    from common.runs import table

    found = table.columns(shown, best, [run.name for run in every])
    console = Console()
    kept = table.fitting(found, console.width if console.is_terminal else None)
    if not console.is_terminal:  # a file or a pipe has no width
        console = Console(width=table.needed(found, kept) + 1)
    console.print(table.render(found, kept, shown))
    for line in table.notes(shown, found, kept, total):
        say(line)
    say(f"next: python -m common.runs show {found['run'][0]}")


@app.command()
def show(run: RunArgument, runs: RunsOption = None, debug: DebugOption = False) -> None:
    """Show one run: keys that differ from the defaults, figures, stages, its submission, what to type next.

    Example: python -m common.runs show last
    """
    from common.runs import show as detail

    with cli.reported(debug, typed):
        every = read_runs(runs or ROOT / "runs")
        found = _one(every, runs or ROOT / "runs", run)
        for label, text in detail.facts(found):
            say(f"{label + ':':<12}{text}")
        say(f"{'submission:':<12}{detail.submission(found, ROOT)}")
        changed, said = detail.settings(found, ROOT)
        say("keys that differ from the defaults:" if changed or not said else f"keys: {said}")
        for line in [*changed, *([said] if changed and said else [])]:
            say(f"  {line}")
        say("figures:" if found.metrics else "figures: none recorded")
        for line in detail.figures(found.metrics):
            say(f"  {line}")
        say("stages:" if detail.stages(found.record) else "stages: none recorded")
        for stage, wall, cpu, peak in detail.stages(found.record):
            say(f"  {stage:<28} {wall:>14} {cpu:>14} of CPU {peak:>10}")
        for command in detail.next_commands(found, every):
            say(f"next: {command}")


def _one(every: list[Run], runs: Path, name: str) -> Run:
    """Return the run that `name` means: one of those read, one of the log alone by its whole name, or a folder."""
    gone = [run for run in every if run.folder is None and run.name == name]
    if gone:
        return gone[0]
    folder = find_run(runs, name)
    same = [run for run in every if run.folder is not None and run.folder.samefile(folder)]
    return same[0] if same else read_run(folder, public_scores([]))


@app.command()
def tag(run: RunArgument, tags: TagsArgument, runs: RunsOption = None, debug: DebugOption = False) -> None:
    """Give a run tags, by which `list --tag` and the page find it.

    Example: python -m common.runs tag last sent-to-kaggle
    """
    _change(run, tags, [], runs, debug)


@app.command()
def untag(run: RunArgument, tags: TagsArgument, runs: RunsOption = None, debug: DebugOption = False) -> None:
    """Take tags from a run.

    Example: python -m common.runs untag last sent-to-kaggle
    """
    _change(run, [], tags, runs, debug)


def _change(run: str, add: list[str], remove: list[str], runs: Path | None, debug: bool) -> None:
    from common.runs.tags import change_tags

    with cli.reported(debug, typed):
        folder = find_run(runs or ROOT / "runs", run)
        say(f"{folder.name}: {' '.join(change_tags(folder, add, remove)) or 'no tags'}")


@app.command()
def page(
    out: Annotated[Path | None, typer.Option("--out", help="[default: runs/index.html]")] = None,
    runs: RunsOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the list as one HTML file that needs no network: sort, filter, search, scores as runs went by.

    Example: python -m common.runs page --out runs/index.html
    """
    from common.pages.render import write_page
    from common.runs.page import runs_page

    with cli.reported(debug, typed):
        folder = runs or ROOT / "runs"
        target = out or folder / "index.html"
        if not folder.is_dir():
            raise DataError("there is no folder of runs", where=folder, todo=f"make a run: {HOW_TO_RUN}")
        every = read_runs(folder)
        size = write_page(target, runs_page(every, folder, target))
        say(f"wrote {target}: {len(every):,} runs, {size / 1e6:.1f} MB; open it in a browser")


def main() -> None:
    """Run the command line."""
    cli.main(app, os.environ)


if __name__ == "__main__":
    main()
