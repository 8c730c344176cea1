"""Sequences of the dense tokenizer, and the mask under which what is written sees the slots and not the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from common.generative.lm.examples import Example, LmBatch, pack


class CascadeExample(NamedTuple):
    """Token ids of a text, of what begins the answer (task and instruction), and of the answer, its end included."""

    source: Sequence[int]
    lead: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True)
class CascadeBatch(LmBatch):
    """Examples as text, slots, lead, target, side by side and padded at the end.

    Attributes
    ----------
    attention
        bool [B, T, T], see `cascaded_mask`; None: the causal triangle.
    """

    attention: Tensor | None = None

    def to(self, device: torch.device | str) -> CascadeBatch:
        """Return the batch on a device."""
        attention = None if self.attention is None else self.attention.to(device)
        return replace(
            self,
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            told=self.told.to(device),
            attention=attention,
        )


def pack_cascade(
    examples: Sequence[CascadeExample],
    slots: Sequence[int],
    context: int,
    mask: Literal["cascaded", "causal"] = "cascaded",
) -> CascadeBatch:
    """Return the batch of examples with the slots' tokens after each text; see `pack` for what it refuses."""
    plain = pack([Example([*one.source, *slots, *one.lead], one.target) for one in examples], context)
    attention = None
    if mask == "cascaded":
        lengths = torch.tensor([len(one.source) for one in examples])
        attention = cascaded_mask(lengths, len(slots), plain.ids.shape[1])
    return CascadeBatch(plain.ids, plain.mask, plain.told, attention)


def cascaded_mask(lengths: Tensor, slots: int, width: int) -> Tensor:
    """Return bool [B, T, T], True = row t may see column s: the causal triangle without (output, text).

    A text has `lengths` [B] tokens, then come the slots, then the output. A text's token sees the text up to itself; a
    slot sees the whole text and the slots up to itself; the output sees the slots and the output up to itself. So the
    slots are the only way from the text to what is written (STORE, 2024; that slots see earlier slots is our choice).

    >>> cascaded_mask(torch.tensor([2]), 1, 4)[0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]
    """
    place = torch.arange(width)
    triangle = place[:, None] >= place[None, :]
    output = place[None, :] >= lengths[:, None] + slots
    text = place[None, :] < lengths[:, None]
    return triangle & ~(output[:, :, None] & text[:, None, :])
