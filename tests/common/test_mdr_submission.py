"""The submission file: golden bytes, round trip, and every broken rule named with its line and value."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import DataError, SubmissionError
from common.submission.mdr import (
    ExpectedSubmission,
    InvalidSubmission,
    merge_submissions,
    pad,
    read_submission,
    validate_submission,
    write_submission,
)

PAGES = {"10000": 20, "10001": 3, "11657": 9}
POOL = frozenset(f"Q{i}" for i in range(9))
EXPECTED = ExpectedSubmission(PAGES, ["0", "1"], POOL)
RANKINGS = {
    "0": ["Q1", "Q7", "Q2", "Q3", "Q4"],
    "1": ["Q8", "Q0", "Q1", "Q2", "Q3", "Q4"],
    "10000": ["4", "18", "19", "2", "7"],
    "10001": ["2", "0"],
    "11657": ["8", "0", "1", "2", "3"],
}
GOLDEN = b"""question_id,passage_id
0,"[""Q1"", ""Q7"", ""Q2"", ""Q3"", ""Q4""]"
1,"[""Q8"", ""Q0"", ""Q1"", ""Q2"", ""Q3""]"
10000,"[""4"", ""18"", ""19"", ""2"", ""7""]"
10001,"[""2"", ""0"", ""0"", ""0"", ""0""]"
11657,"[""8"", ""0"", ""1"", ""2"", ""3""]"
"""
MMDOCIR = {i: ids for i, ids in RANKINGS.items() if len(i) == 5}
M2KR = {i: ids for i, ids in RANKINGS.items() if len(i) == 1}


def check(tmp_path: Path, data: bytes, expected: ExpectedSubmission = EXPECTED):
    path = tmp_path / "run.csv"
    path.write_bytes(data)
    return validate_submission(path, expected)


def test_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.csv"
    report = write_submission(path, RANKINGS, EXPECTED)
    assert path.read_bytes() == GOLDEN
    assert report.ok
    assert report.rows == {"m2kr": 2, "mmdocir": 3}
    assert [p.name for p in path.parent.iterdir()] == ["run.csv"]
    assert read_submission(path) == {i: tuple(pad(ids)) for i, ids in RANKINGS.items()}


def test_rows_keep_the_order_of_the_questions(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    write_submission(path, dict(reversed(RANKINGS.items())), EXPECTED)
    assert list(read_submission(path)) == list(reversed(RANKINGS))


# (what is done to the golden file, the line that is named, a piece of the value, a piece of the rule)
FAULTS = {
    "header renamed": (GOLDEN.replace(b"passage_id", b"passages", 1), "line 1", "passages", "header must be exactly"),
    "no header": (GOLDEN.split(b"\n", 1)[1], "line 1", "Q1", "header must be exactly"),
    "header swapped": (GOLDEN.replace(b"question_id,passage_id", b"passage_id,question_id"), "line 1", "", "header"),
    "missing row": (GOLDEN.replace(GOLDEN.split(b"\n")[3] + b"\n", b""), "file", "10000", "missing question_id"),
    "unknown id": (GOLDEN.replace(b"\n10000,", b"\n10002,"), "line 4", "10002", "not among the MMDocIR"),
    "id of no task": (GOLDEN.replace(b"\n10000,", b"\n7000,"), "line 4", "7000", "unknown question_id"),
    "id with zeros": (GOLDEN.replace(b"\n10000,", b"\n010000,"), "line 4", "010000", "unknown question_id"),
    "duplicate": (GOLDEN.replace(b"\n1,", b"\n0,"), "line 3", "'0'", "duplicate question_id, first on line 2"),
    "not JSON": (GOLDEN.replace(b'[""4""', b'[""4'), "line 4", "18", "not JSON"),
    "single quotes": (GOLDEN.replace(b'""', b"'"), "line 2", "Q1", "single quotes"),
    "six ids": (GOLDEN.replace(b'""7""]', b'""7"", ""8""]'), "line 4", "18", "6 ids; a row has 5"),
    "four ids": (GOLDEN.replace(b', ""7""]', b"]"), "line 4", "18", "4 ids; a row has 5"),
    "number": (GOLDEN.replace(b'""18""', b"18"), "line 4", "18", "strings, not int"),
    "not a list": (GOLDEN.replace(b'"[""4"", ""18"", ""19"", ""2"", ""7""]"', b"4"), "line 4", "4", "not a list"),
    "page beyond": (GOLDEN.replace(b'""18""', b'""20""'), "line 4", "'20'", "pages 0 to 19"),
    "page negative": (GOLDEN.replace(b'""18""', b'""-1""'), "line 4", "-1", "whole number"),
    "page 04": (GOLDEN.replace(b'""18""', b'""04""'), "line 4", "04", "leading zero"),
    "page 4.0": (GOLDEN.replace(b'""18""', b'""4.0""'), "line 4", "4.0", "whole number"),
    "page digits": (GOLDEN.replace(b'""18""', '""١٨""'.encode()), "line 4", "١٨", "whole number"),
    "unknown passage": (GOLDEN.replace(b"Q7", b"Z7"), "line 2", "Z7", "unknown passage"),
    "repeat": (GOLDEN.replace(b'""18""', b'""4""'), "line 4", "'4', '4'", "repeated although there are 20"),
    "repeat m2kr": (GOLDEN.replace(b"Q7", b"Q1"), "line 2", "Q1", "repeated"),
    "repeat in front": (GOLDEN.replace(b'""2"", ""0"", ""0""', b'""2"", ""2"", ""0""'), "line 5", "", "only the last"),
    "BOM": (b"\xef\xbb\xbf" + GOLDEN, "line 1", "xef", "byte order mark"),
    "extra column": (GOLDEN.replace(b"\n", b",x\n"), "line 1", "", "extra columns: x"),
    "extra cell": (GOLDEN.replace(b"\n11657,", b"\n11657,q,"), "line 6", "11657", "a row has 2 cells"),
    "empty passage_id": (GOLDEN.replace(GOLDEN.split(b"\n")[3], b"10000,"), "line 4", "''", "missing value"),
    "empty question_id": (GOLDEN.replace(b"\n10000,", b"\n,"), "line 4", "''", "missing value"),
    "empty id": (GOLDEN.replace(b'""18""', b'""""'), "line 4", "", "empty string"),
    "null": (GOLDEN.replace(GOLDEN.split(b"\n")[3], b"10000,null"), "line 4", "null", "missing value"),
    "NaN": (GOLDEN.replace(GOLDEN.split(b"\n")[3], b"10000,NaN"), "line 4", "NaN", "missing value"),
    "NA id": (GOLDEN.replace(b"\n10000,", b"\nNA,"), "line 4", "NA", "missing value"),
    "empty line": (GOLDEN.replace(b"\n10000,", b"\n\n10000,"), "line 4", "", "empty line"),
    "not UTF-8": (GOLDEN.replace(b"Q7", b"\xe97"), "line 2", "xe97", "UTF-8"),
    "UTF-16": (GOLDEN.decode().encode("utf-16"), "line 1", "xff", "UTF-8"),
    "open quote": (GOLDEN[:-3], "line 6", "", "CSV"),
    "cut in the middle": (GOLDEN[:90], "line 3", "", "CSV"),
    "empty": (b"", "file", "", "empty"),
    "header only": (GOLDEN.split(b"\n", 1)[0] + b"\n", "file", "", "no rows"),
    "nested": (GOLDEN.replace(b'[""4""', b"[" * 90_000), "line 4", "[[", "not JSON"),
    "binary": (bytes(range(128)) * 4, "line 1", "", ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_line_value_and_rule(name: str, tmp_path: Path) -> None:
    data, where, value, rule = FAULTS[name]
    assert data != GOLDEN
    report = check(tmp_path, data)
    hits = [f for f in map(str, report.faults) if f.startswith(where) and value in f and rule in f]
    assert hits, report.render()
    assert not report.ok
    with pytest.raises(InvalidSubmission) as caught:
        report.check()
    assert caught.value.report is report
    assert str(report.faults[0]) in caught.value.block()


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_are_read(end: bytes, tmp_path: Path) -> None:
    assert check(tmp_path, GOLDEN.replace(b"\n", end)).ok
    wrong = FAULTS["page 04"][0].replace(b"\n", end)
    assert [f.line for f in check(tmp_path, wrong).faults] == [4]


def test_line_numbers_count_line_ends_inside_cells(tmp_path: Path) -> None:
    data = GOLDEN.replace(b'""Q1"", ""Q7""', b'""Q1"",\n""Q7""').replace(b'""18""', b'""99""')
    assert [f.line for f in check(tmp_path, data).faults] == [5]


def test_twenty_faults_are_shown_then_a_count(tmp_path: Path) -> None:
    pages = {str(i): 9 for i in range(10000, 10060)}
    rows = "".join(f'{i},"[""99"", ""0"", ""1"", ""2"", ""3""]"\n' for i in pages)
    report = check(tmp_path, b"question_id,passage_id\n" + rows.encode(), ExpectedSubmission(pages))
    assert len(report.faults) == 60
    lines = report.lines()
    assert len(lines) == 21
    assert lines[0].startswith("line 2: '99'")
    assert lines[-1] == "... and 40 more (60 faults in all)"
    assert report.to_dict()["fault_count"] == 60
    json.dumps(report.to_dict())


def test_all_faults_of_a_row_and_file_are_found_at_once(tmp_path: Path) -> None:
    data = GOLDEN.replace(b"Q7", b"Z7").replace(b'""18""', b'""99""').replace(b"\n11657,", b"\n10001,")
    found = [(f.line, f.value) for f in check(tmp_path, data).faults]
    # 8 and 3 are no pages of 10001, whose row line 6 repeats.
    assert found == [(2, "'Z7'"), (4, "'99'"), (6, "'10001'"), (6, "'8'"), (6, "'3'"), (None, "'11657'")]


rows = st.sampled_from(list(RANKINGS))


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return the golden file with one thing wrong."""
    lines = GOLDEN.decode().splitlines()
    at = draw(st.integers(1, len(lines) - 1))
    question, cell = lines[at].split(",", 1)
    ids = json.loads(cell[1:-1].replace('""', '"'))
    kind = draw(st.sampled_from(["drop", "double", "id", "value", "length", "type", "quote", "header", "bytes"]))
    place = draw(st.integers(0, 4))
    if kind == "drop":
        del lines[at]
    elif kind == "double":
        lines.insert(draw(st.integers(1, len(lines))), lines[at])
    elif kind == "id":
        other = draw(st.text(st.characters(codec="utf-8", exclude_characters=',"\r\n'), max_size=6))
        if other == question:
            other += "x"
        lines[at] = f"{other},{cell}"
    elif kind == "header":
        lines[0] = draw(
            st.sampled_from(["", "question_id", "passage_id,question_id", "id,passage_id", lines[0] + ",x"])
        )
    elif kind == "quote":
        lines[at] = f'{question},"{ids}"'
    elif kind == "bytes":
        return GOLDEN[:30] + draw(st.sampled_from([b"\xff", b"\xc3(", b"\x80"])) + GOLDEN[30:]
    else:
        if kind == "value":
            ids[place] = draw(st.text(max_size=4).filter(lambda t: t not in POOL and not t.isdecimal())) + "?"
        elif kind == "length":
            ids = ids[:place] if draw(st.booleans()) else [*ids, *ids[: place + 1]]
        else:
            ids[place] = draw(st.one_of(st.integers(), st.none(), st.booleans(), st.just([]), st.floats()))
        lines[at] = f'{question},"{json.dumps(ids)}"'.replace('"', '""').replace(',""', ',"', 1)
        lines[at] = lines[at][:-2] + '"'
    return ("\n".join(lines) + "\n").encode("utf-8")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations())
def test_any_one_mutation_is_refused(tmp_path: Path, data: bytes) -> None:
    report = check(tmp_path, data)
    assert not report.ok, data
    path = tmp_path / "run.csv"
    assert all(line and "\n" not in line for line in report.lines())
    with pytest.raises(InvalidSubmission):
        validate_submission(path, EXPECTED).check()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_bytes_break_the_validator(tmp_path: Path, data: bytes) -> None:
    assert not check(tmp_path, data).ok
    assert not check(tmp_path, GOLDEN[:23] + data).ok


def test_a_partial_file_is_valid_and_says_so(tmp_path: Path) -> None:
    report = write_submission(tmp_path / "a.csv", MMDOCIR, EXPECTED)
    assert report.partial == "partial: MMDocIR only, 3 of 8,073 rows; Kaggle wants both tasks"
    assert report.partial in report.render()
    report = write_submission(tmp_path / "b.csv", M2KR, EXPECTED)
    assert (report.partial or "").startswith("partial: M2KR only, 2 of 8,073 rows")
    both = validate_submission(tmp_path / "b.csv", ExpectedSubmission(PAGES, ["0", "1"], POOL, ("mmdocir",)))
    assert [f.value for f in both.faults] == ["'10000'", "'10001'", "'11657'"]


def test_a_full_file_against_the_official_ids(tmp_path: Path) -> None:
    ids = [str(i) for i in [*range(6415), *range(10000, 11658)]]
    rankings = {i: ["0", "1", "2", "3", "4"] for i in ids}
    report = write_submission(tmp_path / "all.csv", rankings, ExpectedSubmission())
    assert report.rows == {"m2kr": 6415, "mmdocir": 1658}
    assert report.partial is None
    assert sum("not at hand" in note for note in report.notes) == 3
    with pytest.raises(InvalidSubmission, match="missing question_id"):
        write_submission(tmp_path / "all.csv", dict(list(rankings.items())[1:]), ExpectedSubmission())


def test_merge_of_two_partial_files(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out.csv"
    write_submission(a, MMDOCIR, EXPECTED)
    write_submission(b, M2KR, EXPECTED)
    for first, second in ((a, b), (b, a)):
        merge_submissions(first, second, out, EXPECTED)
        assert out.read_bytes() == GOLDEN
    with pytest.raises(InvalidSubmission, match="missing"):
        merge_submissions(a, b, out)  # not the official 8,073 rows
    for first, second in ((a, a), (out, b), (b, out)):
        with pytest.raises(SubmissionError, match="one task each"):
            merge_submissions(first, second, tmp_path / "no.csv", EXPECTED)
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(
    "change",
    [{"10000": ["20"]}, {"10000": []}, {"0": ["Q1"]}, {"0": ["Z"] * 5}, {"10003": ["1", "2", "3", "4", "5"]}],
)
def test_a_refused_write_leaves_the_old_file(change: dict[str, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("old")
    with pytest.raises(SubmissionError):
        write_submission(path, RANKINGS | change, EXPECTED)
    with pytest.raises(SubmissionError):
        write_submission(path, {}, EXPECTED)
    incomplete = {i: ids for i, ids in RANKINGS.items() if i != "11657"}
    with pytest.raises(InvalidSubmission, match="missing question_id of MMDocIR"):
        write_submission(path, incomplete, EXPECTED)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.csv"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.csv"
    write_submission(path, RANKINGS, EXPECTED)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.submission.mdr._write_rows", full)
    with pytest.raises(OSError, match="No space left"):
        write_submission(path, MMDOCIR, EXPECTED)
    assert path.read_bytes() == GOLDEN
    assert [p.name for p in tmp_path.iterdir()] == ["run.csv"]


def test_a_file_that_changes_after_the_write_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = read_submission
    monkeypatch.setattr(
        "common.submission.mdr.read_submission", lambda path: {**real(path), "0": ("Q0", "Q1", "Q2", "Q3", "Q4")}
    )
    with pytest.raises(SubmissionError, match="read back"):
        write_submission(tmp_path / "run.csv", RANKINGS, EXPECTED)


def test_reading_checks_what_the_file_alone_can_show(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    for name in ("single quotes", "six ids", "duplicate", "id of no task", "header only", "BOM"):
        path.write_bytes(FAULTS[name][0])
        with pytest.raises(InvalidSubmission):
            read_submission(path)
    path.write_bytes(FAULTS["page beyond"][0])
    assert read_submission(path)["10000"] == ("4", "20", "19", "2", "7")
    with pytest.raises(DataError, match="cannot be read"):
        read_submission(tmp_path / "absent.csv")


def test_questions_with_ids_of_the_other_task_are_refused() -> None:
    with pytest.raises(DataError, match="not ids of MMDocIR"):
        ExpectedSubmission({"5": 3})
    with pytest.raises(DataError, match="not ids of M2KR"):
        ExpectedSubmission(None, ["10000"])


def test_a_repeat_is_refused_where_the_pool_is_unknown(tmp_path: Path) -> None:
    unknown_pool = ExpectedSubmission(PAGES, ["0", "1"])
    data = GOLDEN.replace(b'""Q3"", ""Q4""', b'""Q3"", ""Q3""')
    assert [(f.line, "pool holds thousands" in f.rule) for f in check(tmp_path, data, unknown_pool).faults] == [
        (2, True)
    ]
    assert check(tmp_path, GOLDEN, unknown_pool).ok
    unknown_pages = ExpectedSubmission(None, ["0", "1"], POOL)  # a short document may need padding: not refused
    faults = check(tmp_path, GOLDEN, unknown_pages).faults
    assert faults
    assert all("missing question_id of MMDocIR" in f.rule for f in faults)


def test_padding_when_the_pool_is_small(tmp_path: Path) -> None:
    small = ExpectedSubmission({"10000": 1}, ["0"], frozenset({"A", "B"}))
    path = tmp_path / "run.csv"
    write_submission(path, {"0": ["B", "A"], "10000": ["0"]}, small)
    assert read_submission(path) == {"0": ("B", "A", "A", "A", "A"), "10000": ("0",) * 5}
    with pytest.raises(ValueError, match="nothing to pad"):
        pad([])
