"""Balanced k-means: the auction against the Hungarian method, even clusters, a path of its own for every row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

from common.errors import DataError
from common.planted import tree_vectors
from common.tokenizers import load_quantizer
from common.tokenizers.balanced import _auction, balanced_assignment, even_sizes
from common.tokenizers.balanced_tree import BalancedKMeansTree


def costs_of(rows: int, clusters: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, centres = rng.normal(size=(rows, 6)) + (rng.random((rows, 1)) < 0.5), rng.normal(size=(clusters, 6))
    return ((x[:, None] - centres) ** 2).sum(axis=2)


def cheapest(costs: np.ndarray, sizes: np.ndarray) -> float:
    """The oracle: one column for each place of a cluster, by the Hungarian method."""
    places = np.repeat(np.arange(len(sizes)), sizes)
    rows, columns = linear_sum_assignment(costs[:, places])
    return float(costs[rows, places[columns]].sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(1, 9), st.integers(0, 10**6))
def test_the_auction_is_as_cheap_as_the_hungarian_method(rows: int, clusters: int, seed: int) -> None:
    costs = costs_of(rows, clusters, seed)
    sizes = np.random.default_rng(seed).multinomial(rows, np.full(clusters, 1 / clusters))
    tolerance = 1e-3
    found = balanced_assignment(costs, sizes, tolerance=tolerance)
    assert np.bincount(found.clusters, minlength=clusters).tolist() == sizes.tolist()
    total = costs[np.arange(rows), found.clusters].sum()
    assert cheapest(costs, sizes) - 1e-9 <= total <= cheapest(costs, sizes) + rows * tolerance + 1e-9


def test_the_auction_from_other_prices_is_as_cheap_and_greedy_is_not() -> None:
    costs, sizes = costs_of(300, 6, 0), np.full(6, 50)
    best = cheapest(costs, sizes)
    for prices in (None, np.array([9.0, 0, 4, 1, 0, 2]), balanced_assignment(costs, sizes, tolerance=0.1).prices):
        found = balanced_assignment(costs, sizes, tolerance=1e-4, prices=prices)
        assert costs[np.arange(300), found.clusters].sum() == pytest.approx(best, rel=1e-3)
    free, greedy = np.ones(300, bool), 0.0
    for cluster in range(6):  # EAGER's: each centre takes its nearest free rows
        rows = np.flatnonzero(free)[np.argsort(costs[free, cluster], kind="stable")[:50]]
        greedy += costs[rows, cluster].sum()
        free[rows] = False
    assert greedy > 1.05 * best


def plain_auction(
    costs: np.ndarray, sizes: np.ndarray, prices: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: in each round all free rows bid, and every cluster sorts the bids that it has."""
    prices, owners, bids = prices.copy(), np.full(len(costs), -1), np.zeros(len(costs))
    while len(free := np.flatnonzero(owners < 0)):
        total = costs[free] + prices
        first = total.argmin(axis=1)
        best = total[np.arange(len(free)), first]
        total[np.arange(len(free)), first] = np.inf
        owners[free], bids[free] = first, prices[first] + (total.min(axis=1) - best) + step
        for cluster in np.unique(first):
            rows = np.flatnonzero(owners == cluster)
            rows = rows[np.lexsort((rows, -bids[rows]))]
            owners[rows[sizes[cluster] :]] = -1
            if len(rows) >= sizes[cluster]:
                prices[cluster] = bids[rows[sizes[cluster] - 1]]
    return owners, prices


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 200), st.integers(2, 9), st.integers(0, 10**6), st.booleans())
def test_the_last_rounds_are_the_same_auction_to_the_byte(rows: int, clusters: int, seed: int, equal: bool) -> None:
    costs = costs_of(rows, clusters, seed).astype(np.float32)
    costs = costs.round() if equal else costs  # many equal bids
    sizes = even_sizes(rows, clusters, np.arange(clusters))
    for step in (0.5, 0.01):
        wanted = plain_auction(costs, sizes, np.zeros(clusters), step)
        found = _auction(costs, sizes, np.zeros(clusters), step)
        assert np.array_equal(found[0], wanted[0]) and found[1].tobytes() == wanted[1].tobytes()


def test_many_rows_start_from_the_prices_of_some() -> None:
    costs, sizes = costs_of(960, 8, 1), np.full(8, 120)
    found = balanced_assignment(costs, sizes, tolerance=1e-2)
    assert costs[np.arange(960), found.clusters].sum() <= cheapest(costs, sizes) + 9.6
    assert np.bincount(found.clusters).tolist() == sizes.tolist()


def test_sizes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="sum up to 4 rows"):
        balanced_assignment(np.zeros((4, 2)), np.array([1, 2]), tolerance=1.0)


