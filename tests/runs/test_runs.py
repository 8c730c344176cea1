"""The list of runs: what is read, how it is ranked, what is told of what cannot be read; tags; one run in full."""

import json
import multiprocessing
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.errors import ConfigError, DataError
from common.experiment import read_log
from common.runs import __main__ as command
from common.runs import select
from common.runs.headline import headline
from common.runs.records import Run, read_runs
from common.runs.tags import change_tags, read_tags
from common.submission import send_log
from tests.runs.planted import (
    BASELINE,
    DIN,
    FAILED,
    FULL,
    GBDT,
    KILLED,
    LEXICAL,
    plant,
    plant_seven,
    track1_metrics,
    track2_metrics,
)

ALL = [LEXICAL, BASELINE, FULL, DIN, GBDT, KILLED, FAILED]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    plant_seven(tmp_path / "runs")
    return tmp_path / "runs"


def call(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(command.app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert done.exit_code == status, done.output
    return done.output


def listed(runs: Path, *arguments: str) -> list[str]:
    """The names that the list shows, in its order."""
    return [row["run"] for row in json.loads(call("list", "--runs", runs, "--json", *arguments))]


def by_name(runs: Path) -> dict[str, Run]:
    return {run.name: run for run in read_runs(runs)}


# --- what is read ---


def test_every_run_is_read_with_its_figures(runs: Path) -> None:
    found = by_name(runs)
    assert list(found) == ALL
    first = found[BASELINE]
    assert (first.track, first.config, first.status, first.seconds) == ("track1", "baseline", "finished", 60.0)
    assert first.started == datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert first.headline is not None and first.headline.text == "90.84 ± 1.50"
    assert first.comparable == ("track1", "both tasks", "39 + 84 questions")
    assert found[GBDT].comparable == ("track2", "test AUC", "1,500 rows")
    assert (found[KILLED].status_text, found[KILLED].headline) == ("running or killed", None)
    assert found[FAILED].problems == ("no page image\nsecond line",) and found[FAILED].faults == 3


@pytest.mark.parametrize(
    ("track", "metrics", "wanted"),
    [
        ("track1", track1_metrics(50.0), (50.0, 1.5, "both tasks", "39 + 84 questions")),
        ("track1", {**track1_metrics(50.0), "standard_error": None}, (50.0, None, "both tasks", "39 + 84 questions")),
        (
            "track1",
            {"final": None, "tasks": {"mmdocir": {"questions": 8, "mean": 40.0, "standard_error": 2.0}}},
            (40.0, 2.0, "MMDocIR only", "8 questions"),
        ),
        (
            "track1",
            {"tasks": {"m2kr": {"questions": 8, "mean": 40.0, "standard_error": 2, "standard_error_by_document": 3}}},
            (40.0, 3.0, "M2KR only", "8 questions"),
        ),
        ("track2", track2_metrics(0.7), (0.7, 0.02, "test AUC", "1,500 rows")),
        ("track2", track2_metrics(0.6, 9, "valid") | track2_metrics(0.7), (0.7, 0.02, "test AUC", "1,500 rows")),
        ("track2", {"valid": {"auc": 0.6, "standard_error": 0.01}}, (0.6, None, "valid AUC", "")),
        (
            "track2",
            {"valid": {"auc": 0.6, "standard_error": 0.01, "overall": {"rows": 9}}},
            (0.6, 0.01, "valid AUC", "9 rows"),
        ),
    ],
)  # fmt: skip
def test_the_headline_is_read_by_its_keys(track: str, metrics: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    found = headline(track, metrics)
    assert found is not None and (found.value, found.error, found.name, found.of) == wanted


@pytest.mark.parametrize(
    "metrics", [{}, {"final": None, "tasks": {}}, {"final": float("nan"), "tasks": {}}, {"final": "x"}, {"tasks": 3}]
)
def test_without_a_figure_there_is_no_headline(metrics: dict[str, Any]) -> None:
    assert headline("track1", metrics) is None
    assert headline("track2", metrics) is None and headline("track1-fit", track1_metrics(50)) is None


def test_the_public_score_is_that_of_the_file_s_bytes(runs: Path) -> None:
    sha = by_name(runs)[BASELINE].submission
    assert sha is not None
    sent = send_log.Attempt(
        "x", "track1", "kaggle", "f", sha["sha256"], "complete", send_log.now(), public_score=0.8123
    )
    send_log.append(runs, sent)
    assert {name: run.public for name, run in by_name(runs).items() if run.public is not None} == {BASELINE: 81.23}
    assert "81.23" in call("--runs", runs)


def test_a_folder_that_is_gone_is_told_from_the_log(runs: Path) -> None:
    before = by_name(runs)[DIN]
    (runs / DIN).rename(runs.parent / "elsewhere")
    gone = by_name(runs)[DIN]
    assert gone.folder is None and gone.status == "gone" and gone.headline == before.headline
    assert "folder is gone" in call("--runs", runs)
    assert "removed" in call("show", DIN, "--runs", runs)
    assert listed(runs, "--status", "gone") == [DIN]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "run.json cannot be read"),
        ("[1]", "run.json holds a list"),
        (None, "run.json is missing"),
        (b"\xff\xfe", "run.json cannot be read"),
    ],
)
def test_a_broken_record_is_listed_with_what_is_wrong(text: str | bytes | None, told: str, runs: Path) -> None:
    path = runs / GBDT / "run.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    run = by_name(runs)[GBDT]
    assert run.status == "unreadable" and run.track == "track2" and run.started == datetime(2026, 11, 5, 10, tzinfo=UTC)
    assert told in run.problems[0]
    shown = call("--runs", runs)
    assert "record unreadable" in shown and f"bb0002: {told}" in shown
    assert told in call("show", "bb0002", "--runs", runs)
    assert run.name not in {best.name for best in select.best_runs(read_runs(runs))}


