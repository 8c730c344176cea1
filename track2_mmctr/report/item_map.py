"""The items' embedding to look at: a map in two dimensions with covers, and the nearest neighbours of some items."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import UserError
from common.pages.blocks import Block, Card, Choice, Gallery, Gap, Section, Strip, Text
from common.pages.charts import Dot, scatter
from track2_mmctr.datasets.items import embedding_of, read_info
from track2_mmctr.datasets.microlens import INNER
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.groups import count_groups
from track2_mmctr.report.files import RunFiles
from track2_mmctr.report.items import DOT, Shelf, popular_first, read_groups

Method = Literal["pca", "tsne"]
ITEMS = 3000
"""Items in the map at most: those asked for most often."""
COLOURS = 7
"""Kinds of items that have a colour of their own; the page has eight, one of them for all others."""
WARM, COLD_ITEMS, NEIGHBOURS = 8, 4, 6
"""Items whose neighbours are shown: known from training, and not; and how many neighbours."""
EMBED = "python -m track2_mmctr embed --help"


@dataclass(frozen=True, eq=False)
class Vectors:
    """An embedding, float32 [N, D] with row 0 the padding, and what it is called; or why there is none."""

    values: np.ndarray | None
    name: str
    gap: Gap | None = None


def read_vectors(run: RunFiles | None, data: CtrData) -> Vectors:
    """Return the embedding that the run's features name; the official one where they name none."""
    setting = None if run is None else run.setting("features", "embedding")
    chosen = "auto" if setting in (None, "none") else str(setting)
    name = "the official embedding (item_emb_d128 of item_info.parquet)" if chosen == "auto" else chosen
    notes: list[str] = []
    try:
        values = embedding_of(chosen, read_info(data.folder / INNER / "item_info.parquet", chosen, notes))
    except UserError as error:
        return Vectors(None, name, Gap(f"The embedding cannot be read: {error.what} ({error.where or chosen}).", EMBED))
    if values is None:
        return Vectors(None, name, Gap("The items have no embedding: item_info.parquet has no item_emb_d128.", EMBED))
    return Vectors(values, name)


def map_section(
    vectors: Vectors, data: CtrData, counts: np.ndarray | None, shelf: Shelf, method: Method, items: int = ITEMS
) -> Section:
    """Return the map: one dot an item, near where embeddings are alike, its cover beside it when pointed at.

    Parameters
    ----------
    counts
        int [N]: training rows of each item as target; None where they are not known.
    method
        pca: the two directions of most variance; tsne: neighbourhoods kept, distances not.
    items
        At most this many, those that valid and test ask for most often first.
    """
    key, title = "map", "Map of the items"
    if vectors.values is None:
        return Section(key, title, [vectors.gap or Gap("The items have no embedding.", EMBED)])
    shown = popular_first(data, counts)[:items]
    shown = shown[np.isfinite(vectors.values[shown]).all(1)]
    if len(shown) < 3:
        return Section(key, title, [Gap("Fewer than three items: no map.")])
    place, kept = coordinates(vectors.values[shown], method)
    column, kinds, legend = _kinds(data, counts, shown)
    dots = [
        Dot(
            float(x),
            float(y),
            shelf.title(int(item)),
            kind,
            shelf.cover(int(item), DOT),
            f"item {item}" + ("" if counts is None else f", {counts[item]:,} training rows"),
        )
        for item, (x, y), kind in zip(shown, place, kinds, strict=True)
    ]
    order = {kind: number for number, kind in enumerate(legend)}
    dots.sort(key=lambda dot: order[dot.group])
    how = f"PCA: {kept:.0%} of the variance" if method == "pca" else "t-SNE: near ones are alike, distances say nothing"
    every = len(data.items) - 1
    which = f"all {every:,}" if len(shown) == every else f"the {len(shown):,} of {every:,} that are targets most often"
    bare = sum(dot.image is None for dot in dots)
    without = f" {bare:,} of them have no cover to show." if bare else ""
    text = f"Items: {which}. {how}. Colours: {column}. Point at a dot to see the item.{without}"
    return Section(key, title, [scatter("Items", dots, text=text)], f"Of {vectors.name}.")


