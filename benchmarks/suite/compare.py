"""`python -m benchmarks --compare OLD.json NEW.json`: what changed between two saved runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.suite.table import aligned, number
from benchmarks.suite.work import Figure, Found, Work

HEADER = ("work", "system", "what", "before", "after", "x", "GB before", "GB after", "facts before", "facts after")


def compare(works: Sequence[Work], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return a table of all figures that both runs have; x above 1 means that it got faster."""
    lines: list[tuple[str, ...]] = []
    before, after = ({(f.work, f.system): f for f in run["found"]} for run in (old, new))
    for work in works:
        for system in work.systems:
            was, now = before.get((work.name, system.name)), after.get((work.name, system.name))
            if was is None or now is None:
                continue
            lines += [line for figure in work.figures if (line := _line(work, system.label, figure, was, now))]
    head = [f"before: {_about(old)}", f"after:  {_about(new)}"]
    if old["machine"]["cpu"] != new["machine"]["cpu"] or old["machine"]["cores"] != new["machine"]["cores"]:
        head.append("NOT the same machine: the times cannot be compared")
    if old.get("size") != new.get("size"):
        head.append("NOT the same sizes: only rates can be compared, and those with care")
    return "\n".join([*head, "", aligned(HEADER, lines, {"work", "system", "what", "facts before", "facts after"})])


def _about(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    commit = (machine.get("git") or {}).get("commit") or "no git"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, commit {commit[:10]}, code {machine['code']}, {run.get('size')}"
    )


def _line(work: Work, label: str, figure: Figure, old: Found, new: Found) -> tuple[str, ...] | None:
    values = old.best(figure), new.best(figure)
    if any(map(math.isnan, values)):
        return None
    return (
        work.name,
        label,
        f"{figure.what}, {figure.unit}",
        number(values[0]),
        number(values[1]),
        number(figure.times(values[1], values[0])),
        number(old.peak / 1e9),
        number(new.peak / 1e9),
        *(", ".join(f"{k} {number(one.fact(k))}" for k in _facts(one)) for one in (old, new)),
    )


def _facts(found: Found) -> list[str]:
    return list(dict.fromkeys(name for sample in found.samples for name in sample["facts"]))
