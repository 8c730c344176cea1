"""Sending a file: once, logged at each step, whatever fails or is killed on the way."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common import cli
from common.errors import ConfigError, SubmissionError, UserError
from common.hashing import file_digest
from common.kaggle import KaggleError
from common.submission import send_log
from common.submission.codabench import steps
from common.submission.mdr import read_submission
from common.submission.send import Outgoing, outgoing, refresh, send
from common.submission.send_log import Attempt, LocalScore, append, attempts, gap, local_score, public_value
from common.submissions import __main__ as submissions
from tests.common.sending import FolderKaggle, deliver, network, rankings
from tests.common.test_atomic import leftovers

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"final": 60.0, "tasks": {"m2kr": {"mean": 50.0}, "mmdocir": {"mean": 70.0}}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run log with one run, whose file is mine.csv."""
    (tmp_path / "mine.csv").write_text("mine\n")
    line = {
        "run": "run-1",
        "track": "track1",
        "config": "baseline",
        "started": "2026-01-01T00:00:00+00:00",
        "submission": {"path": str(tmp_path / "mine.csv"), "sha256": file_digest(tmp_path / "mine.csv")},
        "metrics": METRICS,
    }
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path / "runs"


@pytest.fixture
def kaggle(tmp_path: Path) -> FolderKaggle:
    return FolderKaggle(tmp_path / "kaggle")


def mine(runs: Path, name: str = "mine.csv") -> Outgoing:
    return outgoing("track1", "slug", runs.parent / name, "2 rows", runs, None, lambda: None)


def states(runs: Path) -> list[str]:
    rows = [json.loads(line) for line in (runs / "log.jsonl").read_text().splitlines()]
    return [row["state"] for row in rows if row.get("event") == "submission"]


def go(runs: Path, kaggle: FolderKaggle, said: list[str] | None = None, **options: Any) -> Attempt | None:
    say = (said if said is not None else []).append
    return send(mine(runs), kaggle, runs, agree=options.pop("agree", lambda: True), say=say, **options)


def test_an_accepted_file_is_logged_with_both_scores(runs: Path, kaggle: FolderKaggle) -> None:
    said: list[str] = []
    sent = go(runs, kaggle, said)
    assert sent is not None and (sent.state, sent.public_score, sent.run, sent.message) == (
        "complete",
        0.5,
        "run-1",
        "baseline",
    )
    assert states(runs) == ["sending", "pending", "complete"]
    assert attempts(runs) == [sent] and gap(sent) == -10.0
    assert any("more allowed" in line for line in said)
    assert sent.mark in kaggle.all()[0].message


