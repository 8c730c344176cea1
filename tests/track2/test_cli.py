"""The command line of Track 2: each verb, errors in one block, runs that are killed and go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import track2_mmctr.__main__ as cli
from common.submission.mmctr import read_submission
from tests.track2.ctr_files import write_layout
from tests.track2.tiny_movielens import random_log, write_source

VERBS = (
    "doctor",
    "download",
    "embed",
    "tokenize",
    "run",
    "task1",
    "score",
    "validate",
    "submit",
    "report",
    "compare",
    "explore",
    "tune",
    "ensemble",
)
HEAVY = ("torch", "transformers", "sentence_transformers", "onnxruntime", "faiss", "lightgbm", "optuna", "polars")
TINY = """
name: tiny
device: cpu
features: {dim: 4}
ranker: {type: din, attention_units: [8], hidden_units: [16]}
train: {batch_size: 32, epochs: 3}
tune:
  space:
    train.learning_rate: {low: 0.001, high: 0.1, log: true}
"""
FLOOR = """
name: floor
device: cpu
ranker: {type: similarity}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own: runs/, submissions/ and the default cache go there."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(cli, "ROOT", folder)
    monkeypatch.delenv("MIRC_DATA", raising=False)
    monkeypatch.setenv("MIRC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "floor.yaml").write_text(FLOOR)
    write_layout(tmp_path / "data" / "microlens")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def done(*arguments: object) -> str:
    """Call a command that must succeed, and return what it printed."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(result: Result, *parts: str) -> None:
    """Exit code 2, one block on standard error, no traceback, nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr


def runs(home: Path) -> list[Path]:
    return sorted(path for path in (home / "runs").iterdir() if path.is_dir())


@pytest.mark.parametrize("verb", [*VERBS, "prepare movielens"])
def test_each_verb_s_help_has_an_example_of_itself_whose_options_exist(verb: str) -> None:
    output = done(*verb.split(), "--help")
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", output).split())
    assert f"Example: python -m track2_mmctr {verb}" in text
    example = text.split("Example:")[1].split("Options")[0].split("Arguments")[0]
    assert set(re.findall(r"--[a-z-]+", example)) <= set(re.findall(r"--[a-z-]+", text.split("Options", 1)[1]))


def test_every_command_is_in_the_list_of_verbs() -> None:
    assert {command.callback.__name__ for command in cli.app.registered_commands if command.callback} == set(VERBS)


def test_help_is_quick_it_loads_no_model_library(root: Path) -> None:
    code = (
        "import sys\nfrom track2_mmctr.__main__ import app\n"
        "try: app(['run', '--help'])\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "LOADED []" in shown.stdout


def test_a_run_leaves_a_valid_submission_a_record_and_the_next_command(home: Path, tmp_path: Path) -> None:
    output = done("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--set", "seed=11")
    out = home / "submissions" / "track2-tiny.zip"
    test = pl.read_parquet(tmp_path / "data" / "microlens" / "MicroLens_1M_x1" / "test.parquet")
    submission = read_submission(out)
    assert submission.ids.tolist() == test["ID"].to_list()  # of the file, and not 0..n-1
    assert list(submission.columns) == ["Task2"]
    for part in ("seed 11", "run record:", "submission:", "on valid", "on test", "valid AUC"):
        assert part in output
    (line,) = (home / "runs" / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "finished" and json.loads(line)["track"] == "track2"
    (folder,) = runs(home)
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "metrics.json",
        "run.json",
        "model",
        "predictions",
    }
    (said,) = re.findall(r"next: +\S+ -m track2_mmctr (.*)", output)
    assert said.split()[0] == "report" and "report.html" in done(*said.split())
    assert (folder / "report.html").is_file()


def test_the_same_seed_gives_the_same_file_and_another_seed_does_not(home: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((5, 5, 6)):
        out = tmp_path / f"{number}.zip"
        done("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--out", out, "--set", f"seed={seed}")
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_several_seeds_are_averaged(home: Path, tmp_path: Path) -> None:
    arguments = ["run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data"]
    done(*arguments, "--set", "train.seeds=2", "--set", "seed=5")
    for seed in (5, 6):
        done(*arguments, "--set", f"seed={seed}")
    logits = {}
    for folder in runs(home):
        config = json.loads((folder / "run.json").read_text())
        models = sorted(path.name for path in (folder / "model").iterdir())
        logits[config["seed"], len(models)] = pl.read_parquet(folder / "predictions" / "test.parquet")["logit"]
    mean = (logits[5, 1] + logits[6, 1]) / 2
    assert (logits[5, 2] - mean).abs().max() < 1e-6


def test_score_validate_compare_and_ensemble_of_two_runs(home: Path, tmp_path: Path) -> None:
    data = ("--data", tmp_path / "data")
    for name in ("tiny", "floor"):
        done("run", "-c", tmp_path / f"{name}.yaml", *data)
    first, second = (next(path for path in runs(home) if name in path.name) for name in ("tiny", "floor"))
    submission = home / "submissions" / "track2-floor.zip"
    assert "valid" in done("validate", submission, *data)
    by_run, by_zip = done("score", second, *data), done("score", submission, *data)
    assert "AUC" in by_run and "AUC" in by_zip
    assert "test: a = " in done("compare", first, second, *data)
    done("compare", submission, home / "submissions" / "track2-tiny.zip", *data)
    output = done("ensemble", first, second, "--method", "mean", *data)
    assert "run record:" in output
    both = read_submission(home / "submissions" / "track2-ensemble.zip")
    assert len(both.ids) == 60
    refused(call("ensemble", first, *data), "two")
    refused(call("compare", first, tmp_path / "absent.zip", *data), "absent.zip")


def test_validate_lists_faults_with_their_lines(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("prediction.csv", "ID,Task2\n7,1.5\n7,nan\n")
    refused(call("validate", path, "--data", tmp_path / "data"), "line 2", "1.5", "line 3", "nan")


def test_task1_runs_the_fixed_model_and_refuses_other_settings_by_name(home: Path, tmp_path: Path) -> None:
    refused(
        call("task1", "--data", tmp_path / "data", "--set", "ranker.hidden_units=[8]"),
        "hidden_units",
        "learning_rate",
        "embedding_regularizer",
    )
    arguments = ["--set", "learning_rate=0.002", "--set", "batch_size=100", "--out", tmp_path / "t.zip"]
    done("task1", "--data", tmp_path / "data", *arguments)
    assert list(read_submission(tmp_path / "t.zip").columns) == ["Task1"]


def test_tune_writes_a_configuration_that_run_takes(home: Path, tmp_path: Path) -> None:
    data = ("--data", tmp_path / "data")
    output = done("tune", "-c", tmp_path / "tiny.yaml", "--trials", 2, *data, "--set", "train.epochs=1")
    assert "valid AUC" in output
    done("run", "-c", home / "runs" / "tuned-tiny.yaml", *data)


def test_prepare_movielens_then_what_it_names_next(home: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "source", random_log())
    output = done("prepare", "movielens", "--from", tmp_path / "source", "--out", tmp_path / "made")
    assert "next: " in output and " embed --data" in output
    refused(call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "made"), "embedding")
    done("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "made", "--set", "features.embedding=none")


def test_a_data_root_without_track_2_and_slips_of_the_user_are_one_block(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "mmdocir").mkdir(parents=True)
    refused(call("run", "--data", tmp_path / "empty"), "no Track 2 data", "data/README.md")
    refused(call("run", "--data", tmp_path / "nowhere"), "no such data root")
    refused(call("run", "-c", "dinn", "--data", tmp_path / "data"), "did you mean --config din")
    slip = call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--set", "train.epoch=1")
    refused(slip, "did you mean 'epochs'")
    refused(call("embed", "--method", "pca", "--data", tmp_path / "data"), "pca")
    bare = call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "nowhere", "--debug")
    assert bare.exit_code == 1 and "no such data root" in str(bare.exception)


def start(root: Path, home: Path, arguments: Sequence[object]) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; import track2_mmctr.__main__ as cli\n"
        "cli.ROOT = Path(sys.argv.pop(1)); cli.main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home), *map(str, arguments)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_in_training_goes_on_and_gives_the_same_file(
    way: signal.Signals, root: Path, home: Path, tmp_path: Path
) -> None:
    arguments = ["run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--set", "train.epochs=60"]
    arguments += ["--set", "train.patience=60"]
    process = start(root, home, [*arguments, "--out", tmp_path / "killed.zip"])
    cache, until = tmp_path / "cache", time.monotonic() + 120
    while not list(cache.rglob("state.safetensors")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, way)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if way == signal.SIGINT else -9), errors
    assert not (tmp_path / "killed.zip").exists()
    process = start(root, home, [*arguments, "--out", tmp_path / "killed.zip"])
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "goes on from step" in output
    assert not list(cache.rglob("state.safetensors")), "what was kept for resuming is removed at the end"
    whole = start(root, home, [*arguments, "--out", tmp_path / "whole.zip"])
    output, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors
    assert "goes on" not in output
    assert (tmp_path / "killed.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.slow
def test_two_processes_of_torchrun_train_as_one_does(root: Path, tmp_path: Path) -> None:
    """Not bit-equal: sums have another order, and Adam makes much of little where a gradient is zero in theory."""
    write_layout(tmp_path / "data" / "microlens")
    (tmp_path / "tiny.yaml").write_text(TINY)
    script = tmp_path / "go.py"  # the project's own runs/ stays as it is
    script.write_text(
        "from pathlib import Path\nimport track2_mmctr.__main__ as cli\n"
        f"cli.ROOT = Path({str(tmp_path)!r})\ncli.main()\n"
    )
    arguments = [script, "run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data"]
    arguments += ["--set", "ranker.net_dropout=0", "--set", "ranker.attention_dropout=0", "--set", "train.epochs=1"]
    columns = []
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])):
        command = [sys.executable, *launcher, *map(str, arguments), "--out", str(tmp_path / f"{name}.zip")]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MIRC_CACHE": str(tmp_path / name),
            "PYTHONPATH": str(root),
        }
        made = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
        assert made.returncode == 0, made.stderr
        assert made.stdout.count("run record:") == 1, "one process writes"
        columns.append(read_submission(tmp_path / f"{name}.zip").column())
    assert abs(columns[0] - columns[1]).max() < 5e-3
