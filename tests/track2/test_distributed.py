from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.training.distributed import World, init_world, share_sizes
from common.training.tensors import read_tensors
from tests.processes import one_thread as one_thread
from tests.processes import run_module
from tests.track2.tiny_training import CASES
from track2_mmctr.training.batch_norm import restore, synchronise


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Train every case with two or three real processes over gloo, with the variables that torchrun sets."""
    folder = tmp_path_factory.mktemp("processes")
    run_module(root, "tests.track2.tiny_training", "distributed", str(folder))
    return folder


@pytest.mark.parametrize("number", range(len(CASES)))
def test_processes_take_the_steps_of_one(number: int, trained: Path, tmp_path: Path):
    case = CASES[number]
    model, result = case.run(tmp_path, World())
    start = case.model().state_dict()
    for rank in range(case.size):
        found, header = read_tensors(trained / f"case-{number}-rank-{rank}.safetensors", "test", "")
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-9, msg=f"{name} of rank {rank}")
        assert header["resumed"] == (5 if case.cut else None)
        assert header["auc"] == pytest.approx([e.auc for e in result.evaluations], abs=1e-12)
        assert header["loss"] == pytest.approx([e.train_loss for e in result.evaluations], abs=1e-12)
        moved = max((found[name] - value).abs().max().item() for name, value in start.items())
        assert moved > 0.01  # there was something to agree on


def test_only_the_first_process_writes(trained: Path):
    states = sorted(path.name for path in trained.glob("state-*"))
    assert states == [f"state-{number}" for number in range(len(CASES))]
    assert not list(trained.rglob(".partial-*"))


def test_synchronise_shares_the_weights_and_restore_puts_the_layers_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    layer = model[1]
    replaced = synchronise(model)
    assert model[1] is not layer
    assert {name: id(value) for name, value in model[1].named_parameters()} == {
        name: id(value) for name, value in layer.named_parameters()
    }
    assert model[1].running_mean is layer.running_mean
    restore(replaced)
    assert model[1] is layer


@pytest.mark.parametrize(("rows", "size", "expected"), [(7, 3, [3, 2, 2]), (2, 3, [1, 1, 0]), (4, 2, [2, 2])])
def test_shares_cover_a_batch(rows: int, size: int, expected: list[int]):
    assert share_sizes(rows, World(0, size)) == expected


def test_a_world_of_one_without_torchrun():
    assert init_world({}) == World(0, 1)
    assert init_world({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}) == World()


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
)
def test_incomplete_variables_are_named(environment: dict[str, str]):
    with pytest.raises(ConfigError, match="torchrun"):
        init_world(environment)