def test_nothing_is_sent_or_logged_without_a_yes(runs: Path, kaggle: FolderKaggle) -> None:
    assert go(runs, kaggle, agree=lambda: False) is None
    assert states(runs) == [] and kaggle.all() == []


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("n", False), ("", False)])
def test_a_user_at_a_terminal_is_asked(answer: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert cli.agreed("send it?", yes=False) is agreed
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # a file or pipe is nobody
    with pytest.raises(ConfigError, match="nobody is there"):
        cli.agreed("send it?", yes=False)
    assert cli.agreed("send it?", yes=True)


def test_the_same_bytes_are_not_sent_twice_unless_asked_for(runs: Path, kaggle: FolderKaggle) -> None:
    go(runs, kaggle)
    with pytest.raises(UserError, match="very bytes") as caught:
        go(runs, kaggle)
    assert "--again" in str(caught.value.todo) and len(kaggle.all()) == 1
    assert go(runs, kaggle, again=True) is not None and len(kaggle.all()) == 2
    (runs.parent / "mine.csv").write_text("other\n")
    assert go(runs, kaggle) is not None and len(kaggle.all()) == 3


def test_a_used_up_day_is_told_before_the_upload_and_when_kaggle_says_so(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.allowed = 0
    with pytest.raises(KaggleError, match="used up") as caught:
        go(runs, kaggle)
    assert "00:00 UTC" in str(caught.value.todo) and states(runs) == []
    kaggle.allowed = 9
    told = "Submission not allowed: your team has used its daily submission allowance (3) today"
    kaggle.script["submit"] = [KaggleError("refused", "Kaggle did not take it", got=told, todo="")]
    with pytest.raises(KaggleError, match="used up"):
        go(runs, kaggle)
    assert states(runs) == ["sending", "refused"] and attempts(runs)[0].error == told
    assert go(runs, kaggle) is not None  # a refused one is no hindrance later


def test_one_who_is_in_no_team_yet_may_send(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.new_user = True
    assert go(runs, kaggle) is not None and len(kaggle.all()) == 1


def test_a_file_that_kaggle_took_without_a_number_is_found(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.script["answer"] = [KaggleError("answer", "no number", todo="")]
    assert go(runs, kaggle) is not None and states(runs) == ["sending", "pending", "complete"]


def test_a_file_that_kaggle_cannot_score_is_an_error_with_its_words(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.error = "ids do not match"
    with pytest.raises(SubmissionError, match="ids do not match") as caught:
        go(runs, kaggle)
    assert "validate" in str(caught.value.todo)
    assert attempts(runs)[0].state == "error" and attempts(runs)[0].error == "ids do not match"


def test_an_upload_whose_answer_is_lost_is_found_at_kaggle(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.script["answer"] = [network()]
    sent = go(runs, kaggle)
    assert sent is not None and sent.state == "complete" and len(kaggle.all()) == 1


def test_an_upload_that_never_arrived_is_told_and_sent_the_next_time(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.script["submit"] = [network()]
    with pytest.raises(KaggleError, match="connection reset"):
        go(runs, kaggle)
    assert states(runs) == ["sending", "failed"] and kaggle.all() == []
    assert go(runs, kaggle) is not None and len(kaggle.all()) == 1


def test_where_nobody_knows_the_next_call_asks_first(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.script |= {"answer": [network()], "find": [network()]}
    with pytest.raises(KaggleError, match="not known whether"):
        go(runs, kaggle)
    assert states(runs) == ["sending"]
    said: list[str] = []
    sent = go(runs, kaggle, said, agree=lambda: pytest.fail("it was asked for again"))
    assert sent is not None and sent.state == "complete" and len(kaggle.all()) == 1
    assert "not sending them again" in said[0]


def test_a_score_that_is_late_is_asked_for_later(runs: Path, kaggle: FolderKaggle) -> None:
    kaggle.score = None
    sent = go(runs, kaggle)
    assert sent is not None and sent.state == "pending"
    assert refresh(runs, kaggle, lambda _: None) == 0 and states(runs) == ["sending", "pending"]
    kaggle.score = 0.7
    said: list[str] = []
    assert refresh(runs, kaggle, said.append) == 1 and "0.7" in said[0]
    assert attempts(runs)[0].public_score == 0.7
    assert refresh(runs, kaggle, said.append) == 0  # what is known is not asked for again


def test_ctrl_c_and_a_fault_while_waiting_keep_what_was_sent(runs: Path, kaggle: FolderKaggle) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    kaggle.on_wait, said = interrupt, []
    with pytest.raises(KeyboardInterrupt):
        go(runs, kaggle, said)
    assert states(runs) == ["sending", "pending"] and "refresh" in said[-1]
    kaggle.on_wait = lambda: None
    kaggle.script["look"] = [network()]
    with pytest.raises(KaggleError):
        go(runs, kaggle, said)
    assert len(kaggle.all()) == 1 and "score is not known" in said[-1]


def test_two_at_once_and_a_file_that_changes_are_refused(runs: Path, kaggle: FolderKaggle) -> None:
    def inside() -> bool:
        with pytest.raises(UserError, match="another submit"):
            go(runs, kaggle)
        return False

    assert go(runs, kaggle, agree=inside) is None

    def change() -> bool:
        (runs.parent / "mine.csv").write_text("other\n")
        return True

    with pytest.raises(SubmissionError, match="changed since"):
        go(runs, kaggle, agree=change)
    assert states(runs) == [] and kaggle.all() == []


def test_a_line_cut_short_does_not_swallow_the_next_one(runs: Path) -> None:
    attempt = Attempt("a", "track1", "slug", "f", "0" * 64, "sending", send_log.now())
    with (runs / "log.jsonl").open("a") as file:
        file.write('{"event": "submi')
    append(runs, attempt)
    append(runs, replace(attempt, state="pending", ref=4))
    assert attempts(runs) == [replace(attempt, state="pending", ref=4)]
    with (runs / "log.jsonl").open("a") as file:
        file.write('{"event": "submission"}\n{"event": "submission", "local": 3}\n[]\n')
    assert len(attempts(runs)) == 1


@pytest.mark.parametrize(
    ("track", "metrics", "value", "comparable"),
    [
        ("track1", METRICS, 60.0, True),
        ("track1", {"final": None, "tasks": {"mmdocir": {"mean": 70.0}}}, 70.0, False),
        ("track2", {"valid": {"auc": 0.8}, "test": {"auc": 0.9}}, 0.9, True),
        ("track2", {"valid": {"auc": 0.8}}, 0.8, True),
    ],
)
def test_the_local_score_of_a_run(track: Any, metrics: dict[str, Any], value: float, comparable: bool) -> None:
    found = local_score(track, metrics)
    assert found is not None and (found.value, found.comparable) == (value, comparable)
    assert local_score(track, {}) is None


def test_gaps_are_in_the_local_unit_and_only_between_what_compares() -> None:
    attempt = Attempt("a", "track1", "slug", "f", "0", "complete", "t", local=LocalScore(60.0, "both tasks"))
    assert gap(attempt) is None
    assert gap(replace(attempt, public_score=0.65)) == pytest.approx(5.0)
    assert gap(replace(attempt, public_score=65.0)) == pytest.approx(5.0)
    assert gap(replace(attempt, public_score=65.0, local=LocalScore(60.0, "mmdocir only", comparable=False))) is None
    assert gap(replace(attempt, track="track2", public_score=0.9, local=LocalScore(0.8, "AUC"))) == pytest.approx(0.1)
    assert public_value("track2", 0.9) == 0.9


def test_the_steps_for_codabench_name_the_page_the_file_and_the_column(tmp_path: Path) -> None:
    text = "\n".join(steps(tmp_path / "x.zip", ["Task2"]))
    assert "https://www.codabench.org/competitions/5372/" in text and "Task2" in text
    assert text.count(str(tmp_path / "x.zip")) == 2


def call(*arguments: object) -> str:
    done = CliRunner().invoke(submissions.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_list_shows_runs_and_submissions_with_scores_gap_and_hash(runs: Path, kaggle: FolderKaggle) -> None:
    sha = file_digest(runs.parent / "mine.csv")
    before = call("list", "--runs", runs)
    assert "not sent" in before and "60.00" in before and sha[:12] in before
    go(runs, kaggle)
    after = call("list", "--runs", runs)
    assert "not sent" not in after and "complete" in after and "50.00" in after and "-10.00" in after
    rows = json.loads(call("list", "--json", "--runs", runs))
    assert [(row["sha256"], row["public"], row["gap"], row["run"]) for row in rows] == [(sha, 50.0, -10.0, "run-1")]
    assert "no run has left" in call("list", "--runs", runs / "absent")


def test_a_score_of_an_upload_by_hand_is_noted(runs: Path) -> None:
    sha = file_digest(runs.parent / "mine.csv")
    for name, score in ((runs.parent / "mine.csv", 61.5), (sha[:10], 62.0), ("run-1", 62.5)):
        assert "noted" in call("record", name, "--public", score, "--runs", runs)
        assert [attempt.public_score for attempt in attempts(runs)] == [score]
    (runs.parent / "other.csv").write_text("unknown\n")
    for name in (runs.parent / "other.csv", "ffffffffff", "run-2"):
        done = CliRunner().invoke(submissions.app, ["record", str(name), "--public", "1", "--runs", str(runs)])
        assert done.exit_code == 2 and "error:" in done.stderr and "do:" in done.stderr


def test_kills_at_random_moments_lose_nothing_and_send_nothing_twice(tmp_path: Path) -> None:
    """50 rounds of: write a version, send it, be killed on the way; then go on without a kill."""
    helper = subprocess.Popen(
        [sys.executable, "-m", "tests.common.sending", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert helper.stdin is not None and helper.stdout is not None
    chance, ends, cut_off, written, longest = random.Random(3), [], 0, -1, [0.0, 0.0]
    for version in range(52):
        print(version, file=helper.stdin, flush=True)
        child, began = int(helper.stdout.readline()), time.monotonic()
        if version > 1:  # the first one of each kind is only timed
            time.sleep(chance.uniform(0.0, longest[version % 2]))
            os.kill(child, signal.SIGKILL)
        print("go on", file=helper.stdin, flush=True)
        ends.append(helper.stdout.readline().strip())
        longest[version % 2] = longest[version % 2] or time.monotonic() - began
        rows = read_submission(tmp_path / "mine.csv")  # whole, and of the old or of the new version
        found = next(v for v in (version, written) if {q: tuple(ids) for q, ids in rankings(v).items()} == rows)
        lines = (tmp_path / "runs" / "log.jsonl").read_text().splitlines()
        assert all(json.loads(line) for line in lines if line)
        cut_off += attempts(tmp_path / "runs")[-1].state in ("sending", "pending")
        deliver_once(tmp_path)
        written = found
        for name in leftovers(tmp_path):
            (tmp_path / name).unlink()
    helper.stdin.close()
    assert helper.wait(timeout=30) == 0
    helper.stdout.close()
    assert ends[:2] == ["ended", "ended"] and set(ends) <= {"ended", "killed"}
    assert ends.count("killed") >= 10 and cut_off >= 3, "too few kills hit a worker: the test shows little"
    files = [submission.file for submission in FolderKaggle(tmp_path / "kaggle").all()]
    assert len(files) == len(set(files)) > 10


def deliver_once(folder: Path) -> None:
    """Send what is there, if it was not sent before the kill; Kaggle has it exactly once."""
    try:
        deliver(folder)
    except UserError as error:
        assert "very bytes" in error.what
    text = (folder / "mine.csv").read_text()
    sent = [submission for submission in FolderKaggle(folder / "kaggle").all() if submission.file == text]
    assert len(sent) == 1
    last = [a for a in attempts(folder / "runs") if a.sha256 == file_digest(folder / "mine.csv")]
    assert [a.state for a in last if a.state != "failed"] == ["complete"]
