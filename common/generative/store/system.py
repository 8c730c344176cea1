"""STORE in a run: the dense tokenizer in OUT/tokenizer, IDs of its dense tokens, then the recommender.

With IDs of another source (`ids: random`, `published`, a file) stages 1 and 3 are the same, and the dense tokens are
not asked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.generative import item_ids
from common.generative.baselines import Generated
from common.generative.config import RunConfig
from common.generative.store.dense import DenseTokenizer
from common.generative.store.items import StoreItems, store_items
from common.generative.store.model import Store
from common.generative.store.stages import dense_tokens, make_ids, train_tokenizer
from common.generative.systems import Prepared, System, watched_fit
from common.generative.training import FitResult
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import main_first


def ids(run: Prepared) -> SemanticIdMap:
    """Return the IDs: of the dense tokens, which stage 1 is trained for, or those that `config.ids` names."""
    config = run.config
    if config.ids != "ours":
        return item_ids.make_ids(config.ids, config.tokenizer, run.data, run.split, config.seed, run.say)
    items, folder = store_items(run), run.out / "tokenizer"
    tokenizer = _tokenizer(run, items)
    with main_first(run.world):
        dense = dense_tokens(tokenizer, items, folder)
        return make_ids(config.store.codes, dense, folder, seed=config.seed, say=run.say)


def build(run: Prepared, id_map: SemanticIdMap) -> Store:
    """Return the untrained recommender on the weights of stage 1."""
    tokenizer = _tokenizer(run, store_items(_quiet(run) if run.config.ids == "ours" else run))
    return Store.of(tokenizer, id_map, run.config.store)


def load(_: Prepared, id_map: SemanticIdMap, folder: Path) -> Store:
    """Return the model saved in `folder`."""
    return Store.load(folder, id_map)


def fit(model: Store, run: Prepared) -> FitResult:
    """Train the tasks on the training part."""
    config = run.config
    texts = store_items(_quiet(run)).texts
    batches = model.batches(texts, run.split.train, seed=config.seed, batch_size=config.train.batch_size)
    return watched_fit(model, run, batches)


def recommender(model: Store, config: RunConfig, beam: int) -> Generated:
    """Return the model as beam search over the code tree, invalid branches masked."""
    return Generated(model, most=model.most_items, beam=beam, name=config.name)


def _tokenizer(run: Prepared, items: StoreItems) -> DenseTokenizer:
    """Return the dense tokenizer of the run, trained first if it is not there."""
    config = run.config
    return train_tokenizer(
        config.store,
        items,
        run.out / "tokenizer",
        seed=config.seed,
        device=run.device,
        say=run.say,
        world=run.world,
    )


def _quiet(run: Prepared) -> Prepared:
    """Return the run without a voice: what there is to tell of the items was told."""
    return replace(run, say=lambda _: None)


SYSTEM = System(ids, build, load, fit, recommender)
