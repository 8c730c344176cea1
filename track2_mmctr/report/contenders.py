"""The runs of a comparison: what each is, its scores, settings and costs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config import flatten
from common.errors import ConfigError, DataError
from common.pages.blocks import Block, Cell, Column, Gap, Section, Table, Text
from common.submission.mmctr import Task
from track2_mmctr.datasets.tables import CtrData, SplitName
from track2_mmctr.evaluate import CtrReport, evaluate, predicted
from track2_mmctr.report.files import RunFiles, read_run
from track2_mmctr.report.training import GIB, cost_facts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNSAID = ("about", "name", "tune")
"""Parts of a configuration that change nothing in a run."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One of the compared: its letter, its run's folder (None for a zip), logits and reports by split."""

    letter: str
    path: Path
    run: RunFiles | None
    logits: Mapping[SplitName, np.ndarray]
    reports: Mapping[SplitName, CtrReport]
    notes: Sequence[str]

    @property
    def label(self) -> str:
        """Letter and configuration, or letter and file."""
        return f"{self.letter} {self.path.stem if self.run is None else self.run.label}"


def check_paths(paths: Sequence[Path]) -> None:
    """Refuse fewer than two runs, or more than there are letters."""
    if not 2 <= len(paths) <= len(LETTERS):
        todo = "python -m track2_mmctr compare A B"
        raise ConfigError(f"compare needs 2 to {len(LETTERS)} runs or submissions", got=len(paths), todo=todo)


def read_contender(
    letter: str, path: Path, data: CtrData, task: Task | None, counts: np.ndarray | None, resamples: int
) -> Contender:
    """Read one of the compared and score it; arguments and errors as `evaluate.predicted`."""
    logits, notes = predicted(path, data, task)
    reports: dict[SplitName, CtrReport] = {
        name: evaluate(data.splits[name], found, counts, resamples=resamples) for name, found in logits.items()
    }
    return Contender(letter, path, read_run(path) if path.is_dir() else None, logits, reports, notes)


def shared_split(contenders: Sequence[Contender]) -> SplitName:
    """Return test where all have it, else valid."""
    order: tuple[SplitName, ...] = ("test", "valid")
    for name in order:
        if all(name in one.logits for one in contenders):
            return name
    raise DataError(
        "there is no split to compare all of them on",
        where=", ".join(str(one.path) for one in contenders),
        expected="one split with known labels in all",
        got="; ".join(f"{one.letter}: {', '.join(one.logits)}" for one in contenders),
        todo="compare runs' folders, or runs and submissions on data whose test labels are known",
    )


def score_table(contenders: Sequence[Contender]) -> Section:
    """Return the scores of all runs on every split that they have."""
    rows: list[list[Cell]] = []
    for one in contenders:
        for split, report in one.reports.items():
            user, rates = report.by_user, report.calibration
            span = "-" if user is None else f"{user.low:.4f} to {user.high:.4f}"
            figures = [report.headline, report.overall.error, span, report.gauc.value, report.overall.log_loss]
            rows.append([one.label, split, *figures, rates.error, one.path.name])
    columns = [
        Column("run"),
        Column("split"),
        Column("AUC", ".4f"),
        Column("±", ".4f", "standard error (DeLong)"),
        Column("95 % by user", note="whole users resampled"),
        Column("GAUC", ".4f", "AUC within users, averaged by their rows"),
        Column("log-loss", ".4f"),
        Column("calibration error", ".4f"),
        Column("folder or file"),
    ]
    gaps = [Gap(f"{one.label}: {note}.") for one in contenders for note in one.notes]
    return Section("scores", "Scores", [Table(columns, rows, "All runs"), *gaps])


def config_difference(configs: Mapping[str, Mapping[str, Any]]) -> list[list[Cell]]:
    """Return rows (key, value of each) of the keys whose values differ; a key that one lacks is told as a dash.

    Names, descriptions and spaces of `tune` are left out.
    """
    flat = {name: flatten(config) for name, config in configs.items()}
    keys = sorted({key for values in flat.values() for key in values})
    rows: list[list[Cell]] = []
    for key in keys:
        if key.split(".")[0] in UNSAID:
            continue
        found = [None if key not in values else _told(values[key]) for values in flat.values()]
        if len(set(found)) > 1:
            rows.append([key, *found])
    return rows


def _told(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings_section(contenders: Sequence[Contender]) -> Section:
    """Return the settings in which the runs differ."""
    known = {one.label: one.run.config for one in contenders if one.run is not None and one.run.config}
    without = [one.label for one in contenders if one.label not in known]
    blocks: list[Block] = []
    if len(known) > 1:
        rows = config_difference(known)
        columns = [Column("setting"), *(Column(name) for name in known)]
        blocks.append(Table(columns, rows, "Settings that differ") if rows else Text("All settings are the same."))
    if without:
        what = f"No configuration: {', '.join(without)}. A zip holds none, nor a folder without config.yaml."
        blocks.append(Gap(what, "compare the run's folder in the place of its zip"))
    return Section("settings", "Settings", blocks, "Name, description and the space of tune are left out.")


def costs_section(contenders: Sequence[Contender]) -> Section:
    """Return time, memory and size of the runs."""
    rows: list[list[Cell]] = []
    for one in contenders:
        if one.run is None:
            continue
        facts = {fact.label: fact.value for fact in cost_facts(one.run)}
        seconds, peak = one.run.record.get("seconds"), one.run.record.get("peak_bytes")
        memory = None if peak is None else peak / GIB
        rows.append([one.label, seconds, memory, facts.get("parameters", "-"), facts.get("training speed", "-")])
    if not rows:
        return Section("costs", "Costs", [Gap("Zips tell no time and no memory.", "compare the runs' folders")])
    columns = [
        Column("run"),
        Column("seconds", ".1f"),
        Column("peak GiB", ".2f"),
        Column("parameters"),
        Column("speed"),
    ]
    return Section("costs", "Costs", [Table(columns, rows, "Time and memory of the runs")])
