"""`tune`: a planted optimum is found; studies resume, prune, keep failures and never mix."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from rich.console import Console

from common.config import load_config
from common.errors import ConfigError, DataError
from common.training.distributed import World
from tests.track2.ctr_files import write_layout
from track2_mmctr.config import CONFIG_FOLDER, FeatureConfig, RangeConfig, RunConfig, TrainConfig, TuneConfig
from track2_mmctr.datasets.tables import CtrData, ItemTable, Split
from track2_mmctr.rankers.base import Environment
from track2_mmctr.tune import TuneResult, study_key, tune
from track2_mmctr.tune_space import read_space, with_values
from track2_mmctr.tune_study import hanley_mcneil
from track2_mmctr.tune_table import render_tune

ROOT = Path(__file__).resolve().parents[2]
LR = {"low": 1e-5, "high": 1e-1, "log": True}
SPACE: dict[str, dict[str, Any]] = {
    "train.learning_rate": LR,
    "features.dim": {"low": 8, "high": 128, "integer": True},
    "ranker.batch_norm": {"choices": [True, False]},
}


def run_config(space: dict[str, dict[str, Any]] | None = None, **changes: Any) -> RunConfig:
    data: dict[str, Any] = {"name": "base", "ranker": {"type": "din"}, "train": {"learning_rate": 0.05}}
    data["tune"] = {"space": SPACE if space is None else space}
    return RunConfig.model_validate(data | changes)


def ctr_data(folder: Path, digest: str = "d") -> CtrData:
    items = ItemTable(
        np.zeros((3, 2), np.int32), np.zeros(3, np.int32), np.zeros(3, np.int32), None, None, 1, digest + "items"
    )
    label = np.array([0, 1] * 50, np.float32)
    one = Split(
        "valid",
        users=np.arange(100),
        history=np.ones(100, np.int32),
        offsets=np.arange(101),
        target=np.full(100, 2, np.int32),
        levels=np.zeros((100, 2), np.int32),
        label=label,
        ids=None,
        digest=digest,
    )
    return CtrData(folder, {"train": one, "valid": one}, items)


@dataclass
class Eval:
    auc: float
    step: int


@dataclass
class Result:
    valid_auc: float


def planted(config: RunConfig) -> float:
    """Best at learning rate 1e-3, dim 64, batch norm: 0.95."""
    away = abs(math.log10(config.train.learning_rate) + 3) / 4 + abs(config.features.dim - 64) / 200
    return 0.95 - 0.2 * away - (0.0 if config.ranker.batch_norm else 0.05)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Stand:
    """A fit that costs nothing. `fail` may raise; `curve` gives the AUCs that are reported on the way."""

    auc: Callable[[RunConfig], float] = planted
    before: Callable[[int, RunConfig], None] = lambda _call, _config: None
    curve: Callable[[RunConfig], list[tuple[float, int]]] = lambda _config: []
    seen: list[RunConfig] = field(default_factory=list)
    folders: list[bool] = field(default_factory=list)
    ended: int = 0

    def __call__(self, config, data, environment, folder, say, on_evaluation=None) -> Result:
        self.seen.append(config)
        self.folders.append(folder.exists())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model").write_text("large")
        self.before(len(self.seen), config)
        for auc, step in self.curve(config):
            on_evaluation(Eval(auc, step))
        self.ended += 1
        return Result(self.auc(config))


def search(
    tmp_path: Path, fit: Any, trials: int, config: RunConfig | None = None, said: list[str] | None = None
) -> TuneResult:
    data, place = ctr_data(tmp_path), Environment("cpu", 1, tmp_path / "cache")
    say = (said if said is not None else []).append
    return tune(config or run_config(), data, place, trials=trials, out=tmp_path / "best.yaml", say=say, fit=fit)


def values(result: TuneResult) -> list[dict[str, Any]]:
    return [row.values for row in result.rows]


# --- the search ---


def test_the_planted_optimum_is_found_and_beats_the_configuration(tmp_path: Path) -> None:
    said: list[str] = []
    result = search(tmp_path, Stand(), 32, said=said)
    own, best = result.rows[0], result.best
    assert own == result.own
    assert own.values == {"train.learning_rate": 0.05, "features.dim": 64, "ranker.batch_norm": True}
    assert own.auc == planted(run_config())
    assert best.auc is not None and best.auc > 0.93 > own.auc + 0.05
    assert best.auc == max(row.auc for row in result.rows if row.auc is not None)
    assert 1e-4 < best.values["train.learning_rate"] < 1e-2 and best.values["ranker.batch_norm"] is True
    assert len(result.rows) == 32 and sum("trial " in line for line in said) == 32


def test_chance_alone_does_worse_than_the_search(tmp_path: Path) -> None:
    """Placebo: an AUC that depends on nothing is not improved by choosing the best trial's values."""
    noise = np.random.default_rng(0)
    result = search(tmp_path, Stand(auc=lambda _: 0.5 + 0.01 * noise.standard_normal()), 20)
    assert planted(result.config) < 0.93


