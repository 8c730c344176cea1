"""K-means: nearest centroids are exact, no cluster is empty, and the result is as good as scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from common.errors import DataError
from common.experiment import cores
from common.planted import tree_vectors
from common.tokenizers.beam import beam_encode
from common.tokenizers.kmeans import ClusterSums, count_different, kmeans, nearest, revive, squared_distances
from common.tokenizers.parallel import over_rows, single_blas, threads


def exact(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The oracle: every distance in extended precision, ties to the smaller code."""
    x, centroids = x.astype(np.longdouble), centroids.astype(np.longdouble)
    return np.array([((centroids - row) ** 2).sum(axis=1).argmin() for row in x])


def inertia(x: np.ndarray, centroids: np.ndarray) -> float:
    return float(squared_distances(x, centroids, nearest(x, centroids)).sum())


@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
def test_nearest_is_exact_where_a_matrix_product_is_not(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = (offset + rng.normal(size=(500, 24))).astype(np.float32)
    centroids = (offset + rng.normal(size=(300, 24))).astype(np.float32)
    truth = exact(x, centroids)
    assert np.array_equal(nearest(x, centroids), truth)
    naive = (0.5 * (centroids**2).sum(axis=1) - x @ centroids.T).argmin(axis=1)
    if offset == 3000:
        assert (naive != truth).mean() > 0.3  # the product alone would be wrong here: the test can fail


def test_nearest_gives_ties_to_the_smaller_code() -> None:
    rng = np.random.default_rng(1)
    book = rng.normal(size=(40, 8)).astype(np.float32)
    twice = np.concatenate([book, book])
    x = rng.normal(size=(300, 8)).astype(np.float32)
    assert np.array_equal(nearest(x, twice), nearest(x, book))
    assert np.array_equal(nearest(book, twice), np.arange(40))
    assert nearest(np.zeros((3, 2), np.float32), np.float32([[1, 0], [0, 1], [-1, 0]])).tolist() == [0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 20), st.integers(0, 10**6))
def test_nearest_depends_on_the_row_alone(rows: int, size: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(rows, dim)), 1).astype(np.float32)  # rounded: many ties
    centroids = np.round(rng.normal(size=(size, dim)), 1).astype(np.float32)
    codes = nearest(x, centroids)
    order = rng.permutation(rows)
    assert np.array_equal(nearest(x[order], centroids), codes[order])
    cut = int(rng.integers(rows + 1))
    assert np.array_equal(np.concatenate([nearest(x[:cut], centroids), nearest(x[cut:], centroids)]), codes)
    assert np.array_equal(codes, exact(x, centroids)) or dim > 1  # sums of more terms round, in any precision


