"""The training loop on any module with a loss: frozen weights stay, and are in no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.products import exact
from common.training.fit import FitConfig, fit_model
from common.training.fit_state import copy_weights, learnt_state, restore
from common.training.schedule import ScheduleConfig

FIT = FitConfig(epochs=4, learning_rate=0.05, weight_decay=0.01, schedule=ScheduleConfig(type="constant"))


@dataclass(frozen=True)
class Pairs:
    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(self.x.to(device), self.y.to(device))


class Numbers:
    digest = "numbers"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.normal(size=(60, 4)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 0.0])

    def __len__(self) -> int:
        return 6

    def epoch(self, number: int) -> list[np.ndarray]:
        return np.array_split(np.random.default_rng(number).permutation(60), 6)

    def make(self, rows: np.ndarray) -> Pairs:
        return Pairs(self.x[rows], self.y[rows])


class Adapted(nn.Module):
    """A learnt map over a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 8).requires_grad_(False)
        self.head = nn.Linear(8, 1)
        self.register_buffer("steps", torch.zeros(1))
        self.steps: Tensor

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        self.steps += 1
        return {"loss": (self.head(self.base(batch.x)).squeeze(1) - batch.y).square().mean()}


def made() -> Adapted:
    torch.manual_seed(3)
    return Adapted()


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_frozen_weights_are_neither_trained_nor_decayed_nor_kept() -> None:
    model, before = made(), bytes_of(made())
    result = fit_model(model, Numbers(), FIT.model_copy(update={"epochs": 30}), key={}, seed=1)
    after = bytes_of(model)
    assert {name for name in after if after[name] != before[name]} == {"head.weight", "head.bias", "steps"}
    assert result.curve[-1].loss < 0.1 * result.curve[0].loss
    assert set(learnt_state(model)) == {"head.weight", "head.bias", "steps"}


class Crash(Numbers):
    """Fails when its n-th batch is made."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def make(self, rows: np.ndarray) -> Pairs:
        self.left -= 1
        if self.left == 0:
            raise MemoryError
        return super().make(rows)


def test_an_interrupted_training_ends_with_the_same_bytes_and_keeps_no_frozen_weight(tmp_path: Path) -> None:
    whole, resumed = made(), made()
    fit_model(whole, Numbers(), FIT, key={"a": 1}, seed=1)
    with pytest.raises(MemoryError):
        fit_model(made(), Crash(9), FIT, key={"a": 1}, seed=1, folder=tmp_path, checkpoint_seconds=0)
    assert b"base.weight" not in (tmp_path / "last" / "state.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"model\.a"):
        fit_model(made(), Numbers(), FIT, key={"a": 2}, seed=1, folder=tmp_path)
    result = fit_model(resumed, Numbers(), FIT, key={"a": 1}, seed=1, folder=tmp_path)
    assert result.resumed_from == 8 and bytes_of(resumed) == bytes_of(whole)


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    model = made()
    torch.manual_seed(11)
    fit_model(model, Numbers(), FIT, key={}, seed=1)
    assert torch.equal(torch.rand(3), wanted)


def test_weights_of_another_model_are_refused() -> None:
    model = made()
    kept = copy_weights(model)
    with torch.no_grad():
        model.head.weight.zero_()
    restore(model, kept)
    assert bytes_of(model) == bytes_of(made())
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        restore(model, {name: value for name, value in kept.items() if name != "head.bias"})


def test_small_steps_keep_the_products_of_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    model, used = made(), set[str]()
    hook = model.head.register_forward_pre_hook(lambda *_: used.add(torch.get_float32_matmul_precision()))
    fit_model(model, Numbers(), FIT, key={}, seed=1)
    assert used == {"highest"}
    used.clear()
    monkeypatch.setattr("common.training.fit.WORTH", 49 * 10)  # weights times rows of a step
    fit_model(model, Numbers(), FIT, key={}, seed=1)
    assert used == {"medium" if exact() else "highest"}
    hook.remove()