def test_values_of_a_wrong_kind_are_none_and_crash_nothing(runs: Path) -> None:
    wrong = {"seconds": "x", "peak_bytes": None, "faults": [], "started": 3, "submission": "y", "stages": 1, "git": 1}
    (runs / GBDT / "run.json").write_text(json.dumps({"track": "track2", "status": "dancing", "changed": 1, **wrong}))
    (runs / GBDT / "metrics.json").write_text('{"test": {"auc": "high"}}')
    run = by_name(runs)[GBDT]
    assert (run.seconds, run.peak_bytes, run.faults, run.submission, run.headline) == (None, None, 0, None, None)
    assert run.status == "unreadable" and run.started == datetime(2026, 11, 5, 10, tzinfo=UTC)
    call("--runs", runs)
    assert "did not record" in call("show", "bb0002", "--runs", runs)


def test_broken_figures_leave_the_run_and_are_told(runs: Path) -> None:
    (runs / GBDT / "metrics.json").write_text("{")
    assert by_name(runs)[GBDT].status == "finished" and by_name(runs)[GBDT].headline is None
    assert "metrics.json cannot be read" in call("--runs", runs)


# --- order, filters, best ---


def test_orders(runs: Path) -> None:
    assert listed(runs) == ALL[::-1]
    assert listed(runs, "--sort", "name") == [BASELINE, FAILED, DIN, GBDT, KILLED, LEXICAL, FULL]
    assert listed(runs, "--sort", "score")[:5] == [FULL, BASELINE, LEXICAL, GBDT, DIN]
    assert listed(runs, "--sort", "time")[0] == LEXICAL and listed(runs, "--sort", "time")[-1] == FULL
    assert listed(runs, "--sort", "memory")[-1] == GBDT
    assert listed(runs, "--limit", "2") == [FAILED, KILLED]


