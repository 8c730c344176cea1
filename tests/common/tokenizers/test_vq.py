"""VQ by moving averages: near k-means, and dead codes come to life."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from common.errors import ConfigError
from common.planted import isotropic_vectors, tree_vectors
from common.tokenizers.kmeans import kmeans, squared_distances
from common.tokenizers.vq import VQ
from tests.processes import one_thread as one_thread


def test_planted_clusters_are_found() -> None:
    x, paths = tree_vectors(2000, 16, (8,), noise=0.1, seed=0)
    codes = VQ(16, batch_size=500).fit(x, seed=0).encode(x)[:, 0]
    pure = sum(np.bincount(paths[codes == code, 0]).max() for code in range(16)) / len(x)
    assert pure >= 0.98  # a code stands for one cluster
    assert normalized_mutual_info_score(np.random.default_rng(0).permutation(codes), paths[:, 0]) < 0.05


def test_the_error_is_near_k_means_and_no_code_is_dead() -> None:
    x = tree_vectors(3000, 16, (8, 8), noise=0.3, seed=1)[0]
    quantizer = VQ(32, batch_size=500).fit(x, seed=0)
    best = kmeans(x, 32, seed=0)
    error = squared_distances(x, best.centroids, best.codes).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    level = quantizer.metrics["levels"][0]
    assert error <= level["relative_error"] <= 1.25 * error
    assert level["dead"] == 0 and level["perplexity"] >= 16
    control = VQ(32, batch_size=500).fit(isotropic_vectors(3000, 16, seed=1), seed=0)
    assert control.metrics["levels"][0]["relative_error"] > 2 * level["relative_error"]


def test_fitting_leaves_torchs_randomness_as_it_was() -> None:
    x = isotropic_vectors(300, 4, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    VQ(4, epochs=1).fit(x, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_codes_of_codewords_are_their_numbers() -> None:
    quantizer = VQ(12, epochs=2).fit(isotropic_vectors(500, 6, seed=2), seed=0)
    numbers = np.arange(12, dtype=np.int32)[:, None]
    assert np.array_equal(quantizer.encode(quantizer.decode(numbers)), numbers)


@pytest.mark.parametrize(
    "settings", [{"codes": 0}, {"decay": 1.0}, {"decay": -0.1}, {"dead_below": -1}, {"epochs": 0}, {"batch_size": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        VQ(**settings)  # pyright: ignore[reportArgumentType]