def test_nearest_of_many_rows_is_that_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough rows for several tiles and threads."""
    monkeypatch.setattr("common.tokenizers.parallel.threads", lambda: 3)
    rng = np.random.default_rng(2)
    x, centroids = rng.normal(size=(20_000, 16)).astype("f4"), rng.normal(size=(256, 16)).astype("f4")
    codes = nearest(x, centroids)
    some = rng.choice(len(x), 200, replace=False)
    assert codes[some].tolist() == [int(nearest(x[i : i + 1], centroids)[0]) for i in some]


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_nearest_survives_overflow_and_underflow(scale: float) -> None:
    rng = np.random.default_rng(3)
    x, centroids = rng.normal(size=(60, 6)), rng.normal(size=(9, 6))
    expected = nearest(x.astype("f4"), centroids.astype("f4"))
    assert np.array_equal(nearest((x * scale).astype("f4"), (centroids * scale).astype("f4")), expected)


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_a_beam_that_covers_all_is_brute_force_and_one_is_greedy(beam: int) -> None:
    rng = np.random.default_rng(4)
    books = [rng.normal(size=(size, 6)).astype(np.float32) * scale for size, scale in ((4, 1), (3, 0.7), (5, 0.5))]
    x = rng.normal(size=(200, 6)).astype(np.float32)
    paths = np.stack(np.meshgrid(*[np.arange(len(b)) for b in books], indexing="ij"), axis=-1).reshape(-1, 3)
    sums = books[0][paths[:, 0]] + books[1][paths[:, 1]] + books[2][paths[:, 2]]
    best = paths[nearest(x, sums)]
    assert np.array_equal(beam_encode(x, books, 12), best)
    left, greedy = x.copy(), []
    for book in books:
        greedy.append(nearest(left, book))
        left = left - book[greedy[-1]]
    assert np.array_equal(beam_encode(x, books, 1), np.stack(greedy, axis=1))
    found = beam_encode(x, books, beam)
    parts = [beam_encode(x[i : i + 7], books, beam) for i in range(0, 200, 7)]
    assert np.array_equal(np.concatenate(parts), found)
    errors = [((x - sum(b[c[:, level]] for level, b in enumerate(books))) ** 2).sum()
              for c in (np.stack(greedy, axis=1), found, best)]  # fmt: skip
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[0] > 1.05 * errors[2]


def test_a_beam_gives_ties_to_the_smaller_codes() -> None:
    book = np.float32([[1, 0], [0, 1]])  # 0 + 1 and 1 + 0 are the same sum
    assert beam_encode(np.float32([[1, 1]]), [book, book], 4).tolist() == [[0, 1]]


def test_kmeans_finds_planted_clusters() -> None:
    x, paths = tree_vectors(2000, 16, (12,), noise=0.05, seed=3)
    found = kmeans(x, 12, seed=0)
    pairs = {(int(a), int(b)) for a, b in zip(paths[:, 0], found.codes, strict=True)}
    assert len(pairs) == 12
    means = np.stack([x[found.codes == code].mean(axis=0) for code in range(12)])
    assert np.abs(means - found.centroids).max() < 1e-5


def test_kmeans_is_as_good_as_scikit_learn() -> None:
    x = tree_vectors(3000, 16, (8, 8, 8), noise=0.3, seed=5)[0]
    ours = np.mean([inertia(x, kmeans(x, 40, seed=seed).centroids) for seed in range(4)])
    theirs = np.mean([KMeans(40, n_init=1, random_state=seed).fit(x).inertia_ for seed in range(4)])
    assert ours <= 1.01 * theirs


def test_kmeans_is_deterministic_and_seeds_differ() -> None:
    x = np.random.default_rng(6).normal(size=(800, 8)).astype(np.float32)
    one, two, other = kmeans(x, 20, seed=1), kmeans(x, 20, seed=1), kmeans(x, 20, seed=2)
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.centroids.tobytes() != other.centroids.tobytes()
    with single_blas():
        assert kmeans(x, 20, seed=1).centroids.tobytes() == one.centroids.tobytes()


def test_kmeans_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tree_vectors(9000, 24, (8, 8, 8), noise=0.3, seed=0)[0]
    found = []
    for number in (1, 2, 3):
        monkeypatch.setattr("common.tokenizers.parallel.threads", lambda count=number: count)
        found.append(kmeans(x, 100, seed=0, iterations=3).centroids.tobytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("different", "copies"), [(30, 1), (30, 50), (31, 3), (60, 20)])
def test_no_cluster_is_empty_however_many_rows_are_alike(different: int, copies: int) -> None:
    rng = np.random.default_rng(different)
    x = np.repeat(rng.normal(size=(different, 5)).astype(np.float32), copies, axis=0)
    x = np.concatenate([x, np.repeat(x[:1], 4000, axis=0)])  # and one vector a thousand times over
    for seed in range(3):
        found = kmeans(x, 30, seed=seed)
        assert np.bincount(found.codes, minlength=30).min() > 0
        assert np.array_equal(nearest(x, found.centroids), found.codes)


def test_fewer_different_rows_than_clusters_is_an_error_with_the_count() -> None:
    x = np.repeat(np.eye(5, dtype=np.float32), 100, axis=0)
    with pytest.raises(DataError, match="fewer different vectors than codes") as caught:
        kmeans(x, 6, seed=0)
    assert caught.value.got == "5 among 500"
    assert len(kmeans(x, 5, seed=0).centroids) == 5
    with pytest.raises(DataError, match="fewer vectors than codes"):
        kmeans(x[:3], 4, seed=0)


def test_sums_of_moved_rows_are_sums_anew() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(500, 20)).astype(np.float32)
    codes = rng.integers(7, size=500)
    sums = ClusterSums(x, codes, 7)
    for share in (0.01, 0.3, 0.9, 0.0):
        codes = np.where(rng.random(500) < share, rng.integers(7, size=500), codes)
        sums.move(codes)
        expected = np.stack([x[codes == code].astype(np.float64).sum(axis=0) for code in range(7)])
        assert np.allclose(sums.sums, expected, rtol=0, atol=1e-10)
        assert np.array_equal(sums.counts, np.bincount(codes, minlength=7))


def test_revive_moves_dead_centroids_only() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    centroids = np.concatenate([x[:5], np.full((3, 4), 99, np.float32)])
    found = revive(x, centroids)
    assert np.array_equal(found[:5], x[:5])
    assert np.bincount(nearest(x, found), minlength=8).min() > 0


def test_different_rows_are_counted() -> None:
    x = np.random.default_rng(10).normal(size=(300, 7)).astype(np.float32)
    assert count_different(x) == 300
    assert count_different(np.concatenate([x, x[::-1]])) == 300
    assert count_different(np.zeros((4, 3), np.float32)) == 1


def test_the_number_of_threads_is_counted_outside_of_the_limit() -> None:
    threads.cache_clear()
    with single_blas():
        inside = threads()
    threads.cache_clear()
    assert inside == threads()
    assert 1 <= inside <= cores()


def test_blocks_of_rows_cover_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tokenizers.parallel.threads", lambda: 3)
    seen, blocks = np.zeros(1001, dtype=int), []

    def work(rows: slice) -> None:
        seen[rows] += 1
        blocks.append(rows.stop - rows.start)

    over_rows(work, 1001, 10)
    over_rows(work, 1001, 10**6)
    over_rows(work, 1001, 10, 64)
    assert (seen == 3).all()
    assert sorted(blocks) == [320, 320, 333, 334, 334, 361, 1001]
    with pytest.raises(ZeroDivisionError):
        over_rows(lambda _: 1 // 0, 1001, 10)  # pyright: ignore[reportArgumentType]
