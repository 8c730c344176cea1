"""Faults are recorded once, shown, saved and counted against what the user allows."""

import json
import threading
from pathlib import Path

import pytest

from common.errors import DataError, SubmissionError, UserError
from common.faults import FaultLog


def test_a_fault_is_recorded_once_and_in_order() -> None:
    log = FaultLog()
    log.add("ocr", "a.pdf p. 3", ValueError("bad page"))
    log.add("image", "b.jpg", "not an image")
    log.add("ocr", "a.pdf p. 3", ValueError("bad page"))
    assert [(f.stage, f.item, f.error) for f in log.faults] == [
        ("ocr", "a.pdf p. 3", "ValueError: bad page"),
        ("image", "b.jpg", "not an image"),
    ]
    assert len(log) == 2


def test_another_error_of_the_same_item_counts() -> None:
    log = FaultLog()
    log.add("ocr", "a", "one")
    log.add("ocr", "a", "two")
    log.add("pdf", "a", "one")
    assert len(log) == 3


def test_the_summary_is_cut_and_says_so() -> None:
    log = FaultLog()
    for i in range(13):
        log.add("s", f"item {i}", "e")
    lines = log.summary().splitlines()
    assert len(lines) == 11
    assert "item 9" in lines[9]
    assert lines[10].strip() == "... and 3 more"
    assert "more" not in log.summary(limit=13)


@pytest.mark.parametrize(("count", "allowed", "raises"), [(0, 0, False), (1, 0, True), (2, 2, False), (3, 2, True)])
def test_check_raises_above_what_is_allowed(count: int, allowed: int, raises: bool) -> None:
    log = FaultLog()
    for i in range(count):
        log.add("image", f"{i}.jpg", "truncated")
    if not raises:
        log.check(allowed, "look at them")
        return
    with pytest.raises(DataError) as caught:
        log.check(allowed, "look at them")
    block = caught.value.block()
    assert f"{count} items failed" in block
    assert "0.jpg: truncated" in block
    assert f"at most {allowed}" in block
    assert "look at them" in block


def test_saved_faults_are_json_lines(tmp_path: Path) -> None:
    log = FaultLog()
    log.add("image", 'line\nend "quoted" é.jpg', "x")
    log.add("image", "b", "y")
    log.save(tmp_path / "runs" / "faults.jsonl")
    text = (tmp_path / "runs" / "faults.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows[0] == {"stage": "image", "item": 'line\nend "quoted" é.jpg', "error": "x"}
    assert len(rows) == 2
    assert "é" in text
    FaultLog().save(tmp_path / "none.jsonl")
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_threads_may_share_a_log() -> None:
    log = FaultLog()

    def work(offset: int) -> None:
        for i in range(300):
            log.add("s", str((i + offset) % 300), "e")

    threads = [threading.Thread(target=work, args=(i * 37,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log) == 300
    assert len({f.item for f in log.faults}) == 300


def test_the_error_block_has_the_parts_that_are_given() -> None:
    error = SubmissionError("wrong", where="run.csv, line 3", expected=5, got=0, todo="mend it")
    assert isinstance(error, UserError)
    assert error.block().splitlines() == [
        "wrong",
        "  where:    run.csv, line 3",
        "  expected: 5",
        "  got:      0",
        "  do:       mend it",
    ]
    assert str(UserError("only this")) == "only this"
