import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError, UserError
from common.metrics.ctr import auc
from common.training.repeatable import step_seed
from common.training.schedule import Schedule, evaluation_points
from tests.processes import one_thread as one_thread
from tests.track2.tiny_training import (
    SMALL,
    explode_at,
    make_cross_network,
    make_data,
    make_model,
    make_split,
    run,
    weights,
)
from track2_mmctr.batches import make_batch
from track2_mmctr.config import LossConfig, ScheduleConfig, TrainConfig
from track2_mmctr.training.averaging import average_weights, copy_weights
from track2_mmctr.training.losses import ctr_loss
from track2_mmctr.training.predict import predict
from track2_mmctr.training.setup import make_optimizer

LEARN = TrainConfig(epochs=5, batch_size=64, learning_rate=0.02, patience=8, schedule=ScheduleConfig(type="constant"))


def valid_auc(model, data) -> float:
    return auc(data.splits["valid"].label, predict(model, data.splits["valid"], max_len=6, device="cpu"))


def test_training_finds_the_planted_preference_and_shuffled_labels_have_none(tmp_path: Path):
    real, placebo = make_data(1500, 800), make_data(1500, 800, placebo=True)
    learnt, nothing = make_model(real, dropout=0.0), make_model(placebo, dropout=0.0)
    run(learnt, real, tmp_path / "real", LEARN)
    run(nothing, placebo, tmp_path / "placebo", LEARN)
    fresh = make_split("test", 2000, real.items, 9)
    scores = [auc(fresh.label, predict(model, fresh, max_len=6, device="cpu")) for model in (learnt, nothing)]
    assert scores[0] > 0.73 and scores[1] == pytest.approx(0.5, abs=0.05)


def test_the_model_ends_with_the_weights_of_the_best_evaluation(tmp_path: Path):
    data = make_data()
    model = make_model(data)
    config = TrainConfig(epochs=30, batch_size=32, learning_rate=0.05, patience=2)
    result = run(model, data, tmp_path, config)
    scores = [evaluation.auc for evaluation in result.evaluations]
    assert result.best_auc == max(scores) > scores[-1]
    assert valid_auc(model, data) == pytest.approx(result.best_auc, abs=1e-12)
    assert result.stopped == "patience" and len(scores) == int(np.argmax(scores)) + 1 + 2
    assert result.epochs == len(scores) < 30 and result.steps == 7 * len(scores)


def test_evaluations_within_an_epoch_and_the_row_limit(tmp_path: Path):
    data = make_data()
    seen = []
    config = TrainConfig(epochs=2, batch_size=32, evaluations=3, patience=99, rows=100)
    result = run(make_model(data), data, tmp_path, config, on_evaluation=seen.append)
    assert [(e.epoch, e.step) for e in seen] == [(1, 2), (1, 3), (1, 4), (2, 6), (2, 7), (2, 8)]
    assert result.stopped == "epochs" and result.evaluations == seen


def test_rows_beyond_the_limit_are_never_read(tmp_path: Path):
    data, other = make_data(), make_data()
    other.train.label[100:] = 1 - other.train.label[100:]
    config = SMALL.model_copy(update={"rows": 100})
    one, two = make_model(data), make_model(other)
    run(one, data, tmp_path / "one", config)
    run(two, other, tmp_path / "two", config)
    assert weights(one) == weights(two)


def test_what_the_callback_raises_ends_the_training(tmp_path: Path):
    def prune(evaluation) -> None:
        raise RuntimeError(f"pruned at {evaluation.step}")

    data = make_data()
    with pytest.raises(RuntimeError, match="pruned at 4"):
        run(make_model(data), data, tmp_path, on_evaluation=prune)


def test_two_runs_have_the_same_bytes_and_another_seed_has_not(tmp_path: Path):
    torch.set_num_threads(2)  # the order of sums must not depend on which thread comes first
    data = make_data(1500)
    models = [make_model(data) for _ in range(3)]
    config = TrainConfig(epochs=1, batch_size=750, learning_rate=0.01)
    for number, (model, seed) in enumerate(zip(models, (5, 5, 6), strict=True)):
        torch.manual_seed(number)  # the caller's random state has no say
        run(model, data, tmp_path / str(number), config, seed=seed)
    assert weights(models[0]) == weights(models[1]) != weights(models[2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_step_is_adam_on_the_clipped_mean_gradient_with_the_regulariser_outside(tmp_path: Path):
    data = make_data(24)
    config = TrainConfig(epochs=1, batch_size=24, clip_norm=0.05, embedding_regularizer=0.3, net_regularizer=0.2)
    model, oracle = (make_model(data, dropout=0.0, double=True) for _ in range(2))
    run(model, data, tmp_path, config)
    oracle.train()
    batch = make_batch(data.train, np.arange(24), 6)
    ctr_loss(oracle(batch), batch.label.double(), LossConfig()).backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in oracle.parameters()))
    assert norm > 0.05
    for (name, parameter), after in zip(oracle.named_parameters(), model.parameters(), strict=True):
        table = name.startswith("encoder.") and "projection" not in name
        gradient = parameter.grad * 0.05 / norm + (0.3 if table else 0.2) * parameter.detach()
        expected = parameter.detach() - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), expected, rtol=0, atol=1e-8, msg=name)


