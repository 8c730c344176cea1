"""Folders of runs as `Experiment` leaves them, with figures of one's choice."""

import hashlib
import json
from pathlib import Path
from typing import Any


def track1_metrics(value: float, error: float | None = 1.5, questions: int = 84) -> dict[str, Any]:
    """Both tasks; the second one is the easier."""
    tasks = {
        "mmdocir": {"questions": questions, "mean": value - 10, "standard_error": 3.0},
        "m2kr": {"questions": 39, "mean": value + 10, "standard_error": 1.0},
    }
    return {"final": value, "standard_error": error, "tasks": tasks, "notes": []}


def track2_metrics(value: float, rows: int = 1500, split: str = "test") -> dict[str, Any]:
    figures = {"auc": value, "standard_error": 0.01, "standard_error_by_user": 0.02, "overall": {"rows": rows}}
    return {split: figures, "valid_auc": value}


def plant(
    runs: Path,
    name: str,
    metrics: dict[str, Any] | None = None,
    *,
    status: str = "finished",
    seconds: float = 60.0,
    submission: bytes | None = None,
    log: bool = True,
    **more: Any,
) -> Path:
    """Write the folder of one run, `<stamp>-<track>-<config>-<six hex>`, and return it; a running one has no line."""
    stamp, track, config, _ = name.split("-")
    folder = runs / name
    folder.mkdir(parents=True)
    file = None
    if submission is not None:
        path = runs.parent / "submissions" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(submission)
        file = {"path": str(path), "sha256": hashlib.sha256(submission).hexdigest()}
    clock = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
    record = {"run": name, "track": track, "config": config, "seed": 7, "started": clock, "status": status}
    record |= {"error": None, "seconds": seconds, "peak_bytes": 500_000_000, "faults": 0, "submission": file} | more
    stages = [{"stage": "read data", "wall_seconds": 1.25, "cpu_seconds": 1.0, "peak_bytes": 400_000_000}]
    (folder / "run.json").write_text(json.dumps({**record, "stages": stages, "git": None}))
    (folder / "config.yaml").write_text(f"name: {config}\n")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if log and status != "running":
        with (runs / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(record | {"metrics": metrics or {}}) + "\n")
    return folder


LEXICAL = "20261101T100000Z-track1-lexical-aa0001"
BASELINE = "20261102T100000Z-track1-baseline-aa0002"
FULL = "20261103T100000Z-track1-lexical-aa0003"
DIN = "20261104T100000Z-track2-din-bb0001"
GBDT = "20261105T100000Z-track2-gbdt-bb0002"
KILLED = "20261106T100000Z-track2-gbdt-bb0003"
FAILED = "20261107T100000Z-track1-cart-aa0004"


def plant_seven(runs: Path) -> None:
    """Two tracks, two sizes of data, a killed run and a failed one."""
    plant(runs, LEXICAL, track1_metrics(79.876), submission=b"lexical", seconds=30.0)
    plant(runs, BASELINE, track1_metrics(90.84), submission=b"baseline", changed={"tasks.mmdocir.k": 50})
    plant(runs, FULL, track1_metrics(41.5, None, questions=1658), seconds=7300.0)
    plant(runs, DIN, track2_metrics(0.6138), submission=b"din")
    plant(runs, GBDT, track2_metrics(0.8221), submission=b"gbdt", peak_bytes=2_000_000_000)
    plant(runs, KILLED, None, status="running")
    plant(runs, FAILED, None, status="failed", error="no page image\nsecond line", faults=3)
