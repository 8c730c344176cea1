"""Planted vectors: the structure that is said to be there is there, and in the control it is not."""

from collections.abc import Callable

import numpy as np
import pytest

from common.errors import ConfigError
from common.planted import additive_vectors, isotropic_vectors, tree_vectors


def explained(x: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of x between the means of groups of equal rows."""
    _, group = np.unique(groups, axis=0, return_inverse=True)
    group = group.reshape(-1)
    sums = np.zeros((group.max() + 1, x.shape[1]))
    np.add.at(sums, group, x - x.mean(0))
    return float((sums**2 / np.bincount(group)[:, None]).sum() / ((x - x.mean(0)) ** 2).sum())


def onehot(codes: np.ndarray) -> np.ndarray:
    sizes = codes.max(0) + 1
    return np.concatenate([np.eye(size)[column] for size, column in zip(sizes, codes.T, strict=True)], axis=1)


def linear_rest(x: np.ndarray, codes: np.ndarray) -> float:
    """What is left of the variance after one codeword for each code of each level, relative."""
    design = onehot(codes)
    fitted = design @ np.linalg.lstsq(design, x, rcond=None)[0]
    return float(((x - fitted) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


def test_additive_vectors_are_sums_of_shared_codewords() -> None:
    x, codes = additive_vectors(3000, dim=24, levels=3, codes=8, noise=0.05)
    assert x.shape == (3000, 24) and x.dtype == np.float32
    assert codes.shape == (3000, 3) and codes.dtype == np.int32 and codes.min() == 0 and codes.max() == 7
    assert linear_rest(x, codes) < 0.004  # 0.05² against 1 + 1/4 + 1/16
    shuffled = np.random.default_rng(1).permutation(codes)
    assert linear_rest(x, shuffled) > 0.97


def test_tree_vectors_have_codewords_of_their_parents() -> None:
    x, paths = tree_vectors(2048, dim=24, branching=(8, 8, 4), noise=0.05)
    assert explained(x, paths) > 0.995
    assert 0.6 < explained(x, paths[:, :1]) < 0.95 < explained(x, paths[:, :2])
    assert linear_rest(x, paths) > 0.1, "a tree whose codewords are shared would be additive"


def test_a_tree_of_as_many_vectors_as_leaves_has_one_at_each() -> None:
    _, paths = tree_vectors(256, branching=(8, 8, 4))
    assert len(np.unique(paths, axis=0)) == 256
    assert paths.max(0).tolist() == [7, 7, 3]


def test_isotropic_vectors_have_no_structure() -> None:
    x = isotropic_vectors(4000, dim=16, scale=2.0)
    spectrum = np.linalg.eigvalsh(np.cov(x.T))
    assert spectrum.max() / spectrum.min() < 1.4
    assert x.std() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("make", [additive_vectors, tree_vectors], ids=lambda make: make.__name__)
def test_same_seed_same_bytes_another_seed_others(make: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    first, again, other = make(100, seed=3), make(100, seed=3), make(100, seed=4)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert first[0].tobytes() != other[0].tobytes()
    assert isotropic_vectors(10, seed=3).tobytes() == isotropic_vectors(10, seed=3).tobytes()


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda: additive_vectors(0), "n"),
        (lambda: additive_vectors(10, codes=0), "codes"),
        (lambda: additive_vectors(10, noise=-1), "noise"),
        (lambda: additive_vectors(10, noise=float("nan")), "noise"),
        (lambda: tree_vectors(10, branching=()), "branching"),
        (lambda: tree_vectors(10, branching=(4, 0)), "branching"),
        (lambda: isotropic_vectors(10, scale=-1), "scale"),
    ],
)
def test_bad_numbers_are_named(call: Callable[[], object], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.where == where
