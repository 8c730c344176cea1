"""Quantizers: vectors to short tuples of codes (semantic IDs) and back. `python -m common.tokenizers --help`."""

from __future__ import annotations

import importlib
from pathlib import Path

from common.errors import DataError
from common.tokenizers.base import Quantizer, read_header

# Imported when used: FAISS and torch load only for those that need them.
QUANTIZERS: dict[str, tuple[str, str]] = {
    "rq_kmeans": ("common.tokenizers.rq_kmeans", "RQKMeans"),
    "rq_vae": ("common.tokenizers.rq_vae", "RQVAE"),
    "vq": ("common.tokenizers.vq", "VQ"),
    "product": ("common.tokenizers.faiss_codes", "ProductQuantizer"),
    "residual": ("common.tokenizers.faiss_codes", "ResidualQuantizer"),
    "balanced_tree": ("common.tokenizers.balanced_tree", "BalancedKMeansTree"),
    "slot_kmeans": ("common.tokenizers.slot_kmeans", "SlotKMeans"),
}


def quantizer_class(kind: str) -> type[Quantizer]:
    """Return the class of a kind of quantizer."""
    module, name = QUANTIZERS[kind]
    return getattr(importlib.import_module(module), name)


def load_quantizer(folder: Path) -> Quantizer:
    """Read a quantizer of any kind that `save` wrote.

    Raises
    ------
    DataError
        A file is missing, damaged, was changed, or is of another format.
    """
    header = read_header(folder)
    if str(header.get("kind")) not in QUANTIZERS:
        raise DataError(
            "a quantizer of an unknown kind", where=folder, expected=", ".join(QUANTIZERS), got=header.get("kind")
        )
    return quantizer_class(header["kind"]).read(header, folder)
