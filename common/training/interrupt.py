"""Ctrl-C that lets a step end, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Self

_entered: set[Interrupt] = set()


def press() -> None:
    """Do what a first Ctrl-C does, from any thread: a process that others started is told so to stop."""
    for one in tuple(_entered):
        one.pressed = True


class Interrupt:
    """While it is entered, the first Ctrl-C only sets `pressed`; a second one raises `KeyboardInterrupt` at once.

    In a thread other than the main one, where Python delivers no signals, `press` alone sets it.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> Self:
        _entered.add(self)
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _entered.discard(self)
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
