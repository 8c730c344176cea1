"""Windows of words over passages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from track1_mdr.chunks import chunk_passages

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40).map(" ".join), max_size=6)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 12), st.data())
def test_windows_cover_every_word_in_order(texts: list[str], words: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, words))
    numbered = [" ".join(f"{row}.{i}" for i in range(len(text.split()))) for row, text in enumerate(texts)]
    chunks = chunk_passages(numbered, words, stride)
    assert len(chunks) == len(chunks.owners)
    for row, text in enumerate(numbered):
        mine = [chunk.split() for chunk, owner in zip(chunks.texts, chunks.owners, strict=True) if owner == row]
        expected = text.split()
        covered: list[str] = []
        for place, window in enumerate(mine):
            assert expected[place * stride : place * stride + len(window)] == window
            assert len(window) == words or place == len(mine) - 1
            covered += [word for word in window if word not in covered]
        assert covered == expected
        # No window is there only to repeat the end of the one before it.
        assert len(mine) < 2 or len(mine[-1]) > words - stride
    assert (np.diff(chunks.owners) >= 0).all()


def test_empty_texts_have_no_chunk() -> None:
    chunks = chunk_passages(["", "  \n ", "word"], 5, 5)
    assert chunks.texts == ["word"]
    assert chunks.owners.tolist() == [2]
    assert len(chunk_passages([], 5, 5)) == 0


@pytest.mark.parametrize(("words", "stride"), [(0, 1), (5, 0), (5, 6), (5, -1)])
def test_windows_that_would_leave_words_out_are_refused(words: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride <= words"):
        chunk_passages(["a b"], words, stride)