def test_equal_rows_are_shared_out_evenly() -> None:
    found = balanced_assignment(np.zeros((90, 3)), np.array([30, 30, 30]), tolerance=1e-6)
    assert np.bincount(found.clusters).tolist() == [30, 30, 30]


@pytest.mark.parametrize(("rows", "sizes"), [(512, (8, 8, 8)), (500, (8, 8, 8)), (333, (7, 50)), (64, (8, 8))])
def test_every_row_has_a_path_of_its_own_and_nodes_are_even(rows: int, sizes: tuple[int, ...]) -> None:
    x = tree_vectors(rows, 16, (8, 8, 8), noise=0.3, seed=1)[0]
    tree = BalancedKMeansTree(sizes).fit(x, seed=0)
    codes = tree.assigned_codes(x)
    assert len(np.unique(codes, axis=0)) == rows
    for level in range(1, len(sizes)):
        counts = np.unique(codes[:, :level], axis=0, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(tree.decode(codes), x)  # the last level is the rows themselves
    errors = [level["relative_error"] for level in tree.metrics["levels"]]
    assert errors == sorted(errors, reverse=True)
    found = tree.encode(x)
    assert tree.metrics["recovered"] == (found == codes).all(axis=1).mean() > 0.5


def test_paths_follow_the_planted_tree() -> None:
    x, paths = tree_vectors(512, 32, (8, 8, 8), noise=0.02, seed=2)
    tree = BalancedKMeansTree((8, 8, 8)).fit(x, seed=0)
    codes = tree.assigned_codes(x)
    assert normalized_mutual_info_score(paths[:, 0], codes[:, 0]) >= 0.95
    assert normalized_mutual_info_score(paths[:, 0], np.random.default_rng(0).permutation(codes[:, 0])) < 0.1
    near = x + 0.01 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    assert (tree.encode(near) == codes).all(axis=1).mean() > 0.95


def test_splits_cost_less_than_each_centre_taking_its_nearest_free_rows() -> None:
    x = tree_vectors(600, 8, (10,), noise=0.4, seed=4)[0]
    tree = BalancedKMeansTree((10, 60)).fit(x, seed=0)
    code = tree.assigned_codes(x)[:, 0]
    centres = np.stack([x[code == number].mean(axis=0) for number in range(10)])
    free, greedy = np.ones(600, bool), 0.0
    for number in range(10):
        distances = ((x - centres[number]) ** 2).sum(axis=1)
        rows = np.flatnonzero(free)[np.argsort(distances[free], kind="stable")[:60]]
        greedy += distances[rows].sum()
        free[rows] = False
    assert ((x - centres[code]) ** 2).sum() <= greedy


def test_identical_rows_get_different_codes_where_a_node_can_hold_them() -> None:
    x = tree_vectors(60, 8, (60,), seed=0)[0]
    x[1] = x[0]
    tree = BalancedKMeansTree((6, 10)).fit(x, seed=0)
    assert len(np.unique(tree.assigned_codes(x), axis=0)) == 60
    with pytest.raises(DataError, match="fewer different vectors than codes") as caught:
        BalancedKMeansTree((4, 8, 8)).fit(np.repeat(x[2:6], 60, axis=0), seed=0)
    assert str(caught.value.where).startswith("level 2")


def test_other_rows_have_no_assigned_codes_and_ended_paths_no_vector(tmp_path) -> None:
    x = tree_vectors(50, 8, (50,), seed=0)[0]
    tree = BalancedKMeansTree((8, 20)).fit(x, seed=0)
    with pytest.raises(DataError, match="not the vectors that the tree was fitted on"):
        tree.assigned_codes(x[::-1])
    with pytest.raises(DataError, match="a path ends before this code") as caught:
        tree.decode(np.array([[0, 0], [3, 19]]))
    assert caught.value.where == "row 1, level 1"
    tree.save(tmp_path / "tree")
    loaded = load_quantizer(tmp_path / "tree")
    assert isinstance(loaded, BalancedKMeansTree)
    assert np.array_equal(loaded.assigned_codes(x), tree.assigned_codes(x))


def test_more_rows_than_paths_are_refused() -> None:
    with pytest.raises(DataError, match="more vectors than the tree has paths"):
        BalancedKMeansTree((4, 4)).fit(tree_vectors(17, 4, (17,), seed=0)[0], seed=0)


def test_even_sizes() -> None:
    assert even_sizes(10, 4, np.array([5, 0, 3, 2])).tolist() == [3, 2, 3, 2]
    assert even_sizes(3, 3, np.zeros(3)).tolist() == [1, 1, 1]
