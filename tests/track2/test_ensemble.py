"""`ensemble`: planted runs whose best combination is known; placebo arms; every mismatch is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from common.config import read_yaml
from common.errors import ConfigError, DataError
from common.experiment import read_log
from common.logits import sigmoid
from common.metrics.ctr import auc, log_loss
from common.metrics.ctr_intervals import delong
from common.submission.mmctr import read_submission
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split, SplitName
from track2_mmctr.ensemble import EnsembleConfig, EnsembleResult, Method, combine, common_task, ensemble, spearman
from track2_mmctr.ensemble_table import render_ensemble
from track2_mmctr.ensemble_weights import cross_fit, fit_stack, scaled_ranks, user_folds
from track2_mmctr.predictions import predictions_path, read_predictions, write_predictions

ITEMS = 40


def make_split(name: SplitName, rows: int, label: np.ndarray | None, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    length = rng.integers(0, 4, rows)
    return Split(
        name,
        users=np.arange(rows) // 4 + seed * 10_000,
        history=rng.integers(1, ITEMS, length.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(length)]),
        target=rng.integers(1, ITEMS, rows).astype(np.int32),
        levels=np.ones((rows, 2), np.int32),
        label=None if label is None else label.astype(np.float32),
        ids=rng.permutation(rows) + 3 if name == "test" else None,
        digest=name,
    )


class Planted:
    """Runs `a` and `b` know one part each of the log-odds 1.2 a + 0.6 b - 0.5; `noise` knows nothing."""

    weights = np.array([1.2, 0.6])

    def __init__(self, home: Path, rows: int = 4000, seed: int = 1, answers: bool = True) -> None:
        self.home, rng = home, np.random.default_rng(seed)
        self.columns: dict[str, dict[str, np.ndarray]] = {}
        self.truth: dict[str, np.ndarray] = {}
        splits: dict[SplitName, Split] = {}
        sizes: dict[SplitName, int] = {"train": 200, "valid": rows, "test": rows}
        for number, (name, count) in enumerate(sizes.items()):
            a, b, noise = rng.normal(size=(3, count))
            self.truth[name] = 1.2 * a + 0.6 * b - 0.5
            self.columns[name] = {"a": a, "b": b, "noise": noise}
            label = rng.random(count) < sigmoid(self.truth[name])
            splits[name] = make_split(name, count, label if answers or name != "test" else None, number)
        zeros = np.zeros(ITEMS, np.int32)
        items = ItemTable(np.zeros((ITEMS, 1), np.int32), zeros, zeros, None, None, 1, "items")
        self.data = CtrData(home, splits, items)

    def label(self, name: SplitName = "valid") -> np.ndarray:
        label = self.data.splits[name].label
        assert label is not None
        return label

    def run(self, *names: str, splits: tuple[SplitName, ...] = ("valid", "test"), folder: str = "runs") -> list[Path]:
        """Write the predictions of runs as a run does."""
        made: list[Path] = []
        for name in names:
            made.append(self.home / folder / name)
            for split in splits:
                write_predictions(made[-1], self.data.splits[split], self.columns[split][name])
        return made

    def combine(self, folders: list[Path], method: Method = "stacked", **options: Any) -> EnsembleResult:
        place = {"runs": self.home / "runs", "repository": None, "say": lambda _: None}
        return ensemble(folders, self.data, self.home / "out.zip", method=method, **(place | options))


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


# --- the methods ---


def test_stacking_recovers_the_planted_weights_and_reaches_the_oracle(tmp_path: Path) -> None:
    planted = Planted(tmp_path, rows=20_000)
    result = planted.combine(planted.run("a", "b"))
    assert result.config.weights == pytest.approx([1.2, 0.6], abs=0.06)  # standard errors 0.02
    assert result.config.intercept == pytest.approx(-0.5, abs=0.06)
    for name in ("valid", "test"):
        oracle = auc(planted.label(name), planted.truth[name])
        assert result.scores.overall[name].auc == pytest.approx(oracle, abs=0.001)
        assert result.scores.overall[name].auc > max(one.auc for one in result.scores.members[name]) + 0.02
    assert result.scores.gain.value > 5 * result.scores.gain.error and result.scores.gain.p < 1e-6


def test_a_useless_run_gets_no_weight(planted: Planted) -> None:
    result = planted.combine(planted.run("a", "b", "noise"))
    assert result.config.weights[2] < 0.08 < 0.5 < result.config.weights[1]
    free = planted.combine(planted.run("a", "b", "noise"), non_negative=False)
    assert abs(free.config.weights[2]) < 0.1


def test_a_run_turned_round_is_left_out_or_turned_back(planted: Planted) -> None:
    for split in ("valid", "test"):
        planted.columns[split]["b"] *= -1
    folders = planted.run("a", "b")
    assert planted.combine(folders).config.weights[1] == 0
    assert planted.combine(folders, non_negative=False).config.weights[1] == pytest.approx(-0.6, abs=0.12)


def test_a_constant_run_and_a_run_given_in_another_name_do_no_harm(planted: Planted) -> None:
    for split in ("valid", "test"):
        planted.columns[split] |= {"flat": np.full(4000, 0.3), "twin": planted.columns[split]["a"] * 2}
    alone = planted.combine(planted.run("a", "b"))
    result = planted.combine(planted.run("a", "b", "flat", "twin"))
    assert result.config.weights[2] == 0 and min(result.config.weights) >= 0
    assert result.config.weights[0] + 2 * result.config.weights[3] == pytest.approx(alone.config.weights[0], rel=0.01)
    assert result.scores.overall["test"].auc == pytest.approx(alone.scores.overall["test"].auc, abs=1e-4)
    assert np.isnan(result.scores.correlation[2, 0]) and result.scores.correlation[0, 3] == pytest.approx(1)


@pytest.mark.parametrize("non_negative", [True, False])
def test_shuffled_labels_give_an_out_of_fold_auc_of_a_half(tmp_path: Path, non_negative: bool) -> None:
    """The placebo: what is fitted on shuffled labels is worth nothing on users that were held out."""
    found: list[float] = []
    inside: list[float] = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        logits, users = rng.normal(size=(400, 6)), np.arange(400) // 4
        label = (rng.random(400) < 0.2).astype(np.float32)
        stack, held_out = cross_fit(logits, label, users, folds=5, seed=seed, non_negative=non_negative)
        found.append(auc(label, held_out))
        inside.append(auc(label, stack(logits)))
    spread = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < 3 * spread + 0.005
    assert np.mean(inside) > 0.53, "in-sample figures flatter: the test can tell the two apart"


def test_folds_hold_users_together() -> None:
    users = np.random.default_rng(0).integers(0, 37, 500)
    fold = user_folds(users, 5, 3)
    assert all(len(set(fold[users == user])) == 1 for user in set(users))
    assert set(fold) == set(range(5))
    assert np.bincount([fold[users == user][0] for user in set(users)]).tolist() == [8, 8, 7, 7, 7]
    assert not np.array_equal(fold, user_folds(users, 5, 4))
    assert set(user_folds(np.array([4, 4, 9]), 5, 0)) == {0, 1}


def test_out_of_fold_logits_do_not_know_the_user(planted: Planted) -> None:
    """Changing a user's labels changes no logit of this user but by the one constant that all rows share."""
    logits = np.column_stack([planted.columns["valid"][name] for name in ("a", "b")])
    users, label = planted.data.splits["valid"].users, planted.label()
    _, before = cross_fit(logits, label, users, folds=5, seed=1)
    mine = users == users[0]
    _, after = cross_fit(logits, np.where(mine, 1 - label, label), users, folds=5, seed=1)
    shift = (after - before)[mine]
    assert np.ptp(shift) < 1e-12
    assert np.ptp((after - before)[~mine]) > 1e-6


