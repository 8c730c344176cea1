"""One trial of a study: asked for, fitted with its values, told. Where it is fitted is all the same to the study."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import DataError, UserError
from common.hashing import digest
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.tune_space import Space, with_values
from track2_mmctr.tune_study import LIMIT, TrialRow, counted

if TYPE_CHECKING:
    from optuna import Study, Trial

    from track2_mmctr.rankers.base import Environment


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
        say: Callable[[str], None],
        on_evaluation: Callable[[Any], None] | None = None,
    ) -> Fitted:
        """Fit on `data.train`, call `on_evaluation` after each evaluation on valid, return the fitted ranker."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What came of a fit: an AUC, or the error that it failed with; neither: it was pruned."""

    auc: float | None = None
    error: str | None = None


@dataclass
class Asked:
    """A trial under way, at its place in the study."""

    place: int
    trial: Trial
    values: dict[str, Any]
    started: float = field(default_factory=time.monotonic)
    reports: int = 0
    last: int = -1
    first: bool = True

    def report(self, auc: float, step: int) -> bool:
        """Take in an evaluation; return whether the trial is to end here.

        Trials are compared at their n-th evaluation, on the first seed: the next seed's steps start again.
        """
        self.first = self.first and step > self.last
        self.last = step
        if not self.first:
            return False
        self.trial.report(auc, self.reports)
        self.reports += 1
        return self.trial.should_prune()


@dataclass
class Trials:
    """The trials of a study, each at a place of its own, from 0.

    Attributes
    ----------
    together
        Trials run side by side: the sampler then counts those under way as bad ones ("constant liar"), so that it
        does not try about the same values twice.
    """

    study: Study
    space: Space
    together: bool = False

    def places(self, trials: int) -> list[int]:
        """Return the places to fill until the study has `trials` trials."""
        taken = {row.index for row in self.counted()}
        free = (place for place in itertools.count() if place not in taken)
        return list(itertools.islice(free, max(0, trials - len(taken))))

    def counted(self) -> list[TrialRow]:
        """Return the trials that count, by their places."""
        return counted(self.study, self.space)

    def ask(self, place: int) -> Asked:
        """Start the trial of a place: place 0 is the configuration itself.

        The sampler is seeded by the place. What was begun there and lost is begun again with the same values.
        """
        import optuna

        seed = int(digest("sampler", self.space.config.seed, place)[:8], 16)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=self.together)
        state = optuna.trial.TrialState
        waiting = self.study.get_trials(deepcopy=False, states=(state.WAITING,))
        failed = self.study.get_trials(deepcopy=False, states=(state.FAIL,))
        lost = [one for one in failed if _lost(one, place) and len(one.params) == len(self.space.dimensions)]
        if lost and not waiting:
            self.study.enqueue_trial(lost[-1].params)
        elif place == 0 and not waiting:
            self.study.enqueue_trial(self.space.defaults())
        trial = self.study.ask()
        trial.set_user_attr("place", place)
        return Asked(place, trial, self.space.suggest(trial))

    def tell(self, asked: Asked, outcome: Outcome) -> TrialRow:
        """End a trial, which counts from now on; return its row."""
        import optuna

        if outcome.error is not None:
            asked.trial.set_user_attr("error", outcome.error)
        asked.trial.set_user_attr("seconds", round(time.monotonic() - asked.started, 3))
        state = optuna.trial.TrialState
        ended = state.FAIL if outcome.error is not None else state.PRUNED if outcome.auc is None else state.COMPLETE
        self.study.tell(asked.trial, outcome.auc, ended)
        return next(row for row in self.counted() if row.index == asked.place)

    def lose(self, asked: Asked) -> None:
        """End a trial whose process died: a failure without a reason does not count."""
        import optuna

        self.study.tell(asked.trial, None, optuna.trial.TrialState.FAIL)


def _lost(trial: Any, place: int) -> bool:
    return trial.user_attrs.get("place") == place and "error" not in trial.user_attrs


class _Pruned(Exception):
    """The study has ended the trial."""


def conduct(
    fit: Fit,
    config: RunConfig,
    values: Mapping[str, Any],
    data: CtrData,
    environment: Environment,
    work: Path,
    report: Callable[[float, int], bool],
) -> Outcome:
    """Fit the configuration with some values, in the folder `work`, which is removed.

    `report(auc, step)` is called after each evaluation, and says whether to end there. An error of the program goes
    on its way.
    """

    def watch(evaluation: Evaluated) -> None:
        if report(_finite(evaluation.auc, f"the evaluation at step {evaluation.step}"), evaluation.step):
            raise _Pruned

    shutil.rmtree(work, ignore_errors=True)
    try:
        changed = with_values(config, values)
        fitted = fit(changed, data, environment, work, lambda _: None, on_evaluation=watch)
        return Outcome(_finite(fitted.valid_auc, "the fitted ranker"))
    except _Pruned:
        return Outcome()
    except (UserError, MemoryError, RuntimeError) as error:  # kept as a failed trial, with its reason
        return Outcome(error=_reason(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
