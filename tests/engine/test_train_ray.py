"""Ray Train around our own training: a killed worker, errors of the user, Ctrl-C, the same bytes as torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.training.distributed import World
from common.training.ray_train import train_on_ray
from tests.common.training.together import Pressed, fit, make
from tests.track2.ctr_files import write_layout

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local cluster for the tests of this file."""
    from common.engine.ray_session import connect

    with connect(None, 2):
        yield


def on_ray(task: Any, folder: Path, said: list[str], workers: int = 2, address: str | None = None) -> Any:
    return train_on_ray(
        task, workers=workers, address=address, folder=folder, device="auto", here=Path.cwd(), say=said.append
    )


def sasrec(folder: Path, die: bool, world: World, device: str, say: Any) -> tuple[int | None, dict[str, bytes], str]:
    """Train; with `die` the second process ends by SIGKILL in its seventh step, the first time."""
    torch.set_num_threads(1)
    batches = None
    if die and not world.main and not (folder / "died").exists():
        (folder / "died").touch()
        batches = Dying(make("sasrec")[1])
    model, result = fit("sasrec", folder, world, batches, say=say, checkpoint_seconds=0)
    return result.resumed_from, {n: v.numpy().tobytes() for n, v in model.state_dict().items()}, device


class Dying(Pressed):
    def make(self, rows: Any) -> Any:
        self.left -= 1
        if self.left == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.make(rows)


def as_one_process(weights: dict[str, bytes], folder: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, _ = fit("sasrec", folder, World())
    torch.set_num_threads(before)
    for name, value in whole.state_dict().items():
        found = torch.frombuffer(bytearray(weights[name]), dtype=value.dtype).view_as(value)
        torch.testing.assert_close(found, value, rtol=1e-3, atol=2e-4)


def test_workers_train_as_one_process_and_what_they_say_comes_back(cluster: None, tmp_path: Path) -> None:
    said: list[str] = []
    resumed, weights, device = on_ray(partial(sasrec, tmp_path, False), tmp_path, said)
    assert (resumed, device) == (None, "cpu")
    assert [line.split(",")[0] for line in said] == ["epoch 1", "epoch 2", "epoch 3"]
    as_one_process(weights, tmp_path / "one")
    assert not list(tmp_path.glob("ray-train-*")), "Ray's own notes are removed"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_training_goes_on_from_its_checkpoint(cluster: None, tmp_path: Path) -> None:
    said: list[str] = []
    resumed, weights, _ = on_ray(partial(sasrec, tmp_path, True), tmp_path, said)
    assert resumed == 6
    assert "all start again" in said[1] and "goes on from step 6" in said[2] and "epoch 3" in said[-1]
    as_one_process(weights, tmp_path / "one")


def refuses(world: World, device: str, say: Any) -> None:
    say(f"process {world.rank} of {world.size}")
    if not world.main:
        raise DataError("no such rows", where="row 3", todo="add them")
    time.sleep(60)  # waits for the other one, as a training does


@pytest.mark.slow
def test_an_error_of_the_user_in_any_worker_is_the_callers_and_nothing_starts_again(
    cluster: None, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(DataError) as error:
        on_ray(refuses, tmp_path, said)
    assert (error.value.what, error.value.where, error.value.todo) == ("no such rows", "row 3", "add them")
    assert sorted(said) == ["process 0 of 2", "process 1 of 2"]


def crashes(world: World, device: str, say: Any) -> None:
    raise ZeroDivisionError("in process " + str(world.rank))


@pytest.mark.slow
def test_what_fails_each_time_is_one_error_with_its_reason(cluster: None, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UserError, match="failed 3 times") as error:
        on_ray(crashes, tmp_path, said)
    assert "ZeroDivisionError: in process" in str(error.value.got)
    assert len(said) == 2 and all("all start again" in line for line in said)


def slowly(folder: Path, world: World, device: str, say: Any) -> None:
    torch.set_num_threads(1)
    _, batches = make("sasrec")
    batches.make = _late(batches.make, say)  # pyright: ignore[reportAttributeAccessIssue]
    fit("sasrec", folder, world, batches, say=say)


def _late(made: Any, say: Any) -> Any:
    def make(rows: Any) -> Any:
        say("a step")
        time.sleep(1)
        return made(rows)

    return make


@pytest.mark.slow
def test_ctrl_c_lets_the_workers_write_where_they_are(cluster: None, tmp_path: Path) -> None:
    said: list[str] = []

    def press() -> None:
        while not said:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        on_ray(partial(slowly, tmp_path), tmp_path, said)
    assert any("interrupted: the same command goes on" in line for line in said)
    _, result = fit("sasrec", tmp_path, World())
    assert result.resumed_from is not None and 0 < result.resumed_from < 12


def test_more_workers_than_the_cluster_has_are_refused(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer CPUs than workers"):
        on_ray(refuses, tmp_path, [], workers=3)
    with pytest.raises(ConfigError, match="needs a worker"):
        on_ray(refuses, tmp_path, [], workers=0)


TINY = """
name: tiny
device: cpu
features: {dim: 4}
ranker: {type: din, attention_units: [8], hidden_units: [8]}
train: {epochs: 2, batch_size: 64}
"""


@pytest.mark.slow
def test_the_command_gives_the_bytes_of_torchrun(root: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "data" / "microlens")
    (tmp_path / "tiny.yaml").write_text(TINY)
    script = tmp_path / "go.py"  # the project's own runs/ stays as it is
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport track2_mmctr.__main__ as cli\n"
        f"cli.ROOT = Path({str(tmp_path)!r})\nif __name__ == '__main__':\n    cli.main()\n"
    )
    arguments = [str(script), "run", "-c", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "data")]
    ways: list[tuple[str, list[str], list[str]]] = [
        ("ray", [], ["--engine", "ray", "--workers", "2"]),
        ("torchrun", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], []),
    ]
    for name, launcher, more in ways:
        command = [sys.executable, *launcher, *arguments, *more, "--out", str(tmp_path / f"{name}.zip")]
        command += ["--cache", str(tmp_path / f"cache-{name}")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        made = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
        assert made.returncode == 0, made.stderr
        assert made.stdout.count("run record:") == 1 and "local score" in made.stdout
        assert "(RayTrainWorker" not in made.stdout + made.stderr and "TrainController" not in made.stdout + made.stderr
    assert (tmp_path / "ray.zip").read_bytes() == (tmp_path / "torchrun.zip").read_bytes()


def test_without_ray_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-cluster\.txt"):
        on_ray(refuses, tmp_path, [])
