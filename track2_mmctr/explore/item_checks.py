"""What to know of the items: titles, covers, tags, embeddings. Each check returns one finding."""

from __future__ import annotations

from collections import Counter

import numpy as np

from common.explore.counts import listed, of, plural
from common.explore.findings import Finding
from common.metrics.ctr import auc
from track2_mmctr.datasets.items import EMBEDDING
from track2_mmctr.explore.read import COVERS
from track2_mmctr.explore.rows import AFFINITY, Rows

PAIRS = 100_000
"""Neighbours in histories that are compared with pairs drawn at random."""
ENOUGH_PAIRS = 2_000
RELATED = 0.52
"""AUC below which an embedding does not tell neighbours in histories from random pairs, or clicks from no clicks."""
FAR = 10
"""A norm this many times the median is told."""


def check_items(rows: Rows) -> list[Finding]:
    """Return what each check of the items says."""
    if rows.data.info is None:
        return []
    findings = [_used(rows), _tags(rows), *_titles(rows), *_covers(rows)]
    if rows.data.info.embedding is None:
        means = "rankers read none: make one with the command embed, or set features.embedding to a file"
        return [*findings, Finding("item embedding", "note", f"item_info has no column {EMBEDDING}", means)]
    findings += [_zeros(rows), _constant(rows), _norms(rows), _same_vectors(rows)]
    return [*findings, _related(rows)]


def _ids(rows: Rows) -> np.ndarray:
    return np.arange(1, rows.data.items)


def _used(rows: Rows) -> Finding:
    name = "items that no row has"
    used = np.zeros(rows.data.items, bool)
    for split in rows.data.splits.values():
        used[split.target] = True
        used[split.history] = True
    idle = _ids(rows)[~used[1:]]
    if not rows.data.splits or not len(idle):
        return Finding(
            name, "ok", f"all {plural(rows.data.items - 1, 'item')} are in a row" if len(used) else "no rows"
        )
    return Finding(
        name, "note", f"{of(len(idle), rows.data.items - 1)} ({listed(idle.tolist())})", "no model learns of them"
    )


def _tags(rows: Rows) -> Finding:
    name = "items without tags"
    assert rows.data.info is not None  # noqa: S101 - checked by `check_items`
    bare = _ids(rows)[~(rows.data.info.tags[1:] > 0).any(axis=1)]
    if not len(bare):
        return Finding(name, "ok", f"all {plural(rows.data.items - 1, 'item')} have one")
    return Finding(name, "note", f"{of(len(bare), rows.data.items - 1)} ({listed(bare.tolist())})", "their tags are 0")


def _titles(rows: Rows) -> list[Finding]:
    titles = None if rows.data.features is None else rows.data.features.titles
    if titles is None:
        means = "there is no text to embed: get item_feature.parquet"
        return [Finding("item titles", "note", "item_feature.parquet has none, or is absent", means)]
    missing = [item for item in range(1, len(titles)) if not titles[item]]
    none = Finding("item titles", "ok", f"all {plural(len(titles) - 1, 'item')} have one")
    if missing:
        found = f"{of(len(missing), len(titles) - 1)} have none ({listed(missing)})"
        none = Finding("item titles", "problem", found, "text encoders have nothing to read: these get the mean vector")
    groups = same_titles(titles)
    again = Finding("items with the same title", "ok", "no two, in lower case and without spaces about them")
    if groups:
        found = (
            f"{plural(sum(map(len, groups.values())), 'item')} share {plural(len(groups), 'title')} "
            f"(first: {next(iter(groups))!r}, items {listed(next(iter(groups.values())), 3)})"
        )
        again = Finding("items with the same title", "note", found, "a text embedding cannot tell them apart")
    return [none, again]


def same_titles(titles: list[str]) -> dict[str, list[int]]:
    """Return title -> the items that share it, most shared first."""
    keys = [" ".join(title.lower().split()) for title in titles]
    shared = {key for key, count in Counter(keys).items() if count > 1 and key}
    groups: dict[str, list[int]] = {}
    for item, key in enumerate(keys):
        if key in shared:
            groups.setdefault(key, []).append(item)
    return dict(sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[1][0])))


def _covers(rows: Rows) -> list[Finding]:
    covers, copies = rows.data.covers, rows.data.copies
    if covers is None or copies is None:
        means = "there is no image to embed: unpack item_images.rar there"
        return [Finding("item covers", "note", f"there is no folder {COVERS}", means)]
    count = rows.data.items - 1
    missing = [item for item in range(1, count + 1) if item not in covers]
    bad = sorted([*copies.empty, *copies.unreadable])
    there = Finding("item covers", "ok", f"all {plural(count, 'item')} have one")
    if missing or bad:
        found = f"{of(len(missing), count)} have none ({listed(missing)})" if missing else ""
        if bad:
            found += f"{'; ' if found else ''}{plural(len(bad), 'file')} empty or not to be opened ({listed(bad)})"
        there = Finding(
            "item covers", "problem", found, "image encoders have nothing to see: these get the mean vector"
        )
    again = Finding("items with the same cover", "ok", "no two files have the same bytes")
    if copies.groups:
        found = (
            f"{plural(sum(map(len, copies.groups)), 'item')} share {plural(len(copies.groups), 'cover')} "
            f"(first: items {listed(copies.groups[0], 3)})"
        )
        again = Finding("items with the same cover", "note", found, "an image embedding cannot tell them apart")
    findings = [there, again]
    if rows.data.strangers:
        found = f"{plural(len(rows.data.strangers), 'file')} ({listed(rows.data.strangers, 3)})"
        findings.append(Finding("covers of no item", "note", found, "their names are no item's id: nothing reads them"))
    return findings