def test_embedding_tables_and_other_weights_are_all_in_one_of_two_groups():
    model = make_model(make_data(10))
    config = TrainConfig(embedding_regularizer=0.3, net_regularizer=0.2)
    tables, rest = make_optimizer(model, config, torch.device("cpu")).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in tables["params"]} == {
        f"encoder.{n}.weight" for n in ("ids", "tags", "likes", "views")
    }
    assert len(tables["params"]) + len(rest["params"]) == len(names)
    assert (tables["weight_decay"], rest["weight_decay"]) == (0.3, 0.2)


def test_accumulated_parts_make_the_same_step(tmp_path: Path):
    data = make_data()
    whole, parts = (make_model(data, dropout=0.0, batch_norm=False, double=True) for _ in range(2))
    first = run(whole, data, tmp_path / "whole", SMALL)
    second = run(parts, data, tmp_path / "parts", SMALL.model_copy(update={"accumulate": 5}))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)
    assert [e.train_loss for e in second.evaluations] == pytest.approx([e.train_loss for e in first.evaluations], 1e-5)


def test_accumulation_trains_with_batch_norm_too(tmp_path: Path):
    data = make_data(35)  # a last batch of 3 rows, which is not cut into single rows
    assert run(make_model(data), data, tmp_path, SMALL.model_copy(update={"accumulate": 16})).steps == 6


def test_a_single_last_row_is_left_out_with_batch_norm_and_said(tmp_path: Path):
    data = make_data(65)
    said: list[str] = []
    assert run(make_model(data), data, tmp_path / "with", say=said.append).steps == 3 * 2
    assert any("left out" in line for line in said)
    said.clear()
    assert run(make_model(data, batch_norm=False), data, tmp_path / "without", say=said.append).steps == 3 * 3
    assert not any("left out" in line for line in said)


def test_bfloat16_stays_close(tmp_path: Path):
    data = make_data(1000, 500)
    config = LEARN.model_copy(update={"epochs": 3})
    full, half = make_cross_network(data), make_cross_network(data)
    best = run(full, data, tmp_path / "full", config).best_auc
    other = run(half, data, tmp_path / "half", config.model_copy(update={"amp": True})).best_auc
    assert weights(full) != weights(half)
    assert other == pytest.approx(best, abs=0.03) and best > 0.65
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


@pytest.mark.slow
def test_a_compiled_ranker_trains_to_the_same_weights_under_the_same_names(tmp_path: Path):
    data = make_data(96, 50)
    plain, compiled = make_cross_network(data).double(), make_cross_network(data).double()
    config = TrainConfig(epochs=1, batch_size=32)
    run(plain, data, tmp_path / "plain", config)
    run(compiled, data, tmp_path / "compiled", config.model_copy(update={"compile": True}))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=0, atol=1e-8, msg=name)


def test_averaging_keeps_the_better_of_both(tmp_path: Path):
    data = make_data(400, 300)
    model = make_model(data)
    config = TrainConfig(epochs=6, batch_size=32, learning_rate=0.05, patience=9, average=3)
    result = run(model, data, tmp_path, config)
    averages = [e.average_auc for e in result.evaluations if e.average_auc is not None]
    assert len(averages) == 5 and result.evaluations[0].average_auc is None
    assert result.best_auc == max(*averages, *(e.auc for e in result.evaluations))
    assert valid_auc(model, data) == pytest.approx(result.best_auc, abs=1e-12)


def test_the_average_of_weights_is_their_mean():
    data = make_data(10)
    models = [copy_weights(make_model(data, seed=seed)) for seed in range(3)]
    models[2]["head.1.num_batches_tracked"] += 4
    mean = average_weights(models)
    for name, value in mean.items():
        if torch.is_floating_point(value):
            expected = np.mean([m[name].numpy() for m in models], axis=0)
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert mean["head.1.num_batches_tracked"].item() == 4


