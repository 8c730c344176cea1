"""EAGER-LLM in a run: IDs of two sources, instructions of the data's texts, stages over the run's epochs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.generative.baselines import Generated
from common.generative.config import RunConfig
from common.generative.eager_llm.batches import EagerLlmBatches
from common.generative.eager_llm.config import EagerLlmConfig, Source
from common.generative.eager_llm.indices import dual_ids
from common.generative.eager_llm.instructions import vocabulary_texts
from common.generative.eager_llm.model import EagerLlm
from common.generative.item_sources import behaviour_vectors, item_texts, semantic_vectors
from common.generative.lm.model import load_language_model
from common.generative.systems import Prepared, System, watched_fit
from common.generative.training import FitResult
from common.generative.vocabulary import Vocabulary
from common.tokenizers.semantic_ids import SemanticIdMap


def vectors_of(run: Prepared, sources: Iterable[Source]) -> dict[str, tuple[np.ndarray, str]]:
    """Return by source float32 [N, D] and where the vectors come from."""
    read = {"behaviour": behaviour_vectors, "semantic": semantic_vectors}
    return {name: read[name](run) for name in sources}


def ids(run: Prepared) -> SemanticIdMap:
    """Return the dual-source indices."""
    config = run.config.eager_llm
    vectors = vectors_of(run, config.code_sources)
    return dual_ids(vectors, config.branching, iterations=config.iterations, seed=run.config.seed, say=run.say)


def make_model(
    config: EagerLlmConfig, id_map: SemanticIdMap, texts: list[str], vectors: dict[str, np.ndarray]
) -> EagerLlm:
    """Return the untrained model of items with these texts; it learns to match `vectors`, by source."""
    codes = Vocabulary(tuple(int(size) for size in id_map.sizes)).size
    lm = load_language_model(config.lm, codes, vocabulary_texts(texts))
    return EagerLlm(config, lm, id_map, {name: one.shape[1] for name, one in vectors.items()})


def build(run: Prepared, id_map: SemanticIdMap) -> EagerLlm:
    """Return the untrained model."""
    config = run.config.eager_llm
    vectors = vectors_of(run, config.contrasts)
    return make_model(config, id_map, item_texts(run)[0], {name: one for name, (one, _) in vectors.items()})


def load(_: Prepared, id_map: SemanticIdMap, folder: Path) -> EagerLlm:
    """Return the model saved in `folder`."""
    return EagerLlm.load(folder, id_map)


def fit(model: EagerLlm, run: Prepared) -> FitResult:
    """Train on the training part, through all stages: early stopping waits for the last one."""
    quiet = replace(run, say=lambda _: None)  # `build` has told of what is missing
    vectors = vectors_of(quiet, model.config.contrasts)
    train, part = run.config.train, run.split.train
    batches = EagerLlmBatches(
        model.ask,
        model.config,
        part.items,
        part.offsets,
        item_texts(quiet)[0],
        {name: one for name, (one, _) in vectors.items()},
        seed=run.config.seed,
        epochs=train.epochs,
        batch_size=train.batch_size,
        say=run.say,
    )
    first = next(epoch for epoch in range(train.epochs) if batches.stage(epoch) == batches.stage(train.epochs - 1))
    patient = train.model_copy(update={"patience": train.patience + first // train.evaluate_every})
    return watched_fit(model, replace(run, config=run.config.model_copy(update={"train": patient})), batches)


def recommender(model: EagerLlm, config: RunConfig, beam: int) -> Generated:
    """Return the model as beam search over the trie."""
    return Generated(model, most=config.eager_llm.max_items, beam=beam, name=config.name)


SYSTEM = System(ids, build, load, fit, recommender)
