"""Codes as tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.generative.vocabulary import PADDING, Vocabulary

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@given(SIZES)
def test_every_code_and_every_special_token_has_a_number_of_its_own(sizes: tuple[int, ...]) -> None:
    vocabulary = Vocabulary(sizes)
    tokens = {PADDING, vocabulary.bos, vocabulary.separator}
    tokens |= {vocabulary.offset(level) + code for level, size in enumerate(sizes) for code in range(size)}
    assert tokens == set(range(vocabulary.size))
    assert len(tokens) == 3 + sum(sizes)


@given(SIZES, st.integers(0, 2**32 - 1))
def test_tokens_go_back_to_codes(sizes: tuple[int, ...], seed: int) -> None:
    vocabulary, rng = Vocabulary(sizes), np.random.default_rng(seed)
    sids = np.column_stack([rng.integers(0, size, 7) for size in sizes]).astype(np.int32)
    offsets = [vocabulary.offset(level) for level in range(vocabulary.levels)]
    tokens = vocabulary.tokens(sids)
    assert tokens.dtype == np.int64
    assert np.array_equal(tokens - offsets, sids)


def test_a_published_example() -> None:
    # TIGER, section 3.2: 256 codes a level at offsets of their own
    assert Vocabulary((256,) * 4).tokens(np.array([[5, 23, 55, 0]])).tolist() == [[6, 280, 568, 769]]


@pytest.mark.parametrize(
    ("sids", "said"),
    [
        (np.array([[0, 3]]), "outside its codebook"),
        (np.array([[-1, 0]]), "outside its codebook"),
        (np.array([[0]]), "another shape"),
        (np.array([[0.0, 1.0]]), "another shape"),
    ],
)
def test_codes_that_do_not_exist_are_refused(sids: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Vocabulary((2, 3)).tokens(sids)


def test_levels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DataError, match="no such level"):
        Vocabulary((2, 3)).offset(2)
    with pytest.raises(DataError, match="one code a level"):
        Vocabulary((2, 0))
