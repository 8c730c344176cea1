"""Which folder a short name means."""

import os
from pathlib import Path

import pytest

from common.errors import DataError
from common.runs.find import find_run, run_folders, short_names
from tests.runs.planted import BASELINE, DIN, FAILED, FULL, GBDT, KILLED, LEXICAL, plant, plant_seven

ALL = [LEXICAL, BASELINE, FULL, DIN, GBDT, KILLED, FAILED]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    plant_seven(tmp_path / "runs")
    (tmp_path / "runs" / "my_fusion").mkdir()  # what `fit` saves is no run
    return tmp_path / "runs"


def test_runs_come_in_the_order_in_which_they_started(runs: Path) -> None:
    renamed = plant(runs, "20261231T100000Z-track1-lexical-aa0009").rename(runs / "kept-for-the-paper")
    assert [path.name for path in run_folders(runs)] == [renamed.name, *ALL]
    assert run_folders(runs / "nowhere") == []


@pytest.mark.parametrize(
    ("name", "track", "wanted"),
    [
        (DIN, None, DIN),
        ("20261104", None, DIN),
        ("bb0001", None, DIN),
        ("din-bb0001", None, DIN),
        ("last", None, GBDT),
        ("last", "track2", GBDT),
        ("last", "track1", FULL),
        ("20261101", "track1", LEXICAL),
    ],
)
def test_a_name_its_start_its_end_or_last(name: str, track: str | None, wanted: str, runs: Path) -> None:
    assert find_run(runs, name, track) == runs / wanted


def test_a_folder_is_taken_as_it_is(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = plant(tmp_path / "other", "20261101T100000Z-track1-lexical-cc0001")
    assert find_run(runs, str(elsewhere)) == elsewhere
    assert find_run(runs, f"{elsewhere}/", "track2") == elsewhere
    monkeypatch.chdir(tmp_path)
    assert find_run(runs, "other/20261101T100000Z-track1-lexical-cc0001").resolve() == elsewhere


def test_several_are_named_and_none_is_told_what_would_do(runs: Path) -> None:
    with pytest.raises(DataError, match="3 runs have this name") as caught:
        find_run(runs, "2026110", "track2")
    assert all(name in caught.value.block() for name in (DIN, GBDT, KILLED)) and LEXICAL not in caught.value.block()
    with pytest.raises(DataError, match=f"nearest name is {DIN}"):
        find_run(runs, f"{DIN}x")
    for name in ("zz", "", "lexical"):
        with pytest.raises(DataError, match="no run has this name") as caught:
            find_run(runs, name)
        assert "common.runs" in caught.value.block()
    with pytest.raises(DataError, match="no run of track2 has this name"):
        find_run(runs, "aa0001", "track2")


def test_without_runs_it_says_how_to_make_one(tmp_path: Path) -> None:
    for name in ("last", "aa0001"):
        with pytest.raises(DataError, match="there is no run of track1 yet") as caught:
            find_run(tmp_path / "runs", name, "track1")
        assert "python -m track1_mdr run" in caught.value.block()


def test_a_run_whose_record_is_lost_is_of_the_track_in_its_name(runs: Path) -> None:
    (runs / FAILED / "run.json").write_text("{")
    assert find_run(runs, "aa0004", "track1").name == FAILED
    (runs / FAILED / "run.json").unlink()
    assert find_run(runs, "aa0004", "track1").name == FAILED


def test_where_none_finished_the_last_is_the_one_that_started_last(tmp_path: Path) -> None:
    for name, status in ((LEXICAL, "failed"), (BASELINE, "running")):
        plant(tmp_path, name, status=status)
    assert find_run(tmp_path, "last").name == BASELINE
    (tmp_path / BASELINE / "run.json").write_text("{")
    assert find_run(tmp_path, "last", "track1").name == BASELINE


def test_a_fitted_fusion_s_run_is_not_track_1_s_last(runs: Path) -> None:
    plant(runs, "20261231T100000Z-track1-fit_x-aa0009", track="track1-fit")
    assert find_run(runs, "last", "track1").name == FULL
    assert find_run(runs, "last").name.endswith("aa0009")


def test_a_short_name_finds_its_run(runs: Path) -> None:
    plant(runs, "20261231T100000Z-track1-lexical-aa0001")  # the same end as another's
    names = [path.name for path in run_folders(runs)]
    short = short_names(names)
    assert short[DIN] == "bb0001" and short[LEXICAL] == LEXICAL
    assert all(find_run(runs, short[name]).name == name for name in names)
    assert short_names(["a-b", "b-c", "c-last", "x"]) == {"a-b": "a-b", "b-c": "b-c", "c-last": "c-last", "x": "x"}


def test_of_runs_that_started_in_one_second_the_last_is_the_one_that_ended_last(tmp_path: Path) -> None:
    for name, ended in (("20261130T000000Z-track1-b-aaaaaa", 1), ("20261130T000000Z-track1-a-bbbbbb", 2)):
        record = tmp_path / name / "run.json"
        record.parent.mkdir()
        record.write_text('{"track": "track1", "status": "finished"}')
        os.utime(record, ns=(ended, ended))
    assert find_run(tmp_path, "last").name.endswith("bbbbbb")
