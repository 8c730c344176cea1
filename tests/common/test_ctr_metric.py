"""The AUC and its companions against brute force, scikit-learn, hand-worked figures and planted truths."""

import doctest
import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from common.logits import log_odds, sigmoid
from common.metrics import ctr, ctr_intervals
from common.metrics.ctr import ParticipantVisibleError, auc, calibration, gauc, log_loss, score
from common.metrics.ctr_intervals import bootstrap, clustered_error, delong, delong_paired, placements

# Few different scores, so that ties are common; both classes are there.
rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=25)
both = rows.filter(lambda r: 0 < sum(x[0] for x in r) < len(r))


def brute_auc(labels, scores) -> Fraction | None:
    """The rule, spelled out: every (positive, negative) pair, a tie as half."""
    pairs = [
        (p, n)
        for (lp, p), (ln, n) in itertools.product(zip(labels, scores, strict=True), repeat=2)
        if lp == 1 and ln == 0
    ]
    return sum((Fraction(p > n) + Fraction(p == n) / 2 for p, n in pairs), Fraction()) / len(pairs) if pairs else None


def planted(n: int, seed: int, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores normal with means 0 and `gap`: the true AUC is Φ(gap / √2)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int64)
    return labels, rng.normal(size=n) + gap * labels


@pytest.mark.parametrize(("module", "least"), [(ctr, 5), (ctr_intervals, 2)])
def test_doctests(module, least: int) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= least
    assert result.failed == 0


@settings(deadline=None)
@given(both)
def test_auc_equals_the_count_of_all_pairs_exactly(items) -> None:
    labels, scores = [x[0] for x in items], [x[1] for x in items]
    assert auc(labels, scores) == float(brute_auc(labels, scores))
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(deadline=None)
@given(both, st.randoms(use_true_random=False))
def test_auc_ignores_the_order_of_rows_and_any_increasing_map(items, random) -> None:
    labels, scores = np.array([x[0] for x in items]), np.array([x[1] for x in items], dtype=np.float64)
    shuffled = random.sample(range(len(items)), len(items))
    assert auc(labels[shuffled], scores[shuffled]) == auc(labels, scores)
    assert auc(labels, np.exp(scores) + 7 * scores) == auc(labels, scores)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    assert auc(1 - labels, scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    assert auc(labels, np.zeros(len(labels))) == 0.5


@settings(deadline=None)
@given(rows)
def test_gauc_equals_a_loop_over_users(items) -> None:
    by_user: dict[int, list] = {}
    for label, value, user in items:
        by_user.setdefault(user, []).append((label, value))
    found = {u: (brute_auc(*zip(*r, strict=True)), len(r)) for u, r in by_user.items()}
    kept = {u: (a, n) for u, (a, n) in found.items() if a is not None}
    got = gauc([x[0] for x in items], [x[1] for x in items], [x[2] for x in items])
    assert (got.users, got.left_out_users) == (len(kept), len(found) - len(kept))
    assert got.rows == sum(n for _, n in kept.values())
    assert got.rows + got.left_out_rows == len(items)
    if not kept:
        assert got.value is None
    else:
        assert got.value == pytest.approx(float(sum(a * n for a, n in kept.values()) / got.rows), abs=1e-12)


def test_auc_of_float32_bools_infinities_and_signed_zero() -> None:
    labels, scores = planted(500, 1)
    assert auc(labels.astype(bool), scores.astype(np.float32)) == auc(labels, scores.astype(np.float32))
    assert auc([1, 0, 0, 1], [np.inf, -np.inf, 3.0, np.inf]) == 1.0
    assert auc([1, 0], [0.0, -0.0]) == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 0, 1], [0.1, np.nan, np.nan], r"row 1 is NaN \(2 of 3"),
        ([1, 0, 2], [0.1, 0.2, 0.3], "label of row 2 is 2"),
        ([1.0, 0.0, np.nan], [0.1, 0.2, 0.3], "label of row 2 is nan"),
        ([1, 1], [0.1, 0.2], "2 positives and 0 negatives"),
        ([0, 0], [0.1, 0.2], "0 positives and 2 negatives"),
        ([], [], "0 positives and 0 negatives"),
        ([1, 0], [0.1, 0.2, 0.3], "one length"),
        ([[1, 0]], [[0.1, 0.2]], "vectors"),
    ],
)
def test_auc_refuses(labels, scores, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(labels, scores)


def test_log_loss_is_that_of_scikit_learn_and_finite_for_certain_mistakes() -> None:
    labels, logits = planted(400, 2)
    assert log_loss(labels, logits) == pytest.approx(sklearn_log_loss(labels, sigmoid(logits)), rel=1e-12)
    assert log_loss([1], [-np.inf]) == ctr.CERTAIN
    assert log_loss([1], [np.inf]) == pytest.approx(0, abs=1e-14)
    with pytest.raises(ValueError, match="at least one row"):
        log_loss([], [])


def test_sigmoid_and_log_odds_are_inverse_and_do_not_overflow() -> None:
    values = np.array([-700.0, -5.0, 0.0, 0.25, 30.0])
    assert np.allclose(log_odds(sigmoid(values)), values, rtol=0.02)
    assert np.array_equal(log_odds([0.0, 1.0]), [-np.inf, np.inf])
    with np.errstate(over="raise"):
        assert np.array_equal(sigmoid([-1e6, -np.inf, np.inf]), [0, 0, 1])


def test_calibration_finds_a_planted_bias_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(0.1, 0.6, 40_000)
    labels = rng.random(len(truth)) < truth
    right, biased = calibration(labels, truth), calibration(labels, truth + 0.2)
    assert right.error < 0.015
    assert biased.error == pytest.approx(0.2, abs=0.015)
    assert biased.predicted - biased.label == pytest.approx(0.2, abs=0.01)
    assert [n for n, _, _ in right.bins] == [2000] * 20
    order = rng.permutation(len(truth))
    rounded = truth.round(1)
    shuffled = np.array(calibration(labels[order], rounded[order]).bins)
    assert np.allclose(shuffled, np.array(calibration(labels, rounded).bins), rtol=1e-9, atol=0)
    assert len(calibration(labels, rounded).bins) <= 6  # rows of equal prediction are never parted
    assert sum(n for n, _, _ in calibration(labels, rounded).bins) == len(labels)
    with pytest.raises(ValueError, match="0 to 1"):
        calibration([0, 1], [0.5, 1.5])


@settings(deadline=None)
@given(both)
def test_placements_are_the_naive_structural_components(items) -> None:
    labels, scores = [x[0] for x in items], [x[1] for x in items]
    positive, negative = ([s for y, s in zip(labels, scores, strict=True) if y == c] for c in (1, 0))

    def wins(p: int, n: int) -> float:
        return 1.0 if p > n else 0.5 if p == n else 0.0

    of_positives, of_negatives = placements(labels, scores)
    assert of_positives.tolist() == pytest.approx([np.mean([wins(p, n) for n in negative]) for p in positive])
    assert of_negatives.tolist() == pytest.approx([np.mean([wins(p, n) for p in positive]) for n in negative])
    assert delong(labels, scores).auc == pytest.approx(of_positives.mean(), abs=1e-12)
    if min(len(positive), len(negative)) > 1:
        want = of_positives.var(ddof=1) / len(positive) + of_negatives.var(ddof=1) / len(negative)
        assert delong(labels, scores).error == pytest.approx(math.sqrt(want), abs=1e-12)
    else:
        assert math.isnan(delong(labels, scores).error)


def test_delong_error_is_the_spread_over_samples() -> None:
    found = [delong(*planted(300, seed)) for seed in range(400)]
    spread = np.std([f.auc for f in found], ddof=1)
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.12)