def test_the_regression_is_at_its_optimum(planted: Planted) -> None:
    logits = np.column_stack([planted.columns["valid"][name] for name in ("a", "b", "noise")])
    label = planted.label()
    stack = fit_stack(logits, label, non_negative=False)
    spread = logits.std(axis=0)

    def loss(weights: np.ndarray, intercept: float) -> float:
        return log_loss(label, logits @ weights + intercept) + 0.5 * ((weights * spread) ** 2).sum() / len(label)

    best = loss(stack.weights, stack.intercept)
    for step in np.eye(3) * 1e-3:
        assert min(loss(stack.weights + step, stack.intercept), loss(stack.weights - step, stack.intercept)) > best
    assert min(loss(stack.weights, stack.intercept + s) for s in (1e-3, -1e-3)) > best


def test_separable_runs_have_a_finite_answer() -> None:
    label = np.array([0, 1] * 20, np.float32)
    stack = fit_stack((label * 2 - 1)[:, None].astype(np.float64), label)
    assert 1 < stack.weights[0] < 50


def test_scales_and_shifts_of_runs_do_not_matter(planted: Planted) -> None:
    plain = planted.combine(planted.run("a", "b"))
    for split in ("valid", "test"):
        planted.columns[split]["b"] = 1000 * planted.columns[split]["b"] + 77
    scaled = planted.combine(planted.run("a", "b", folder="scaled"))
    assert scaled.config.weights[1] == pytest.approx(plain.config.weights[1] / 1000, rel=1e-4)
    assert scaled.scores.overall["test"].auc == pytest.approx(plain.scores.overall["test"].auc, abs=1e-6)


