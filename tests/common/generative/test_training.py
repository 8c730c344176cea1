"""The training loop of generators: learning, determinism, resumption, early stop, time, the learning curve."""

import os
import signal
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import make_config
from common.errors import ConfigError, DataError, UserError
from common.generative.base import GenerativeRetriever
from common.generative.tiger import Tiger, TigerBatch, TigerBatches, TigerConfig
from common.generative.training import FitConfig, FitResult, fit_generator
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import make_optimizer
from common.training.schedule import ScheduleConfig

IDS = SemanticIdMap.random(12, (3, 3, 3), seed=0)
ITEMS = (np.arange(160) * 5 + np.repeat(np.arange(20), 8)) % 12  # each user walks in steps of 5: the next is known
OFFSETS = np.arange(0, 161, 8)
CONFIG = TigerConfig(dim=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, dropout=0.1, max_items=8)
FIT = FitConfig(epochs=3, schedule=ScheduleConfig(type="constant"))


def made(**options: Any) -> Tiger:
    torch.manual_seed(7)
    return Tiger(CONFIG.model_copy(update=options), IDS)


def batches(model: Tiger) -> TigerBatches:
    return model.batches(ITEMS, OFFSETS, seed=3, batch_size=40)


def accuracy(model: GenerativeRetriever) -> dict[str, float]:
    asked = [ITEMS[a : b - 1] for a, b in pairwise(OFFSETS)]
    found = model.generate(TigerBatch.of(asked), model.trie(), beam=4, top_k=1).items[:, 0].numpy()
    return {"recall@10": float((found == ITEMS[OFFSETS[1:] - 1]).mean())}


def run(folder: Path | None, fit: FitConfig = FIT, **options: Any) -> tuple[Tiger, FitResult]:
    model, options = made(), {"evaluate": accuracy} | options
    return model, fit_generator(model, batches(model), fit, seed=5, folder=folder, **options)


def bytes_of(model: Tiger) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("variant", [{}, {"attention": "bidirectional"}, {"history": "items"}, {"loss": "trie"}])
def test_a_small_set_is_learnt_by_heart(variant: dict[str, Any]) -> None:
    model = made(dropout=0.0, **variant)
    assert accuracy(model)["recall@10"] < 0.5
    fit = FitConfig(epochs=80, learning_rate=5e-3, schedule=ScheduleConfig(type="constant"), evaluate_every=20)
    result = fit_generator(model, batches(model), fit, evaluate=accuracy, seed=0)
    assert accuracy(model)["recall@10"] == 1.0
    assert result.curve[-1].loss < 0.2


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    first, second = run(None)[0], run(None)[0]
    assert bytes_of(first) == bytes_of(second)
    other = made()
    fit_generator(other, batches(other), FIT, seed=6)
    assert bytes_of(other) != bytes_of(first)


class Stop:
    """Batches that raise, or press Ctrl-C, at a chosen batch."""

    def __init__(self, inner: TigerBatches, at: int, how: str) -> None:
        self.inner, self.at, self.how, self.digest = inner, at, how, inner.digest

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, number: int) -> list[np.ndarray]:
        return self.inner.epoch(number)

    def make(self, rows: np.ndarray) -> TigerBatch:
        self.at -= 1
        if self.at == 0 and self.how == "crash":
            raise MemoryError
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner.make(rows)


@pytest.mark.parametrize("how", ["crash", "ctrl-c"])
@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(how: str, at: int, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    whole, wanted = run(None)
    model = made()
    assert len(batches(model)) == 4
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt if how == "ctrl-c" else MemoryError):
        fit_generator(
            model,
            Stop(batches(model), at, how),
            FIT,
            evaluate=accuracy,
            seed=5,
            folder=tmp_path,
            checkpoint_seconds=0 if how == "crash" else 1000,
        )
    assert signal.getsignal(signal.SIGINT) is before
    said: list[str] = []
    resumed, result = run(tmp_path, say=said.append)
    assert bytes_of(resumed) == bytes_of(whole)
    names = ("epoch", "step", "loss", "figures", "learning_rate")
    curves = [[[getattr(point, name) for name in names] for point in r.curve] for r in (result, wanted)]
    assert curves[0] == curves[1]
    done = at if how == "ctrl-c" else at - 1
    assert result.resumed_from == (done or None)
    assert ("goes on from step" in said[0]) == bool(done)
    assert not (tmp_path / "last").exists()


