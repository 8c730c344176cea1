"""Fits that cost nothing, for the processes of `tune --workers`: functions, found by name where a worker is."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.track2.test_tune import Eval, Result, ctr_data, planted, run_config
from track2_mmctr.rankers.base import Environment
from track2_mmctr.tune import TuneResult, tune


def fit(
    home: Path, die: str, slow: float, config: Any, data: Any, environment: Environment, folder: Path, say: Any,
    on_evaluation: Any = None,
) -> Result:  # fmt: skip
    """Fit at once. `die` = "once" or "always": SIGKILL in trial 3; "bug": an error of the program there."""
    (home / f"threads-{environment.threads}").touch()
    (home / f"by-{os.getpid()}").touch()
    folder.mkdir(parents=True)
    time.sleep(slow)
    if folder.name == "trial-3" and die:
        again = (home / "died").exists()
        (home / "died").touch()
        if die == "bug":
            raise ZeroDivisionError("no such thing")
        if die == "always" or not again:
            os.kill(os.getpid(), signal.SIGKILL)
    for number in range(4):
        on_evaluation(Eval(planted(config) - 0.05 + 0.01 * number, 10 * number))
    return Result(planted(config))


def search(
    home: Path, trials: int, workers: int, said: list[str], *, die: str = "", slow: float = 0.0, space: Any = None
) -> TuneResult:
    home.mkdir(exist_ok=True)
    load, place = partial(ctr_data, home), Environment("cpu", 2, home / "cache")
    return tune(
        run_config(space), load(), place, trials=trials, out=home / "best.yaml", say=said.append,
        fit=partial(fit, home, die, slow), workers=workers, load=load,
    )  # fmt: skip


if __name__ == "__main__":
    search(Path(sys.argv[1]), 12, 2, [], slow=0.5)