def test_mean_is_the_mean_and_rank_the_mean_rank(planted: Planted) -> None:
    folders = planted.run("a", "b")
    a, b = planted.columns["test"]["a"], planted.columns["test"]["b"]
    mean = planted.combine(folders, "mean")
    made = read_predictions(predictions_path(mean.folder, "test"))
    assert np.allclose(made.logits, (a + b) / 2, atol=1e-12) and mean.config.weights == [0.5, 0.5]
    assert mean.scores.overall["test"].auc > max(one.auc for one in mean.scores.members["test"])
    planted.combine(folders, "rank")
    place = [np.argsort(np.argsort(x)) for x in (a, b)]
    wanted = (place[0] + place[1] + 1) / (2 * len(a))
    written = read_submission(planted.home / "out.zip").column("Task2")
    assert np.allclose(written, wanted, atol=1e-9) and written.min() > 0 and written.max() < 1
    monotone = {"test": np.exp(3 * np.column_stack([a, b])), "valid": np.column_stack([a, b])}
    same = combine(monotone, planted.data, "rank")  # pyright: ignore[reportArgumentType]
    assert np.allclose(sigmoid(same.logits["test"]), wanted), "ranks are the same for any scale"
    weighed = planted.combine(folders, "mean", weights=[3, 1])
    assert weighed.config.weights == [0.75, 0.25]
    assert weighed.scores.overall["test"].auc > mean.scores.overall["test"].auc, "nearer to the planted 2 : 1"


def test_tied_ranks_share_their_mean() -> None:
    assert scaled_ranks(np.array([[5.0], [5.0], [7.0], [1.0]])).ravel().tolist() == [0.5, 0.5, 0.875, 0.125]


def test_an_infinite_logit_has_a_rank_but_no_mean(planted: Planted) -> None:
    planted.columns["test"]["b"][7] = -np.inf
    folders = planted.run("a", "b")
    assert planted.combine(folders, "rank").scores.overall["test"].auc > 0.6
    for method in ("mean", "stacked"):
        with pytest.raises(DataError, match="run b are infinite") as error:
            planted.combine(folders, method)
        assert "row 7" in str(error.value)


def test_correlations_are_spearman_s() -> None:
    x = np.random.default_rng(0).normal(size=500)
    found = spearman(np.column_stack([x, np.exp(x), -(x**3)]))
    assert found == pytest.approx(np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1]]))


# --- what is left behind ---


