"""Findings: what was looked at, how much it matters, the figures, and what they mean for a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from common.pages.blocks import Block, Card, Choice, Column, Fact, Facts, Gallery, Gap, Section, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Weight = Literal["problem", "note", "ok"]
"""problem: mend it, or a run stops or a score misleads; note: a model should know it; ok: nothing was found."""
WEIGHTS: tuple[Weight, ...] = ("problem", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name
        What was looked at, as "pages without words".
    weight
        How much it matters.
    found
        The figures.
    means
        What they mean for a model, and what to do; "" where there is nothing to say.
    about
        Which part of the data, as "MMDocIR".
    """

    name: str
    weight: Weight
    found: str
    means: str = ""
    about: str = ""


def about(part: str, findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings as those of one part of the data."""
    return [replace(finding, about=part) for finding in findings]


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, problems first, those of one weight as they were made."""
    return sorted(findings, key=lambda finding: WEIGHTS.index(finding.weight))


def counted(findings: Sequence[Finding]) -> str:
    """Return "2 problems, 1 note, 7 checks without a finding"."""
    problems, notes, fine = (sum(f.weight == weight for f in findings) for weight in WEIGHTS)
    return (
        f"{problems} problem{'' if problems == 1 else 's'}, {notes} note{'' if notes == 1 else 's'}, "
        f"{fine} check{'' if fine == 1 else 's'} without a finding"
    )


def findings_section(findings: Sequence[Finding]) -> Section:
    """Return the section that a page of exploration begins with."""
    if not findings:
        return Section("findings", "Findings", [Gap("Nothing could be looked at: no part of the data is there.")])
    ordered = in_order(findings)
    problems, notes, fine = (sum(f.weight == weight for f in findings) for weight in WEIGHTS)
    facts = Facts(
        [
            Fact("Problems", str(problems), "to mend before training", "bad" if problems else "good"),
            Fact("Notes", str(notes), "for a model to know"),
            Fact("Without a finding", str(fine), "checks that found nothing"),
        ]
    )
    blocks: list[Block] = [facts]
    cards = [_card(finding) for finding in ordered if finding.weight != "ok"]
    if cards:
        blocks.append(Gallery(cards, "findings", [Choice("weight", "Weight"), Choice("part", "Part")]))
    found = [(_named(finding), finding.found) for finding in ordered if finding.weight == "ok"]
    if found:
        blocks.append(Table([Column("looked at"), Column("found")], found, "Checks without a finding"))
    intro = "Problems: mend them, or a run stops or a score misleads. Notes: a model should know them."
    return Section("findings", "Findings", blocks, intro)


def _named(finding: Finding) -> str:
    return f"{finding.about}: {finding.name}" if finding.about else finding.name


def _card(finding: Finding) -> Card:
    facts = [
        *([("part", finding.about)] if finding.about else []),
        ("found", finding.found),
        *([("it means", finding.means)] if finding.means else []),
    ]
    facets = {"weight": [finding.weight], "part": [finding.about] if finding.about else []}
    return Card([(finding.weight, finding.weight == "problem"), (f": {finding.name}", False)], facts, (), facets)


def render(findings: Sequence[Finding]) -> RichTable:
    """Return the problems and notes as a table of the terminal; the page has the checks that found nothing too."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    marks = {"problem": "[red]problem[/]", "note": "[yellow]note[/]"}
    table = RichTable("looked at", "")
    for title in ("found", "what it means"):
        table.add_column(title, overflow="fold")
    for finding in in_order(findings):
        if finding.weight != "ok":
            table.add_row(escape(_named(finding)), marks[finding.weight], escape(finding.found), escape(finding.means))
    return table
