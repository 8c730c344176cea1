"""`tune`: search a configuration's declared space with optuna; resumable, pruned, failures kept and shown.

Bergstra et al. 2011 (TPE); the median rule of Golovin et al. 2017 (Vizier) ends trials that fall behind.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.atomic import write_text
from common.config import dump_config
from common.errors import ConfigError, DataError, UserError
from common.hashing import digest, file_digest
from common.progress import bar
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.tune_space import Space, read_space, tunable, with_values
from track2_mmctr.tune_study import (
    LIMIT,
    TrialRow,
    best_of,
    counted,
    describe,
    hanley_mcneil,
    importances,
    locked,
    opened,
    shorten,
)

if TYPE_CHECKING:
    from optuna import Study, Trial

    from track2_mmctr.rankers.base import Environment

Say = Callable[[str], None]


class Evaluated(Protocol):
    """An evaluation on valid while a ranker is trained: `track2_mmctr.training.resume.Evaluation`."""

    @property
    def auc(self) -> float:
        """Valid AUC."""
        ...

    @property
    def step(self) -> int:
        """Optimiser steps so far; with several seeds it starts again for each."""
        ...


class Fitted(Protocol):
    """What a fit leaves."""

    @property
    def valid_auc(self) -> float:
        """Valid AUC of the fitted ranker."""
        ...


class Fit(Protocol):
    """Fits a ranker: `track2_mmctr.pipeline.fit_run`."""

    def __call__(
        self,
        config: RunConfig,
        data: CtrData,
        environment: Environment,
        folder: Path,
        say: Say,
        on_evaluation: Callable[[Any], None] | None = None,
    ) -> Fitted:
        """Fit on `data.train`, call `on_evaluation` after each evaluation on valid, return the fitted ranker."""
        ...


@dataclass(frozen=True)
class TuneResult:
    """The study so far.

    Attributes
    ----------
    rows
        All counted trials, in the order in which they ran.
    own
        Trial 0, where it is the configuration as it stands; None where one of its values lies outside the space.
    best
        The finished trial of the highest valid AUC; the earliest of equals.
    config
        The configuration with the best trial's values, written to `out`.
    importances
        Key -> share of the variation of the AUC (PED-ANOVA); empty where there are too few trials to tell.
    auc_error
        Standard error of the best AUC on these valid rows (Hanley and McNeil 1982); None without labels.
    """

    rows: list[TrialRow]
    own: TrialRow | None
    best: TrialRow
    config: RunConfig
    out: Path
    folder: Path
    importances: dict[str, float]
    auc_error: float | None


def tune(
    config: RunConfig,
    data: CtrData,
    environment: Environment,
    *,
    trials: int,
    out: Path,
    say: Say,
    fit: Fit | None = None,
) -> TuneResult:
    """Try values of `config.tune.space` until `trials` trials are finished in all, and write the best configuration.

    Trial 0 is the configuration itself. The study is kept under `environment.cache`, by a digest of configuration,
    space, data and ranker code: the same call goes on where the last one ended, any other starts a study of its own.
    A trial that was interrupted is not counted and starts again with the same values: each trial's sampler is
    seeded by its place in the study, so that on one machine an interrupted search and an uninterrupted one try
    the same values (as far as training itself is deterministic).

    Parameters
    ----------
    trials
        Trials in the study at the end, finished, pruned and failed ones together.
    out
        YAML of the best configuration; written anew whenever a trial is the best so far.
    fit
        Default: `track2_mmctr.pipeline.fit_run`.

    Raises
    ------
    ConfigError
        The space is faulty (see `read_space`), `trials` is below 1, or torchrun has started several processes.
    DataError
        No trial finished; another process holds the study; the study's file is damaged.
    """
    if trials < 1:
        raise ConfigError("tune needs at least one trial", where="--trials", expected="1 or more", got=trials)
    if environment.world.size > 1:
        raise ConfigError("tune runs in one process", where="torchrun", expected=1, got=environment.world.size)
    space = read_space(config)
    if fit is None:
        from track2_mmctr.pipeline import fit_run

        fit = fit_run
    folder = environment.cache / "track2" / "tune" / study_key(config, data)[:20]
    with locked(folder), opened(folder) as study:
        write_text(folder / "config.yaml", dump_config(config))
        _Search(space, data, environment, folder, out, say, fit, study).run(trials)
        rows = counted(study, space)
        best = best_of(rows)
        if best is None:
            reasons = "\n".join(f"  trial {row.index}: {row.error or row.state}" for row in rows[:5])
            raise DataError(f"none of {len(rows)} trials finished:\n{reasons}", where=folder)
        tuned = _tuned(config, best, len(rows), out)
        write_text(out, dump_config(tuned))
        own = rows[0] if len(space.defaults()) == len(space.dimensions) else None
        return TuneResult(rows, own, best, tuned, out, folder, importances(study), _auc_error(best, data))


def study_key(config: RunConfig, data: CtrData) -> str:
    """Return the digest of what a study rests on: configuration with its space, data, and the ranker's source."""
    from importlib.util import find_spec

    from track2_mmctr.rankers import ranker_place

    module = find_spec(ranker_place(config.ranker)[0])
    source = file_digest(Path(module.origin)) if module is not None and module.origin else None
    text = dump_config(config.model_copy(update={"name": "", "about": ""}))
    splits = [f"{name}:{split.digest}" for name, split in sorted(data.splits.items()) if name != "test"]
    return digest("tune 1", text, data.items.digest, *splits, source)


