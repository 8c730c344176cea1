"""How a run makes its model: each trained model offers a `System`, found by the model's name.

A model's module (`MODULES`) has an attribute SYSTEM. It is imported when a run asks for that model, so that a model's
libraries are needed only where it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError
from common.generative.base import GenerativeRetriever
from common.generative.config import RunConfig
from common.generative.evaluate import Recommender, evaluate
from common.generative.evaluate import figures as figures_of
from common.generative.sequences import Examples, Sequences, Split
from common.generative.training import FitResult, fit_generator
from common.index.build import IndexSettings
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import World, gather_rows
from common.training.fit import Batches

Say = Callable[[str], None]

MODULES: dict[str, str] = {
    "tiger": "common.generative.tiger_system",
    "sasrec": "common.generative.sasrec_system",
    "eager": "common.generative.eager.system",
    "eager_llm": "common.generative.eager_llm.system",
    "store": "common.generative.store.system",
}
"""Where the system of each trained model is."""


@dataclass(frozen=True)
class Prepared:
    """Data, split, configuration and place of a run, the processes that train together, and what searches vectors."""

    config: RunConfig
    data: Sequences
    split: Split
    out: Path
    device: str
    say: Say
    told: set[str] = field(default_factory=set, compare=False, repr=False)
    world: World = World()  # noqa: RUF009 - frozen
    index: IndexSettings = IndexSettings()  # noqa: RUF009 - frozen

    def say_once(self, line: str) -> None:
        """Say a line unless the run has said it: several parts of a model ask for the same vectors and texts."""
        if line not in self.told:
            self.told.add(line)
            self.say(line)


@dataclass(frozen=True)
class System:
    """What a run calls to make, read, train and ask a model.

    Attributes
    ----------
    ids
        (run) -> the semantic IDs; the run keeps them in OUT/ids and reads them from there the next time.
    build
        (run, ids) -> the untrained model. What it needs first (a ranker's vectors) it may train, below the run's
        folder and resumable. torch is seeded by the run before.
    load
        (run, ids, folder) -> the model saved in `folder`.
    fit
        (model, run) -> what training came to; `watched_fit` is how.
    recommender
        (model, config, beam) -> the trained model as a recommender.
    """

    ids: Callable[[Prepared], SemanticIdMap]
    build: Callable[[Prepared, SemanticIdMap], GenerativeRetriever]
    load: Callable[[Prepared, SemanticIdMap, Path], GenerativeRetriever]
    fit: Callable[[Any, Prepared], FitResult]
    recommender: Callable[[Any, RunConfig, int], Recommender]


def system_of(model: str) -> System:
    """Return the system of a trained model.

    Raises
    ------
    ConfigError
        No such model, or a library that it needs is not installed.
    """
    if model not in MODULES:
        raise ConfigError("not a model that is trained", where="model", expected=", ".join(MODULES), got=model)
    with needing(model):
        found = importlib.import_module(MODULES[model]).SYSTEM
    assert isinstance(found, System)  # noqa: S101 - our own modules
    return found


@contextmanager
def needing(model: str) -> Iterator[None]:
    """Turn a library that is missing into one clear error that names the model."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "common").split(".")[0] in ("common", "track1_mdr", "track2_mmctr"):
            raise  # a fault of ours
        raise ConfigError(
            f"model {model} needs a library that is not installed",
            where=f"--model {model}",
            expected=f"the Python package {error.name}",
            todo="install the project's requirements again (README, Set up)",
        ) from None


def watched_fit(model: GenerativeRetriever, run: Prepared, batches: Batches) -> FitResult:
    """Train a model on batches, watched on a sample of valid users (early stop), resumable in OUT/training.

    Of several processes each asks for its share of these users.
    """
    config, world = run.config, run.world
    watched = sample(run.split.valid, config.train.valid_users, config.seed)
    shared = world.size > 1 and len(watched) >= world.size
    own = watched.take(np.arange(world.rank, len(watched), world.size)) if shared else watched
    ks = sorted({5, 10, *config.evaluate.ks})
    system = system_of(config.model)

    def figures(current: GenerativeRetriever) -> Mapping[str, float]:
        asked = system.recommender(current, config, config.train.valid_beam)
        report = evaluate(asked, own, ks=ks, depth=max(ks))
        found = report.figures
        if shared:
            assert report.ranks is not None  # noqa: S101 - `evaluate` keeps them
            found = figures_of(gather_rows(report.ranks, len(watched), world), ks, report.depth)
        return {name.lower(): figure.mean for name, figure in found.items()}

    return fit_generator(
        model,
        batches,
        config.train,
        evaluate=figures,
        seed=config.seed,
        device=run.device,
        folder=run.out / "training",
        say=run.say,
        world=world,
    )


def sample(examples: Examples, most: int, seed: int) -> Examples:
    """Return at most `most` examples, drawn without replacement, in their order."""
    if len(examples) <= most:
        return examples
    return examples.take(np.sort(np.random.default_rng(seed).choice(len(examples), most, replace=False)))