def test_the_same_call_gives_the_same_trials(tmp_path: Path) -> None:
    first = search(tmp_path / "a", Stand(), 13)
    again = search(tmp_path / "b", Stand(), 13)
    assert values(first) == values(again)
    assert (tmp_path / "a" / "best.yaml").read_bytes() == (tmp_path / "b" / "best.yaml").read_bytes()
    other = search(tmp_path / "c", Stand(), 2, run_config(seed=8))
    assert values(other)[1] != values(first)[1]


def test_the_best_configuration_loads_and_is_the_best_trial(tmp_path: Path) -> None:
    result = search(tmp_path, Stand(), 12)
    loaded = load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path)
    assert loaded == result.config
    assert loaded.name == "best" and f"trial {result.best.index} of 12" in loaded.about
    assert planted(loaded) == result.best.auc
    untouched = {"ranker": loaded.ranker, "data": loaded.data, "tune": loaded.tune, "seed": loaded.seed}
    assert untouched == {key: getattr(run_config(), key) for key in untouched} | {"ranker": loaded.ranker}


def test_the_table_has_the_best_the_own_and_the_error(tmp_path: Path) -> None:
    result = search(tmp_path, Stand(), 20)
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(render_tune(result, top=3))
    text = console.export_text()
    assert f"{result.best.auc:.5f}" in text and "trial 0 is the configuration itself" in text
    assert "importance (PED-ANOVA)" in text and "best.yaml" in text
    assert set(result.importances) == set(SPACE) and abs(sum(result.importances.values()) - 1) < 1e-6
    assert result.auc_error == hanley_mcneil(result.best.auc or 0, 50, 50)


def test_hanley_mcneil_is_the_spread_of_the_auc_over_samples() -> None:
    from common.metrics.ctr import auc

    rng = np.random.default_rng(0)
    label = np.arange(300) < 100
    # scores are exponential, the model behind the formula: AUC 3/4 where positives have three times the mean
    found = [auc(label, rng.exponential(np.where(label, 3.0, 1.0))) for _ in range(2000)]
    assert abs(np.mean(found) - 0.75) < 0.005
    assert np.std(found) == pytest.approx(hanley_mcneil(0.75, 100, 200), rel=0.05)
    assert hanley_mcneil(0.75, 0, 10) is None


# --- resuming ---


def test_an_interrupted_study_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", Stand(), 14)

    def stop_at(call: int) -> Callable[[int, RunConfig], None]:
        def stop(number: int, _: RunConfig) -> None:
            if number == call:
                raise KeyboardInterrupt

        return stop

    said: list[str] = []
    for calls in (1, 4, 9):  # within trial 0, then 3, then 11
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "cut", Stand(before=stop_at(calls)), 14, said=said)
    assert "interrupted: 0 of 14 trials are kept" in said[0]
    last = Stand()
    cut = search(tmp_path / "cut", last, 14, said=said)
    assert values(cut) == values(whole) and [r.auc for r in cut.rows] == [r.auc for r in whole.rows]
    assert last.ended == 14 - (0 + 3 + 8)
    assert (tmp_path / "cut" / "best.yaml").read_bytes() == (tmp_path / "whole" / "best.yaml").read_bytes()


