"""Codes on disk: all levels of a row in as few whole bytes as hold them."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch

from common.errors import ConfigError, DataError
from common.tokenizers.base import check_codes
from common.tokenizers.packed import pack, unpack, words
from common.training.tensors import read_tensors, write_tensors

FORMAT = "mirc-codes-1"


def code_bytes(sizes: tuple[int, ...]) -> int:
    """Return the bytes of one row of codes.

    >>> code_bytes((64, 64, 64, 64)), code_bytes((256, 256, 256, 257))
    (3, 5)

    Raises
    ------
    ConfigError
        More combinations than 64 bits hold.
    """
    if len(words(sizes)) > 1:
        raise ConfigError("more codes than 64 bits hold", where="codebook_sizes", got=list(sizes))
    return max(1, -(-(prod(sizes) - 1).bit_length() // 8))


def write_codes(path: Path, codes: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Write codes int [N, L], whole or not at all: uint8 [N, `code_bytes`], the mixed-radix number, low byte first.

    Raises
    ------
    DataError
        A code outside its codebook.
    """
    width = code_bytes(sizes)
    number = pack(check_codes(codes, sizes), sizes).astype("<u8")
    packed = np.ascontiguousarray(number[:, None].view(np.uint8)[:, :width])
    write_tensors(path, {"codes": torch.from_numpy(packed)}, {"format": FORMAT, "sizes": list(sizes)})


def read_codes(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return codes int32 [N, L] and the codebook sizes that `write_codes` wrote.

    Raises
    ------
    DataError
        No such file, a damaged one, or of another format.
    """
    tensors, header = read_tensors(path, FORMAT, "write the codes again")
    try:
        sizes = tuple(int(size) for size in header["sizes"])
        packed = tensors["codes"].numpy()
        whole = np.zeros((len(packed), 8), np.uint8)
        whole[:, : code_bytes(sizes)] = packed
        numbers = whole.view("<u8")[:, 0]
        if len(numbers) and int(numbers.max()) >= prod(sizes):
            raise ValueError(f"a number beyond the {prod(sizes)} combinations of codes")
        return unpack(numbers, sizes), sizes
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("the codes are damaged", where=path, got=str(error), todo="write the codes again") from None
