"""One run in one folder: IDs, training, the trained model; each step is kept, and the same command goes on.

OUT/key.json     what the run is tied to: data, configuration, seed
OUT/ids/         the semantic IDs
OUT/training/    state of an unfinished training
OUT/model/       the trained model
OUT/curve.json   the learning curve and what training took
OUT/runs/        a record of each command
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import DataError
from common.generative.base import GenerativeRetriever
from common.generative.baselines import Generated, NearestEmbedding, Popularity, SasRecRetrieval
from common.generative.config import TRAINED, RunConfig
from common.generative.evaluate import Recommender, evaluate
from common.generative.item_ids import item_vectors, make_ids
from common.generative.sasrec import SasRec
from common.generative.sequences import Examples, Sequences, Split, leave_one_out
from common.generative.tiger import Tiger
from common.generative.training import FitResult, fit_generator
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.state import check_key

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Data, split, configuration and place of a run."""

    config: RunConfig
    data: Sequences
    split: Split
    out: Path
    device: str
    say: Say


def prepare(config: RunConfig, data: Sequences, out: Path, device: str, say: Say) -> Prepared:
    """Split the data and tie the folder to it.

    Raises
    ------
    ConfigError
        The folder holds a run of another configuration or of other data.
    """
    split = leave_one_out(data)
    users, items = len(data.users), len(data.item_ids)
    say(f"{data.name}: {users:,} users, {items:,} items, {len(data.items):,} interactions")
    for note in (*data.notes, *split.notes):
        say(f"note: {note}")
    wanted = config.model_dump(mode="json", exclude={"evaluate", "device", "about"})
    wanted["train"].pop("max_seconds")
    wanted["data"] = data_digest(data)
    path = out / "key.json"
    if path.is_file():
        check_key(path, _read_json(path), wanted)
    else:
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    return Prepared(config, data, split, out, device, say)


def data_digest(data: Sequences) -> str:
    """Return SHA-256 over sequences, item vectors and published IDs."""
    from common.hashing import digest

    extra = [b"" if one is None else np.ascontiguousarray(one).tobytes() for one in (data.embeddings, data.published)]
    return digest(data.digest, *extra)


def recommender(run: Prepared) -> Recommender:
    """Return the run's recommender; what is to be trained is trained, or read where that was done before."""
    config, split = run.config, run.split
    if config.model == "popularity":
        return Popularity(split.train)
    if config.model == "nearest":
        vectors, source = item_vectors(config.tokenizer, run.data, split, config.seed)
        run.say(f"nearest by {source}, {vectors.shape[1]} dimensions")
        return NearestEmbedding(vectors, config.nearest.to)
    return wrap(trained_model(run), config, config.evaluate.beam)


def wrap(model: GenerativeRetriever, config: RunConfig, beam: int) -> Recommender:
    """Return a trained model as a recommender."""
    if isinstance(model, SasRec):
        return SasRecRetrieval(model)
    return Generated(model, most=config.tiger.max_items, beam=beam, name=config.name)


def trained_model(run: Prepared) -> GenerativeRetriever:
    """Return the model of the run's folder, trained first if it is not there."""
    config, folder = run.config, run.out / "model"
    ids = run_ids(run)
    kind = SasRec if config.model == "sasrec" else Tiger
    if folder.is_dir():
        run.say(f"model: {folder}")
        return kind.load(folder, ids).to(run.device)
    import torch

    torch.manual_seed(config.seed)
    model = SasRec(config.sasrec, ids) if config.model == "sasrec" else Tiger(config.tiger, ids)
    run.say(f"{config.name}: {sum(p.numel() for p in model.parameters()):,} parameters, {run.device}")
    result = fit(model, run)
    model.save(folder)
    write_text(run.out / "curve.json", json.dumps(asdict(result), indent=1) + "\n")
    run.say(f"trained {result.epochs} epochs ({result.stopped}), {result.cpu_seconds:,.0f} s of CPU: {folder}")
    return model


def fit(model: SasRec | Tiger, run: Prepared) -> FitResult:
    """Train on the training part, watched on a sample of valid users."""
    config, train = run.config, run.split.train
    batches = model.batches(train.items, train.offsets, seed=config.seed, batch_size=config.train.batch_size)
    watched = sample(run.split.valid, config.train.valid_users, config.seed)
    ks = sorted({5, 10, *config.evaluate.ks})

    def figures(current: GenerativeRetriever) -> Mapping[str, float]:
        found = evaluate(wrap(current, config, config.train.valid_beam), watched, ks=ks, depth=max(ks))
        return {name.lower(): figure.mean for name, figure in found.figures.items()}

    return fit_generator(
        model,
        batches,
        config.train,
        evaluate=figures,
        seed=config.seed,
        device=run.device,
        folder=run.out / "training",
        say=run.say,
    )


def sample(examples: Examples, most: int, seed: int) -> Examples:
    """Return at most `most` examples, drawn without replacement, in their order."""
    if len(examples) <= most:
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).choice(len(examples), most, replace=False)))


def run_ids(run: Prepared) -> SemanticIdMap:
    """Return the run's semantic IDs: those in its folder, else new ones, which are kept there."""
    config, folder = run.config, run.out / "ids"
    n = len(run.data.item_ids)
    if config.model == "sasrec":
        return SemanticIdMap.atomic(n)
    if folder.is_dir():
        ids = SemanticIdMap.load(folder)
    else:
        ids = make_ids(config.ids, config.tokenizer, run.data, run.split, config.seed, run.say)
    if len(ids) != n:
        raise DataError(
            "semantic IDs of another catalogue", where=config.ids, expected=f"{n:,} items", got=f"{len(ids):,}"
        )
    if not folder.is_dir():
        ids.save(folder)
    return ids


def needs_training(config: RunConfig) -> bool:
    """Whether the configuration's model is trained at all."""
    return config.model in TRAINED


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("the run's key is damaged", where=path, got=str(error), todo=f"delete {path.parent}") from None
    if not isinstance(found, dict):
        raise DataError("the run's key is damaged", where=path, got=type(found).__name__, todo=f"delete {path.parent}")
    return found