def test_an_error_of_the_program_is_not_a_trial(tmp_path: Path) -> None:
    def crash(number: int, _: RunConfig) -> None:
        if number == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(tmp_path, Stand(before=crash), 5)
    assert load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path).about.startswith("base as tuned")
    result = search(tmp_path, Stand(), 5)
    assert [row.state for row in result.rows] == ["finished"] * 5


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.track2.test_tune import Stand, search
def slow(number, _):
    Path({mark!r}).write_text(str(number))
    if number == 4:
        time.sleep(60)
search(Path({folder!r}), Stand(before=slow), 8)
"""


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = CHILD.format(root=str(ROOT), mark=str(mark), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text() == "4"):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(DataError, match="another process works on this study"):
        search(tmp_path, Stand(), 8)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    assert load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path).tune == run_config().tune
    fit = Stand()
    result = search(tmp_path, fit, 8)
    assert len(result.rows) == 8 and fit.ended == 5
    assert values(result) == values(search(tmp_path / "whole", Stand(), 8))
    assert fit.folders[0] is False, "what the killed trial left is not taken for this trial's"


def test_a_finished_study_is_only_shown_and_may_be_extended(tmp_path: Path) -> None:
    search(tmp_path, Stand(), 6)
    (tmp_path / "best.yaml").unlink()
    fit, said = Stand(), []
    result = search(tmp_path, fit, 6, said=said)
    assert not fit.seen and len(result.rows) == 6 and (tmp_path / "best.yaml").is_file()
    assert "6 trials already" in said[0]
    assert search(tmp_path, fit, 3).rows == result.rows
    longer = search(tmp_path, fit, 9)
    assert fit.ended == 3 and longer.rows[:6] == result.rows
    assert not list((tmp_path / "cache").rglob("model")), "models of trials are not kept"


def test_studies_of_other_configurations_data_and_spaces_do_not_mix(tmp_path: Path) -> None:
    base = run_config()
    others = [
        run_config(seed=8),
        run_config({**SPACE, "train.learning_rate": {**LR, "low": 1e-4}}),
        base.model_copy(update={"features": FeatureConfig(dim=32)}),
        base.model_copy(update={"train": TrainConfig(learning_rate=0.05, epochs=2)}),
    ]
    data = ctr_data(tmp_path)
    keys = {study_key(config, data) for config in [base, *others]} | {study_key(base, ctr_data(tmp_path, "e"))}
    assert len(keys) == 6
    renamed = base.model_copy(update={"name": "other", "about": "said differently"})
    assert study_key(renamed, data) == study_key(base, data)
    first = search(tmp_path, Stand(), 3)
    fit = Stand()
    second = search(tmp_path, fit, 3, others[2])
    assert fit.ended == 3 and second.rows[0].values["features.dim"] == 32 and first.folder != second.folder


def test_an_edited_ranker_starts_a_study_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edited"
    package.mkdir()
    (package / "mine.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setitem(__import__("track2_mmctr.rankers").rankers.RANKERS, "din", "mine:Mine")
    before = study_key(run_config(), ctr_data(tmp_path))
    (package / "mine.py").write_text("x = 2\n")
    assert study_key(run_config(), ctr_data(tmp_path)) != before


def test_a_damaged_study_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = search(tmp_path, Stand(), 2).folder
    (folder / "study.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match="cannot be read or written") as error:
        search(tmp_path, Stand(), 2)
    assert "remove the folder" in str(error.value)


def test_a_folder_with_odd_characters_holds_a_study(tmp_path: Path) -> None:
    home = tmp_path / "a?b=c%20d #e"
    home.mkdir()
    assert (search(home, Stand(), 2).folder / "study.db").is_file()


def test_a_held_study_is_refused(tmp_path: Path) -> None:
    folder = search(tmp_path, Stand(), 2).folder
    with FileLock(folder / "lock"), pytest.raises(DataError, match="another process"):
        search(tmp_path, Stand(), 4)


# --- pruning and failures ---


def curve(config: RunConfig) -> list[tuple[float, int]]:
    return [(planted(config) - 0.05 + 0.01 * n, 10 * n) for n in range(5)]


def test_a_bad_trial_is_pruned_and_a_good_one_is_not(tmp_path: Path) -> None:
    fit = Stand(curve=curve)
    result = search(tmp_path, fit, 20)
    pruned = [row for row in result.rows if row.state == "pruned"]
    finished = [row for row in result.rows if row.state == "finished"]
    assert pruned and fit.ended == len(finished) == 20 - len(pruned)
    assert all(row.index >= 5 for row in pruned), "five trials are needed for a median"
    assert result.best in finished
    for row in pruned:
        earlier = [planted(with_values(run_config(), r.values)) for r in finished if r.index < row.index]
        assert planted(with_values(run_config(), row.values)) < np.median(earlier)


def test_the_second_seed_is_not_compared_with_the_first(tmp_path: Path) -> None:
    """The second seed's AUCs, at steps that start again, would prune each trial if they were taken for later ones."""
    stand = Stand(auc=lambda _: 0.9, curve=lambda _: [(0.8, 1), (0.85, 2), (0.9, 3), (0.1, 1), (0.1, 2), (0.1, 9)])
    result = search(tmp_path, stand, 9)
    assert {row.state for row in result.rows} == {"finished"}
    # the same figures as the first seed's own evaluations do prune
    falling = iter(range(100))
    slow = Stand(auc=lambda _: 0.9, curve=lambda _: [(0.8, 1), (0.5 - 0.01 * next(falling), 2)])
    states = [row.state for row in search(tmp_path / "b", slow, 9).rows]
    assert states == ["finished"] * 9, "the best value so far counts, as the median rule has it"
    sinking = Stand(auc=lambda _: 0.9, curve=lambda _: [(0.8 - 0.01 * next(falling), 1)])
    assert [row.state for row in search(tmp_path / "c", sinking, 7).rows] == ["finished"] * 5 + ["pruned"] * 2


