"""One run in one folder: IDs, training, the trained model; each step is kept, and the same command goes on.

Of several processes (torchrun, Ray Train) the main one writes, and the others read: the folder must be on storage
that all of them see.

OUT/key.json     what the run is tied to: data, configuration, seed
OUT/ids/         the semantic IDs
OUT/training/    state of an unfinished training
OUT/behaviour/   the ranker that some models take item vectors from
OUT/texts/       vectors of item texts, for models that need them
OUT/model/       the trained model
OUT/curve.json   the learning curve and what training took
OUT/runs/        a record of each command
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import ConfigError, DataError
from common.generative.base import GenerativeRetriever
from common.generative.baselines import DenseRetrieval, NearestEmbedding, Popularity
from common.generative.config import SECTIONS, TRAINED, RunConfig
from common.generative.evaluate import Recommender
from common.generative.item_ids import item_vectors, kept_ids
from common.generative.sequences import Sequences, leave_one_out
from common.generative.systems import Prepared, Say, needing, system_of
from common.hashing import digest
from common.index.build import check_engine
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import World, main_first, told_by_main
from common.training.state import check_key

__all__ = [
    "Prepared",
    "data_digest",
    "needs_training",
    "prepare",
    "read_key",
    "recommender",
    "run_ids",
    "trained_model",
]

SEARCHING = ("nearest", "sasrec")
"""The models whose items are found by a search of vectors."""


def prepare(
    config: RunConfig,
    data: Sequences,
    out: Path,
    device: str,
    say: Say,
    world: World = World(),  # noqa: B008 - frozen
) -> Prepared:
    """Split the data and tie the folder to it.

    Raises
    ------
    ConfigError
        The folder holds a run of another configuration or of other data.
    DataError
        The folder is not on storage that all processes see.
    """
    split = leave_one_out(data)
    users, items = len(data.users), len(data.item_ids)
    say(f"{data.name}: {users:,} users, {items:,} items, {len(data.items):,} interactions")
    for note in (*data.notes, *split.notes):
        say(f"note: {note}")
    wanted, path = run_key(config, data), out / "key.json"
    with main_first(world):
        if path.is_file():
            check_key(path, _without(read_key(path), config), wanted)
        elif world.main:
            write_text(path, json.dumps(wanted, indent=1) + "\n")
        else:
            raise DataError(
                "the run's folder is not seen by all processes",
                where=f"process {world.rank}, {out}",
                expected="what the main process has written there",
                todo="put --out on storage that all machines share",
            )
    return Prepared(config, data, split, out, device, say, world=world)


def run_key(config: RunConfig, data: Sequences) -> dict[str, Any]:
    """Return what a run is tied to: the configuration as far as it changes the model, and the data."""
    key = _without(config.model_dump(mode="json", exclude={"evaluate", "device", "about"}), config)
    key["train"].pop("max_seconds")
    if "behaviour" in key:
        key["behaviour"]["train"].pop("max_seconds")
    if "store" in key:
        key["store"]["dense"]["train"].pop("max_seconds")
    if "texts" in key:  # texts are read by these models only
        key["texts"] = {name: key["texts"][name] for name in ("encoder", "max_tokens")}
        key["texts"]["data"] = digest(*(data.texts or ()))
    key["data"] = data_digest(data)
    return key


def _without(key: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return a key without the sections of models other than the configuration's."""
    others = {name for names in SECTIONS.values() for name in names} - set(SECTIONS[config.model])
    return {name: value for name, value in key.items() if name not in others}


def data_digest(data: Sequences) -> str:
    """Return SHA-256 over sequences, item vectors and published IDs."""
    extra = [b"" if one is None else np.ascontiguousarray(one).tobytes() for one in (data.embeddings, data.published)]
    return digest(data.digest, *extra)


def recommender(run: Prepared) -> Recommender:
    """Return the run's recommender; what is to be trained is trained, or read where that was done before.

    Raises
    ------
    ConfigError
        An index is asked for, and the model searches none; or as `make_index` raises it.
    """
    if run.index.engine != "faiss":
        if run.config.model not in SEARCHING:
            expected = " or ".join(f"--model {name}" for name in SEARCHING)
            raise ConfigError("the model searches no vectors", where="--index", expected=expected, got=run.config.model)
        check_engine(run.index)
    asked = _recommender(run)
    if run.index.engine != "faiss" and isinstance(asked, DenseRetrieval):
        asked.search_with(run.index, run.out, run.say)
    return asked


def _recommender(run: Prepared) -> Recommender:
    config, split = run.config, run.split
    if config.model == "popularity":
        return Popularity(split.train)
    if config.model == "nearest":
        vectors, source = item_vectors(config.tokenizer, run.data, split, config.seed)
        run.say(f"nearest by {source}, {vectors.shape[1]} dimensions")
        return NearestEmbedding(vectors, config.nearest.to)
    return system_of(config.model).recommender(trained_model(run), config, config.evaluate.beam)


def trained_model(run: Prepared) -> GenerativeRetriever:
    """Return the model of the run's folder, trained first if it is not there.

    Raises
    ------
    ConfigError
        A library that the model needs is not installed; a checkpoint of another configuration.
    """
    config, folder, world = run.config, run.out / "model", run.world
    system = system_of(config.model)
    with needing(config.model):
        ids = run_ids(run)
        if told_by_main(folder.is_dir(), world):
            run.say(f"model: {folder}")
            return system.load(run, ids, folder).to(run.device)
        import torch

        torch.manual_seed(config.seed)
        model = system.build(run, ids)
        run.say(f"{config.name}: {sum(p.numel() for p in model.parameters()):,} parameters, {run.device}")
        result = system.fit(model, run)
    with main_first(world):
        if world.main:
            model.save(folder)
            write_text(run.out / "curve.json", json.dumps(asdict(result), indent=1) + "\n")
    run.say(f"trained {result.epochs} epochs ({result.stopped}), {result.cpu_seconds:,.0f} s of CPU: {folder}")
    return model


def run_ids(run: Prepared) -> SemanticIdMap:
    """Return the run's semantic IDs: those in its folder, else new ones, which are kept there."""
    config, folder, world = run.config, run.out / "ids", run.world
    n = len(run.data.item_ids)
    there = told_by_main(folder.is_dir(), world)
    ids = SemanticIdMap.load(folder) if there else system_of(config.model).ids(run)
    if len(ids) != n:
        raise DataError(
            "semantic IDs of another catalogue", where=config.ids, expected=f"{n:,} items", got=f"{len(ids):,}"
        )
    if not there:
        ids = kept_ids(ids, folder, world)
    return ids


def needs_training(config: RunConfig) -> bool:
    """Whether the configuration's model is trained at all."""
    return config.model in TRAINED


def read_key(path: Path) -> dict[str, Any]:
    """Return the key of a run's folder; raise `DataError` if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("the run's key is damaged", where=path, got=str(error), todo=f"delete {path.parent}") from None
    if not isinstance(found, dict):
        raise DataError("the run's key is damaged", where=path, got=type(found).__name__, todo=f"delete {path.parent}")
    return found