def test_paired_error_is_the_spread_of_the_difference_and_p_is_uniform_without_one() -> None:
    found = []
    for seed in range(400):
        labels, scores = planted(300, seed)
        noise = np.random.default_rng([seed, 1]).normal(size=(2, 300)) * 0.5
        found.append(delong_paired(labels, scores + noise[0], scores + noise[1]))
    assert np.mean([f.error for f in found]) == pytest.approx(np.std([f.value for f in found], ddof=1), rel=0.12)
    share = np.mean([f.p < 0.05 for f in found])
    assert 0.02 < share < 0.09
    assert delong(labels, scores).error > 1.2 * found[-1].error  # unpaired errors would be far too wide


def test_paired_comparison_sees_a_planted_gain_and_none_with_itself() -> None:
    labels, scores = planted(3000, 5)
    worse = scores + np.random.default_rng(6).normal(size=3000) * 0.7
    gain = delong_paired(labels, scores, worse)
    assert gain.value > 0.02
    assert gain.p < 1e-6
    assert delong_paired(labels, worse, scores).value == -gain.value
    assert delong_paired(labels, scores, 3 * scores) == (0.0, 0.0, 1.0)


def test_clustered_errors_see_copied_rows_and_delong_does_not() -> None:
    labels, scores = planted(400, 8)
    users = np.arange(400)
    alone, copied = delong(labels, scores).error, np.tile(np.arange(400), 4)
    many = np.tile(labels, 4), np.tile(scores, 4)
    assert clustered_error(labels, scores, users) == pytest.approx(alone, rel=0.02)
    assert delong(*many).error == pytest.approx(alone / 2, rel=0.02)  # four copies are taken for new evidence
    assert clustered_error(*many, copied) == pytest.approx(alone, rel=0.02)
    drawn = bootstrap(*many, copied, resamples=600)
    assert drawn is not None
    assert drawn.clusters == 400
    assert drawn.error == pytest.approx(alone, rel=0.12)
    assert drawn.low < auc(labels, scores) < drawn.high