def test_failed_trials_are_kept_shown_and_passed_over(tmp_path: Path) -> None:
    def fail(number: int, _: RunConfig) -> None:
        if number == 2:
            raise DataError("the GPU is too small", todo="x")

    fit = Stand(before=fail, auc=lambda config: math.nan if len(fit.seen) == 3 else planted(config))
    said: list[str] = []
    result = search(tmp_path, fit, 5, said=said)
    states = [row.state for row in result.rows]
    assert states == ["finished", "failed", "failed", "finished", "finished"]
    assert result.rows[1].error == "the GPU is too small" and "is nan" in str(result.rows[2].error)
    assert "failed: the GPU is too small" in said[1]
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(render_tune(result))
    assert "trial 1 failed: the GPU is too small" in console.export_text()
    fit.seen.clear()
    assert search(tmp_path, Stand(), 5).rows == result.rows, "a failed trial counts and is not run again"


def test_a_trial_that_needs_too_much_memory_is_a_failed_one(tmp_path: Path) -> None:
    def fail(number: int, _: RunConfig) -> None:
        if number == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if number == 3:
            raise MemoryError
        if number == 4:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        search(tmp_path, Stand(before=fail), 4)
    states = [row.state for row in search(tmp_path, Stand(), 4).rows]
    assert states == ["finished", "failed", "failed", "finished"]


