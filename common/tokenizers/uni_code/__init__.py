"""Uni-Code: one codebook of two or three modalities (Xia et al., NeurIPS 2023)."""

from __future__ import annotations

from common.tokenizers.uni_code.config import UniCodeConfig
from common.tokenizers.uni_code.tokenizer import UniCode

__all__ = ["UniCode", "UniCodeConfig"]
