"""`python -m benchmarks`: every work, our rate, the peer's rate of the same run, the ratio, memory, and the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from common import cli

ROOT = Path(__file__).resolve().parents[1]
HELP = """Measure every work beside its peers and print one table; `growth` says how each stage grows.

Each measurement is a process of its own, ours and the peer's in turn; what fails is a row, and the exit code 1. A run
that was stopped goes on where it was. Example: python -m benchmarks --quick --only bm25,trie
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=HELP)

OnlyOption = Annotated[str | None, typer.Option(help="Only these, with commas between them; see --list")]
ListOption = Annotated[bool, typer.Option("--list", help="Print the names and what they measure, and stop")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Small sizes: minutes instead of most of an hour")]
SizeOption = Annotated[str | None, typer.Option(help="full, quick or tiny (tiny only shows that everything runs)")]
DataOption = Annotated[Path | None, typer.Option(help="Data root of real data, where it helps [default: none]")]
OutOption = Annotated[Path | None, typer.Option(help="Also write everything measured as JSON")]
FolderOption = Annotated[Path | None, typer.Option(help="Inputs, logs and journal [default: runs/benchmarks]")]
AgainOption = Annotated[bool, typer.Option("--again", help="Measure anew what an earlier run has finished")]


def say(line: str) -> None:
    """Print one line."""
    typer.echo(line)


def _context(size: str | None, quick: bool, data: Path | None, folder: Path | None) -> Any:
    from benchmarks.suite.work import Context
    from common.errors import ConfigError

    name = size or ("quick" if quick else "full")
    if name not in ("full", "quick", "tiny"):
        raise ConfigError("no such size", where="--size", expected="full, quick or tiny", got=name)
    if data is not None and not data.is_dir():
        raise ConfigError("no such data root", where="--data", got=data)
    place = (folder or ROOT / "runs" / "benchmarks").resolve()
    return Context(name, place / name, None if data is None else data.resolve())


@app.callback(invoke_without_command=True)
def table(
    context: typer.Context,
    only: OnlyOption = None,
    listed: ListOption = False,
    quick: QuickOption = False,
    size: SizeOption = None,
    data: DataOption = None,
    out: OutOption = None,
    folder: FolderOption = None,
    again: AgainOption = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Print two saved runs side by side: --compare OLD.json NEW.json")
    ] = None,
) -> None:
    """Measure every work beside its peers and print one table."""
    if context.invoked_subcommand:
        return
    with cli.reported(False, str):
        from benchmarks.suite.catalogue import WORKS, chosen
        from benchmarks.suite.command import compare_runs, measure_works

        made = _context(size, quick, data, folder)
        works = [WORKS[name](made) for name in chosen(only, list(WORKS))]
        if listed:
            for work in works:
                say(f"{work.name:<12} {work.about}")
            return
        if compare is not None:
            say(compare_runs(*compare, made))
            return
        raise typer.Exit(measure_works(works, made, out, say, again=again))


@app.command()
def growth(
    only: OnlyOption = None,
    listed: ListOption = False,
    quick: QuickOption = False,
    size: SizeOption = None,
    out: OutOption = None,
    folder: FolderOption = None,
    again: AgainOption = False,
) -> None:
    """Measure each main stage at 1, 4 and 16 times the work, and fit the exponents of time and memory."""
    with cli.reported(False, str):
        from benchmarks.suite.catalogue import chosen
        from benchmarks.suite.command import measure_growth
        from benchmarks.suite.stages import STAGES

        names = chosen(only, list(STAGES))
        if listed:
            for name in names:
                say(f"{name:<18} 1, 4 and 16 times {STAGES[name].sizes[0]:,} {STAGES[name].unit}")
            return
        made = _context(size, quick, None, folder)
        raise typer.Exit(measure_growth([STAGES[name] for name in names], made, out, say, again=again))


if __name__ == "__main__":
    cli.main(app, os.environ)
