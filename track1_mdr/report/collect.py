"""What a run left in its folder: its record, configuration, figures, rankings and faults. What is absent is a gap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from common.config import make_config
from common.errors import ConfigError, DataError, UserError
from common.hashing import file_digest
from common.pages.blocks import Gap
from common.runs import find
from common.submission.mdr import Task, read_submission, tasks_of
from track1_mdr.config import RunConfig, TaskConfig

Ranked = Mapping[str, Sequence[tuple[str, float]]]
"""question id -> (passage id, score), best first."""

SCORE_COLUMNS = ("task", "question_id", "source", "rank", "passage_id", "score")


@dataclass(frozen=True)
class Sources:
    """What a run ranked with in one task, by name: question id -> (passage id, score), at most 20, best first.

    `routes` and `rerankers` are scores of one part alone; `rankings` follow each other, and the last one is final.
    """

    routes: Mapping[str, Ranked]
    rerankers: Mapping[str, Ranked]
    rankings: Mapping[str, Ranked]

    @property
    def all(self) -> dict[str, Ranked]:
        """Every source, in the order of the run."""
        return {**self.routes, **self.rerankers, **self.rankings}

    @property
    def final(self) -> Ranked:
        """The last ranking."""
        return list(self.rankings.values())[-1] if self.rankings else {}

    @property
    def final_name(self) -> str:
        """The last ranking's name."""
        return list(self.rankings)[-1] if self.rankings else ""

    @property
    def questions(self) -> list[str]:
        """The ids of all questions that any source ranks for, in the order of their numbers."""
        return sorted({i for ranked in self.all.values() for i in ranked}, key=int)


@dataclass(frozen=True)
class RunFiles:
    """A run as its folder has it.

    Attributes
    ----------
    record
        `run.json`: status, seconds, stages, versions, machine, data root, submission.
    config
        The configuration; None where this version of the project no longer reads it.
    values
        The configuration as it stands in the file.
    metrics
        `metrics.json`: the score report; {} where the run had no gold.
    sources
        By task, what `scores.parquet` holds.
    submission
        question id -> five passage ids of the submission, if the file is still the one that the run wrote.
    faults
        The items that failed.
    gaps
        What is not there.
    """

    folder: Path
    record: Mapping[str, Any]
    config: RunConfig | None
    values: Mapping[str, Any]
    metrics: Mapping[str, Any]
    sources: Mapping[Task, Sources]
    submission: Mapping[str, Sequence[str]] | None
    faults: Sequence[Mapping[str, str]] = ()
    gaps: Sequence[Gap] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the run ranked, in the order of the submission."""
        return tasks_of(list(self.submission)) if self.submission else tuple(self.sources)


def find_run(name: str, runs: Path) -> Path:
    """Return the folder of a run: its folder, its name or the start or end of it, or "last" of this track.

    Raises
    ------
    DataError
        There is no such run, several are meant, or it is one of the other track.
    """
    folder = find.find_run(runs, name, "track1" if name == find.LAST else None)
    track = _json(folder / "run.json").get("track")
    if track != "track1":
        raise DataError(
            f"the run is one of {track or 'no track'}",
            where=folder / "run.json",
            expected="track1",
            todo="use python -m track2_mmctr report for runs of track2" if track == "track2" else None,
        )
    return folder


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder. What is absent or damaged is a gap, except run.json.

    Raises
    ------
    DataError
        run.json is not readable.
    """
    gaps: list[Gap] = []
    record = _json(folder / "run.json")
    if not record:
        raise DataError("the run's record cannot be read", where=folder / "run.json", todo="run it again")
    if record.get("status") != "finished":
        gaps.append(Gap(f"The run is {record.get('status')}: {record.get('error') or 'it left only a part'}."))
    config, values = _config(folder / "config.yaml", gaps)
    sources = _sources(folder / "scores.parquet", config, gaps)
    return RunFiles(
        folder,
        record,
        config,
        values,
        _metrics(folder / "metrics.json", gaps),
        sources,
        _submission(record, bool(sources), gaps),
        _faults(folder / "faults.jsonl", record, gaps),
        gaps,
    )


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _config(path: Path, gaps: list[Gap]) -> tuple[RunConfig | None, dict[str, Any]]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        values = None
    if not isinstance(values, dict):
        gaps.append(
            Gap(f"The run has no readable {path.name}: which of its sources are routes is told by their names.")
        )
        return None, {}
    try:
        return make_config(RunConfig, dict(values), (), path), values
    except ConfigError:
        gaps.append(Gap("The configuration is of another version of the project; its values are shown as they are."))
        return None, values


