"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """A fault in the user's input or set-up: shown as one block, without a traceback, exit code 2.

    Parameters
    ----------
    what
        One sentence: what is wrong.
    where
        File, row, column or config key.
    expected, got
        What the program needs and what it found.
    todo
        What the user does next: a command where there is one.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        todo: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.todo = todo
        super().__init__(self.block())

    def block(self) -> str:
        """Return the message as the block of lines that the command line prints."""
        lines = [self.what]
        for label, value in (
            ("where", self.where),
            ("expected", self.expected),
            ("got", self.got),
            ("do", self.todo),
        ):
            if value is not None:
                lines.append(f"  {label + ':':<10}{value}")
        return "\n".join(lines)


class DataError(UserError):
    """A data file is missing, damaged, or not in the stated format."""


class ConfigError(UserError):
    """A configuration has an unknown key or a value out of range."""


class SubmissionError(UserError):
    """A submission file breaks a rule of the competition."""
