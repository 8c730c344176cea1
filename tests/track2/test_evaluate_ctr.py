"""Scoring and comparing Track 2 runs and zips: figures against loops, planted truths, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.errors import DataError
from common.logits import sigmoid
from common.metrics.ctr import auc, gauc
from common.submission.mmctr import InvalidSubmission, pack, write_submission
from tests.track2.ctr_files import write_layout
from track2_mmctr.compare import compare, compare_paths
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.evaluate import evaluate, open_data, score_path, validate_path
from track2_mmctr.groups import COLD, length_groups, popularity_groups, train_counts
from track2_mmctr.predictions import predictions_path, read_predictions, write_predictions


def make_split(rows: int = 3000, users: int = 400, items: int = 60, seed: int = 0) -> Split:
    """Rows whose true log-odds are known: `oracle`. Histories of 0 to 30 items; users have several rows."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 31, rows)
    oracle = 2.0 * rng.normal(size=rows) - 1.0
    return Split(
        name="valid",
        users=rng.integers(0, users, rows),
        history=rng.integers(1, items, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        target=rng.integers(1, items, rows).astype(np.int32),
        levels=np.ones((rows, 2), dtype=np.int32),
        label=(rng.random(rows) < sigmoid(oracle)).astype(np.float32),
        ids=None,
        digest="planted",
        oracle=oracle,
    )


def text(renderable: object, width: int = 160) -> str:
    console = Console(width=width, record=True, file=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


COUNTS = np.array([0, *([0] * 9), *range(1, 51)])  # items 1..9 are cold


def test_figures_are_those_of_a_loop_over_the_groups() -> None:
    split = make_split()
    logits = split.oracle + np.random.default_rng(1).normal(size=len(split))
    report = evaluate(split, logits, COUNTS, resamples=50)
    assert report.headline == auc(split.label, logits)
    assert report.overall.oracle == auc(split.label, split.oracle)
    assert report.gauc == gauc(split.label, logits, split.users)
    bounds = {"0": (0, 0), "1-5": (1, 5), "6-10": (6, 10), "11-20": (11, 20), "21+": (21, 99)}
    assert list(report.by_length) == list(bounds)
    for name, (low, high) in bounds.items():
        rows = [r for r in range(len(split)) if low <= split.offsets[r + 1] - split.offsets[r] <= high]
        figures = report.by_length[name]
        assert figures.rows == len(rows)
        assert figures.positives == sum(int(split.label[r]) for r in rows)
        assert figures.auc == auc(split.label[rows], logits[rows])
        assert figures.oracle == auc(split.label[rows], split.oracle[rows])
    cold = [r for r in range(len(split)) if split.target[r] < 10]
    assert report.by_popularity[COLD].auc == auc(split.label[cold], logits[cold])
    warm = [r for r in range(len(split)) if split.target[r] >= 10]
    assert report.warm is not None
    assert report.warm.auc == auc(split.label[warm], logits[warm])
    assert sum(f.rows for f in report.by_popularity.values()) == len(split)


def test_groups_part_the_rows_and_popularity_quarters_are_even() -> None:
    split = make_split()
    for groups in (length_groups(split), popularity_groups(split, COUNTS)):
        assert (np.sum(list(groups.values()), axis=0) == 1).all()
    sizes = [rows.sum() for name, rows in popularity_groups(split, COUNTS).items() if name != COLD]
    assert len(sizes) == 4
    assert max(sizes) < 1.25 * min(sizes)
    assert popularity_groups(split, None) == {}
    nothing = popularity_groups(split, np.zeros(60, dtype=np.int64))
    assert nothing[COLD].all()
    alike = popularity_groups(split, np.full(60, 7))
    assert [name for name, rows in alike.items() if rows.any()] == ["1+"]


def test_the_oracle_reaches_itself_and_shuffled_logits_fall_to_one_half() -> None:
    split = make_split()
    best = evaluate(split, split.oracle, None, resamples=200)
    assert best.headline == best.overall.oracle > 0.85
    assert best.calibration.error < 0.03
    placebo = evaluate(split, np.random.default_rng(2).permutation(split.oracle), None, resamples=200)
    assert placebo.overall.error is not None
    assert abs(placebo.headline - 0.5) < 4 * placebo.overall.error
    biased = evaluate(split, split.oracle + 1.5, None, resamples=50)
    assert biased.headline == best.headline  # a shift changes no order
    assert biased.calibration.error > 0.1
    assert biased.overall.log_loss > best.overall.log_loss + 0.1


def test_errors_by_user_are_wider_where_users_repeat_their_rows() -> None:
    one = make_split(400, 400)
    rows = np.tile(np.arange(400), 4)
    four = replace(
        one,
        users=rows,
        offsets=np.zeros(1601, dtype=np.int64),
        target=one.target[rows],
        label=one.label[rows],
        oracle=one.oracle[rows],
    )
    logits = np.random.default_rng(3).normal(size=400) + one.label
    report = evaluate(four, logits[rows], None, resamples=300)
    assert report.by_user is not None
    assert report.by_user.error > 1.6 * report.overall.error
    alone = evaluate(replace(one, users=np.arange(400)), logits, None, resamples=50)
    assert alone.by_user is None
    assert alone.gauc.value is None
    assert alone.gauc.left_out_users == 400


def test_a_group_of_one_class_has_no_auc_and_is_shown_with_its_rows() -> None:
    split = make_split(600)
    label = np.where(split.lengths == 0, 0, split.label).astype(np.float32)
    report = evaluate(replace(split, label=label, oracle=None), split.oracle, COUNTS, resamples=20)
    empty = report.by_length["0"]
    assert (empty.auc, empty.error, empty.positives) == (None, None, 0)
    assert empty.rows == int((split.lengths == 0).sum())
    line = next(line for line in text(report.render()).splitlines() if "history 0" in line)
    assert line.replace(" ", "").startswith(f"│history0│{empty.rows}│0│-│-│")
    json.dumps(report.to_dict(), allow_nan=False)
    assert "oracle" not in text(report.render())


def test_the_report_is_shown_and_stored_whole() -> None:
    split = make_split(800)
    report = evaluate(split, split.oracle, COUNTS, resamples=30, notes=["said"])
    shown = text(report.render())
    for piece in (f"AUC {report.headline:.4f}", "oracle", "history 21+", "in train 0 (cold)", "all but cold", "said"):
        assert piece in shown
    for piece in ("GAUC", "left out", "calibration", "30 resamples"):
        assert piece in shown
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["auc"] == report.headline
    assert stored["by_popularity"][COLD]["rows"] == report.by_popularity[COLD].rows
    assert stored["standard_error_by_user"] == report.by_user.error


def test_certain_probabilities_are_ranked_and_lose_a_finite_amount() -> None:
    split = make_split(200)
    logits = np.where(split.label == 1, np.inf, -np.inf)
    right, wrong = (evaluate(split, values, None, resamples=10) for values in (logits, -logits))
    assert (right.headline, wrong.headline) == (1.0, 0.0)
    assert wrong.overall.log_loss == 34.5


@pytest.mark.parametrize(
    ("change", "logits", "message"),
    [
        ({"label": None}, np.zeros(50), "no labels"),
        ({"label": np.zeros(50, dtype=np.float32)}, np.zeros(50), "one class only"),
        ({}, np.zeros(49), "not one logit for each row"),
        ({}, np.where(np.arange(50) == 3, np.nan, 0.0), "1 logits are NaN"),
    ],
)
def test_evaluate_refuses(change: dict, logits: np.ndarray, message: str) -> None:
    split = replace(make_split(50), **change)
    with pytest.raises(DataError, match=message):
        evaluate(split, logits, None)
    if "logit" in message:
        with pytest.raises(DataError, match=message):
            compare(split, np.zeros(50), logits, None)


def test_comparison_sees_a_planted_gain_and_turns_with_its_arguments() -> None:
    split = make_split(2000)
    worse = split.oracle + 2 * np.random.default_rng(4).normal(size=2000)
    found = compare(split, split.oracle, worse, COUNTS, resamples=200)
    effect = found.overall
    assert effect.difference == auc(split.label, split.oracle) - auc(split.label, worse)
    assert effect.difference > 0.05
    assert effect.p < 1e-6
    assert 0 < effect.low < effect.difference < effect.high
    back = compare(split, worse, split.oracle, COUNTS, resamples=200).overall
    assert back.difference == -effect.difference
    assert (back.low, back.high) == pytest.approx((-effect.high, -effect.low), abs=1e-12)
    assert sum(e.rows for e in found.by_length.values()) == sum(e.rows for e in found.by_popularity.values()) == 2000
    first = found.furthest[0]
    order_a, order_b = (np.argsort(np.argsort(values)) / 1999 for values in (split.oracle, worse))
    apart = np.abs(order_a - order_b)
    assert first.row == apart.argmax()
    assert found.far == (apart > 0.25).sum()
    assert found.correlation == pytest.approx(np.corrcoef(order_a, order_b)[0, 1])
    shown = text(found.render())
    for piece in ("<0.0001", "history 1-5", "in train 0 (cold)", "furthest apart", "2,000"):
        assert piece in shown
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_run_compared_with_itself_on_another_scale_differs_in_nothing() -> None:
    split = make_split(500)
    found = compare(split, split.oracle, 3 * split.oracle + 1, None, resamples=50)
    assert (found.overall.difference, found.overall.p) == (0.0, 1.0)
    assert (found.overall.low, found.overall.high, found.far, found.furthest) == (0.0, 0.0, 0, ())
    assert found.correlation == pytest.approx(1)


def test_two_equally_good_runs_are_seldom_told_apart() -> None:
    p = []
    for seed in range(60):
        split = make_split(300, seed=seed)
        noise = np.random.default_rng([seed, 5]).normal(size=(2, 300))
        p.append(compare(split, split.oracle + noise[0], split.oracle + noise[1], None, resamples=2).overall.p)
    assert np.mean(np.array(p) < 0.05) < 0.17


@pytest.fixture
def data(tmp_path: Path) -> CtrData:
    write_layout(tmp_path / "data", rows=150, eval_rows=80, items=30, oracle=True)
    return open_data(tmp_path / "data", tmp_path / "cache")


def run_of(folder: Path, data: CtrData, noise: float, seed: int = 1) -> Path:
    """A run's folder with predictions that are the truth and noise."""
    rng = np.random.default_rng(seed)
    for name in ("valid", "test"):
        truth = data.splits[name].label if data.splits[name].oracle is None else data.splits[name].oracle
        write_predictions(folder, data.splits[name], truth + noise * rng.normal(size=len(truth)))
    return folder


def test_a_run_and_its_zip_score_alike_and_rows_of_a_zip_are_paired_by_id(tmp_path: Path, data: CtrData) -> None:
    run = run_of(tmp_path / "run", data, 1.0)
    scores = score_path(run, data, resamples=20)
    assert list(scores.reports) == ["valid", "test"]
    assert scores.headline == scores.reports["test"].headline
    test = data.splits["test"]
    logits = read_predictions(predictions_path(run, "test")).logits
    assert scores.headline == auc(test.label, logits)
    zipped = tmp_path / "run.zip"
    write_submission(zipped, test.ids, sigmoid(logits), "Task2", test.ids)
    assert score_path(zipped, data, resamples=20).headline == scores.headline
    turn = np.random.default_rng(1).permutation(len(test))
    zipped.write_bytes(pack(test.ids[turn], sigmoid(logits)[turn], "Task2"))
    assert score_path(zipped, data, resamples=20).headline == scores.headline
    assert "not in the order" in validate_path(zipped, data).render()
    zipped.write_bytes(pack(test.ids[turn], sigmoid(logits), "Task2"))  # values by place, ids not
    assert abs(score_path(zipped, data, resamples=20).headline - scores.headline) > 0.05
    assert compare_paths(run, run, data, resamples=20).overall.difference == 0
    counts = train_counts(data)
    assert counts.sum() == len(data.train)
    assert counts[data.train.target[0]] == (data.train.target == data.train.target[0]).sum()
    assert "test: AUC" in text(scores.render())
    assert set(scores.to_dict()) == {"valid", "test", "notes"}


def test_a_zip_with_other_ids_is_refused(tmp_path: Path, data: CtrData) -> None:
    test, path = data.splits["test"], tmp_path / "run.zip"
    path.write_bytes(pack(test.ids[1:], np.full(len(test) - 1, 0.5), "Task2"))
    with pytest.raises(InvalidSubmission, match=f"{test.ids[0]}: missing ID"):
        score_path(path, data)
    path.write_bytes(pack(np.arange(len(test)), np.full(len(test), 0.5), "Task2"))  # range(n), as the baseline writes
    with pytest.raises(InvalidSubmission, match="unknown ID"):
        compare_paths(path, path, data)
    assert not validate_path(path, data).ok
    path.write_bytes(pack(test.ids, np.full(len(test), 0.5), "Task1"))
    with pytest.raises(InvalidSubmission, match="Task2 is asked for"):
        score_path(path, data, "Task2")
    assert score_path(path, data, "Task1", resamples=5).headline == 0.5


def test_what_cannot_be_scored_says_why(tmp_path: Path, data: CtrData) -> None:
    unknown = replace(data, splits=data.splits | {"test": replace(data.splits["test"], label=None, oracle=None)})
    run = run_of(tmp_path / "run", data, 1.0)
    for name in ("valid", "test"):
        write_predictions(run, unknown.splits[name], np.zeros(len(unknown.splits[name])))
    scores = score_path(run, unknown, resamples=5)
    assert list(scores.reports) == ["valid"]
    assert "test: labels are not known" in text(scores.render())
    path, test = tmp_path / "run.zip", data.splits["test"]
    write_submission(path, test.ids, np.full(len(test), 0.5), "Task2", test.ids)
    with pytest.raises(DataError, match=r"no answers\.parquet"):
        score_path(path, unknown)
    with pytest.raises(DataError, match="no predictions to compare"):
        compare_paths(run, path, replace(data, splits={"test": test}), split="valid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to score"):
        score_path(tmp_path / "empty", data)
    with pytest.raises(DataError, match="cannot be read"):
        score_path(tmp_path / "none.zip", data)
    without = replace(data, splits={"valid": data.splits["valid"]})
    assert "not at hand" in validate_path(path, without).render()
    with pytest.raises(DataError, match="needs the labels of the test set"):
        score_path(path, without)


def test_a_run_of_other_data_is_refused(tmp_path: Path, data: CtrData) -> None:
    run = run_of(tmp_path / "run", data, 1.0)
    valid = data.splits["valid"]
    users = np.array(valid.users)
    users[7] += 1
    for change, where in (
        (replace(valid, users=users), "row 7, user_id"),
        (replace(valid, label=1 - np.asarray(valid.label)), "row 0, label"),
    ):
        with pytest.raises(DataError, match=where):
            score_path(run, replace(data, splits={"valid": change}))
    write_layout(tmp_path / "other", rows=150, eval_rows=81, items=30)
    other = open_data(tmp_path / "other", tmp_path / "cache")
    with pytest.raises(DataError, match="not of this valid split"):
        compare_paths(run, run, other)