def test_the_run_folder_and_the_submission_are_those_of_a_run(planted: Planted) -> None:
    result = planted.combine(planted.run("a", "b"))
    test, valid = planted.data.splits["test"], planted.data.splits["valid"]
    made = read_predictions(predictions_path(result.folder, "test"))
    submitted = read_submission(planted.home / "out.zip")
    assert test.ids is not None and np.array_equal(submitted.ids, test.ids)
    assert np.allclose(submitted.column("Task2"), sigmoid(made.logits), rtol=1e-8)
    weights, intercept = np.array(result.config.weights), result.config.intercept
    columns = np.column_stack([planted.columns["test"][name] for name in ("a", "b")])
    assert np.array_equal(made.logits, columns @ weights + intercept)
    held_out = read_predictions(predictions_path(result.folder, "valid"))
    assert held_out.label is not None and np.array_equal(held_out.users, valid.users)
    assert delong(held_out.label, held_out.logits) == result.scores.overall["valid"]
    (line,) = read_log(planted.home / "runs")
    assert line["status"] == "finished" and line["track"] == "track2" and line["config"] == "ensemble"
    assert line["metrics"]["valid_auc"] == result.scores.overall["valid"].auc
    assert [run["run"] for run in line["metrics"]["runs"]] == ["a", "b"]
    assert EnsembleConfig.model_validate(read_yaml(result.folder / "config.yaml")) == result.config
    assert result.submission == planted.home / "out.zip" and result.validation is not None and result.validation.ok


def test_an_ensemble_is_a_run_for_another_ensemble_and_for_a_comparison(planted: Planted) -> None:
    from track2_mmctr.evaluate import score_path

    first = planted.combine(planted.run("a", "b"))
    score = score_path(first.folder, planted.data, resamples=20)
    assert {name: report.headline for name, report in score.reports.items()} == {
        name: one.auc for name, one in first.scores.overall.items()
    }
    second = planted.combine([first.folder, *planted.run("noise")])
    assert second.scores.overall["test"].auc == pytest.approx(first.scores.overall["test"].auc, abs=0.005)


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    def made(home: Path) -> list[bytes]:
        planted = Planted(home)
        result = planted.combine(planted.run("a", "b", "noise"))
        paths = [planted.home / "out.zip", *(predictions_path(result.folder, name) for name in ("valid", "test"))]
        return [path.read_bytes() for path in paths]

    assert made(tmp_path / "first") == made(tmp_path / "second")


def test_the_order_of_the_runs_changes_no_probability_to_speak_of(planted: Planted) -> None:
    one = planted.combine(planted.run("a", "b"))
    other = planted.combine(planted.run("b", "a"))
    assert one.config.weights == pytest.approx(other.config.weights[::-1], rel=1e-5)


def test_without_answers_and_without_a_test_set(tmp_path: Path) -> None:
    planted = Planted(tmp_path, answers=False)
    result = planted.combine(planted.run("a", "b"))
    assert set(result.scores.overall) == {"valid"} and result.submission is not None
    splits = {name: split for name, split in planted.data.splits.items() if name == "valid"}
    planted.data = replace(planted.data, splits=splits)
    (tmp_path / "out.zip").unlink()
    said: list[str] = []
    alone = planted.combine(planted.run("a", "b", splits=("valid",)), say=said.append)
    assert alone.submission is None and said == ["no test.parquet: no submission"]
    assert not (tmp_path / "out.zip").exists()


def test_the_table_tells_runs_weights_and_correlations(planted: Planted) -> None:
    result = planted.combine(planted.run("a", "b"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_ensemble(result))
    text = console.export_text()
    assert all(any(cell.strip() == run for cell in text.split("│")) for run in ("a", "b", "ensemble"))
    assert f"{result.scores.overall['valid'].auc:.4f} ± {result.scores.overall['valid'].error:.4f}" in text
    assert f"{result.config.weights[0]:.3f}" in text and f"{result.scores.members['test'][1].auc:.4f}" in text
    assert f"{result.scores.correlation[0, 1]:.3f}" in text and "out-of-fold" in text


# --- bad input ---


def edit(folder: Path, name: SplitName, change: Any) -> None:
    path = predictions_path(folder, name)
    change(pl.read_parquet(path)).write_parquet(path)


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("user_id", pl.col("user_id") + 1),
        ("item_id", pl.col("item_id").reverse()),
        ("label", 1 - pl.col("label")),
        ("ID", pl.col("ID").reverse()),
    ],
)
def test_a_run_of_other_rows_is_refused_by_name(planted: Planted, column: str, change: pl.Expr) -> None:
    folders = planted.run("a", "b")
    edit(folders[1], "test", lambda table: table.with_columns(change.alias(column)))
    with pytest.raises(DataError) as error:
        planted.combine(folders)
    assert "runs/b/predictions/test.parquet" in str(error.value) and column in str(error.value)
    assert not (planted.home / "out.zip").exists() and read_log(planted.home / "runs") == []