@settings(deadline=None, max_examples=25)
@given(both)
def test_a_resample_is_the_auc_of_the_rows_drawn(items) -> None:
    labels, scores, users = (np.array([x[i] for x in items]) for i in range(3))
    _, group = np.unique(users, return_inverse=True)
    ranked = ctr_intervals._Ranked(labels.astype(bool), scores, group)
    rng = np.random.default_rng(len(items))
    for _ in range(5):
        weights = rng.integers(0, 3, group.max() + 1)
        picked = np.repeat(np.arange(len(items)), weights[group])
        want = brute_auc(labels[picked].tolist(), scores[picked].tolist())
        got = ranked.auc(weights)
        assert math.isnan(got) if want is None else got == float(want)


def test_bootstrap_is_repeatable_and_says_nothing_where_it_cannot() -> None:
    labels, scores = planted(300, 9)
    users = np.arange(300) // 3
    assert bootstrap(labels, scores, users, resamples=50) == bootstrap(labels, scores, users, resamples=50)
    assert bootstrap(labels, scores, users, resamples=50, seed=1) != bootstrap(labels, scores, users, resamples=50)
    same = bootstrap(labels, scores, users, against=2 * scores, resamples=50)
    assert same is not None
    assert (same.low, same.high) == (0.0, 0.0)
    assert bootstrap(labels, scores, np.zeros(300), resamples=50) is None
    assert bootstrap(np.ones(300), scores, users, resamples=50) is None
    with pytest.raises(ValueError, match="2 clusters for 300 rows"):
        bootstrap(labels, scores, [0, 1])


GOLD = pd.DataFrame({"ID": [4, 7, 9, 2], "label": [1, 0, 1, 0], "Usage": "Public"})
RUN = pd.DataFrame({"ID": [2, 9, 7, 4], "Task2": [0.6, 0.4, 0.4, 0.9]})


def test_score_pairs_rows_by_id_and_not_by_place() -> None:
    assert score(GOLD, RUN, "ID") == 0.625
    assert score(GOLD, RUN.sample(frac=1, random_state=1), "ID") == 0.625
    assert score(GOLD, RUN.rename(columns={"Task2": "Task1&2"}), "ID", "Task1&2") == 0.625
    assert score(GOLD, RUN.assign(Task2=RUN["Task2"].astype(str)), "ID") == 0.625
    by_place = RUN.assign(ID=GOLD["ID"])
    assert score(GOLD, by_place, "ID") != 0.625


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RUN.rename(columns={"Task2": "Task1"}), "no column 'Task2'"),
        (RUN.drop(columns="ID"), "no column 'ID'"),
        (RUN.iloc[:3], r"1 missing \(4\)"),
        (RUN.assign(ID=[2, 9, 7, 5]), r"1 missing \(4\), 1 unknown \(5\)"),
        (RUN.assign(ID=[2, 9, 9, 4]), "row 2: ID 9 is given twice"),
        (RUN.assign(ID=[2, 9, None, 4]), "row 2: ID is missing"),
        (RUN.assign(Task2=[0.6, np.nan, 0.4, 0.9]), r"row 1 \(ID 9.*nan, not a number from 0 to 1"),
        (RUN.assign(Task2=[0.6, 0.4, np.inf, 0.9]), "row 2"),
        (RUN.assign(Task2=[0.6, 0.4, 0.4, 1.1]), "row 3"),
        (RUN.assign(Task2=[-0.1, 0.4, 0.4, 1.0]), "row 0"),
        (RUN.assign(Task2=["0.6", "0.4", "high", "0.9"]), "'high', not a number"),
    ],
)
def test_score_refuses_a_bad_submission(run: pd.DataFrame, message: str) -> None:
    with pytest.raises(ParticipantVisibleError, match=message):
        score(GOLD, run, "ID")


def test_a_bad_solution_is_the_hosts_fault() -> None:
    with pytest.raises(ValueError, match="the solution has no column 'label'"):
        score(GOLD.drop(columns="label"), RUN, "ID")
    with pytest.raises(ValueError, match="both classes"):
        score(GOLD.assign(label=1), RUN, "ID")
