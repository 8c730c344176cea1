"""What a run took, what failed in it, and how it was configured: its own record, put into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.config import flatten
from common.pages.blocks import Block, Cell, Column, Fact, Facts, Gap, Table
from common.pages.charts import Bar, bars
from track1_mdr.report.collect import RunFiles

MOST_FAULTS = 50


def run_blocks(run: RunFiles) -> list[Block]:
    """Return time by stage, memory, failed items, and the configuration's keys that are not the defaults."""
    return [*time_blocks(run), *fault_blocks(run), config_table(run)]


def seconds_told(seconds: float) -> str:
    """Return a duration as one reads it.

    >>> seconds_told(7.2), seconds_told(200), seconds_told(7300)
    ('7.2 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def gigabytes(size: float | None) -> str:
    """Return bytes as GB, a dash where they are not known."""
    return "–" if size is None else f"{size / 1e9:.2f} GB"


def time_blocks(run: RunFiles) -> list[Block]:
    """Return the run's time and memory, in all and by stage."""
    record = run.record
    stages: Sequence[Mapping[str, Any]] = [one for one in record.get("stages") or () if "wall_seconds" in one]
    facts = [
        Fact("Time", seconds_told(record.get("seconds") or 0.0)),
        Fact("Memory at most", gigabytes(record.get("peak_bytes"))),
        Fact("Failed items", f"{record.get('faults', 0):,}", tone="bad" if record.get("faults") else ""),
    ]
    if not stages:
        return [Facts(facts), Gap("The run recorded no stages.")]
    rows: list[list[Cell]] = [
        [str(one["stage"]), one["wall_seconds"], one.get("cpu_seconds"), (one.get("peak_bytes") or 0) / 1e9]
        for one in stages
    ]
    longest = max(stages, key=lambda one: one["wall_seconds"])
    chart = bars(
        "Time by stage",
        [Bar(str(one["stage"]), one["wall_seconds"]) for one in stages],
        text=f"{longest['stage']} took longest: {seconds_told(longest['wall_seconds'])}.",
        axis="seconds",
        per="stage",
    )
    columns = [
        Column("stage"),
        Column("seconds", ".1f"),
        Column("of processors", ".1f", "seconds of all cores together"),
        Column("GB", ".2f", "largest resident memory by the end of the stage"),
    ]
    return [Facts(facts), chart, Table(columns, rows, "Stages, in the order of the run")]


def fault_blocks(run: RunFiles) -> list[Block]:
    """Return the items that failed; nothing where none did."""
    if not run.faults:
        return []
    rows: list[list[Cell]] = [[one.get("stage", ""), one.get("item", ""), one.get("error", "")] for one in run.faults]
    shown = f", the first {MOST_FAULTS} of {len(rows):,}" if len(rows) > MOST_FAULTS else ""
    columns = [Column("stage"), Column("item"), Column("error")]
    return [Table(columns, rows[:MOST_FAULTS], f"Items that failed and were left out{shown}")]


def settings(run: RunFiles, every: bool = False) -> dict[str, str]:
    """Return the configuration's keys and values; those that are not defaults, unless `every`."""
    if run.config is None or every:
        values = run.config.model_dump(mode="json") if run.config is not None else run.values
    else:
        values = run.config.model_dump(mode="json", exclude_defaults=True)
    return {key: _told(value) for key, value in flatten(values).items() if key != "about"}


def _told(value: object) -> str:
    if value is None:
        return "off"
    return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)


def config_table(run: RunFiles) -> Block:
    """Return the keys that differ from the defaults."""
    rows: list[list[Cell]] = [[key, value] for key, value in settings(run).items()]
    if not rows:
        return Gap("The configuration is not known.")
    what = "Configuration: what is not default" if run.config is not None else "Configuration, as it stands in the file"
    return Table([Column("key"), Column("value")], rows, what)


def about(run: RunFiles, root: str) -> list[tuple[str, str]]:
    """Return what a page tells of a run at its end: when, where and with what it was made."""
    record, machine = run.record, run.record.get("machine") or {}
    git = record.get("git") or {}
    commit = str(git.get("commit") or "")[:12] + (", with changes" if git.get("dirty") else "")
    sent = record.get("submission") or {}
    told = [
        ("run", run.name),
        ("configuration", str(record.get("config", ""))),
        ("started", str(record.get("started", ""))),
        ("status", str(record.get("status", ""))),
        ("seed", str(record.get("seed", ""))),
        ("data", root),
        ("submission, SHA-256", str(sent.get("sha256") or "")),
        ("commit", commit if git else ""),
        ("machine", ", ".join(str(machine[k]) for k in ("cpu", "cores", "gpu", "platform") if machine.get(k))),
        ("device", str(machine.get("device") or "")),
    ]
    versions = [(name, str(value)) for name, value in (record.get("versions") or {}).items() if value]
    return [(label, value) for label, value in told if value] + [
        ("versions", ", ".join(f"{n} {v}" for n, v in versions))
    ]
