"""Training batches of CART: queries and the items that answer them; what a frozen encoder reads is read once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.generative.cart_queries import LoadedEncoder, QueryTokens, check_texts
from common.hashing import digest
from common.progress import bar

if TYPE_CHECKING:
    from common.generative.cart import Cart

_POOL = 16
"""Batches whose queries are sorted by length together: little padding, and still near random."""


@dataclass(frozen=True)
class CartBatch:
    """Queries, and in training their items.

    Attributes
    ----------
    tokens
        Tokens of B queries.
    target
        The item row that answers each, int64 [B].
    hidden
        Float16 [B, T, S, width]: what a frozen encoder makes of the tokens, where that is known already.
    """

    tokens: QueryTokens
    target: Tensor | None = None
    hidden: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> CartBatch:
        """Return the batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def counts(self) -> dict[str, int]:
        """Return how many queries the loss is the mean of."""
        return {"loss": len(self)}


class CartBatches:
    """Queries and items in batches of like length, shuffled anew each epoch.

    Parameters
    ----------
    model
        The generator: its encoder makes the tokens and, where frozen, the states.
    texts, targets
        M queries and the item row that answers each, int64 [M]; a query may occur with several items.
    seed
        Of the order.

    Raises
    ------
    DataError
        No query, a blank one, or an item that has no ID.
    """

    def __init__(
        self, model: Cart, texts: list[str], targets: np.ndarray, *, seed: int, batch_size: int | None = None
    ) -> None:
        self.texts = check_texts(texts, "training queries")
        self.targets = check_targets(targets, len(texts), len(model.id_map))
        self.batch_size = model.config.batch_size if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ConfigError("batches need at least one query", where="batch_size", got=self.batch_size)
        self.seed = seed
        different = {text: place for place, text in enumerate(dict.fromkeys(self.texts))}
        self.tokens = model.encoder.tokenize(list(different))
        self._row = np.array([different[text] for text in self.texts], dtype=np.int64)
        data = (*self.texts, self.targets.tobytes())
        self.digest = digest("cart", len(self.texts), *data, seed, self.batch_size)
        self._states = self._read(model)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.targets) // self.batch_size)

    @property
    def cached(self) -> bool:
        """Whether the states of a frozen encoder are kept."""
        return self._states is not None

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the query rows of each batch of an epoch."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.targets))
        lengths = self.tokens.lengths[self._row]
        pool = _POOL * self.batch_size
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            order[start : start + pool] = part[np.argsort(lengths[part], kind="stable")]
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [parts[place] for place in rng.permutation(len(parts))]

    def make(self, rows: np.ndarray) -> CartBatch:
        """Return the batch of some queries."""
        own = self._row[rows]
        hidden = None
        if self._states is not None:
            places, _ = self.tokens.places(own)
            hidden = torch.from_numpy(self._states[places])
        return CartBatch(self.tokens.pad(own), torch.from_numpy(self.targets[rows]), hidden)

    def _read(self, model: Cart) -> np.ndarray | None:
        """Return the frozen encoder's states of every token, float16 [tokens, S, width]; None where not kept."""
        encoder = model.encoder
        if not isinstance(encoder, LoadedEncoder) or not encoder.frozen:
            return None
        total = len(self.tokens.ids)
        if 2 * total * encoder.layers * encoder.width > encoder.config.cache_mb << 20:
            return None
        states = np.empty((total, encoder.layers, encoder.width), dtype=np.float16)
        order = np.argsort(self.tokens.lengths, kind="stable")
        with torch.no_grad(), bar("query states", total=len(order), unit="query") as shown:
            for start in range(0, len(order), 64):
                rows = order[start : start + 64]
                places, mask = self.tokens.places(rows)
                hidden = torch.stack(encoder.hidden(self.tokens.pad(rows).to(model.device)), dim=2)
                states[places[mask]] = hidden.clamp(-65504, 65504).half().cpu().numpy()[mask]
                shown.update(len(rows))
        return states


def check_targets(targets: np.ndarray, queries: int, items: int) -> np.ndarray:
    """Return item rows as int64 [M]; raise `DataError` on another number than `queries`, or a row without an ID."""
    targets = np.asarray(targets)
    if targets.shape != (queries,) or targets.dtype.kind not in "iu":
        got = f"{targets.dtype} {list(targets.shape)}"
        raise DataError("targets have another shape", expected=f"integers [{queries}], one a query", got=got)
    bad = np.flatnonzero((targets < 0) | (targets >= items))
    if len(bad):
        raise DataError(
            "a training query is answered by an item that has no semantic ID",
            where=f"query {int(bad[0])}",
            expected=f"item rows 0..{items - 1}",
            got=f"{int(targets[bad[0]])}; {len(bad)} such queries",
        )
    return targets.astype(np.int64)
