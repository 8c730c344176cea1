"""CART's IDs: a k-means cluster, residual codes of what it leaves, and a token that tells equal codes apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from common.config import Config
from common.errors import ConfigError, DataError
from common.generative.beam import BeamResult
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.semantic_ids import SemanticIdMap


class CartIdsConfig(Config):
    """The parts of an ID; each can be left out."""

    coarse: int = Field(default=32, ge=0, description="clusters of the first code; 0 = no k-means, residual codes only")
    fine: tuple[int, ...] = Field(default=(32, 32), description="codes of each residual level; [] = no residual codes")
    unique: bool = Field(default=True, description="a last token tells items of equal codes apart")
    iterations: int = Field(default=25, ge=1, description="of each k-means, at most")


@dataclass(frozen=True)
class CartIds:
    """The IDs of N items.

    Attributes
    ----------
    quantizer
        What made the codes; new items are encoded by it.
    id_map
        The different IDs: one a row, N of them with the unique token, G < N without it where codes collide.
    rows
        int64 [N]: the row of `id_map` of each item, what a generator is trained on.
    """

    quantizer: RQKMeans
    id_map: SemanticIdMap
    rows: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, config: CartIdsConfig | None = None, *, seed: int = 0) -> CartIds:
        """Return the IDs of item vectors float32 [N, D] (ImageBind's in the paper).

        The coarse code and the residual codes are levels of one residual quantizer whose first codebook has another
        size: v quantizes x - centroid_k.

        Raises
        ------
        ConfigError
            Neither a coarse code nor residual ones.
        DataError
            Fewer items, or fewer different ones, than codes; a value that is not finite.
        """
        config = config or CartIdsConfig()
        sizes = ((config.coarse,) if config.coarse else ()) + config.fine
        if not sizes:
            raise ConfigError("an ID needs a coarse code or residual codes", where="ids", got="coarse 0 and fine []")
        quantizer = RQKMeans(codebook_sizes=sizes, iterations=config.iterations).fit(vectors, seed=seed)
        codes = quantizer.item_codes(vectors)
        if config.unique:
            id_map = SemanticIdMap.from_codes(codes, sizes, dedup="append", version=quantizer.version)
            return cls(quantizer, id_map, np.arange(len(codes)))
        different, rows = np.unique(codes, axis=0, return_inverse=True)
        id_map = SemanticIdMap.from_sids(different, sizes, version=quantizer.version)
        return cls(quantizer, id_map, rows.reshape(-1).astype(np.int64))

    @property
    def ambiguous(self) -> bool:
        """Whether some ID belongs to several items."""
        return len(self.id_map) < len(self.rows)

    def targets(self, items: np.ndarray) -> np.ndarray:
        """Return the ID rows int64 [M] of item rows [M]."""
        items = np.asarray(items)
        if items.dtype.kind not in "iu" or (items.size and not 0 <= items.min() <= items.max() < len(self.rows)):
            raise DataError("no such item row", expected=f"integers in 0..{len(self.rows) - 1}", got=items.tolist()[:5])
        return self.rows[items]

    def expand(self, found: BeamResult, top_k: int) -> BeamResult:
        """Return the items of the IDs found, best ID first; an ID stands for all its items, by item row.

        Nothing tells these apart, so an ID's probability is shared among them equally.
        """
        order = np.argsort(self.rows, kind="stable")
        counts = np.bincount(self.rows, minlength=len(self.id_map))
        starts = np.cumsum(counts) - counts
        items = torch.full((len(found.items), top_k), -1, dtype=torch.int64)
        scores = torch.full((len(found.items), top_k), -torch.inf)
        for query, (ids, values) in enumerate(zip(found.items.numpy(), found.scores.numpy(), strict=True)):
            kept = ids[ids >= 0]
            each = counts[kept]
            members = [order[starts[one] : starts[one] + counts[one]] for one in kept.tolist()]
            listed = np.concatenate([np.empty(0, np.int64), *members])[:top_k]
            shared = np.repeat(values[: len(kept)] - np.log(each), each)[:top_k]
            items[query, : len(listed)] = torch.from_numpy(listed)
            scores[query, : len(listed)] = torch.from_numpy(shared.astype(np.float32))
        return BeamResult(items, scores)
