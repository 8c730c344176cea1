"""EAGER in a run: IDs and vectors from the run's sources, training on the users' sequences, answers by both streams."""

from __future__ import annotations

from pathlib import Path

from common.generative.baselines import Generated
from common.generative.config import RunConfig
from common.generative.eager.model import Eager
from common.generative.eager.sources import behaviour_ids, contrast_vectors, semantic_ids
from common.generative.systems import Prepared, System, watched_fit
from common.generative.training import FitResult
from common.tokenizers.semantic_ids import SemanticIdMap


def build(run: Prepared, id_map: SemanticIdMap) -> Eager:
    """Return the untrained model; the semantic IDs are made first, and the ranker's vectors where they are needed."""
    import torch

    config = run.config.eager
    if config.streams != "both" and config.recon + config.est > 0:
        run.say(f"{config.streams} stream alone: no transfer task, which needs both")
    with torch.random.fork_rng(devices=[]):
        semantic = semantic_ids(run)
        vectors = contrast_vectors(run, semantic)
    if config.streams == "both" and id_map.sids.tolist() == semantic.sids.tolist():
        run.say("both streams have the same codes: there is one source of vectors only, and no second opinion")
    return Eager.with_vectors(config, id_map, semantic, vectors)


def load(_: Prepared, id_map: SemanticIdMap, folder: Path) -> Eager:
    """Return the model saved in `folder`."""
    return Eager.load(folder, id_map)


def fit(model: Eager, run: Prepared) -> FitResult:
    """Train on the training part."""
    config, train = run.config, run.split.train
    batches = model.batches(train.items, train.offsets, seed=config.seed, batch_size=config.train.batch_size)
    return watched_fit(model, run, batches)


def recommender(model: Eager, config: RunConfig, beam: int) -> Generated:
    """Return the model as beam search over both streams."""
    return Generated(model, most=config.eager.max_items, beam=beam, name=config.name)


SYSTEM = System(behaviour_ids, build, load, fit, recommender)
