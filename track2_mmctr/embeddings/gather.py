"""What a representation method reads of a data folder: items with texts, encoder outputs and domains; histories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.representation.inputs import Behaviour, Items, Tokens
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.tables import SPLITS, CtrData, Split
from track2_mmctr.embeddings.catalogue import Catalogue, read_catalogue, read_facts, read_texts
from track2_mmctr.embeddings.config import TextField
from track2_mmctr.embeddings.domains import domains_of
from track2_mmctr.embeddings.encode import Tools, load_modalities
from track2_mmctr.embeddings.histories import describing_behaviour, on_items, training_behaviour
from track2_mmctr.embeddings.registry import RepresentationMethod
from track2_mmctr.embeddings.represent_config import Modalities, RepresentConfig


@dataclass(frozen=True, eq=False)
class Gathered:
    """The input of a method.

    Attributes
    ----------
    catalogue
        All items.
    items
        Those that have something to read.
    facts
        What is known of each of `items`, by field.
    training
        Longest training histories, one a user; item rows are those of `items`.
    users, after
        A history that describes each user, and how long a row's history must be to know it.
    described
        Those of `users` that training rows alone give: what a tokenizer of users learns from.
    everyone
        Ids of all users of the data, ascending.
    train
        The training rows.
    """

    catalogue: Catalogue
    items: Items
    facts: list[dict[str, str]]
    training: Behaviour
    users: Behaviour
    after: np.ndarray
    described: Behaviour
    everyone: np.ndarray
    train: Split


def gather(
    folder: Path, method: RepresentationMethod, config: RepresentConfig, tools: Tools, notes: list[str]
) -> Gathered:
    """Read all that a method needs from a `microlens` folder.

    Raises
    ------
    DataError
        A file is missing or damaged; more items than `allow_faults` have nothing to read, or fail to decode.
    ConfigError
        An encoder is not to be had; a split in domains that splits nothing.
    """
    catalogue = read_catalogue(folder)
    modalities = method.modalities if config.modalities is None else tuple(dict.fromkeys(config.modalities))
    fields = config.fields or list(method.fields)
    texts, facts = [""] * catalogue.count, [{} for _ in range(catalogue.count)]
    if method.texts or "text" in modalities:
        texts = read_texts(catalogue, fields, notes)
        facts = read_facts(catalogue, fields)
        if method.texts and (empty := sum(not text for text in texts)):
            notes.append(f"{empty} items have no text")
    tokens = _tokens(catalogue, modalities, config, fields, tools, notes)
    kept = _kept(texts if method.texts else [], tokens, tools, config, catalogue.count)
    data = load_data(folder, DataConfig(), FeatureConfig(embedding="none"), tools.cache)
    training = training_behaviour(data.train)
    by = method.domains if config.domains.by == "auto" else config.domains.by
    domains, names, said = domains_of(config.domains, by, catalogue.tags[1:], training)
    notes.append(said)
    ids = np.arange(1, catalogue.count + 1, dtype=np.int64)
    items = Items(ids, texts, tokens, domains, names).take(kept)
    return _with_histories(catalogue, items, [facts[row] for row in kept], training, kept, data, config)


def _with_histories(
    catalogue: Catalogue,
    items: Items,
    facts: list[dict[str, str]],
    training: Behaviour,
    kept: np.ndarray,
    data: CtrData,
    config: RepresentConfig,
) -> Gathered:
    splits = [data.splits[name] for name in SPLITS if name in data.splits]
    all_splits = splits if config.history.users == "all" else splits[:1]
    users, after = describing_behaviour(all_splits, config.history.items)
    described, _ = describing_behaviour(splits[:1], config.history.items)
    everyone = np.unique(np.concatenate([np.asarray(split.users, np.int64) for split in splits]))
    count = catalogue.count
    training, users, described = (on_items(one, kept, count) for one in (training, users, described))
    return Gathered(catalogue, items, facts, training, users, after, described, everyone, data.train)


def _tokens(
    catalogue: Catalogue,
    modalities: Modalities,
    config: RepresentConfig,
    fields: list[TextField],
    tools: Tools,
    notes: list[str],
) -> dict[str, Tokens]:
    """Return one pooled token an item for each modality."""
    if not modalities:
        return {}
    found, _ = load_modalities(catalogue, config.encoding(modalities, fields), tools, notes)
    return {one.name: Tokens.pooled(one.vectors, one.present, one.encoder) for one in found}


def _kept(texts: list[str], tokens: dict[str, Tokens], tools: Tools, config: RepresentConfig, count: int) -> np.ndarray:
    """Return the rows of items that have something to read; record the others."""
    have = np.zeros(count, bool)
    for one in tokens.values():
        have |= one.present
    have |= np.array([bool(text) for text in texts] or [False] * count, bool)
    for row in np.flatnonzero(~have):
        tools.faults.add("embed", f"item {row + 1}", "has nothing that this method reads")
    allowed = len(tools.faults)
    tools.faults.check(config.allow_faults, f"mend the items, or allow them with --set allow_faults={allowed}")
    if have.sum() < 2:
        raise DataError("fewer than two items have anything to read", expected="at least two", got=int(have.sum()))
    return np.flatnonzero(have)