def test_filters(runs: Path) -> None:
    assert listed(runs, "--track", "track2") == [KILLED, GBDT, DIN]
    assert listed(runs, "--status", "running") == [KILLED]
    assert listed(runs, "--config", "lexical") == [FULL, LEXICAL]
    assert listed(runs, "--since", "2026-11-06") == [FAILED, KILLED]
    assert listed(runs, "--since", "2026-11-06T11:00+00:00") == [FAILED]
    assert listed(runs, "--search", "K=50 BASELINE") == [BASELINE]
    assert listed(runs, "--search", "page image") == [FAILED]
    assert listed(runs, "--search", "lexical gbdt") == []
    change_tags(runs / DIN, ["a", "b"])
    change_tags(runs / GBDT, ["b"])
    assert listed(runs, "--tag", "b") == [GBDT, DIN] and listed(runs, "--tag", "a", "--tag", "b") == [DIN]


def test_the_best_is_of_finished_runs_over_the_same_data(runs: Path) -> None:
    plant(runs, "20261108T100000Z-track1-lexical-aa0005", track1_metrics(90.84))  # as good, later
    plant(runs, "20261108T100000Z-track1-lexical-aa0006", track1_metrics(99.0), status="failed")
    assert listed(runs, "--best") == [GBDT, FULL, BASELINE]
    assert [row["run"] for row in json.loads(call("--runs", runs, "--json")) if row["best"]] == [GBDT, FULL, BASELINE]
    assert listed(runs, "--best-config", "--track", "track1", "--sort", "score") == [
        FULL,
        BASELINE,
        "20261108T100000Z-track1-lexical-aa0005",
    ]


def test_a_wrong_date_or_status_is_told(runs: Path) -> None:
    assert "no date" in call("--since", "yesterday", "--runs", runs, status=2)
    assert "no such status" in call("--status", "done", "--runs", runs, status=2)
    with pytest.raises(ConfigError, match="no date"):
        select.since_time("2026-13-01")


# --- the terminal ---


def test_the_plain_command_lists(runs: Path) -> None:
    plain = call("--runs", runs)
    assert plain == call("list", "--runs", runs)
    lines = plain.splitlines()
    assert lines[0].split()[:3] == ["run", "started", "track"]
    (row,) = [line for line in lines if "baseline" in line]
    assert row.startswith("★") and "90.84 ± 1.50" in row and "0.50 GB" in row and "aa0002" in row
    assert "running or killed" in plain and "aa0004: no page image" in plain and "second line" not in plain
    assert "show" in lines[-1] and "--help" not in plain


def test_text_of_the_data_is_no_markup(runs: Path) -> None:
    plant(runs, "20261109T100000Z-track1-x-aa0007", config="[red]bold[/]", status="failed", error="[/] [link=x]")
    shown = call("--runs", runs)
    assert "[red]bold[/]" in shown and "[/] [link=x]" in shown


def test_a_narrow_terminal_loses_columns_and_says_so(runs: Path) -> None:
    from common.runs import table

    every = read_runs(runs)
    found = table.columns(every, select.best_runs(every), [run.name for run in every])
    assert table.fitting(found, None) == [name for name in found if name not in ("tags",)]
    kept = table.fitting(found, 80)
    assert {"run", "config", "score", "status", "track"} <= set(kept) and table.needed(found, kept) <= 80
    (said,) = [line for line in table.notes(every, found, kept, len(every)) if "left out" in line]
    assert all(name in said for name in ("memory", "submission", "faults", "of"))


def test_without_runs_it_says_how_to_make_one(tmp_path: Path) -> None:
    assert "python -m track1_mdr run" in call("--runs", tmp_path / "none")
    assert "python -m track1_mdr run" in call("page", "--runs", tmp_path / "none", status=2)
    assert not (tmp_path / "none").exists()
    assert "there is no run yet" in call("show", "last", "--runs", tmp_path, status=2)


# --- one run ---


