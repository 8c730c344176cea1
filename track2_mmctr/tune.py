"""`tune`: search a configuration's declared space with optuna; resumable, pruned, failures kept and shown.

Bergstra et al. 2011 (TPE); the median rule of Golovin et al. 2017 (Vizier) ends trials that fall behind.

Several workers go on optuna's own ask-and-tell and its storage rather than on Ray Tune: the study that one process
made is continued by several and the other way round, and resuming, pruning and counting are the same code.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import write_text
from common.config import dump_config
from common.errors import ConfigError, DataError
from common.hashing import digest, file_digest
from common.progress import bar
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.tune_space import read_space, tunable, with_values
from track2_mmctr.tune_study import (
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
from track2_mmctr.tune_trial import Asked, Fit, Outcome, Trials, conduct
from track2_mmctr.tune_workers import Equipment, Report, Workers

if TYPE_CHECKING:
    from track2_mmctr.rankers.base import Environment

Say = Callable[[str], None]
DEATHS = 2
"""Workers that may die at one trial before it counts as failed."""


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
    workers: int = 1,
    load: Callable[[], CtrData] | None = None,
) -> TuneResult:
    """Try values of `config.tune.space` until `trials` trials are finished in all, and write the best configuration.

    Trial 0 is the configuration itself. The study is kept under `environment.cache`, by a digest of configuration,
    space, data and ranker code: the same call goes on where the last one ended, any other starts a study of its own.
    A trial that was interrupted is not counted and starts again with the same values: each trial's sampler is
    seeded by its place in the study, so that on one machine an interrupted search and an uninterrupted one try
    the same values (as far as training itself is deterministic).

    With several workers a trial's place still decides the sampler's seed, and its values the outcome, whichever worker
    fits it. What the sampler knows when it is asked depends on which trials have ended by then: the first ten places,
    drawn at random, have always the same values; later ones, and what is pruned, may differ from one search to another.

    Parameters
    ----------
    workers
        Processes that fit trials side by side, each with its part of the threads and the data in its own memory
        (packed splits are mapped, and so shared). One that dies is replaced, and its trial run again, once.
    load
        Reads the data in a worker; default: as this process did, from `data.folder`.
    trials
        Trials in the study at the end, finished, pruned and failed ones together.
    out
        YAML of the best configuration; written anew whenever a trial is the best so far.
    fit
        Default: `track2_mmctr.pipeline.fit_run`.

    Raises
    ------
    ConfigError
        The space is faulty (see `read_space`), `trials` or `workers` is below 1, or torchrun has started several
        processes.
    DataError
        No trial finished; another process holds the study; the study's file is damaged.
    """
    if trials < 1:
        raise ConfigError("tune needs at least one trial", where="--trials", expected="1 or more", got=trials)
    if workers < 1:
        raise ConfigError("tune needs a worker", where="--workers", expected="1 or more", got=workers)
    if environment.world.size > 1:
        todo = "start it without torchrun; several processes: --workers N"
        raise ConfigError(
            "tune starts in one process", where="torchrun", expected=1, got=environment.world.size, todo=todo
        )
    space = read_space(config)
    if fit is None:
        from track2_mmctr.pipeline import fit_run

        fit = fit_run
    folder = environment.cache / "track2" / "tune" / study_key(config, data)[:20]
    with locked(folder), opened(folder) as study:
        write_text(folder / "config.yaml", dump_config(config))
        share = replace(environment, threads=max(1, environment.threads // workers))
        read = load or partial(_load, config, data.folder, environment.cache, study_key(config, data))
        _Search(Trials(study, space, workers > 1), data, share, folder, out, say, fit).run(trials, workers, read)
        rows = counted(study, space)
        best = best_of(rows)
        if best is None:
            reasons = "\n".join(f"  trial {row.index}: {row.error or row.state}" for row in rows[:5])
            raise DataError(f"none of {len(rows)} trials finished:\n{reasons}", where=folder)
        tuned = _tuned(config, best, len(rows), out)
        write_text(out, dump_config(tuned))
        own = rows[0] if rows[0].index == 0 and len(space.defaults()) == len(space.dimensions) else None
        return TuneResult(rows, own, best, tuned, out, folder, importances(study), _auc_error(best, data))


def _load(config: RunConfig, folder: Path, cache: Path, key: str) -> CtrData:
    """Read the data as the search has it."""
    from track2_mmctr.datasets.microlens import load_data

    data = load_data(folder, config.data, config.features, cache)
    if study_key(config, data) != key:
        raise DataError("the data is no longer what the search began with", where=folder, todo="start the search again")
    return data


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

    trials: Trials
    data: CtrData
    environment: Environment
    folder: Path
    out: Path
    say: Say
    fit: Fit

    def run(self, trials: int, workers: int, load: Callable[[], CtrData]) -> None:
        """Run trials until the study has `trials` of them."""
        space, self.start = self.trials.space, time.monotonic()
        self.done, self.places = len(self.trials.counted()), self.trials.places(trials)
        if self.done:
            self.say(f"the study has {self.done} trials already ({self.folder}), {len(self.places)} to go")
        for dimension in space.dimensions if not self.done else ():
            if dimension.key not in space.defaults():
                value = shorten(tunable(space.config)[dimension.key])
                self.say(f"{dimension.key}={value} of the configuration lies outside its space: trial 0 draws another")
        with bar("tune", total=trials, unit="trial") as shown:
            shown.update(min(self.done, trials))
            try:
                for row in self._side_by_side(workers, load) if workers > 1 else self._in_turn():
                    shown.update()
                    self._tell(row, trials)
            except KeyboardInterrupt:
                kept = len(self.trials.counted())
                self.say(f"interrupted: {kept} of {trials} trials are kept, the same command goes on")
                raise

    def _in_turn(self) -> Iterator[TrialRow]:
        """Run the trials in this process; yield their rows."""
        for place in self.places:
            asked, work = self.trials.ask(place), self.folder / "trial"
            config = self.trials.space.config
            outcome = conduct(self.fit, config, asked.values, self.data, self.environment, work, asked.report)
            yield self.trials.tell(asked, outcome)

    def _side_by_side(self, workers: int, load: Callable[[], CtrData]) -> Iterator[TrialRow]:
        """Run the trials in several processes; yield their rows as they end."""
        equipment = Equipment(self.fit, self.trials.space.config, load, self.environment, self.folder)
        waiting, under_way, deaths = deque(self.places), dict[int, Asked](), Counter[int]()
        with Workers(equipment, min(workers, len(waiting))) as pool:
            while waiting or under_way:
                while waiting and pool.free:
                    asked = self.trials.ask(waiting.popleft())
                    under_way[asked.place] = asked
                    pool.give(asked.place, asked.values)
                for event in pool.events():
                    asked = under_way[event.place]
                    if isinstance(event, Report):
                        pool.answer(event.place, asked.report(event.auc, event.step))
                        continue
                    del under_way[event.place]
                    deaths[event.place] += event.outcome is None
                    if event.outcome is not None:
                        yield self.trials.tell(asked, event.outcome)
                    elif deaths[event.place] == DEATHS:
                        why = f"{DEATHS} processes died of it: does memory suffice?"
                        yield self.trials.tell(asked, Outcome(error=why))
                    else:
                        self.trials.lose(asked)
                        waiting.appendleft(event.place)
                        self.say(f"trial {event.place}: its process died; it is run again with the same values")

    def _tell(self, row: TrialRow, trials: int) -> None:
        """Say what came of a trial, and write the best configuration when the trial is it."""
        rows = self.trials.counted()
        if best_of(rows) == row:
            write_text(self.out, dump_config(_tuned(self.trials.space.config, row, len(rows), self.out)))
        left = trials - len(rows)
        minutes = (time.monotonic() - self.start) / (len(rows) - self.done) * left / 60
        rest = f"; about {minutes:.1f} min to go" if left > 0 else ""
        self.say(f"{describe(row)} ({len(rows)} of {trials}{rest})")


def _tuned(config: RunConfig, best: TrialRow, trials: int, out: Path) -> RunConfig:
    about = f"{config.name} as tuned: trial {best.index} of {trials}, valid AUC {best.auc:.5f}. {config.about}"
    return with_values(config, best.values).model_copy(update={"name": out.stem, "about": about.strip()})


def _auc_error(best: TrialRow, data: CtrData) -> float | None:
    valid = data.splits.get("valid")
    if valid is None or valid.label is None or best.auc is None:
        return None
    positives = int(valid.label.sum())
    return hanley_mcneil(best.auc, positives, len(valid) - positives)
