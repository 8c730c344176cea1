"""FAISS's quantizers: the codes are FAISS's own, and so are the vectors they stand for."""

import faiss
import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.planted import additive_vectors, isotropic_vectors
from common.tokenizers.faiss_codes import ProductQuantizer, ResidualQuantizer
from common.tokenizers.kmeans import kmeans


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return additive_vectors(3000, 16, 3, 16, noise=0.2, seed=0)[0]


@pytest.mark.parametrize("beam", [1, 2, 6])
def test_residual_codes_are_those_of_faiss(x: np.ndarray, beam: int) -> None:
    """The oracle is FAISS with our codebooks in it: its own encoder and decoder."""
    quantizer = ResidualQuantizer((16, 8, 32), beam_size=beam).fit(x, seed=3)
    bits = faiss.UInt64Vector()
    for width in (4, 3, 5):
        bits.push_back(width)
    peer = faiss.ResidualQuantizer(16, bits)
    peer.max_beam_size, peer.is_trained = beam, True
    faiss.copy_array_to_vector(np.concatenate(list(quantizer._arrays().values())).ravel(), peer.codebooks)
    packed = peer.compute_codes(x)
    codes = quantizer.encode(x)
    assert np.array_equal(faiss.unpack_bitstrings(packed, np.array([4, 3, 5])), codes)
    assert np.allclose(peer.decode(packed), quantizer.decode(codes), atol=1e-5)


def test_product_codes_are_those_of_faiss(x: np.ndarray) -> None:
    quantizer = ProductQuantizer((32, 32, 32, 32)).fit(x, seed=3)
    peer = faiss.ProductQuantizer(16, 4, 5)
    faiss.copy_array_to_vector(quantizer._arrays()["codebooks"].ravel(), peer.centroids)
    packed = peer.compute_codes(x)
    codes = quantizer.encode(x)
    assert np.array_equal(faiss.unpack_bitstrings(packed, 4, 5), codes)
    assert np.array_equal(peer.decode(packed), quantizer.decode(codes))


def test_the_training_is_faisss(x: np.ndarray) -> None:
    """Trained by FAISS alone with the same settings: the same error."""
    peer = faiss.ProductQuantizer(16, 4, 4)
    peer.cp.seed, peer.cp.niter = 5, 25
    peer.train(x)
    theirs = ((x - peer.decode(peer.compute_codes(x))) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    quantizer = ProductQuantizer((16, 16, 16, 16)).fit(x, seed=5)
    assert quantizer.metrics["levels"][3]["relative_error"] == pytest.approx(float(theirs), rel=0.02)


def test_residual_codes_find_additive_structure_and_not_noise(x: np.ndarray) -> None:
    """FAISS starts its k-means at random rows, so this is looser than RQ-KMeans' own thresholds."""
    quantizer = ResidualQuantizer((16, 16, 16), beam_size=1).fit(x, seed=0)
    flat = kmeans(x, 48, seed=0)
    variation = ((x - x.mean(axis=0)) ** 2).sum()
    flat_error = ((x - flat.centroids[flat.codes]) ** 2).sum() / variation
    control = ResidualQuantizer((16, 16, 16), beam_size=1).fit(isotropic_vectors(3000, 16, seed=0), seed=0)
    errors = [q.metrics["levels"][2]["relative_error"] for q in (quantizer, control)]
    assert errors[0] < flat_error / 1.5
    assert errors[1] > 3 * errors[0]


def test_parts_not_asked_for_are_their_mean(x: np.ndarray) -> None:
    x = x[:2000]  # 8 x 256 rows: all are read
    quantizer = ProductQuantizer((8, 8)).fit(x, seed=0)
    found = quantizer.embed(quantizer.encode(x), 1)
    assert np.allclose(found[:, 8:], x[:, 8:].mean(axis=0), atol=1e-6)
    assert np.array_equal(found[:, :8], quantizer.decode(quantizer.encode(x))[:, :8])


@pytest.mark.parametrize("made", [ProductQuantizer, ResidualQuantizer])
@pytest.mark.parametrize("size", [3, 1, 100, 1 << 17])
def test_sizes_that_faiss_does_not_have_are_refused(made: type, size: int) -> None:
    with pytest.raises(ConfigError, match="powers of two"):
        made((size, size))


def test_parts_of_different_sizes_or_widths_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="parts of one size"):
        ProductQuantizer((8, 16))
    with pytest.raises(ConfigError, match="divide into equal parts"):
        ProductQuantizer((8, 8, 8)).fit(x, seed=0)


def test_a_part_with_too_few_values_is_named(x: np.ndarray) -> None:
    flat = x.copy()
    flat[:, 8:] = np.round(flat[:, 8:] > 0)[:, :1]
    with pytest.raises(DataError, match="fewer different vectors than codes") as caught:
        ProductQuantizer((8, 8)).fit(flat, seed=0)
    assert caught.value.where == "part 2 of 2"
