"""RQ-KMeans on planted vectors: what it must reach, and what must fail to."""

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from common.errors import ConfigError, DataError
from common.planted import additive_vectors, isotropic_vectors, tree_vectors
from common.tokenizers.kmeans import kmeans, nearest, squared_distances
from common.tokenizers.quality import LevelQuality, level_quality, perplexity
from common.tokenizers.rq_kmeans import RQKMeans

SIZES = (16, 16, 16)


@pytest.fixture(scope="module", params=[0, 1])
def additive(request: pytest.FixtureRequest) -> tuple[np.ndarray, RQKMeans, list[LevelQuality]]:
    x, _ = additive_vectors(4000, 32, 3, 16, seed=request.param)
    quantizer = RQKMeans(SIZES).fit(x, seed=request.param)
    return x, quantizer, level_quality(quantizer, x)


def variation(x: np.ndarray) -> float:
    return float(((x - x.mean(axis=0)) ** 2).sum())


def test_the_error_falls_with_every_level_to_a_twentieth(
    additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]],
) -> None:
    errors = [level.relative_error for level in additive[2]]
    assert 1 > errors[0] > errors[1] > errors[2]
    assert errors[2] <= 0.05


def test_the_same_number_of_stored_centroids_in_one_level_is_five_times_worse(
    additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]],
) -> None:
    x, _, levels = additive
    flat = kmeans(x, sum(SIZES), seed=0)
    assert levels[2].relative_error <= squared_distances(x, flat.centroids, flat.codes).sum() / variation(x) / 5


def test_random_codewords_are_twice_as_bad(additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]]) -> None:
    x, _, levels = additive
    rng, left = np.random.default_rng(0), x.copy()
    for size in SIZES:
        book = left[rng.choice(len(left), size, replace=False)]
        left -= book[nearest(left, book)]
    assert levels[2].relative_error <= float((left**2).sum()) / variation(x) / 2


def test_the_structure_does_it_not_the_capacity(additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]]) -> None:
    """Vectors of the same variance without structure."""
    x, _, levels = additive
    control = isotropic_vectors(4000, 32, scale=float(np.sqrt(variation(x) / x.size)), seed=0)
    assert RQKMeans(SIZES).fit(control, seed=0).metrics["levels"][2]["relative_error"] >= 0.5
    assert levels[2].relative_error < 0.05


def test_every_code_is_used_and_about_alike(additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]]) -> None:
    for level in additive[2]:
        assert level.dead == 0 and level.used == level.size
        assert level.perplexity / level.size >= 0.5


def test_codes_are_as_distinct_as_hashing_would_make_them(
    additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]],
) -> None:
    x, quantizer, _ = additive
    bins = 16**3
    expected = bins * (1 - (1 - 1 / bins) ** len(x)) / len(x)
    assert len(np.unique(quantizer.encode(x), axis=0)) / len(x) >= 0.85 * expected


def test_codes_of_a_reconstruction_are_its_codes(additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]]) -> None:
    x, quantizer, _ = additive
    codes = quantizer.encode(x)
    assert np.array_equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_the_figures_of_the_fit_are_those_of_its_rows(
    additive: tuple[np.ndarray, RQKMeans, list[LevelQuality]],
) -> None:
    """The figures against their definitions; 4,000 rows are fewer than 16 x 256, so all were read."""
    x, quantizer, levels = additive
    codes = quantizer.encode(x)
    for number, level in enumerate(levels):
        error = ((x - quantizer.embed(codes, number + 1)).astype(np.float64) ** 2).sum() / variation(x.astype(float))
        assert level.relative_error == pytest.approx(error, rel=1e-6)
        assert level.perplexity == pytest.approx(perplexity(np.bincount(codes[:, number])))
        assert quantizer.metrics["levels"][number] == vars(level)


def test_the_first_level_is_the_planted_top_level() -> None:
    for seed in range(3):
        x, paths = tree_vectors(2000, 32, (8, 8, 8), seed=seed)
        codes = RQKMeans((8, 16)).fit(x, seed=seed).encode(x)
        assert normalized_mutual_info_score(paths[:, 0], codes[:, 0]) >= 0.95
        shuffled = np.random.default_rng(seed).permutation(paths[:, 0])
        assert normalized_mutual_info_score(shuffled, codes[:, 0]) < 0.05


