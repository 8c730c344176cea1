"""Tiny tables with a planted preference, a tiny DIN, and the child processes of the training tests."""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from common.training import tensors
from common.training.distributed import World, init_world
from tests.processes import fork_all, write_port
from track2_mmctr.config import DcnV2Config, DinConfig, FeatureConfig, LossConfig, RunConfig, TrainConfig
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split, SplitName
from track2_mmctr.rankers import build_ranker
from track2_mmctr.rankers.base import Ranker
from track2_mmctr.training.loop import TrainResult, train

ITEMS, DIM = 40, 8
FEATURES = FeatureConfig(dim=4)


def make_items(seed: int = 0) -> ItemTable:
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(ITEMS, DIM)).astype(np.float32) * np.float32([2, 2] + [0.2] * (DIM - 2))
    tags, levels = rng.integers(0, 6, (ITEMS, 3)).astype(np.int32), rng.integers(1, 11, (2, ITEMS)).astype(np.int32)
    embedding[0], tags[0], levels[:, 0] = 0, 0, 0
    return ItemTable(tags, levels[0], levels[1], embedding, None, 6, f"items-{seed}")


def make_split(name: SplitName, rows: int, items: ItemTable, seed: int, *, placebo: bool = False) -> Split:
    """Rows whose label is drawn from how well the target goes with the mean of the history."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    history = rng.integers(1, ITEMS, offsets[-1]).astype(np.int32)
    target = rng.integers(1, ITEMS, rows).astype(np.int32)
    assert items.embedding is not None
    means = np.stack([items.embedding[history[a:b]].sum(0) for a, b in pairwise(offsets)])
    logit = (means * items.embedding[target]).sum(1) / np.sqrt(np.maximum(1, lengths))
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    if placebo:
        label = rng.permutation(label)
    levels = np.stack([items.likes[target], items.views[target]], axis=1)
    users = np.arange(rows, dtype=np.int64)
    return Split(name, users, history, offsets, target, levels, label, None, f"{name}-{seed}-{placebo}")


def make_data(train: int = 203, valid: int = 120, *, placebo: bool = False) -> CtrData:
    items = make_items()
    splits: dict[SplitName, Split] = {
        "train": make_split("train", train, items, 1, placebo=placebo),
        "valid": make_split("valid", valid, items, 2),
    }
    return CtrData(Path("tiny"), splits, items)


def make_config(dropout: float = 0.1, batch_norm: bool = True) -> RunConfig:
    ranker = DinConfig(
        type="din",
        attention_units=[8, 4],
        hidden_units=[8, 4],
        attention_dropout=dropout,
        net_dropout=dropout,
        batch_norm=batch_norm,
    )
    return RunConfig(name="tiny", ranker=ranker, features=FEATURES)


def make_model(
    data: CtrData, *, seed: int = 3, dropout: float = 0.1, batch_norm: bool = True, double: bool = False
) -> Ranker:
    """A tiny DIN. In double precision Adam has no rounding noise to blow up where a gradient is zero in theory."""
    torch.manual_seed(seed)
    model = build_ranker(make_config(dropout, batch_norm).ranker, FEATURES, data.items)
    return model.double() if double else model


def make_cross_network(data: CtrData, seed: int = 3) -> Ranker:
    """A tiny DCN-V2, without dropout."""
    torch.manual_seed(seed)
    config = DcnV2Config(type="dcnv2", hidden_units=[8, 4], net_dropout=0)
    return build_ranker(config, FEATURES, data.items)


SMALL = TrainConfig(epochs=3, batch_size=32, learning_rate=0.01, evaluations=2, patience=9, average=2)


def run(
    model: Ranker, data: CtrData, folder: Path, config: TrainConfig = SMALL, loss: LossConfig | None = None, **more
) -> TrainResult:
    loss = loss or LossConfig()
    given = {"max_len": 6, "seed": 5, "device": "cpu", "folder": folder, "say": lambda _: None} | more
    return train(model, data, config, loss, **given)


def weights(model: Ranker) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


class Bomb(Exception):
    """What ends a training run in the middle of a step."""


def explode_at(model: Ranker, forward: int, act=None) -> None:
    """Make the model's training forward pass number `forward` (from 1) raise `Bomb`, or do `act()`."""
    count = 0

    def hook(*_: object) -> None:
        nonlocal count
        count += model.training
        if count == forward and model.training:
            if act is None:
                raise Bomb
            act()

    model.register_forward_pre_hook(hook)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child_killed(where: str, folder: Path) -> None:
    """Train with a checkpoint after each step, and die by SIGKILL in a step, or half-way through a write."""
    data = make_data()
    model = make_model(data)
    if where == "step":
        explode_at(model, 10, _die)
    else:
        count, save = 0, tensors.save_file

        def half(values, path, metadata) -> None:
            nonlocal count
            count += 1
            save(values, path, metadata=metadata)
            if count == 10:
                os.truncate(path, Path(path).stat().st_size // 2)
                _die()

        tensors.save_file = half
    run(model, data, folder, checkpoint_seconds=0)


DISTRIBUTED = TrainConfig(epochs=2, batch_size=50, learning_rate=0.01, patience=9)


@dataclass(frozen=True)
class Case:
    """One training run that several processes must repeat; the last batch of an epoch has `rows % 50` rows."""

    size: int
    rows: int
    pairwise: float = 0.0
    accumulate: int = 1
    batch_norm: bool = True
    cut: int = 0
    """Several processes break off at this forward pass, and go on from the checkpoint."""

    def model(self) -> Ranker:
        return make_model(make_data(self.rows), dropout=0.0, batch_norm=self.batch_norm, double=True)

    def run(self, folder: Path, world: World) -> tuple[Ranker, TrainResult]:
        model, config = self.model(), DISTRIBUTED.model_copy(update={"accumulate": self.accumulate})
        loss = LossConfig(pairwise=self.pairwise, positive_weight=1.5)
        if self.cut and world.size > 1:
            explode_at(first := self.model(), self.cut)
            with suppress(Bomb):
                run(first, make_data(self.rows), folder, config, loss, world=world)
        return model, run(model, make_data(self.rows), folder, config, loss, world=world)


CASES = [
    Case(size=2, rows=203),
    Case(size=2, rows=203, pairwise=0.4),
    Case(size=2, rows=203, accumulate=3),
    Case(size=2, rows=151, batch_norm=False),  # the second process has no row of the last batch
    Case(size=2, rows=203, cut=8),
    Case(size=3, rows=152, pairwise=0.4),  # nor has the third one here, with batch norm
]


def _process(folder: Path, rank: int, size: int) -> None:
    """Train every case of a world of `size`, as a process that torchrun has started."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / f"port-{size}").read_text()}
    world = init_world({"RANK": str(rank), "WORLD_SIZE": str(size)} | address)
    for number, case in enumerate(CASES):
        if case.size == size:
            model, result = case.run(folder / f"state-{number}", world)
            header: dict[str, object] = {
                "format": "test",
                "resumed": result.resumed_from,
                "auc": [e.auc for e in result.evaluations],
            }
            header["loss"] = [e.train_loss for e in result.evaluations]
            tensors.write_tensors(folder / f"case-{number}-rank-{rank}.safetensors", model.state_dict(), header)
    torch.distributed.destroy_process_group()


def _worlds(folder: Path) -> None:
    """Start worlds of two and of three processes."""
    for size in (2, 3):
        write_port(folder / f"port-{size}")
    fork_all(_process, [(folder, rank, size) for size in (2, 3) for rank in range(size)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "distributed":
        _worlds(Path(sys.argv[2]))
    else:
        _child_killed(sys.argv[1], Path(sys.argv[2]))
