"""K-means a slot: parallel codes, each of its own slot alone."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score

from common.errors import ConfigError, DataError
from common.planted import additive_vectors, tree_vectors
from common.tokenizers.kmeans import kmeans, nearest
from common.tokenizers.slot_kmeans import SlotKMeans, principal_axes


@pytest.fixture(scope="module")
def slots() -> tuple[np.ndarray, np.ndarray]:
    """Three slots of 8 dimensions, each with 6 planted clusters of its own: x, and the clusters [N, 3]."""
    parts = [tree_vectors(1500, 8, (6,), noise=0.1, seed=seed) for seed in range(3)]
    return np.concatenate([x for x, _ in parts], axis=1), np.concatenate([paths for _, paths in parts], axis=1)


def test_each_slot_has_its_own_planted_clusters(slots: tuple[np.ndarray, np.ndarray]) -> None:
    x, planted = slots
    codes = SlotKMeans((6, 6, 6)).fit(x, seed=0).encode(x)
    for slot in range(3):
        assert normalized_mutual_info_score(planted[:, slot], codes[:, slot]) >= 0.99
        for other in {0, 1, 2} - {slot}:
            assert normalized_mutual_info_score(planted[:, other], codes[:, slot]) < 0.05


def test_a_slot_is_a_k_means_and_no_residual(slots: tuple[np.ndarray, np.ndarray]) -> None:
    x = slots[0]
    quantizer = SlotKMeans((6, 4, 9)).fit(x, seed=5)
    codes = quantizer.encode(x)
    for slot, size in enumerate((6, 4, 9)):
        part = np.ascontiguousarray(x[:, 8 * slot : 8 * slot + 8])
        assert np.array_equal(codes[:, slot], kmeans(part, size, seed=(5, slot)).codes)
    changed = x.copy()
    changed[:, 8:16] = changed[::-1, 8:16]
    again = quantizer.encode(changed)
    assert np.array_equal(again[:, [0, 2]], codes[:, [0, 2]])
    assert np.array_equal(again[:, 1], codes[::-1, 1])


def test_codewords_of_components_are_the_nearest_among_the_components() -> None:
    """Encoding in the slot's own dimensions is encoding after PCA; scikit-learn's PCA is the oracle."""
    x = additive_vectors(800, 12, 2, 8, noise=0.3, seed=1)[0]
    quantizer = SlotKMeans((10, 10), components=3).fit(x, seed=0)
    for slot, book in enumerate(list(quantizer._arrays().values())[1:]):
        part = x[:, 6 * slot : 6 * slot + 6]
        pca = PCA(3).fit(part)
        inside = nearest(pca.transform(part).astype("f4"), pca.transform(book).astype("f4"))
        assert (inside == quantizer.encode(x)[:, slot]).mean() >= 0.999
        assert np.abs(book - pca.inverse_transform(pca.transform(book))).max() < 1e-4  # nothing outside the components
        mean, axes = principal_axes(part, 3)
        assert np.allclose(mean, pca.mean_, atol=1e-5)
        assert np.allclose(np.abs(axes @ pca.components_.T), np.eye(3), atol=1e-3)


def test_components_leave_out_what_is_noise() -> None:
    """Clusters in two loud dimensions, and 40 quieter ones of noise: k-means of few rows is drawn off by them."""
    rng = np.random.default_rng(0)
    group = rng.integers(12, size=240)
    x = np.concatenate([4 * rng.normal(size=(12, 2))[group], 1.2 * rng.normal(size=(240, 40))], axis=1).astype("f4")
    scores = [
        np.mean([normalized_mutual_info_score(group, SlotKMeans((12,), components=c).fit(x, seed=s).encode(x)[:, 0])
                 for s in range(3)])
        for c in (0, 2)
    ]  # fmt: skip
    assert scores[1] > scores[0] + 0.1


def test_slots_not_asked_for_are_their_mean(slots: tuple[np.ndarray, np.ndarray]) -> None:
    x = slots[0]
    quantizer = SlotKMeans((6, 6, 6)).fit(x, seed=0)
    codes = quantizer.encode(x)
    found = quantizer.embed(codes, 2)
    assert np.array_equal(found[:, :16], quantizer.decode(codes)[:, :16])
    assert np.allclose(found[:, 16:], x[:, 16:].mean(axis=0), atol=1e-6)
    assert np.array_equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_bad_widths_and_slots_are_refused(slots: tuple[np.ndarray, np.ndarray]) -> None:
    x = slots[0]
    with pytest.raises(ConfigError, match="do not divide into slots"):
        SlotKMeans((4,) * 5).fit(x, seed=0)
    with pytest.raises(ConfigError, match="more components than a slot has"):
        SlotKMeans((4, 4, 4), components=9).fit(x, seed=0)
    for components in (-1, 2.5):
        with pytest.raises(ConfigError):
            SlotKMeans((4,), components=components)  # pyright: ignore[reportArgumentType]
    flat = x.copy()
    flat[:, 8:16] = 1
    with pytest.raises(DataError, match="fewer different vectors than codes") as caught:
        SlotKMeans((4, 4, 4)).fit(flat, seed=0)
    assert caught.value.where == "slot 2 of 3"