def _metrics(path: Path, gaps: list[Gap]) -> dict[str, Any]:
    """Return the score report; a run without gold has none, a damaged one is a gap."""
    found = _json(path)
    if not found and path.is_file():
        gaps.append(Gap(f"{path.name} cannot be read: whether the figures are those of the run's day is not checked."))
    return found


def _faults(path: Path, record: Mapping[str, Any], gaps: list[Gap]) -> list[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [{name: str(value) for name, value in json.loads(line).items()} for line in lines if line.strip()]
    except (OSError, ValueError, AttributeError):
        count = record.get("faults")
        if count or path.is_file():
            gaps.append(Gap(f"{path.name} cannot be read: the run's record counts {count} failed items."))
        return []


def _sources(path: Path, config: RunConfig | None, gaps: list[Gap]) -> dict[Task, Sources]:
    todo = "run the configuration again: python -m track1_mdr run leaves scores.parquet behind"
    if not path.is_file():
        gaps.append(Gap("The run has no scores.parquet: no route's own figures, and no scores by route.", todo))
        return {}
    try:
        table = pl.read_parquet(path, columns=list(SCORE_COLUMNS))
    except (pl.exceptions.PolarsError, OSError) as error:
        gaps.append(Gap(f"scores.parquet cannot be read: {str(error)[:200]}", todo))
        return {}
    found: dict[Task, Sources] = {}
    for task in tasks_of(table["question_id"].unique().to_list()):
        ranked = _ranked(table.filter(pl.col("task") == task))
        found[task] = _sorted_out(ranked, getattr(config.tasks, task) if config else None)
    return found


def _ranked(table: pl.DataFrame) -> dict[str, Ranked]:
    sources = table["source"].unique(maintain_order=True).to_list()
    result: dict[str, dict[str, list[tuple[str, float]]]] = {source: {} for source in sources}
    grouped = (
        table.sort("rank", maintain_order=True)
        .group_by("source", "question_id", maintain_order=True)
        .agg("passage_id", "score")
    )
    for source, question, passages, scores in grouped.iter_rows():
        result[source][question] = list(zip(passages, scores, strict=True))
    return dict(result)


def _sorted_out(ranked: Mapping[str, Ranked], config: TaskConfig | None) -> Sources:
    """Tell routes, rerankers and rankings apart, by the configuration or else by the names of rankings."""
    rankings = {n for n in ranked if n in ("fusion", "final") or n.startswith("fusion + ")}
    rerankers: set[str] = set()
    if config is not None:
        parts = {name for name, route in config.routes.items() if route is not None}
        rerankers = {name for name, one in config.rerank.items() if one is not None}
        rankings = set(ranked) - parts - rerankers
    return Sources(
        {n: one for n, one in ranked.items() if n not in rankings and n not in rerankers},
        {n: one for n, one in ranked.items() if n in rerankers},
        {n: one for n, one in ranked.items() if n in rankings},
    )


def _submission(record: Mapping[str, Any], scored: bool, gaps: list[Gap]) -> dict[str, tuple[str, ...]] | None:
    """Return the rows of the submission, if it is there and has the bytes that the run wrote."""
    kept = record.get("submission")
    other = "; its answers are taken from scores.parquet" if scored else ""
    if not isinstance(kept, dict) or not kept.get("path"):
        gaps.append(Gap(f"The run left no submission{other}."))
        return None
    path = Path(kept["path"])
    try:
        if not path.is_file():
            gaps.append(Gap(f"The submission {path.name} is no longer where the run put it{other}."))
        elif file_digest(path) != kept.get("sha256"):
            gaps.append(Gap(f"The submission {path.name} has been written again since{other}."))
        else:
            return read_submission(path)
    except (OSError, UserError) as error:
        gaps.append(Gap(f"The submission {path.name} cannot be read{other}: {error}"))
    return None
