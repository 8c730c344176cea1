"""`transformer_dcn` with semantic IDs (team momo's "future work"): the frozen vector becomes learnt codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError
from common.products import fast_products
from track2_mmctr.config import FeatureConfig, TransformerDcnQuantConfig
from track2_mmctr.datasets.tables import ItemTable
from track2_mmctr.rankers.embedding import Embedding
from track2_mmctr.rankers.features import ItemEncoder
from track2_mmctr.rankers.transformer_dcn import TransformerDcn

TILE = 2048
"""Items a side in one block of inner products: 16 MiB of float32."""


def quantize(
    embedding: np.ndarray, levels: int, codes: int, neighbours: int, seed: int, *, nearest: bool = False
) -> np.ndarray:
    """Return each item's codes and neighbours, int64 [N, levels + neighbours].

    A level is a k-means of what the levels before have left (residual quantization), fitted on all items. The
    neighbours are the items of largest inner product, best first, the item itself among them; an item with fewer
    has 0. Row 0, the padding item, takes no part and has zeros throughout.

    Parameters
    ----------
    embedding
        float32 [N, D], row 0 the padding item.
    levels, codes
        Number of levels, and of centres in each.
    neighbours
        Items by inner product; all pairs are multiplied once, in tiles.
    seed
        Of k-means.
    nearest
        False: a code is the number of the centre, 0..codes - 1 (`common.tokenizers`' RQKMeans, fitted on all
        items). True, as published (scikit-learn's k-means): it is the id of the item whose residual is nearest to
        that of the item's unit vector, and that item's centre is subtracted. All pairs are compared at each level:
        2 minutes for 91,718 items on 2 cores.

    Raises
    ------
    ConfigError
        Fewer different items than `codes`.
    """
    vectors = np.ascontiguousarray(embedding[1:], dtype=np.float32)
    if levels and len(vectors) < codes:
        raise ConfigError("more codes than items", where="ranker.codes", expected=f"at most {len(vectors)}", got=codes)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    table = np.zeros((len(embedding), levels + neighbours), dtype=np.int64)
    if nearest:
        table[1:, :levels] = _published(vectors, unit, levels, codes, seed)
    elif levels:
        from common.tokenizers.rq_kmeans import RQKMeans

        quantizer = RQKMeans((codes,) * levels, iterations=100, sample_per_code=-(-len(vectors) // codes))
        table[1:, :levels] = quantizer.fit(vectors, seed=seed).encode(vectors)
    if neighbours:
        with fast_products("cpu"):
            found = top_products(torch.from_numpy(vectors), min(neighbours, len(vectors)))
        table[1:, levels : levels + found.shape[1]] = found.numpy() + 1
    return table


def _published(vectors: np.ndarray, unit: np.ndarray, levels: int, codes: int, seed: int) -> np.ndarray:
    """Return the published codes int64 [N, levels]: ids of the items nearest to what is left of the unit vectors."""
    table = np.zeros((len(vectors), levels), np.int64)
    residual, query = vectors.copy(), unit
    for level in range(levels):
        centres, labels = _cluster(residual, codes, seed)
        item = _nearest(query, residual)
        table[:, level] = item + 1
        query = query - centres[labels[item]]
        residual -= centres[labels]
    return table


def _cluster(vectors: np.ndarray, codes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=codes, n_init="auto", random_state=seed).fit(vectors)
    return model.cluster_centers_.astype(np.float32), np.asarray(model.labels_)


def _nearest(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the row of `vectors` nearest to each query (Euclidean), int64 [Q]."""
    x = torch.from_numpy(vectors)
    half = x.square().sum(1) / 2
    parts = [torch.addmm(half, q, x.T, alpha=-1).argmin(1) for q in torch.from_numpy(queries).split(512)]
    return torch.cat(parts).numpy()


def top_products(vectors: Tensor, count: int) -> Tensor:
    """Return the `count` rows of largest inner product with each row, best first, int64 [N, count].

    The matrix of products is symmetric: each tile above the diagonal serves its rows and its columns.
    """
    values = torch.full((len(vectors), count), -torch.inf)
    rows = torch.zeros(len(vectors), count, dtype=torch.int64)

    def merge(at: slice, products: Tensor, first: int) -> None:
        value, row = products.topk(min(count, products.shape[1]), dim=1)
        value, order = torch.cat([values[at], value], dim=1).topk(count, dim=1)
        rows[at] = torch.cat([rows[at], row + first], dim=1).gather(1, order)
        values[at] = value

    for a in range(0, len(vectors), TILE):
        for b in range(a, len(vectors), TILE):
            products = vectors[a : a + TILE] @ vectors[b : b + TILE].T
            merge(slice(a, a + TILE), products, b)
            if a != b:
                merge(slice(b, b + TILE), products.T.contiguous(), a)
    return rows


class QuantEncoder(ItemEncoder):
    """The item encoder with learnt vectors of codes and neighbours, the frozen vector left out unless asked for.

    With `features.semantic_ids` the codes are those of the file, as in all rankers, and none are made here.

    Item ids (neighbours, and codes with `code_items`) share one table; centre numbers have a small table of their
    own. `combine: mean` averages codes and neighbours apart: 2 d instead of (levels + neighbours) d. The codes hang
    on the seed of the run, so they are part of a checkpoint.
    """

    codes: Tensor

    def __init__(self, config: TransformerDcnQuantConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(features, items)
        self.levels, self.combine = (0 if self.semantic is not None else config.levels), config.combine
        if self.semantic is not None and config.code_items:
            raise ConfigError(
                "codes come from features.semantic_ids, or are items: not both",
                where="ranker.code_items",
                todo="set ranker.code_items=false, or features.semantic_ids=none",
            )
        if (self.levels or config.neighbours) and (items.embedding is None or not self.embedding_dim):
            raise ConfigError("codes are made of the item embedding", where="features.embedding", got="none")
        if not config.keep_embedding:
            self.dim -= self.embedding_dim
            self.projection, self.embedding_dim = None, 0
        self.register_buffer("codes", self._codes(config, items))
        by_item = bool(config.neighbours or config.code_items)
        self.quanid = Embedding(len(items), features.dim) if by_item else None
        by_centre = bool(self.levels and not config.code_items)
        self.centres = Embedding(1 + self.levels * config.codes, features.dim) if by_centre else None
        groups = (self.levels, config.neighbours)
        self.dim += features.dim * sum(groups if config.combine == "concat" else (min(1, g) for g in groups))
        if not self.dim:
            raise ConfigError("every item feature is switched off", where="features", todo="switch one on")

    def _codes(self, config: TransformerDcnQuantConfig, items: ItemTable) -> Tensor:
        """Return rows of the learnt tables int32 [N, levels + neighbours]; the seed is drawn in any case."""
        seed = int(torch.randint(2**31 - 1, ()))
        if not self.levels + config.neighbours:
            return torch.zeros(len(items), 0, dtype=torch.int32)
        assert items.embedding is not None  # noqa: S101 - checked above
        made = quantize(items.embedding, self.levels, config.codes, config.neighbours, seed, nearest=config.code_items)
        table = torch.from_numpy(made.astype(np.int32))
        if not config.code_items:  # codes of all levels in one table, after the padding's row
            table[1:, : self.levels] += 1 + config.codes * torch.arange(self.levels, dtype=torch.int32)
        return table

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors of item ids [U] as float32 [U, D]."""
        codes = self.codes[items]
        groups = [
            (self.quanid if self.centres is None else self.centres, codes[:, : self.levels]),
            (self.quanid, codes[:, self.levels :]),
        ]
        parts = [super().forward(items)] if self.dim_without_codes else []
        for table, numbers in groups:
            if numbers.shape[1]:
                assert table is not None  # noqa: S101 - made in __init__ on the same condition
                learnt = table(numbers)
                parts.append(learnt.mean(1) if self.combine == "mean" else learnt.flatten(1))
        return torch.cat(parts, dim=1)

    @property
    def dim_without_codes(self) -> int:
        """Size of what the plain encoder gives, 0 when all of its parts are off."""
        d = self.config.dim
        semantic = 0 if self.semantic is None else self.semantic.dim
        return (self.config.ids + self.config.tags + 2 * self.config.item_levels) * d + self.embedding_dim + semantic


class TransformerDcnQuant(TransformerDcn):
    """`transformer_dcn` whose item vector is id ‖ tags ‖ learnt codes ‖ learnt neighbours."""

    def __init__(self, config: TransformerDcnQuantConfig, features: FeatureConfig, items: ItemTable) -> None:
        super().__init__(config, features, items, encoder=QuantEncoder(config, features, items))
