"""Training examples of a language model: a prompt to read, a target to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError


class Example(NamedTuple):
    """Token ids of a prompt, which is given, and of a target, which is to be told. Ids from V on are codes."""

    prompt: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True)
class LmBatch:
    """Examples side by side, padded at the end.

    Attributes
    ----------
    ids
        int64 [B, T]; 0 where `mask` is False.
    mask
        bool [B, T], True = a token.
    told
        bool [B, T], True = a token of a target: what the loss asks for, given those before it.
    """

    ids: Tensor
    mask: Tensor
    told: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> LmBatch:
        """Return the batch on a device."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), told=self.told.to(device))


def pack(examples: Sequence[Example], context: int) -> LmBatch:
    """Return the batch of examples.

    Raises
    ------
    DataError
        No example, an empty prompt or target, or one that is longer than the model reads.
    """
    if not examples:
        raise DataError("no example to train on")
    lengths = [(len(one.prompt), len(one.target)) for one in examples]
    for row, (asked, told) in enumerate(lengths):
        if not asked or not told:
            raise DataError("an example without a prompt or a target", where=f"row {row} of the batch")
        check_room(asked + told, context, f"row {row} of the batch")
    width = max(asked + told for asked, told in lengths)
    ids = np.zeros((len(examples), width), np.int64)
    mask, told_mask = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, (one, (asked, told)) in enumerate(zip(examples, lengths, strict=True)):
        ids[row, :asked], ids[row, asked : asked + told] = one.prompt, one.target
        mask[row, : asked + told], told_mask[row, asked : asked + told] = True, True
    return LmBatch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(told_mask))


def check_room(length: int, context: int, where: str) -> None:
    """Raise `DataError` if a sequence is longer than the model reads."""
    if length > context:
        raise DataError(
            "a prompt and what is to be written after it are longer than the model reads",
            where=where,
            expected=f"at most {context} tokens",
            got=f"{length}",
            todo="shorten histories or texts (max_items, max_text), or take a model that reads more",
        )


def fit_history(head: Sequence[int], items: Sequence[Sequence[int]], tail: Sequence[int], room: int) -> list[int]:
    """Return head + the most recent items that fit + tail, `room` tokens at most; `items` come oldest first.

    Raises
    ------
    DataError
        Head and tail alone do not fit.

    >>> fit_history([1], [[2, 2], [3], [4, 4]], [9], 5)
    [1, 3, 4, 4, 9]
    """
    left = room - len(head) - len(tail)
    if left < 0:
        check_room(len(head) + len(tail), room, "the instruction itself")
    kept: list[Sequence[int]] = []
    for item in reversed(items):
        if len(item) > left:
            break
        left -= len(item)
        kept.append(item)
    return [*head, *(token for item in reversed(kept) for token in item), *tail]
