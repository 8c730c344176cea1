"""The run: tables → ranker → logits → submission → local score. Each stage is a function of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.errors import DataError
from common.experiment import Experiment
from common.hashing import digest
from common.logits import sigmoid
from common.metrics.ctr import auc
from common.submission.mmctr import write_submission
from common.submission.mmctr_validate import ValidationReport
from common.training.distributed import main_first
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.microlens import find_folder, load_data
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split, SplitName
from track2_mmctr.evaluate import CtrReport, evaluate
from track2_mmctr.groups import train_counts
from track2_mmctr.predictions import write_predictions
from track2_mmctr.rankers import build_fitted, build_ranker
from track2_mmctr.rankers.base import Environment, FittedRanker, Ranker, Say

OnEvaluation = Callable[[Any], None]


class FittedRun(Protocol):
    """A fitted ranker, or several that were trained with different seeds, whose logits are averaged."""

    @property
    def valid_auc(self) -> float:
        """AUC on valid of the averaged logits."""
        ...

    @property
    def valid_logits(self) -> np.ndarray:
        """What `predict` gives for valid."""
        ...

    def predict(self, split: Split) -> np.ndarray:
        """Return the logit of a click for each row of the split, float64 [R]."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model, or one folder a seed."""
        ...

    def figures(self) -> dict[str, Any]:
        """Return what training came to, for the record."""
        ...


@dataclass
class Neural:
    """Rankers trained by gradient, one a seed."""

    config: RunConfig
    models: list[Ranker]
    results: list[Any]
    items: ItemTable
    device: str
    valid_auc: float = float("nan")
    valid_logits: np.ndarray = field(default_factory=lambda: np.empty(0))

    def predict(self, split: Split) -> np.ndarray:
        """Return the mean logit over the seeds."""
        from track2_mmctr.training.predict import predict

        settings = {"max_len": self.config.data.max_len, "device": self.device, "amp": self.config.train.amp}
        return np.mean([predict(model, split, **settings) for model in self.models], axis=0)

    def save(self, folder: Path) -> None:
        """Write one checkpoint a seed."""
        from track2_mmctr.training.checkpoint import save_model

        for number, model in enumerate(self.models):
            config = self.config.model_copy(update={"seed": self.config.seed + number})
            save_model(folder / f"seed{config.seed}", model, config, self.items)

    def figures(self) -> dict[str, Any]:
        """Return epochs, steps and the best AUC of each seed, and every evaluation."""
        from dataclasses import asdict

        return {
            "parameters": sum(parameter.numel() for parameter in self.models[0].parameters()),
            "seeds": [
                {
                    "best_auc": result.best_auc,
                    "epochs": result.epochs,
                    "steps": result.steps,
                    "stopped": result.stopped,
                    "evaluations": [asdict(one) for one in result.evaluations],
                }
                for result in self.results
            ],
        }


@dataclass
class Fitted:
    """A ranker that is not trained by gradient."""

    ranker: FittedRanker
    items: ItemTable
    max_len: int
    valid_auc: float = float("nan")
    valid_logits: np.ndarray = field(default_factory=lambda: np.empty(0))

    def predict(self, split: Split) -> np.ndarray:
        """Return the logit of a click for each row."""
        return self.ranker.predict(split, self.items, max_len=self.max_len)

    def save(self, folder: Path) -> None:
        """Write the fitted ranker."""
        self.ranker.save(folder)

    def figures(self) -> dict[str, Any]:
        """Return nothing: there are no epochs."""
        return {}


def fit_run(
    config: RunConfig,
    data: CtrData,
    environment: Environment,
    folder: Path,
    say: Say,
    on_evaluation: OnEvaluation | None = None,
) -> FittedRun:
    """Fit the configured ranker on `data.train`; `folder` is where unfinished training is kept to be resumed.

    Of several processes all call it; what the main one returns knows the AUC on valid.

    Raises
    ------
    UserError
        A fault of the data or the configuration; training that diverges.
    """
    needed: tuple[SplitName, ...] = ("train", "valid")
    for name in needed:
        if name not in data.splits or data.splits[name].label is None:
            raise DataError(f"training needs {name}.parquet with labels", where=data.folder, todo="see data/README.md")
    fit = _fit_neural if config.ranker.neural else _fit_other
    fitted = fit(config, data, environment, folder, say, on_evaluation)
    if not environment.world.main:
        return fitted  # it has helped to train, and that is all
    valid = data.splits["valid"]
    assert valid.label is not None  # noqa: S101 - checked above
    fitted.valid_logits = fitted.predict(valid)
    fitted.valid_auc = auc(valid.label, fitted.valid_logits)
    return fitted