def test_a_nan_on_the_way_is_a_failed_trial(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 2 trials finished") as error:
        search(tmp_path, Stand(curve=lambda _: [(math.nan, 7)]), 2)
    assert "evaluation at step 7 is nan" in str(error.value)
    assert not (tmp_path / "best.yaml").exists()


def test_a_combination_that_the_configuration_refuses_is_a_failed_trial(tmp_path: Path) -> None:
    def refuse(_: int, config: RunConfig) -> None:
        if config.features.dim > 64:
            raise ConfigError("dim and heads do not go together")

    result = search(tmp_path, Stand(before=refuse), 12)
    for row in result.rows:
        assert (row.state == "failed") == (row.values["features.dim"] > 64)


# --- the space ---


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to tune"),
        ({"train.learning_rat": LR}, "did you mean 'train.learning_rate'"),
        ({"learning_rate": LR}, "did you mean 'train.learning_rate'"),
        ({"ranker.leaves": {"low": 2, "high": 9, "integer": True}}, "unknown key 'ranker.leaves'"),
        ({"submission.task": {"choices": ["Task1", "Task2"]}}, "no bearing"),
        ({"features.embedding": {"choices": ["auto", "none"]}}, "how the data is read"),
        ({"name": {"choices": ["a", "b"]}}, "no bearing"),
        ({"tune.space": {"choices": ["a", "b"]}}, "no bearing"),
        ({"train.learning_rate": {"low": 0.1, "high": 0.01}}, "low below high"),
        ({"train.learning_rate": {"low": 0.1}}, "needs low and high"),
        ({"train.learning_rate": {}}, "needs low and high"),
        ({"train.learning_rate": {"low": 0, "high": 1, "log": True}}, "cannot be|above 0"),
        ({"train.learning_rate": {"low": -1, "high": 1}}, "greater than 0"),
        ({"train.learning_rate": {"low": 1e-4, "high": float("inf")}}, "finite"),
        ({"train.learning_rate": {"low": 1e-4, "high": 1, "choices": [0.1, 0.2]}}, "either choices or a range"),
        ({"train.learning_rate": {"choices": [0.1, 0.1]}}, "given twice"),
        ({"train.learning_rate": {"choices": [0.1, "0.1"]}}, "given twice"),
        ({"train.learning_rate": {"choices": [0.1]}}, "nothing to choose"),
        ({"train.learning_rate": {"choices": []}}, "nothing to choose"),
        ({"train.learning_rate": {"choices": [0.1, "fast"]}}, "cannot be 'fast'"),
        ({"features.dim": {"low": 8, "high": 64}}, "valid integer"),
        ({"features.dim": {"low": 8.5, "high": 64, "integer": True}}, "whole ends"),
        ({"features.dim": {"low": 0, "high": 64, "integer": True}}, "greater than or equal to 1"),
        ({"ranker.net_dropout": {"low": 0, "high": 1}}, "less than 1"),
        ({"ranker.batch_norm": {"low": 0, "high": 1, "integer": True}}, "a switch has choices"),
        ({"ranker.type": {"choices": ["din", "gbdt"]}}, "ranker.type cannot be 'gbdt'"),
        ({"ranker.hidden_units": {"choices": ["[64]", "[64, x]"]}}, "valid integer"),
    ],
)
def test_a_faulty_space_is_refused_before_the_first_trial(
    tmp_path: Path, space: dict[str, dict[str, Any]], message: str
) -> None:
    fit = Stand()
    with pytest.raises(ConfigError, match=message):
        search(tmp_path, fit, 3, run_config(space))
    assert not fit.seen and not (tmp_path / "cache").exists()


def test_no_trials_and_several_processes_are_refused(tmp_path: Path) -> None:
    several = Environment("cpu", 1, tmp_path, World(0, 2))
    with pytest.raises(ConfigError, match="one process"):
        tune(run_config(), ctr_data(tmp_path), several, trials=1, out=tmp_path / "x.yaml", say=print, fit=Stand())
    with pytest.raises(ConfigError, match="at least one trial"):
        search(tmp_path, Stand(), 0)


