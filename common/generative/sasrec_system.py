"""SASRec in a run: one code an item, training on the users' sequences, served as dense retrieval."""

from __future__ import annotations

from pathlib import Path

from common.generative.baselines import SasRecRetrieval
from common.generative.config import RunConfig
from common.generative.sasrec import SasRec
from common.generative.systems import Prepared, System, watched_fit
from common.generative.training import FitResult
from common.tokenizers.semantic_ids import SemanticIdMap


def ids(run: Prepared) -> SemanticIdMap:
    """Return one code an item."""
    return SemanticIdMap.atomic(len(run.data.item_ids))


def build(run: Prepared, id_map: SemanticIdMap) -> SasRec:
    """Return the untrained model."""
    return SasRec(run.config.sasrec, id_map)


def load(_: Prepared, id_map: SemanticIdMap, folder: Path) -> SasRec:
    """Return the model saved in `folder`."""
    return SasRec.load(folder, id_map)


def fit(model: SasRec, run: Prepared) -> FitResult:
    """Train on the training part."""
    config, train = run.config, run.split.train
    batches = model.batches(train.items, train.offsets, seed=config.seed, batch_size=config.train.batch_size)
    return watched_fit(model, run, batches)


def recommender(model: SasRec, _: RunConfig, beam: int) -> SasRecRetrieval:
    """Return the model as a search of item vectors, exact whatever the beam."""
    del beam
    return SasRecRetrieval(model)


SYSTEM = System(ids, build, load, fit, recommender)
