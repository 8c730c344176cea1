"""What the command line does: measure, print, save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.suite.compare import compare
from benchmarks.suite.growth import Stage, line_of, render_growth
from benchmarks.suite.journal import Journal, load_run, save_run
from benchmarks.suite.run import Say, describe, machine, run_works
from benchmarks.suite.table import render, rows_of, verdict
from benchmarks.suite.work import Context, Work


def journal_of(context: Context, about: dict[str, object], kind: str) -> Journal:
    """Return the journal of this code, size and data."""
    return Journal(context.folder / "journal.jsonl", kind, about["code"], context.size, context.data, about["cpu"])


def measure_works(works: Sequence[Work], context: Context, out: Path | None, say: Say, *, again: bool = False) -> int:
    """Measure works, print the table, save the run; return the exit code."""
    about = machine()
    say(describe(about))
    found = run_works(works, context, journal_of(context, about, "table"), say, again=again)
    rows = [row for work in works for row in rows_of(work, found[work.name], judged=context.size == "full")]
    say("\n" + render(rows))
    if out is not None:
        every = [one for several in found.values() for one in several]
        save_run(out, "table", about, every, size=context.size, data=str(context.data) if context.data else None)
        say(f"\nwrote {out}")
    line, code = verdict(rows, found)
    say(("" if out else "\n") + line)
    return code


def measure_growth(
    stages: Sequence[Stage], context: Context, out: Path | None, say: Say, *, again: bool = False
) -> int:
    """Measure stages at 1, 4 and 16 times the work, print the table, save the run; return the exit code."""
    about = machine()
    say(describe(about))
    works = {stage.name: stage.work(context) for stage in stages}
    found = run_works(list(works.values()), context, journal_of(context, about, "growth"), say, again=again)
    lines = [line_of(stage, works[stage.name], found[works[stage.name].name]) for stage in stages]
    say("\n" + render_growth(lines))
    if out is not None:
        save_run(out, "growth", about, [one for several in found.values() for one in several], size=context.size)
        say(f"\nwrote {out}")
    return int(any(one.error for several in found.values() for one in several))


def compare_runs(old: Path, new: Path, context: Context) -> str:
    """Return the table of two saved runs of the works."""
    from benchmarks.suite.catalogue import WORKS

    before, after = load_run(old), load_run(new)
    size = Context(after.get("size", context.size), context.folder, context.data)
    return compare([make(size) for make in WORKS.values()], before, after)
