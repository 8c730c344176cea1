"""TIGER in a run: IDs as the configuration asks, training on the users' sequences."""

from __future__ import annotations

from pathlib import Path

from common.generative.baselines import Generated
from common.generative.config import RunConfig
from common.generative.item_ids import make_ids
from common.generative.systems import Prepared, System, watched_fit
from common.generative.tiger import Tiger
from common.generative.training import FitResult
from common.tokenizers.semantic_ids import SemanticIdMap


def ids(run: Prepared) -> SemanticIdMap:
    """Return the IDs of `config.ids`."""
    config = run.config
    return make_ids(config.ids, config.tokenizer, run.data, run.split, config.seed, run.say)


def build(run: Prepared, id_map: SemanticIdMap) -> Tiger:
    """Return the untrained model."""
    return Tiger(run.config.tiger, id_map)


def load(_: Prepared, id_map: SemanticIdMap, folder: Path) -> Tiger:
    """Return the model saved in `folder`."""
    return Tiger.load(folder, id_map)


def fit(model: Tiger, run: Prepared) -> FitResult:
    """Train on the training part."""
    config, train = run.config, run.split.train
    batches = model.batches(train.items, train.offsets, seed=config.seed, batch_size=config.train.batch_size)
    return watched_fit(model, run, batches)


def recommender(model: Tiger, config: RunConfig, beam: int) -> Generated:
    """Return the model as beam search over the trie."""
    return Generated(model, most=config.tiger.max_items, beam=beam, name=config.name)


SYSTEM = System(ids, build, load, fit, recommender)
