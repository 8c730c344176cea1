"""`python -m benchmarks.suite.job TRACK CONFIG ROOT FOLDER CACHE`: a main job whose run folder is not the project's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from common import cli


def main(track: str, config: str, root: str, folder: str, cache: str) -> None:
    """Run a configuration as `run` does; the last line printed is its score as JSON."""
    home, out = Path(folder), Path(folder) / f"{track}.{'csv' if track == 'track1' else 'zip'}"
    if track == "track1":
        from track1_mdr.app import run_config

        result = run_config(config, [], Path(root), out, Path(cache), home, lambda name, _: out, print)
        score = None if result.report is None else result.report.headline
    else:
        from track2_mmctr.app import load
        from track2_mmctr.app import run_config as run_ctr

        run_ctr(load(config, []), Path(root), out, Path(cache), home, dict(os.environ), print)
        metrics = max((home / "runs").glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
        score = json.loads(metrics.read_text(encoding="utf-8")).get("test", {}).get("auc")
    print(json.dumps({"score": score}))


if __name__ == "__main__":
    cli.main(lambda: main(*sys.argv[1:]), os.environ)
