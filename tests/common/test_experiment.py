"""A run's record: what it holds after success, failure and interruption, and what it never holds."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from common.config import Config
from common.errors import DataError
from common.experiment import Experiment, git_state, machine, read_log, versions


class Small(Config):
    name: str = "tiny"
    weight: float = 0.5


def run_json(experiment: Experiment) -> dict:
    return json.loads((experiment.folder / "run.json").read_text())


def test_a_finished_run(tmp_path):
    submission = tmp_path / "out.csv"
    submission.write_text("question_id,passage_id\n")
    with Experiment(tmp_path / "runs", "track1", Small(weight=0.25), seed=11) as experiment:
        assert run_json(experiment)["status"] == "running"
        with experiment.stage("ocr"):
            time.sleep(0.12)
        experiment.faults.add("ocr", "a.pdf page 3", ValueError("cannot read"))
        experiment.add_metrics({"mean": 61.25})
        experiment.add_submission(submission)
    record = run_json(experiment)
    assert record["status"] == "finished" and record["error"] is None and record["seed"] == 11
    assert record["changed"] == {"weight": 0.25}
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["stages"][0]["stage"] == "ocr" and 0.1 < record["stages"][0]["wall_seconds"] < 5
    assert record["peak_bytes"] > 5 << 20
    assert record["submission"]["sha256"] == hashlib.sha256(submission.read_bytes()).hexdigest()
    assert yaml.safe_load((experiment.folder / "config.yaml").read_text()) == {"name": "tiny", "weight": 0.25}
    assert json.loads((experiment.folder / "metrics.json").read_text()) == {"mean": 61.25}
    fault = json.loads((experiment.folder / "faults.jsonl").read_text())
    assert fault == {"stage": "ocr", "item": "a.pdf page 3", "error": "ValueError: cannot read"}
    stamp, track, name, short = experiment.folder.name.split("-")
    assert (track, name, len(short)) == ("track1", "tiny", 6) and stamp.endswith("Z")
    (line,) = read_log(tmp_path / "runs")
    assert line["run"] == experiment.folder.name and line["metrics"] == {"mean": 61.25} and line["faults"] == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("no such file", where="x"), "failed", "no such file"),
        (RuntimeError("boom"), "failed", "RuntimeError: boom"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
        (SystemExit(2), "failed", "SystemExit: 2"),
    ],
)
def test_a_run_that_ends_badly_is_logged_and_raises(error, status, message, tmp_path):
    with pytest.raises(type(error)), Experiment(tmp_path, "track1", Small(), 7) as experiment, experiment.stage("fit"):
        raise error
    assert run_json(experiment)["status"] == status
    assert run_json(experiment)["stages"][0]["stage"] == "fit"
    (line,) = read_log(tmp_path)
    assert line["status"] == status and line["error"] == message


def test_no_secret_of_the_environment_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret_value")
    monkeypatch.setenv("KAGGLE_KEY", "planted_kaggle_key")
    with Experiment(tmp_path, "track1", Small(), 7, repository=tmp_path) as experiment, experiment.stage("a"):
        pass
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"tiny" in written
    for name in ("HF_TOKEN", "KAGGLE_KEY"):
        assert os.environ[name].encode() not in written and name.encode() not in written


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_stage_counts_the_cpu_of_children(tmp_path):
    with Experiment(tmp_path, "track1", Small(), 7) as experiment:
        with experiment.stage("child"):
            child = multiprocessing.get_context("fork").Process(target=_burn, args=(0.4,))
            child.start()
            child.join()
        with experiment.stage("idle"):
            pass
    busy, idle = experiment.stages
    assert busy.cpu_seconds >= 0.35 and idle.cpu_seconds < 0.2


def test_two_runs_in_one_second_have_two_folders_and_two_lines(tmp_path):
    for _ in range(2):
        with Experiment(tmp_path, "track1", Small(name="a/../b c"), 7) as experiment:
            assert experiment.folder.parent == tmp_path
    assert len(read_log(tmp_path)) == 2 == len([path for path in tmp_path.iterdir() if path.is_dir()])


def test_log_survives_a_line_cut_short(tmp_path):
    assert read_log(tmp_path) == []
    (tmp_path / "log.jsonl").write_text('{"run": "a"}\n{"run": "b", "sta\n[1]\n{"run": "c"}\n')
    assert [row["run"] for row in read_log(tmp_path)] == ["a", "c"]


def test_a_full_disk_does_not_hide_the_run_s_own_error(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="boom"), Experiment(tmp_path, "track1", Small(), 7):
        monkeypatch.setattr("common.experiment.write_text", full)
        raise RuntimeError("boom")
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"), Experiment(tmp_path, "track1", Small(), 7):
        monkeypatch.setattr("common.experiment.append_line", full)


def test_git_state(tmp_path, monkeypatch):
    assert git_state(None) is None
    assert git_state(tmp_path) is None  # not a repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "other").write_text("untracked files do not count")
    assert git_state(tmp_path) == state
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {"commit": state["commit"], "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_record_loads_no_heavy_package(root: Path):
    code = (
        "import sys; from common.experiment import machine, versions; machine('cuda'); versions();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'faiss', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert machine()["cores"] >= 1 and versions()["numpy"] is not None