def test_a_range_of_floats_over_integers_says_how_to_mend_it() -> None:
    with pytest.raises(ConfigError, match="integer: true"):
        read_space(run_config({"features.dim": {"low": 8, "high": 64}}))


def test_lists_texts_and_numbers_are_choices_as_the_configuration_knows_them(tmp_path: Path) -> None:
    space = {
        "ranker.hidden_units": {"choices": ["[64]", "[128, 64]"]},
        "train.schedule.type": {"choices": ["cosine", "constant"]},
        "train.batch_size": {"choices": [256, "512"]},
    }
    fit = Stand(auc=lambda c: 0.5 + 0.1 * len(c.ranker.hidden_units))  # pyright: ignore[reportAttributeAccessIssue]
    said: list[str] = []
    result = search(tmp_path, fit, 12, run_config(space), said)
    assert {tuple(c.ranker.hidden_units) for c in fit.seen} == {(64,), (128, 64)}  # pyright: ignore[reportAttributeAccessIssue]
    assert {c.train.batch_size for c in fit.seen} == {256, 512}
    assert {c.train.schedule.type for c in fit.seen} == {"cosine", "constant"}
    assert result.best.values["ranker.hidden_units"] == [128, 64]
    assert result.own is None and any(
        "ranker.hidden_units=[1024, 512, 256] of the configuration lies outside" in s for s in said
    )
    assert load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path) == result.config


def test_every_tunable_key_of_a_configuration_keeps_its_value() -> None:
    """Setting a key to its own value changes nothing, for all keys."""
    from track2_mmctr.tune_space import tunable

    config = run_config()
    for key, value in tunable(config).items():
        assert with_values(config, {key: value}) == config
    assert {"seed", "data.max_len", "ranker.hidden_units", "train.schedule.factor", "loss.pairwise"} <= set(
        tunable(config)
    )


def test_the_space_keeps_its_order_and_types() -> None:
    space = read_space(run_config())
    assert [d.key for d in space.dimensions] == list(SPACE)
    assert space.defaults() == {"train.learning_rate": 0.05, "features.dim": 64, "ranker.batch_norm": True}
    text = TuneConfig(space={"train.learning_rate": RangeConfig.model_validate({"low": "1e-4", "high": "1e-2"})})
    assert read_space(run_config().model_copy(update={"tune": text})).defaults() == {}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml")))
def test_the_spaces_of_the_shipped_configurations_hold_and_hold_their_own_values(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    if config.tune.space:
        space = read_space(config)
        assert set(space.defaults()) == set(config.tune.space), "trial 0 is the configuration itself"


# --- the real fit ---


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    write_layout(folder, items=40, rows=600, eval_rows=200)
    return folder


@pytest.mark.parametrize(
    ("ranker", "space"),
    [
        ({"type": "popularity"}, {"ranker.smoothing": {"low": 1, "high": 1000, "log": True}}),
        (
            {"type": "din", "attention_units": [16], "hidden_units": [16]},
            {"train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "data.max_len": {"choices": [4, 8, 64]}},
        ),
    ],
)
def test_real_rankers_are_tuned(
    tmp_path: Path, layout: Path, ranker: dict[str, Any], space: dict[str, dict[str, Any]]
) -> None:
    from track2_mmctr.datasets.microlens import load_data
    from track2_mmctr.pipeline import fit_run

    data_ = {"train": {"epochs": 2, "batch_size": 128}, "features": {"dim": 4}, "ranker": ranker}
    config = run_config(space, **data_)
    data = load_data(layout, config.data, config.features, tmp_path / "cache")
    place = Environment("cpu", 1, tmp_path / "cache")
    result = tune(config, data, place, trials=2, out=tmp_path / "best.yaml", say=lambda _: None)
    assert [row.state for row in result.rows] == ["finished"] * 2
    assert result.rows[0].values != result.rows[1].values
    best = load_config(RunConfig, str(tmp_path / "best.yaml"), tmp_path)
    assert fit_run(best, data, place, tmp_path / "again", lambda _: None).valid_auc == result.best.auc