def coordinates(vectors: np.ndarray, method: Method) -> tuple[np.ndarray, float]:
    """Return places in two dimensions, float64 [N, 2], and the share of the variance they keep (NaN for t-SNE).

    The same vectors give the same places: signs are fixed, and t-SNE starts from PCA, with one thread.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    place = np.zeros((len(vectors), 2))
    place[:, : axes.shape[1]] = centred @ axes
    total = float(values.sum())
    if method == "pca":
        return np.round(place, 4), float(values[-2:].sum() / total) if total > 0 else 0.0
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = 1e-4 * place / max(float(place[:, 0].std()), 1e-12)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums over threads have no fixed order
        tsne = TSNE(init=start, perplexity=perplexity, random_state=7, n_jobs=1)  # pyright: ignore[reportArgumentType]
        return np.round(tsne.fit_transform(centred.astype(np.float32)), 3).astype(np.float64), float("nan")


def _kinds(data: CtrData, counts: np.ndarray | None, shown: np.ndarray) -> tuple[str, list[str], list[str]]:
    """Return what the colours mean, each shown item's, and their order: a column of the catalogue, else popularity."""
    try:
        found = read_groups(data.folder, len(data.items))
    except UserError:
        found = None
    if found is not None:
        column, every = found
        mine = [every[item] or "not told" for item in shown]
        often = [kind for kind, _ in sorted(Counter(mine).items(), key=lambda pair: (-pair[1], pair[0]))]
        named = [kind for kind in often if kind != "other"][:COLOURS]
        return f"the first of {column}", [kind if kind in named else "other" for kind in mine], [*named, "other"]
    if counts is None:
        return "none, for want of train.parquet", [""] * len(shown), [""]
    kinds, groups = np.full(len(shown), "", dtype=object), count_groups(counts[shown])
    for name, rows in groups.items():
        kinds[rows] = f"in train {name}"
    return "training rows with the item as target", kinds.tolist(), [f"in train {name}" for name in groups]


def neighbour_section(
    vectors: Vectors, data: CtrData, counts: np.ndarray | None, shelf: Shelf, seed: int = 7
) -> Section:
    """Return the nearest neighbours of sampled items by cosine, cold items among them."""
    key, title = "neighbours", "Nearest neighbours"
    if vectors.values is None:
        return Section(key, title, [vectors.gap or Gap("The items have no embedding.", EMBED)])
    cards: list[Card] = []
    sampled = sample_items(data, counts, seed)
    for item, (near, cosines) in zip(sampled, nearest(vectors.values, sampled, NEIGHBOURS), strict=True):
        seen = None if counts is None else int(counts[item])
        kind = "not known" if seen is None else "cold" if seen == 0 else "in train"
        tiles = [
            shelf.tile(int(other), lines=[f"cosine {cosine:.3f}"]) for other, cosine in zip(near, cosines, strict=True)
        ]
        strips = [Strip("item, then its nearest by cosine", [shelf.tile(item, badge=kind, tone="gold"), *tiles])]
        facts = [("item", str(item)), *([] if seen is None else [("training rows", f"{seen:,}")])]
        numbers = {"nearest": float(cosines[0])} if len(cosines) else {}
        cards.append(Card(shelf.title(item), facts, strips, {"kind": [kind]}, numbers))
    if not cards:
        return Section(key, title, [Gap("No items to sample.")])
    gallery = Gallery(cards, "items", [Choice("kind", "item")], [Choice("nearest", "nearest cosine", descending=True)])
    alone = sum(not card.numbers for card in cards)
    blocks: list[Block] = [gallery]
    if alone:
        blocks.append(Text(f"{alone} of them have a vector of zeros, which has no neighbours."))
    how = f"{len(cards)} items drawn with seed {seed}; those without a training row are cold. Of {vectors.name}."
    return Section(key, title, blocks, how)


def sample_items(
    data: CtrData, counts: np.ndarray | None, seed: int, warm: int = WARM, cold: int = COLD_ITEMS
) -> list[int]:
    """Return items that are targets of valid or test: `warm` with training rows, then `cold` without, by id each."""
    targets = [np.asarray(split.target) for name, split in data.splits.items() if name != "train"]
    asked = np.unique(np.concatenate([np.zeros(0, np.int64), *targets]))
    rng = np.random.default_rng(seed)
    known = np.ones(len(asked), dtype=bool) if counts is None else counts[asked] > 0
    chosen: list[int] = []
    for pool, size in ((asked[known], warm), (asked[~known], cold)):
        drawn = rng.choice(pool, min(size, len(pool)), replace=False)
        chosen += sorted(int(item) for item in drawn)
    return chosen


def nearest(vectors: np.ndarray, items: list[int], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each item its `count` nearest others by cosine, nearest first: ids and cosines; ties by id.

    Items with a vector of zeros, the padding among them, are nobody's neighbours and have none.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    usable = np.flatnonzero(norms > 0)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for item in items:
        if norms[item] == 0:
            found.append((np.zeros(0, np.int64), np.zeros(0)))
            continue
        others = usable[usable != item]
        cosines = (vectors[others] @ vectors[item].astype(np.float64)) / (norms[others] * norms[item])
        order = np.argsort(-cosines, kind="stable")[:count]
        found.append((others[order], cosines[order]))
    return found
