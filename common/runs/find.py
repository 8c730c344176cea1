"""Which folders are runs, and which one a short name means."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

from common.errors import DataError

LAST = "last"
HOW_TO_RUN = "python -m track1_mdr run, or python -m track2_mmctr run"
_NAME = re.compile(r"\d{8}T\d{6}Z-(?P<track>.+?)-.*-[0-9a-f]{6}")  # as Experiment names its folder
_LAST_CHARACTER = "\U0010ffff"
_SHOWN = 8


def run_folders(runs: Path) -> list[Path]:
    """Return the runs' folders by name, hence by the time they started.

    A folder is a run where it holds `run.json`, or has the name that Experiment gives (a run that was killed at once,
    or lost its record): what else lies in `runs`, as fitted fusions, is left out.

    Parameters
    ----------
    runs
        The folder of all runs; one that is not there has none.
    """
    if not runs.is_dir():
        return []
    return sorted(
        (path for path in runs.iterdir() if path.is_dir() and _is_run(path)), key=lambda path: (_stamp(path), path.name)
    )


def find_run(runs: Path, name: str, track: str | None = None) -> Path:
    """Return the folder of the run that `name` means.

    Parameters
    ----------
    runs
        The folder of all runs.
    name
        A run's folder, its name, the only start or end of a name (as the six characters at its end), or "last":
        the last one that finished, or, where none did, that started.
    track
        "track1" or "track2": only that track's runs are looked at. A folder given as a path is taken as it is.

    Raises
    ------
    DataError
        No run has that name, several have, or there is no run at all.
    """
    given = Path(name)
    if name not in ("", LAST) and given.is_dir() and _is_run(given):
        return given
    kind = "run" if track is None else f"run of {track}"
    folders = [path for path in run_folders(runs) if track is None or _record(path, "track") == track]
    if not folders:
        raise DataError(f"there is no {kind} yet", where=runs, got=name, todo=f"make one: {HOW_TO_RUN}")
    if name == LAST:
        newest = _newest_first(folders)
        return next((path for path in newest if _record(path, "status") == "finished"), newest[0])
    found = _matches(folders, name)
    if len(found) == 1:
        return found[0]
    if not found:
        near = get_close_matches(name, [path.name for path in folders], n=1, cutoff=0.4)
        raise DataError(
            f"no {kind} has this name",
            where=runs,
            expected='a name, the start or end of one, a run\'s folder, or "last"',
            got=name + (f", the nearest name is {near[0]}" if near else ""),
            todo="python -m common.runs lists all",
        )
    raise DataError(
        f"{len(found)} runs have this name",
        where=runs,
        expected="one of " + _some([path.name for path in found]),
        got=name,
        todo="give more of the name",
    )


def _record(folder: Path, key: str) -> str:
    """Return what a run's record says; of a record that cannot be read, the track that the folder's name tells."""
    try:
        return str(json.loads((folder / "run.json").read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        found = _NAME.fullmatch(folder.name)
        return found["track"] if found and key == "track" else ""


def _newest_first(folders: Sequence[Path]) -> list[Path]:
    """Return the folders by the second they started, and those of one second by when their record was written last."""

    def written(folder: Path) -> int:
        record = folder / "run.json"
        return record.stat().st_mtime_ns if record.is_file() else 0

    return sorted(folders, key=lambda path: (_stamp(path), written(path), path.name), reverse=True)


def run_track(folder: Path) -> str:
    """Return the track that a run's record names; of a run without a record that can be read, its folder's name's."""
    return _record(folder, "track")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each name the shortest end, cut at a dash, that `find_run` takes for it among these names."""
    starts, ends = sorted(names), sorted(name[::-1] for name in names)
    short: dict[str, str] = {}
    for name in names:
        end = name.rpartition("-")[2]
        alone = bool(end) and _starting(ends, end[::-1]) == 1 and not _starting(starts, end)
        short[name] = end if alone and end != LAST else name
    return short


def _starting(ordered: Sequence[str], start: str) -> int:
    return bisect_right(ordered, start + _LAST_CHARACTER) - bisect_left(ordered, start)


def _matches(folders: Sequence[Path], name: str) -> list[Path]:
    whole = [path for path in folders if path.name == name]
    if whole or not name:
        return whole
    return [path for path in folders if path.name.startswith(name) or path.name.endswith(name)]


def _is_run(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None or (path / "run.json").is_file()


def stamp_of(name: str) -> datetime | None:
    """Return the time in a run's name, UTC; None where the folder was renamed."""
    try:
        return datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _stamp(path: Path) -> str:
    """Return the time in the name; of a folder that was renamed, nothing: it is older than all others."""
    return path.name[:16] if _NAME.fullmatch(path.name) else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
