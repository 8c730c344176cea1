"""Codes of all levels as the tokens of one vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.tokenizers.base import check_codes

PADDING = 0
"""The token of a position that holds nothing."""


@dataclass(frozen=True)
class Vocabulary:
    """Token of code c at level l = 1 + sum(sizes[:l]) + c; 0 is padding; then bos and separator.

    >>> v = Vocabulary((4, 3))
    >>> v.offset(1), v.bos, v.separator, v.size
    (5, 8, 9, 10)
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise DataError("a vocabulary needs one code a level at least", expected="sizes >= 1", got=self.sizes)

    @property
    def levels(self) -> int:
        """Number of codes of an item."""
        return len(self.sizes)

    def offset(self, level: int) -> int:
        """Return the token of code 0 of a level."""
        if not 0 <= level < self.levels:
            raise DataError("no such level", where="level", expected=f"0..{self.levels - 1}", got=level)
        return 1 + sum(self.sizes[:level])

    @property
    def bos(self) -> int:
        """The token that starts a decoder's input, and an encoder's memory."""
        return 1 + sum(self.sizes)

    @property
    def separator(self) -> int:
        """The token after each item of a history, where a model uses one."""
        return self.bos + 1

    @property
    def size(self) -> int:
        """Number of tokens, padding and the special ones included."""
        return self.separator + 1

    def tokens(self, sids: np.ndarray) -> np.ndarray:
        """Return int64 [N, L], the tokens of semantic IDs int [N, L].

        Raises
        ------
        DataError
            A code outside its codebook, or another number of levels.
        """
        sids = np.asarray(sids)
        if sids.ndim != 2 or sids.shape[1] != self.levels:
            raise DataError("semantic IDs have another shape", expected=f"[N, {self.levels}]", got=list(sids.shape))
        offsets = np.array([self.offset(level) for level in range(self.levels)], dtype=np.int64)
        return check_codes(sids, self.sizes).astype(np.int64) + offsets
