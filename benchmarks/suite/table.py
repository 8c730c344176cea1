"""The table: each work, our rate, the peer's of the same run, the ratio, memory, and whether a target is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.suite.targets import targets_of
from benchmarks.suite.work import Figure, Found, System, Work

HEADER = ("work", "what", "ours", "", "peer", "", "x", "x CPU", "GB", "peer GB", "facts", "target", "met")
LEFT = {"work", "what", "ours", "peer", "facts", "target", "met"}


@dataclass(frozen=True)
class Row:
    """One line: a figure of one of our systems beside one peer's (or none's)."""

    work: str
    figure: Figure
    ours: str
    value: float
    peer: str = ""
    peer_value: float = math.nan
    times: float = math.nan
    times_cpu: float = math.nan
    peak: float = math.nan
    peer_peak: float = math.nan
    facts: str = ""
    targets: list[tuple[str, bool | None]] = field(default_factory=list)
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether a target was measured and not met."""
        return any(met is False for _, met in self.targets)


def rows_of(work: Work, found: Sequence[Found], *, judged: bool) -> list[Row]:
    """Return the lines of a work; `judged` = with its targets."""
    by_name = {one.system: one for one in found}
    peers = {system.name: system for system in work.systems if system.peer}
    rows: list[Row] = []
    for system in work.systems:
        if system.peer:
            continue
        for figure in work.figures:
            for name in system.against or (None,):
                peer = peers[name] if name else None
                rows += _row(work, figure, system, by_name.get(system.name), peer, by_name.get(name or ""), judged)
    return rows


def _row(
    work: Work,
    figure: Figure,
    system: System,
    ours: Found | None,
    peer: System | None,
    other: Found | None,
    judged: bool,
) -> list[Row]:
    if ours is None:
        return []
    troubles = [_trouble(system.label, ours), _trouble(peer.label, other) if peer and other else ""]
    note = "; ".join(filter(None, troubles))
    if not note and math.isnan(ours.best(figure)):
        return []  # a figure that this system does not have
    value = ours.best(figure)
    theirs = other.best(figure) if other else math.nan
    on_cpu = Figure(figure.name, figure.what, figure.unit, figure.per, "cpu", figure.scale)
    targets = targets_of(work.name, system.name, figure.name, peer.name if peer else None) if judged else []
    return [
        Row(
            work.name,
            figure,
            system.label,
            value,
            peer.label if peer else "",
            theirs,
            figure.times(value, theirs),
            on_cpu.times(ours.best(on_cpu), other.best(on_cpu)) if other else math.nan,
            ours.peak,
            other.peak if other else math.nan,
            _facts(ours, other),
            [(one.text(), one.met(figure, ours, other)) for one in targets],
            note,
        )
    ]


def _trouble(label: str, found: Found) -> str:
    if found.error:
        return f"{label} FAILED: {found.error}"
    return f"{label} skipped: {found.skipped}" if found.skipped else ""


def _facts(ours: Found, peer: Found | None) -> str:
    """Return "recall 52.8 (52.4)": ours, and the peer's in brackets."""
    names = dict.fromkeys(name for sample in ours.samples for name in sample["facts"])
    parts: list[str] = []
    for name in names:
        theirs = peer.fact(name) if peer else math.nan
        parts.append(f"{name} {number(ours.fact(name))}" + ("" if math.isnan(theirs) else f" ({number(theirs)})"))
    return ", ".join(parts)


def number(value: float) -> str:
    """Return a number with three figures or so, "" for nan.

    >>> number(12345.6), number(3.14159), number(0.01234), number(float("nan"))
    ('12,346', '3.14', '0.0123', '')
    """
    if math.isnan(value):
        return ""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """Return a line's cells."""
    gigabytes = [number(value / 1e9) for value in (row.peak, row.peer_peak)]
    verdicts = {True: "yes", False: "NO", None: "?"}
    return [
        row.work,
        f"{row.figure.what}, {row.figure.unit}",
        row.ours,
        number(row.value),
        row.peer,
        number(row.peer_value),
        number(row.times),
        number(row.times_cpu),
        *gigabytes,
        row.note or row.facts,
        "; ".join(text for text, _ in row.targets),
        "; ".join(verdicts[met] for _, met in row.targets),
    ]


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: set[str]) -> str:
    """Return a Markdown table whose columns stand under each other; a column without any entry is left out."""
    kept = [i for i in range(len(header)) if any(line[i] for line in lines)] or list(range(len(header)))
    table = [[line[i] for i in kept] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(kept))]
    flush = [header[i] in left and bool(header[i]) for i in kept]

    def one(line: Sequence[str]) -> str:
        shown = [
            text.ljust(width) if at_left else text.rjust(width)
            for text, width, at_left in zip(line, widths, flush, strict=True)
        ]
        return "| " + " | ".join(shown) + " |"

    rule = "|" + "|".join(
        "-" * (width + 1) + ("-" if at_left else ":") for width, at_left in zip(widths, flush, strict=True)
    )
    return "\n".join([one(table[0]), rule + "|", *map(one, table[1:])])


def render(rows: Sequence[Row]) -> str:
    """Return the table, and below it what failed or was left out."""
    shown = [cells(row) for row in rows]
    for line in shown:
        line[10] = line[10] if len(line[10]) <= 90 else line[10][:87] + "..."
    notes = dict.fromkeys(f"{row.work}: {row.note}" for row in rows if row.note)
    return aligned(HEADER, shown, LEFT) + "".join(f"\n{note}" for note in notes)


def verdict(rows: Sequence[Row], found: Mapping[str, Sequence[Found]]) -> tuple[str, int]:
    """Return a last line and the exit code: 1 where a work failed or a target is missed."""
    failed = [one for several in found.values() for one in several if one.error]
    judged = [met for row in rows for _, met in row.targets]
    line = f"{sum(map(len, found.values()))} systems measured, {len(failed)} failed"
    if judged:
        line += f"; targets: {judged.count(True)} met, {judged.count(False)} missed, {judged.count(None)} not measured"
    return line, int(bool(failed) or False in judged)
