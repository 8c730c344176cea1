"""The Track 2 zip: golden bytes, round trip, and every broken rule named with line and value."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import DataError, SubmissionError, UserError
from common.submission.mmctr import (
    InvalidSubmission,
    Task,
    pack,
    read_submission,
    validate_submission,
    write_submission,
)

IDS = np.array([5, 0, 12, 7], dtype=np.int64)
VALUES = np.array([0.1, 1.0, 1 / 3, 2e-7])
GOLDEN = b"ID,Task2\n5,0.1\n0,1\n12,0.333333333\n7,2e-07\n"


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def check(tmp_path: Path, data: bytes, task: Task | None = "Task2"):
    path = tmp_path / "run.zip"
    path.write_bytes(data)
    return validate_submission(path, IDS, task=task)


def test_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.zip"
    report = write_submission(path, IDS, VALUES, "Task2", IDS)
    assert report.ok
    assert report.notes == ()
    assert (report.rows, report.tasks, report.path) == (4, ("Task2",), path)
    assert [p.name for p in path.parent.iterdir()] == ["run.zip"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["prediction.csv"]
        assert archive.read("prediction.csv") == GOLDEN
        assert archive.testzip() is None
    back = read_submission(path)
    assert back.ids.tolist() == IDS.tolist()
    assert back.column().tolist() == back.column("Task2").tolist() == [0.1, 1.0, 0.333333333, 2e-07]


def test_the_same_rows_give_the_same_bytes_whatever_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_submission(tmp_path / "a.zip", IDS, VALUES, "Task1", IDS)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    write_submission(tmp_path / "b.zip", IDS, VALUES, "Task1", IDS)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_rows_are_put_into_the_order_of_the_test_file(tmp_path: Path) -> None:
    turn = [2, 0, 3, 1]
    write_submission(tmp_path / "a.zip", IDS[turn], VALUES[turn], "Task2", IDS)
    assert (tmp_path / "a.zip").read_bytes() == pack(IDS, VALUES, "Task2")
    write_submission(tmp_path / "b.zip", IDS[turn], VALUES[turn], "Task2", None)
    assert read_submission(tmp_path / "b.zip").ids.tolist() == IDS[turn].tolist()
    report = validate_submission(tmp_path / "b.zip", IDS)
    assert report.ok
    assert "not in the order of the test file" in report.notes[0]


@pytest.mark.parametrize("task", ["Task1", "Task2", "Task1&2"])
def test_each_task_has_its_column(tmp_path: Path, task: Task) -> None:
    write_submission(tmp_path / "run.zip", IDS, VALUES, task, IDS)
    assert list(read_submission(tmp_path / "run.zip").columns) == [task]


def test_several_task_columns_are_allowed_and_one_must_be_named(tmp_path: Path) -> None:
    data = b"ID,Task1,Task1&2\n5,0.1,0.2\n0,1,0\n12,0.5,.5\n7,1e-3,2E-1\n"
    report = check(tmp_path, zipped(("prediction.csv", data)), None)
    assert report.ok, report.render()
    assert report.tasks == ("Task1", "Task1&2")
    back = read_submission(tmp_path / "run.zip")
    assert back.column("Task1&2").tolist() == [0.2, 0.0, 0.5, 0.2]
    with pytest.raises(SubmissionError, match="several task columns"):
        back.column()
    with pytest.raises(SubmissionError, match="no column Task2"):
        back.column("Task2")


@pytest.mark.parametrize(
    "data",
    [
        GOLDEN.replace(b"\n", b"\r\n"),
        GOLDEN.replace(b"\n", b"\r"),
        GOLDEN[:-1],
        b'"ID","Task2"\n"5","0.1"\n"0","1"\n"12","0.333333333"\n"7","2e-07"\n',
        b"ID,Task2\n5,+.1\n0,1.\n12,0.333333333000\n7,-0\n",
    ],
)
def test_other_spellings_of_valid_rows_are_read(tmp_path: Path, data: bytes) -> None:
    assert check(tmp_path, zipped(("prediction.csv", data))).ok


def edit(old: bytes, new: bytes) -> bytes:
    assert GOLDEN.count(old) == 1
    return GOLDEN.replace(old, new)


# (the CSV, the line that is named, a piece of the value, a piece of the rule)
FAULTS = {
    "empty file": (b"", "file", "", "the file is empty"),
    "header only": (b"ID,Task2\n", "file", "", "the file has no rows"),
    "no header": (GOLDEN.split(b"\n", 1)[1], "line 1", "5,0.1", "first column must be ID"),
    "BOM": (b"\xef\xbb\xbf" + GOLDEN, "line 1", "xef", "byte order mark"),
    "UTF-16": (GOLDEN.decode().encode("utf-16"), "line 1", "xff", "UTF-8"),
    "not UTF-8": (edit(b"12,", b"1\xe92,"), "line 4", "xe9", "UTF-8"),
    "unknown task": (edit(b"Task2", b"Task3"), "line 1", "Task3", "unknown columns: 'Task3'"),
    "task in lower case": (edit(b"Task2", b"task2"), "line 1", "task2", "no task column"),
    "another task": (edit(b"Task2", b"Task1"), "line 1", "ID,Task1", "Task2 is asked for"),
    "id in lower case": (edit(b"ID", b"id"), "line 1", "id,Task2", "first column must be ID"),
    "space in the header": (edit(b",Task2", b", Task2"), "line 1", " Task2", "unknown columns"),
    "columns swapped": (b"Task2,ID\n0.1,5\n1,0\n0.3,12\n0.2,7\n", "line 1", "Task2,ID", "first column must be ID"),
    "task twice": (b"ID,Task2,Task2\n5,0,0\n0,0,0\n12,0,0\n7,0,0\n", "line 1", "", "given twice: Task2"),
    "index column": (b",ID,Task2\n0,5,0\n1,0,0\n2,12,0\n3,7,0\n", "line 1", "", "unknown columns: ''"),
    "semicolons": (GOLDEN.replace(b",", b";"), "line 1", "ID;Task2", "first column must be ID"),
    "missing id": (edit(b"12,0.333333333\n", b""), "file", "12", "missing ID"),
    "rows counted": (edit(b"12,0.333333333\n", b""), "file", "3 rows", "the test file has 4"),
    "unknown id": (edit(b"\n7,", b"\n8,"), "line 5", "8", "unknown ID"),
    "duplicate id": (edit(b"\n7,", b"\n0,"), "line 5", "0", "duplicate ID, first on line 3"),
    "row added": (GOLDEN + b"7,0.5\n", "line 6", "7", "duplicate ID, first on line 5"),
    "id with zero": (edit(b"\n7,", b"\n07,"), "line 5", "07", "whole number"),
    "id with point": (edit(b"\n7,", b"\n7.0,"), "line 5", "7.0", "whole number"),
    "id with sign": (edit(b"\n7,", b"\n-7,"), "line 5", "-7", "whole number"),
    "id with space": (edit(b"\n7,", b"\n 7,"), "line 5", " 7", "whole number"),
    "id too long": (edit(b"\n7,", b"\n7" + b"0" * 30 + b","), "line 5", "7000", "whole number"),
    "id absent": (edit(b"\n7,", b"\n,"), "line 5", "''", "ID is empty"),
    "NaN": (edit(b"0.333333333", b"nan"), "line 4", "nan", "reads as a missing value"),
    "NA": (edit(b"0.333333333", b"NA"), "line 4", "NA", "reads as a missing value"),
    "null": (edit(b"0.333333333", b"null"), "line 4", "null", "reads as a missing value"),
    "empty": (edit(b"0.333333333", b""), "line 4", "''", "empty or reads as a missing value"),
    "infinite": (edit(b"0.333333333", b"inf"), "line 4", "inf", "infinite"),
    "overflow": (edit(b"0.333333333", b"1e999"), "line 4", "1e999", "outside 0 to 1"),
    "text": (edit(b"0.333333333", b"high"), "line 4", "high", "not a number"),
    "percent": (edit(b"0.333333333", b"33%"), "line 4", "33%", "not a number"),
    "boolean": (edit(b"0.333333333", b"True"), "line 4", "True", "not a number"),
    "hexadecimal": (edit(b"0.333333333", b"0x1"), "line 4", "0x1", "not a number"),
    "underscore": (edit(b"0.333333333", b"0.3_3"), "line 4", "0.3_3", "not a number"),
    "space": (edit(b"0.333333333", b" 0.3"), "line 4", " 0.3", "not a number"),
    "list": (edit(b"0.333333333", b"[0.3]"), "line 4", "[0.3]", "not a number"),
    "NUL": (edit(b"0.333333333", b"0.3\x00"), "line 4", "x00", "not a number"),
    "half a quote": (edit(b"0.333333333", b'"0.3'), "line 4", '"0.3', "not a number"),
    "logit": (edit(b"0.333333333", b"-1.5"), "line 4", "-1.5", "write probabilities, not logits"),
    "above one": (edit(b"0.333333333", b"1.0000001"), "line 4", "1.0000001", "outside 0 to 1"),
    "decimal comma": (edit(b"0.333333333", b"0,3"), "line 4", "12,0,3", "2 cells, as the header has, not 3"),
    "cell missing": (edit(b",0.333333333", b""), "line 4", "12", "2 cells, as the header has, not 1"),
    "empty line": (edit(b"\n12,", b"\n\n12,"), "line 4", "''", "empty line"),
    "line at the end": (GOLDEN + b"\n", "line 6", "''", "empty line"),
    "half a file": (GOLDEN[:-9], "file", "7", "missing ID"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_line_and_value(tmp_path: Path, name: str) -> None:
    data, line, value, rule = FAULTS[name]
    report = check(tmp_path, zipped(("prediction.csv", data)))
    assert not report.ok
    assert any(str(f).startswith(line + ":") and value in f.value and rule in f.rule for f in report.faults), (
        report.render()
    )
    with pytest.raises(InvalidSubmission):
        report.check()


def test_all_faults_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = b"ID,Task2,Score\n5,nan,0\n5,2,0\nx,0.5,0\n9,0.1\n"
    report = check(tmp_path, zipped(("folder/prediction.csv", data), ("notes.txt", b"")))
    lines = [f.line for f in report.faults]
    assert [n for n in lines if n is not None] == sorted(n for n in lines if n is not None)
    told = report.render()
    for piece in ("in a folder", "notes.txt", "'Score'", "line 2: 'nan'", "line 3: '2'", "line 3: 5: duplicate"):
        assert piece in told, told
    for piece in ("line 4: 'x'", "line 5: '9,0.1'", "12: missing", "7: missing", "0: missing"):
        assert piece in told, told
    assert report.to_dict()["fault_count"] == len(report.faults)
    assert report.to_dict()["file"] == "run.zip"


def test_many_faults_are_counted_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    path.write_bytes(pack(np.arange(1000), np.full(1000, 2.0), "Task2"))
    report = validate_submission(path, np.arange(1000))
    assert len(report.faults) == 1000
    assert report.lines()[-1] == "... and 980 more (1,000 faults in all)"


CSV = ("prediction.csv", GOLDEN)
ROW = st.integers(0, 3)
BAD_VALUES = st.sampled_from(["", "nan", "NA", "inf", "-1", "1.5", "x", "0.5 ", "0,5", "--1", "1e", ".", "é"])
BAD_IDS = st.sampled_from(["", "-1", "1.0", "05", "x", "99", "1e3", "0x5", "５"])
mutations = st.one_of(
    st.tuples(st.just("value"), ROW, BAD_VALUES),
    st.tuples(st.just("id"), ROW, BAD_IDS),
    st.tuples(st.just("drop"), ROW, st.just("")),
    st.tuples(st.just("copy"), ROW, st.just("")),
    st.tuples(st.just("cell"), ROW, st.sampled_from([",", ",0", ",x"])),
    st.tuples(st.just("blank"), ROW, st.just("")),
    st.tuples(st.just("header"), ROW, st.sampled_from(["", "ID", "id,Task2", "ID,Task4", "ID,Task2,x", "Task2"])),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations)
def test_any_one_mutation_of_a_valid_file_is_refused(tmp_path: Path, mutation: tuple[str, int, str]) -> None:
    kind, row, text = mutation
    lines = GOLDEN.decode().splitlines()
    assert check(tmp_path, zipped(CSV)).ok
    head, tail = lines[row + 1].split(",")
    if kind == "drop":
        del lines[row + 1]
    elif kind in ("copy", "blank"):
        lines.insert(row + 1, lines[row + 1] if kind == "copy" else "")
    elif kind == "header":
        lines[0] = text
    else:
        lines[row + 1] = {"value": f"{head},{text}", "id": f"{text},{tail}", "cell": lines[row + 1] + text}[kind]
    report = check(tmp_path, zipped(("prediction.csv", ("\n".join(lines) + "\n").encode())))
    assert not report.ok


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 10**17))
def test_round_trip_keeps_nine_digits_and_never_swaps_two_rows(tmp_path: Path, values: list[float], base: int) -> None:
    ids = base + np.arange(len(values))[::-1]
    path = tmp_path / "run.zip"
    write_submission(path, ids, np.array(values), "Task2", ids)
    back = read_submission(path)
    assert back.ids.tolist() == ids.tolist()
    assert back.column().tolist() == [float(f"{v:.9g}") for v in values]
    order = np.argsort(values, kind="stable")
    assert (np.diff(back.column()[order]) >= 0).all()


def test_probabilities_that_become_equal_are_told(tmp_path: Path) -> None:
    near = np.array([0.5, 0.5 + 1e-12, 0.25, 0.75])
    report = write_submission(tmp_path / "run.zip", IDS, near, "Task2", IDS)
    assert "1 different probabilities became equal" in report.render()


@pytest.mark.parametrize(
    ("ids", "values", "rule"),
    [
        (IDS, [0.1, np.nan, 0.2, 0.3], "line 3: 'nan'"),
        (IDS, [0.1, 0.2, np.inf, 0.3], "line 4: 'inf'"),
        (IDS, [0.1, 0.2, 0.3, 1.2], "line 5: '1.2'"),
        (IDS, [0.1, 0.2, 0.3, -3.0], "write probabilities, not logits"),
        ([5, 0, 12, 12], [0.1] * 4, "duplicate ID"),
        ([5, 0, 12], [0.1] * 3, "missing ID"),
        ([5, 0, 12, 7, 8], [0.1] * 5, "unknown ID"),
        ([5, 0, 12, -7], [0.1] * 4, "whole number"),
        (IDS, [0.1] * 3, "one probability for each id"),
        ([], [], "whole numbers|no rows"),
        (np.array([], dtype=np.int64), np.array([]), "no rows"),
        (IDS.astype(np.float64), [0.1] * 4, "float64 and float64"),
        (IDS, [0, 1, 0, 1], "int64 and int64"),
    ],
)
def test_the_writer_refuses_and_keeps_the_old_file(tmp_path: Path, ids, values, rule: str) -> None:
    path = tmp_path / "run.zip"
    write_submission(path, IDS, VALUES, "Task2", IDS)
    old = path.read_bytes()
    with pytest.raises(SubmissionError, match=rule):
        write_submission(path, ids, values, "Task2", IDS)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["run.zip"]


def test_the_writer_refuses_other_suffixes_and_tasks(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"ends in \.zip"):
        write_submission(tmp_path / "prediction.csv", IDS, VALUES, "Task2", IDS)
    with pytest.raises(SubmissionError, match="unknown task"):
        write_submission(tmp_path / "run.zip", IDS, VALUES, "Task3", IDS)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            validate_submission(path)
    assert issubclass(InvalidSubmission, UserError)


def test_without_the_test_file_repeats_are_found_and_the_rest_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    path.write_bytes(pack(IDS, VALUES, "Task2"))
    report = validate_submission(path)
    assert report.ok
    assert "379,142 rows" in report.notes[0]
    path.write_bytes(pack(np.array([1, 1]), VALUES[:2], "Task2"))
    assert "duplicate ID" in validate_submission(path).render()


def test_the_official_number_of_rows_takes_seconds(tmp_path: Path) -> None:
    ids = np.arange(379_142)
    values = np.random.default_rng(2).random(len(ids))
    start = time.perf_counter()
    report = write_submission(tmp_path / "run.zip", ids, values, "Task2", ids)
    assert report.ok
    assert report.rows == 379_142
    values[100_000] = np.nan
    (tmp_path / "bad.zip").write_bytes(pack(ids, values, "Task2"))
    (fault,) = validate_submission(tmp_path / "bad.zip", ids).faults
    assert fault.line == 100_002
    assert time.perf_counter() - start < 60  # about 4 s on an idle core; a loop over rows per check is minutes
