"""What the bottom blocks read of items: [CLS], patches of the image, words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.representation.inputs import Items
from common.representation.roma.config import RomaConfig


@dataclass(frozen=True)
class ItemInputs:
    """B items.

    Attributes
    ----------
    words
        Token ids int64 [B, T]; the first is [CLS].
    word_mask
        bool [B, T], True = real.
    maskable
        bool [B, T], True = a word, not a special token.
    patches
        float32 [B, P, D], 0 where `patch_mask` is False; None without vision.
    patch_mask
        bool [B, P].
    """

    words: Tensor
    word_mask: Tensor
    maskable: Tensor
    patches: Tensor | None = None
    patch_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Tensor | np.ndarray | slice) -> ItemInputs:
        """Return some items, cut to the longest text among them."""
        word_mask = self.word_mask[rows]
        width = int(word_mask.sum(1).max()) if len(word_mask) else 1
        return ItemInputs(
            self.words[rows][:, :width],
            word_mask[:, :width],
            self.maskable[rows][:, :width],
            None if self.patches is None else self.patches[rows],
            None if self.patch_mask is None else self.patch_mask[rows],
        )

    def to(self, device: torch.device | str) -> ItemInputs:
        """Return the items on a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


def read_items(items: Items, tokenizer: Any, config: RomaConfig, positions: int) -> ItemInputs:
    """Return the inputs of items.

    Parameters
    ----------
    positions
        The most tokens that the language model can read.

    Raises
    ------
    DataError
        No such modality; an item with neither image nor text.
    ConfigError
        More tokens than the language model has positions.
    """
    found = tokenizer(
        [str(text) for text in items.texts],
        padding=True,
        truncation=True,
        max_length=config.max_words,
        return_special_tokens_mask=True,
        return_token_type_ids=False,
        return_tensors="np",
    )
    words, word_mask = found["input_ids"].astype(np.int64), found["attention_mask"].astype(bool)
    maskable = word_mask & (found["special_tokens_mask"] == 0)
    patches, patch_mask, own = None, None, np.zeros(len(items), bool)
    if config.vision:
        tokens = items.modality(config.modality, "ROMA reads it before the words (vision: false reads words only)")
        own, patch_mask = tokens.present, torch.from_numpy(tokens.mask.copy())
        patches = torch.from_numpy(np.where(tokens.mask[:, :, None], tokens.values, 0).astype(np.float32))
    empty = ~maskable.any(1) & ~own
    if empty.any():
        raise DataError(
            "an item has nothing to read",
            where=f"item {items.ids[int(empty.argmax())]}",
            expected=f"a text{f', or the {config.modality}' if config.vision else ''}",
            got=f"neither; {int(empty.sum())} such items",
            todo="give these items a text, or leave them out",
        )
    total = words.shape[1] + (0 if patches is None else patches.shape[1])
    if total > positions:
        raise ConfigError(
            "an item has more tokens than the language model has positions",
            where="max_words",
            expected=f"at most {positions} tokens, patches of the image counted",
            got=total,
            todo="lower max_words, or pool the patches",
        )
    own_words, real, free = (torch.from_numpy(one) for one in (words, word_mask, maskable))
    return ItemInputs(own_words, real, free, patches, patch_mask)
