"""Progress: items pass through, and nothing is printed where the output is not a terminal."""

import io
import sys

import pytest

from common.progress import bar, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_items_pass_through_in_order_and_nothing_is_printed(capsys):
    assert list(progress(range(5), "pages", total=5)) == [0, 1, 2, 3, 4]
    with bar("pages", total=3) as shown:
        shown.update(3)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_terminal_sees_what_count_and_rate(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("OCR", total=4, unit="page") as shown:
        shown.update(2)
        shown.refresh()
    text = terminal.getvalue()
    assert "OCR" in text and "2/4" in text and "page" in text


def test_an_error_in_the_loop_is_not_swallowed():
    def broken():
        yield 1
        raise ValueError("broken item")

    seen = []
    with pytest.raises(ValueError, match="broken item"):
        seen.extend(progress(broken(), "x"))
    assert seen == [1]
