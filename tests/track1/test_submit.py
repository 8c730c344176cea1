"""`submit` of Track 1: what is refused before anything is sent, what is shown, and one way through to the score."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import track1_mdr.__main__ as cli
from common.hashing import file_digest
from common.submission.mdr import write_submission
from common.submission.send_log import attempts
from tests.common.kaggle.test_loopback import assert_clean
from tests.loopback.kaggle_server import Contest, Grade, KaggleServer
from tests.track1.official_root import official_root, rankings
from tests.track1.tiny_root import QUESTIONS, tiny_root
from track1_mdr.gold import read_ground
from track1_mdr.submit import COMPETITION


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, and no account."""
    monkeypatch.setattr(cli, "ROOT", tmp_path / "home")
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "MIRC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of official size, with a perfect submission full.csv beside it."""
    root = official_root(tmp_path_factory.mktemp("official"))
    write_submission(root / "full.csv", rankings(), read_ground(root).expected)
    return root


@pytest.fixture
def server(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with KaggleServer({COMPETITION: Contest({})}) as started:
        for name, value in started.environ(tmp_path / "user").items():
            monkeypatch.setenv(name, value)
        yield started


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["submit", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert "error: " in result.stderr and "do:" in result.stderr and "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr


def test_a_part_of_the_rows_is_shown_and_never_sent(home: Path, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "data")
    file = tmp_path / "part.csv"
    write_submission(
        file,
        {i: list("01234" if name == "ferry" else "012") for i, _, name, _ in QUESTIONS},
        read_ground(root).expected,
    )
    result = call(file, "--data", root, "--dry-run")
    assert result.exit_code == 0 and "would not be sent" in result.output and "nothing was sent" in result.output
    assert file_digest(file) in result.output and "MMDocIR 5 rows" in result.output
    refused(call(file, "--data", root, "--yes"), "partial", "track1_mdr download")
    assert not (home / "runs").exists()


def test_an_invalid_file_is_refused_before_anything_else(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("question_id,passage_id\n10000,\"['1']\"\n")
    root = tiny_root(tmp_path / "data")
    refused(call(tmp_path / "bad.csv", "--data", root, "--dry-run"), "breaks")
    refused(call(tmp_path / "absent.csv", "--data", root, "--yes"), "cannot be read")


def test_without_an_account_or_a_yes_nothing_is_sent(home: Path, official: Path) -> None:
    refused(
        call(official / "full.csv", "--data", official, "--yes"), "no Kaggle credentials", "kaggle.com/settings/api"
    )
    assert attempts(home / "runs") == []


def test_a_dry_run_of_a_full_file_shows_its_local_score_and_asks_no_server(home: Path, official: Path) -> None:
    result = call(official / "full.csv", "--data", official, "--dry-run", "-m", "my message")
    assert result.exit_code == 0, result.output
    assert "100.00 (MMDocIR only)" in result.output and "my message" in result.output
    assert "M2KR 6,415 rows, MMDocIR 1,658 rows" in result.output and "would not" not in result.output


def test_accepted_then_known_then_one_too_many(
    home: Path, official: Path, server: KaggleServer, tmp_path: Path
) -> None:
    def grade(data: bytes) -> Grade:
        return ("COMPLETE", "0.65", None) if data == (official / "full.csv").read_bytes() else ("ERROR", None, "bytes")

    server.contests[COMPETITION].grade = grade
    server.contests[COMPETITION].allowed = 1
    asked = call(official / "full.csv", "--data", official)  # nobody is at the terminal
    refused(asked, "nobody is there to agree", "--yes")
    assert server.sent == []
    result = call(official / "full.csv", "--data", official, "--yes")
    assert result.exit_code == 0, result.output
    assert "accepted:    public score 65.00 of 100" in result.output
    (sent,) = attempts(home / "runs")
    assert (sent.state, sent.public_score, sent.ref) == ("complete", 0.65, server.sent[0].ref)
    assert sent.local is not None and sent.local.value == pytest.approx(100.0)
    again = call(official / "full.csv", "--data", official, "--yes")
    refused(again, "very bytes", "--again")
    over = call(official / "full.csv", "--data", official, "--yes", "--again")
    refused(over, "used up", "00:00 UTC")
    assert len(server.sent) == 1
    lines = [json.loads(line) for line in (home / "runs" / "log.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["sending", "pending", "complete"]
    assert_clean(tmp_path, *(result.output + result.stderr for result in (asked, result, again, over)))


def test_debug_shows_a_traceback_and_still_no_secret(
    home: Path, official: Path, server: KaggleServer, tmp_path: Path
) -> None:
    server.contests[COMPETITION].accepted = False
    done = call(official / "full.csv", "--data", official, "--yes", "--debug")
    assert done.exception is not None and "competitions/" in str(done.exception)
    assert_clean(tmp_path, done.output, str(done.exception), repr(done.exc_info))
