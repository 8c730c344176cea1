"""What EAGER makes of a run's items: behaviour IDs, semantic IDs, and the vectors of the contrastive task.

Codes are paths of balanced trees (`BalancedKMeansTree`): a leaf an item, so that no rank is needed. Where there is no
content, the semantic stream falls back to what the data has, and says so (`common.generative.item_sources`).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from common.generative.eager.config import EagerConfig, StreamName
from common.generative.item_ids import kept_ids, make_ids
from common.generative.item_sources import behaviour_vectors, semantic_vectors
from common.generative.systems import Prepared
from common.tokenizers.balanced_tree import BalancedKMeansTree
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import told_by_main

APART = 1e-4
"""Rows that equal an earlier one are moved by this share of the vectors' standard deviation, at random."""
CODE_DIM, SHRINK = 64, 0.5


def behaviour_ids(run: Prepared) -> SemanticIdMap:
    """Return the behaviour IDs: `ids: ours` are a balanced tree on behaviour vectors; else as `make_ids` says."""
    config = run.config
    if config.ids != "ours":
        return make_ids(config.ids, config.tokenizer, run.data, run.split, config.seed, run.say)
    vectors, source = behaviour_vectors(run)
    return tree_ids(run, vectors, f"behaviour IDs on {source}")


def semantic_ids(run: Prepared) -> SemanticIdMap:
    """Return the semantic IDs as `eager.semantic` says; they are kept in OUT/semantic_ids and read from there.

    Raises
    ------
    ConfigError
        `eager.semantic` is neither a known word nor a file or folder.
    """
    config, folder = run.config, run.out / "semantic_ids"
    if told_by_main(folder.is_dir(), run.world):
        return SemanticIdMap.load(folder)
    source = config.eager.semantic
    if source == "vectors":
        vectors, where = semantic_vectors(run)
        ids = tree_ids(run, vectors, f"semantic IDs on {where}")
    elif source == "published" or Path(source).exists():
        run.say(f"semantic IDs: {source}")
        ids = make_ids(source, config.tokenizer, run.data, run.split, config.seed, run.say)
    else:
        raise ConfigError(
            "no such semantic IDs",
            where="eager.semantic",
            expected="vectors, published, or a file or folder of IDs",
            got=source,
        )
    return kept_ids(ids, folder, run.world)


def contrast_vectors(run: Prepared, semantic: SemanticIdMap) -> dict[StreamName, np.ndarray]:
    """Return the pre-trained vectors that each stream's contrastive task needs: none where it is off."""
    config, found = run.config.eager, {}
    for name in config.names:
        if config.gct_weight(name) == 0:
            continue
        if name == "behaviour":
            found[name] = behaviour_vectors(run)[0]
        elif config.semantic == "vectors":
            found[name] = semantic_vectors(run)[0]
        else:
            run.say("contrastive task of the semantic stream: vectors made of the codes, as these came without any")
            found[name] = code_vectors(semantic, run.config.seed)
    return found


def tree_ids(run: Prepared, vectors: np.ndarray, what: str) -> SemanticIdMap:
    """Return the paths of a balanced tree on vectors float32 [N, D], one a row; `what` is said with its sizes."""
    config = run.config
    branching = tree_branching(config.eager, len(vectors))
    apart, equal = distinct_rows(vectors, config.seed)
    tree = BalancedKMeansTree(branching, iterations=config.eager.iterations).fit(apart, seed=config.seed)
    note = f"; {equal:,} items whose vectors equal another's are told apart at random" if equal else ""
    run.say(f"{what}: balanced tree {' x '.join(map(str, branching))}{note}")
    return SemanticIdMap.from_codes(tree.assigned_codes(apart), branching, dedup="raise", version=tree.version)


def tree_branching(config: EagerConfig, n: int) -> tuple[int, ...]:
    """Return the branches of each level for n items.

    >>> tree_branching(EagerConfig(), 12_101), tree_branching(EagerConfig(), 30)
    ((111, 110), (6, 5))

    Raises
    ------
    ConfigError
        The branches that are asked for do not hold n items.
    """
    if not config.branching:
        first = math.isqrt(n - 1) + 1
        return first, -(-n // first)
    if math.prod(config.branching) < n or min(config.branching) < 1 or config.branching[0] > n:
        raise ConfigError(
            "the tree does not fit the items",
            where="eager.branching",
            expected=f"a product of {n:,} or more, and at most {n:,} branches first; or () to let it be chosen",
            got=list(config.branching),
        )
    return config.branching


def distinct_rows(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Return float32 [N, D] in which no row equals another, and how many rows were moved for it."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    _, first = np.unique(vectors, axis=0, return_index=True)
    again = np.setdiff1d(np.arange(len(vectors)), first)
    if not len(again):
        return vectors, 0
    moved = vectors.copy()
    scale = APART * (float(vectors.std()) or 1.0)
    noise = np.random.default_rng((seed, 31)).standard_normal((len(again), vectors.shape[1]))
    moved[again] += (scale * noise).astype(np.float32)
    return moved, len(again)


def code_vectors(ids: SemanticIdMap, seed: int) -> np.ndarray:
    """Return float32 [N, `CODE_DIM`] that are alike where IDs are: a random vector for each code, summed.

    Each level counts half of the one before, as residuals shrink. Our own, for codes that came without vectors.
    """
    rng = np.random.default_rng((seed, 32))
    total = np.zeros((len(ids), CODE_DIM), np.float32)
    for level in range(ids.levels):
        book = rng.standard_normal((ids.sizes[level], CODE_DIM)).astype(np.float32)
        total += SHRINK**level * book[ids.sids[:, level]]
    return total
