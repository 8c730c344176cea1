"""The ROC curve: its area is the AUC, also with ties; thinning keeps it; intervals of rates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from common.metrics.ctr import auc
from common.metrics.ctr_curves import roc_curve, wilson

ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60)


@settings(deadline=None)
@given(rows=ROWS)
def test_the_area_is_the_auc_and_the_points_are_those_of_a_loop(rows: list[tuple[bool, int]]) -> None:
    label, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float)
    if label.all() or not label.any():
        with pytest.raises(ValueError, match="both classes"):
            roc_curve(label, score)
        return
    curve = roc_curve(label, score)
    assert curve.area == pytest.approx(auc(label, score), abs=1e-12)
    assert len(curve) == len(set(score.tolist())) + 1
    for threshold, false, true in zip(curve.thresholds, curve.false_positive, curve.true_positive, strict=True):
        above = score >= threshold
        assert true == (above & label).sum() / label.sum()
        assert false == (above & ~label).sum() / (~label).sum()


def test_points_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label, score = rng.random(500) < 0.3, rng.normal(size=500).round(1)
    curve = roc_curve(label, score)
    false, true, thresholds = metrics.roc_curve(label, score, drop_intermediate=False)
    assert np.array_equal(curve.false_positive, false)
    assert np.array_equal(curve.true_positive, true)
    assert np.array_equal(curve.thresholds, thresholds)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(4, 60), st.integers(0, 3))
def test_a_thinned_curve_is_a_part_of_the_whole_with_about_its_area(seed: int, points: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=700) ** 3, digits)  # heavy tails: many tied rows, long steps
    label = rng.random(700) < 1 / (1 + np.exp(-2 * score))
    whole = roc_curve(label, score)
    thin = whole.thinned(points)
    assert len(thin) <= max(points, 4)
    assert set(thin.thresholds.tolist()) <= set(whole.thresholds.tolist())
    assert (thin.false_positive[0], thin.true_positive[0]) == (0, 0)
    assert (thin.false_positive[-1], thin.true_positive[-1]) == (1, 1)
    assert abs(thin.area - whole.area) <= 1 / (points - 2)


def test_thinning_at_the_size_of_a_page_costs_the_area_next_to_nothing() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(size=20_000)
    label = rng.random(20_000) < 1 / (1 + np.exp(-score))
    whole = roc_curve(label, score)
    assert len(whole) == 20_001
    assert len(whole.thinned()) <= 300
    assert abs(whole.thinned().area - whole.area) < 2e-4
    assert whole.thinned(10**6) is whole
    with pytest.raises(ValueError, match="at least 4"):
        whole.thinned(3)


def test_wilson_s_interval_covers_a_rate_as_often_as_it_says() -> None:
    chances = [math.comb(30, k) * 0.2**k * 0.8 ** (30 - k) for k in range(31)]
    covered = sum(chance for k, chance in enumerate(chances) if wilson(k, 30)[0] <= 0.2 <= wilson(k, 30)[1])
    assert 0.93 < covered < 0.98
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1
    for wrong in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="a rate needs"):
            wilson(*wrong)