@dataclass
class _Search:
    """One call's part of a study."""

    space: Space
    data: CtrData
    environment: Environment
    folder: Path
    out: Path
    say: Say
    fit: Fit
    study: Study

    def run(self, trials: int) -> None:
        """Run trials until the study has `trials` of them."""
        done = len(counted(self.study, self.space))
        if done:
            left = max(0, trials - done)
            self.say(f"the study has {done} trials already ({self.folder}), {left} to go")
        for dimension in self.space.dimensions if not done else ():
            if dimension.key not in self.space.defaults():
                value = shorten(tunable(self.space.config)[dimension.key])
                self.say(f"{dimension.key}={value} of the configuration lies outside its space: trial 0 draws another")
        start = time.monotonic()
        with bar("tune", total=trials, unit="trial") as shown:
            shown.update(min(done, trials))
            for index in range(done, trials):
                try:
                    row = self.one(index)
                except KeyboardInterrupt:
                    self.say(f"interrupted: {index} of {trials} trials are kept, the same command goes on")
                    raise
                shown.update()
                minutes = (time.monotonic() - start) / (index + 1 - done) * (trials - index - 1) / 60
                rest = f"; about {minutes:.1f} min to go" if index + 1 < trials else ""
                self.say(f"{describe(row)} ({index + 1} of {trials}{rest})")

    def one(self, index: int) -> TrialRow:
        """Run one trial and return its row; the best configuration is written when this trial is it."""
        import optuna

        seed = int(digest("sampler", self.space.config.seed, index)[:8], 16)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        if index == 0 and not waiting:
            self.study.enqueue_trial(self.space.defaults())
        trial = self.study.ask()
        values = self.space.suggest(trial)
        work = self.folder / "trial"
        shutil.rmtree(work, ignore_errors=True)
        start = time.monotonic()
        try:
            auc = self._objective(trial, values, work)
        except (UserError, MemoryError, RuntimeError) as error:  # kept as a failed trial, with its reason
            trial.set_user_attr("error", _reason(error))
            auc = None
        except optuna.TrialPruned:
            auc = None
        trial.set_user_attr("seconds", round(time.monotonic() - start, 3))
        failed = "error" in trial.user_attrs
        state = optuna.trial.TrialState
        self.study.tell(trial, auc, state.FAIL if failed else state.PRUNED if auc is None else state.COMPLETE)
        shutil.rmtree(work, ignore_errors=True)
        rows = counted(self.study, self.space)
        if best_of(rows) == rows[-1]:
            write_text(self.out, dump_config(_tuned(self.space.config, rows[-1], len(rows), self.out)))
        return rows[-1]

    def _objective(self, trial: Trial, values: dict[str, Any], work: Path) -> float:
        import optuna

        reports, last, first = 0, -1, True

        def watch(evaluation: Evaluated) -> None:
            # Trials are compared at their n-th evaluation, on the first seed: the next seed's steps start again.
            nonlocal reports, last, first
            first = first and evaluation.step > last
            last = evaluation.step
            auc = _finite(evaluation.auc, f"the evaluation at step {last}")
            if first:
                trial.report(auc, reports)
                reports += 1
                if trial.should_prune():
                    raise optuna.TrialPruned

        config = with_values(self.space.config, values)
        fitted = self.fit(config, self.data, self.environment, work, lambda _: None, on_evaluation=watch)
        return _finite(fitted.valid_auc, "the fitted ranker")


def _reason(error: UserError | MemoryError | RuntimeError) -> str:
    """Return why a trial failed; an error of the program is raised again."""
    if isinstance(error, UserError):
        return " ".join(error.what.split())[:LIMIT]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return " ".join(f"out of memory: {error}".split())[:LIMIT]
    raise error


def _finite(auc: float, what: str) -> float:
    if not math.isfinite(auc):
        raise DataError(f"the valid AUC of {what} is {auc}")
    return float(auc)


def _tuned(config: RunConfig, best: TrialRow, trials: int, out: Path) -> RunConfig:
    about = f"{config.name} as tuned: trial {best.index} of {trials}, valid AUC {best.auc:.5f}. {config.about}"
    return with_values(config, best.values).model_copy(update={"name": out.stem, "about": about.strip()})


def _auc_error(best: TrialRow, data: CtrData) -> float | None:
    valid = data.splits.get("valid")
    if valid is None or valid.label is None or best.auc is None:
        return None
    positives = int(valid.label.sum())
    return hanley_mcneil(best.auc, positives, len(valid) - positives)
