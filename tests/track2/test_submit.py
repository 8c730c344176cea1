"""`submit` of Track 2: checked, packed, logged once, and the steps of the upload; the score comes back by hand."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import track2_mmctr.__main__ as cli
from common.submission.mmctr import read_submission, write_submission
from common.submission.send_log import attempts
from common.submissions import __main__ as submissions
from tests.track2.ctr_files import Planted, write_layout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "ROOT", tmp_path / "home")
    monkeypatch.delenv("MIRC_DATA", raising=False)
    monkeypatch.setenv("MIRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


@pytest.fixture
def planted(home: Path, tmp_path: Path) -> Planted:
    """Data of a user, and a valid zip of them, mine.zip: the labels, a little hidden."""
    made = write_layout(tmp_path / "data" / "microlens")
    values = made.labels["test"] * 0.5 + np.linspace(0.1, 0.4, len(made.ids))
    write_submission(tmp_path / "mine.zip", made.ids, values, "Task2", made.ids)
    return made


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["submit", *(str(argument) for argument in arguments)], env={"COLUMNS": "200"})


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr


def test_the_page_and_the_steps_are_printed_and_the_file_is_logged_once(
    home: Path, planted: Planted, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    dry = call(tmp_path / "mine.zip", "--data", data, "--dry-run")
    assert dry.exit_code == 0 and "nothing was logged" in dry.output and "open https" not in dry.output
    assert not (home / "runs").exists()
    for _ in range(2):
        result = call(tmp_path / "mine.zip", "--data", data)
        assert result.exit_code == 0, result.output
    assert "https://www.codabench.org/competitions/5372/" in result.output and "column Task2" in result.output
    assert "379,142 rows, this file 60" in result.output and "test AUC" in result.output
    (sent,) = attempts(home / "runs")
    assert (sent.state, sent.track, sent.run) == ("by_hand", "track2", None)
    assert sent.local is not None and 0.9 < sent.local.value <= 1
    recorded = CliRunner().invoke(
        submissions.app, ["record", str(tmp_path / "mine.zip"), "--public", "0.97", "--runs", str(home / "runs")]
    )
    assert recorded.exit_code == 0, recorded.output
    (scored,) = attempts(home / "runs")
    assert (scored.id, scored.state, scored.public_score) == (sent.id, "complete", 0.97)
    rows = json.loads(CliRunner().invoke(submissions.app, ["list", "--json", "--runs", str(home / "runs")]).stdout)
    assert rows[0]["gap"] == pytest.approx(0.97 - sent.local.value)


def test_another_competition_s_number_is_its_page(home: Path, planted: Planted, tmp_path: Path) -> None:
    result = call(tmp_path / "mine.zip", "--data", tmp_path / "data", "--competition", 99)
    assert "https://www.codabench.org/competitions/99/" in result.output and "5372" not in result.output


def test_a_bare_csv_is_packed_in_the_order_of_the_test_file(home: Path, planted: Planted, tmp_path: Path) -> None:
    valid = read_submission(tmp_path / "mine.zip")
    rows = [f"{i},{p:.9g}" for i, p in zip(valid.ids, valid.columns["Task2"], strict=True)]
    (tmp_path / "bare.csv").write_text("\r\n".join(["ID,Task2", *reversed(rows), ""]))
    result = call(tmp_path / "bare.csv", "--data", tmp_path / "data")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(tmp_path / "bare.zip") as archive:
        assert archive.namelist() == ["prediction.csv"]
    assert (tmp_path / "bare.zip").read_bytes() == (tmp_path / "mine.zip").read_bytes()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ID,Score\n1,0.5\n", "not a file of predictions"),
        ("", "not a file of predictions"),
        ("ID,Task1\n1,high\n", "not a whole number and a probability"),
        ("ID,Task1\n1\n", "not a whole number and a probability"),
        ("ID,Task1\n99999999999999999999,0.5\n", "not a whole number and a probability"),
        ("ID,Task1\n1,0.5\n", "breaks"),
        ("ID,Task1\n1,nan\n", "breaks"),
    ],
)
def test_a_csv_that_is_no_submission_is_refused_and_leaves_no_zip(
    text: str, part: str, home: Path, planted: Planted, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    refused(call(tmp_path / "bad.csv", "--data", tmp_path / "data"), part)
    assert not (tmp_path / "bad.zip").exists() and not (home / "runs").exists()


def test_the_sample_s_predictions_are_for_nobody(home: Path, tmp_path: Path) -> None:
    sample = home / "data" / "sample"
    made = write_layout(sample / "microlens")
    write_submission(tmp_path / "mine.zip", made.ids, np.full(len(made.ids), 0.5), "Task1", made.ids)
    assert call(tmp_path / "mine.zip", "--data", sample, "--dry-run").exit_code == 0
    refused(call(tmp_path / "mine.zip", "--data", sample), "shipped sample", "track2_mmctr download")
    assert not (home / "runs").exists()


def test_a_zip_with_a_fault_is_refused(home: Path, planted: Planted, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("folder/prediction.csv", "ID,Task1\n0,0.5\n")
    refused(call(tmp_path / "bad.zip", "--data", tmp_path / "data"), "root of the zip")