def test_plateau_rates():
    schedule = Schedule(ScheduleConfig(type="plateau", factor=0.5, floor=1e-4), 1e-3, 100)
    assert [schedule.rate(50, losses) for losses in range(6)] == [1e-3, 5e-4, 2.5e-4, 1.25e-4, 1e-4, 1e-4]


def test_the_plateau_halves_after_each_evaluation_without_a_gain(tmp_path: Path):
    data = make_data()
    config = TrainConfig(
        epochs=9, batch_size=32, learning_rate=0.05, patience=9, schedule=ScheduleConfig(factor=0.5, floor=1e-3)
    )
    best, losses, expected = -1.0, 0, []
    for done in (result := run(make_model(data), data, tmp_path, config)).evaluations:
        expected.append(max(1e-3, 0.05 * 0.5**losses))
        losses += done.auc <= best + 1e-6
        best = max(best, done.auc)
    assert [e.learning_rate for e in result.evaluations] == pytest.approx(expected) and losses


def test_cosine_and_warmup_rates():
    cosine = Schedule(ScheduleConfig(type="cosine", floor=1e-4, warmup_steps=0), 1e-3, 100)
    assert cosine.rate(0) == 1e-3 and cosine.rate(100) == pytest.approx(1e-4)
    assert cosine.rate(50) == pytest.approx((1e-3 + 1e-4) / 2)
    warm = Schedule(ScheduleConfig(type="constant", warmup_steps=4), 1.0, 100)
    assert [warm.rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(("steps", "times", "expected"), [(10, 1, {10}), (3, 5, {1, 2, 3}), (7, 2, {4, 7})])
def test_evaluations_are_spread_over_an_epoch(steps: int, times: int, expected: set[int]):
    assert evaluation_points(steps, times) == expected


def test_each_step_has_its_own_randomness():
    seeds = {step_seed(7, epoch, batch, rank) for epoch in range(4) for batch in range(4) for rank in range(4)}
    assert len(seeds) == 64 and min(seeds) >= 0


def test_predictions_are_in_the_order_of_the_split_whatever_the_batch():
    data = make_data()
    model, split = make_model(data).train(), data.splits["valid"]
    whole = predict(model, split, max_len=6, device="cpu")
    small = predict(model, split, max_len=6, device="cpu", batch_size=7)
    alone = [model.eval()(make_batch(split, np.array([row]), 6)).item() for row in range(len(split))]
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    np.testing.assert_allclose(small, alone, atol=1e-6)
    assert whole.dtype == np.float64


def test_predicting_leaves_the_mode_of_the_model():
    data = make_data(10)
    model = make_model(data).train()
    predict(model, data.splits["valid"], max_len=6, device="cpu")
    assert model.training


def test_a_prediction_that_is_not_a_number_is_an_error():
    data = make_data(10)
    model = make_model(data)
    with torch.no_grad():
        model.head[-1].bias.fill_(float("nan"))
    with pytest.raises(DataError, match="valid, row 0"):
        predict(model, data.splits["valid"], max_len=6, device="cpu")


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_remedy(tmp_path: Path):
    data = make_data()
    model = make_model(data)
    config = TrainConfig(epochs=3, batch_size=32, learning_rate=1e30)
    with pytest.raises(UserError, match=r"not finite[\s\S]*epoch 1, step 2[\s\S]*learning_rate"):
        run(model, data, tmp_path, config)


def test_settings_that_exclude_each_other(tmp_path: Path):
    data = make_data(10)
    config = SMALL.model_copy(update={"accumulate": 2})
    with pytest.raises(ConfigError, match="accumulate"):
        run(make_model(data), data, tmp_path, config, LossConfig(pairwise=0.5))
    with pytest.raises(ConfigError, match="batch norm"):
        run(make_model(data), data, tmp_path, SMALL.model_copy(update={"batch_size": 1}))


def test_training_without_a_valid_split_or_with_one_class_says_so(tmp_path: Path):
    data = make_data(10)
    valid = data.splits.pop("valid")
    with pytest.raises(DataError, match="valid"):
        run(make_model(data), data, tmp_path)
    valid.label[:] = 0
    data.splits["valid"] = valid
    with pytest.raises(DataError, match="both classes"):
        run(make_model(data), data, tmp_path)


def test_ctrl_c_ends_the_step_saves_and_goes_on_later(tmp_path: Path):
    data = make_data()
    whole, model, again = make_model(data), make_model(data), make_model(data)
    run(whole, data, tmp_path / "whole")
    explode_at(model, 6, lambda: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is handler
    assert run(again, data, tmp_path / "cut").resumed_from == 6
    assert weights(again) == weights(whole)