def test_levels_of_different_sizes_are_carts_coarse_and_fine_codes() -> None:
    x, _ = additive_vectors(2000, 16, 3, 16, seed=2)
    quantizer = RQKMeans((5, 16, 8)).fit(x, seed=3)
    codes = quantizer.encode(x)
    assert codes.max(axis=0).tolist() == [4, 15, 7]
    coarse = kmeans(x, 5, seed=(3, 0))
    assert np.array_equal(codes[:, 0], coarse.codes)
    fine = RQKMeans((16, 8)).fit(x - coarse.centroids[coarse.codes], seed=0)
    errors = [level["relative_error"] for level in quantizer.metrics["levels"]]
    share = errors[0] * fine.metrics["levels"][1]["relative_error"]
    assert errors[2] == pytest.approx(share, rel=0.25)  # the same thing from another seed


def test_a_beam_lowers_the_error() -> None:
    x = tree_vectors(3000, 16, (6, 6, 6), noise=0.3, seed=0)[0]
    errors = []
    for beam in (1, 4, 16):
        quantizer = RQKMeans((8, 8, 8, 8), beam_size=beam).fit(x, seed=0)
        errors.append(level_quality(quantizer, x)[3].relative_error)
        one, two = quantizer.encode(x), quantizer.encode(x[::-1])[::-1]
        assert np.array_equal(one, two)
    assert errors[0] > 1.03 * errors[1] and errors[1] >= 0.99 * errors[2]


def test_normalized_levels_see_directions_of_small_variance() -> None:
    """Clusters in two small dimensions beside loud ones that hold nothing."""
    rng = np.random.default_rng(0)
    group = rng.integers(8, size=3000)
    corner = np.stack([group & 1, group >> 1 & 1, group >> 2 & 1], axis=1)
    x = np.concatenate([0.01 * (corner + 0.05 * rng.normal(size=corner.shape)), rng.normal(size=(3000, 1))], axis=1)
    x = x.astype(np.float32)
    scores = {
        normalize: normalized_mutual_info_score(
            group, RQKMeans((16,), normalize=normalize).fit(x, seed=0).encode(x)[:, 0]
        )
        for normalize in (False, True)
    }
    assert scores[True] > 0.8 and scores[False] < 0.2
    deep = RQKMeans((16, 16, 16), normalize=True).fit(x, seed=0)
    errors = [level["relative_error"] for level in deep.metrics["levels"]]
    assert errors[0] > errors[1] > errors[2]


def test_only_as_many_rows_as_asked_for_are_read() -> None:
    x, _ = additive_vectors(3000, 8, 2, 8, seed=0)
    quantizer = RQKMeans((8, 8), sample_per_code=20).fit(x, seed=0)
    assert quantizer.metrics["rows"] == 160
    assert [level.dead for level in level_quality(quantizer, x)] == [0, 0]


def test_levels_that_have_nothing_left_to_say_are_refused() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32), 30, axis=0)
    assert RQKMeans((8,)).fit(x, seed=0).metrics["levels"][0]["relative_error"] < 1e-12
    assert RQKMeans((8, 1)).fit(x, seed=0).levels == 2
    with pytest.raises(DataError, match="fewer different vectors than codes") as caught:
        RQKMeans((8, 4)).fit(x, seed=0)
    assert "level 2" in str(caught.value.where)


@pytest.mark.parametrize(
    "settings",
    [
        {"codebook_sizes": ()},
        {"codebook_sizes": (16, 0)},
        {"codebook_sizes": (2.5,)},
        {"iterations": 0},
        {"sample_per_code": -1},
        {"beam_size": 0},
        {"beam_size": 4, "normalize": True},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RQKMeans(**settings)  # pyright: ignore[reportArgumentType]


def test_perplexity_is_between_one_and_all() -> None:
    assert perplexity(np.array([3, 3, 3, 3])) == 4
    assert perplexity(np.array([9, 0, 0])) == 1
    assert 1 < perplexity(np.array([9, 1, 1])) < 3


def test_the_quality_of_vectors_that_do_not_vary() -> None:
    x, _ = additive_vectors(500, 8, 2, 4, seed=0)
    quantizer = RQKMeans((4,)).fit(x, seed=0)
    same = np.repeat(quantizer.decode(np.array([[2]], np.int32)), 10, axis=0)
    assert level_quality(quantizer, same)[0] == LevelQuality(1, 0.0, 1.0, 1, 3, 4)
    assert level_quality(quantizer, same + 1)[0].relative_error == float("inf")
    with pytest.raises(DataError, match="at least 1 rows"):
        level_quality(quantizer, x[:0])
