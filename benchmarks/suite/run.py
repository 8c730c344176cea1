"""Measure works: their systems in turn, again and again, each in a process of its own; what fails is a row."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite.alone import ROOT, MeasureError, run_alone
from benchmarks.suite.journal import Journal, code_version
from benchmarks.suite.work import Context, Found, System, Work
from common.experiment import cores, cpu_name, git_state, versions

Say = Callable[[str], None]
PEERS = (
    "fuxictr", "rank-bm25", "pypdf", "pdfplumber", "vector-quantize-pytorch", "ray", "pymilvus", "milvus-lite",
    "openvino",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, versions, commit and code version."""
    from importlib import metadata

    found = versions()
    for package in PEERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_gb": round(memory / 1e9, 1),
        "versions": {name: version for name, version in found.items() if version},
        "git": git_state(ROOT),
        "code": code_version(ROOT),
    }


def describe(about: Mapping[str, Any]) -> str:
    """Return the machine in two lines."""
    git = about["git"]
    commit = "no git" if git is None else git["commit"][:10] + (" with changes" if git["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    hardware = f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB"
    return f"{hardware}; commit {commit}, code {about['code']}\n{packages}"


def missing(system: System) -> str | None:
    """Return why a system cannot run here, None if it can."""
    if system.lacks:
        return system.lacks
    absent = [name for name in system.needs if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def measure(work: Work, folder: Path, say: Say = lambda _: None) -> list[Found]:
    """Measure every system of a work in turn, `repeats` times; the first failure of a system ends it."""
    found = [Found(work.name, system.name, skipped=missing(system)) for system in work.systems]
    if all(one.skipped for one in found):
        return found
    if work.prepare is not None:
        try:
            _alone(work, work.prepare, folder)
        except MeasureError as error:
            for one in found:
                one.error = None if one.skipped else f"its inputs could not be made: {error}"
            return found
    for turn in range(work.repeats):
        for system, one in zip(work.systems, found, strict=True):
            if one.error or one.skipped or turn >= (system.repeats or work.repeats):
                continue
            try:
                one.samples.append(_alone(work, system, folder))
            except MeasureError as error:
                one.error = str(error)
                say(f"{work.name}: {system.label} failed: {one.error}")
    return found


def _alone(work: Work, system: System, folder: Path) -> dict[str, Any]:
    log = folder / "logs" / f"{work.name}-{system.name}.txt"
    found = run_alone(system.call, system.arguments, timeout=work.timeout, tree=work.tree, log=log)
    return found | ({"n": system.arguments["n"]} if "n" in system.arguments else {})


def run_works(
    works: Sequence[Work], context: Context, journal: Journal, say: Say, *, again: bool = False
) -> dict[str, list[Found]]:
    """Measure works that the journal does not have, saying after each one how long the rest will take."""
    done = journal.finished(again=again)
    kept = [work.name for work in works if work.name in done]
    if kept:
        say(f"measured before, kept: {', '.join(kept)} (--again measures anew)")
    todo = [work for work in works if work.name not in done]
    past = journal.past()
    started = time.perf_counter()
    for place, work in enumerate(todo):
        began = time.perf_counter()
        say(f"[{place + 1}/{len(todo)}] {work.name}: {work.about}")
        done[work.name] = measure(work, context.folder, say)
        now = time.perf_counter()
        past[work.name] = now - began
        journal.add(work.name, done[work.name], round(now - began, 1))
        say(f"    {now - began:.0f} s; {eta(todo[place + 1 :], todo[: place + 1], past, now - started)}")
    return {work.name: done[work.name] for work in works}


def weight(work: Work) -> float:
    """Return roughly how many measurements a work takes."""
    return float(sum(min(system.repeats or work.repeats, work.repeats) for system in work.systems)) or 1.0


def eta(left: Sequence[Work], done: Sequence[Work], past: Mapping[str, float], spent: float) -> str:
    """Return how long the works that are left will take: as the last time, else at the pace of those that are done."""
    if not left:
        return f"all done in {clock_time(spent)}"
    pace = spent / max(sum(map(weight, done)), 1.0)
    rest = sum(past.get(work.name, weight(work) * pace) for work in left)
    return f"{clock_time(spent)} so far, about {clock_time(rest)} left"


def clock_time(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock_time(75.4)
    '1:15'
    """
    minutes, rest = divmod(round(seconds) if math.isfinite(seconds) else 0, 60)
    return f"{minutes}:{rest:02d}"