def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    run(tmp_path, keep=True)
    path = tmp_path / "last" / "state.safetensors"
    data = path.read_bytes()
    with pytest.raises(ConfigError, match=r"fit\.learning_rate"):
        run(tmp_path, FIT.model_copy(update={"learning_rate": 0.1}))
    model = made()
    with pytest.raises(ConfigError, match="data"):
        fit_generator(model, model.batches(ITEMS[:80], OFFSETS[:11], seed=3), FIT, seed=5, folder=tmp_path)
    assert path.read_bytes() == data
    path.write_bytes(data[:100])
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path)


def test_a_finished_run_that_is_asked_for_again_trains_nothing(tmp_path: Path) -> None:
    first, result = run(tmp_path, keep=True)
    again, second = run(tmp_path, keep=True)
    assert second.resumed_from == result.steps == 12
    assert bytes_of(first) == bytes_of(again)


def test_the_best_weights_are_kept_and_training_stops_without_a_gain() -> None:
    given = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    weights: list[dict[str, bytes]] = []

    def figures(model: GenerativeRetriever) -> Mapping[str, float]:
        assert not model.training
        assert isinstance(model, Tiger)
        weights.append(bytes_of(model))
        return {"recall@10": next(given), "other": 1.0}

    fit = FitConfig(epochs=9, patience=3)
    model, result = run(None, fit, evaluate=figures)
    assert (result.best, result.best_epoch, result.stopped, result.epochs) == (0.5, 2, "patience", 5)
    assert bytes_of(model) == weights[1]
    assert [p.figures["recall@10"] for p in result.curve] == [0.1, 0.5, 0.4, 0.5, 0.3]


def test_the_curve_has_the_loss_and_the_time_of_each_evaluation() -> None:
    _, result = run(None, FitConfig(epochs=5, evaluate_every=2))
    assert [(p.epoch, p.step) for p in result.curve] == [(2, 8), (4, 16), (5, 20)]
    assert result.curve[0].loss > result.curve[1].loss
    times = [0.0, *(p.seconds for p in result.curve)]
    assert times == sorted(set(times))
    assert result.cpu_seconds > 0
    assert result.seconds >= result.curve[-1].seconds


def test_without_an_evaluation_all_epochs_are_trained() -> None:
    model = made()
    result = fit_generator(model, batches(model), FIT, seed=5)
    assert (result.epochs, result.stopped, len(result.curve), result.best) == (3, "epochs", 3, float("-inf"))
    assert not model.training


def test_time_ends_a_run_and_more_time_goes_on(tmp_path: Path) -> None:
    short = FIT.model_copy(update={"max_seconds": 1e-6})
    _, result = run(tmp_path, short, keep=True, evaluate=None)
    assert (result.stopped, result.steps, len(result.curve)) == ("max_seconds", 1, 1)
    resumed, result = run(tmp_path, FIT, evaluate=None)
    assert (result.stopped, result.steps, result.resumed_from) == ("epochs", 12, 1)
    assert bytes_of(resumed) == bytes_of(run(None, FIT, evaluate=None)[0])


def test_the_figure_that_decides_must_exist() -> None:
    with pytest.raises(ConfigError, match="figure that decides"):
        run(None, FIT.model_copy(update={"figure": "recall@3"}))


def test_a_loss_that_is_not_finite_ends_training() -> None:
    model = made()
    with torch.no_grad():
        model.embedding.weight[1] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        fit_generator(model, batches(model), FIT, seed=0)


def test_weight_decay_acts_on_matrices_alone() -> None:
    groups = make_optimizer(made(), FIT, torch.device("cpu")).param_groups
    assert [g["weight_decay"] for g in groups] == [FIT.weight_decay, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(made().parameters()))


@pytest.mark.parametrize("values", [{"epochs": 0}, {"learning_rate": 0}, {"max_seconds": -1}, {"epoch": 3}])
def test_a_configuration_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="configuration has errors"):
        make_config(FitConfig, values, [], "here")