def test_show_has_keys_figures_stages_and_commands(runs: Path) -> None:
    shown = call("show", "aa0002", "--runs", runs)
    for piece in ("score:      90.84 ± 1.50 (both tasks, 39 + 84 questions)", "* tasks.mmdocir.k: 50", "final: 90.84",
                  "read data", "1.2 s", "unchanged, sha256", f"-m track1_mdr report {BASELINE}",
                  f"compare {LEXICAL} {BASELINE}", "--dry-run"):  # fmt: skip
        assert piece in shown, piece
    assert "is not so in" in shown and "baseline.yaml" in shown


def test_a_key_as_shipped_has_no_star(runs: Path) -> None:
    plant(
        runs, "20261109T100000Z-track2-my_ranker-bb0009", changed={"train.patience": 3, "train.epochs": 2, "name": "x"}
    )
    shown = call("show", "bb0009", "--runs", runs)
    assert "* train.epochs: 2" in shown and "  train.patience: 3" in shown and "* train.patience" not in shown
    assert "name: x" not in shown


def test_show_tells_whether_the_submission_still_has_its_bytes(runs: Path) -> None:
    file = by_name(runs)[GBDT].submission
    assert file is not None
    Path(file["path"]).write_bytes(b"other")
    assert "CHANGED since" in call("show", "bb0002", "--runs", runs)
    Path(file["path"]).unlink()
    assert "no longer there" in call("show", "bb0002", "--runs", runs)
    assert "submission: none" in call("show", "bb0003", "--runs", runs)


def test_an_ambiguous_name_is_an_error_with_the_candidates(runs: Path) -> None:
    told = call("show", "20261", "--runs", runs, status=2)
    assert "7 runs have this name" in told and LEXICAL in told


# --- tags ---


def test_tags_are_given_found_and_taken(runs: Path) -> None:
    assert call("tag", "bb0001", "sent", "paper", "--runs", runs) == f"{DIN}: paper sent\n"
    assert "paper sent" in call("--runs", runs)
    assert call("untag", "bb0001", "sent", "--runs", runs) == f"{DIN}: paper\n"
    assert json.loads((runs / DIN / "tags.json").read_text()) == {"tags": ["paper"]}
    assert "no such tag" in call("untag", "bb0001", "sent", "--runs", runs, status=2)
    for bad in ("two words", "", "a/b", "x" * 41):
        assert "this is no tag" in call("tag", "bb0001", bad, "--runs", runs, status=2)
    assert read_tags(runs / DIN) == ("paper",)
    assert len(read_log(runs)) == 6  # tags are no events of the log


def test_a_damaged_file_of_tags_is_not_written_over(runs: Path) -> None:
    (runs / DIN / "tags.json").write_text('{"tags": "a"}')
    with pytest.raises(DataError, match="damaged"):
        change_tags(runs / DIN, ["b"])
    assert (runs / DIN / "tags.json").read_text() == '{"tags": "a"}'
    assert "tags.json" in call("--runs", runs)


def _tag(folder: Path, word: str) -> None:
    for number in range(10):
        change_tags(folder, [f"{word}{number}"])


def test_two_that_tag_at_once_lose_nothing(runs: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_tag, args=(runs / DIN, word)) for word in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read_tags(runs / DIN)) == 20
    assert not [path for path in (runs / DIN).iterdir() if "partial" in path.name or "lock" in path.name]


# --- many ---


def test_two_thousand_runs_are_listed_in_reasonable_time(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number in range(2000):
        stamp = f"2026{1 + number // 200:02d}{1 + number % 20:02d}T{number // 20 % 10:02d}0000Z"
        plant(runs, f"{stamp}-track1-lexical-{number:06x}", track1_metrics(number / 20))
    start = time.process_time()
    shown = call("--runs", runs, "--limit", "5")
    assert time.process_time() - start < 6  # 0.9 s, and 2.1 s with figures of 30 kB a run
    assert "5 of 2,000 runs shown" in shown