def test_fewer_rows_a_nan_a_missing_and_a_truncated_file_are_refused(planted: Planted) -> None:
    folders = planted.run("a", "b")
    path = predictions_path(folders[1], "valid")
    whole = path.read_bytes()
    edit(folders[1], "valid", lambda table: table.head(3999))
    with pytest.raises(DataError, match="not of this valid split"):
        planted.combine(folders)
    path.write_bytes(whole)
    edit(
        folders[1],
        "valid",
        lambda t: t.with_columns(pl.when(pl.col("row") == 5).then(np.nan).otherwise("logit").alias("logit")),
    )
    with pytest.raises(DataError, match="NaN") as error:
        planted.combine(folders)
    assert "runs/b" in str(error.value) and "row 5" in str(error.value)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not whole parquet"):
        planted.combine(folders)
    path.unlink()
    with pytest.raises(DataError, match="no such predictions"):
        planted.combine(folders)
    assert read_log(planted.home / "runs") == []


def test_runs_and_options_that_do_not_fit_are_refused(planted: Planted) -> None:
    a, b = planted.run("a", "b")
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([a], {}, "needs two runs"),
        ([a, b, a / ".." / "a"], {}, "given twice"),
        ([a, planted.home / "runs" / "absent"], {}, "no such run"),
        ([a, b], {"method": "median"}, "unknown method"),
        ([a, b], {"weights": [1, 2]}, "fits its weights"),
        ([a, b], {"method": "mean", "weights": [1]}, "do not fit"),
        ([a, b], {"method": "mean", "weights": [1, -1]}, "do not fit"),
        ([a, b], {"method": "rank", "weights": [0, 0]}, "do not fit"),
    ]
    for folders, options, message in cases:
        with pytest.raises((ConfigError, DataError), match=message):
            planted.combine(folders, **options)


def test_one_class_or_too_few_users_cannot_be_stacked(planted: Planted) -> None:
    folders = planted.run("a", "b")
    logits = {"valid": np.column_stack([planted.columns["valid"][name] for name in ("a", "b")])}
    valid = planted.data.splits["valid"]

    def changed(**values: Any) -> CtrData:
        return replace(planted.data, splits={"valid": replace(valid, **values)})

    with pytest.raises(DataError, match="one class only"):
        combine(logits, changed(label=np.zeros(4000, np.float32)), "stacked")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="no labels"):
        combine(logits, changed(label=None), "mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="fewer than two"):
        combine(logits, changed(users=np.zeros(4000, np.int64)), "stacked")  # pyright: ignore[reportArgumentType]
    lone = np.zeros(4000, np.float32)
    lone[:4] = 1  # all clicks are one user's
    with pytest.raises(DataError, match="outside of each fold"):
        combine(logits, changed(label=lone), "stacked")  # pyright: ignore[reportArgumentType]
    assert combine(logits, changed(label=lone), "mean").weights.tolist() == [0.5, 0.5]  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"needs valid\.parquet"):
        planted.data = replace(planted.data, splits={"test": planted.data.splits["test"]})
        planted.combine(folders)


def test_the_task_is_that_of_the_runs(planted: Planted) -> None:
    folders = planted.run("a", "b")
    names = ["a", "b"]
    assert common_task(folders, names) == "Task2"
    (folders[0] / "config.yaml").write_text("submission: {task: Task1}\n")
    assert common_task(folders, names) == "Task1"
    (folders[1] / "config.yaml").write_text("task: Task1&2\n")
    with pytest.raises(ConfigError, match="different tasks"):
        planted.combine(folders)
    planted.combine(folders, task="Task2")
    assert list(read_submission(planted.home / "out.zip").columns) == ["Task2"]


def test_runs_of_one_name_in_two_folders_are_told_apart(planted: Planted) -> None:
    first, second = planted.run("a", folder="x"), planted.run("a", folder="y")
    edit(second[0], "valid", lambda table: table.with_columns(pl.col("logit") * 2))
    assert planted.combine(first + second, "mean").config.runs == ["x/a", "y/a"]
