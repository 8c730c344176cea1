"""What the validators of both tracks share: faults by line, decoding, and the outcome of a validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from common.errors import SubmissionError

SHOWN_FAULTS = 20
# What pandas, and so most hosts, read as a missing value.
NULLS = frozenset(
    [
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)


@dataclass(frozen=True)
class RowFault:
    """One broken rule: the CSV line (from 1, the header's; None = the whole file), the value and the rule."""

    line: int | None
    value: str
    rule: str

    def __str__(self) -> str:
        where = "file" if self.line is None else f"line {self.line}"
        return f"{where}: {self.value}: {self.rule}"


@dataclass
class Faults:
    """The faults of a file that is being read, in the order in which they were met."""

    faults: list[RowFault] = field(default_factory=list)

    def fault(self, line: int | None, value: object, rule: str) -> None:
        """Add one fault."""
        self.faults.append(RowFault(line, short(value), rule))

    def decode(self, data: bytes) -> str | None:
        """Return the text of a file, or None where it is not UTF-8; a byte order mark is a fault and left out."""
        if data.startswith(b"\xef\xbb\xbf"):
            self.fault(1, data[:3], "the file must not start with a byte order mark: save as UTF-8 without BOM")
            data = data[3:]
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.fault(line, data[error.start : error.start + 8], "the file must be UTF-8")
            return None


def short(value: object, limit: int = 60) -> str:
    """Return `repr(value)`, cut in the middle to about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 13]}...{text[-10:]}"


class Report:
    """The outcome of a validation: `faults` holds all of them, in the order of the file."""

    path: Path
    faults: tuple[RowFault, ...]

    @property
    def ok(self) -> bool:
        """True when no rule is broken."""
        return not self.faults

    def lines(self, limit: int = SHOWN_FAULTS) -> list[str]:
        """Return the first `limit` faults, one a line, then how many more there are."""
        shown = [str(fault) for fault in self.faults[:limit]]
        if len(self.faults) > limit:
            shown.append(f"... and {len(self.faults) - limit:,} more ({len(self.faults):,} faults in all)")
        return shown

    def check(self) -> Self:
        """Return self; raise `InvalidSubmission` with the list of faults when there are any."""
        if self.faults:
            raise InvalidSubmission(self)
        return self


class InvalidSubmission(SubmissionError):
    """A submission file breaks a rule; `report` holds every fault."""

    def __init__(self, report: Report) -> None:
        self.report = report
        faults = "\n".join(f"  {line}" for line in report.lines())
        super().__init__(
            f"the submission breaks {len(report.faults):,} rules:\n{faults}",
            where=report.path,
            todo="mend the rows named above; the kit's own writer writes a valid file",
        )