def _vectors(rows: Rows) -> np.ndarray:
    """Return the embedding of items 1 and up, float32 [N, D]."""
    assert rows.data.info is not None and rows.data.info.embedding is not None  # noqa: S101 - checked before
    return rows.data.info.embedding[1:]


def _zeros(rows: Rows) -> Finding:
    name = "items without an embedding"
    empty = _ids(rows)[~_vectors(rows).any(axis=1)]
    if not len(empty):
        return Finding(name, "ok", f"no vector of {plural(rows.data.items - 1, 'item')} is all zeros")
    found = f"{of(len(empty), rows.data.items - 1)} have zeros alone ({listed(empty.tolist())})"
    return Finding(name, "problem", found, "to a model they are the padding item: make the embedding again")


def constant_dimensions(vectors: np.ndarray) -> np.ndarray:
    """Return the dimensions in which all vectors [N, D] are alike."""
    return np.flatnonzero(vectors.max(axis=0) == vectors.min(axis=0)) if len(vectors) else np.zeros(0, np.int64)


def _constant(rows: Rows) -> Finding:
    name = "constant dimensions"
    vectors = _vectors(rows)
    alike = constant_dimensions(vectors)
    if not len(alike):
        return Finding(name, "ok", f"all {vectors.shape[1]} dimensions of the embedding vary")
    found = f"{of(len(alike), vectors.shape[1])}: {listed(alike.tolist())}"
    return Finding(name, "problem", found, "they tell nothing: fewer components than columns, or a broken encoder")


def _norms(rows: Rows) -> Finding:
    name = "embedding norms"
    norms = np.linalg.norm(_vectors(rows).astype(np.float64), axis=1)
    middle = float(np.median(norms))
    told = f"from {norms.min():.3g} to {norms.max():.3g}, half of them below {middle:.3g}"
    far = _ids(rows)[norms > FAR * max(middle, 1e-12)]
    if len(far):
        means = "such vectors drown all others in a sum and in a product: normalise them"
        return Finding(name, "note", f"{told}; {plural(len(far), 'item')} beyond {FAR} times that", means)
    return Finding(name, "ok", told)


def _same_vectors(rows: Rows) -> Finding:
    name = "items with the same embedding"
    vectors = _vectors(rows)
    vectors, ids = vectors[vectors.any(axis=1)], _ids(rows)[vectors.any(axis=1)]
    whole = np.ascontiguousarray(vectors + 0.0).view(np.dtype((np.void, vectors.shape[1] * 4))).ravel()  # -0 is 0
    _, group, counts = np.unique(whole, return_inverse=True, return_counts=True)
    again = np.flatnonzero(counts[group] > 1)
    if not len(again):
        return Finding(name, "ok", f"no two of {plural(len(ids), 'vector')}")
    first = ids[group == group[again[0]]]
    found = f"{plural(len(again), 'item')} share {plural(int((counts > 1).sum()), 'vector')}"
    return Finding(name, "note", f"{found} (first: items {listed(first.tolist(), 3)})", "a model sees one item in them")


def neighbour_pairs(rows: Rows, seed: int = 0) -> np.ndarray:
    """Return up to `PAIRS` pairs of different items that follow each other in a history, int64 [P, 2]."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    for split in rows.data.splits.values():
        if len(split.history) < 2:
            continue
        at = rng.integers(0, len(split.history) - 1, 2 * PAIRS)
        inside = np.searchsorted(split.offsets, at, side="right") == np.searchsorted(
            split.offsets, at + 1, side="right"
        )
        at = at[inside]
        parts.append(np.stack([split.history[at], split.history[at + 1]], axis=1).astype(np.int64))
    pairs = np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs[rng.permutation(len(pairs))[:PAIRS]]


def _related(rows: Rows) -> Finding:
    """Say whether the embedding goes with the histories: it does not where the vectors are those of other items."""
    name = "embedding and histories"
    pairs = neighbour_pairs(rows)
    if len(pairs) < ENOUGH_PAIRS:
        return Finding(name, "ok", f"only {plural(len(pairs), 'pair')} of neighbours in histories: not compared")
    unit = _vectors(rows) / np.maximum(np.linalg.norm(_vectors(rows), axis=1, keepdims=True), 1e-12)
    other = pairs[np.random.default_rng(1).permutation(len(pairs)), 1]  # as popular as the true neighbours
    cosines = [(unit[pairs[:, 0] - 1] * unit[second - 1]).sum(1) for second in (pairs[:, 1], other)]
    value = auc(np.repeat([1, 0], len(pairs)), np.concatenate(cosines).astype(np.float64))
    found = f"the cosine tells neighbours in histories from random pairs with an AUC of {value:.3f}"
    alone = {split: one for split, one in rows.alone.get(AFFINITY, {}).items() if one is not None}
    if alone:
        told = ", ".join(f"{split} {one:.3f}" for split, one in alone.items())
        found += f", clicks by the likeness of history and target with {told}"
    if max(value, *alone.values()) >= RELATED:
        return Finding(name, "ok", found)
    means = "vectors may belong to other items (written in another order), or content tells nothing of taste here"
    return Finding(name, "note", found, means)