def _fit_neural(
    config: RunConfig,
    data: CtrData,
    environment: Environment,
    folder: Path,
    say: Say,
    on_evaluation: OnEvaluation | None,
) -> Neural:
    import torch

    from track2_mmctr.training.loop import train

    torch.set_num_threads(environment.threads)
    models: list[Ranker] = []
    results: list[Any] = []
    identity = json.dumps([config.ranker.model_dump(mode="json"), config.features.model_dump(mode="json")])
    for number in range(config.train.seeds):
        seed = config.seed + number
        if config.train.seeds > 1:
            say(f"seed {seed}, {number + 1} of {config.train.seeds}")
        torch.manual_seed(seed)
        model = build_ranker(config.ranker, config.features, data.items)
        results.append(
            train(
                model,
                data,
                config.train,
                config.loss,
                max_len=config.data.max_len,
                seed=seed,
                device=environment.device,
                folder=folder / f"seed{seed}",
                say=say,
                world=environment.world,
                on_evaluation=on_evaluation,
                identity=identity,
            )
        )
        models.append(model)
    return Neural(config, models, results, data.items, environment.device)


def _fit_other(
    config: RunConfig,
    data: CtrData,
    environment: Environment,
    folder: Path,
    say: Say,
    on_evaluation: OnEvaluation | None,
) -> Fitted:
    del folder, on_evaluation  # nothing to resume, and one evaluation only
    ranker = build_fitted(config.ranker, config.features)
    ranker.fit(data, max_len=config.data.max_len, seed=config.seed, threads=environment.threads, say=say)
    return Fitted(ranker, data.items, config.data.max_len)


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: the submission and its validation, reports where labels are known, its folder."""

    submission: Path | None
    validation: ValidationReport | None
    reports: dict[SplitName, CtrReport]
    folder: Path


def run(
    config: RunConfig, root: Path, out: Path, environment: Environment, runs: Path, repository: Path, say: Say
) -> RunResult:
    """Run a configuration on a data root and leave a validated submission at `out`, with its local score.

    Raises
    ------
    UserError
        A fault of the data or the configuration.
    """
    with Experiment(
        runs, "track2", config, config.seed, repository=repository, device=environment.device, data=root
    ) as record:
        with record.stage("read data"), main_first(environment.world):
            data = load_data(find_folder(root), config.data, config.features, environment.cache)
        for note in data.notes:
            say(f"note: {note}")
        say(describe(data))
        unfinished = environment.cache / "track2" / "training" / training_key(config, data)
        with record.stage("train"):
            fitted = fit_run(config, data, environment, unfinished, say)
        with record.stage("predict"):
            logits: dict[SplitName, np.ndarray] = {"valid": fitted.valid_logits}
            if "test" in data.splits:
                logits["test"] = fitted.predict(data.splits["test"])
        with record.stage("save"):  # before anything else can fail
            fitted.save(record.folder / "model")
            for name, values in logits.items():
                write_predictions(record.folder, data.splits[name], values)
        remove_unfinished(unfinished)
        with record.stage("submission"):
            validation = submit(config, data, logits, out, record, say)
        with record.stage("score"):
            reports = score(data, logits)
            record.add_metrics({name: report.to_dict() for name, report in reports.items()})
            record.add_metrics({"valid_auc": fitted.valid_auc, "training": fitted.figures()})
        return RunResult(out if validation else None, validation, reports, record.folder)


def describe(data: CtrData) -> str:
    """Return one line on the data: rows of each split, items, what is known of them."""
    rows = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    known = "no embedding" if data.items.embedding is None else f"{data.items.embedding.shape[1]}-d embeddings"
    mean = float(data.train.lengths.mean()) if "train" in data.splits and len(data.train) else 0.0
    return f"rows: {rows}; {len(data.items) - 1:,} items with {known}; {mean:.1f} history items a row"


def training_key(config: RunConfig, data: CtrData) -> str:
    """Return the name of a training run that can be resumed: what it is, and on what."""
    parts = [config.features, config.ranker, config.loss, config.train]
    text = [part.model_dump_json() for part in parts]
    digests = [data.items.digest, *(f"{name} {split.digest}" for name, split in sorted(data.splits.items()))]
    return digest(*text, config.data.max_len, config.seed, *digests)[:24]


def remove_unfinished(folder: Path) -> None:
    """Remove what was kept for resuming, once the model is saved."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def submit(
    config: RunConfig, data: CtrData, logits: dict[SplitName, np.ndarray], out: Path, record: Experiment, say: Say
) -> ValidationReport | None:
    """Write the submission of the test split; None, with a line that says so, without one."""
    test = data.splits.get("test")
    if test is None or test.ids is None:
        say("no test.parquet: no submission")
        return None
    report = write_submission(out, test.ids, sigmoid(logits["test"]), config.submission.task, test.ids)
    record.add_submission(out)
    return report


def score(data: CtrData, logits: dict[SplitName, np.ndarray]) -> dict[SplitName, CtrReport]:
    """Return a report for each split whose labels are known."""
    counts = train_counts(data)
    return {
        name: evaluate(data.splits[name], values, counts)
        for name, values in logits.items()
        if data.splits[name].label is not None
    }
