"""Sinkhorn: its marginals, and colliding items that move while the others keep their codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from common.planted import additive_vectors
from common.tokenizers import sinkhorn as module
from common.tokenizers.collisions import collision_report
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.semantic_ids import SemanticIdMap
from common.tokenizers.sinkhorn import last_level, reassign, sinkhorn

SIZES = (8, 8, 8)


@pytest.fixture(scope="module")
def coded() -> tuple[RQKMeans, np.ndarray, np.ndarray]:
    x, _ = additive_vectors(60, 12, 3, 8, 0.2, 1)
    x = np.concatenate([x, x + 0.02 * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)])  # twins
    quantizer = RQKMeans(SIZES).fit(x, seed=0)
    return quantizer, x, quantizer.encode(x)


def table(values: np.ndarray):
    return lambda rows: values[rows]


def test_with_as_many_items_plans_have_even_marginals_and_skip_what_is_not_allowed() -> None:
    rng = np.random.default_rng(0)
    distances, allowed = rng.random((2, 6, 6)), np.ones((2, 6, 6), dtype=bool)
    plan = np.exp(sinkhorn(distances, allowed, epsilon=0.5, iterations=200))
    np.testing.assert_allclose(plan.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), 1, atol=1e-9)
    allowed[1, :, 2] = False
    allowed[1, 5] = False  # padding
    plan = np.exp(sinkhorn(distances, allowed, epsilon=0.5, iterations=200))
    assert (plan[1, :, 2] == 0).all() and (plan[1, 5] == 0).all()
    np.testing.assert_allclose(plan[1, :5].sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(np.delete(plan[1].sum(axis=0), 2), 1, atol=1e-9)


def test_a_few_items_stay_at_their_nearest_codes_unless_they_share_them() -> None:
    distances = np.random.default_rng(1).random((1, 3, 40))
    distances[0, 1:] = distances[0, 1] + [[0], [0.1]]  # items 1 and 2 want the same
    plan = np.exp(sinkhorn(distances, np.ones(distances.shape, dtype=bool), epsilon=0.01, iterations=500))[0]
    assert plan[0].argmax() == distances[0, 0].argmin() and plan[0].max() > 0.9
    assert (plan.sum(axis=0) < 1 + 1e-6).all() and np.count_nonzero(plan.sum(axis=0) > 0.1) <= 5
    np.testing.assert_allclose(plan.sum(axis=1), 1, atol=1e-9)


def test_small_epsilon_finds_the_best_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    for seed in range(5):
        distances = np.random.default_rng(seed).random((1, 7, 7))
        plan = sinkhorn(distances, np.ones((1, 7, 7), dtype=bool), epsilon=0.005, iterations=2000)[0]
        assert (plan.argmax(axis=1) == linear_sum_assignment(distances[0])[1]).all()
        assert (distances[0].argmin(axis=1) != plan.argmax(axis=1)).any()  # the nearest alone would collide


def test_a_worked_example() -> None:
    codes = np.asarray([[0, 0], [0, 0], [0, 1], [1, 0]])
    distances = np.asarray([[0.1, 0.2, 0.9], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.0, 0.1, 0.2]])
    found = reassign(codes, (2, 3), table(distances))
    assert found.codes.tolist() == [[0, 0], [0, 2], [0, 1], [1, 0]]  # code 1 is taken; row 1 loses least by moving
    assert found.moved == 1 and not len(found.left)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_distinct_where_there_is_room_and_only_the_last_code_of_colliding_items_moves(seed, n, size, fixed) -> None:
    rng = np.random.default_rng(seed)
    codes = np.column_stack([rng.integers(4, size=n), rng.integers(size, size=n)]).astype(np.int32)
    fixed = min(fixed, n)
    _, first = np.unique(codes[:fixed], axis=0, return_index=True)  # the fixed rows are distinct among themselves
    codes = np.concatenate([codes[:fixed][np.sort(first)], codes[fixed:]])
    fixed = len(first)
    found = reassign(codes, (4, size), table(rng.random((len(codes), size))), fixed=fixed, rounds=size + 1)
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    alone = counts[inverse.reshape(-1)] == 1
    assert (found.codes[alone] == codes[alone]).all()
    assert (found.codes[:fixed] == codes[:fixed]).all()
    assert (found.codes[:, 0] == codes[:, 0]).all()
    assert ((found.codes >= 0) & (found.codes < [4, size])).all()
    full = np.bincount(codes[:, 0], minlength=4) > size
    fits = ~full[codes[:, 0]]
    assert len(np.unique(found.codes[fits], axis=0)) == fits.sum()
    assert full[codes[found.left, 0]].all() and (len(found.left) > 0) == full.any()


def test_collisions_of_a_quantizer_fall_to_none_at_a_small_cost(coded) -> None:
    quantizer, x, codes = coded
    before = collision_report(codes, SIZES)
    found = reassign(codes, SIZES, last_level(quantizer, x, codes))
    after = collision_report(found.codes, SIZES)
    assert before.colliding >= 20 and after.colliding == len(found.left) == 0
    assert 0 < found.moved < before.colliding

    def error(made: np.ndarray) -> float:
        return float(np.square(x - quantizer.decode(made)).sum())

    # A placebo: distances of other items. The codes are as distinct, but they fit worse.
    order = np.random.default_rng(0).permutation(len(x))
    placebo = reassign(codes, SIZES, last_level(quantizer, x[order], codes))
    assert collision_report(placebo.codes, SIZES).colliding == 0
    assert error(found.codes) - error(codes) < 0.7 * (error(placebo.codes) - error(codes))


def test_equal_vectors_part_and_a_full_prefix_is_refused_or_ranked(coded) -> None:
    quantizer, x, _ = coded
    same = np.repeat(x[:1], 8, axis=0)
    codes = quantizer.encode(same)
    ids = SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=same)
    assert sorted(ids.sids[:, 2]) == list(range(8)) and not ids.ranked
    same = np.repeat(x[:1], 9, axis=0)
    codes = quantizer.encode(same)
    with pytest.raises(DataError, match=r"share their codes[\s\S]*append"):
        SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=same)
    ids = SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=same, fallback="append")
    assert ids.ranked and len(np.unique(ids.sids, axis=0)) == 9 and ids.sizes[-1] <= 9


def test_batches_and_decoding_in_parts_change_nothing(coded, monkeypatch) -> None:
    quantizer, x, codes = coded
    whole = reassign(codes, SIZES, last_level(quantizer, x, codes)).codes
    monkeypatch.setattr(module, "_CELLS", 200)
    assert (reassign(codes, SIZES, last_level(quantizer, x, codes)).codes == whole).all()


def test_distances_are_those_of_every_candidate(coded) -> None:
    quantizer, x, codes = coded
    rows = np.asarray([5, 3, 90])
    found = last_level(quantizer, x, codes)(rows)
    for row, distances in zip(rows, found, strict=True):
        for code in range(8):
            point = quantizer.decode(np.asarray([[*codes[row, :2], code]]))[0]
            assert distances[code] == pytest.approx(float(np.square(x[row] - point).sum()), rel=1e-4)
    assert (found.argmin(axis=1) == codes[rows, 2]).all()


def test_the_vectors_must_be_given_and_fit(coded) -> None:
    quantizer, x, codes = coded
    with pytest.raises(ConfigError, match="quantizer="):
        SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn")
    with pytest.raises(DataError, match="as many vectors"):
        SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=x[1:])
    with pytest.raises(DataError, match="another width"):
        SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=x[:, 1:])
    bad = x.copy()
    bad[:, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        SemanticIdMap.from_codes(codes, SIZES, dedup="sinkhorn", quantizer=quantizer, x=bad)
