"""One run in full: changed keys, figures, stages, the submission's bytes, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import flatten, read_yaml
from common.errors import ConfigError
from common.hashing import file_digest
from common.runs.records import Run
from common.runs.text import memory_text, of_text, public_text, score_text, started_text, time_text

PACKAGES = {"track1": "track1_mdr", "track2": "track2_mmctr"}
_FIGURES = 40
_DEEPEST = 3
_NOT_SHOWN = {"name", "about"}


def facts(run: Run) -> list[tuple[str, str]]:
    """Return (label, text) of what a run is and what came of it."""
    git = run.record.get("git")
    found = [
        ("run", run.name),
        ("folder", str(run.folder) if run.folder else "removed; this is what its line in log.jsonl says"),
        ("track", run.track),
        ("config", run.config),
        ("data", str(run.record.get("data") or "not recorded")),
        ("seed", str(run.record.get("seed", "-"))),
        ("started", f"{started_text(run)} UTC"),
        ("status", run.status_text),
        ("score", f"{score_text(run)} ({of_text(run)})" if run.headline else "none recorded"),
        ("public", public_text(run)),
        ("time", time_text(run.seconds)),
        ("memory", memory_text(run.peak_bytes)),
        ("faults", str(run.faults)),
        ("tags", " ".join(run.tags) or "-"),
    ]
    if isinstance(git, dict):
        found.append(("commit", f"{str(git.get('commit'))[:12]}{' and changes on top' if git.get('dirty') else ''}"))
    return [*found, *(("problem", problem) for problem in run.problems)]


def settings(run: Run, home: Path) -> tuple[list[str], str]:
    """Return the lines "key: value" of what differs from the defaults, and what is to be said of them.

    A line with a star is not so in the configuration of that name as the track's folder `configs` has it now.
    """
    changed = run.record.get("changed")
    if not isinstance(changed, dict):
        return [], "the run did not record which keys differ from their defaults; config.yaml has all"
    lines = {key: value for key, value in changed.items() if key not in _NOT_SHOWN}
    path = home / PACKAGES.get(run.track, "-") / "configs" / f"{run.config}.yaml"
    try:
        shipped = flatten(read_yaml(path))
    except (ConfigError, OSError):
        return [f"  {key}: {value}" for key, value in lines.items()], ""
    marked = [f"{' ' if _same(shipped, key, value) else '*'} {key}: {value}" for key, value in lines.items()]
    said = f"* is not so in {path} as it is now" if any(line.startswith("*") for line in marked) else ""
    return marked, said


def _same(shipped: Mapping[str, Any], key: str, value: object) -> bool:
    return key in shipped and shipped[key] == value


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """Return "key: number" of the numbers at most three keys deep, the rest counted."""
    flat = {key: value for key, value in flatten(metrics).items() if _is_number(value)}
    near = [key for key in flat if key.count(".") < _DEEPEST][:_FIGURES]
    lines = [f"{key}: {flat[key]:.6g}" for key in near]
    return lines if len(near) == len(flat) else [*lines, f"and {len(flat) - len(near):,} more in metrics.json"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def stages(record: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (stage, wall time, CPU time, peak memory) of each stage."""
    found: list[tuple[str, str, str, str]] = []
    listed = record.get("stages")
    for stage in listed if isinstance(listed, list) else []:
        if not isinstance(stage, dict):
            continue
        wall, cpu, peak = (stage.get(key) for key in ("wall_seconds", "cpu_seconds", "peak_bytes"))
        found.append((str(stage.get("stage")), time_text(_of(wall)), time_text(_of(cpu)), memory_text(_whole(peak))))
    return found


def _of(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def submission(run: Run, home: Path) -> str:
    """Return where the submission is, and whether its bytes are those that the run wrote."""
    if run.submission is None:
        return "none"
    recorded = run.submission["sha256"]
    path = Path(run.submission["path"])
    path = path if path.is_absolute() else home / path
    try:
        sha = file_digest(path)
    except OSError:
        return f"{path}: no longer there (sha256 {recorded[:12]})"
    if sha == recorded:
        return f"{path}: unchanged, sha256 {sha[:12]}"
    return f"{path}: CHANGED since: sha256 is {sha[:12]}, the run wrote {recorded[:12]}"


def next_commands(run: Run, runs: Sequence[Run]) -> list[str]:
    """Return what to type next; `compare` with the run of the same track and data that came before."""
    package = PACKAGES.get(run.track)
    if package is None or run.folder is None:
        return ["python -m common.runs"]
    commands = [f"python -m {package} report {run.name}"]
    others = [other for other in runs if other.comparable == run.comparable and other.folder and other.name != run.name]
    if run.headline is not None and others:
        before = [other for other in others if other.name < run.name]
        commands.append(f"python -m {package} compare {(before or others)[-1].name} {run.name}")
    if run.submission is not None:
        commands.append(f"python -m {package} submit {run.submission['path']} --dry-run")
    return commands
