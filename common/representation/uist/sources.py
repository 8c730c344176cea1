"""What UIST's tokenizers read: sequences of words or vectors, one a row, and training batches of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.hashing import digest
from common.representation.inputs import Behaviour, Tokens

WORD = re.compile(r"\w+")
END, UNKNOWN = 0, 1
"""Word ids of the end of a text and of a word that is not known; known words follow."""
SPECIAL = 2


@dataclass(frozen=True, eq=False)
class Group:
    """One kind of tokens of N rows.

    Attributes
    ----------
    index
        int64 [N, T]: the row of `table`, or the word; -1 = no token.
    table
        float32 [M, D]; None: the tokens are words.
    """

    index: np.ndarray
    table: np.ndarray | None

    @property
    def width(self) -> int:
        """T."""
        return self.index.shape[1]

    @property
    def present(self) -> np.ndarray:
        """Which rows have a token, bool [N]."""
        return np.asarray((self.index >= 0).any(axis=1))


@dataclass(frozen=True, eq=False)
class Source:
    """N rows, each a sequence of tokens of one or more groups ("image", "text", "words", "history")."""

    groups: dict[str, Group]

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())).index)

    def take(self, rows: np.ndarray) -> Source:
        """Return some rows, in their order; row -1 is one without any token (padding of a batch)."""
        taken = {}
        for name, group in self.groups.items():
            index = group.index[rows]
            index[rows < 0] = -1
            taken[name] = Group(index, group.table)
        return Source(taken)

    def digest(self) -> str:
        """Return SHA-256 over everything."""
        parts: list[bytes | str] = []
        for name, group in sorted(self.groups.items()):
            table = b"" if group.table is None else group.table.tobytes()
            parts += [name, str(group.index.shape), group.index.tobytes(), table]
        return digest(*parts)

    def batch(self) -> TokenBatch:
        """Return all rows as tensors."""
        ids, vectors = {}, {}
        for name, group in self.groups.items():
            ids[name] = torch.from_numpy(group.index)
            if group.table is not None:
                values = group.table[np.maximum(group.index, 0)]
                values[group.index < 0] = 0  # masked: no one reads it
                vectors[name] = torch.from_numpy(values)
        return TokenBatch(ids, vectors)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of B rows by group: ids int64 [B, T], -1 = none; vectors float32 [B, T, D] where they are no words."""

    ids: dict[str, Tensor]
    vectors: dict[str, Tensor]

    def to(self, device: torch.device | str) -> TokenBatch:
        """Return the batch on a device."""
        ids = {name: value.to(device) for name, value in self.ids.items()}
        return TokenBatch(ids, {name: value.to(device) for name, value in self.vectors.items()})


class SourceBatches:
    """Batches of a source's rows, in another order each epoch; the last, smaller one is filled up with other rows."""

    def __init__(self, source: Source, batch_size: int, seed: int) -> None:
        self.source, self.seed = source, seed
        self.size = min(batch_size, len(source))
        self.digest = digest(source.digest(), str(self.size), str(seed))

    def __len__(self) -> int:
        return -(-len(self.source) // self.size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch of an epoch."""
        order = np.random.default_rng((self.seed, 6, number)).permutation(len(self.source))
        return np.split(np.resize(order, len(self) * self.size), len(self))

    def make(self, rows: np.ndarray) -> TokenBatch:
        """Return the batch of some rows."""
        return self.source.take(rows).batch()


def word_list(texts: Sequence[str], most: int) -> list[str]:
    """Return the `most` most frequent words of texts, lower case; equally frequent ones by the alphabet."""
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    return [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def words_group(texts: Sequence[str], words: Sequence[str], most: int) -> Group:
    """Return texts as word ids, at most `most` words each and their end; an empty text has no token."""
    known = {word: number for number, word in enumerate(words, SPECIAL)}
    index = np.full((len(texts), most + 1), -1, np.int64)
    for row, text in enumerate(texts):
        found = [known.get(word, UNKNOWN) for word in WORD.findall(text.lower())[:most]]
        if found:
            index[row, : len(found) + 1] = [*found, END]
    return Group(index, None)


def vectors_group(tokens: Tokens, mean: np.ndarray, scale: float, most: int) -> Group:
    """Return an item's tokens, scaled; more than `most` are averaged in `most` runs of neighbours."""
    values, mask = tokens.values, tokens.mask
    if values.shape[1] > most:
        parts = np.array_split(np.arange(values.shape[1]), most)
        runs = [Tokens(values[:, part], mask[:, part], "") for part in parts]
        values = np.stack([run.mean() for run in runs], axis=1)
        mask = np.stack([run.present for run in runs], axis=1)
    items, length, dim = values.shape
    table = ((values - mean) / np.float32(scale)).reshape(items * length, dim)
    return Group(np.where(mask, np.arange(items * length).reshape(items, length), -1), np.ascontiguousarray(table))


def history_group(behaviour: Behaviour, users: np.ndarray, table: np.ndarray, usable: np.ndarray, most: int) -> Group:
    """Return the last `most` usable items of each user's history, oldest first; `usable` bool [N items].

    `table` float32 [N items, D] holds their vectors.
    """
    kept = [rows[usable[rows]][-most:] for rows in (behaviour.history(int(user)) for user in users)]
    index = np.full((len(users), most), -1, np.int64)
    for row, items in enumerate(kept):
        index[row, : len(items)] = items
    return Group(index, table)


def row_means(group: Group, chunk: int = 4096) -> np.ndarray:
    """Return the mean of each row's vectors, float32 [N, D]; each row needs one."""
    assert group.table is not None  # noqa: S101 - its callers have vectors
    found = np.empty((len(group.index), group.table.shape[1]), np.float32)
    for start in range(0, len(found), chunk):
        index = group.index[start : start + chunk]
        real = index >= 0
        values = group.table[np.maximum(index, 0)] * real[:, :, None]
        found[start : start + chunk] = values.sum(1) / real.sum(1, keepdims=True)
    return found
