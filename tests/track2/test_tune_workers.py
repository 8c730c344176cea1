"""`tune --workers`: exact counts, the same places, pruning across processes, workers and searches that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.config import load_config
from common.errors import ConfigError, DataError
from tests.track2.ctr_files import write_layout
from tests.track2.test_tune import run_config, values
from tests.track2.tune_fits import search
from track2_mmctr.config import RunConfig
from track2_mmctr.rankers.base import Environment
from track2_mmctr.tune import tune


def test_two_workers_try_what_one_tries_and_survive_a_death(tmp_path: Path) -> None:
    said: list[str] = []
    result = search(tmp_path / "two", 9, 2, said, die="once", slow=0.02)
    alone = search(tmp_path / "one", 9, 1, [])
    assert [row.index for row in result.rows] == list(range(9))
    assert values(result) == values(alone), "the first ten places are drawn at random, by their own seeds"
    finished = [row for row in result.rows if row.state == "finished"]
    assert len(finished) >= 5 and result.own == result.rows[0] and alone.own is not None
    assert result.own is not None and result.own.auc == alone.own.auc
    assert result.rows[3].state != "failed" and sum("its process died" in line for line in said) == 1
    assert sum("of 9" in line for line in said) == 9 and "(9 of 9)" in said[-1]
    assert len(list((tmp_path / "two").glob("by-*"))) >= 2, "the dead worker's trial was run again by another one"
    assert [one.name for one in (tmp_path / "two").glob("threads-*")] == ["threads-1"]
    assert load_config(RunConfig, str(tmp_path / "two" / "best.yaml"), tmp_path) == result.config
    assert not list((tmp_path / "two" / "cache").rglob("trial*")), "what trials keep is removed"
    # one process goes on with it, and several again
    longer = search(tmp_path / "two", 12, 1, said)
    assert [row.index for row in longer.rows] == list(range(12)) and longer.rows[:9] == result.rows
    more = search(tmp_path / "two", 22, 2, said)
    assert [row.index for row in more.rows] == list(range(22)) and more.rows[:12] == longer.rows
    assert any(row.state == "pruned" for row in more.rows)
    assert search(tmp_path / "two", 22, 2, said).rows == more.rows


def test_a_trial_that_kills_its_workers_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    result = search(tmp_path, 5, 2, [], die="always")
    assert [row.index for row in result.rows if row.state == "failed"] == [3]
    assert "2 processes died of it" in str(result.rows[3].error) and len(result.rows) == 5


def test_an_error_of_the_program_ends_the_search_with_the_workers_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing") as error:
        search(tmp_path, 6, 2, [], die="bug")
    assert "tune_fits.py" in str(error.value)
    assert [row.index for row in search(tmp_path, 6, 2, []).rows] == list(range(6))


def running(folder: Path) -> list[Path]:
    pids = [int(one.name.partition("-")[2]) for one in folder.glob("by-*")]
    return [path for pid in pids if (path := Path(f"/proc/{pid}/stat")).exists() and path.read_text().split()[2] != "Z"]


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_is_killed_leaves_no_worker_and_goes_on(way: signal.Signals, root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.track2.tune_fits", str(tmp_path)]
    child = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("cache/track2/tune/*/trial-*"))) < 2 or not (tmp_path / "best.yaml").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert len(running(tmp_path)) == 2
    with pytest.raises(DataError, match="another process works on this study"):
        search(tmp_path, 12, 2, [])
    if way == signal.SIGINT:
        os.killpg(child.pid, way)  # as a terminal does: every process gets it
    else:
        child.kill()
    assert child.wait(30) != 0
    while running(tmp_path):
        assert time.monotonic() < deadline, "workers outlive the search"
        time.sleep(0.05)
    said: list[str] = []
    result = search(tmp_path, 12, 2, said)
    assert "trials already" in said[0] and [row.index for row in result.rows] == list(range(12))
    alone = search(tmp_path / "one", 10, 1, [])
    assert values(result)[:10] == values(alone)


@pytest.mark.slow
def test_real_rankers_are_tuned_side_by_side(tmp_path: Path) -> None:
    from track2_mmctr.datasets.microlens import load_data
    from track2_mmctr.pipeline import fit_run

    write_layout(tmp_path / "data", items=40, rows=600, eval_rows=200)
    config = run_config(
        {"train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
        train={"epochs": 2, "batch_size": 128},
        features={"dim": 4},
        ranker={"type": "din", "attention_units": [16], "hidden_units": [16]},
    )
    place = Environment("cpu", 2, tmp_path / "cache")
    data = load_data(tmp_path / "data", config.data, config.features, place.cache)
    result = tune(config, data, place, trials=4, out=tmp_path / "best.yaml", say=lambda _: None, workers=2)
    assert [row.state for row in result.rows] == ["finished"] * 4
    best = load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path)
    one = Environment("cpu", 1, tmp_path / "cache")  # as a worker had: half of the threads
    assert fit_run(best, data, one, tmp_path / "again", lambda _: None).valid_auc == result.best.auc


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a worker"):
        search(tmp_path, 2, 0, [])
