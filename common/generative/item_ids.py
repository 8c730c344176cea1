"""The semantic IDs of a run: ours, published ones, random ones, one code an item, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import ConfigError, DataError
from common.generative.config import ItemIdsConfig
from common.generative.sequences import Sequences, Split
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import World, main_first

Say = Callable[[str], None]


def make_ids(source: str, config: ItemIdsConfig, data: Sequences, split: Split, seed: int, say: Say) -> SemanticIdMap:
    """Return one distinct ID for each item row.

    `source`
        - ours: RQ-KMeans on the item vectors of the data, else on those of `co_occurrence_vectors` of the training
          part; colliding items get a rank.
        - published: those that came with the data; colliding items get a rank.
        - random: as many codes as ours would have, drawn without meaning: the control arm.
        - atomic: one code an item.
        - a path: a parquet file of `python -m common.tokenizers encode`, or a folder of `SemanticIdMap.save`.

    Raises
    ------
    ConfigError
        No such source; the data has no published IDs.
    DataError
        IDs that miss items of the data.
    """
    n = len(data.item_ids)
    if source == "atomic":
        return SemanticIdMap.atomic(n)
    if source == "random":
        return SemanticIdMap.random(n, fitting_sizes(config.codebook_sizes, n), seed)
    if source == "published":
        return _published(data, say)
    if source == "ours":
        return _ours(config, data, split, seed, say)
    path = Path(source)
    if not path.exists():
        raise ConfigError(
            "no such IDs", where="ids", expected="ours, published, random, atomic, or a file or folder", got=source
        )
    return SemanticIdMap.load(path) if path.is_dir() else _from_file(path, data)


def item_vectors(config: ItemIdsConfig, data: Sequences, split: Split, seed: int) -> tuple[np.ndarray, str]:
    """Return float32 [N, D] and where they come from: the data's own vectors, else of the training part."""
    from common.generative.item_vectors import co_occurrence_vectors

    if data.embeddings is not None and config.vectors != "co_occurrence":
        return data.embeddings, "the data's vectors"
    if config.vectors == "given":
        raise DataError("the data has no item vectors", where="tokenizer.vectors", got="given")
    vectors = co_occurrence_vectors(split.train, dim=config.dim, window=config.window, seed=seed)
    return vectors, "co-occurrence in the training part"


def fitting_sizes(sizes: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Return codebook sizes of at most n / 4 codes (and 2 at least), enough of them for `n` items.

    >>> fitting_sizes((256, 256, 256), 200), fitting_sizes((4,), 60)
    ((50, 50, 50), (4, 4, 4))
    """
    cut = tuple(max(2, min(size, n // 4)) for size in sizes)
    while int(np.prod(cut, dtype=object)) < n:
        cut = (*cut, cut[-1])
    return cut


def kept_ids(ids: SemanticIdMap, folder: Path, world: World) -> SemanticIdMap:
    """Keep new IDs in `folder`; every process returns those of the main one, which another machine may not equal."""
    with main_first(world):
        if world.main:
            ids.save(folder)
    return ids if world.main else SemanticIdMap.load(folder)


def _ours(config: ItemIdsConfig, data: Sequences, split: Split, seed: int, say: Say) -> SemanticIdMap:
    from common.tokenizers.rq_kmeans import RQKMeans

    vectors, source = item_vectors(config, data, split, seed)
    sizes = fitting_sizes(config.codebook_sizes, len(vectors))
    quantizer = RQKMeans(codebook_sizes=sizes, iterations=config.iterations).fit(vectors, seed=seed)
    ids = SemanticIdMap.from_codes(quantizer.item_codes(vectors), sizes, version=quantizer.version)
    unknown = int((~vectors.any(axis=1)).sum())
    say(
        f"IDs: RQ-KMeans {' x '.join(map(str, sizes))} on {source}, {_distinct(ids)}"
        + (f"; {unknown:,} items without neighbours share one code" if unknown else "")
    )
    return ids


def _published(data: Sequences, say: Say) -> SemanticIdMap:
    if data.published is None:
        raise ConfigError(
            "the data has no published IDs",
            where="ids",
            expected=f"{data.name}.index.json beside the sequences",
            todo="use --set ids=ours",
        )
    sizes = tuple(int(size) for size in data.published.max(axis=0) + 1)
    ids = SemanticIdMap.from_codes(data.published, sizes, version="published")
    if ids.sizes[-1] == 1:  # no two items collide: a level with one code says nothing
        ids = SemanticIdMap.from_sids(data.published, sizes, version="published")
    say(f"IDs: published, {_distinct(ids)}")
    return ids


def _distinct(ids: SemanticIdMap) -> str:
    distinct = len(np.unique(ids.sids[:, : ids.levels], axis=0))
    return f"{distinct:,} of {len(ids):,} differ without a rank"


def _from_file(path: Path, data: Sequences) -> SemanticIdMap:
    from common.tokenizers.files import read_sids

    found = read_sids(path)
    row = {str(one): number for number, one in enumerate(found.item_ids.tolist())}
    names = [str(one) for one in data.item_ids.tolist()]
    lacking = [name for name in names if name not in row]
    if lacking:
        raise DataError(
            f"{len(lacking):,} of {len(names):,} items have no ID in the file",
            where=path,
            got=f"none for {', '.join(lacking[:5])}",
            todo="encode the vectors of all items: python -m common.tokenizers encode --help",
        )
    return SemanticIdMap.from_sids(found.sids[[row[name] for name in names]], found.sizes, version=found.version)
