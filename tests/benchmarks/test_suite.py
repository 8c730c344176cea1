"""`python -m benchmarks`: arithmetic of the table, targets, failures as rows, resuming, saved runs, a real tiny run."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.suite.alone import MeasureError, run_alone
from benchmarks.suite.catalogue import WORKS, chosen
from benchmarks.suite.command import compare_runs
from benchmarks.suite.fit import grow
from benchmarks.suite.growth import Stage, line_of, render_growth
from benchmarks.suite.journal import Journal, load_run, save_run
from benchmarks.suite.run import eta, measure, run_works
from benchmarks.suite.stages import STAGES
from benchmarks.suite.table import render, rows_of, verdict
from benchmarks.suite.targets import TARGETS, Target
from benchmarks.suite.work import Context, Figure, Found, System, Work
from common.errors import ConfigError, DataError

FAKES = "tests.benchmarks.fakes"
RATE = Figure("run", "running", "things/s")
TIME = Figure("run", "running", "ms", per="time", scale=1000)
MACHINE = {"cpu": "a cpu", "cores": 2, "memory_gb": 1.0, "versions": {}, "git": None, "code": "0"}


def sample(amount: float, seconds: float, cpu: float | None = None, peak: int = 10**9, **facts: float) -> dict:
    return {"figures": {"run": {"amount": amount, "seconds": seconds, "cpu": cpu}}, "facts": facts, "peak": peak}


def steady(name: str, *, peer: bool = False, against: tuple[str, ...] = (), **arguments: float) -> System:
    return System(name, name, f"{FAKES}:steady", arguments, against, peer=peer)


def work(*systems: System, figure: Figure = RATE, repeats: int = 1, **more: object) -> Work:
    return Work("w", "a work", (figure,), systems, repeats=repeats, **more)  # type: ignore[arg-type]


# --- arithmetic ---


@pytest.mark.parametrize(("figure", "value"), [(RATE, 50.0), (TIME, 20.0)])
def test_the_ratio_is_how_much_faster_ours_is_whatever_is_shown(figure: Figure, value: float) -> None:
    made = work(steady("peer", peer=True), steady("ours", against=("peer",)), figure=figure)
    found = [Found("w", "peer", [sample(100, 8.0, 6.0, 3 * 10**9)]), Found("w", "ours", [sample(100, 2.0, 3.0)])]
    (row,) = rows_of(made, found, judged=False)
    assert row.value == value and row.times == 4 and row.times_cpu == 2
    assert (row.peak, row.peer_peak) == (10**9, 3 * 10**9)


def test_the_best_of_the_samples_counts() -> None:
    found = Found("w", "ours", [sample(100, 4.0), sample(100, 2.0), sample(100, 5.0)])
    assert found.best(RATE) == 50 and found.best(TIME) == 20


def test_a_figure_that_was_not_measured_is_no_number() -> None:
    made = work(steady("peer", peer=True), steady("ours", against=("peer",)))
    peer = Found("w", "peer", skipped="not installed: peer")
    (row,) = rows_of(made, [peer, Found("w", "ours", [sample(1, 1.0)])], judged=False)
    assert math.isnan(row.times) and math.isnan(row.peer_value) and row.value == 1
    assert "peer skipped: not installed: peer" in render([row])


# --- growth ---


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_planted_power_law_is_found(exponent: float) -> None:
    sizes = [1000, 4000, 16000]
    found = grow(sizes, [3e-4 * n**exponent for n in sizes])
    assert found.exponent == pytest.approx(exponent) and found.error == pytest.approx(0, abs=1e-6)
    assert found.slopes == pytest.approx((exponent, exponent))
    assert found.steep == (exponent > 1.15)


def test_a_fixed_cost_does_not_hide_quadratic_growth() -> None:
    sizes = [10, 40, 160]
    found = grow(sizes, [2 + 0.001 * n**2 for n in sizes])
    assert found.exponent < 1.15 and found.slopes[-1] > 1.15 and found.error > 0.1
    assert found.steep


def test_the_standard_error_is_that_of_least_squares() -> None:
    import numpy as np

    sizes, values = [1.0, 4.0, 16.0], [1.0, 5.0, 14.0]
    x, y = np.log(sizes), np.log(values)
    fitted, covariance = np.polyfit(x, y, 1, cov="unscaled")
    residual = ((y - np.polyval(fitted, x)) ** 2).sum() / (len(x) - 2)
    found = grow(sizes, values)
    assert found.exponent == pytest.approx(fitted[0])
    assert found.error == pytest.approx(math.sqrt(residual * covariance[0, 0]))


def test_points_without_a_value_are_left_out() -> None:
    assert grow([1, 4, 16], [0.0, 4.0, 16.0]).exponent == pytest.approx(1)
    assert math.isnan(grow([1, 4, 16], [math.nan, 0.0, 16.0]).exponent)


def test_a_steep_stage_is_flagged_with_its_reason(tmp_path: Path) -> None:
    stage = Stage("s", f"{FAKES}:steady", "things", (10, 10, 10), "every thing looks at all others")
    made = stage.work(Context("full", tmp_path))

    def found(power: int) -> list[Found]:
        return [Found(made.name, f"{n}x", [sample_of("stage", n**power, 2**20 * (10 + n))]) for n in (10, 40, 160)]

    def sample_of(name: str, cpu: float, peak: int) -> dict:
        return {"figures": {name: {"amount": 1, "seconds": 1.0, "cpu": cpu}}, "facts": {}, "peak": peak, "base": 0}

    steep, flat = line_of(stage, made, found(2)), line_of(stage, made, found(1))
    assert steep.time_growth.exponent == pytest.approx(2) and flat.time_growth.exponent == pytest.approx(1)
    assert "time above 1: every thing looks at all others" in render_growth([steep])
    assert "above" not in render_growth([flat])
    assert (
        line_of(stage, made, [Found("s", f"{n}x", error="it broke") for n in (1, 4, 16)]).remark
        == "FAILED at 1x: it broke"
    )


# --- targets ---


def judged(target: Target, ours: dict, peer: dict | None) -> bool | None:
    figure = TIME if target.kind == "most" else RATE
    return target.met(figure, Found("w", "a", [ours]), Found("w", "b", [peer]) if peer else None)


def test_targets_are_judged_at_their_limit() -> None:
    times = Target("w", "a", "run", "times", 8.0, "b")
    assert judged(times, sample(8, 1.0), sample(1, 1.0)) is True
    assert judged(times, sample(7.9, 1.0), sample(1, 1.0)) is False
    assert judged(times, sample(8, 1.0), None) is None
    most = Target("w", "a", "run", "most", 10.0)
    assert judged(most, sample(1, 0.010), None) is True and judged(most, sample(1, 0.0101), None) is False
    near = Target("w", "a", "run", "near", 0.5, "b", fact="recall")
    assert judged(near, sample(1, 1, recall=52.0), sample(1, 1, recall=52.5)) is True
    assert judged(near, sample(1, 1, recall=51.9), sample(1, 1, recall=52.5)) is False
    assert judged(near, sample(1, 1, recall=60.0), sample(1, 1, recall=52.5)) is True
    assert judged(near, sample(1, 1), sample(1, 1, recall=52.5)) is None


def test_every_target_belongs_to_a_figure_of_the_full_run(tmp_path: Path) -> None:
    works = {name: make(Context("full", tmp_path, tmp_path)) for name, make in WORKS.items()}
    for target in TARGETS:
        made = works[target.work]
        systems = {system.name: system for system in made.systems}
        assert target.figure in {figure.name for figure in made.figures}
        assert not systems[target.system].peer
        assert target.peer is None or target.peer in systems[target.system].against


def test_a_missed_target_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.suite.targets.TARGETS", (Target("w", "ours", "run", "most", 10.0),))
    made = work(steady("ours"), figure=TIME)
    for seconds, code, word in ((0.009, 0, "1 met, 0 missed"), (0.011, 1, "0 met, 1 missed")):
        found = {"w": [Found("w", "ours", [sample(1, seconds)])]}
        rows = rows_of(made, found["w"], judged=True)
        line, got = verdict(rows, found)
        assert got == code and word in line
    assert rows_of(made, found["w"], judged=False)[0].targets == []


# --- what is asked for ---


@pytest.mark.parametrize("size", ["full", "quick", "tiny"])
def test_every_call_is_a_function_with_these_arguments(tmp_path: Path, size: str) -> None:
    context = Context(size, tmp_path, tmp_path)  # type: ignore[arg-type]
    works = [make(context) for make in WORKS.values()] + [stage.work(context) for stage in STAGES.values()]
    for made in works:
        names = [system.name for system in made.systems]
        assert len(names) == len(set(names))
        for system in (*made.systems, *filter(None, [made.prepare])):
            module, _, function = system.call.partition(":")
            called = getattr(importlib.import_module(module), function)
            inspect.signature(called).bind(**system.arguments)
            json.dumps(system.arguments)  # they go through a command line
            assert {*system.against} <= {one.name for one in made.systems if one.peer}


def test_an_unknown_work_is_named() -> None:
    assert chosen("din, trie", list(WORKS)) == ["din", "trie"] and chosen(None, ["a", "b"]) == ["a", "b"]
    with pytest.raises(ConfigError, match="no such work: dinn"):
        chosen("din,dinn", list(WORKS))


# --- processes ---


def test_systems_run_in_turn_after_one_preparation(tmp_path: Path) -> None:
    folder = str(tmp_path)
    systems = [System(name, name, f"{FAKES}:counted", {"folder": folder, "name": name}) for name in ("a", "b")]
    once = System("c", "c", f"{FAKES}:counted", {"folder": folder, "name": "c"}, repeats=1)
    prepare = System("p", "p", f"{FAKES}:prepared", {"folder": folder})
    found = measure(work(*systems, once, repeats=2, prepare=prepare), tmp_path)
    assert (tmp_path / "ran.txt").read_text().split() == ["prepare", "a", "b", "c", "a", "b"]
    assert [len(one.samples) for one in found] == [2, 2, 1]
    assert all(one.samples[0]["peak"] > 10**6 for one in found)


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    made = work(
        System("bad", "bad", f"{FAKES}:failing"),
        System("gone", "gone", f"{FAKES}:no_such_function"),
        System("absent", "absent", f"{FAKES}:steady", needs=("no_such_package",)),
        steady("ours", amount=10, seconds=2.0),
        repeats=2,
    )
    said: list[str] = []
    found = {"w": measure(made, tmp_path, said.append)}
    rows = rows_of(made, found["w"], judged=False)
    table = render(rows)
    assert "bad FAILED: exit code 1: DataError: the vectors are too short" in table
    assert "no_such_function" in table and "absent skipped: not installed: no_such_package" in table
    assert [row.value for row in rows if row.ours == "ours"] == [5.0]
    assert verdict(rows, found) == ("4 systems measured, 2 failed", 1)
    assert len(said) == 2


def ends(pid: int) -> bool:
    """Whether a process is gone within some seconds; it is ended if not."""
    for _ in range(200):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except OSError:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_hanging_measurement_ends_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="no result after 2 s"):
        run_alone(f"{FAKES}:hanging", {"folder": str(tmp_path)}, timeout=2.0)
    assert ends(int((tmp_path / "pid").read_text()))


def test_nothing_goes_on_measuring_for_a_killed_run(tmp_path: Path) -> None:
    call = f"run_alone({FAKES + ':hanging'!r}, {{'folder': {str(tmp_path)!r}}}, timeout=600)"
    command = [sys.executable, "-c", f"from benchmarks.suite.alone import run_alone; {call}"]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert ends(int((tmp_path / "pid").read_text()))


def test_memory_is_that_of_the_measurement_alone() -> None:
    small, large = (run_alone(f"{FAKES}:large", {"megabytes": n}, timeout=60) for n in (1, 200))
    assert 180 < (large["peak"] - small["peak"]) / 2**20 < 220
    assert run_alone(f"{FAKES}:parent_of_large", {"megabytes": 200}, timeout=60)["peak"] < 150 * 2**20
    assert run_alone(f"{FAKES}:parent_of_large", {"megabytes": 200}, timeout=60, tree=True)["peak"] > 200 * 2**20


# --- going on, saving, comparing ---


def test_a_stopped_run_goes_on_and_tries_failures_again(tmp_path: Path) -> None:
    folder = str(tmp_path)
    (tmp_path / "broken").touch()

    def one(name: str, system: System) -> Work:
        return Work(name, name, (RATE,), (system,), repeats=1)

    works = [
        one("good", System("a", "a", f"{FAKES}:counted", {"folder": folder, "name": "good"})),
        one("flaky", System("b", "b", f"{FAKES}:flaky", {"folder": folder})),
    ]
    context, said = Context("tiny", tmp_path), []
    journal = Journal(tmp_path / "journal.jsonl", "code 1")
    first = run_works(works, context, journal, said.append)
    assert first["flaky"][0].error == "exit code 1: RuntimeError: broken for now"
    (tmp_path / "broken").unlink()
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    second = run_works(works, context, journal, said.append)
    assert (tmp_path / "ran.txt").read_text().split() == ["good", "flaky"]
    assert second["good"] == first["good"] and second["flaky"][0].error is None
    assert any("kept: good" in line for line in said)
    run_works(works, context, Journal(tmp_path / "journal.jsonl", "code 2"), said.append)
    run_works(works[:1], context, journal, said.append, again=True)
    assert (tmp_path / "ran.txt").read_text().split() == ["good", "flaky", "good", "flaky", "good"]


def test_the_time_left_is_that_of_the_last_time() -> None:
    done, left = work(steady("a")), Work("v", "v", (RATE,), (steady("b"), steady("c")), repeats=1)
    assert eta([left], [done], {"v": 90.0}, 10.0) == "0:10 so far, about 1:30 left"
    assert eta([left], [done], {}, 10.0) == "0:10 so far, about 0:20 left"
    assert eta([], [done], {}, 61.0) == "all done in 1:01"


def test_a_saved_run_reads_back(tmp_path: Path) -> None:
    found = [Found("w", "a", [sample(1, 2.0, recall=3.0)]), Found("w", "b", error="no"), Found("w", "c", skipped="x")]
    save_run(tmp_path / "run.json", "table", MACHINE, found, size="tiny")
    body = load_run(tmp_path / "run.json")
    assert body["found"] == found and body["machine"] == MACHINE and body["size"] == "tiny"
    (tmp_path / "run.json").write_text('{"format": 1}')
    for path in (tmp_path / "run.json", tmp_path / "absent.json"):
        with pytest.raises(DataError, match="not a saved run"):
            load_run(path)


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    context = Context("tiny", tmp_path)
    for name, seconds, cpu in (("old", 2.0, "a cpu"), ("new", 0.5, "a cpu"), ("other", 0.5, "another cpu")):
        figures = {"help": {"amount": 1, "seconds": seconds, "cpu": None}}
        found = [Found("startup", "track1", [{"figures": figures, "facts": {}, "peak": 10**8}])]
        save_run(tmp_path / f"{name}.json", "table", MACHINE | {"cpu": cpu}, found, size="tiny")
    told = compare_runs(tmp_path / "old.json", tmp_path / "new.json", context)
    (line,) = [line for line in told.splitlines() if line.startswith("| startup")]
    assert [cell.strip() for cell in line.split("|")[4:7]] == ["2.00", "0.5", "4.00"]
    assert "NOT the same machine" not in told
    assert "NOT the same machine" in compare_runs(tmp_path / "old.json", tmp_path / "other.json", context)


# --- a real run ---


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)


def test_a_tiny_run_prints_its_table(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    options = ("--size", "tiny", "--only", "bm25", "--folder", str(tmp_path), "--out", str(out))
    done = run_cli(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| bm25")]
    assert len(rows) == 2 and all("BM25 route" in row for row in rows)
    assert "recall@5" in rows[0] and "cores" in done.stdout and "bm25s " in done.stdout
    found = {one.system: one for one in load_run(out)["found"]}
    assert found["kit"].fact("recall@5") == found["rank_bm25"].fact("recall@5") > 50


def test_a_mistake_is_one_block() -> None:
    done = run_cli("--only", "dinn")
    assert done.returncode == 2 and "no such work: dinn" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_work_and_stage_runs_in_its_tiniest_form(tmp_path: Path) -> None:
    for verb in ((), ("growth",)):
        done = run_cli(*verb, "--size", "tiny", "--folder", str(tmp_path))
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "FAILED" not in done.stdout
