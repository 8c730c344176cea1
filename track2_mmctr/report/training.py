"""How a run was trained and what it took: learning curves, stages, memory, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.pages.blocks import Block, Column, Fact, Facts, Gap, Section, Table
from common.pages.charts import Point, lines
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.report.files import RunFiles

GIB = 2**30


def training_section(run: RunFiles) -> Section:
    """Return the learning curves of each seed: AUC on valid, and losses, against optimiser steps."""
    curves = _evaluations(run)
    if not curves:
        todo = "a ranker trained by gradient leaves them: python -m track2_mmctr run --config din"
        what = "No evaluations in metrics.json: this ranker is not trained by gradient, or the run is older than them."
        return Section("training", "Learning curves", [Gap(what, todo)])
    areas: list[Point] = []
    losses: list[Point] = []
    for name, evaluations in curves.items():
        for one in evaluations:
            step, note = one["step"], f"epoch {one['epoch']}, learning rate {one['learning_rate']:.2g}"
            areas.append(Point(step, one["auc"], name, note=note))
            if one.get("average_auc") is not None:
                areas.append(Point(step, one["average_auc"], f"{name}, averaged weights", note=note))
            which = f"{name}, " if len(curves) > 1 else ""
            losses.append(Point(step, one["train_loss"], f"{which}train", note=note))
            losses.append(Point(step, one["logloss"], f"{which}valid", note=note))
    areas.sort(key=lambda point: point.series)  # one series after the other, for the table below the chart
    losses.sort(key=lambda point: point.series)
    best = max(areas, key=lambda point: point.y)
    text = f"Best AUC on valid: {best.y:.4f} at step {best.x:,.0f} ({best.series}). The best weights are kept."
    said = "Train: mean of the training loss since the evaluation before, with what is added to it; valid: log-loss."
    blocks: list[Block] = [
        lines("AUC on valid", areas, text=text, x="optimiser steps", y="AUC", form=".4f"),
        lines("Loss", losses, text=said, x="optimiser steps", y="nats a row", form=".4f"),
    ]
    return Section("training", "Learning curves", blocks)


def _evaluations(run: RunFiles) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return each seed's evaluations, by "seed N"."""
    training = run.metrics.get("training")
    seeds = training.get("seeds", []) if isinstance(training, Mapping) else []
    first = run.setting("seed")
    return {
        f"seed {first + number if isinstance(first, int) else number}": one["evaluations"]
        for number, one in enumerate(seeds)
        if one.get("evaluations")
    }


def cost_facts(run: RunFiles) -> list[Fact]:
    """Return run time, peak memory and size of the model, where they are recorded."""
    record, training = run.record, run.metrics.get("training") or {}
    facts: list[Fact] = []
    if isinstance(record.get("seconds"), int | float):
        machine = record.get("machine") or {}
        facts.append(
            Fact("run time", duration(record["seconds"]), f"{machine.get('device', '')} {_cpu(machine)}".strip())
        )
    if isinstance(record.get("peak_bytes"), int):
        facts.append(Fact("peak memory", f"{record['peak_bytes'] / GIB:.2f} GiB", "resident, of the main process"))
    if isinstance(training.get("parameters"), int):
        facts.append(Fact("parameters", f"{training['parameters']:,}", f"{len(training.get('seeds', []))} seed(s)"))
    rates = [one["rows_per_second"] for seed in _evaluations(run).values() for one in seed]
    if rates:
        facts.append(Fact("training speed", f"{sorted(rates)[len(rates) // 2]:,.0f} rows/s", "median of evaluations"))
    return facts


def _cpu(machine: Mapping[str, Any]) -> str:
    return str(machine.get("gpu") or f"{machine.get('cpu', '')} x {machine.get('cores', '?')}")


def duration(seconds: float) -> str:
    """Return a length of time in words.

    >>> duration(4.3), duration(75), duration(7260)
    ('4.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def cost_section(run: RunFiles) -> Section:
    """Return run time, memory and the stages."""
    facts, stages = cost_facts(run), run.record.get("stages") or []
    blocks: list[Block] = [Facts(facts)] if facts else []
    if stages:
        columns = [
            Column("stage"),
            Column("seconds", ".1f"),
            Column("processor seconds", ".1f"),
            Column("peak GiB", ".2f"),
        ]
        rows = [[s["stage"], s["wall_seconds"], s["cpu_seconds"], s["peak_bytes"] / GIB] for s in stages]
        blocks.append(Table(columns, rows, "Stages; the peak is that of the process so far"))
    if run.missing:
        what = f"Missing or not whole in the run's folder: {', '.join(run.missing)}."
        blocks.append(Gap(what, f"make the run again: {run.again}"))
    elif run.record.get("status") != "finished":
        blocks.append(Gap(f"The run's status is {run.record.get('status')}, not finished.", run.again))
    return Section("cost", "Time and memory", blocks)


def about(run: RunFiles, data: CtrData) -> list[tuple[str, str]]:
    """Return what the run and its data were, for the end of the page."""
    record = run.record
    machine, git = record.get("machine") or {}, record.get("git") or {}
    told = [
        ("run", run.name),
        ("configuration", run.label),
        ("ranker", str(run.setting("ranker", "type") or run.setting("method") or "")),
        ("about", " ".join(str(run.setting("about") or "").split())),
        ("seed", str(record.get("seed", ""))),
        ("started", str(record.get("started", ""))),
        ("commit", f"{git.get('commit', '')}{' with changes' if git.get('dirty') else ''}"),
        ("machine", f"{machine.get('platform', '')}; {_cpu(machine)}" if machine else ""),
        ("rows", ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())),
        ("items", f"{len(data.items) - 1:,}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items() if v)),
        ("notes", " ".join(f"{note}." for note in data.notes)),
    ]
    return [(label, value) for label, value in told if value]
