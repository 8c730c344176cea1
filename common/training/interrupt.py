"""Ctrl-C that lets a step end, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Self


class Interrupt:
    """While it is entered, the first Ctrl-C only sets `pressed`; a second one raises `KeyboardInterrupt` at once.

    In a thread other than the main one, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> Self:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
