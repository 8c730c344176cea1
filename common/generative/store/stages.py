"""Stages 1 and 2 of STORE in a folder: each is kept when it is done, and the same call goes on where it stopped.

FOLDER/training/            state of an unfinished training of the dense tokenizer
FOLDER/model.safetensors    its trained weights (with LoRA: adapters and codes)
FOLDER/dense.safetensors    dense tokens of all items
FOLDER/quantizer/           what makes codes of them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from common.errors import DataError
from common.generative.lm.loading import weights_digest
from common.generative.store.config import CodesConfig, StoreConfig
from common.generative.store.dense import DenseBatches, DenseTokenizer, slot_cosine
from common.generative.store.items import StoreItems
from common.tokenizers import load_quantizer
from common.tokenizers.base import Quantizer, data_digest
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.semantic_ids import SemanticIdMap
from common.tokenizers.slot_kmeans import SlotKMeans
from common.training.distributed import World, main_first, told_by_main
from common.training.fit import FitResult, fit_model
from common.training.fit_state import learnt_state, restore
from common.training.state import check_key, fitting, todo
from common.training.tensors import read_tensors, write_tensors

WEIGHTS, DENSE = "mirc-store-tokenizer-1", "mirc-store-dense-1"
Say = Callable[[str], None]


def train_tokenizer(
    config: StoreConfig,
    items: StoreItems,
    folder: Path,
    *,
    seed: int,
    device: str = "cpu",
    say: Say = lambda _: None,
    world: World = World(),  # noqa: B008 - frozen
) -> DenseTokenizer:
    """Return the dense tokenizer of stage 1, trained in `folder` or read where that was done before.

    The caller's random state stays as it was.

    Raises
    ------
    ConfigError
        The folder holds one of another configuration, seed or texts.
    """
    path = folder / "model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = DenseTokenizer.untrained(config, items)
    train = config.dense.train.model_dump(mode="json", exclude={"max_seconds"})
    key = {"settings": tokenizer.key(), "train": train, "seed": seed, "texts": items.digest}
    if told_by_main(path.is_file(), world):
        weights, header = read_tensors(path, WEIGHTS, todo(path))
        check_key(path, header["key"], key)
        with fitting(path):
            restore(tokenizer, weights)
        say(f"dense tokenizer: {folder}")
        return tokenizer.to(device).eval()
    fit_dense(tokenizer, items, seed=seed, device=device, folder=folder / "training", say=say, world=world)
    with main_first(world):
        if world.main:
            write_tensors(path, learnt_state(tokenizer), {"format": WEIGHTS, "key": key})
    return tokenizer


def fit_dense(
    tokenizer: DenseTokenizer,
    items: StoreItems,
    *,
    seed: int,
    device: str = "cpu",
    folder: Path | None = None,
    say: Say = lambda _: None,
    world: World = World(),  # noqa: B008 - frozen
) -> FitResult:
    """Train a dense tokenizer in place; early stopping looks at how well texts are copied from the slots."""
    config = tokenizer.config.dense
    count = min(config.watched, len(items))
    rows = np.sort(np.random.default_rng(seed).choice(len(items), count, replace=False))
    watched = [items.texts[row] for row in rows.tolist()]

    def figures(model: DenseTokenizer) -> Mapping[str, float]:
        return {"accuracy": model.accuracy(watched)}

    batches = DenseBatches(tokenizer, items, seed=seed)
    for task, number in batches.cut.items():
        if number:
            most = tokenizer.config.max_text if task == "replicate" else tokenizer.config.max_longer
            say(f"{number:,} of {len(items):,} texts ({task}) are cut to their first {most} tokens")
    result = fit_model(
        tokenizer,
        batches,
        config.train,
        key={"kind": "store-tokenizer", "settings": tokenizer.key()},
        evaluate=figures,
        seed=seed,
        device=device,
        folder=folder,
        say=say,
        world=world,
    )
    say(f"dense tokenizer: {result.best:.3f} of text tokens copied from the slots, {result.cpu_seconds:,.0f} s of CPU")
    return result


def dense_tokens(tokenizer: DenseTokenizer, items: StoreItems, folder: Path) -> np.ndarray:
    """Return the dense tokens float32 [N, m, D] of all items, kept in `folder`; they are held in memory whole."""
    path = folder / "dense.safetensors"
    key = {"settings": tokenizer.key(), "texts": items.digest, "weights": weights_digest(tokenizer)}
    if path.is_file():
        tensors, header = read_tensors(path, DENSE, todo(path))
        check_key(path, header["key"], key)
        if "dense" not in tensors or len(tensors["dense"]) != len(items):
            raise DataError("dense tokens of other items", where=path, todo=todo(path))
        return tensors["dense"].numpy()
    dense = tokenizer.encode(items.texts)
    write_tensors(path, {"dense": torch.from_numpy(dense)}, {"format": DENSE, "key": key})
    return dense


def fit_quantizer(config: CodesConfig, dense: np.ndarray, *, seed: int, say: Say = lambda _: None) -> Quantizer:
    """Return the quantizer of dense tokens [N, m, D]: see `CodesConfig`. There are m codes either way."""
    slots, width = dense.shape[1:]
    flat = inputs(config, dense)
    different = len(np.unique(dense.reshape(len(dense), -1), axis=0))
    size = max(2, min(config.size, different // 4))
    if size < config.size:
        say(f"codes of a slot: {size} rather than {config.size}, for {different:,} different texts")
    sizes = (size,) * slots
    if config.kind == "rq":
        return RQKMeans(codebook_sizes=sizes, iterations=config.iterations).fit(flat, seed=seed)
    components = min(config.components, width)
    return SlotKMeans(codebook_sizes=sizes, components=components, iterations=config.iterations).fit(flat, seed=seed)


def inputs(config: CodesConfig, dense: np.ndarray) -> np.ndarray:
    """Return what the quantizer of dense tokens [N, m, D] reads: slots side by side, or (rq) their mean."""
    return dense.mean(axis=1) if config.kind == "rq" else dense.reshape(len(dense), -1)


def make_ids(
    config: CodesConfig, dense: np.ndarray, folder: Path | None, *, seed: int, say: Say = lambda _: None
) -> SemanticIdMap:
    """Return the IDs of stage 2: a code a slot, and a rank where items collide. The quantizer is kept in `folder`."""
    kept = None if folder is None else folder / "quantizer"
    if kept is not None and kept.is_dir():
        quantizer = load_quantizer(kept)
        if quantizer.data_digest != data_digest(inputs(config, dense)):
            raise DataError("a quantizer of other dense tokens", where=kept, todo=f"delete {kept}")
    else:
        quantizer = fit_quantizer(config, dense, seed=seed, say=say)
        if kept is not None:
            quantizer.save(kept)
    codes = quantizer.encode(inputs(config, dense))
    ids = SemanticIdMap.from_codes(codes, quantizer.codebook_sizes, version=quantizer.version)
    distinct = len(np.unique(codes, axis=0))
    say(
        f"IDs: {' x '.join(map(str, quantizer.codebook_sizes))} codes of dense tokens, {distinct:,} of {len(ids):,} "
        f"differ without a rank; mean |cosine| between slots {slot_cosine(dense):.2f}"
    )
    return ids
